"""Training a new decoder: the U-Net that draws latents under an image embedding."""

from collections.abc import Generator

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.maps.scheduler import LATENT_BETAS
from kandinsky.conditioning.captions import image_condition
from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import PARAMETRIZATIONS
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import leading
from kandinsky.training.config import DecoderFromScratch, Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.cached_encodings import ImageSource
from kandinsky.training.data.images import Augmentation
from kandinsky.training.diffusion_losses import decoder_loss
from kandinsky.training.events import Event
from kandinsky.training.examples import Examples, Plain, examples_of
from kandinsky.training.image_grid import ImageGrid, grid
from kandinsky.training.objectives.denoising import KINDS
from kandinsky.training.objectives.times import TIME_SAMPLERS
from kandinsky.training.scratch.encoders import FrozenEncoders, frozen_clip, frozen_movq
from kandinsky.training.seeds import generator
from kandinsky.training.task import StepContext, Task, Trainable

SHOWN = 8
MEASURED = 128
STEPS = 25
GUIDANCE = 3.0


def decoder_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples]]:
    """The decoder against its noise and, with variance channels, the bound that trains them."""
    objective = stage.objective_as(DecoderFromScratch)
    frozen = frozen_movq(ctx, stage)
    movq = frozen.module
    multiple = movq.config.downscale * ctx.networks.unet.config.multiple
    encoders = FrozenEncoders(frozen_clip(ctx, stage), frozen, ctx.device, multiple)
    learned, held_out = ctx.data.split(ctx.data.size(stage))
    encoders.check_size(*learned.shape)
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
        both = torch.cat([empty.expand_as(found["embeddings"]), found["embeddings"]])
        kind = next(name for name, kind in KINDS.items() if kind == objective.target)
        drawn = draw_latents(unet, found["latents"].shape, image_condition(both), process, kind)
        rows = [x, movq.decode(found["latents"]), movq.decode(drawn)]
        return grid(torch.cat([row.float() for row in rows]), len(x))

    def measure(draws: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        rows = range(min(MEASURED, len(held_out)))
        batch = Plain(ImageSource(held_out, Augmentation())).batch(rows, generator(ctx.seed, "held out"))
        losses = loss(StepContext(batch, 0, ctx.device, draws, {}))
        return {name: float(value) for name, value in losses.parts.items()}

    trainable = Trainable("decoder", unet, loss, stage.optimiser, compiled=(unet,))
    return Task((trainable,), source, extra=times, sync=times.sync, grid=samples, measure=measure)


@torch.no_grad()
def draw_latents(
    unet: nn.Module, shape: tuple[int, ...], condition: object, process: Process, prediction: str
) -> Tensor:
    """Latents (B, 4, h, w) drawn with guidance, of B empty conditions and B others; row i from seed i."""

    def network(x: Tensor, t: float) -> Tensor:
        output: Tensor = unet(x, torch.full((len(x),), t, device=x.device), condition)
        return output

    rng = PerImageRng.from_seeds(range(shape[0]))
    x = rng.normal(tuple(shape)).to(next(unet.parameters()).device)
    denoiser = make_denoiser(network, process, PARAMETRIZATIONS[prediction], GUIDANCE)
    *_, last = sample(make_sampler("ddim", process), denoiser, x, leading(STEPS, process.T, 1), rng)
    return last.x
