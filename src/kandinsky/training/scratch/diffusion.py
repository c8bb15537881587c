"""Training a new diffusion prior, and a new decoder that draws latents under an image embedding."""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.maps.scheduler import LATENT_BETAS
from kandinsky.conditioning.captions import image_condition
from kandinsky.conditioning.conditions import PriorNetwork
from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import PARAMETRIZATIONS
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import leading, linspaced
from kandinsky.training.config.objectives import DecoderFromScratch, PriorFromScratch
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.caption import equal
from kandinsky.training.data.images import Augmentation
from kandinsky.training.dataset import learns_from
from kandinsky.training.diffusion_losses import decoder_loss, prior_loss
from kandinsky.training.events import Event
from kandinsky.training.examples import Examples, ExampleSource, check_sizes, examples_of, plain
from kandinsky.training.image_grid import ImageGrid, grid
from kandinsky.training.objectives.contrastive import retrieval_accuracy
from kandinsky.training.objectives.denoising import KINDS
from kandinsky.training.objectives.times import TIME_SAMPLERS
from kandinsky.training.scratch.clip_model import by_length
from kandinsky.training.scratch.encoders import CaptionTokens, FrozenEncoders, frozen_clip, frozen_movq
from kandinsky.training.seeds import generator
from kandinsky.training.task import StepContext, Task, Trainable

SHOWN = 8
STATISTICS = 4096
PRIOR_MEASURED, PRIOR_STEPS = 256, 10
DECODER_MEASURED, DECODER_STEPS, GUIDANCE = 128, 25, 3.0


def prior_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples]]:
    """The prior against the mean squared error of clean, normalised image embeddings."""
    objective = stage.objective_as(PriorFromScratch)
    encoders, tokens = FrozenEncoders(frozen_clip(ctx, stage), None, ctx.device), CaptionTokens(ctx)
    learned, held_out = ctx.data.split(ctx.data.size(stage))
    yield learns_from(stage.name, [learned], [held_out] if held_out else [], [tokens.reader])
    source = yield from examples_of(ctx, stage, encoders, learned)
    prior = ctx.networks.prior()
    ctx.run.start(stage, "prior", prior)
    # Last: the weights that a stage begins with hold the statistics of the embeddings that they were learned on.
    measure_statistics(prior, source, encoders, ctx.seed)
    process = Process.squared_cosine()
    times = TIME_SAMPLERS[objective.times](process.T)

    def predict(x: Tensor, t: Tensor, captions: Sequence[str]) -> Tensor:
        """The prior's output, short texts apart from long ones where that is faster."""
        ids, mask = (value.to(ctx.device) for value in tokens(captions))
        groups = by_length(mask.sum(dim=1), ctx.device)
        found = [prior(x[rows], t[rows], encoders.prior_condition(ids[rows], mask[rows])) for rows in groups]
        return torch.cat(found)[torch.cat(groups).argsort()]

    def measure(_: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        batch = held_out.batch(range(min(PRIOR_MEASURED, len(held_out))), generator(ctx.seed, "held out"))
        true = encoders.clip.module.see(batch.pixels.to(ctx.device))
        ids, mask = (value.to(ctx.device) for value in tokens(batch.captions))
        drawn = draw(prior, true.shape, encoders.prior_condition(ids, mask), process, "sample", PRIOR_STEPS)
        found = prior.denormalise(drawn)
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


def decoder_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples]]:
    """The decoder against its noise and, with variance channels, the bound that trains them."""
    objective = stage.objective_as(DecoderFromScratch)
    frozen = frozen_movq(ctx, stage)
    movq = frozen.module
    multiple = movq.config.downscale * ctx.networks.unet.config.multiple
    encoders = FrozenEncoders(frozen_clip(ctx, stage), frozen, ctx.device, multiple)
    learned, held_out = ctx.data.split(ctx.data.size(stage), optional=True)
    yield learns_from(stage.name, [learned], [held_out] if held_out else [])
    check_sizes(encoders, [learned])
    source = yield from examples_of(ctx, stage, encoders, learned)
    unet = ctx.networks.decoder()
    ctx.run.start(stage, "decoder", unet)
    process = Process.linear(*LATENT_BETAS)
    times = TIME_SAMPLERS[objective.times](process.T)
    with torch.no_grad():
        empty = encoders.clip.module.see_nothing()

    def condition(batch: Examples, encoded: dict[str, Tensor], dropped: Tensor) -> object:
        return image_condition(torch.where(dropped[:, None], empty, encoded["embeddings"]))

    loss = decoder_loss(encoders, unet, condition, process, objective, times)
    shown = held_out or learned

    def samples(_: torch.Generator) -> ImageGrid:
        x = shown.plain(range(min(SHOWN, len(shown)))).to(ctx.device)
        found = encoders.encode(x)
        latents, embeddings = found["latents"], found["embeddings"]
        both = image_condition(torch.cat([empty.expand_as(embeddings), embeddings]))
        kind = next(name for name, kind in KINDS.items() if kind == objective.target)
        drawn = draw(unet, latents.shape, both, process, kind, DECODER_STEPS, GUIDANCE)
        rows = [x, movq.decode(latents), movq.decode(drawn)]
        return grid(torch.cat([row.float() for row in rows]), len(x))

    def measure(draws: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        rows = range(min(DECODER_MEASURED, len(held_out)))
        batch = plain(held_out, Augmentation()).batch(rows, generator(ctx.seed, "held out"))
        losses = loss(StepContext(batch, 0, ctx.device, draws, {}))
        return {name: float(value) for name, value in losses.parts.items()}

    trainable = Trainable("decoder", unet, loss, stage.optimiser, compiled=(unet,))
    return Task((trainable,), source, extra=times, sync=times.sync, grid=samples, measure=measure)


@torch.no_grad()
def draw(
    network: nn.Module,
    shape: Sequence[int],
    condition: object,
    process: Process,
    prediction: str,
    steps: int,
    guidance_scale: float | None = None,
) -> Tensor:
    """What a network draws by DDIM, of a shape (B, ...), row i from seed i.

    With guidance the condition has B empty rows before the B others.
    """
    rng = PerImageRng.from_seeds(range(shape[0]))
    x = rng.normal(tuple(shape)).to(next(network.parameters()).device)

    def predict(x: Tensor, t: float) -> Tensor:
        output: Tensor = network(x, torch.full((len(x),), t, device=x.device), condition)
        return output

    denoiser = make_denoiser(predict, process, PARAMETRIZATIONS[prediction], guidance_scale)
    times = linspaced(steps, process.T) if guidance_scale is None else leading(steps, process.T, 1)
    *_, last = sample(make_sampler("ddim", process), denoiser, x, times, rng)
    return last.x
