"""Distilling a guided decoder into few steps: the end points of a solver, learned as single steps.

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
from kandinsky.training.config.objectives import Robust
from kandinsky.training.objectives.denoising import Posterior, Target, clean_of, error_of

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x, t) to what a network predicts for x (B, C, h, w) at times t (B,): (B, C or 2C, h, w)."""


@dataclass(frozen=True, eq=False)
class SolverTimes:
    """The times that a solver visits, by index: 0 is pure noise, the last one the end.

    `times` are its N falling times without the end, `alpha_bar` (N + 1,) float32 the signal left at each. A
    phase is `stride` of its steps; the student takes it in one.
    """

    times: Tensor
    alpha_bar: Tensor
    stride: int
    posterior: Posterior

    @classmethod
    def of(cls, process: Process, steps: int, solver_steps: int, device: torch.device) -> "SolverTimes":
        """`solver_steps` trailing times, `steps` of which are the student's.

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

    def end_of_phase(self, index: Tensor) -> Tensor:
        """The index (B,) at which the phase ends that holds the step from `index` (B,)."""
        return (index // self.stride + 1) * self.stride


def solve_to(solver: SolverTimes, kind: Target, output: Tensor, x: Tensor, index: Tensor, to: Tensor) -> Tensor:
    """Where one deterministic step from `x` at `index` (B,) ends at index `to` (B,), (B, C, h, w).

    `output` (B, C, h, w) is the network's prediction of a `kind` for x. This is DDIM's step (arXiv 2010.02502, eq. 12
    without noise). For a network that predicts eps it is c_skip x + c_out eps, with c_skip = sqrt(alpha_bar_to /
    alpha_bar), c_out = sqrt(1 - alpha_bar_to) - c_skip sqrt(1 - alpha_bar): 1, 0 where a step ends at its beginning,
    the boundary condition of consistency models (arXiv 2303.01469, eq. 5).
    """
    now, then = (solver.alpha_bar[i].reshape(-1, 1, 1, 1) for i in (index, to))
    x0 = clean_of(kind, solver.posterior, output, x, solver.times[index])
    eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
    return then.sqrt() * x0 + (1 - then).sqrt() * eps


def trajectory_errors(
    solver: SolverTimes, kind: Target, predict: Predict, objective: Robust, x: Tensor, step: Tensor, target: Tensor
) -> Tensor:
    """The error of each row, (B,), in going from `x` to `target` in one step, number `step` (B,) of few.

    Both (B, C, h, w) lie on one trajectory of the teacher, at the beginning and at the end of a phase
    (knowledge distillation, Luhman & Luhman 2021, arXiv 2101.02388, in several steps).
    """
    index = step * solver.stride
    output = predict(x, solver.times[index])[:, : x.shape[1]].float()
    return error_of(objective, solve_to(solver, kind, output, x, index, index + solver.stride), target)


def consistency_errors(
    solver: SolverTimes, kind: Target, predict: Predict, teacher: Predict, objective: Robust, x: Tensor, index: Tensor
) -> Tensor:
    """The error of each row, (B,), between two solutions: from `x` at `index` (B,), and from one index on.

    There the `teacher` (guidance in it) leads by one step. Both are at the end of the phase. The second is what the
    student itself predicts now, without a gradient: a running mean of it in its place gains nothing (Song & Dhariwal
    2023, arXiv 2310.14189, section 3.2). With one phase this is latent consistency distillation.
    """
    channels = x.shape[1]
    end = solver.end_of_phase(index)
    with torch.no_grad():
        taught = teacher(x, solver.times[index])[:, :channels].float()
        led = solve_to(solver, kind, taught, x, index, index + 1)
        # Behind the last index there is no time; its rows are at the end of their phase and stay as they are.
        inside = (index + 1).clamp(max=solver.count - 1)
        output = predict(led, solver.times[inside])[:, :channels].float()
        target = solve_to(solver, kind, output, led, inside, end)
        target = torch.where((index + 1 == end).reshape(-1, 1, 1, 1), led, target)
    output = predict(x, solver.times[index])[:, :channels].float()
    return error_of(objective, solve_to(solver, kind, output, x, index, end), target)


def guided(teacher: Callable[[Tensor, Tensor, bool], Tensor], scale: float) -> Predict:
    """The teacher with classifier-free guidance (arXiv 2207.12598, eq. 6), from `teacher(x, t, empty)`."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        cond = teacher(x, t, False)
        if scale <= 1:
            return cond
        uncond = teacher(x, t, True)
        return uncond + scale * (cond - uncond)

    return predict
