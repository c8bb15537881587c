"""What decoder pipelines do: image embeddings, beside texts or alone, become images."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.compat.diffusers.callbacks import Call, Callbacks, follow, warned
from kandinsky.compat.diffusers.generators import GivenFirst, rng_of
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
    whole,
)
from kandinsky.compat.diffusers.models import native_of
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.postprocess import check_output_type, decoded_images, output
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import UNET2, ComponentNetwork, Convention, Tensors, run
from kandinsky.compat.kinds import check_kind
from kandinsky.conditioning.conditions import Batch, TextEncoder
from kandinsky.conditioning.decoder_texts import DecoderTexts, stacked
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding
from kandinsky.core.requests import Request
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.loop import Step
from kandinsky.generations.k21 import published
from kandinsky.generations.model import Model
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.unet2 import UNet2
from kandinsky.networks.xlmr import MultilingualClip
from kandinsky.tasks.resolve import Resolved, resolve
from kandinsky.tasks.start import Start, batch_hint, start


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images of a call, one for all prompts or one for each; None where its task has none."""

    image: Images | None = None
    mask: list[Picture] | None = None
    hint: Images | None = None

    @property
    def count(self) -> int:
        """The most images of a kind."""
        return max([len(found.images) for found in (self.image, self.hint) if found is not None], default=1)

    def rows(self, prompts: int, copies: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The images of a request, and the numbers of those that came as numbers (B, 3, H, W), a row an image."""
        images: dict[str, Any] = {
            name: found.images for name, found in (("image", self.image), ("hint", self.hint)) if found
        }
        images |= {"mask": self.mask} if self.mask is not None else {}
        numbers = {"pixels": self.image and self.image.pixels, "hint": self.hint and self.hint.pixels}
        return (
            {name: repeated(paired(found, prompts, name), copies) for name, found in images.items()},
            {
                n: torch.stack(repeated(paired(found, prompts, "image"), copies))
                for n, found in numbers.items()
                if found
            },
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """What a call asks for, an image a row: its request, how many prompts have how many images each, images that
    came as numbers, and image embeddings with, of a guided call, negative ones."""

    request: Request
    prompts: int
    copies: int
    numbers: Mapping[str, Tensor]
    embeds: Sequence[Tensor] = ()


class DecoderPipeline(DiffusionPipeline):
    """A decoder pipeline: a core model made of its components, whose network callbacks can steer.

    Which task it does follows from what it is called with: an image, a mask, a hint.
    """

    COMPONENTS: ClassVar[tuple[str, ...]] = ("unet", "scheduler", "movq")
    CONVENTION: ClassVar[Convention] = UNET2
    unet: Any
    scheduler: Any
    movq: Any
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "image_embeds", "negative_image_embeds"]

    __init__ = made_of(COMPONENTS)

    def _model(self) -> Model:
        """The present components as the core runs them."""
        network = native_of(self.unet, UNet2)
        dtype = network.conv_in.weight.dtype
        return Model(
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

    def _call(self, given: dict[str, Any]) -> Any:
        """Images of one request: num_images_per_prompt of each prompt, all in one batch."""
        kind = check_output_type(given["output_type"])
        callbacks = Callbacks.of(self, given)
        given["num_images_per_prompt"] = counted(given["num_images_per_prompt"], "num_images_per_prompt")
        given["num_inference_steps"] = whole(given["num_inference_steps"])
        scale = given["guidance_scale"] = scaled(given["guidance_scale"])
        model = self._model()
        check_kind(type(self).__name__, model, "mask_image" in given)
        rows = self._asked(given, model)
        resolved = resolve(model, rows.request)
        size = len(resolved.rows)
        # diffusers compares their number where an image is changed, and nowhere else.
        exact = "image" in given and "mask_image" not in given
        rng = rng_of(given["generator"], size, model.dtype, model.device, given.get("latents"), exact=exact)
        batch = Batch(resolved.rows, rng, **rows.numbers)
        told, against = self._told(model, given, batch, rows)
        self.scheduler.set_timesteps(given["num_inference_steps"])
        network = ComponentNetwork(self.unet, self.CONVENTION, told, against)
        with self._calling(scale, model.guidance_offset) as call, self._ready("unet", "movq"):
            x = follow(trajectory(model, resolved, batch, network, call), callbacks, network, call)
            images = decoded_images(model, x, resolved.width, resolved.height, kind)
        return output(images, given["return_dict"])

    def _asked(self, given: Mapping[str, Any], model: Model) -> Rows:
        """The request of a call."""
        inputs, copies = _inputs(given, model.multiple), given["num_images_per_prompt"]
        embeds = self._embeds(given, inputs)
        prompts = len(embeds[0]) // copies
        images, numbers = inputs.rows(prompts, copies)
        fields = {name: given[name] for name in ("height", "width", "guidance_scale", "strength") if name in given}
        request = Request(
            prompt=[Embedding(*pair) for pair in zip(*embeds, strict=True)],
            steps=given["num_inference_steps"],
            seed=0,  # nothing is drawn from it
            **images,
            **fields,
        )
        return Rows(request, prompts, copies, numbers, embeds)

    def _told(self, model: Model, given: Mapping[str, Any], batch: Batch, rows: Rows) -> tuple[Tensors, Tensors]:
        """What the network is told, a row an image, with guidance the unconditional ones in front; and the negative
        tensors of a call without."""
        positive, *negative = (rows.to(model.device, model.dtype) for rows in rows.embeds)
        if negative:
            return {"image_embeds": torch.cat([*negative, positive])}, {}
        if given["negative_image_embeds"] is None:
            return {"image_embeds": positive}, {}
        against = embeddings(given["negative_image_embeds"], "negative_image_embeds")
        return {"image_embeds": positive}, {"negative_image_embeds": against.to(positive)}

    def _embeds(self, given: Mapping[str, Any], inputs: Inputs) -> list[Tensor]:
        """Embeddings and, when the call is guided, what to steer away from, a row an image."""
        found = [embeddings(given["image_embeds"], "image_embeds")]
        if is_guided(given["guidance_scale"]):
            if given["negative_image_embeds"] is None:
                raise RequestError(
                    f"guidance_scale {given['guidance_scale']:g} needs negative_image_embeds.",
                    "Give what the prior pipeline returns, or a guidance_scale of 1.",
                )
            found.append(embeddings(given["negative_image_embeds"], "negative_image_embeds"))
        count = max(len(found[0]), len(texts(given["prompt"])) if "prompt" in given else 1, inputs.count)
        copies = given["num_images_per_prompt"]
        return [torch.stack(repeated(paired(list(rows), count, "embeddings"), copies)) for rows in found]


class TextDecoderPipeline(DecoderPipeline):
    """A decoder pipeline whose decoder reads the texts themselves beside the embeddings."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer", *DecoderPipeline.COMPONENTS)
    text_encoder: object
    tokenizer: object

    __init__ = made_of(COMPONENTS)

    def _model(self) -> Model:
        model = super()._model()
        schedule = published(model.schedule, replace_known_region=model.extra_channels == 0)
        return replace(model, name="Kandinsky 2.1", schedule=schedule)

    def _told(self, model: Model, given: Mapping[str, Any], batch: Batch, rows: Rows) -> tuple[Tensors, Tensors]:
        told, against = super()._told(model, given, batch, rows)

        def each(value: object, name: str) -> list[str]:
            return repeated(paired(texts("" if value is None else value, name), rows.prompts, name), rows.copies)

        prompts = each(given["prompt"], "prompt")
        negatives = each(given["negative_prompt"], "negative_prompt")
        reading = [*(negatives if is_guided(given["guidance_scale"]) else []), *prompts]
        encoder = native_of(self.text_encoder, MultilingualClip)
        reader = TextEncoder(native_of(self.tokenizer, Tokenizer), encoder, self.device)
        with self._ready("text_encoder"):
            text: Any = stacked(warned(DecoderTexts(reader).encode(reading)), reading)
        return {**told, "encoder_hidden_states": text.text_hidden, "text_embeds": text.text_embedding}, against


def trajectory(
    model: Model, resolved: Resolved, batch: Batch, network: ComponentNetwork, call: Call
) -> Generator[Step, Tensor | None, None]:
    """The trajectory of a batch; a mask that a callback changes is from then on what stays known."""
    begin = start(model, resolved, batch)
    call.times, call.num_timesteps = begin.times, len(begin.times)
    count = len(begin.x)
    twice = len(next(iter(network.told.values()))) // count
    shared = {"hint": batch_hint(model, resolved, batch)} if model.hints else {}
    if begin.extra is not None:
        shared |= {"masked_image": begin.extra[:, :-1], "mask_image": begin.extra[:, -1:]}
    network.told |= {name: tensor.repeat(twice, 1, 1, 1) for name, tensor in shared.items()}
    mask = network.told["mask_image"].clone() if begin.extra is not None else None

    @cache
    def known_everywhere() -> Start:
        size = [side * model.codec.downscale for side in begin.x.shape[2:]]
        nothing = torch.zeros(count, 1, *size)
        return start(model, resolved, replace(batch, mask=nothing, rng=GivenFirst(begin.x, batch.rng)))

    def project(x: Tensor, t_next: float) -> Tensor:
        assert begin.project is not None
        if mask is None or torch.equal(mask, network.told["mask_image"]):
            return begin.project(x, t_next)
        known, wanted = network.told["mask_image"][-count:].to(x), known_everywhere().project
        assert wanted is not None
        return known * wanted(x, t_next) + (1 - known) * x

    keep = None if begin.project is None else project
    return run(network, resolved.schedule, resolved.sampler, begin.x, batch.rng, call, begin.paste, keep)


def _inputs(given: Mapping[str, Any], multiple: int) -> Inputs:
    """The images of a call."""
    size = given["width"], given["height"], multiple
    hint = images(given["hint"], *size, hint=True) if "hint" in given else None
    if "mask_image" in given:
        image, mask = region(given["image"], given["mask_image"], *size)
        return Inputs(image, mask, hint)
    return Inputs(images(given["image"], *size) if "image" in given else None, None, hint)
