"""The decoder pipelines of Kandinsky 2.1: image embeddings and texts become pictures."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from kandinsky.compat.diffusers.decoders import LATENTS, DecoderPipeline, Told, fields_of
from kandinsky.compat.diffusers.draws import Generators
from kandinsky.compat.diffusers.following import Callbacks
from kandinsky.compat.diffusers.inputs import paired, repeated, texts
from kandinsky.compat.diffusers.parts import native_of
from kandinsky.compat.diffusers.steering import Steered
from kandinsky.conditioning.conditions import Conditions
from kandinsky.conditioning.decoder_texts import DecoderTexts, MultilingualReader, stacked
from kandinsky.core.events import Warned
from kandinsky.generations.k21 import published
from kandinsky.generations.model import Model
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.xlmr import MultilingualClip


def told_of(prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None) -> Told:
    """The texts of a call; no negative prompt is the empty one."""
    prompts = texts(prompt)
    negatives = texts("" if negative_prompt is None else negative_prompt, "negative_prompt")
    return Told(prompts, paired(negatives, len(prompts), "negative_prompt"))


class TextDecoderPipeline(DecoderPipeline):
    """What these pipelines share: beside the embeddings the decoder reads the texts themselves."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer", "unet", "scheduler", "movq")
    text_encoder: Any
    tokenizer: Any

    def __init__(self, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any, movq: Any) -> None:
        super().__init__(unet, scheduler, movq)
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer

    def _model(self) -> tuple[Model, Steered]:
        model, network = super()._model()
        schedule = published(self.scheduler.schedule, pins_known=model.extra_channels == 0)
        return replace(model, name="Kandinsky 2.1", schedule=schedule), network

    def _conditions(
        self, model: Model, embeds: Tensor, negative: Tensor | None, told: Told | None, copies: int
    ) -> Conditions:
        images = super()._conditions(model, embeds, negative, told, copies)
        assert told is not None  # every method of these pipelines takes a prompt
        prompts = len(embeds) // copies
        cond = repeated(paired(told.prompts, prompts, "prompt"), copies)
        uncond = repeated(paired(told.negatives, prompts, "negative_prompt"), copies)
        encoder = native_of(self.text_encoder, MultilingualClip)
        reader = MultilingualReader(self.tokenizer.native, encoder, self.device)
        with self._ready("text_encoder"):
            run = DecoderTexts(reader).encode([*cond, *(uncond if negative is not None else [])])
            found = _told_of_warnings(run)

        def beside(image: UNet2Condition, rows: list[str]) -> UNet2Condition:
            text = stacked(found, rows)
            return replace(image, text_hidden=text.text_hidden, text_embedding=text.text_embedding)

        return Conditions(
            beside(images.cond, cond), None if images.uncond is None else beside(images.uncond, uncond)
        )


def _told_of_warnings(run: Any) -> dict[str, UNet2Condition]:
    """Runs an encoding to its end, and warns of what was not read."""
    while True:
        try:
            event = next(run)
        except StopIteration as stop:
            found: dict[str, UNet2Condition] = stop.value
            return found
        if isinstance(event, Warned):
            warnings.warn(event.message, UserWarning, stacklevel=5)


class KandinskyPipeline(TextDecoderPipeline):
    """Text-to-image with Kandinsky 2.1, from the prior's embeddings."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        image_embeds: Any,
        negative_image_embeds: Any,
        negative_prompt: str | Sequence[str] | None = None,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        callback: Callable[..., Any] | None = None,
        callback_steps: int = 1,
        return_dict: bool = True,
    ) -> Any:
        """Pictures of the prompts with their embeddings (B, D), num_images_per_prompt each."""
        return self._run(
            image_embeds,
            negative_image_embeds,
            num_images_per_prompt,
            fields_of(height, width, num_inference_steps, guidance_scale),
            generator,
            Callbacks(self, legacy=callback, legacy_steps=callback_steps).checked(LATENTS),
            output_type,
            return_dict,
            latents=latents,
            told=told_of(prompt, negative_prompt),
        )


class KandinskyImg2ImgPipeline(TextDecoderPipeline):
    """Image-to-image with Kandinsky 2.1."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Any,
        image_embeds: Any,
        negative_image_embeds: Any,
        negative_prompt: str | Sequence[str] | None = None,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        strength: float = 0.3,
        guidance_scale: float = 7.0,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str | None = "pil",
        callback: Callable[..., Any] | None = None,
        callback_steps: int = 1,
        return_dict: bool = True,
    ) -> Any:
        """Pictures that keep something of `image`, the less the higher `strength` in (0, 1] is."""
        fields = fields_of(height, width, num_inference_steps, guidance_scale, strength)
        return self._run(
            image_embeds,
            negative_image_embeds,
            num_images_per_prompt,
            fields,
            generator,
            Callbacks(self, legacy=callback, legacy_steps=callback_steps).checked(LATENTS),
            output_type,
            return_dict,
            image=self._images(image, fields),
            told=told_of(prompt, negative_prompt),
        )


class KandinskyInpaintPipeline(TextDecoderPipeline):
    """Inpainting with Kandinsky 2.1."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Any,
        mask_image: Any,
        image_embeds: Any,
        negative_image_embeds: Any,
        negative_prompt: str | Sequence[str] | None = None,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        callback: Callable[..., Any] | None = None,
        callback_steps: int = 1,
        return_dict: bool = True,
    ) -> Any:
        """Pictures in which `image` is repainted where `mask_image` is white (1); a tensor as image is in
        -1..1."""
        fields = fields_of(height, width, num_inference_steps, guidance_scale)
        known, mask = self._region(image, mask_image, fields)
        return self._run(
            image_embeds,
            negative_image_embeds,
            num_images_per_prompt,
            fields,
            generator,
            Callbacks(self, legacy=callback, legacy_steps=callback_steps).checked(LATENTS),
            output_type,
            return_dict,
            latents=latents,
            image=known,
            mask=mask,
            told=told_of(prompt, negative_prompt),
        )
