"""The only denoising loop."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import in_working_precision
from kandinsky.diffusion.samplers.base import Sampler

END = -1
"""The time after the last step; `Process.alpha_bar_at` gives it the process's final value."""

Project = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One finished step: `index` of `total` (from 0), from time `t` to `t_next` (-1 after the last).

    `x` is the latent at `t_next`, (B, C, ...); `prediction` is what the network said at `t`, for previews.
    """

    index: int
    total: int
    t: float
    t_next: float
    x: Tensor
    prediction: Prediction


Trajectory = Generator[Step, Tensor | None, None]
"""Steps in order; a tensor sent into it takes the place of the step's `x`."""


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    rng: Noise,
    project: Project | None = None,
    *,
    gradients: bool = False,
) -> Trajectory:
    """Denoises `x`, noised to times[0], and yields every step; the last one carries the result.

    `x` is (B, C, ...) and is worked on in float32 (float64 stays). `times` fall and lie in the table. A tensor sent
    into the generator takes the place of the step's `x`. `project(x, t_next)` is applied after each step, which is how
    known regions are pinned. Closing the iterator stops at once and frees everything it holds. Gradients are recorded
    only when asked for. Raises RequestError when `times` are empty or do not fall.
    """
    times = list(times)
    if not times or any(later >= earlier for earlier, later in pairwise(times)):
        raise RequestError(f"times {times} cannot be sampled.", "Give at least one time, each below the one before.")
    record = gradients and torch.is_grad_enabled()
    x = in_working_precision(x)
    state = None
    for index, (t, t_next) in enumerate(pairwise([*times, END])):
        # The switch is inside the step: held across a yield it would leak into the caller's own code.
        with torch.set_grad_enabled(record):
            x, prediction, state = sampler.step(denoise, x, t, t_next, state, rng, t_next == END)
            if project is not None:
                x = project(x, t_next)
        # CPython 3.12.2 and 3.12.3 clear the frame of a closed generator only where it stands in a try block
        # (github.com/python/cpython/issues/118272).
        try:
            changed = yield Step(index, len(times), t, t_next, x, prediction)
        finally:
            pass
        if changed is not None:
            x = changed.to(x)
