"""The decoder pipelines of Kandinsky 2.2: image embeddings become pictures."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kandinsky.codecs.movq_codec import MoVQCodec
from kandinsky.compat.diffusers.draws import Generators, rng_of
from kandinsky.compat.diffusers.following import Callbacks, follow
from kandinsky.compat.diffusers.inputs import Pictures, embeddings, images, paired, region, repeated
from kandinsky.compat.diffusers.parts import native_of
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.compat.diffusers.results import check_output_type, output, pictures
from kandinsky.compat.diffusers.steering import Steered
from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding
from kandinsky.core.requests import Request
from kandinsky.diffusion.guidance import is_guided
from kandinsky.generations.model import Model
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.tasks.check import check
from kandinsky.tasks.generate import denoise

LATENTS = ["latents"]


@dataclass(frozen=True)
class Told:
    """Texts that a decoder reads itself: prompts, and what it reads unconditionally, one for all or for
    each."""

    prompts: list[str]
    negatives: list[str]


class DecoderPipeline(DiffusionPipeline):
    """What the decoder pipelines share: a core model made of their components, run by the core's own path."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("unet", "scheduler", "movq")
    unet: Any
    scheduler: Any
    movq: Any
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "image_embeds", "negative_image_embeds"]

    def __init__(self, unet: Any, scheduler: Any, movq: Any) -> None:
        super().__init__(unet=unet, scheduler=scheduler, movq=movq)

    def _model(self) -> tuple[Model, Steered]:
        """The present components as the core runs them."""
        network = Steered(self.unet)
        dtype = network.native.conv_in.weight.dtype
        model = Model(
            name="Kandinsky 2.2",
            conditioner=ImagePromptConditioner(None, network.config.image_dim, self.device, dtype),
            network=network,
            codec=MoVQCodec(native_of(self.movq, MoVQ)),
            schedule=self.scheduler.schedule,
            defaults={},
            device=self.device,
            dtype=dtype,
            hints=network.config.condition == "image_hint",
        )
        return model, network

    def _run(
        self,
        image_embeds: Any,
        negative_image_embeds: Any,
        copies: int,
        fields: Mapping[str, Any],
        generator: Generators,
        callbacks: Callbacks,
        output_type: str | None,
        return_dict: bool,
        latents: Tensor | None = None,
        image: Pictures | None = None,
        mask: list[Picture] | None = None,
        hint: Pictures | None = None,
        told: Told | None = None,
    ) -> Any:
        """Pictures of one request, `copies` of each prompt, all in one batch.

        `fields` are height, width, steps, guidance_scale and perhaps strength; embeddings, texts and
        pictures are one for all prompts or one for each.
        """
        kind = check_output_type(output_type)
        given = embeddings(image_embeds, "image_embeds")
        pictured = [len(found.pictures) for found in (image, hint) if found is not None]
        prompts = max(len(given), len(told.prompts) if told else 1, *pictured, 1)
        embeds = _each(given, prompts, copies)
        negative = self._negative(negative_image_embeds, fields["guidance_scale"], prompts, copies)
        model, network = self._model()

        def rows(found: list[Picture] | None, name: str) -> list[Picture] | None:
            return None if found is None else repeated(paired(found, prompts, name), copies)

        request = Request(
            prompt=[
                Embedding(row, None if negative is None else negative[i]) for i, row in enumerate(embeds)
            ],
            image=rows(None if image is None else image.pictures, "image"),
            mask=rows(mask, "mask_image"),
            hint=rows(None if hint is None else hint.pictures, "hint"),
            seed=0,  # nothing is drawn from it
            **fields,
        ).filled({"width": fields["width"], "height": fields["height"]})
        check(model, request)
        rng = rng_of(generator, len(embeds), model.dtype, model.device, latents)
        batch = Batch(request.rows(), rng, _stacked(image, prompts, copies), _stacked(hint, prompts, copies))
        conditions = self._conditions(model, embeds, negative, told, copies)
        with self._ready("unet", "movq"):
            steps = denoise(model, request, batch, conditions)
            x = follow(steps, callbacks, network.tensors, network.change, self._progress)
            return output(pictures(model, x, fields["width"], fields["height"], kind), return_dict)

    def _negative(self, given: Any, guidance_scale: float, prompts: int, copies: int) -> Tensor | None:
        """What to steer away from, a row a picture; None when nothing is guided."""
        if not is_guided(guidance_scale):
            return None
        if given is None:
            raise RequestError(
                f"guidance_scale {guidance_scale:g} needs negative_image_embeds.",
                "Give what the prior pipeline returns, or a guidance_scale of 1.",
            )
        return _each(embeddings(given, "negative_image_embeds"), prompts, copies)

    def _conditions(
        self, model: Model, embeds: Tensor, negative: Tensor | None, told: Told | None, copies: int
    ) -> Conditions:
        """What the network is told, a row a picture."""
        cond = UNet2Condition(embeds.to(model.device, model.dtype))
        if negative is None:
            return Conditions(cond, None)
        return Conditions(cond, UNet2Condition(negative.to(model.device, model.dtype)))

    def _images(self, value: Any, fields: Mapping[str, Any], **how: bool) -> Pictures:
        return images(value, fields["width"], fields["height"], self._multiple, **how)

    def _region(self, value: Any, mask: Any, fields: Mapping[str, Any]) -> tuple[Pictures, list[Picture]]:
        return region(value, mask, fields["width"], fields["height"], self._multiple)

    @property
    def _multiple(self) -> int:
        return self._model()[0].multiple

    def _callbacks(
        self, on_step_end: Callable[..., Any] | None, names: list[str], extra: dict[str, Any]
    ) -> Callbacks:
        """The caller's callbacks, the older kind from the extra keywords; others of these are warned of."""
        legacy, every = extra.pop("callback", None), extra.pop("callback_steps", None)
        for name in extra:
            warnings.warn(f"{type(self).__name__} takes no {name!r}.", UserWarning, stacklevel=3)
        return Callbacks(self, on_step_end, names, legacy, 1 if every is None else every).checked(
            self._callback_tensor_inputs
        )


def _each(rows: Tensor, prompts: int, copies: int) -> Tensor:
    """Embeddings (B, D) for B prompts, each `copies` times."""
    return torch.stack(repeated(paired(list(rows), prompts, "embeddings"), copies))


def _stacked(found: Pictures | None, prompts: int, copies: int) -> Tensor | None:
    """Pictures that came as numbers, (B, 3, H, W)."""
    if found is None or found.pixels is None:
        return None
    return torch.stack(repeated(paired(found.pixels, prompts, "image"), copies))


class KandinskyV22Pipeline(DecoderPipeline):
    """Text-to-image with Kandinsky 2.2, from the prior's embeddings."""

    def __call__(
        self,
        image_embeds: Any,
        negative_image_embeds: Any,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        **kwargs: Any,
    ) -> Any:
        """Pictures of the embeddings (B, D), num_images_per_prompt each, of exactly width x height."""
        fields = fields_of(height, width, num_inference_steps, guidance_scale)
        callbacks = self._callbacks(callback_on_step_end, callback_on_step_end_tensor_inputs, kwargs)
        return self._run(
            image_embeds,
            negative_image_embeds,
            num_images_per_prompt,
            fields,
            generator,
            callbacks,
            output_type,
            return_dict,
            latents=latents,
        )


class KandinskyV22Img2ImgPipeline(DecoderPipeline):
    """Image-to-image with Kandinsky 2.2."""

    def __call__(
        self,
        image_embeds: Any,
        image: Any,
        negative_image_embeds: Any,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        strength: float = 0.3,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        **kwargs: Any,
    ) -> Any:
        """Pictures that keep something of `image`, the less the higher `strength` in (0, 1] is.

        `image` is one for all embeddings or one for each.
        """
        fields = fields_of(height, width, num_inference_steps, guidance_scale, strength)
        callbacks = self._callbacks(callback_on_step_end, callback_on_step_end_tensor_inputs, kwargs)
        return self._run(
            image_embeds,
            negative_image_embeds,
            num_images_per_prompt,
            fields,
            generator,
            callbacks,
            output_type,
            return_dict,
            image=self._images(image, fields),
        )


class KandinskyV22InpaintPipeline(DecoderPipeline):
    """Inpainting with Kandinsky 2.2."""

    _callback_tensor_inputs: ClassVar[list[str]] = [
        *DecoderPipeline._callback_tensor_inputs,
        "masked_image",
        "mask_image",
    ]

    def __call__(
        self,
        image_embeds: Any,
        image: Any,
        mask_image: Any,
        negative_image_embeds: Any,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = LATENTS,
        **kwargs: Any,
    ) -> Any:
        """Pictures in which `image` is repainted where `mask_image` is white (1), each from its own image
        and mask.

        A tensor as the image is in -1..1.
        """
        fields = fields_of(height, width, num_inference_steps, guidance_scale)
        callbacks = self._callbacks(callback_on_step_end, callback_on_step_end_tensor_inputs, kwargs)
        known, mask = self._region(image, mask_image, fields)
        return self._run(
            image_embeds,
            negative_image_embeds,
            num_images_per_prompt,
            fields,
            generator,
            callbacks,
            output_type,
            return_dict,
            latents=latents,
            image=known,
            mask=mask,
        )


class KandinskyV22ControlnetPipeline(DecoderPipeline):
    """Text-to-image with Kandinsky 2.2 under a hint picture, such as a depth map."""

    def __call__(
        self,
        image_embeds: Any,
        negative_image_embeds: Any,
        hint: Any,
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
        """Pictures under `hint`, a tensor (B, 3, H, W) in 0..1 or a picture, one for all embeddings or one
        for each."""
        fields = fields_of(height, width, num_inference_steps, guidance_scale)
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
            hint=self._images(hint, fields, hint=True),
        )


class KandinskyV22ControlnetImg2ImgPipeline(DecoderPipeline):
    """Image-to-image with Kandinsky 2.2 under a hint picture."""

    def __call__(
        self,
        image_embeds: Any,
        image: Any,
        negative_image_embeds: Any,
        hint: Any,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        strength: float = 0.3,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str | None = "pil",
        callback: Callable[..., Any] | None = None,
        callback_steps: int = 1,
        return_dict: bool = True,
    ) -> Any:
        """As `KandinskyV22Img2ImgPipeline`, under `hint`."""
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
            hint=self._images(hint, fields, hint=True),
        )


def fields_of(
    height: int, width: int, num_inference_steps: int, guidance_scale: float, strength: float | None = None
) -> dict[str, Any]:
    """The settings that all decoders have, as `_run` takes them."""
    fields: dict[str, Any] = {"height": height, "width": width, "steps": num_inference_steps}
    fields["guidance_scale"] = guidance_scale
    return fields if strength is None else {**fields, "strength": strength}
