"""Training the autoencoder."""

from collections.abc import Callable, Generator, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.lpips_weights import load_perceptual
from kandinsky.core.errors import ConfigError
from kandinsky.networks.autoencoder import CodebookAutoencoder, Norm
from kandinsky.training.config.objectives import MovqObjective
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.cached_encodings import ImageSource
from kandinsky.training.data.images import Batch, ImageSet
from kandinsky.training.dataset import augmentation, learns_from
from kandinsky.training.events import Event
from kandinsky.training.image_grid import ImageGrid, grid
from kandinsky.training.objectives.autoencoder import (
    PatchCritic,
    adaptive_weight,
    critic_hinge_loss,
    generator_hinge_loss,
    latent_moments_loss,
    psnr,
    structure_distance,
)
from kandinsky.training.seeds import generator
from kandinsky.training.task import Losses, StepContext, Task, Trainable

SHOWN = 8
STATISTICS = 1024
CHUNK = 64
_DEAD = 1e-6


def movq_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Batch]]:
    """The autoencoder against its reconstruction losses and, when asked for, a critic of patches."""
    objective = stage.objective_as(MovqObjective)
    movq = ctx.networks.movq()
    ctx.run.start(stage, "movq", movq)
    learned, held_out = ctx.data.split(ctx.data.size(stage), optional=True)
    yield learns_from(stage.name, [learned], [held_out] if held_out else [])
    if objective.crop is not None and objective.crop % movq.config.downscale:
        raise ConfigError(
            f"objective.crop is {objective.crop}, no multiple of {movq.config.downscale}.",
            "Choose a multiple of the autoencoder's downscaling.",
        )
    distance = perceptual_distance(objective, ctx.device)
    critic = PatchCritic(objective.discriminator_width) if objective.adversarial else None

    def rebuild(context: StepContext[Batch]) -> Losses:
        x = cropped(context.batch.pixels.to(context.device), objective.crop, context)
        y, hidden = reconstruct(movq, objective, x, context)
        context.shared.update(real=x, fake=y.detach())
        seen = {"l1": (y - x).abs().mean(), "l2": (y - x).square().mean(), "perceptual": distance(y, x).mean()}
        parts = seen | hidden
        images = weighted_sum(seen, objective)
        total = images + weighted_sum(hidden, objective)
        if critic is not None and context.step >= objective.adversarial_from:
            parts["adversarial"] = generator_hinge_loss(critic(y))
            pull = adaptive_weight(images, parts["adversarial"], movq.decoder.conv_out.weight)
            total = total + objective.adversarial * pull * parts["adversarial"]
        return Losses(total, parts)

    source = ImageSource(learned, augmentation(stage))
    finish = unit_latents(source, ctx) if objective.standardise else None
    compiled = (movq.encoder, movq.decoder)
    trainables = [Trainable("movq", movq, rebuild, stage.optimiser, compiled=compiled, finish=finish)]
    if critic is not None:
        trainables.append(_critic(critic, stage, objective))
    shown = held_out or learned

    def samples(_: torch.Generator) -> ImageGrid:
        x = shown.plain(range(min(SHOWN, len(shown)))).to(ctx.device)
        return grid(torch.cat([x, movq.decode(movq.encode(x))]), len(x))

    def measure(_: torch.Generator) -> dict[str, float]:
        return {} if held_out is None else {"psnr": reconstruction_psnr(movq, held_out, ctx.device)}

    return Task(tuple(trainables), source, grid=samples, measure=measure)


def reconstruct(
    movq: CodebookAutoencoder, objective: MovqObjective, x: Tensor, context: StepContext[Batch]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Images (B, 3, H, W) as they come back, in float32, and the losses of their latents by name.

    A share of the rows is decoded from unquantised latents, with noise if the objective wants it.
    """
    z = movq.encode(x).float()
    with torch.autocast(context.device.type, enabled=False):
        # In half precision the nearest code would often be another one.
        quantized = movq.quantize(z)
    noisy = z + objective.latent_noise * context.normal(z) if objective.latent_noise else z
    continuous = context.uniform(len(x)) < objective.continuous
    y = movq.decode(torch.where(continuous[:, None, None, None], noisy, quantized.latents)).float()
    losses = {
        "codebook": quantized.codebook_loss,
        "commitment": quantized.commitment_loss,
        "latent_moments": latent_moments_loss(z),
    }
    return y, losses


def perceptual_distance(objective: MovqObjective, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of image pairs that the objective names, (B, 3, H, W) twice to (B,)."""
    if objective.features == "structure":
        return structure_distance
    network = load_perceptual(
        objective.lpips_trunk, trunk_file=objective.lpips_trunk_file, heads_file=objective.lpips_heads_file
    ).to(device)

    def distance(images: Tensor, targets: Tensor) -> Tensor:
        # The classifier has seen nothing outside the range; the other losses pull such values back.
        value: Tensor = network(images.clamp(-1, 1), targets)
        return value

    return distance


def unit_latents(source: ImageSource, ctx: TrainContext) -> Callable[[nn.Module], None]:
    """Gives an autoencoder latents of mean 0 and deviation 1 over training images, see `standardise`."""

    def finish(movq: nn.Module) -> None:
        autoencoder = cast(CodebookAutoencoder, movq)
        draws = generator(ctx.seed, "latent statistics")
        rows = torch.randperm(len(source), generator=draws)[:STATISTICS].tolist()
        starts = range(0, len(rows), CHUNK)
        batches = (source.batch(rows[first : first + CHUNK], draws).pixels for first in starts)
        normalise_latents(autoencoder, *latent_statistics(autoencoder, (pixels.to(ctx.device) for pixels in batches)))

    return finish


def weighted_sum(parts: dict[str, Tensor], objective: MovqObjective) -> Tensor:
    """The sum of scalar losses, each times the setting of its name."""
    weights = [getattr(objective, {"latent_moments": "latent_weight"}.get(name, name)) for name in parts]
    return torch.stack([weight * value for weight, value in zip(weights, parts.values(), strict=True)]).sum()


def reconstruction_psnr(movq: CodebookAutoencoder, images: ImageSet, device: torch.device) -> float:
    """Mean peak signal-to-noise ratio in dB of images on white, decoded from unquantised latents."""
    values: list[Tensor] = []
    for first in range(0, len(images), 64):
        x = images.plain(range(first, min(first + 64, len(images)))).to(device)
        values.append(psnr(movq.decode(movq.encode(x)), x))
    return float(torch.cat(values).mean())


def _critic(critic: PatchCritic, stage: Stage, objective: MovqObjective) -> Trainable[Batch]:
    def judge(context: StepContext[Batch]) -> Losses:
        real, fake = critic(context.shared["real"]), critic(context.shared["fake"])
        return Losses(critic_hinge_loss(real, fake), {"real": real.mean(), "fake": fake.mean()})

    rate = objective.discriminator_lr or stage.optimiser.lr
    optimiser = stage.optimiser.model_copy(update={"lr": rate})
    return Trainable("critic", critic, judge, optimiser, begins=objective.adversarial_from, ema=False)


def cropped(x: Tensor, crop: int | None, context: StepContext[Batch]) -> Tensor:
    """A random window of `crop` pixels of each image (B, C, S, S); the images when they are no larger."""
    size = x.shape[-1]
    if crop is None or crop >= size:
        return x
    within = torch.arange(crop, device=x.device)
    rows, columns = ((context.uniform(len(x)) * (size - crop + 1)).long()[:, None] + within for _ in ("top", "left"))
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def latent_statistics(movq: CodebookAutoencoder, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C,) of the latents of batches of images (B, 3, H, W) in [-1, 1].

    A channel that never changes has deviation 1, so that it can be divided by.
    """
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for batch in images:
        latents = movq.encode(batch).double()
        count += latents.numel() // latents.shape[1]
        total = total + latents.sum(dim=(0, 2, 3))
        square = square + latents.square().sum(dim=(0, 2, 3))
    mean = total / count
    deviation = (square / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(deviation < _DEAD, torch.ones_like(deviation), deviation).float()


@torch.no_grad()
def normalise_latents(movq: CodebookAutoencoder, mean: Tensor, deviation: Tensor) -> None:
    """Folds z -> (z - mean) / deviation, per channel (C,), into the weights that make and read latents.

    `decode(encode(x))` and what the codebook decodes to stay the same, to rounding: every place that reads
    latents is a 1x1 convolution, which takes the inverse.
    """
    movq.quant_conv.weight.div_(deviation[:, None, None, None])
    _bias(movq.quant_conv).sub_(mean).div_(deviation)
    movq.required_codebook.weight.sub_(mean).div_(deviation)
    readers = [movq.post_quant_conv]
    readers += [m.modulation for m in movq.decoder.modules() if isinstance(m, Norm) and m.modulation is not None]
    for conv in readers:
        _bias(conv).add_(conv.weight[:, :, 0, 0] @ mean)
        conv.weight.mul_(deviation[None, :, None, None])


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
