"""Training the decoder: the U-Net that draws latents under an image embedding."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.core.rng import PerPictureRng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import PARAMETRIZATIONS
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import leading
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from kandinsky.training.config import DecoderObjective, Stage
from kandinsky.training.events import Event
from kandinsky.training.objectives.denoising import (
    Posterior,
    clean_of,
    error_of,
    min_snr_weights,
    target_of,
    variance_bound,
    with_offset,
)
from kandinsky.training.objectives.times import TIME_SAMPLERS
from kandinsky.training.seeds import generator
from kandinsky.training.sheets import grid
from kandinsky.training.stages.encoding import Encoders, encoded_source
from kandinsky.training.stages.sources import Captioned
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Losses, Player, Sheet, Task, Turn

SHOWN = 8
MEASURED = 128
STEPS = 25
GUIDANCE = 3.0
READING = {"eps": "epsilon", "x0": "sample", "v": "velocity"}


def decoder_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """The decoder against its noise and, with variance channels, the bound that trains them.

    L_hybrid of Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 16). A share of the rows sees the embedding of
    an empty picture, as inference's unconditional half does.
    """
    objective: DecoderObjective = stage.objective
    movq = shop.frozen_movq(stage)
    encoders = Encoders(shop.frozen_towers(stage), movq, shop.device)
    learned, held_out = shop.split(stage)
    source = yield from encoded_source(shop, stage, learned, encoders)
    unet = shop.new_decoder()
    shop.start(stage, "decoder", unet)
    _check_sizes(unet, movq.module, stage.size or shop.config.data.size)
    process = Process.linear(0.00085, 0.012)
    posterior = Posterior.of(process, shop.device)
    times = TIME_SAMPLERS[objective.times](process.T)
    with torch.no_grad():
        empty = encoders.towers.module.see_nothing()

    def denoise(turn: Turn) -> Losses:
        found = encoders.of(turn.batch)
        count = len(found["embeddings"])
        dropped = turn.uniform(count) < objective.condition_dropout
        told = torch.where(dropped[:, None], empty, found["embeddings"])
        t, weights = times.draw(count, turn.generator, turn.device)
        x0 = found["latents"]
        losses = denoising_losses(
            unet, x0, UNet2Condition(told), t, noise_of(turn, x0, objective), objective, process, posterior
        )
        total = sum(losses.values(), torch.zeros(count, device=turn.device))
        if torch.is_grad_enabled():
            times.learn(t, total)
        return Losses((weights * total).mean(), {name: value.mean() for name, value in losses.items()})

    shown = held_out or learned

    def sheet(_: torch.Generator) -> Sheet:
        x = shown.plain(range(min(SHOWN, len(shown)))).to(shop.device)
        found = encoders.encode(x)
        drawn = draw_latents(unet, found["latents"].shape, found["embeddings"], empty, process, objective)
        rows = [x, movq.module.decode(found["latents"]), movq.module.decode(drawn)]
        return grid(torch.cat([row.float() for row in rows]), len(x))

    def measure(draws: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        batch = held_out.batch(range(min(MEASURED, len(held_out))), generator(shop.config.seed, "held out"))
        ids, mask = shop.ids(batch.captions)
        turn = Turn(Captioned(ids, mask, pixels=batch.pixels), 0, shop.device, draws, {})
        return {name: float(value) for name, value in denoise(turn).parts.items()}

    player = Player("decoder", unet, denoise, stage.optimiser, compiled=(unet,))
    return Task((player,), source, extra=times, settle=times.settle, sheet=sheet, measure=measure)


def noise_of(turn: Turn, x0: Tensor, objective: DecoderObjective) -> Tensor:
    """The noise to add to latents (B, C, h, w)."""
    noise = turn.normal(x0)
    if not objective.offset_noise:
        return noise
    return with_offset(noise, turn.normal(x0[:, :, :1, :1]), objective.offset_noise)


def denoising_losses(
    network: nn.Module,
    x0: Tensor,
    condition: Any,
    t: Tensor,
    noise: Tensor,
    objective: DecoderObjective,
    process: Process,
    posterior: Posterior,
    counted: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of each row, (B,), weighted as the objective says: of what `network(x, t, condition)` says.

    `x0` are clean latents and `noise` what is added, both (B, C, h, w); `t` are times (B,); `counted`
    (B, 1, h, w), of mean 1, weighs the places of pictures.
    """
    x = process.add_noise(x0, noise, t)
    output = network(x, t, condition).float()
    said, raw = output[:, : x0.shape[1]], output[:, x0.shape[1] :]
    error = error_of(objective, said, target_of(objective.target, process, x0, noise, t), counted)
    if objective.min_snr is not None:
        error = error * min_snr_weights(objective.target, posterior, t, objective.min_snr)
    if not raw.shape[1] or not objective.vlb:
        return {objective.loss: error}
    predicted = clean_of(objective.target, posterior, said, x, t)
    bound = variance_bound(posterior, x0, x, t, predicted, raw, counted)
    # The bound has T terms; the published weight of 1/1000 makes it the size of the other loss.
    return {objective.loss: error, "vlb": objective.vlb * process.T / 1000 * bound}


@torch.no_grad()
def draw_latents(
    unet: UNet2,
    shape: tuple[int, ...],
    embeddings: Tensor,
    empty: Tensor,
    process: Process,
    objective: DecoderObjective,
) -> Tensor:
    """Latents (B, 4, h, w) drawn under image embeddings (B, P) with guidance; row i from seed i."""
    told = UNet2Condition(torch.cat([empty.expand_as(embeddings), embeddings]).float())

    def network(x: Tensor, t: float) -> Tensor:
        output: Tensor = unet(x, torch.full((len(x),), t, device=x.device), told)
        return output

    rng = PerPictureRng.from_seeds(range(shape[0]))
    x = rng.normal(tuple(shape)).to(embeddings.device)
    denoiser = make_denoiser(network, process, PARAMETRIZATIONS[READING[objective.target]], GUIDANCE)
    *_, last = sample(make_sampler("ddim", process), denoiser, x, leading(STEPS, process.T, 1), rng)
    return last.x


def _check_sizes(unet: UNet2, movq: MoVQ, size: int) -> None:
    step = movq.config.downscale * unet.config.multiple
    if size % step:
        raise ConfigError(
            f"Pictures of {size} pixels do not fit these networks.", f"Choose a multiple of {step} pixels."
        )
