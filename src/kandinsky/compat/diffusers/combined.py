"""Prior and decoder of Kandinsky 2.2 as one pipeline."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from kandinsky.compat.diffusers.decoders import (
    LATENTS,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
)
from kandinsky.compat.diffusers.draws import Generators
from kandinsky.compat.diffusers.inputs import spread
from kandinsky.compat.diffusers.pipeline import PRIOR_PREFIX, DiffusionPipeline
from kandinsky.compat.diffusers.prior import KandinskyV22PriorPipeline, PriorPipeline
from kandinsky.core.errors import RequestError

PRIOR_COMPONENTS = tuple(PRIOR_PREFIX + name for name in PriorPipeline.COMPONENTS)
EMBEDDING_DIMENSIONS = 2


class CombinedPipeline(DiffusionPipeline):
    """What combined pipelines share: a prior and a decoder pipeline on the same, present components."""

    PRIOR: ClassVar[type[PriorPipeline]]
    DECODER: ClassVar[type[DiffusionPipeline]]

    @property
    def prior_pipe(self) -> Any:
        """The prior's half."""
        return self._half("_prior", self.PRIOR, PRIOR_PREFIX)

    @property
    def decoder_pipe(self) -> Any:
        """The decoder's half."""
        return self._half("_decoder", self.DECODER, "")

    def _half(self, slot: str, kind: type[DiffusionPipeline], prefix: str) -> DiffusionPipeline:
        """A half that lives as long as the whole, so that it may keep what it computed, brought up to
        date."""
        parts = {name: getattr(self, prefix + name) for name in kind.COMPONENTS}
        half = self._halves.setdefault(slot, kind(**parts))
        for name, part in parts.items():
            setattr(half, name, part)
        half._progress = self._progress
        half._offload = None if self._offload is None else self._offload.seen_with(prefix)
        return half

    @property
    def _halves(self) -> dict[str, DiffusionPipeline]:
        found: dict[str, DiffusionPipeline] = self.__dict__.setdefault("_known_halves", {})
        return found


def split_latents(latents: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Given latents as (the prior's, the decoder's): embeddings (B, D) are the prior's, pictures' the
    decoder's."""
    if latents is None:
        return None, None
    if latents.ndim == EMBEDDING_DIMENSIONS:
        return latents, None
    if latents.ndim != EMBEDDING_DIMENSIONS + 2:
        raise RequestError(
            f"latents of shape {tuple(latents.shape)} are neither the prior's nor the decoder's.",
            "Give (B, D) or (B, 4, h, w).",
        )
    return None, latents


def prior_latents_only(latents: Tensor | None) -> Tensor | None:
    """Given latents where the decoder starts from a picture; RequestError for the decoder's."""
    of_prior, of_decoder = split_latents(latents)
    if of_decoder is not None:
        raise RequestError(
            f"latents of shape {tuple(of_decoder.shape)} cannot begin a trajectory that begins at an image.",
            "Leave them out, or give the prior's (B, D).",
        )
    return of_prior


class V22CombinedPipeline(CombinedPipeline):
    """What the three combined pipelines share: their components, and the prior's half of a call."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("unet", "scheduler", "movq", *PRIOR_COMPONENTS)
    PRIOR: ClassVar[type[PriorPipeline]] = KandinskyV22PriorPipeline

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        movq: Any,
        prior_prior: Any,
        prior_image_encoder: Any,
        prior_text_encoder: Any,
        prior_tokenizer: Any,
        prior_scheduler: Any,
        prior_image_processor: Any,
    ) -> None:
        super().__init__(
            unet=unet,
            scheduler=scheduler,
            movq=movq,
            prior_prior=prior_prior,
            prior_image_encoder=prior_image_encoder,
            prior_text_encoder=prior_text_encoder,
            prior_tokenizer=prior_tokenizer,
            prior_scheduler=prior_scheduler,
            prior_image_processor=prior_image_processor,
        )

    def _embeds(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        copies: int,
        steps: int,
        guidance_scale: float,
        generator: Generators,
        latents: Tensor | None,
        callback: Callable[..., Any] | None,
        callback_inputs: list[str],
    ) -> tuple[Tensor, Tensor]:
        """Embeddings, one a picture; a callback is told of the prior's pipeline."""
        found: tuple[Tensor, Tensor] = self.prior_pipe(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=copies,
            num_inference_steps=steps,
            generator=generator,
            latents=latents,
            guidance_scale=guidance_scale,
            return_dict=False,
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=callback_inputs,
        )
        return found


class KandinskyV22CombinedPipeline(V22CombinedPipeline):
    """Text-to-image with Kandinsky 2.2."""

    DECODER: ClassVar[type[DiffusionPipeline]] = KandinskyV22Pipeline

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        height: int = 512,
        width: int = 512,
        prior_guidance_scale: float = 4.0,
        prior_num_inference_steps: int = 25,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        callback: Callable[..., Any] | None = None,
        callback_steps: int = 1,
        return_dict: bool = True,
        prior_callback_on_step_end: Callable[..., Any] | None = None,
        prior_callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = LATENTS,
    ) -> Any:
        """Pictures of the prompts, num_images_per_prompt each, of exactly width x height.

        `latents` are the prior's (B, D) or the decoder's (B, 4, h, w).
        """
        of_prior, of_decoder = split_latents(latents)
        embeds = self._embeds(
            prompt,
            negative_prompt,
            num_images_per_prompt,
            prior_num_inference_steps,
            prior_guidance_scale,
            generator,
            of_prior,
            prior_callback_on_step_end,
            prior_callback_on_step_end_tensor_inputs,
        )
        return self.decoder_pipe(
            *embeds,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            latents=of_decoder,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            callback=callback,
            callback_steps=callback_steps,
        )


class KandinskyV22Img2ImgCombinedPipeline(V22CombinedPipeline):
    """Image-to-image with Kandinsky 2.2."""

    DECODER: ClassVar[type[DiffusionPipeline]] = KandinskyV22Img2ImgPipeline

    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Any,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        strength: float = 0.3,
        num_images_per_prompt: int = 1,
        height: int = 512,
        width: int = 512,
        prior_guidance_scale: float = 4.0,
        prior_num_inference_steps: int = 25,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        callback: Callable[..., Any] | None = None,
        callback_steps: int = 1,
        return_dict: bool = True,
        prior_callback_on_step_end: Callable[..., Any] | None = None,
        prior_callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = LATENTS,
    ) -> Any:
        """Pictures of the prompts that keep something of `image`, one for all prompts or one for each.

        `latents` are the prior's, (B, D).
        """
        embeds = self._embeds(
            prompt,
            negative_prompt,
            num_images_per_prompt,
            prior_num_inference_steps,
            prior_guidance_scale,
            generator,
            prior_latents_only(latents),
            prior_callback_on_step_end,
            prior_callback_on_step_end_tensor_inputs,
        )
        return self.decoder_pipe(
            embeds[0],
            spread(image, len(embeds[0]), num_images_per_prompt),
            embeds[1],
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            strength=strength,
            generator=generator,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            callback=callback,
            callback_steps=callback_steps,
        )


class KandinskyV22InpaintCombinedPipeline(V22CombinedPipeline):
    """Inpainting with Kandinsky 2.2."""

    DECODER: ClassVar[type[DiffusionPipeline]] = KandinskyV22InpaintPipeline

    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Any,
        mask_image: Any,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        height: int = 512,
        width: int = 512,
        prior_guidance_scale: float = 4.0,
        prior_num_inference_steps: int = 25,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        prior_callback_on_step_end: Callable[..., Any] | None = None,
        prior_callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        **kwargs: Any,
    ) -> Any:
        """Pictures in which `image` is repainted where `mask_image` is white, one for all prompts or one
        for each.

        `latents` are the prior's (B, D) or the decoder's (B, 4, h, w).
        """
        of_prior, of_decoder = split_latents(latents)
        embeds = self._embeds(
            prompt,
            negative_prompt,
            num_images_per_prompt,
            prior_num_inference_steps,
            prior_guidance_scale,
            generator,
            of_prior,
            prior_callback_on_step_end,
            prior_callback_on_step_end_tensor_inputs,
        )
        return self.decoder_pipe(
            embeds[0],
            spread(image, len(embeds[0]), num_images_per_prompt),
            spread(mask_image, len(embeds[0]), num_images_per_prompt),
            embeds[1],
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            latents=of_decoder,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            **kwargs,
        )
