"""What decoder pipelines do: image embeddings, beside texts or alone, become images."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.compat.diffusers.callbacks import LATENTS, Callbacks, follow, warned
from kandinsky.compat.diffusers.generators import rng_of
from kandinsky.compat.diffusers.inputs import (
    Images,
    counted,
    embeddings,
    images,
    paired,
    region,
    repeated,
    scaled,
    texts,
)
from kandinsky.compat.diffusers.models import native_of
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.postprocess import check_output_type, decoded_images, output
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import Steered
from kandinsky.compat.kinds import check_kind
from kandinsky.conditioning.conditions import Batch, Conditions, TextEncoder
from kandinsky.conditioning.decoder_texts import DecoderTexts, stacked
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding
from kandinsky.core.requests import Request
from kandinsky.diffusion.guidance import is_guided
from kandinsky.generations.k21 import published
from kandinsky.generations.model import Model
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.xlmr import MultilingualClip
from kandinsky.tasks.generate import denoise
from kandinsky.tasks.resolve import resolve


@dataclass(frozen=True)
class Told:
    """Texts that a decoder reads itself: prompts, and what it reads unconditionally, one for each."""

    prompts: list[str]
    negatives: list[str]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images of a call, one for all prompts or one for each; None where its task has none."""

    image: Images | None = None
    mask: list[Picture] | None = None
    hint: Images | None = None

    @property
    def counts(self) -> list[int]:
        """How many images of each kind there are."""
        return [len(found.images) for found in (self.image, self.hint) if found is not None]


class DecoderPipeline(DiffusionPipeline):
    """A decoder pipeline: a core model made of its components, run by the core's own path.

    Which task it does follows from what it is called with: an image, a mask, a hint.
    """

    COMPONENTS: ClassVar[tuple[str, ...]] = ("unet", "scheduler", "movq")
    unet: Any
    scheduler: Any
    movq: object
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "image_embeds", "negative_image_embeds"]

    __init__ = made_of(COMPONENTS)

    def _model(self) -> tuple[Model, Steered]:
        """The present components as the core runs them."""
        network = Steered(self.unet)
        dtype = network.native.conv_in.weight.dtype
        model = Model(
            name="Kandinsky 2.2",
            conditioner=ImagePromptConditioner(None, network.config.image_dim, self.device, dtype),
            network=network,
            codec=AutoencoderCodec(native_of(self.movq, MoVQ)),
            schedule=schedule_of(self.scheduler),
            defaults={},
            device=self.device,
            dtype=dtype,
            hints=network.config.condition == "image_hint",
        )
        return model, network

    def _call(self, given: dict[str, Any]) -> Any:
        """Images of one request: num_images_per_prompt of each prompt, all in one batch."""
        kind = check_output_type(given["output_type"])
        callbacks = self._callbacks(given)
        counted(given["num_images_per_prompt"], "num_images_per_prompt")
        model, network = self._model()
        check_kind(type(self).__name__, model, "mask_image" in given)
        fields = {name: given[name] for name in ("height", "width", "guidance_scale")}
        fields |= {"steps": given["num_inference_steps"]}
        fields |= {"strength": given["strength"]} if "strength" in given else {}
        inputs = _inputs(given, model.multiple)
        told = _told(given)
        embeds, negative = self._embeds(given, told, inputs)
        copies, prompts = given["num_images_per_prompt"], len(embeds) // given["num_images_per_prompt"]

        def rows(found: list[Picture] | None, name: str) -> list[Picture] | None:
            return None if found is None else repeated(paired(found, prompts, name), copies)

        request = Request(
            prompt=[Embedding(row, None if negative is None else negative[i]) for i, row in enumerate(embeds)],
            image=rows(None if inputs.image is None else inputs.image.images, "image"),
            mask=rows(inputs.mask, "mask_image"),
            hint=rows(None if inputs.hint is None else inputs.hint.images, "hint"),
            seed=0,  # nothing is drawn from it
            **fields,
        )
        resolved = resolve(model, request)
        rng = rng_of(given["generator"], len(embeds), model.dtype, model.device, given.get("latents"))
        pixels = (stacked_pixels(found, prompts, copies) for found in (inputs.image, inputs.hint))
        batch = Batch(resolved.rows, rng, *pixels)
        conditions = self._conditions(model, embeds, negative, told, copies)
        with self._ready("unet", "movq"):
            steps = denoise(model, resolved, batch, conditions)
            x = follow(steps, callbacks, network.tensors, network.change, self._progress)
            return output(decoded_images(model, x, fields["width"], fields["height"], kind), given["return_dict"])

    def _embeds(self, given: Mapping[str, Any], told: Told | None, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Embeddings and what to steer away from, a row an image; the latter is None when nothing is
        guided."""
        positive = embeddings(given["image_embeds"], "image_embeds")
        prompts = max(len(positive), len(told.prompts) if told else 1, *inputs.counts, 1)
        copies, scale = given["num_images_per_prompt"], scaled(given["guidance_scale"])
        if not is_guided(scale):
            return _each(positive, prompts, copies), None
        if given["negative_image_embeds"] is None:
            raise RequestError(
                f"guidance_scale {scale:g} needs negative_image_embeds.",
                "Give what the prior pipeline returns, or a guidance_scale of 1.",
            )
        negative = embeddings(given["negative_image_embeds"], "negative_image_embeds")
        return _each(positive, prompts, copies), _each(negative, prompts, copies)

    def _conditions(
        self, model: Model, embeds: Tensor, negative: Tensor | None, told: Told | None, copies: int
    ) -> Conditions:
        """What the network is told, a row an image."""
        cond = UNet2Condition(embeds.to(model.device, model.dtype))
        if negative is None:
            return Conditions(cond, None)
        return Conditions(cond, UNet2Condition(negative.to(model.device, model.dtype)))

    def _callbacks(self, given: Mapping[str, Any]) -> Callbacks:
        """The caller's callbacks, those of the older kind perhaps among further keywords; other keywords are
        warned of."""
        extra = dict(given.get("kwargs", {}))
        legacy = given.get("callback", extra.pop("callback", None))
        every = given.get("callback_steps", extra.pop("callback_steps", None))
        for name in extra:
            warnings.warn(f"{type(self).__name__} takes no {name!r}.", UserWarning, stacklevel=5)
        on_step_end = given.get("callback_on_step_end")
        names = given.get("callback_on_step_end_tensor_inputs", LATENTS)
        made = Callbacks(self, on_step_end, names, legacy, 1 if every is None else every)
        return made.checked(self._callback_tensor_inputs)


class TextDecoderPipeline(DecoderPipeline):
    """A decoder pipeline whose decoder reads the texts themselves beside the embeddings."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer", *DecoderPipeline.COMPONENTS)
    text_encoder: object
    tokenizer: object

    __init__ = made_of(COMPONENTS)

    def _model(self) -> tuple[Model, Steered]:
        model, network = super()._model()
        schedule = published(schedule_of(self.scheduler), replace_known_region=model.extra_channels == 0)
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
        reader = TextEncoder(native_of(self.tokenizer, Tokenizer), encoder, self.device)
        with self._ready("text_encoder"):
            run = DecoderTexts(reader).encode([*cond, *(uncond if negative is not None else [])])
            found: dict[str, UNet2Condition] = warned(run)

        def beside(image: UNet2Condition, rows: list[str]) -> UNet2Condition:
            text = stacked(found, rows)
            return replace(image, text_hidden=text.text_hidden, text_embedding=text.text_embedding)

        return Conditions(beside(images.cond, cond), None if images.uncond is None else beside(images.uncond, uncond))


def _inputs(given: Mapping[str, Any], multiple: int) -> Inputs:
    """The images of a call."""
    size = given["width"], given["height"], multiple
    hint = images(given["hint"], *size, hint=True) if "hint" in given else None
    if "mask_image" in given:
        image, mask = region(given["image"], given["mask_image"], *size)
        return Inputs(image, mask, hint)
    return Inputs(images(given["image"], *size) if "image" in given else None, None, hint)


def _told(given: Mapping[str, Any]) -> Told | None:
    """The texts of a call; no negative prompt is the empty one."""
    if "prompt" not in given:
        return None
    prompts, against = texts(given["prompt"]), given["negative_prompt"]
    negatives = texts("" if against is None else against, "negative_prompt")
    return Told(prompts, paired(negatives, len(prompts), "negative_prompt"))


def _each(rows: Tensor, prompts: int, copies: int) -> Tensor:
    """Embeddings (B, D) for B prompts, each `copies` times."""
    return torch.stack(repeated(paired(list(rows), prompts, "embeddings"), copies))


def stacked_pixels(found: Images | None, prompts: int, copies: int) -> Tensor | None:
    """Images that came as numbers, (B, 3, H, W)."""
    if found is None or found.pixels is None:
        return None
    return torch.stack(repeated(paired(found.pixels, prompts, "image"), copies))
