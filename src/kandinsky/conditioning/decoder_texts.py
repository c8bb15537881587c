"""Texts that a decoder reads itself, with or without an image embedding."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Batch, CaptionConditioner, Conditions, Encoded, TextEncoder, kept
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.tokenizer import too_long
from kandinsky.conditioning.weighted_texts import token_weights, weighted_states
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Encoding, Event, Warned
from kandinsky.core.prompt_weights import WeightedText, parse_weights
from kandinsky.core.requests import Request, Row
from kandinsky.networks.unet2 import UNet2Condition

TOKENS = 77
"""The length to which texts are cut or padded; the decoders read the padding too."""
OF_THE_PRIOR = ("prior_negative_prompt", "prior_steps", "prior_guidance_scale")


def check_texts(request: Request) -> None:
    """Raises RequestError when a prompt is no text or a field of the prior is set, for decoders without a prior."""
    for prompt in request.prompts:
        if not isinstance(prompt, str):
            raise RequestError(
                f"This decoder reads texts only, no {type(prompt).__name__.lower()}.",
                "Give a text, or load a checkpoint with a prior to mix and to vary images.",
            )
    for name in OF_THE_PRIOR:
        if (value := getattr(request, name)) is not None:
            raise RequestError(f"{name} {value!r} is given, but this checkpoint has no prior.", f"Leave {name} out.")


@dataclass(frozen=True, eq=False)
class DecoderTexts:
    """The text encoders of a decoder: of hidden states and an embedding, and where there are two, of hidden states."""

    first: TextEncoder
    second: TextEncoder | None = None

    @property
    def encoders(self) -> list[TextEncoder]:
        """The text encoders."""
        return [self.first] if self.second is None else [self.first, self.second]

    def read(self, texts: Sequence[str]) -> tuple[UNet2Condition, list[str]]:
        """The condition of texts, a row each, and the ends of the texts that did not fit."""
        (hidden, embedding), dropped = self.first.read(texts, TOKENS)
        condition = UNet2Condition(text_hidden=hidden, text_embedding=embedding)
        if self.second is not None:
            second, more = self.second.read(texts, TOKENS)
            condition = replace(condition, second_text_hidden=second)
            dropped = [max(pair, key=len) for pair in zip(dropped, more, strict=True)]
        return condition, dropped

    def read_weighted(self, weighted: WeightedText) -> tuple[UNet2Condition, list[str]]:
        """As `read`, of one text with weights, which act on the hidden states; the embedding is the plain text's."""
        condition, dropped = self.read([weighted.text])
        if weighted.is_plain:
            return condition, dropped
        empty, _ = self.read([""])
        for encoder, name in zip(self.encoders, ("text_hidden", "second_text_hidden"), strict=False):
            weights = token_weights(encoder.tokenizer.spans(weighted.text, TOKENS), weighted)
            states = weighted_states(getattr(condition, name), getattr(empty, name), weights)
            condition = replace(condition, **{name: states})
        return condition, dropped

    def encode(self, texts: Iterable[str], weighted: bool = False) -> Generator[Event, None, dict[str, UNet2Condition]]:
        """Conditions of one row for each of the texts, which may have weights, and are read one by one and once each.

        Alone, so that a text's numbers do not depend on its neighbours.
        """
        found: dict[str, UNet2Condition] = {}
        yield Encoding("text")
        for text in dict.fromkeys(texts):
            with torch.no_grad():
                said = parse_weights(text) if weighted else WeightedText(text, ())
                found[text], (dropped,) = self.read_weighted(said)
            if dropped:
                yield Warned(too_long(said.text, dropped, TOKENS, "decoder"), text)
        return found


def stacked(found: dict[str, UNet2Condition], texts: Sequence[str]) -> UNet2Condition:
    """One row for each of `texts`."""
    return reduce(UNet2Condition.joined, (found[text] for text in texts))


def with_image(texts: UNet2Condition, image: UNet2Condition) -> UNet2Condition:
    """The condition of texts, with the image embeddings of another."""
    return replace(texts, image_embedding=image.image_embedding)


@dataclass(frozen=True, eq=False)
class TextsConditioner(CaptionConditioner):
    """The text of each prompt against its negative prompt or the empty text, with or without the image embedding.

    Mixes and embeddings have no text of their own: with them the decoder reads the empty one. Without `negative_texts`
    that is what it reads unconditionally too, and a negative prompt acts through its image embedding alone.
    """

    texts: DecoderTexts
    image: ImagePromptConditioner | None = None
    negative_texts: bool = True

    @property
    def prior(self) -> PriorStage | None:
        return None if self.image is None else self.image.stage

    @property
    def encoders(self) -> Sequence[TextEncoder]:
        return self.texts.encoders

    @property
    def caption_tokens(self) -> int:
        """See `CaptionConditioner`."""
        return TOKENS

    def caption_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> UNet2Condition:
        texts, _ = self.texts.read(kept(captions, dropped))
        if self.image is None:
            return texts
        return with_image(texts, self.image.caption_condition(captions, embeddings, dropped))

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: without image embeddings prompts are texts, and no prior is given anything."""
        if self.image is None:
            check_texts(request)
        else:
            self.image.check(request, guided)

    def encode(self, batches: Sequence[Batch], prior_steps: int, guided: bool) -> Encoded:
        """See `Conditioner`; draws what the image embeddings draw."""
        nothing = [Conditions(UNet2Condition(), UNet2Condition() if guided else None) for _ in batches]
        images = nothing if self.image is None else (yield from self.image.encode(batches, prior_steps, guided))
        texts = [[row.prompt if isinstance(row.prompt, str) else "" for row in batch.rows] for batch in batches]
        negatives = [[self._unconditional(row) for row in batch.rows] for batch in batches]
        wanted, weighted = chain(*texts, *(negatives if guided else ())), batches[0].rows[0].prompt_weights
        found = yield from self.texts.encode(wanted, weighted)
        return [
            Conditions(
                with_image(stacked(found, cond), image.cond),
                None if image.uncond is None else with_image(stacked(found, uncond), image.uncond),
            )
            for image, cond, uncond in zip(images, texts, negatives, strict=True)
        ]

    def _unconditional(self, row: Row) -> str:
        return (row.negative_prompt or "") if self.negative_texts else ""
