"""Prompts for decoders that listen to an image embedding and to the text itself."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.decoder_texts import DecoderTexts, stacked
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.core.events import Event
from kandinsky.core.prompts import Prompt
from kandinsky.core.requests import Request, Row
from kandinsky.networks.unet2 import UNet2Condition


@dataclass(frozen=True, eq=False)
class TextImageConditioner:
    """The image embedding of each prompt, and beside it the prompt's text.

    Mixes and embeddings have no text of their own: beside them the decoder reads the empty one. With
    `negative_texts` a negative prompt is also what the decoder reads unconditionally; otherwise that is the
    empty text, and the negative prompt acts through its image embedding alone.
    """

    image: ImagePromptConditioner
    texts: DecoderTexts
    negative_texts: bool = True

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: what the image embedding needs."""
        self.image.check(request, guided)

    def encode(
        self, batches: Sequence[Batch], prior_steps: int, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        """See `Conditioner`; draws what the image embeddings draw."""
        images = yield from self.image.encode(batches, prior_steps, guided)
        told = [[_text(row.prompt) for row in batch.rows] for batch in batches]
        untold = [[self._unconditional(row) for row in batch.rows] for batch in batches]
        found = yield from self.texts.encode(chain(*told, *(untold if guided else ())))

        def beside(condition: UNet2Condition, texts: Sequence[str]) -> UNet2Condition:
            rows = stacked(found, texts)
            return replace(condition, text_hidden=rows.text_hidden, text_embedding=rows.text_embedding)

        return [
            Conditions(beside(image.cond, cond), None if image.uncond is None else beside(image.uncond, uncond))
            for image, cond, uncond in zip(images, told, untold, strict=True)
        ]

    def _unconditional(self, row: Row) -> str:
        return (row.negative_prompt or "") if self.negative_texts else ""


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else ""
