"""What pipelines do whose decoder reads the states of one text: prompts or their states become images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

from torch import Tensor

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.compat.diffusers.callbacks import warned
from kandinsky.compat.diffusers.decoder import DecoderPipeline, Inputs, Rows
from kandinsky.compat.diffusers.generators import rng_of
from kandinsky.compat.diffusers.inputs import Images, counted, images, paired, repeated, split, texts
from kandinsky.compat.diffusers.models import native_of
from kandinsky.compat.diffusers.pipeline import made_of
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import UNET3, Convention, Tensors
from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.one_text import OneTextConditioner, StatesReader, stacked
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.images import read_image
from kandinsky.core.requests import Request
from kandinsky.diffusion.guidance import is_guided
from kandinsky.generations.k30 import FEW_STEPS, assembled
from kandinsky.generations.loading import Placement
from kandinsky.generations.model import Model
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet3 import UNet3, UNet3Condition

EMBEDS = ("prompt_embeds", "attention_mask", "negative_prompt_embeds", "negative_attention_mask")


class OneTextPipeline(DecoderPipeline):
    """A pipeline whose decoder reads texts alone; with an image it changes that.

    A guidance scale w means (w + 1) cond - w uncond, and acts from 0 up. Each text keeps its own length,
    whatever it is beside. A pipeline without a tokenizer and a text encoder draws from states that it is
    given, one with nothing else reads texts, so that the two need not be in memory together.
    """

    COMPONENTS: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder", "unet", "scheduler", "movq")
    CONVENTION: ClassVar[Convention] = UNET3
    tokenizer: object
    text_encoder: object
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "negative_attention_mask",
        "attention_mask",
    ]

    __init__ = made_of(COMPONENTS)

    @classmethod
    def _check_folder(cls, folder: Folder) -> None:
        if folder.kind == FEW_STEPS:
            raise CheckpointError(
                f"{folder.root} holds a {FEW_STEPS}, which works without guidance and at times of its own.",
                "Use kandinsky.load, or kandinsky.compat.kandinsky3.get_T2I_Flash_pipeline.",
            )

    def _model(self) -> Model:
        """The present components as the core runs them."""
        network = native_of(self.unet, UNet3)
        place = Placement(self.device, network.conv_in.weight.dtype)
        codec = AutoencoderCodec(native_of(self.movq, MoVQ))
        return assembled(place, network, codec, self._reader(network.config.text_dim), schedule_of(self.scheduler))

    def _reader(self, width: int) -> StatesReader:
        """What reads texts; without a text encoder, one that knows how wide its states would be."""
        if self.text_encoder is None or self.tokenizer is None:
            # Texts are refused before anything asks this tokenizer.
            return StatesReader(cast(Tokenizer, None), _NoEncoder(SimpleNamespace(width=width)))
        network = native_of(self.text_encoder, T5Encoder)
        return StatesReader(native_of(self.tokenizer, Tokenizer), network, self.device)

    def _conditioner(self) -> OneTextConditioner:
        """What reads texts for the U-Net, if there is one, and else as the published folders do."""
        if self.unet is not None:
            conditioner = self._model().conditioner
            assert isinstance(conditioner, OneTextConditioner)  # what `assembled` wires
            return conditioner
        return OneTextConditioner(self._reader(0), self.device, self.dtype)

    def _asked(self, given: Mapping[str, Any], model: Model) -> Rows:
        copies = given["num_images_per_prompt"]
        found, fields = _started(given, model.multiple)
        prompts, negatives = _texts(given)
        images, numbers = Inputs(found).rows(len(prompts), copies)
        request = Request(
            repeated(prompts, copies),
            negative_prompt=repeated(negatives, copies),
            seed=0,  # nothing is drawn from it
            steps=given["num_inference_steps"],
            guidance_scale=given["guidance_scale"],
            **images,
            **fields,
        )
        return Rows(request, len(prompts), copies, numbers)

    def _told(self, model: Model, given: Mapping[str, Any], batch: Batch, rows: Rows) -> tuple[Tensors, Tensors]:
        with self._ready("text_encoder"):
            guided = is_guided(batch.rows[0].guidance_scale)
            conditions = self._conditions(self._conditioner(), batch, given, guided)
        cond, uncond = conditions.cond, conditions.uncond
        both = cond if uncond is None else uncond.joined(cond)
        told = {"prompt_embeds": both.hidden, "attention_mask": both.mask}
        told |= {"lengths": both.own.sum(1), "null": both.nulls}
        negatives = ("negative_prompt_embeds", "negative_attention_mask")
        return told, {name: given[name] for name in negatives if not guided and given[name] is not None}

    def _conditions(
        self, conditioner: OneTextConditioner, batch: Batch, given: Mapping[str, Any], guided: bool
    ) -> Conditions:
        """What the network is told, a row an image: given states, or those of the prompts."""
        copies = given["num_images_per_prompt"]
        embeds, mask, negative, against = (given[name] for name in EMBEDS)
        if embeds is None or (guided and negative is None and given["negative_prompt"] is not None):
            self._check_reads()
            (conditions,) = warned(conditioner.encode([batch], 1, guided))
        else:
            conditions = Conditions(None, None)
        cond = conditions.cond if embeds is None else _states(conditioner, embeds, mask, copies)
        if not guided:
            return Conditions(cond, None)
        if negative is not None:
            return Conditions(cond, _states(conditioner, negative, against, copies))
        if embeds is None or given["negative_prompt"] is not None:
            return Conditions(cond, conditions.uncond)
        nothing = conditioner.nothing(embeds.shape[1])
        return Conditions(cond, stacked([nothing] * len(batch.rows)))

    def _check_reads(self) -> None:
        for name in ("tokenizer", "text_encoder"):
            if getattr(self, name) is None:
                raise RequestError(
                    f"This pipeline has no {name} to read a text with.", f"Give {', '.join(EMBEDS)}, or a {name}."
                )

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        do_classifier_free_guidance: bool = True,
        num_images_per_prompt: int = 1,
        device: Any = None,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        _cut_context: bool = True,
        attention_mask: Tensor | None = None,
        negative_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """The states of prompts and of what is steered away from, (B, L, W) each, as (prompt_embeds,
        negative_prompt_embeds, attention_mask, negative_attention_mask); masks are (B, L).

        The two halves keep lengths of their own. What is given is returned as it is.
        """
        given = {
            "prompt": None if prompt_embeds is not None else prompt,
            "negative_prompt": negative_prompt,
            "prompt_embeds": prompt_embeds,
            "attention_mask": attention_mask,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_attention_mask": negative_attention_mask,
            "num_images_per_prompt": num_images_per_prompt,
        }
        counted(num_images_per_prompt, "num_images_per_prompt")
        conditioner = self._conditioner()
        prompts, negatives = _texts(given)
        request = Request(
            repeated(prompts, num_images_per_prompt), negative_prompt=repeated(negatives, num_images_per_prompt), seed=0
        )
        batch = Batch(request.rows(), rng_of(None, request.size, conditioner.dtype, conditioner.device))
        with self._ready("text_encoder"):
            told = self._conditions(conditioner, batch, given, do_classifier_free_guidance)
        against = (None, None) if told.uncond is None else (told.uncond.hidden, told.uncond.mask.long())
        return told.cond.hidden, against[0], told.cond.mask.long(), against[1]


def _texts(given: Mapping[str, Any]) -> tuple[list[str], list[str | None]]:
    """Prompts and negative prompts, one for each; prompts whose states are given count as empty texts.

    Raises RequestError when a text is given beside its states, when neither is, and for states without
    their mask, of another rank or of another number than the prompts.
    """
    for name, mask in (("prompt", "attention_mask"), ("negative_prompt", "negative_attention_mask")):
        states = given[f"{name}_embeds"]
        if states is not None and given[name] is not None:
            raise RequestError(f"Both {name} and {name}_embeds are given.", "Give one of them.")
        if states is not None and given[mask] is None:
            raise RequestError(f"{name}_embeds are given without a mask.", f"Give {mask} too.")
        if states is not None and not (_are_states(states) and isinstance(given[mask], Tensor)):
            raise RequestError(
                f"{name}_embeds or {mask} are no tensors of states and their mask.",
                "Give those of shape (B, L, W) and (B, L), as encode_prompt does.",
            )
        if states is not None and given[mask].shape != states.shape[:2]:
            raise RequestError(
                f"{mask} of shape {tuple(given[mask].shape)} does not fit {name}_embeds of shape "
                f"{tuple(states.shape)}.",
                "Both have a row a prompt and a column a token.",
            )
    embeds = given["prompt_embeds"]
    if embeds is None and given["prompt"] is None:
        raise RequestError("There is no prompt.", "Give prompt or prompt_embeds.")
    prompts = [""] * len(embeds) if embeds is not None else texts(given["prompt"])
    steered = given["negative_prompt_embeds"]
    if steered is not None and len(steered) != len(prompts):
        raise RequestError(
            f"negative_prompt_embeds of {len(steered)} rows were given for {len(prompts)} prompts.",
            "Give a row for each prompt.",
        )
    against = given["negative_prompt"]
    negatives: list[Any] = [None] if against is None else texts(against, "negative_prompt")
    return prompts, paired(negatives, len(prompts), "negative_prompt")


def _are_states(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3


def _states(conditioner: OneTextConditioner, embeds: Tensor, mask: Tensor, copies: int) -> UNet3Condition:
    """Given states (B, L, W) and their mask (B, L), each `copies` times; RequestError for another width."""
    width = conditioner.reader.network.config.width
    if embeds.shape[2] != width:
        raise RequestError(
            f"States of {embeds.shape[2]} numbers were given, the U-Net reads {width}.",
            "Encode the prompt with this model's own text encoder.",
        )
    hidden = embeds.to(conditioner.device, conditioner.dtype).repeat_interleave(copies, dim=0)
    rows = mask.to(conditioner.device).bool().repeat_interleave(copies, dim=0)
    return replace(UNet3Condition(hidden, rows), masked_rows=conditioner.masked_rows)


@dataclass(frozen=True)
class _NoEncoder:
    """In place of a text encoder that was left out; `config` holds the `width` of its states."""

    config: object

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        raise RequestError("This pipeline has no text_encoder.", "Give one, or the states of texts.")


def _started(given: Mapping[str, object], multiple: int) -> tuple[Images | None, dict[str, Any]]:
    """The images that a call begins at, and the request's fields that follow; an image gives the size."""
    if "image" not in given:
        return None, {"width": given["width"], "height": given["height"]}
    if given["image"] is None:
        raise RequestError("There is no image.", "Give image, or use the text-to-image pipeline.")
    first = split(given["image"])[0]
    width, height = first.shape[:-3:-1] if isinstance(first, Tensor) else read_image(first).size
    found = images(given["image"], width, height, multiple)
    return found, {"width": width, "height": height, "strength": given["strength"]}
