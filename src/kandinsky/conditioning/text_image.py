"""Prompts for decoders that listen to an image embedding and to the text itself."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from torch import Tensor

from kandinsky.conditioning.conditions import Batch, CaptionConditioner, Conditions, TextEncoder, kept
from kandinsky.conditioning.decoder_texts import DecoderTexts, stacked
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.events import Event
from kandinsky.core.prompts import Prompt
from kandinsky.core.requests import Request, Row
from kandinsky.networks.unet2 import UNet2Condition


@dataclass(frozen=True, eq=False)
class TextImageConditioner(CaptionConditioner):
    """The image embedding of each prompt, and beside it the prompt's text.

    Mixes and embeddings have no text of their own: beside them the decoder reads the empty one. With
    `negative_texts` a negative prompt is also what the decoder reads unconditionally; otherwise that is the
    empty text, and the negative prompt acts through its image embedding alone.
    """

    image: ImagePromptConditioner
    texts: DecoderTexts
    negative_texts: bool = True

    @property
    def prior(self) -> PriorStage | None:
        """See `CaptionConditioner`."""
        return self.image.stage

    @property
    def encoders(self) -> Sequence[TextEncoder]:
        """See `CaptionConditioner`."""
        return self.texts.encoders

    def caption_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> UNet2Condition:
        """See `CaptionConditioner`."""
        image = self.image.caption_condition(captions, embeddings, dropped)
        return _with_texts(image, self.texts.read(kept(captions, dropped))[0])

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

        def condition(image: UNet2Condition | None, texts: Sequence[str]) -> UNet2Condition | None:
            return None if image is None else _with_texts(image, stacked(found, texts))

        return [
            Conditions(condition(image.cond, cond), condition(image.uncond, uncond))
            for image, cond, uncond in zip(images, told, untold, strict=True)
        ]

    def _unconditional(self, row: Row) -> str:
        return (row.negative_prompt or "") if self.negative_texts else ""


def _with_texts(image: UNet2Condition, texts: UNet2Condition) -> UNet2Condition:
    return replace(image, text_hidden=texts.text_hidden, text_embedding=texts.text_embedding)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else ""
