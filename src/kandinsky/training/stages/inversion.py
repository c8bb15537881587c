"""Textual inversion: a new word learns what a few pictures show (Gal et al. 2022, arXiv 2208.01618)."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.adapters.tokens import rows_of
from kandinsky.core.errors import ConfigError, RequestError
from kandinsky.core.rng import Noise
from kandinsky.diffusion.process import Process
from kandinsky.engine.text_encoders import learn_word
from kandinsky.training.config import DecoderObjective, Stage, TextualInversionObjective
from kandinsky.training.data.captions import Templates
from kandinsky.training.events import Event
from kandinsky.training.objectives.denoising import Posterior, squared_error
from kandinsky.training.objectives.times import TIME_SAMPLERS, TimeSampler, settled
from kandinsky.training.stages.base import KINDS, Base
from kandinsky.training.stages.decoder import denoising_losses
from kandinsky.training.stages.examples import Examples, lesson_of
from kandinsky.training.stages.showing import draw_sheet
from kandinsky.training.stages.tuning import Loss, held_out_losses, weighted
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Losses, Player, Sheet, Task, Turn

PLAYER = "words"
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
"""What is said of the pictures when nobody says otherwise, by what the word stands for."""


class LearnedWord(nn.Module):
    """The rows (n, W) of one word for each text encoder, by what files call it; all that learns."""

    def __init__(self, rows: dict[str, Tensor]) -> None:
        super().__init__()
        self.rows = nn.ParameterDict(rows)


class TurnNoise:
    """The draws of one turn, for code that draws from `Noise`."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self.turn.normal(torch.empty(shape, device=self.turn.device))


def new_word(base: Base, objective: TextualInversionObjective) -> LearnedWord:
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


def inversion_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """A new word on pictures without captions; no weight of the checkpoint changes."""
    objective: TextualInversionObjective = stage.objective
    base = shop.base(stage)
    word = new_word(base, objective)
    sentences = objective.templates or SENTENCES[objective.property]
    grammar = Templates(tuple(sentence.replace("{}", objective.token) for sentence in sentences))
    lesson = yield from lesson_of(shop, stage, base, grammar)
    times = nn.ModuleDict()
    route = sampled_loss if objective.route == "sampled" else direct_loss
    loss = route(base, objective, times)

    def sheet(_: torch.Generator) -> Sheet:
        wanted = tuple(sentence.replace("{}", objective.token) for sentence in objective.shown)
        said = wanted or grammar.sentences[:4]
        return draw_sheet(base, said, lesson.shown.shape, objective.shown_steps)

    used = {"decoder": base.reads or objective.route == "sampled", "prior": base.prior is not None}
    networks = tuple(base.network(target) for target, wanted in used.items() if wanted)
    player = Player(PLAYER, word, loss, stage.optimiser, compiled=networks)
    settle = partial(settled, times.values())
    measure = partial(held_out_losses, shop, lesson, (player,))
    return Task((player,), lesson.source, times, settle, lesson.order, sheet, measure)


@dataclass(frozen=True, eq=False)
class Decoder:
    """The checkpoint's decoder and the settings it was made with, for its plain squared error."""

    base: Base
    process: Process
    posterior: Posterior
    objective: DecoderObjective

    @classmethod
    def of(cls, base: Base) -> "Decoder":
        """That of a checkpoint."""
        schedule = base.model.schedule_of("ddpm")
        objective = DecoderObjective(vlb=0.0).model_copy(update={"target": KINDS[schedule.prediction_type]})
        return cls(base, schedule.process, Posterior.of(schedule.process, base.device), objective)

    def errors(
        self, captions: Sequence[str], embeddings: Tensor | None, latents: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Errors (B,) on latents (B, C, h, w) with `noise` of their shape at times t (B,)."""
        told = self.base.tell_decoder(captions, embeddings, torch.zeros(len(t), dtype=torch.bool))
        if self.base.repaints:
            told = replace(told, extra=self.base.tell_region(None, latents, None))
        network = self.base.network("decoder")
        return denoising_losses(
            network, latents, told, t, noise, self.objective, self.process, self.posterior
        )["mse"]


def direct_loss(base: Base, objective: TextualInversionObjective, times: nn.ModuleDict) -> Loss:
    """The prior's error about the pictures' embeddings, and that of a decoder that reads texts, given them.

    Nothing is drawn from the prior, so a step costs what one step of each network's own training does.
    """
    decoder = Decoder.of(base) if base.reads else None
    if decoder is not None:
        times["decoder"] = TIME_SAMPLERS[objective.times](decoder.process.T)
    if base.prior is not None:
        times["prior"] = TIME_SAMPLERS[objective.times](base.prior.schedule.process.T)

    def of_the_prior(captions: Sequence[str], embeddings: Tensor, t: Tensor, turn: Turn) -> Tensor:
        stage = base.need_prior()
        x0 = stage.network.normalise(embeddings)
        x = stage.schedule.process.add_noise(x0, turn.normal(x0), t)
        return squared_error(stage.network(x, t, base.tell_prior(captions)), x0)

    def loss(turn: Turn) -> Losses:
        batch: Examples = turn.batch
        found = batch.encoded(base)
        count = len(batch.captions)
        total, parts = torch.zeros(count, device=turn.device), {}
        for name, module in times.items():
            sampler = cast(TimeSampler, module)
            t, weights = sampler.draw(count, turn.generator, turn.device)
            if decoder is not None and name == "decoder":
                x0 = found["latents"]
                errors = decoder.errors(batch.captions, found.get("embeddings"), x0, t, turn.normal(x0))
            else:
                errors = of_the_prior(batch.captions, found["embeddings"], t, turn)
            if torch.is_grad_enabled():
                sampler.learn(t, errors)
            parts[name] = errors
            total = total + weights * errors
        return weighted(total, parts, batch.weights.to(turn.device))

    return loss


def sampled_loss(base: Base, objective: TextualInversionObjective, times: nn.ModuleDict) -> Loss:
    """The decoder's error under the embedding that the prior draws for the caption, gradient through both."""
    if base.model.hints:
        raise ConfigError(
            f"{base.pipe.model_id} follows hint pictures, and here there are none.", 'Set route = "direct".'
        )
    decoder = Decoder.of(base)
    sampler = TIME_SAMPLERS[objective.times](decoder.process.T)
    times["decoder"] = sampler

    def loss(turn: Turn) -> Losses:
        batch: Examples = turn.batch
        latents = batch.encoded(base)["latents"]
        t, weights = sampler.draw(len(latents), turn.generator, turn.device)
        noise = turn.normal(latents)
        embeddings = None
        if base.prior is not None:
            embeddings = draw_embeddings(base, batch.captions, objective, TurnNoise(turn))
        errors = decoder.errors(batch.captions, embeddings, latents, t, noise)
        if torch.is_grad_enabled():
            sampler.learn(t, errors)
        return weighted(weights * errors, {"mse": errors}, batch.weights.to(turn.device))

    return loss


def draw_embeddings(
    base: Base, captions: Sequence[str], objective: TextualInversionObjective, rng: Noise
) -> Tensor:
    """Image embeddings (B, D) that the prior draws for captions, with a gradient through every step."""
    stage = base.need_prior()
    guided = objective.prior_guidance_scale > 1
    said = [""] * (len(captions) if guided else 0) + list(captions)
    times = stage.schedule.times(objective.prior_steps)
    prepared = stage.network.prepare(base.tell_prior(said), times)
    noise = rng.normal((len(captions), stage.network.config.embedding_dim))
    scale = objective.prior_guidance_scale if guided else None
    *_, last = stage.denoise(prepared, noise, times, rng, scale, gradients=True)
    drawn: Tensor = stage.network.denormalise(last.x.to(stage.dtype))
    return drawn
