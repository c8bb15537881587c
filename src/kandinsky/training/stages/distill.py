"""Distillation: a decoder, or an adapter of it, draws in a few unguided steps what it drew in many guided."""

import copy
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.adapters import lora
from kandinsky.core.errors import ConfigError
from kandinsky.engine.sampling_defaults import Sampling
from kandinsky.training.config import DistillObjective, Stage
from kandinsky.training.events import Event
from kandinsky.training.objectives.denoising import Target
from kandinsky.training.objectives.distillation import (
    Rungs,
    Says,
    consistency_errors,
    guided,
    landing,
    trajectory_errors,
)
from kandinsky.training.sheets import grid
from kandinsky.training.stages.base import KINDS, Base
from kandinsky.training.stages.examples import Examples, examples_of
from kandinsky.training.stages.trajectories import (
    Stretch,
    Stretches,
    Trajectories,
    kept_trajectories,
    teacher_scale,
)
from kandinsky.training.stages.tuning import NAME, Loss, add_adapters, unfreeze
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Losses, Player, Sheet, Source, Task, Turn

SAMPLER = "ddim"
SHOWN, MEASURED = 8, 32


def sampling_of(base: Base, objective: DistillObjective) -> Sampling:
    """How the student's pictures are drawn."""
    unguided = 1.0 - base.model.guidance_offset
    return Sampling({"steps": objective.steps, "guidance_scale": unguided, "sampler": SAMPLER}, "trailing")


def distill_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """A student on what the checkpoint itself draws, or says, with guidance and in more steps."""
    objective: DistillObjective = stage.objective
    base = shop.base(stage)
    if base.repaints or base.model.hints:
        raise ConfigError(
            f"{base.pipe.model_id} is told of regions or hints, which its teacher would have to be given.",
            "Begin with a decoder that is not.",
        )
    learned, held_out = shop.split(stage)
    base.check_size(learned.size)
    schedule = base.model.schedule_of(SAMPLER)
    rungs = Rungs.of(schedule.process, objective.steps, objective.solver_steps, shop.device)
    seen = held_out or learned
    shown = yield from kept_trajectories(shop, stage, base, seen, min(MEASURED, len(seen)), "held out")
    source: Source
    if objective.route == "trajectories":
        kept = yield from kept_trajectories(shop, stage, base, learned, objective.trajectories, "learned")
        source = Stretches(kept)
    else:
        source = yield from examples_of(shop, stage, base, learned)
    teacher = teacher_of(base, objective)
    module = student(base, objective)
    network = base.network("decoder")
    loss = LOSSES[objective.route](base, objective, rungs, teacher)

    def drawn() -> tuple[Tensor, Tensor]:
        """Pictures of the teacher and of the student from the same noise."""
        latents = draw_few(base, rungs, shown)
        ends = shown.states[:, -1].to(latents)
        return base.model.codec.decode(ends).float(), base.model.codec.decode(latents).float()

    def measure(_: torch.Generator) -> dict[str, float]:
        of_teacher, of_student = (value.clamp(-1, 1) for value in drawn())
        error = (of_student - of_teacher).square().flatten(1).mean(1)
        # Pictures lie in [-1, 1], so the square of the peak is 4.
        return {"psnr": float((10 * (4 / error.clamp(min=1e-10)).log10()).mean())}

    def sheet(_: torch.Generator) -> Sheet:
        count = min(SHOWN, len(shown))
        return grid(torch.cat([value[:count] for value in drawn()]), count)

    player = Player("decoder", module, loss, stage.optimiser, compiled=(network,))
    return Task((player,), source, sheet=sheet, measure=measure)


def student(base: Base, objective: DistillObjective) -> nn.Module:
    """What learns: the decoder itself, or adapters of it."""
    if objective.whole:
        return unfreeze(base.learners("decoder"))
    return add_adapters(base, "decoder", objective.adapter)


def kind_of(base: Base) -> Target:
    """What the decoder says of noisy latents."""
    return cast(Target, KINDS[base.model.schedule_of(SAMPLER).prediction_type])


Teacher = Callable[[Tensor, Tensor, object], Tensor]
"""(x, t, told) to what the checkpoint's decoder says, before anything was learned."""


def teacher_of(base: Base, objective: DistillObjective) -> Teacher | None:
    """The decoder as it was, which only the route "consistency" asks; to be called before `student`.

    An adapted decoder is its own teacher, with the adapter at rest.
    """
    if objective.route != "consistency":
        return None
    network = base.network("decoder")
    if objective.whole:
        return copy.deepcopy(network).eval()

    def says(x: Tensor, t: Tensor, told: object) -> Tensor:
        with _at_rest(network):
            output: Tensor = network(x, t, told)
        return output

    return says


@contextmanager
def _at_rest(network: nn.Module) -> Iterator[None]:
    """Inside, the network is what it is without the adapter that learns."""
    lora.set_scale(network, NAME, 0.0)
    try:
        yield
    finally:
        lora.set_scale(network, NAME, 1.0)


def trajectory_loss(base: Base, objective: DistillObjective, rungs: Rungs, teacher: Teacher | None) -> Loss:
    """The error of each step against where the teacher's trajectory is then."""
    kind, network = kind_of(base), base.network("decoder")

    def loss(turn: Turn) -> Losses:
        batch: Stretch = turn.batch
        says = _told(base, network, batch.captions, batch.embeddings)
        x, target, step = (value.to(turn.device) for value in (batch.x, batch.target, batch.step))
        errors = trajectory_errors(rungs, kind, says, objective, x, step, target)
        return Losses(errors.mean(), {objective.loss: errors.detach().mean()})

    return loss


def consistency_loss(base: Base, objective: DistillObjective, rungs: Rungs, teacher: Teacher | None) -> Loss:
    """The error between what is said before and after a step of the teacher, from noised pictures."""
    schedule = base.model.schedule_of(SAMPLER)
    kind, network = kind_of(base), base.network("decoder")
    scale = base.model.guidance(teacher_scale(base, objective)) or 1.0
    assert teacher is not None

    def loss(turn: Turn) -> Losses:
        batch: Examples = turn.batch
        found = batch.encoded(base)
        x0, embeddings = found["latents"], found.get("embeddings")
        count = len(x0)
        rung = (turn.uniform(count) * rungs.count).long()
        x = schedule.process.add_noise(x0, turn.normal(x0), rungs.times[rung])
        told, nothing = (
            base.tell_decoder(batch.captions, embeddings, torch.full((count,), empty, device=turn.device))
            for empty in (False, True)
        )
        leads = guided(lambda x, t, empty: teacher(x, t, nothing if empty else told).float(), scale)
        says = _told(base, network, batch.captions, embeddings)
        errors = consistency_errors(rungs, kind, says, leads, objective, x, rung)
        return Losses(errors.mean(), {objective.loss: errors.detach().mean()})

    return loss


LOSSES: dict[str, Callable[[Base, DistillObjective, Rungs, Teacher | None], Loss]] = {
    "trajectories": trajectory_loss,
    "consistency": consistency_loss,
}


def _told(base: Base, network: nn.Module, captions: tuple[str, ...], embeddings: Tensor | None) -> Says:
    """The network closed over what it is told of a batch."""
    everyone = torch.zeros(len(captions), dtype=torch.bool, device=base.device)
    found = None if embeddings is None else embeddings.to(base.device)
    told = base.tell_decoder(captions, found, everyone)
    return lambda x, t: network(x, t, told)


@torch.no_grad()
def draw_few(base: Base, rungs: Rungs, shown: Trajectories) -> Tensor:
    """Latents (N, C, h, w) that the student draws in its steps from the noise of trajectories."""
    kind = kind_of(base)
    says = _told(base, base.network("decoder"), shown.captions, _floats(shown.embeddings))
    x = shown.states[:, 0].float().to(base.device)
    for first in range(0, rungs.count, rungs.stride):
        rung = torch.full((len(x),), first, device=base.device)
        output = says(x, rungs.times[rung])[:, : x.shape[1]].float()
        x = landing(rungs, kind, output, x, rung, rung + rungs.stride)
    return x


def _floats(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.float()
