"""Image-embedding conditioning: prompts as image embeddings.

Texts go through the diffusion prior, images through CLIP's vision tower, and a mix is their weighted sum
(Ramesh et al. 2022, arXiv 2204.06125, section 3).
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from typing import cast

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Batch, CaptionConditioner, Conditions, Encoded, TextEncoder
from kandinsky.conditioning.prior_stage import EncodedText, PreparedPrior, PriorStage
from kandinsky.conditioning.tokenizer import too_long
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Encoding, Event, Warned
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding, Mix, Prompt
from kandinsky.core.requests import Request, Row
from kandinsky.diffusion.guidance import is_guided, joint
from kandinsky.networks.unet2 import UNet2Condition

Item = str | Picture | Embedding
Drawn = dict[tuple[int, int | None], Tensor]
"""Drawn embeddings (1, D) by image and by the text's place in its prompt, None for the negative prompt."""


@dataclass(frozen=True, eq=False)
class Draw:
    """One trajectory of the prior: for the images `rows` of a batch, `texts` against `uncond`.

    `place` is the texts' position in their prompts, or None when they are the negative prompts. `guidance` is
    the scale, None also where `uncond` would only say the same again; `inputs` are the texts that the prior
    reads, one a row.
    """

    rows: tuple[int, ...]
    texts: tuple[str, ...]
    uncond: tuple[str, ...]
    place: int | None
    guidance: float | Tensor | None
    inputs: tuple[str, ...]


@dataclass(eq=False)
class Encodings:
    """Caches encoded texts and images, and prepared priors, of one request, whose texts may be `weighted`."""

    stage: PriorStage
    weighted: bool = False
    texts: dict[str, EncodedText] = field(default_factory=dict)
    images: dict[Picture, Tensor] = field(default_factory=dict)
    priors: dict[tuple[str, ...], PreparedPrior] = field(default_factory=dict)

    def text(self, text: str) -> EncodedText:
        """The text, encoded at most once."""
        if text not in self.texts:
            self.texts[text] = (self.stage.encode_weighted if self.weighted else self.stage.encode_text)(text)
        return self.texts[text]

    def image(self, image: Picture) -> Tensor:
        """The image's embedding (1, D), computed at most once."""
        if image not in self.images:
            self.images[image] = self.stage.encode_image(image)
        return self.images[image]

    def prior(self, texts: tuple[str, ...], steps: int) -> PreparedPrior:
        """The prior closed over `texts`."""
        if texts not in self.priors:
            self.priors[texts] = self.stage.prepare([self.text(text) for text in texts], steps)
        return self.priors[texts]


@dataclass(frozen=True, eq=False)
class ImagePromptConditioner(CaptionConditioner):
    """The conditioner of decoders that take an image embedding of `width` numbers only.

    `stage` is None for a decoder loaded without its prior: it then takes embeddings only.
    """

    stage: PriorStage | None
    width: int
    device: torch.device
    dtype: torch.dtype

    @property
    def prior(self) -> PriorStage | None:
        return self.stage

    @property
    def encoders(self) -> Sequence[TextEncoder]:
        """See `CaptionConditioner`: none."""
        return ()

    def caption_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> UNet2Condition:
        if embeddings is None or self.stage is None:
            return UNet2Condition()
        empty = self.stage.zero_embedding.to(embeddings)
        return UNet2Condition(torch.where(dropped[:, None], empty, embeddings))

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: embeddings must fit the decoder; all else needs the prior."""
        if self.stage is not None:
            self.stage.schedule.times(request.prior_steps or 1)
        for prompt in request.prompts:
            if not isinstance(prompt, str):
                self._check_widths(prompt)
            if self.stage is None:
                _check_without_prior(prompt, guided)

    def _check_widths(self, prompt: Prompt) -> None:
        for item, _ in items_of(prompt):
            if isinstance(item, Embedding) and len(item.values) != self.width:
                raise RequestError(
                    f"An embedding of {len(item.values)} numbers does not fit this decoder, which takes {self.width}.",
                    "Use embeddings of the prior that belongs to it.",
                )

    def encode(self, batches: Sequence[Batch], prior_steps: int, guided: bool) -> Encoded:
        """See `Conditioner`: the prompt's embedding, and against it the negative prompt's or no image's."""
        done = Encodings(cast(PriorStage, self.stage), batches[0].rows[0].prompt_weights)
        plans = [draws_of(batch.rows, guided) for batch in batches]
        # Section strings of times may give more or fewer than were asked for.
        steps = 0 if self.stage is None else len(self.stage.schedule.times(prior_steps))
        before, total, conditions = 0, steps * sum(map(len, plans)), []
        for batch, plan, coming in zip(batches, plans, [*plans[1:], []], strict=True):
            drawn: Drawn = {}
            for k, draw in enumerate(plan):
                found = yield from _embeddings(draw, batch, done, prior_steps, before, total)
                drawn |= {(row, draw.place): found[i : i + 1] for i, row in enumerate(draw.rows)}
                before += steps
                # A prepared prior holds keys and values of all its texts: those that come again soon stay.
                soon = {later.inputs for later in [*plan[k + 1 :], *coming]}
                done.priors = {texts: prior for texts, prior in done.priors.items() if texts in soon}
            if any(image not in done.images for image in _images(batch.rows)):
                yield Encoding("image")
            conditions.append(self._assembled(batch.rows, drawn, done, guided))
        return conditions

    def _assembled(self, rows: Sequence[Row], drawn: Drawn, done: Encodings, guided: bool) -> Conditions:
        cond = torch.cat([self._positive(i, row.prompt, drawn, done) for i, row in enumerate(rows)])
        if not guided:
            return Conditions(UNet2Condition(cond), None)
        uncond = torch.cat([self._negative(i, row.prompt, drawn, done) for i, row in enumerate(rows)])
        return Conditions(UNet2Condition(cond), UNet2Condition(uncond))

    def _positive(self, row: int, prompt: Prompt, drawn: Drawn, done: Encodings) -> Tensor:
        """The embedding (1, D) of a prompt: of a mix the weighted sum, whatever the weights add up to."""
        vectors = []
        for place, (item, weight) in enumerate(items_of(prompt)):
            if isinstance(item, Embedding):
                vector = self._tensor(item.values)
            else:
                vector = done.image(item) if isinstance(item, Picture) else drawn[row, place]
            vectors.append(vector * weight if isinstance(prompt, Mix) else vector)
        return reduce(torch.add, vectors).to(self.device, self.dtype)

    def _negative(self, row: int, prompt: Prompt, drawn: Drawn, done: Encodings) -> Tensor:
        """The unconditional embedding (1, D): an embedding's own, the negative prompt's, or that of no image."""
        if (own := _own_negative(prompt)) is not None:
            return self._tensor(own)
        vector = drawn.get((row, None))
        return (done.stage.zero_embedding if vector is None else vector).to(self.device, self.dtype)

    def _tensor(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor([values], dtype=torch.float64).to(self.dtype).to(self.device)


def _embeddings(
    draw: Draw, batch: Batch, done: Encodings, prior_steps: int, before: int, total: int
) -> Generator[Event, None, Tensor]:
    """Draws the image embeddings (B, D) of texts; `before` of `total` steps came before it.

    Negative prompts are drawn from the beginning of each image's own randomness again, so that they never
    shift the draws of the image.
    """
    new = [text for text in dict.fromkeys(draw.texts) if text not in done.texts]
    if new:
        yield Encoding("text")
    for text in new:
        read = done.text(text)
        if read.dropped:
            yield Warned(too_long(read.text, read.dropped, done.stage.network.config.tokens, "prior"), text)
    prepared = done.prior(draw.inputs, prior_steps)
    rng = (batch.rng.fork() if draw.place is None else batch.rng).select(draw.rows)
    run = done.stage.trajectory(prepared, rng, len(draw.rows), prior_steps, draw.guidance)
    with closing(run):
        for step in run:
            yield Denoising("prior", before + step.index + 1, total)
    return done.stage.embedding(step.x)


def items_of(prompt: Prompt) -> list[tuple[Item, float]]:
    """The items of a prompt with their weights; a text or an embedding alone is one item of weight 1."""
    return list(zip(prompt.items, prompt.weights, strict=True)) if isinstance(prompt, Mix) else [(prompt, 1.0)]


def _images(rows: Sequence[Row]) -> list[Picture]:
    return [item for row in rows for item, _ in items_of(row.prompt) if isinstance(item, Picture)]


def draws_of(rows: Sequence[Row], guided: bool) -> list[Draw]:
    """The trajectories of the prior that a batch needs: its texts by their place, then the negatives.

    Each image's texts are drawn in the order of its prompt, whatever its neighbours' prompts are.
    """
    items = [items_of(row.prompt) for row in rows]
    draws = []
    for place in range(max(map(len, items))):
        here = {i: parts[place][0] for i, parts in enumerate(items) if place < len(parts)}
        draws.append(_draw(rows, {i: text for i, text in here.items() if isinstance(text, str)}, place))
    free = {i: row.negative_prompt for i, row in enumerate(rows) if _own_negative(row.prompt) is None}
    draws.append(_draw(rows, {i: text for i, text in free.items() if guided and text}, None))
    return [draw for draw in draws if draw.rows]


def _draw(rows: Sequence[Row], texts: Mapping[int, str], place: int | None) -> Draw:
    """A trajectory for texts, by the row of each."""
    said, uncond = tuple(texts.values()), tuple(_unconditional(rows[i]) for i in texts)
    scale = joint([rows[i].prior_guidance_scale for i in texts]) if texts else None
    if not is_guided(scale) or said == uncond:
        return Draw(tuple(texts), said, uncond, place, None, said)
    return Draw(tuple(texts), said, uncond, place, scale, uncond + said)


def _unconditional(row: Row) -> str:
    """The prior's negative prompt: its own, or else the negative prompt."""
    own = row.prior_negative_prompt
    return row.negative_prompt or "" if own is None else own


def _own_negative(prompt: Prompt) -> tuple[float, ...] | None:
    return prompt.negative if isinstance(prompt, Embedding) else None


def _check_without_prior(prompt: Prompt, guided: bool) -> None:
    for item, _ in items_of(prompt):
        if not isinstance(item, Embedding):
            raise _without_prior(f"so it cannot read {'a text' if isinstance(item, str) else 'an image'}")
    if guided and _own_negative(prompt) is None:
        raise _without_prior("so an embedding needs its negative too to be guided")


def _without_prior(consequence: str) -> RequestError:
    return RequestError(
        f"This decoder was loaded without its prior, {consequence}.",
        "Load it with prior=..., or give an Embedding as the prompt.",
    )
