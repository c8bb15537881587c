"""Prompts as image embeddings, for decoders that listen to nothing else.

Texts go through the diffusion prior, pictures through CLIP's vision tower, and a mix is their weighted sum
(Ramesh et al. 2022, arXiv 2204.06125, section 3).
"""

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.prior_stage import EncodedText, PriorStage
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Encoding, Event, Warned
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding, Mix, Prompt
from kandinsky.core.requests import Request, Row
from kandinsky.diffusion.guidance import is_guided, joint
from kandinsky.networks.prior import PreparedPrior
from kandinsky.networks.unet2 import UNet2Condition

Item = str | Picture | Embedding
Drawn = dict[tuple[int, int | None], Tensor]
"""Drawn embeddings (1, D) by picture and by the text's place in its prompt, None for the negative prompt."""


@dataclass(frozen=True)
class Draw:
    """One trajectory of the prior: for the pictures `rows` of a batch, `texts` against `uncond`.

    `place` is the texts' position in their prompts, or None when they are the negative prompts. `scales` are
    the pictures' guidance scales.
    """

    rows: tuple[int, ...]
    texts: tuple[str, ...]
    uncond: tuple[str, ...]
    place: int | None
    scales: tuple[float, ...]

    @property
    def guidance(self) -> float | Tensor | None:
        """The scale of its guidance; None where the prior is not asked about `uncond`, which would only say
        the same again."""
        scale = joint(self.scales)
        return scale if is_guided(scale) and self.texts != self.uncond else None

    @property
    def told(self) -> tuple[str, ...]:
        """The texts that the prior reads, one a row."""
        return self.texts if self.guidance is None else self.uncond + self.texts


@dataclass(eq=False)
class Memory:
    """What one request has computed already: encoded texts and pictures, and priors prepared for texts.

    Raises RequestError when anything is asked of it and the decoder has no prior.
    """

    maybe_stage: PriorStage | None
    texts: dict[str, EncodedText] = field(default_factory=dict)
    pictures: dict[Picture, Tensor] = field(default_factory=dict)
    priors: dict[tuple[str, ...], PreparedPrior] = field(default_factory=dict)

    @property
    def stage(self) -> PriorStage:
        """The prior."""
        if self.maybe_stage is None:
            raise _without_prior("so it understands embeddings only")
        return self.maybe_stage

    @property
    def zero_embedding(self) -> Tensor:
        """The embedding (1, D) that stands for no picture."""
        return self.stage.zero_embedding

    def text(self, text: str) -> EncodedText:
        """The text, encoded at most once."""
        if text not in self.texts:
            self.texts[text] = self.stage.encode_text(text)
        return self.texts[text]

    def picture(self, picture: Picture) -> Tensor:
        """The picture's embedding (1, D), computed at most once."""
        if picture not in self.pictures:
            self.pictures[picture] = self.stage.encode_picture(picture)
        return self.pictures[picture]

    def prior(self, texts: tuple[str, ...], steps: int) -> PreparedPrior:
        """The prior closed over `texts`."""
        if texts not in self.priors:
            self.priors[texts] = self.stage.prepare([self.text(text) for text in texts], steps)
        return self.priors[texts]

    def keep_priors(self, wanted: Collection[tuple[str, ...]]) -> None:
        """Frees the prepared priors but those of `wanted`: each holds keys and values of all its texts."""
        self.priors = {texts: prior for texts, prior in self.priors.items() if texts in wanted}


@dataclass(frozen=True, eq=False)
class ImagePromptConditioner:
    """The conditioner of decoders that listen to an image embedding of `width` numbers only.

    `stage` is None for a decoder loaded without its prior: it then takes embeddings only.
    """

    stage: PriorStage | None
    width: int
    device: torch.device
    dtype: torch.dtype

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: embeddings must fit the decoder; all else needs the prior."""
        if self.stage is not None:
            self.stage.schedule.times(request.prior_steps or 1)
        for prompt in request.prompts:
            for item, _ in items_of(prompt):
                if isinstance(item, Embedding):
                    self._check_width(item)
                elif self.stage is None:
                    raise _without_prior(
                        f"so it cannot read a {'text' if isinstance(item, str) else 'picture'}"
                    )
            if guided and self.stage is None and _own_negative(prompt) is None:
                raise _without_prior("so an embedding needs its negative beside it to be guided")

    def _check_width(self, embedding: Embedding) -> None:
        if len(embedding.values) != self.width:
            raise RequestError(
                f"An embedding of {len(embedding.values)} numbers does not fit this decoder, which takes "
                f"{self.width}.",
                "Use embeddings of the prior that belongs to it.",
            )

    def encode(
        self, batches: Sequence[Batch], prior_steps: int, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        """See `Conditioner`: the prompt's embedding, and against it the negative prompt's or no picture's."""
        memory = Memory(self.stage)
        plans = [draws_of(batch.rows, guided) for batch in batches]
        # Section strings of times may give more or fewer than were asked for.
        steps = 1 if self.stage is None else len(self.stage.schedule.times(prior_steps))
        total = steps * sum(map(len, plans))
        done, conditions = 0, []
        for batch, plan, coming in zip(batches, plans, [*plans[1:], []], strict=True):
            drawn: Drawn = {}
            for k, draw in enumerate(plan):
                found = yield from self._draw(draw, batch, memory, prior_steps, done, total)
                places = ((row, draw.place) for row in draw.rows)
                drawn |= zip(places, torch.split(found, 1), strict=True)
                done += steps
                # The pictures of one prompt follow each other, so the same texts often come again at once.
                soon = [*plan[k + 1 :], *coming]
                memory.keep_priors({later.told for later in soon})
            if any(picture not in memory.pictures for picture in _pictures(batch.rows)):
                yield Encoding("image")
            conditions.append(self._assembled(batch.rows, drawn, memory, guided))
        return conditions

    def _draw(
        self, draw: Draw, batch: Batch, memory: Memory, steps: int, done: int, total: int
    ) -> Generator[Event, None, Tensor]:
        """Image embeddings (B, D) of the texts of one draw; `done` of `total` steps came before it.

        Negative prompts are drawn from the beginning of each picture's own randomness again, so that they
        never shift the draws of the picture.
        """
        new = [text for text in dict.fromkeys(draw.texts) if text not in memory.texts]
        if new:
            yield Encoding("text")
        for text in new:
            if rest := memory.text(text).dropped:
                kept = text.removesuffix(rest).strip()
                yield Warned(f"The prompt is too long: {rest!r} was not read. Read was {kept!r}.")
        prepared = memory.prior(draw.told, steps)
        rng = (batch.rng.fork() if draw.place is None else batch.rng).select(draw.rows)
        run = memory.stage.sample(prepared, rng, len(draw.rows), steps, draw.guidance)
        with closing(run):
            while True:
                try:
                    count = next(run)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                yield Denoising("prior", done + count, total)

    def _assembled(self, rows: Sequence[Row], drawn: Drawn, memory: Memory, guided: bool) -> Conditions:
        cond = torch.cat([self._positive(i, row.prompt, drawn, memory) for i, row in enumerate(rows)])
        if not guided:
            return Conditions(UNet2Condition(cond), None)
        uncond = torch.cat([self._negative(i, row.prompt, drawn, memory) for i, row in enumerate(rows)])
        return Conditions(UNet2Condition(cond), UNet2Condition(uncond))

    def _positive(self, row: int, prompt: Prompt, drawn: Drawn, memory: Memory) -> Tensor:
        """The embedding (1, D) of a prompt: for a mix the weighted sum, whatever the weights add up to."""
        vectors = []
        for place, (item, weight) in enumerate(items_of(prompt)):
            match item:
                case Embedding():
                    vector = self._tensor(item.values)
                case Picture():
                    vector = memory.picture(item)
                case _:
                    vector = drawn[row, place]
            vectors.append(vector * weight if isinstance(prompt, Mix) else vector)
        total = vectors[0]
        for vector in vectors[1:]:
            total = total + vector
        return total.to(self.device, self.dtype)

    def _negative(self, row: int, prompt: Prompt, drawn: Drawn, memory: Memory) -> Tensor:
        """What to steer away from (1, D): an embedding's own, the negative prompt's, or no picture's."""
        own = _own_negative(prompt)
        if own is not None:
            return self._tensor(own)
        vector = drawn.get((row, None))
        return (memory.zero_embedding if vector is None else vector).to(self.device, self.dtype)

    def _tensor(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor([values], dtype=torch.float64).to(self.dtype).to(self.device)


def items_of(prompt: Prompt) -> list[tuple[Item, float]]:
    """The items of a prompt with their weights; a text or an embedding alone is one item of weight 1."""
    if isinstance(prompt, Mix):
        return list(zip(prompt.items, prompt.weights, strict=True))
    return [(prompt, 1.0)]


def _pictures(rows: Sequence[Row]) -> list[Picture]:
    return [item for row in rows for item, _ in items_of(row.prompt) if isinstance(item, Picture)]


def draws_of(rows: Sequence[Row], guided: bool) -> list[Draw]:
    """The trajectories of the prior that a batch needs: its texts by their place, then the negatives.

    Each picture's texts are drawn in the order of its prompt, whatever its neighbours' prompts are.
    """
    draws = []
    items = [items_of(row.prompt) for row in rows]
    for place in range(max(map(len, items))):
        here = [i for i, parts in enumerate(items) if place < len(parts) and isinstance(parts[place][0], str)]
        draws.append(_draw_for(rows, here, [str(items[i][place][0]) for i in here], place))
    negative = [
        i
        for i, row in enumerate(rows)
        if guided and row.negative_prompt and _own_negative(row.prompt) is None
    ]
    draws.append(_draw_for(rows, negative, [rows[i].negative_prompt or "" for i in negative], None))
    return [draw for draw in draws if draw.rows]


def _draw_for(rows: Sequence[Row], which: list[int], texts: list[str], place: int | None) -> Draw:
    uncond = tuple(_unconditional(rows[i]) for i in which)
    return Draw(tuple(which), tuple(texts), uncond, place, tuple(rows[i].prior_guidance_scale for i in which))


def _unconditional(row: Row) -> str:
    """What the prior steers away from: a negative prompt acts there too, unless it is given its own."""
    if row.prior_negative_prompt is not None:
        return row.prior_negative_prompt
    return row.negative_prompt or ""


def _own_negative(prompt: Prompt) -> tuple[float, ...] | None:
    return prompt.negative if isinstance(prompt, Embedding) else None


def _without_prior(consequence: str) -> RequestError:
    return RequestError(
        f"This decoder was loaded without its prior, {consequence}.",
        "Load it with prior=..., or give an Embedding as the prompt.",
    )
