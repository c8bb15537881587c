"""Texts as a decoder itself reads them, beside or instead of an image embedding."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Batch, CaptionConditioner, Conditions, TextEncoder, kept
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Encoding, Event, Warned
from kandinsky.core.requests import Request
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.xlmr import MultilingualClip

TOKENS = 77
"""The length to which texts are cut or padded; the decoders read the padding too."""
OF_THE_PRIOR = ("prior_negative_prompt", "prior_steps", "prior_guidance_scale")


def check_texts(request: Request) -> None:
    """Raises RequestError when a request is not of texts alone, or tells a prior something.

    For decoders that listen to texts only.
    """
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
class MultilingualReader:
    """The encoder of a text's hidden states and embedding; it reads on `device`, None for where its weights are."""

    tokenizer: Tokenizer
    network: MultilingualClip
    device: torch.device | None = None

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """Hidden states (B, 77, W), embeddings (B, P), and the ends of the texts that did not fit."""
        tokens = self.tokenizer.encode(texts, TOKENS)
        device = self.device or self.network.projection.weight.device
        hidden, embedding = self.network(tokens.ids.to(device), tokens.mask.to(device))
        return hidden, embedding, tokens.dropped


@dataclass(frozen=True, eq=False)
class SecondReader:
    """The encoder of a text's second hidden states."""

    tokenizer: Tokenizer
    network: T5Encoder

    def read(self, texts: Sequence[str]) -> tuple[Tensor, list[str]]:
        """Hidden states (B, 77, W'), and the ends of the texts that did not fit."""
        tokens = self.tokenizer.encode(texts, TOKENS)
        device = self.network.tokens.weight.device
        return self.network(tokens.ids.to(device), tokens.mask.to(device)), tokens.dropped


@dataclass(frozen=True, eq=False)
class DecoderTexts:
    """The text encoders of a decoder: one, or two that read the same text."""

    first: MultilingualReader
    second: SecondReader | None = None

    @property
    def encoders(self) -> list[TextEncoder]:
        """The text encoders."""
        readers = (self.first,) if self.second is None else (self.first, self.second)
        return [TextEncoder(reader.tokenizer, reader.network) for reader in readers]

    def read(self, texts: Sequence[str]) -> tuple[UNet2Condition, list[str]]:
        """The condition of texts, a row each, and the ends of the texts that did not fit."""
        hidden, embedding, dropped = self.first.read(texts)
        condition = UNet2Condition(text_hidden=hidden, text_embedding=embedding)
        if self.second is not None:
            second, more = self.second.read(texts)
            condition = replace(condition, second_text_hidden=second)
            dropped = [max(pair, key=len) for pair in zip(dropped, more, strict=True)]
        return condition, dropped

    def encode(self, texts: Iterable[str]) -> Generator[Event, None, dict[str, UNet2Condition]]:
        """Conditions of one row for each of the texts, which are read one by one and once each.

        Alone, so that a text's numbers do not depend on its neighbours.
        """
        found: dict[str, UNet2Condition] = {}
        yield Encoding("text")
        for text in dict.fromkeys(texts):
            with torch.no_grad():
                found[text], (dropped,) = self.read([text])
            if dropped:
                yield Warned(f"The prompt is too long for the decoder: it does not read {dropped!r}.")
        return found


def stacked(found: dict[str, UNet2Condition], texts: Sequence[str]) -> UNet2Condition:
    """One row for each of `texts`."""
    return reduce(UNet2Condition.joined, (found[text] for text in texts))


@dataclass(frozen=True, eq=False)
class TwoTextsConditioner(CaptionConditioner):
    """Prompts for decoders that take texts alone: each against its negative prompt or the empty text."""

    texts: DecoderTexts

    @property
    def prior(self) -> None:
        """See `CaptionConditioner`: there is none."""

    @property
    def encoders(self) -> Sequence[TextEncoder]:
        """See `CaptionConditioner`."""
        return self.texts.encoders

    def caption_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> UNet2Condition:
        """See `CaptionConditioner`."""
        return self.texts.read(kept(captions, dropped))[0]

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: prompts are texts, and there is no prior to be told anything."""
        check_texts(request)

    def encode(
        self, batches: Sequence[Batch], prior_steps: int, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        """See `Conditioner`; nothing is drawn."""
        texts = [[str(row.prompt) for row in batch.rows] for batch in batches]
        negatives = [[row.negative_prompt or "" for row in batch.rows] for batch in batches]
        found = yield from self.texts.encode(chain(*texts, *(negatives if guided else ())))
        return [
            Conditions(stacked(found, cond), stacked(found, uncond) if guided else None)
            for cond, uncond in zip(texts, negatives, strict=True)
        ]
