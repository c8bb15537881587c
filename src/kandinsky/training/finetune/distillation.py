"""Distillation: a decoder, or an adapter of it, draws in a few unguided steps what it drew in many guided."""

import copy
from collections.abc import Callable, Generator
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.adapters import lora
from kandinsky.core.errors import ConfigError
from kandinsky.engine.sampling_defaults import Sampling
from kandinsky.training.config.objectives import DistillObjective
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.dataset import learns_from
from kandinsky.training.diffusion_losses import Loss
from kandinsky.training.events import Event
from kandinsky.training.examples import Examples, check_sizes, examples_of
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, open_base
from kandinsky.training.finetune.teacher_trajectories import (
    Segment,
    SegmentSource,
    Trajectories,
    kept_trajectories,
    teacher_scale,
)
from kandinsky.training.finetune.tuning import NAME, add_adapters, unfreeze
from kandinsky.training.image_grid import ImageGrid, grid
from kandinsky.training.objectives.autoencoder import psnr
from kandinsky.training.objectives.denoising import KINDS, Target
from kandinsky.training.objectives.distillation import (
    Predict,
    SolverTimes,
    consistency_errors,
    guided,
    solve_to,
    trajectory_errors,
)
from kandinsky.training.task import B, Losses, StepContext, Task, Trainable

SAMPLER = "ddim"
SHOWN, MEASURED = 8, 32

Teacher = Callable[[Tensor, Tensor, object], Tensor]
"""(x, t, condition) to what the checkpoint's decoder predicts, before anything was learned."""


def sampling_of(base: BaseCheckpoint, objective: DistillObjective) -> Sampling:
    """How the student's images are drawn."""
    unguided = 1.0 - base.model.guidance_offset
    return Sampling({"steps": objective.steps, "guidance_scale": unguided, "sampler": SAMPLER}, "trailing")


def distill_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples] | Task[Segment]]:
    """A student on what the checkpoint itself draws, or predicts, with guidance and in more steps."""
    objective = stage.objective_as(DistillObjective)
    base = open_base(ctx, stage)
    if base.inpaints or base.model.hints:
        raise ConfigError(
            f"{base.pipe.model_id} takes regions or hints, and its teacher has none.",
            "Begin with a decoder that is not.",
        )
    learned, held_out = ctx.data.split(ctx.data.size(stage, base.size))
    check_sizes(base, [learned])
    yield learns_from(stage.name, [learned], [held_out] if held_out else [], base.all_readers)
    process = base.model.schedule_of(SAMPLER).process
    solver = SolverTimes.of(process, objective.steps, objective.solver_steps, ctx.device)
    seen = held_out or learned
    shown = yield from kept_trajectories(ctx, stage, base, seen, min(MEASURED, len(seen)), "held out")

    def drawn() -> tuple[Tensor, Tensor]:
        """Images of the teacher and of the student from the same noise."""
        latents = draw_few(base, solver, shown)
        ends = shown.states[:, -1].to(latents)
        return base.model.codec.decode(ends).float(), base.model.codec.decode(latents).float()

    def measure(_: torch.Generator) -> dict[str, float]:
        of_teacher, of_student = drawn()
        return {"psnr": float(psnr(of_student, of_teacher).mean())}

    def samples(_: torch.Generator) -> ImageGrid:
        count = min(SHOWN, len(shown))
        return grid(torch.cat([value[:count] for value in drawn()]), count)

    network = base.network("decoder")

    def trainable(loss: Callable[[StepContext[B]], Losses]) -> Trainable[B]:
        return Trainable("decoder", student(base, objective), loss, stage.optimiser, compiled=(network,))

    if objective.route == "trajectories":
        kept = yield from kept_trajectories(ctx, stage, base, learned, objective.trajectories, "learned")
        steps = trainable(trajectory_loss(base, objective, solver))
        return Task((steps,), SegmentSource(kept), grid=samples, measure=measure)
    source = yield from examples_of(ctx, stage, base, learned)
    loss = consistency_loss(base, objective, solver, _teacher(base, objective))
    return Task((trainable(loss),), source, grid=samples, measure=measure)


def student(base: BaseCheckpoint, objective: DistillObjective) -> nn.Module:
    """What learns: the decoder itself, or adapters of it."""
    if objective.whole:
        return unfreeze(base.learners("decoder"))
    return add_adapters(base, "decoder", objective.adapter)


def _kind(base: BaseCheckpoint) -> Target:
    return KINDS[base.model.schedule_of(SAMPLER).prediction_type]


def _teacher(base: BaseCheckpoint, objective: DistillObjective) -> Teacher:
    """The decoder as it is before `student`; an adapted decoder is its own, with the adapter at scale 0."""
    network = base.network("decoder")
    if objective.whole:
        return cast(Teacher, copy.deepcopy(network).eval())

    def predict(x: Tensor, t: Tensor, condition: object) -> Tensor:
        lora.set_scale(network, NAME, 0.0)
        try:
            output: Tensor = network(x, t, condition)
        finally:
            lora.set_scale(network, NAME, 1.0)
        return output

    return predict


def trajectory_loss(
    base: BaseCheckpoint, objective: DistillObjective, solver: SolverTimes
) -> Callable[[StepContext[Segment]], Losses]:
    """The error of each step against where the teacher's trajectory is then."""
    kind = _kind(base)

    def loss(context: StepContext[Segment]) -> Losses:
        batch = context.batch
        predict = _predict(base, batch.captions, batch.embeddings)
        x, target, step = (value.to(context.device) for value in (batch.x, batch.target, batch.step))
        errors = trajectory_errors(solver, kind, predict, objective, x, step, target)
        return Losses(errors.mean(), {objective.loss: errors.detach().mean()})

    return loss


def consistency_loss(base: BaseCheckpoint, objective: DistillObjective, solver: SolverTimes, teacher: Teacher) -> Loss:
    """The error between predictions before and after a step of the teacher, from noised images."""
    process, kind = base.model.schedule_of(SAMPLER).process, _kind(base)
    scale = base.model.guidance(teacher_scale(base, objective)) or 1.0

    def loss(context: StepContext[Examples]) -> Losses:
        batch = context.batch
        found = batch.encoded(base)
        x0, embeddings = found["latents"], found.get("embeddings")
        count = len(x0)
        step = (context.uniform(count) * solver.count).long()
        x = process.add_noise(x0, context.normal(x0), solver.times[step])
        cond, uncond = (
            base.decoder_condition(batch.captions, embeddings, torch.full((count,), empty, device=context.device))
            for empty in (False, True)
        )
        teach = guided(lambda x, t, empty: teacher(x, t, uncond if empty else cond).float(), scale)
        predict = _predict(base, batch.captions, embeddings)
        errors = consistency_errors(solver, kind, predict, teach, objective, x, step)
        return Losses(errors.mean(), {objective.loss: errors.detach().mean()})

    return loss


def _predict(base: BaseCheckpoint, captions: tuple[str, ...], embeddings: Tensor | None) -> Predict:
    """The decoder closed over the condition of a batch."""
    dropped = torch.zeros(len(captions), dtype=torch.bool, device=base.device)
    found = None if embeddings is None else embeddings.float().to(base.device)
    cond = base.decoder_condition(captions, found, dropped)
    network = base.network("decoder")
    return lambda x, t: network(x, t, cond)


@torch.no_grad()
def draw_few(base: BaseCheckpoint, solver: SolverTimes, shown: Trajectories) -> Tensor:
    """Latents (N, C, h, w) that the student draws in its steps from the noise of trajectories."""
    predict = _predict(base, shown.captions, shown.embeddings)
    x = shown.states[:, 0].float().to(base.device)
    for first in range(0, solver.count, solver.stride):
        step = torch.full((len(x),), first, device=base.device)
        output = predict(x, solver.times[step])[:, : x.shape[1]].float()
        x = solve_to(solver, _kind(base), output, x, step, step + solver.stride)
    return x
