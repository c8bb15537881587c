"""Prompts as image embeddings: texts through the diffusion prior, pictures through CLIP's vision tower.

Source: Ramesh et al. 2022 (unCLIP, arXiv 2204.06125), sections 2.2 and 3.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.conditions import Conditions
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Encoding, Event, Warned
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding, Mix, Prompt
from kandinsky.core.requests import Request, Row
from kandinsky.core.rng import Rng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.schedule import Schedule
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.prior import Prior, PriorCondition
from kandinsky.networks.unet2 import UNet2Condition


@dataclass(frozen=True, eq=False)
class PriorStage:
    """Everything that a prior checkpoint holds."""

    tokenizer: Tokenizer
    text: ClipText
    vision: ClipVision
    preprocess: ClipPreprocess
    network: Prior
    schedule: Schedule

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.network.query.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.network.query.dtype

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures to image embeddings (B, D)."""
        pixels = self.preprocess([picture.image for picture in pictures])
        return self.vision(pixels.to(self.device, self.dtype))  # type: ignore[no-any-return]

    @cached_property
    def zero_embedding(self) -> Tensor:
        """The embedding (1, D) of an all-zero normalised picture, which stands for no picture at all."""
        size = self.vision.config.image_size
        with torch.no_grad():
            return self.vision(torch.zeros(1, 3, size, size, device=self.device, dtype=self.dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> tuple[PriorCondition, list[str]]:
        """Texts to what the prior is told, and for each text the part that did not fit."""
        tokens = self.tokenizer.encode(texts, self.network.config.tokens)
        features = self.text(tokens.ids.to(self.device))
        condition = PriorCondition(features.hidden, features.embedding, tokens.mask.to(self.device))
        return condition, tokens.dropped

    def sample(
        self, texts: Sequence[str], uncond: Sequence[str], rng: Rng, steps: int, guidance_scale: float
    ) -> Generator[tuple[int, list[str]], None, Tensor]:
        """Draws image embeddings (B, D) for texts; yields (steps done, dropped texts) after each step.

        Rows whose unconditional text is their own text are not guided, whatever the scale.
        """
        guided = is_guided(guidance_scale) and list(texts) != list(uncond)
        condition, dropped = self.encode_texts([*uncond, *texts] if guided else texts)
        times = self.schedule.times(steps)
        with torch.no_grad():
            prepared = self.network.prepare(condition, times)
        denoise = make_denoiser(
            lambda x, t: prepared.step(x.to(self.dtype), t),
            self.schedule.process,
            self.schedule.read,
            guidance_scale if guided else None,
            self.schedule.constraint,
        )
        sampler = make_sampler(self.schedule.sampler, self.schedule.process, variance=self.schedule.variance)
        working = torch.float64 if self.dtype == torch.float64 else torch.float32
        x = rng.normal((len(texts), self.network.config.embedding_dim)).to(self.device, working)
        for step in sample(sampler, denoise, x, times, rng):
            x = step.x
            yield step.index + 1, dropped[-len(texts) :]
        return self.network.denormalise(x.to(self.dtype))


def _items(prompt: Prompt) -> list[tuple[str | Picture | Embedding, float]]:
    if isinstance(prompt, Mix):
        return list(zip(prompt.items, prompt.weights, strict=True))
    return [(prompt, 1.0)]


@dataclass(frozen=True, eq=False)
class ImagePromptConditioner:
    """The conditioner of decoders that listen to an image embedding only.

    `stage` is None for a decoder loaded without its prior: it then takes embeddings, and no texts or pictures.
    """

    stage: PriorStage | None
    device: torch.device
    dtype: torch.dtype

    def encode(
        self, rows: Sequence[Row], request: Request, rng: Rng, guided: bool
    ) -> Generator[Event, None, Conditions]:
        """See `Conditioner`: the prompt's embedding, and against it the negative prompt's or that of no picture."""
        embedding = yield from self._positive(rows, request, rng)
        if not guided:
            return Conditions(UNet2Condition(embedding), None)
        negative = yield from self._negative(rows, request, rng)
        return Conditions(UNet2Condition(embedding), UNet2Condition(negative))

    def _positive(self, rows: Sequence[Row], request: Request, rng: Rng) -> Generator[Event, None, Tensor]:
        parts = [_items(row.prompt) for row in rows]
        total: list[Tensor | None] = [None] * len(rows)
        rounds = max(len(items) for items in parts)
        passes = sum(any(k < len(p) and isinstance(p[k][0], str) for p in parts) for k in range(rounds))
        done = 0
        for k in range(rounds):
            texts = [i for i, items in enumerate(parts) if k < len(items) and isinstance(items[k][0], str)]
            found: dict[int, Tensor] = {}
            if texts:
                prompts = [str(parts[i][k][0]) for i in texts]
                uncond = [_unconditional(rows[i]) for i in texts]
                drawn = yield from self._drawn(prompts, uncond, rng.select(texts), request, done, passes)
                found = dict(zip(texts, torch.split(drawn, 1), strict=True))
                done += 1
            for i, items in enumerate(parts):
                if k < len(items):
                    item, weight = items[k]
                    vector = found[i] if i in found else self._vector(item)
                    scaled = vector * weight if isinstance(rows[i].prompt, Mix) else vector
                    before = total[i]
                    total[i] = scaled if before is None else before + scaled
        return torch.cat([row for row in total if row is not None]).to(self.device, self.dtype)

    def _vector(self, item: str | Picture | Embedding) -> Tensor:
        if isinstance(item, Picture):
            return self._prior().encode_pictures([item])
        if isinstance(item, Embedding):
            return torch.tensor([item.values], dtype=torch.float64).to(self.device, self.dtype)
        raise TypeError(item)

    def _negative(self, rows: Sequence[Row], request: Request, rng: Rng) -> Generator[Event, None, Tensor]:
        """Embeddings to steer away from: an Embedding's own, the negative prompt's, or that of no picture.

        Negative prompts are drawn from the beginning of each picture's own randomness again, so that they never
        shift the draws of the picture.
        """
        found: dict[int, Tensor] = {}
        for i, row in enumerate(rows):
            if isinstance(row.prompt, Embedding) and row.prompt.negative is not None:
                found[i] = torch.tensor([row.prompt.negative], dtype=torch.float64)
        texts = [i for i, row in enumerate(rows) if row.negative_prompt and i not in found]
        if texts:
            prompts = [rows[i].negative_prompt or "" for i in texts]
            uncond = [_unconditional(rows[i]) for i in texts]
            drawn = yield from self._drawn(prompts, uncond, rng.fork().select(texts), request, 0, 1)
            found |= dict(zip(texts, torch.split(drawn, 1), strict=True))
        vectors = [found[i] if i in found else self._prior().zero_embedding for i in range(len(rows))]
        return torch.cat([vector.to(self.device, self.dtype) for vector in vectors])

    def _drawn(
        self, prompts: list[str], uncond: list[str], rng: Rng, request: Request, done: int, passes: int
    ) -> Generator[Event, None, Tensor]:
        yield Encoding("text")
        steps, scale = request.prior_steps or 1, request.prior_guidance_scale or 0.0
        run = self._prior().sample(prompts, uncond, rng, steps, scale)
        warned = False
        while True:
            try:
                count, dropped = next(run)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if not warned:
                warned = True
                yield from _warnings(prompts, dropped)
            yield Denoising("prior", done * steps + count, passes * steps)

    def _prior(self) -> PriorStage:
        if self.stage is None:
            raise RequestError(
                "This decoder was loaded without its prior, so it understands embeddings only.",
                "Load it with prior=..., or give an Embedding as the prompt.",
            )
        return self.stage


def _unconditional(row: Row) -> str:
    if row.prior_negative_prompt is not None:
        return row.prior_negative_prompt
    return row.negative_prompt or ""


def _warnings(prompts: Sequence[str], dropped: Sequence[str]) -> Iterator[Event]:
    for prompt, rest in zip(prompts, dropped, strict=True):
        if rest:
            kept = prompt.removesuffix(rest).strip()
            yield Warned(f"The prompt is too long: {rest!r} was not read. Read was {kept!r}.")
