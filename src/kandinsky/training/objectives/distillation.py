"""Distilling a guided decoder into few steps: where a solver's way leads, learned as single steps.

Sources: Song et al. 2023, arXiv 2303.01469 (consistency distillation); Luo et al. 2023, arXiv 2310.04378
(guidance distilled with it); Wang et al. 2024, arXiv 2405.18407 (several phases, each consistent in itself).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.diffusion.loop import END
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.times import trailing
from kandinsky.training.config import Robust
from kandinsky.training.objectives.denoising import Posterior, Target, clean_of, error_of

Says = Callable[[Tensor, Tensor], Tensor]
"""(x, t) to what a network says of x (B, C, h, w) at times t (B,): (B, C or 2C, h, w)."""


@dataclass(frozen=True, eq=False)
class Rungs:
    """The levels of noise that a solver visits: rung 0 is pure noise, the last one the end.

    `times` are the N falling times of all rungs but the last, `alpha_bar` (N + 1,) float32 the signal left at
    each. A phase is `stride` rungs; the student takes it in one step.
    """

    times: Tensor
    alpha_bar: Tensor
    stride: int
    posterior: Posterior

    @classmethod
    def of(cls, process: Process, steps: int, solver_steps: int, device: torch.device) -> "Rungs":
        """The rungs of `solver_steps` trailing times, `steps` of which are the student's.

        Raises ConfigError where the student's own times are not among the solver's.
        """
        stride = solver_steps // steps
        times = trailing(solver_steps, process.T)
        if solver_steps % steps or times[::stride] != trailing(steps, process.T):
            raise ConfigError(
                f"{solver_steps} steps of the solver do not divide into {steps}.",
                f"Set solver_steps to a multiple of {steps}.",
            )
        alpha_bar = [process.alpha_bar_at(t) for t in (*times, END)]
        return cls(
            torch.tensor(times, device=device),
            torch.tensor(alpha_bar, device=device),
            stride,
            Posterior.of(process, device),
        )

    @property
    def count(self) -> int:
        """How many steps the solver takes."""
        return len(self.times)

    def end_of_phase(self, rung: Tensor) -> Tensor:
        """The rung (B,) at which the phase ends that holds the step from `rung` (B,)."""
        return (rung // self.stride + 1) * self.stride


def landing(rungs: Rungs, kind: Target, output: Tensor, x: Tensor, rung: Tensor, to: Tensor) -> Tensor:
    """Where one deterministic step from `x` at `rung` (B,) ends at rung `to` (B,), (B, C, h, w).

    `output` (B, C, h, w) is what the network said of x, a `kind` of thing. This is DDIM's step (arXiv
    2010.02502, eq. 12 without noise). For a network that says eps it is c_skip x + c_out eps, with c_skip =
    sqrt(alpha_bar_to / alpha_bar) and c_out = sqrt(1 - alpha_bar_to) - c_skip sqrt(1 - alpha_bar): 1 and 0
    where a step ends at its beginning, the boundary condition of consistency models (arXiv 2303.01469, eq.
    5).
    """
    now, then = (rungs.alpha_bar[r].reshape(-1, 1, 1, 1) for r in (rung, to))
    x0 = clean_of(kind, rungs.posterior, output, x, rungs.times[rung])
    eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
    return then.sqrt() * x0 + (1 - then).sqrt() * eps


def trajectory_errors(
    rungs: Rungs, kind: Target, says: Says, objective: Robust, x: Tensor, step: Tensor, target: Tensor
) -> Tensor:
    """The error of each row, (B,), in going from `x` to `target` in one step, number `step` (B,) of few.

    Both (B, C, h, w) lie on one trajectory of the teacher, at the beginning and at the end of a phase
    (knowledge distillation, Luhman & Luhman 2021, arXiv 2101.02388, in several steps).
    """
    rung = step * rungs.stride
    output = says(x, rungs.times[rung])[:, : x.shape[1]].float()
    return error_of(objective, landing(rungs, kind, output, x, rung, rung + rungs.stride), target)


def consistency_errors(
    rungs: Rungs,
    kind: Target,
    says: Says,
    teacher: Says,
    objective: Robust,
    x: Tensor,
    rung: Tensor,
) -> Tensor:
    """The error of each row, (B,), between two landings: from `x` at `rung` (B,), and from one rung on.

    There the `teacher` (guidance in it) leads by one step. Both land at the end of the phase. The second is
    what the student itself says now, without a gradient: a running mean of it in its place gains nothing
    (Song & Dhariwal 2023, arXiv 2310.14189, section 3.2). With one phase this is latent consistency
    distillation.
    """
    channels = x.shape[1]
    end = rungs.end_of_phase(rung)
    with torch.no_grad():
        led = landing(rungs, kind, teacher(x, rungs.times[rung])[:, :channels].float(), x, rung, rung + 1)
        # Behind the last rung there is no time; its rows are at the end of their phase and stay as they are.
        inside = (rung + 1).clamp(max=rungs.count - 1)
        said = says(led, rungs.times[inside])[:, :channels].float()
        target = landing(rungs, kind, said, led, inside, end)
        target = torch.where((rung + 1 == end).reshape(-1, 1, 1, 1), led, target)
    output = says(x, rungs.times[rung])[:, :channels].float()
    return error_of(objective, landing(rungs, kind, output, x, rung, end), target)


def guided(teacher: Callable[[Tensor, Tensor, bool], Tensor], scale: float) -> Says:
    """The teacher with classifier-free guidance (arXiv 2207.12598, eq. 6), from `teacher(x, t, empty)`."""

    def says(x: Tensor, t: Tensor) -> Tensor:
        told = teacher(x, t, False)
        if scale <= 1:
            return told
        empty = teacher(x, t, True)
        return empty + scale * (told - empty)

    return says
