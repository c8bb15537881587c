"""Kandinsky 2.2 by the original code's names, which wrapped pipelines of the peer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Image
from torch import Tensor

from kandinsky.compat.diffusers.decoders import (
    DecoderPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
)
from kandinsky.compat.diffusers.prior import KandinskyV22PriorPipeline
from kandinsky.compat.kandinsky2.inputs import repainted, sized

TASKS: dict[str, type[DecoderPipeline]] = {
    "text2img": KandinskyV22Pipeline,
    "img2img": KandinskyV22Img2ImgPipeline,
    "inpainting": KandinskyV22InpaintPipeline,
}


class Kandinsky2_2:  # noqa: N801  (the name that existing code uses)
    """Kandinsky 2.2; every method returns a list of PIL pictures of exactly w x h.

    `prior` and `decoder` are pipelines of `kandinsky.compat.diffusers`; every method works whatever the
    task is that was asked for, as far as the decoder's U-Net can do it.
    """

    def __init__(
        self, prior: KandinskyV22PriorPipeline, decoder: DecoderPipeline, task_type: str = "text2img"
    ) -> None:
        self.prior = prior
        self.decoder = decoder
        self.task_type = task_type

    @property
    def unet(self) -> Any:
        """The decoder's U-Net."""
        return self.decoder.unet

    @property
    def image_encoder(self) -> Any:
        """The prior's image encoder."""
        return self.prior.image_encoder

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.decoder.device

    def generate_text2img(
        self,
        prompt: str,
        batch_size: int = 1,
        decoder_steps: int = 50,
        prior_steps: int = 25,
        decoder_guidance_scale: float = 4,
        prior_guidance_scale: float = 4,
        h: int = 512,
        w: int = 512,
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures of a prompt."""
        told = (batch_size, int(prior_steps), prior_guidance_scale)
        embeds = self._embeds(prompt, negative_prior_prompt, *told)
        against = self._against(negative_decoder_prompt, *told)
        return self._decoded(
            "text2img",
            decoder_steps,
            decoder_guidance_scale,
            h,
            w,
            image_embeds=embeds,
            negative_image_embeds=against,
        )

    def generate_img2img(
        self,
        prompt: str,
        image: Any,
        strength: float = 0.4,
        batch_size: int = 1,
        decoder_steps: int = 100,
        prior_steps: int = 25,
        decoder_guidance_scale: float = 4,
        prior_guidance_scale: float = 4,
        h: int = 512,
        w: int = 512,
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures that keep the less of `image` the higher `strength` in (0, 1] is: not as in 2.0 and
        2.1."""
        told = (batch_size, int(prior_steps), prior_guidance_scale)
        return self._decoded(
            "img2img",
            decoder_steps,
            decoder_guidance_scale,
            h,
            w,
            image_embeds=self._embeds(prompt, negative_prior_prompt, *told),
            negative_image_embeds=self._against(negative_decoder_prompt, *told),
            strength=strength,
            image=image,
        )

    def mix_images(
        self,
        images_texts: Sequence[Any],
        weights: Sequence[float],
        batch_size: int = 1,
        decoder_steps: int = 50,
        prior_steps: int = 25,
        decoder_guidance_scale: float = 4,
        prior_guidance_scale: float = 4,
        h: int = 512,
        w: int = 512,
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures of the weighted sum of texts and pictures."""
        told = (batch_size, int(prior_steps), prior_guidance_scale)
        mixed = self.prior.interpolate(
            images_texts,
            weights,
            num_images_per_prompt=batch_size,
            num_inference_steps=int(prior_steps),
            guidance_scale=prior_guidance_scale,
            negative_prior_prompt=negative_prior_prompt or None,
        )
        return self._decoded(
            "text2img",
            decoder_steps,
            decoder_guidance_scale,
            h,
            w,
            image_embeds=mixed.image_embeds,
            negative_image_embeds=self._against(negative_decoder_prompt, *told),
        )

    def generate_inpainting(
        self,
        prompt: str,
        pil_img: Any,
        img_mask: Any,
        batch_size: int = 1,
        decoder_steps: int = 50,
        prior_steps: int = 25,
        decoder_guidance_scale: float = 4,
        prior_guidance_scale: float = 4,
        h: int = 512,
        w: int = 512,
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures in which `pil_img` is kept where `img_mask` is 1 and repainted elsewhere."""
        told = (batch_size, int(prior_steps), prior_guidance_scale)
        return self._decoded(
            "inpainting",
            decoder_steps,
            decoder_guidance_scale,
            h,
            w,
            image_embeds=self._embeds(prompt, negative_prior_prompt, *told),
            negative_image_embeds=self._against(negative_decoder_prompt, *told),
            image=sized(pil_img, w, h),
            mask_image=repainted(img_mask, w, h).astype(np.float32),
        )

    def _embeds(self, prompt: str, negative: str, batch_size: int, steps: int, scale: float) -> Tensor:
        found: Tensor = self.prior(
            prompt,
            negative_prompt=negative or None,
            num_images_per_prompt=batch_size,
            num_inference_steps=steps,
            guidance_scale=scale,
        ).image_embeds
        return found

    def _against(self, negative: str, batch_size: int, steps: int, scale: float) -> Tensor:
        """What the decoder steers away from: the negative prompt's embedding, or that of no picture.

        The original code takes the prior's negative prompt here in all methods but one.
        """
        return (
            self._embeds(negative, "", batch_size, steps, scale)
            if negative
            else self.prior.get_zero_embed(batch_size)
        )

    def _decoded(
        self, task: str, steps: int, guidance_scale: float, h: int, w: int, **fields: Any
    ) -> list[Image]:
        pipe = TASKS[task].from_pipe(self.decoder)
        images: list[Image] = pipe(
            num_inference_steps=steps, height=h, width=w, guidance_scale=guidance_scale, **fields
        ).images
        return images
