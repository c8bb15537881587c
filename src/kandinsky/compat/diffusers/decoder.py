"""What decoder pipelines do: image embeddings, beside texts or alone, become images."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.compat.diffusers.callbacks import Call, Callbacks, follow, warned
from kandinsky.compat.diffusers.inputs import counted, embeddings, images, paired, region, scaled, texts, whole
from kandinsky.compat.diffusers.models import MultilingualCLIP, VQModel, native_of, part_of, runner_of
from kandinsky.compat.diffusers.noise import Draws, rng_of
from kandinsky.compat.diffusers.outputs import ImagePipelineOutput
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import UNET2, ComponentNetwork, Convention, Tensors, run
from kandinsky.compat.originals import check_kind
from kandinsky.conditioning.conditions import Batch, TextEncoder
from kandinsky.conditioning.decoder_texts import DecoderTexts, stacked
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.images import Picture, crop, to_pil
from kandinsky.core.prompts import Embedding
from kandinsky.core.requests import Request
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.loop import Step
from kandinsky.generations.k21 import published
from kandinsky.generations.model import Model
from kandinsky.tasks.resolve import Resolved, resolve
from kandinsky.tasks.start import Start, batch_hint, start

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, eq=False)
class Rows:
    """What a call asks for, an image a row: its request, how many prompts have how many images each, and image
    embeddings with, of a guided call, negative ones."""

    request: Request
    prompts: int
    copies: int
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
        network: Any = part_of(self.unet, self.CONVENTION.kind).native
        dtype = network.conv_in.weight.dtype
        return Model(
            name="Kandinsky 2.2",
            conditioner=ImagePromptConditioner(None, network.config.image_dim, self.device, dtype),
            network=network,
            codec=self._codec(),
            schedule=schedule_of(self.scheduler),
            defaults={},
            device=self.device,
            dtype=dtype,
            hints=network.config.condition == "image_hint",
        )

    def _codec(self) -> AutoencoderCodec:
        """The MoVQ as the core runs it; one that somebody changed is called with whole images."""
        network = runner_of(self.movq, VQModel)
        return AutoencoderCodec(network, tiling="auto" if network is part_of(self.movq, VQModel).native else False)

    def _call(self, given: dict[str, Any]) -> Any:
        """Images of one request: num_images_per_prompt of each prompt, all in one batch."""
        kind = "pil" if given["output_type"] is None else given["output_type"]
        if kind not in OUTPUT_TYPES:
            raise RequestError(f"There is no output_type {kind!r}.", nearest(str(kind), OUTPUT_TYPES))
        callbacks = Callbacks.of(self, given)
        given["num_images_per_prompt"] = counted(given["num_images_per_prompt"], "num_images_per_prompt")
        given["num_inference_steps"] = whole(given["num_inference_steps"])
        scale = given["guidance_scale"] = scaled(given["guidance_scale"])
        model = self._model()
        check_kind(type(self).__name__, model, "mask_image" in given)
        rows = self._asked(given, model)
        resolved = resolve(model, rows.request)
        # diffusers compares their number where an image is changed, and nowhere else.
        exact = "image" in given and "mask_image" not in given
        size, place = len(resolved.rows), (model.dtype, model.device)
        batch = Batch(resolved.rows, rng_of(given["generator"], size, *place, given.get("latents"), exact=exact))
        told, against = self._told(model, given, batch, rows)
        self.scheduler.set_timesteps(given["num_inference_steps"])
        network = ComponentNetwork(self.unet, self.CONVENTION, told, against)
        with self._calling(scale, model.guidance_offset) as call, self._ready("unet", "movq"):
            x = follow(trajectory(model, resolved, batch, network, call), callbacks, network, call)
            drawn = decoded(model, x, resolved.width, resolved.height, kind)
        return ImagePipelineOutput(drawn).handed(given["return_dict"])

    def _asked(self, given: Mapping[str, Any], model: Model) -> Rows:
        """The request of a call."""
        inputs, copies = _inputs(given), given["num_images_per_prompt"]
        embeds = self._embeds(given, max([1, *(len(inputs[name]) for name in ("image", "hint") if name in inputs)]))
        prompts = len(embeds[0]) // copies
        fields = {name: given[name] for name in ("height", "width", "guidance_scale", "strength") if name in given}
        request = Request(
            prompt=[Embedding(*pair) for pair in zip(*embeds, strict=True)],
            steps=given["num_inference_steps"],
            seed=0,  # nothing is drawn from it
            **{name: paired(found, prompts, name, copies) for name, found in inputs.items()},  # type: ignore[arg-type]
            **fields,
        )
        return Rows(request, prompts, copies, embeds)

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

    def _embeds(self, given: Mapping[str, Any], inputs: int) -> list[Tensor]:
        """Embeddings and, when the call is guided, what to steer away from, a row an image."""
        names = ["image_embeds"]
        if is_guided(given["guidance_scale"]):
            if given["negative_image_embeds"] is None:
                raise RequestError(
                    f"guidance_scale {given['guidance_scale']:g} needs negative_image_embeds.",
                    "Give what the prior pipeline returns, or a guidance_scale of 1.",
                )
            names.append("negative_image_embeds")
        found = [embeddings(given[name], name) for name in names]
        count = max(len(found[0]), len(texts(given["prompt"])) if "prompt" in given else 1, inputs)
        copies = given["num_images_per_prompt"]
        return [torch.stack(paired(list(rows), count, "embeddings", copies)) for rows in found]


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
        guided = is_guided(given["guidance_scale"])
        reading: list[str] = []
        for name in ("negative_prompt", "prompt") if guided else ("prompt",):
            found = texts("" if given[name] is None else given[name], name)
            reading += paired(found, rows.prompts, name, rows.copies)
        encoder = runner_of(self.text_encoder, MultilingualCLIP)
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
        height, width = (side * model.codec.downscale for side in begin.x.shape[2:])
        nothing = Picture.of_numbers(torch.zeros(1, height, width))
        rows = [replace(row, mask=nothing) for row in batch.rows]
        return start(model, resolved, Batch(rows, Draws([None], model.dtype, model.device, begin.x)))

    def project(x: Tensor, t_next: float) -> Tensor:
        assert begin.project is not None
        if mask is None or torch.equal(mask, network.told["mask_image"]):
            return begin.project(x, t_next)
        known, wanted = network.told["mask_image"][-count:].to(x), known_everywhere().project
        assert wanted is not None
        return known * wanted(x, t_next) + (1 - known) * x

    keep = None if begin.project is None else project
    return run(network, resolved.schedule, resolved.sampler, begin.x, batch.rng, call, begin.paste, keep)


def _inputs(given: Mapping[str, Any]) -> dict[str, list[Picture]]:
    """The images of a call by the request's names for them."""
    found = {"hint": images(given["hint"], unit=True)} if "hint" in given else {}
    if "mask_image" in given:
        image, mask = region(given["image"], given["mask_image"], given["width"], given["height"])
        return {**found, "image": image, "mask": mask}
    return {**found, "image": images(given["image"])} if "image" in given else found


def decoded(model: Model, latents: Tensor, width: int, height: int, output_type: str) -> Any:
    """Latents (B, C, h, w) as images of width x height, or as they are for "latent".

    "pil" gives a list; "np" an array (B, H, W, 3) and "pt" a tensor (B, 3, H, W), both float in 0..1.
    """
    if output_type == "latent":
        return latents.to(model.dtype)
    found = crop(model.codec.decode(latents), width, height)
    if output_type == "pil":
        return to_pil(found)
    unit = (found * 0.5 + 0.5).clamp(0, 1)
    return unit.to(model.dtype) if output_type == "pt" else unit.float().cpu().permute(0, 2, 3, 1).numpy()
