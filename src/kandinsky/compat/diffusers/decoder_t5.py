"""What pipelines do whose decoder reads the states of one text: prompts or their states become images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

from torch import Tensor

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.compat.diffusers.callbacks import warned
from kandinsky.compat.diffusers.decoder import DecoderPipeline, Rows
from kandinsky.compat.diffusers.inputs import counted, images, paired, texts
from kandinsky.compat.diffusers.models import Kandinsky3UNet, T5EncoderModel, native_of, part_of, runner_of
from kandinsky.compat.diffusers.noise import rng_of
from kandinsky.compat.diffusers.pipeline import made_of
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import UNET3, Convention, Tensors
from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.one_text import OneTextConditioner, StatesReader, stacked
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.images import Picture
from kandinsky.core.requests import Request
from kandinsky.diffusion.guidance import is_guided
from kandinsky.generations.k30 import FEW_STEPS, assembled
from kandinsky.generations.loading import Placement
from kandinsky.generations.model import Model
from kandinsky.networks.unet3 import UNet3Condition

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
        network: Any = part_of(self.unet, Kandinsky3UNet).native
        place = Placement(self.device, network.conv_in.weight.dtype)
        reader = self._reader(network.config.text_dim)
        return assembled(place, network, self._codec(), reader, schedule_of(self.scheduler))

    def _reader(self, width: int) -> StatesReader:
        """What reads texts; without a text encoder, one that knows how wide its states would be."""
        if self.text_encoder is None or self.tokenizer is None:
            # Texts are refused before anything asks this one to read.
            return StatesReader(cast(Tokenizer, None), cast(Any, SimpleNamespace(config=SimpleNamespace(width=width))))
        network = runner_of(self.text_encoder, T5EncoderModel)
        return StatesReader(native_of(self.tokenizer, Tokenizer), network, self.device)

    def _conditioner(self) -> OneTextConditioner:
        """What reads texts for the U-Net, if there is one, and else as the published folders do."""
        if self.unet is not None:
            conditioner = self._model().conditioner
            assert isinstance(conditioner, OneTextConditioner)  # what `assembled` wires
            return conditioner
        return OneTextConditioner(self._reader(0), self.device, self.dtype)

    def _asked(self, given: Mapping[str, Any], model: Model) -> Rows:
        copies, (found, fields) = given["num_images_per_prompt"], _started(given)
        prompts, negatives = _texts(given)
        request = Request(
            paired(prompts, len(prompts), "prompt", copies),
            negative_prompt=paired(negatives, len(prompts), "negative_prompt", copies),
            seed=0,  # nothing is drawn from it
            steps=given["num_inference_steps"],
            guidance_scale=given["guidance_scale"],
            image=paired(found, len(prompts), "image", copies) if found else None,
            **fields,
        )
        return Rows(request, len(prompts), copies)

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
        states = (prompt_embeds, attention_mask, negative_prompt_embeds, negative_attention_mask)
        given: dict[str, Any] = dict(zip(EMBEDS, states, strict=True))
        given["num_images_per_prompt"] = num_images_per_prompt
        given |= {"prompt": None if prompt_embeds is not None else prompt, "negative_prompt": negative_prompt}
        counted(num_images_per_prompt, "num_images_per_prompt")
        conditioner = self._conditioner()
        prompts, negatives = _texts(given)
        each = (len(prompts), "prompt", num_images_per_prompt)
        request = Request(paired(prompts, *each), negative_prompt=paired(negatives, *each), seed=0)
        batch = Batch(request.rows(), rng_of(None, request.size, conditioner.dtype, conditioner.device))
        with self._ready("text_encoder"):
            told = self._conditions(conditioner, batch, given, do_classifier_free_guidance)
        against = (None, None) if told.uncond is None else (told.uncond.hidden, told.uncond.mask.long())
        return told.cond.hidden, against[0], told.cond.mask.long(), against[1]


def _texts(given: Mapping[str, Any]) -> tuple[list[str], list[str | None]]:
    """Prompts and negative prompts, one for each; prompts whose states are given count as empty texts.

    Raises RequestError when a text is given beside its states, when neither is, and for states without their mask, of
    another rank or of another number than the prompts.
    """
    for name, mask in (("prompt", "attention_mask"), ("negative_prompt", "negative_attention_mask")):
        states, seen = given[f"{name}_embeds"], given[mask]
        if states is None:
            continue
        if given[name] is not None:
            raise RequestError(f"Both {name} and {name}_embeds are given.", "Give one of them.")
        if seen is None:
            raise RequestError(f"{name}_embeds are given without a mask.", f"Give {mask} too.")
        if not (isinstance(states, Tensor) and isinstance(seen, Tensor) and states.ndim == 3):
            raise RequestError(
                f"{name}_embeds or {mask} are no tensors of states and their mask.",
                "Give those of shape (B, L, W) and (B, L), as encode_prompt does.",
            )
        if seen.shape != states.shape[:2]:
            raise RequestError(
                f"{mask} of shape {tuple(seen.shape)} does not fit {name}_embeds of shape {tuple(states.shape)}.",
                "Both have a row a prompt and a column a token.",
            )
    embeds, steered, against = given["prompt_embeds"], given["negative_prompt_embeds"], given["negative_prompt"]
    if embeds is None and given["prompt"] is None:
        raise RequestError("There is no prompt.", "Give prompt or prompt_embeds.")
    prompts = [""] * len(embeds) if embeds is not None else texts(given["prompt"])
    if steered is not None and len(steered) != len(prompts):
        raise RequestError(
            f"negative_prompt_embeds of {len(steered)} rows were given for {len(prompts)} prompts.",
            "Give a row for each prompt.",
        )
    negatives: list[Any] = [None] if against is None else texts(against, "negative_prompt")
    return prompts, paired(negatives, len(prompts), "negative_prompt")


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


def _started(given: Mapping[str, object]) -> tuple[list[Picture], dict[str, Any]]:
    """The images that a call begins at, and the request's fields that follow; an image gives the size."""
    if "image" not in given:
        return [], {"width": given["width"], "height": given["height"]}
    if given["image"] is None:
        raise RequestError("There is no image.", "Give image, or use the text-to-image pipeline.")
    found = images(given["image"])
    width, height = found[0].size
    return found, {"width": width, "height": height, "strength": given["strength"]}
