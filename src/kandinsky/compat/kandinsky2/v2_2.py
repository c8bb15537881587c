"""Kandinsky 2.2 by the original code's names, which wrapped pipelines of diffusers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL.Image import Image

from kandinsky.compat.calls import generating
from kandinsky.compat.diffusers.decoder import DecoderPipeline
from kandinsky.compat.diffusers.pipelines import (
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
)
from kandinsky.compat.diffusers.prior import PriorPipeline
from kandinsky.compat.kandinsky2.inputs import repainted, sized
from kandinsky.core.errors import RequestError

TASKS: dict[str, type[DecoderPipeline]] = {
    "text2img": KandinskyV22Pipeline,
    "img2img": KandinskyV22Img2ImgPipeline,
    "inpainting": KandinskyV22InpaintPipeline,
}


DEFAULTS: dict[str, object] = {
    "batch_size": 1,
    "decoder_guidance_scale": 4,
    "decoder_steps": 50,
    "h": 512,
    "negative_decoder_prompt": "",
    "negative_prior_prompt": "",
    "prior_guidance_scale": 4,
    "prior_steps": 25,
    "strength": 0.4,
    "w": 512,
}
"""What a parameter is unless its method's own row says otherwise; all others are required."""
SETTINGS = (
    "batch_size decoder_steps prior_steps decoder_guidance_scale prior_guidance_scale h w "
    "negative_prior_prompt negative_decoder_prompt"
)


def _whole(steps: str | int) -> int:
    """A count of steps, perhaps as a string as in 2.1; RequestError for sections, which 2.2 never knew."""
    text = str(steps).strip()
    if not text.isdecimal():
        raise RequestError(f"prior_steps is {steps!r}.", "Give a whole number, such as 25.")
    return int(text)


made = generating(DEFAULTS)


class Kandinsky2_2:  # noqa: N801  (the name that existing code uses)
    """Kandinsky 2.2; every method returns a list of PIL images of exactly w x h.

    `prior` and `decoder` are pipelines of `kandinsky.compat.diffusers`; every method works whatever the
    task is that was asked for, as far as the decoder's U-Net can do it.
    """

    def __init__(self, prior: PriorPipeline, decoder: DecoderPipeline, task_type: str = "text2img") -> None:
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

    generate_text2img = made(f"prompt {SETTINGS}", "Images of a prompt.", "generate_text2img")
    generate_img2img = made(
        f"prompt image strength {SETTINGS}",
        "Images that keep the less of `image` the higher `strength` in (0, 1] is: not as in 2.0 and 2.1.",
        "generate_img2img",
        decoder_steps=100,
    )
    generate_inpainting = made(
        f"prompt pil_img img_mask {SETTINGS}",
        "Images in which `pil_img` is kept where `img_mask` is 1 and repainted elsewhere.",
        "generate_inpainting",
    )
    mix_images = made(
        f"images_texts weights {SETTINGS}", "Images of the weighted sum of texts and images.", "mix_images"
    )

    def _generate(self, given: dict[str, Any]) -> list[Image]:
        """The images of any of the tasks, told apart by the inputs they have."""
        told = {
            "num_images_per_prompt": given["batch_size"],
            "num_inference_steps": _whole(given["prior_steps"]),
            "guidance_scale": given["prior_guidance_scale"],
        }
        prior_negative, negative = given["negative_prior_prompt"] or None, given["negative_decoder_prompt"]
        if "weights" in given:
            items = given["images_texts"], given["weights"]
            found = self.prior.interpolate(*items, **told, negative_prior_prompt=prior_negative)
        else:
            found = self.prior(given["prompt"], negative_prompt=prior_negative, **told)
        # The original code takes the prior's negative prompt here in all methods but one.
        against = (
            self.prior(negative, **told).image_embeds if negative else self.prior.get_zero_embed(given["batch_size"])
        )
        pipe, inputs = self._task(given)
        images: list[Image] = pipe.from_pipe(self.decoder)(
            image_embeds=found.image_embeds,
            negative_image_embeds=against,
            num_inference_steps=given["decoder_steps"],
            height=given["h"],
            width=given["w"],
            guidance_scale=given["decoder_guidance_scale"],
            **inputs,
        ).images
        return images

    def _task(self, given: Mapping[str, Any]) -> tuple[type[DecoderPipeline], dict[str, Any]]:
        """The pipeline of a call, and what it is told beside embeddings and settings."""
        if "img_mask" in given:
            size = given["w"], given["h"]
            mask = repainted(given["img_mask"], *size).astype(np.float32)
            return TASKS["inpainting"], {"image": sized(given["pil_img"], *size), "mask_image": mask}
        if "image" in given:
            return TASKS["img2img"], {"image": given["image"], "strength": given["strength"]}
        return TASKS["text2img"], {}
