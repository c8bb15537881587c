"""Prior and decoder of Kandinsky 2.1 as one pipeline."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from kandinsky.compat.diffusers.combined import (
    PRIOR_COMPONENTS,
    CombinedPipeline,
    prior_latents_only,
    split_latents,
)
from kandinsky.compat.diffusers.draws import Generators
from kandinsky.compat.diffusers.inputs import paired, repeated, spread, texts
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.compat.diffusers.prior import KandinskyPriorPipeline, PriorPipeline
from kandinsky.compat.diffusers.text_decoders import (
    KandinskyImg2ImgPipeline,
    KandinskyInpaintPipeline,
    KandinskyPipeline,
)

Prompt = str | Sequence[str]


class TextCombinedPipeline(CombinedPipeline):
    """What the three combined pipelines share; a negative prompt acts in both halves."""

    COMPONENTS: ClassVar[tuple[str, ...]] = (
        "text_encoder",
        "tokenizer",
        "unet",
        "scheduler",
        "movq",
        *PRIOR_COMPONENTS,
    )
    PRIOR: ClassVar[type[PriorPipeline]] = KandinskyPriorPipeline

    def __init__(
        self,
        text_encoder: Any,
        tokenizer: Any,
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
            text_encoder=text_encoder,
            tokenizer=tokenizer,
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

    def _conditions(
        self,
        prompt: Prompt,
        negative_prompt: Prompt | None,
        copies: int,
        steps: int,
        guidance_scale: float,
        generator: Generators,
        latents: Tensor | None,
    ) -> dict[str, Any]:
        """What the decoder is told, a row a picture: texts and embeddings."""
        embeds, against = self.prior_pipe(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=copies,
            num_inference_steps=steps,
            generator=generator,
            latents=latents,
            guidance_scale=guidance_scale,
            return_dict=False,
        )
        prompts = texts(prompt)
        negatives = None
        if negative_prompt is not None:
            negatives = repeated(paired(texts(negative_prompt), len(prompts), "negative_prompt"), copies)
        return {
            "prompt": repeated(prompts, copies),
            "negative_prompt": negatives,
            "image_embeds": embeds,
            "negative_image_embeds": against,
        }


class KandinskyCombinedPipeline(TextCombinedPipeline):
    """Text-to-image with Kandinsky 2.1."""

    DECODER: ClassVar[type[DiffusionPipeline]] = KandinskyPipeline

    def __call__(
        self,
        prompt: Prompt,
        negative_prompt: Prompt | None = None,
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
    ) -> Any:
        """Pictures of the prompts, num_images_per_prompt each, of exactly width x height.

        `latents` are the prior's (B, D) or the decoder's (B, 4, h, w).
        """
        of_prior, of_decoder = split_latents(latents)
        copies, steps = num_images_per_prompt, prior_num_inference_steps
        told = self._conditions(
            prompt, negative_prompt, copies, steps, prior_guidance_scale, generator, of_prior
        )
        return self.decoder_pipe(
            **told,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            latents=of_decoder,
            output_type=output_type,
            callback=callback,
            callback_steps=callback_steps,
            return_dict=return_dict,
        )


class KandinskyImg2ImgCombinedPipeline(TextCombinedPipeline):
    """Image-to-image with Kandinsky 2.1."""

    DECODER: ClassVar[type[DiffusionPipeline]] = KandinskyImg2ImgPipeline

    def __call__(
        self,
        prompt: Prompt,
        image: Any,
        negative_prompt: Prompt | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        strength: float = 0.3,
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
    ) -> Any:
        """Pictures of the prompts that keep something of `image`, one for all prompts or one for each.

        `latents` are the prior's, (B, D).
        """
        copies, steps = num_images_per_prompt, prior_num_inference_steps
        of_prior = prior_latents_only(latents)
        told = self._conditions(
            prompt, negative_prompt, copies, steps, prior_guidance_scale, generator, of_prior
        )
        return self.decoder_pipe(
            **told,
            image=spread(image, len(told["prompt"]), copies),
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            strength=strength,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type=output_type,
            callback=callback,
            callback_steps=callback_steps,
            return_dict=return_dict,
        )


class KandinskyInpaintCombinedPipeline(TextCombinedPipeline):
    """Inpainting with Kandinsky 2.1."""

    DECODER: ClassVar[type[DiffusionPipeline]] = KandinskyInpaintPipeline

    def __call__(
        self,
        prompt: Prompt,
        image: Any,
        mask_image: Any,
        negative_prompt: Prompt | None = None,
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
    ) -> Any:
        """Pictures in which `image` is repainted where `mask_image` is white, one for all prompts or for
        each.

        `latents` are the prior's (B, D) or the decoder's (B, 4, h, w).
        """
        of_prior, of_decoder = split_latents(latents)
        copies, steps = num_images_per_prompt, prior_num_inference_steps
        told = self._conditions(
            prompt, negative_prompt, copies, steps, prior_guidance_scale, generator, of_prior
        )
        return self.decoder_pipe(
            **told,
            image=spread(image, len(told["prompt"]), copies),
            mask_image=spread(mask_image, len(told["prompt"]), copies),
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            latents=of_decoder,
            output_type=output_type,
            callback=callback,
            callback_steps=callback_steps,
            return_dict=return_dict,
        )
