"""Training a new diffusion prior."""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from kandinsky.conditioning.captions import TextCondition
from kandinsky.conditioning.conditions import PriorNetwork
from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import sample as read_x0
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import linspaced
from kandinsky.training.config import PriorFromScratch, Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.caption import equal
from kandinsky.training.diffusion_losses import prior_loss
from kandinsky.training.events import Event
from kandinsky.training.examples import Examples, ExampleSource, examples_of
from kandinsky.training.objectives.contrastive import retrieval_accuracy
from kandinsky.training.objectives.times import TIME_SAMPLERS
from kandinsky.training.scratch.clip_model import by_length
from kandinsky.training.scratch.encoders import FrozenEncoders, frozen_clip
from kandinsky.training.scratch.tokens import CaptionTokens
from kandinsky.training.seeds import generator
from kandinsky.training.task import Task, Trainable

STATISTICS = 4096
MEASURED = 256
STEPS = 10


def prior_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples]]:
    """The prior against the mean squared error of clean, normalised image embeddings."""
    objective = stage.objective_as(PriorFromScratch)
    encoders = FrozenEncoders(frozen_clip(ctx, stage), None, ctx.device)
    clip, tokens = encoders.clip.module, CaptionTokens(ctx)
    learned, held_out = ctx.data.split(ctx.data.size(stage))
    source = yield from examples_of(ctx, stage, encoders, learned)
    prior = ctx.networks.prior()
    measure_statistics(prior, source, encoders, ctx.seed)
    ctx.run.start(stage, "prior", prior)
    process = Process.squared_cosine()
    times = TIME_SAMPLERS[objective.times](process.T)

    def condition(captions: Sequence[str], rows: Tensor | slice = slice(None)) -> TextCondition:
        ids, mask = (value.to(ctx.device)[rows] for value in tokens(captions))
        return encoders.prior_condition(ids, mask)

    def predict(x: Tensor, t: Tensor, captions: Sequence[str]) -> Tensor:
        """The prior's output, short texts apart from long ones where that is faster."""
        ids, mask = (value.to(ctx.device) for value in tokens(captions))
        groups = by_length(mask.sum(dim=1), ctx.device)
        found = [prior(x[rows], t[rows], encoders.prior_condition(ids[rows], mask[rows])) for rows in groups]
        return torch.cat(found)[torch.cat(groups).argsort()]

    def measure(_: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        batch = held_out.batch(range(min(MEASURED, len(held_out))), generator(ctx.seed, "held out"))
        true = clip.see(batch.pixels.to(ctx.device))
        found = draw_embeddings(prior, condition(batch.captions), process)
        right = equal(batch.facts["concepts"])
        return {
            "cosine": float(torch.cosine_similarity(found, true, dim=1).mean()),
            "top5": retrieval_accuracy(found, true, right.to(ctx.device), 5),
        }

    loss = prior_loss(encoders, prior, predict, process, objective, times)
    trainable = Trainable("prior", prior, loss, stage.optimiser, compiled=(prior,))
    return Task((trainable,), source, extra=times, sync=times.sync, measure=measure)


@torch.no_grad()
def measure_statistics(prior: PriorNetwork, source: ExampleSource, encoders: FrozenEncoders, seed: int) -> None:
    """Sets the prior's mean and deviation of image embeddings from up to 4,096 training examples."""
    rows = torch.randperm(len(source), generator=generator(seed, "statistics"))[:STATISTICS].tolist()
    found = []
    for first in range(0, len(rows), 256):
        batch = source.batch(rows[first : first + 256], generator(seed, "statistics", first))
        found.append(batch.encoded(encoders)["embeddings"].cpu())
    embeddings = torch.cat(found)
    prior.clip_mean.copy_(embeddings.mean(dim=0, keepdim=True))
    # One example, or a dead dimension, has no deviation to divide by.
    deviation = embeddings.std(dim=0, keepdim=True, correction=0)
    prior.clip_std.copy_(torch.where(deviation < 1e-6, torch.ones_like(deviation), deviation))


@torch.no_grad()
def draw_embeddings(prior: PriorNetwork, condition: TextCondition, process: Process) -> Tensor:
    """Image embeddings (B, P) drawn in a few unguided steps; row i from seed i."""
    count, device = len(condition.text_mask), condition.text_hidden.device

    def network(x: Tensor, t: float) -> Tensor:
        output: Tensor = prior(x, torch.full((len(x),), t, device=device), condition)
        return output

    rng = PerImageRng.from_seeds(range(count))
    x = rng.normal((count, prior.config.embedding_dim)).to(device)
    denoiser = make_denoiser(network, process, read_x0)
    *_, last = sample(make_sampler("ddim", process), denoiser, x, linspaced(STEPS, process.T), rng)
    return prior.denormalise(last.x)
