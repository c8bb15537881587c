"""The losses of a prior and of a decoder, whether the network is new or a checkpoint's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kandinsky.diffusion.process import Process
from kandinsky.training.config.objectives import DecoderObjective, PriorObjective
from kandinsky.training.examples import Encoder, Examples
from kandinsky.training.objectives.denoising import (
    Posterior,
    clean_of,
    error_of,
    min_snr_weights,
    target_of,
    variance_bound,
    with_offset,
)
from kandinsky.training.objectives.distillation import Predict
from kandinsky.training.objectives.times import TimeSampler
from kandinsky.training.task import Losses, StepContext

Loss = Callable[[StepContext[Examples]], Losses]
PredictPrior = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
"""(x, t, captions) to what a prior predicts: clean, normalised embeddings (B, D)."""
DecoderCondition = Callable[[Examples, dict[str, Tensor], Tensor], object]
"""(batch, its encodings, rows (B,) that get the empty condition) to the condition of a decoder."""
LossWeights = Callable[[Examples, Tensor], Tensor | None]
"""(batch, latents) to the weight of each place, (B, 1, h, w) of mean 1, or None."""


class Normaliser(Protocol):
    """A prior, for the statistics of embeddings that it holds."""

    def normalise(self, embedding: Tensor, /) -> Tensor:
        """Embeddings (B, D) to mean 0 and deviation 1."""


def prior_loss(
    encoder: Encoder,
    network: Normaliser,
    predict: PredictPrior,
    process: Process,
    wanted: PriorObjective,
    times: TimeSampler,
) -> Loss:
    """The error of clean, normalised image embeddings (Ramesh et al. 2022, arXiv 2204.06125, eq. 2).

    A share of the rows gets the empty text, as inference's unconditional half does.
    """

    def loss(context: StepContext[Examples]) -> Losses:
        batch = context.batch
        x0 = network.normalise(batch.encoded(encoder)["embeddings"])
        dropped = (context.uniform(len(x0)) < wanted.condition_dropout).tolist()
        texts = ["" if drop else text for text, drop in zip(batch.captions, dropped, strict=True)]

        def at(t: Tensor) -> dict[str, Tensor]:
            x = process.add_noise(x0, context.normal(x0), t)
            return {wanted.loss: error_of(wanted, predict(x, t, texts), x0)}

        return weighted(*at_times(times, context, at), batch.weights)

    return loss


def decoder_loss(
    encoder: Encoder,
    network: nn.Module,
    condition: DecoderCondition,
    process: Process,
    wanted: DecoderObjective,
    times: TimeSampler,
    places: LossWeights = lambda batch, latents: None,
) -> Loss:
    """The error of the noise and, with variance channels, the bound that trains them.

    L_hybrid of Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 16). A share of the rows gets the empty
    condition, as inference's unconditional half does.
    """
    losses = DenoisingLosses.of(process, wanted, encoder.device)

    def loss(context: StepContext[Examples]) -> Losses:
        batch = context.batch
        found = batch.encoded(encoder)
        x0 = found["latents"]
        cond = condition(batch, found, context.uniform(len(x0)) < wanted.condition_dropout)

        def at(t: Tensor) -> dict[str, Tensor]:
            noise = noise_of(context, x0, wanted)
            return losses.rows(lambda x, t: network(x, t, cond), x0, t, noise, places(batch, x0))

        return weighted(*at_times(times, context, at), batch.weights)

    return loss


def at_times(
    times: TimeSampler, context: StepContext[Examples], losses: Callable[[Tensor], dict[str, Tensor]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draws a time for each row; returns the weighted sum of the `losses` at them, (B,), and these by name."""
    count = len(context.batch.captions)
    t, weights = times.draw(count, context.generator, context.device)
    parts = losses(t)
    total = sum(parts.values(), torch.zeros(count, device=context.device))
    if torch.is_grad_enabled():
        times.learn(t, total)
    return weights * total, parts


def noise_of(context: StepContext[Examples], x0: Tensor, wanted: DecoderObjective) -> Tensor:
    """The noise to add to latents (B, C, h, w)."""
    noise = context.normal(x0)
    if not wanted.offset_noise:
        return noise
    return with_offset(noise, context.normal(x0[:, :, :1, :1]), wanted.offset_noise)


@dataclass(frozen=True, eq=False)
class DenoisingLosses:
    """The losses of a decoder, as an objective weighs them, for a process."""

    process: Process
    posterior: Posterior
    wanted: DecoderObjective

    @classmethod
    def of(cls, process: Process, wanted: DecoderObjective, device: torch.device) -> "DenoisingLosses":
        return cls(process, Posterior.of(process, device), wanted)

    def rows(
        self, predict: Predict, x0: Tensor, t: Tensor, noise: Tensor, counted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of each row, (B,), of clean latents `x0` with `noise`, both (B, C, h, w), at times t (B,).

        `counted` (B, 1, h, w), of mean 1, weighs the places of images.
        """
        process, posterior, wanted = self.process, self.posterior, self.wanted
        x = process.add_noise(x0, noise, t)
        output = predict(x, t).float()
        predicted, raw = output[:, : x0.shape[1]], output[:, x0.shape[1] :]
        error = error_of(wanted, predicted, target_of(wanted.target, process, x0, noise, t), counted)
        if wanted.min_snr is not None:
            error = error * min_snr_weights(wanted.target, posterior, t, wanted.min_snr)
        if not raw.shape[1] or not wanted.vlb:
            return {wanted.loss: error}
        clean = clean_of(wanted.target, posterior, predicted, x, t)
        bound = variance_bound(posterior, x0, x, t, clean, raw, counted)
        # The bound has T terms; the published weight of 1/1000 makes it the size of the other loss.
        return {wanted.loss: error, "vlb": wanted.vlb * process.T / 1000 * bound}


def weighted(total: Tensor, parts: dict[str, Tensor], weights: Tensor) -> Losses:
    """Losses of rows (B,) as one: the sum of their weighted values, divided by the rows of weight one.

    So a batch of instance rows and as many class rows is the mean of the first plus a weight times the mean
    of the others (Ruiz et al. 2022, eq. 2).
    """
    weights = weights.to(total.device)
    count = (weights == 1).sum().clamp(min=1)
    shown = {name: value.detach().mean() for name, value in parts.items()}
    return Losses((weights * total).sum() / count, shown)
