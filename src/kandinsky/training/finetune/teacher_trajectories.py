"""Trajectories of a guided teacher, kept on disk: its latents at the end of each step of a student."""

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kandinsky.conditioning.conditions import Batch
from kandinsky.core.images import to_pil
from kandinsky.core.requests import Request
from kandinsky.core.rng import PerImageRng
from kandinsky.engine.acceleration.networks import accelerated_model
from kandinsky.engine.sampling_defaults import Sampling
from kandinsky.tasks.generate import denoise, encode
from kandinsky.tasks.resolve import resolve
from kandinsky.tasks.start import start
from kandinsky.training import events
from kandinsky.training.config.objectives import DistillObjective
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.images import ImageSet
from kandinsky.training.dataset import augmentation
from kandinsky.training.events import result_of
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint
from kandinsky.training.run_folder import weights_stamp
from kandinsky.training.seeds import generator
from kandinsky.training.tensor_cache import keep, read_kept

FIRST_SEED = 2**40
"""Of the teacher's noise: far from seeds that people ask for."""


@dataclass(frozen=True)
class Trajectories:
    """N images that a teacher drew.

    `states` (N, steps + 1, C, h, w) are latents from pure noise to the end, `embeddings` (N, D) what the
    decoder was given where it takes image embeddings.
    """

    captions: tuple[str, ...]
    states: Tensor
    embeddings: Tensor | None

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class Segment:
    """Rows of a batch: from `x` to `target`, both (B, C, h, w) float32, in step number `step` (B,)."""

    captions: tuple[str, ...]
    embeddings: Tensor | None
    x: Tensor
    target: Tensor
    step: Tensor


@dataclass(frozen=True)
class SegmentSource:
    """Every step of every trajectory as an example of its own."""

    kept: Trajectories

    @property
    def steps(self) -> int:
        return self.kept.states.shape[1] - 1

    def __len__(self) -> int:
        return len(self.kept) * self.steps

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Segment:
        chosen = torch.tensor(list(indices))
        rows, step = chosen // self.steps, chosen % self.steps
        embeddings, states = self.kept.embeddings, self.kept.states
        return Segment(
            tuple(self.kept.captions[row] for row in rows.tolist()),
            None if embeddings is None else embeddings[rows].float(),
            states[rows, step].float(),
            states[rows, step + 1].float(),
            step,
        )


def teacher_scale(base: BaseCheckpoint, objective: DistillObjective) -> float:
    """The guidance scale of the teacher, as requests have it."""
    usual = base.model.defaults["guidance_scale"]
    return float(usual if objective.guidance_scale is None else objective.guidance_scale)


def draw_trajectories(
    base: BaseCheckpoint, objective: DistillObjective, prompts: Sequence[str | Image.Image], seed: int, side: int
) -> tuple[Tensor, Tensor | None]:
    """The states and embeddings of `Trajectories`, drawn under these prompts as a request would be.

    Row i is from seed `seed` + i; images are `side` pixels wide and high.
    """
    scale = teacher_scale(base, objective)
    model = accelerated_model(Sampling({"sampler": objective.solver}, "trailing").applied(base.model))
    request = Request(
        list(prompts),
        seed=seed,
        width=side,
        height=side,
        sampler=objective.solver,
        steps=objective.solver_steps,
        guidance_scale=scale,
    )
    resolved = resolve(model, request)
    rows = resolved.rows
    batch = Batch(rows, PerImageRng.from_seeds([row.seed for row in rows], model.working_dtype))
    conditions = result_of(encode(model, resolved, [batch]))[0]
    assert isinstance(batch.rng, PerImageRng)
    # The same draws twice: the loop does not show where it begins.
    rng = PerImageRng(batch.rng.generators, model.working_dtype)
    states = [start(model, resolved, replace(batch, rng=rng.fork())).x]
    stride = objective.solver_steps // objective.steps
    for step in denoise(model, resolved, replace(batch, rng=rng), conditions):
        if (step.index + 1) % stride == 0:
            states.append(step.x)
    cond = conditions.cond
    embeddings: Tensor | None = getattr(cond, "image_embedding", None)
    return torch.stack(states, dim=1), embeddings


def kept_trajectories(
    ctx: TrainContext, stage: Stage, base: BaseCheckpoint, images: ImageSet, count: int, purpose: str
) -> Generator[events.Event, None, Trajectories]:
    """`count` trajectories of images and their captions, drawn now or read where they were drawn before.

    They are kept in chunks, so that a run that was killed draws the rest only. Another teacher, other
    images, captions and settings make new ones. Raises OutputError when the disk does not take them.
    """
    objective = stage.objective_as(DistillObjective)
    folder = ctx.run.cache / f"trajectories-{_key(ctx, stage, base, images, purpose)}"
    parts: list[Trajectories] = []
    what = f"trajectories of the teacher ({purpose})"
    # Another purpose begins with other noise.
    seed = FIRST_SEED + int(torch.randint(2**40, (1,), generator=generator(ctx.seed, "noise", purpose)))
    for first in range(0, count, objective.chunk):
        rows = min(objective.chunk, count - first)
        draws = generator(ctx.seed, "trajectories", purpose, first)
        batch = images.batch(torch.randint(len(images), (rows,), generator=draws), draws, augmentation(stage))
        path = folder / f"{first:08d}.safetensors"
        found = _read(path, batch.captions)
        if found is None:
            yield events.Preparing(stage.name, what, first, count)
            from_text = torch.rand(rows, generator=draws) < objective.from_text
            # Without a prior nothing but texts is understood.
            prompts = [
                caption if base.prior is None or read else image
                for caption, image, read in zip(batch.captions, to_pil(batch.pixels), from_text.tolist(), strict=True)
            ]
            states, embeddings = draw_trajectories(base, objective, prompts, seed + first, images.shape[1])
            drawn = {"states": states, "embeddings": embeddings}
            tensors = {name: value.half().cpu() for name, value in drawn.items() if value is not None}
            keep(path, tensors, {"captions": json.dumps(batch.captions, ensure_ascii=False)})
            found = Trajectories(batch.captions, tensors["states"], tensors.get("embeddings"))
        parts.append(found)
    yield events.Preparing(stage.name, what, count, count)
    embedded = [part.embeddings for part in parts if part.embeddings is not None]
    return Trajectories(
        tuple(caption for part in parts for caption in part.captions),
        torch.cat([part.states for part in parts]),
        torch.cat(embedded) if embedded else None,
    )


def _read(path: Path, captions: tuple[str, ...]) -> Trajectories | None:
    """The trajectories of a file, where they were drawn under these captions."""
    kept = read_kept(path)
    if kept is None or kept[1].get("captions") != json.dumps(captions, ensure_ascii=False):
        return None
    return Trajectories(captions, kept[0]["states"], kept[0].get("embeddings"))


def _key(ctx: TrainContext, stage: Stage, base: BaseCheckpoint, images: ImageSet, purpose: str) -> str:
    objective = stage.objective_as(DistillObjective)
    teacher = objective.model_dump(include={"steps", "solver_steps", "solver", "from_text", "chunk"})
    said = {
        **teacher,
        "guidance_scale": teacher_scale(base, objective),
        "lora": ctx.config.model.lora,
        "augmentation": str(augmentation(stage)),
        **ctx.config.data.model_dump(include={"recipe", "captions", "measure_colours"}),
        "seed": ctx.seed,
        "purpose": purpose,
        "dtype": str(base.model.dtype),
        "defaults": dict(base.model.defaults),
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    digest.update(weights_stamp(base.model.modules).encode())
    for part in images.planes.chunks():
        digest.update(part.numpy().tobytes())
    for ids in (images.concept_ids, images.style_ids):
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()[:32]
