"""Prompts for decoders that listen to a text through two encoders, and to no image embedding."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import chain

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.decoder_texts import DecoderTexts, stacked
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Event
from kandinsky.core.requests import Request

OF_THE_PRIOR = ("prior_negative_prompt", "prior_steps", "prior_guidance_scale")


@dataclass(frozen=True, eq=False)
class TwoTextsConditioner:
    """The text of each prompt, and against it the negative prompt or the empty text."""

    texts: DecoderTexts

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: prompts are texts, and there is no prior to be told anything."""
        for prompt in request.prompts:
            if not isinstance(prompt, str):
                raise RequestError(
                    f"This decoder reads texts only, no {type(prompt).__name__.lower()}.",
                    "Give a text, or load a checkpoint with a prior to mix and to vary pictures.",
                )
        for name in OF_THE_PRIOR:
            if (value := getattr(request, name)) is not None:
                raise RequestError(
                    f"{name} {value!r} is given, but this checkpoint has no prior.", f"Leave {name} out."
                )

    def encode(
        self, batches: Sequence[Batch], request: Request, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        """See `Conditioner`; nothing is drawn."""
        told = [[str(row.prompt) for row in batch.rows] for batch in batches]
        untold = [[row.negative_prompt or "" for row in batch.rows] for batch in batches]
        found = yield from self.texts.encode(chain(*told, *(untold if guided else ())))
        return [
            Conditions(stacked(found, cond), stacked(found, uncond) if guided else None)
            for cond, uncond in zip(told, untold, strict=True)
        ]
