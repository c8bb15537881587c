"""Training the diffusion prior."""

from collections.abc import Generator

import torch
from torch import Tensor

from kandinsky.core.rng import PerPictureRng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import sample as read_x0
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import linspaced
from kandinsky.networks.prior import Prior, PriorCondition
from kandinsky.training.config import PriorObjective, Stage
from kandinsky.training.events import Event
from kandinsky.training.objectives.contrastive import retrieval_accuracy
from kandinsky.training.objectives.denoising import error_of
from kandinsky.training.objectives.times import TIME_SAMPLERS
from kandinsky.training.seeds import generator
from kandinsky.training.stages.encoding import Encoders, encoded_source
from kandinsky.training.stages.towers import Towers, by_length, trimmed
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Losses, Player, Source, Task, Turn

STATISTICS = 4096
MEASURED = 256
STEPS = 10


def prior_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """The prior against the mean squared error of clean, normalised image embeddings (Ramesh et al. 2022,
    eq. 2).

    A share of the rows sees the empty text, as inference's unconditional half does.
    """
    objective: PriorObjective = stage.objective
    encoders = Encoders(shop.frozen_towers(stage), None, shop.device)
    towers = encoders.towers.module
    learned, held_out = shop.split(stage)
    source = yield from encoded_source(shop, stage, learned, encoders)
    prior = shop.new_prior()
    measure_statistics(prior, source, encoders, shop.config.seed)
    shop.start(stage, "prior", prior)
    process = Process.squared_cosine()
    times = TIME_SAMPLERS[objective.times](process.T)
    null_ids, null_mask = shop.ids([""])

    def denoise(turn: Turn) -> Losses:
        x0 = prior.normalise(encoders.of(turn.batch)["embeddings"])
        count = len(x0)
        dropped = (turn.uniform(count) < objective.condition_dropout)[:, None]
        ids = torch.where(dropped, null_ids.to(turn.device), turn.batch.ids.to(turn.device))
        mask = torch.where(dropped, null_mask.to(turn.device), turn.batch.mask.to(turn.device))
        t, weights = times.draw(count, turn.generator, turn.device)
        x = process.add_noise(x0, turn.normal(x0), t)
        groups = by_length(mask.sum(dim=1), turn.device)
        found = [prior(x[rows], t[rows], condition(towers, ids[rows], mask[rows])) for rows in groups]
        losses = torch.empty_like(t, dtype=torch.float32)
        losses[torch.cat(groups)] = error_of(objective, torch.cat(found), x0[torch.cat(groups)])
        times.learn(t, losses)
        return Losses((weights * losses).mean(), {objective.loss: losses.mean()})

    def measure(_: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        batch = held_out.batch(range(min(MEASURED, len(held_out))), generator(shop.config.seed, "held out"))
        true = towers.see(batch.pixels.to(shop.device))
        ids, mask = (value.to(shop.device) for value in shop.ids(batch.captions))
        found = draw_embeddings(prior, condition(towers, ids, mask), process)
        right = batch.concepts[:, None] == batch.concepts[None, :]
        return {
            "cosine": float(torch.cosine_similarity(found, true, dim=1).mean()),
            "top5": retrieval_accuracy(found, true, right.to(shop.device), 5),
        }

    player = Player("prior", prior, denoise, stage.optimiser, compiled=(prior,))
    return Task((player,), source, extra=times, settle=times.settle, measure=measure)


def condition(towers: Towers, ids: Tensor, mask: Tensor) -> PriorCondition:
    """What the prior is told about texts (B, L); the frozen text tower takes no gradient."""
    ids, mask = trimmed(ids, mask)
    with torch.no_grad():
        features = towers.read(ids)
    return PriorCondition(features.hidden, features.embedding, mask)


@torch.no_grad()
def measure_statistics(prior: Prior, source: Source, encoders: Encoders, seed: int) -> None:
    """Sets the prior's mean and deviation of image embeddings from up to 4,096 training examples."""
    rows = torch.randperm(len(source), generator=generator(seed, "statistics"))[:STATISTICS].tolist()
    found = []
    for first in range(0, len(rows), 256):
        batch = source.batch(rows[first : first + 256], generator(seed, "statistics", first))
        found.append(encoders.of(batch)["embeddings"].cpu())
    embeddings = torch.cat(found)
    prior.clip_mean.copy_(embeddings.mean(dim=0, keepdim=True))
    # One example, or a dead dimension, has no deviation to divide by.
    deviation = embeddings.std(dim=0, keepdim=True, correction=0)
    prior.clip_std.copy_(torch.where(deviation < 1e-6, torch.ones_like(deviation), deviation))


@torch.no_grad()
def draw_embeddings(prior: Prior, told: PriorCondition, process: Process) -> Tensor:
    """Image embeddings (B, P) drawn in a few unguided steps; row i from seed i."""
    count = len(told.text_mask)
    device = told.text_hidden.device

    def network(x: Tensor, t: float) -> Tensor:
        output: Tensor = prior(x, torch.full((len(x),), t, device=device), told)
        return output

    rng = PerPictureRng.from_seeds(range(count))
    x = rng.normal((count, prior.config.embedding_dim)).to(device)
    denoiser = make_denoiser(network, process, read_x0)
    *_, last = sample(make_sampler("ddim", process), denoiser, x, linspaced(STEPS, process.T), rng)
    return prior.denormalise(last.x)
