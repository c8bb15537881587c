"""What prior pipelines do: texts and images become image embeddings."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_not
from typing import Any, ClassVar

import torch
from torch import Tensor

from kandinsky.compat.diffusers.callbacks import Call, Callbacks, follow
from kandinsky.compat.diffusers.generators import Generators, rng_of
from kandinsky.compat.diffusers.inputs import counted, embeddings, paired, repeated, scaled, texts, whole
from kandinsky.compat.diffusers.models import PriorTransformer, native_of
from kandinsky.compat.diffusers.outputs import KandinskyPriorPipelineOutput
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import PRIOR, PRIOR_TEXTS, ComponentNetwork, is_plain, run
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.prior_stage import EncodedText, PriorStage
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.images import read_image
from kandinsky.core.rng import Rng
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.process import working_dtype
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import tail
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.prior import Prior, PriorCondition

OUTPUT_TYPES = ("pt", "np")
Begin = Callable[[PriorStage, Rng, int, list[int]], tuple[Tensor, list[int]]]
"""Where a trajectory of so many rows over these times begins: normalised, noised embeddings (B, D), and
the times that are left to visit."""


@dataclass(frozen=True)
class Asked:
    """What a prior is asked: prompts, what to steer away from (one per prompt, or none), and how."""

    prompts: list[str]
    negatives: list[str]
    copies: int
    steps: int
    generator: Generators
    guidance_scale: float

    @property
    def count(self) -> int:
        """How many embeddings there will be."""
        return len(self.prompts) * self.copies


def asked(
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    copies: int,
    steps: int,
    generator: Generators,
    guidance_scale: float,
) -> Asked:
    """Reads prompts and negative prompts; negative prompts that are all empty are none."""
    prompts = texts(prompt)
    negatives = [] if negative_prompt is None else texts(negative_prompt, "negative_prompt")
    negatives = paired(negatives, len(prompts), "negative_prompt") if any(negatives) else []
    copies, steps = counted(copies, "num_images_per_prompt"), whole(steps)
    return Asked(prompts, negatives, copies, steps, generator, scaled(guidance_scale))


def from_noise(latents: Tensor | None = None) -> Begin:
    """A whole trajectory from noise, or from `latents` (B, D); B may leave the negative rows out."""

    def begin(stage: PriorStage, rng: Rng, count: int, times: list[int]) -> tuple[Tensor, list[int]]:
        if latents is None:
            return rng.normal((count, stage.network.config.embedding_dim)), times
        if latents.ndim != 2 or count % len(latents):
            raise RequestError(
                f"latents of shape {tuple(latents.shape)} do not fit {count} embeddings.", "Give (B, D)."
            )
        return latents.repeat(count // len(latents), 1), times

    return begin


def from_embeddings(embedding: Tensor, strength: float) -> Begin:
    """The last `strength` of a trajectory, from `embedding` (B, D) in the space that the prior works in,
    noised."""

    def begin(stage: PriorStage, rng: Rng, count: int, times: list[int]) -> tuple[Tensor, list[int]]:
        if count % len(embedding):
            raise RequestError(
                f"{len(embedding)} images do not fit {count} embeddings.", "Give one, or one per prompt."
            )
        times = tail(times, strength)
        with torch.no_grad():
            known = stage.network.normalise(embedding.to(stage.device, stage.dtype))
        known = known.repeat(count // len(embedding), 1)
        noise = rng.normal(tuple(known.shape)).to(known)
        return stage.schedule.process.add_noise(known, noise, times[0]), times

    return begin


class PriorPipeline(DiffusionPipeline):
    """A prior pipeline; every trajectory runs in the core's prior stage."""

    COMPONENTS: ClassVar[tuple[str, ...]] = (
        "prior",
        "image_encoder",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "image_processor",
    )
    prior: object
    image_encoder: object
    text_encoder: object
    tokenizer: object
    scheduler: Any
    image_processor: object
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "prompt_embeds",
        "text_encoder_hidden_states",
        "text_mask",
    ]

    __init__ = made_of(COMPONENTS)
    _known: tuple[tuple[object, ...], tuple[object, object], PriorStage] | None = None

    @property
    def _stage(self) -> PriorStage:
        """The core's prior stage on the present components; kept, with its zero embedding, while they
        stay."""
        vision = native_of(self.image_encoder, ClipVision)
        parts, weight = tuple(self.components.values()), vision.projection.weight
        place = (weight.device, weight.dtype)
        if self._known is None or self._known[1] != place or any(map(is_not, parts, self._known[0])):
            stage = PriorStage(
                tokenizer=native_of(self.tokenizer, Tokenizer),
                text=native_of(self.text_encoder, ClipText),
                vision=vision,
                preprocess=native_of(self.image_processor, ClipPreprocess),
                network=native_of(self.prior, Prior),
                schedule=schedule_of(self.scheduler),
            )
            self._known = parts, place, stage
        return self._known[2]

    def _call(self, given: dict[str, Any]) -> Any:
        """Embeddings of the prompts from noise, or where an image is given from its embedding."""
        if given["output_type"] not in OUTPUT_TYPES:
            raise RequestError(
                f"There is no output_type {given['output_type']!r}.", nearest(str(given["output_type"]), OUTPUT_TYPES)
            )
        names = ("num_images_per_prompt", "num_inference_steps", "generator", "guidance_scale")
        ask = asked(given["prompt"], given["negative_prompt"], *(given[name] for name in names))
        callbacks = Callbacks.of(self, given)
        if "image" in given:
            begin = from_embeddings(self._encoded(given["image"], ask.copies), given["strength"])
        else:
            begin = from_noise(given["latents"])
        parts: Any = self._embeds(ask, begin, callbacks)
        if given["output_type"] == "np":
            parts = tuple(part.float().cpu().numpy() for part in parts)
        return KandinskyPriorPipelineOutput(*parts) if given["return_dict"] else parts

    def get_zero_embed(self, batch_size: int = 1, device: Any = None) -> Tensor:
        """The embedding that stands for no image, (batch_size, D)."""
        with self._ready("image_encoder"):
            return self._stage.zero_embedding.repeat(batch_size, 1).to(device or self.device)

    def interpolate(
        self,
        images_and_prompts: Sequence[Any],
        weights: Sequence[float],
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 25,
        generator: Generators = None,
        latents: Tensor | None = None,
        negative_prior_prompt: str | None = None,
        negative_prompt: str = "",
        guidance_scale: float = 4.0,
        device: Any = None,
    ) -> KandinskyPriorPipelineOutput:
        """The weighted sum of texts (through the prior), images and tensors.

        A tensor (B, 3, S, S) is normalised pixels, (1, D) or (D,) an embedding. The weights are not
        normalised. Texts are drawn in the order of the list from one generator, then the negative prompt.
        Raises RequestError when the numbers of items and weights differ.
        """
        if not images_and_prompts or len(images_and_prompts) != len(weights):
            raise RequestError(
                f"{len(images_and_prompts)} items are mixed with {len(weights)} weights.", "Give one per item."
            )
        begin = from_noise(latents)
        copies, steps = num_images_per_prompt, num_inference_steps

        def drawn(text: str) -> tuple[Tensor, Tensor]:
            ask = asked(text, negative_prior_prompt, copies, steps, generator, guidance_scale)
            return self._embeds(ask, begin)

        total: Tensor | None = None
        for item, weight in zip(images_and_prompts, weights, strict=True):
            vector = drawn(item)[0] if isinstance(item, str) else self._encoded(item, copies)
            total = vector * weight if total is None else total + vector * weight
        assert total is not None  # there is at least one item
        if negative_prompt:
            negative = drawn(negative_prompt)[0]
        elif negative_prior_prompt:
            negative = drawn(negative_prompt)[1]
        else:
            self._skip(asked("", None, copies, steps, generator, guidance_scale), begin)
            negative = self.get_zero_embed(copies)
        return KandinskyPriorPipelineOutput(total.to(device or self.device), negative.to(device or self.device))

    def _skip(self, ask: Asked, begin: Begin) -> None:
        """Draws what a trajectory would whose result nobody needs: what follows is drawn as by diffusers."""
        stage = self._stage
        rng = rng_of(ask.generator, ask.count, stage.dtype, self.device)
        x, times = begin(stage, rng, ask.count, stage.schedule.times(ask.steps))
        for _ in [t for t in times if t > 0]:
            rng.normal(tuple(x.shape))

    def _encoded(self, image: Any, copies: int) -> Tensor:
        """The embeddings of one or several images, pixels or embeddings, each `copies` times: (B, D)."""
        if isinstance(image, list | tuple):
            return torch.cat([self._encoded(one, copies) for one in image])
        stage = self._stage
        if isinstance(image, Tensor) and image.ndim <= 2:
            return embeddings(image, "image").to(stage.device, stage.dtype).repeat_interleave(copies, dim=0)
        with self._ready("image_encoder"), torch.no_grad():
            if isinstance(image, Tensor):
                pixels = image if image.ndim == 4 else image[None]
                found = stage.see(pixels)
            else:
                found = stage.encode_image(read_image(image))
        return found.repeat_interleave(copies, dim=0)

    def _embeds(self, ask: Asked, begin: Begin, callbacks: Callbacks | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings of the prompts, and of what to steer away from: (B x copies, D) each.

        Negative prompts are rows of the same batch, behind the prompts, so that one generator draws as
        diffusers does. A list with one generator per image gives each negative row the draws of its
        image from their beginning, so that the image's own do not depend on it.
        """
        stage, callbacks = self._stage, callbacks or Callbacks(self)
        rows = repeated(ask.prompts + ask.negatives, ask.copies)
        against = repeated(ask.negatives * 2 or [""] * len(ask.prompts), ask.copies)
        several = isinstance(ask.generator, Sequence) and len(ask.generator) == ask.count
        self.scheduler.set_timesteps(ask.steps)
        with (
            self._calling(ask.guidance_scale) as call,
            self._ready("prior", "text_encoder", "image_encoder"),
            torch.no_grad(),
        ):
            if ask.negatives and several and ask.count > 1:
                rng = rng_of(ask.generator, ask.count, stage.dtype, stage.device)
                again = rng.fork()
                half = ask.count
                parts = [(rows[:half], against[:half], rng), (rows[half:], against[half:], again)]
            else:
                parts = [(rows, against, rng_of(ask.generator, len(rows), stage.dtype, stage.device))]
            drawn = torch.cat([self._trajectory(stage, ask, *part, begin, callbacks, call) for part in parts])
        if ask.negatives:
            positive, negative = drawn.chunk(2)
            return positive, negative
        return drawn, self.get_zero_embed(len(drawn))

    def _trajectory(
        self,
        stage: PriorStage,
        ask: Asked,
        rows: list[str],
        against: list[str],
        rng: Rng,
        begin: Begin,
        callbacks: Callbacks,
        call: Call,
    ) -> Tensor:
        seen = callbacks.on_step_end is not None or not is_plain(self.prior, PriorTransformer)
        guided = is_guided(ask.guidance_scale)
        if guided and rows == against and not seen:  # guidance changes nothing
            guided, call.offset = False, 1 - ask.guidance_scale
        texts = dict.fromkeys(rows + (against if guided else []))
        # Callbacks and other people's networks are shown the states of padding too.
        known = {text: stage.encode_text(text, padded=seen) for text in texts}
        _warn_of_dropped(known.values())
        condition = PriorCondition.of([known[text].condition for text in (against + rows if guided else rows)])
        x, call.times = begin(stage, rng, len(rows), stage.schedule.times(ask.steps))
        call.num_timesteps = len(call.times)
        told = (condition.text_embedding, condition.text_hidden, condition.text_mask)
        network = ComponentNetwork(self.prior, PRIOR, dict(zip(PRIOR_TEXTS, told, strict=True)))
        sampler = make_sampler(stage.schedule.sampler, stage.schedule.process, variance=stage.schedule.variance)
        first = x.to(stage.device, working_dtype(stage.dtype))
        x = follow(run(network, stage.schedule, sampler, first, rng, call), callbacks, network, call)
        return stage.network.denormalise(x.to(stage.dtype))


def _warn_of_dropped(known: "Sequence[EncodedText] | Any") -> None:
    for text in known:
        if text.dropped:
            warnings.warn(f"The prompt is too long: {text.dropped!r} was not read.", UserWarning, stacklevel=5)
