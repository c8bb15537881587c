"""Textual inversion: a new word learns what a few images show (Gal et al. 2022, arXiv 2208.01618)."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.adapters.tokens import rows_of
from kandinsky.core.errors import ConfigError, RequestError
from kandinsky.core.rng import Noise
from kandinsky.engine.text_encoders import learn_word
from kandinsky.training.config.objectives import DecoderObjective, TextualInversionObjective
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.caption import Templates
from kandinsky.training.diffusion_losses import DenoisingLosses, Loss, at_times, weighted
from kandinsky.training.events import Event
from kandinsky.training.examples import Examples, training_data
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, open_base
from kandinsky.training.finetune.sample_grids import draw_grid
from kandinsky.training.finetune.tuning import HeldOut
from kandinsky.training.image_grid import ImageGrid
from kandinsky.training.objectives.denoising import KINDS, squared_error
from kandinsky.training.objectives.times import TIME_SAMPLERS, TimeSampler, sync_across_ranks
from kandinsky.training.task import Losses, StepContext, Task, Trainable

TRAINABLE = "words"
"""The name of what learns, in checkpoints."""
SENTENCES = {
    "object": (
        "{}",
        "a {}",
        "one {}",
        "this {}",
        "a picture of a {}",
        "a photo of a {}",
        "a drawing of a {}",
        "a small {}",
        "a big {}",
        "a {} on a table",
        "a close view of a {}",
        "a {} in the middle",
    ),
    "style": (
        "{}",
        "in the style of {}",
        "a picture in the style of {}",
        "a drawing in the style of {}",
        "a painting, {}",
        "everything, {}",
    ),
}
"""The captions unless others are given, by what the word stands for."""


class LearnedWord(nn.Module):
    """The rows (n, W) of one word for each text encoder, by what files call it; all that learns."""

    def __init__(self, rows: dict[str, Tensor]) -> None:
        super().__init__()
        self.rows = nn.ParameterDict(rows)


class StepNoise:
    """The draws of one step, for code that draws from `Noise`."""

    def __init__(self, context: StepContext[Examples]) -> None:
        self.context = context

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self.context.normal(torch.empty(shape, device=self.context.device))


def new_word(base: BaseCheckpoint, objective: TextualInversionObjective) -> LearnedWord:
    """Teaches the checkpoint's text encoders a word whose rows will learn; they begin as `init_from`'s.

    Raises ConfigError for a word that is known, and for an `init_from` that is neither one token nor as many
    as there are vectors.
    """
    rows = {}
    for name, encoder in base.encoders.items():
        try:
            encoder.tokenizer.check_new(objective.token)
        except RequestError as error:
            raise ConfigError(f"objective.token: {error.message}", error.hint) from error
        ids = encoder.tokenizer.word_ids(objective.init_from)
        if len(ids) == 1:
            ids = ids * objective.vectors
        if len(ids) != objective.vectors:
            pieces = ", ".join(repr(encoder.tokenizer.backend.id_to_token(number)) for number in ids)
            raise ConfigError(
                f"objective.init_from: {objective.init_from!r} is {len(ids)} tokens ({pieces or 'none'}) for "
                f"{name}, not {objective.vectors}.",
                f"Choose a word of one token, or set vectors = {len(ids)}." if ids else "Choose a word.",
            )
        rows[name] = rows_of(encoder.network, ids)
    word = LearnedWord(rows)
    learn_word(base.encoders, objective.token, dict(word.rows.items()))
    return word


def inversion_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples]]:
    """A new word on images without captions; no weight of the checkpoint changes."""
    objective = stage.objective_as(TextualInversionObjective)
    base = open_base(ctx, stage)
    word = new_word(base, objective)

    def sentences(templates: Sequence[str]) -> tuple[str, ...]:
        return tuple(template.replace("{}", objective.token) for template in templates)

    templates = Templates(sentences(objective.templates or SENTENCES[objective.property]))
    data = yield from training_data(
        ctx, stage, base, ctx.data.size(stage, base.size), templates, readers=base.all_readers
    )
    times = nn.ModuleDict()
    sampled = objective.route == "sampled"
    loss = (sampled_loss if sampled else direct_loss)(base, objective, times)

    def grid(_: torch.Generator) -> ImageGrid:
        captions = sentences(objective.shown) or templates.sentences[:4]
        return draw_grid(base, captions, data.shown.shape, objective.shown_steps)

    used = {"decoder": base.reads or sampled, "prior": base.prior is not None}
    networks = tuple(base.network(target) for target, wanted in used.items() if wanted)
    trainable = Trainable(TRAINABLE, word, loss, stage.optimiser, compiled=networks)
    sync = partial(sync_across_ranks, times.values())
    measure = HeldOut(ctx, data.held_out, (trainable,)).losses
    return Task((trainable,), data.source, times, sync, data.order, grid, measure)


@dataclass(frozen=True, eq=False)
class DecoderErrors:
    """The plain squared error of a checkpoint's decoder."""

    base: BaseCheckpoint
    losses: DenoisingLosses

    @classmethod
    def of(cls, base: BaseCheckpoint) -> "DecoderErrors":
        schedule = base.model.schedule_of("ddpm")
        objective = DecoderObjective(vlb=0.0).model_copy(update={"target": KINDS[schedule.prediction_type]})
        return cls(base, DenoisingLosses.of(schedule.process, objective, base.device))

    def errors(
        self, captions: Sequence[str], embeddings: Tensor | None, latents: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Errors (B,) on latents (B, C, h, w) with `noise` of their shape at times t (B,)."""
        cond = self.base.decoder_condition(captions, embeddings, torch.zeros(len(t), dtype=torch.bool))
        if self.base.inpaints:
            cond = replace(cond, extra=self.base.region_condition(None, latents, None))
        network = self.base.network("decoder")
        return self.losses.rows(lambda x, t: network(x, t, cond), latents, t, noise)["mse"]


def direct_loss(base: BaseCheckpoint, objective: TextualInversionObjective, times: nn.ModuleDict) -> Loss:
    """The prior's error about the images' embeddings, and that of a decoder that reads texts, given them.

    Nothing is drawn from the prior, so a step costs what one step of each network's own training does.
    """
    decoder = DecoderErrors.of(base) if base.reads else None
    if decoder is not None:
        times["decoder"] = TIME_SAMPLERS[objective.times](decoder.losses.process.T)
    if base.prior is not None:
        times["prior"] = TIME_SAMPLERS[objective.times](base.prior.schedule.process.T)

    def loss(context: StepContext[Examples]) -> Losses:
        batch = context.batch
        found = batch.encoded(base)

        def of_decoder(t: Tensor) -> dict[str, Tensor]:
            assert decoder is not None
            x0 = found["latents"]
            return {"decoder": decoder.errors(batch.captions, found.get("embeddings"), x0, t, context.normal(x0))}

        def of_prior(t: Tensor) -> dict[str, Tensor]:
            stage = base.need_prior()
            x0 = stage.network.normalise(found["embeddings"])
            x = stage.schedule.process.add_noise(x0, context.normal(x0), t)
            return {"prior": squared_error(base.predict_prior(x, t, batch.captions), x0)}

        total, parts = torch.zeros(len(batch.captions), device=context.device), dict[str, Tensor]()
        for name, sampler in times.items():
            losses = of_decoder if name == "decoder" else of_prior
            rows, errors = at_times(cast(TimeSampler, sampler), context, losses)
            total, parts = total + rows, parts | errors
        return weighted(total, parts, batch.weights)

    return loss


def sampled_loss(base: BaseCheckpoint, objective: TextualInversionObjective, times: nn.ModuleDict) -> Loss:
    """The decoder's error under the embedding that the prior draws for the caption, gradient through both."""
    if base.model.hints:
        raise ConfigError(
            f"{base.pipe.model_id} follows hint images, and here there are none.", 'Set route = "direct".'
        )
    decoder = DecoderErrors.of(base)
    sampler = TIME_SAMPLERS[objective.times](decoder.losses.process.T)
    times["decoder"] = sampler

    def loss(context: StepContext[Examples]) -> Losses:
        batch = context.batch
        latents = batch.encoded(base)["latents"]

        def at(t: Tensor) -> dict[str, Tensor]:
            noise = context.normal(latents)
            embeddings = None
            if base.prior is not None:
                embeddings = draw_embeddings(base, batch.captions, objective, StepNoise(context))
            return {"mse": decoder.errors(batch.captions, embeddings, latents, t, noise)}

        return weighted(*at_times(sampler, context, at), batch.weights)

    return loss


def draw_embeddings(
    base: BaseCheckpoint, captions: Sequence[str], objective: TextualInversionObjective, rng: Noise
) -> Tensor:
    """Image embeddings (B, D) that the prior draws for captions, with a gradient through every step."""
    stage = base.need_prior()
    guided = objective.prior_guidance_scale > 1
    texts = [""] * (len(captions) if guided else 0) + list(captions)
    times = stage.schedule.times(objective.prior_steps)
    prepared = stage.network.prepare(stage.caption_condition(texts), times)
    noise = rng.normal((len(captions), stage.network.config.embedding_dim))
    scale = objective.prior_guidance_scale if guided else None
    *_, last = stage.denoise(prepared, noise, times, rng, scale, gradients=True)
    return stage.network.denormalise(last.x.to(stage.dtype))
