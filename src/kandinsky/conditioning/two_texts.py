"""Prompts for decoders that listen to a text through two encoders, and to no image embedding."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import chain

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.decoder_texts import DecoderTexts, check_texts, stacked
from kandinsky.core.events import Event
from kandinsky.core.requests import Request


@dataclass(frozen=True, eq=False)
class TwoTextsConditioner:
    """The text of each prompt, and against it the negative prompt or the empty text."""

    texts: DecoderTexts

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: prompts are texts, and there is no prior to be told anything."""
        check_texts(request)

    def encode(
        self, batches: Sequence[Batch], prior_steps: int, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        """See `Conditioner`; nothing is drawn."""
        told = [[str(row.prompt) for row in batch.rows] for batch in batches]
        untold = [[row.negative_prompt or "" for row in batch.rows] for batch in batches]
        found = yield from self.texts.encode(chain(*told, *(untold if guided else ())))
        return [
            Conditions(stacked(found, cond), stacked(found, uncond) if guided else None)
            for cond, uncond in zip(told, untold, strict=True)
        ]
