"""What prior pipelines do: texts and images become image embeddings."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import is_not
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kandinsky.compat.diffusers.callbacks import Call, Callbacks, follow
from kandinsky.compat.diffusers.inputs import counted, embeddings, paired, scaled, texts, whole
from kandinsky.compat.diffusers.models import (
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PriorTransformer,
    is_plain,
    native_of,
    part_of,
    runner_of,
)
from kandinsky.compat.diffusers.noise import Generators, rng_of
from kandinsky.compat.diffusers.outputs import KandinskyPriorPipelineOutput, Output
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.schedulers import schedule_of
from kandinsky.compat.diffusers.step_networks import PRIOR, PRIOR_TEXTS, ComponentNetwork, run
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
from kandinsky.networks.prior import PriorCondition

OUTPUT_TYPES = ("pt", "np")


@dataclass(frozen=True, eq=False)
class Asked:
    """What a prior is asked: prompts, what to steer away from (one per prompt, or none), and how.

    It begins with noise or `latents` (B, D); or with the embeddings (B, D) of `image`, noised for the last `strength`.
    """

    prompts: list[str]
    negatives: list[str]
    copies: int
    steps: int
    generator: Generators
    guidance_scale: float
    latents: Tensor | None = None
    image: Tensor | None = None
    strength: float = 1.0

    @classmethod
    def of(cls, prompt: object, negative: object, copies: int, steps: int, generator: Generators, scale: float) -> Self:
        """Reads prompts and negative prompts; negative prompts that are all empty are none."""
        prompts = texts(prompt)
        negatives = [] if negative is None else texts(negative, "negative_prompt")
        negatives = paired(negatives, len(prompts), "negative_prompt") if any(negatives) else []
        copies = counted(copies, "num_images_per_prompt")
        return cls(prompts, negatives, copies, whole(steps), generator, scaled(scale))

    @property
    def count(self) -> int:
        """How many embeddings there will be."""
        return len(self.prompts) * self.copies

    def begin(self, stage: PriorStage, rng: Rng, count: int) -> tuple[Tensor, list[int]]:
        """Where a trajectory of `count` rows begins: normalised, noised embeddings (B, D), and the times to visit."""
        times, given = stage.schedule.times(self.steps), self.latents if self.image is None else self.image
        if given is None:
            return rng.normal((count, stage.network.config.embedding_dim)), times
        if given.ndim != 2 or count % len(given):
            what = "latents" if self.image is None else "images"
            raise RequestError(
                f"{what} of shape {tuple(given.shape)} do not fit {count} embeddings.", "Give (B, D), a row a prompt."
            )
        rows = given.repeat(count // len(given), 1)
        if self.image is None:
            return rows, times
        times = tail(times, self.strength)
        with torch.no_grad():
            known = stage.network.normalise(rows.to(stage.device, stage.dtype))
        return stage.schedule.process.add_noise(known, rng.normal(tuple(known.shape)).to(known), times[0]), times


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
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", *PRIOR_TEXTS]

    __init__ = made_of(COMPONENTS)
    _known: tuple[tuple[object, ...], tuple[object, ...], PriorStage] | None = None

    @property
    def _stage(self) -> PriorStage:
        """The core's prior stage on the present components; kept, with its zero embedding, while they stay."""
        vision, seeing = self.image_encoder, part_of(self.image_encoder, CLIPVisionModelWithProjection)
        state = (
            seeing.device,
            seeing.dtype,
            id(native_of(self.tokenizer, Tokenizer)),
            is_plain(vision, CLIPVisionModelWithProjection),
            is_plain(self.text_encoder, CLIPTextModelWithProjection),
        )
        parts = tuple(self.components.values())
        if self._known is None or self._known[1] != state or any(map(is_not, parts, self._known[0])):
            stage = PriorStage(
                tokenizer=native_of(self.tokenizer, Tokenizer),
                text=runner_of(self.text_encoder, CLIPTextModelWithProjection),
                vision=runner_of(vision, CLIPVisionModelWithProjection),
                preprocess=native_of(self.image_processor, ClipPreprocess),
                network=part_of(self.prior, PriorTransformer).native,  # type: ignore[arg-type]
                schedule=schedule_of(self.scheduler),
            )
            self._known = parts, state, stage
        return self._known[2]

    def _call(self, given: dict[str, Any]) -> Any:
        """Embeddings of the prompts from noise, or where an image is given from its embedding."""
        if given["output_type"] not in OUTPUT_TYPES:
            raise RequestError(
                f"There is no output_type {given['output_type']!r}.", nearest(str(given["output_type"]), OUTPUT_TYPES)
            )
        names = ("num_images_per_prompt", "num_inference_steps", "generator", "guidance_scale")
        copies, *how = (given[name] for name in names)
        ask = Asked.of(given["prompt"], given["negative_prompt"], copies, *how)
        callbacks = Callbacks.of(self, given)
        if "image" in given:
            ask = replace(ask, image=self._encoded(given["image"], ask.copies), strength=given["strength"])
        else:
            ask = replace(ask, latents=given["latents"])
        parts = self._embeds(ask, callbacks)
        found = [part.float().cpu().numpy() if given["output_type"] == "np" else part for part in parts]
        return KandinskyPriorPipelineOutput(*found).handed(given["return_dict"])

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
    ) -> Output:
        """The weighted sum of texts (through the prior), images and tensors.

        A tensor (B, 3, S, S) is normalised pixels, (1, D) or (D,) an embedding. The weights are not
        normalised. Texts are drawn in the order of the list from one generator, then the negative prompt.
        Raises RequestError when the numbers of items and weights differ.
        """
        if not images_and_prompts or len(images_and_prompts) != len(weights):
            raise RequestError(
                f"{len(images_and_prompts)} items are mixed with {len(weights)} weights.", "Give one per item."
            )
        copies, how = num_images_per_prompt, (num_inference_steps, generator, guidance_scale)

        def asked(text: str, against: str | None) -> Asked:
            return replace(Asked.of(text, against, copies, *how), latents=latents)

        def vector(item: object) -> Tensor:
            is_text = isinstance(item, str)
            return self._embeds(asked(item, negative_prior_prompt))[0] if is_text else self._encoded(item, copies)  # type: ignore[arg-type]

        parts = [vector(item) * weight for item, weight in zip(images_and_prompts, weights, strict=True)]
        if negative_prompt or negative_prior_prompt:
            negative = self._embeds(asked(negative_prompt, negative_prior_prompt))[0 if negative_prompt else 1]
        else:
            self._skip(asked("", None))
            negative = self.get_zero_embed(copies)
        place = device or self.device
        return KandinskyPriorPipelineOutput(sum(parts[1:], parts[0]).to(place), negative.to(place))

    def _skip(self, ask: Asked) -> None:
        """Draws what a trajectory would whose result nobody needs: what follows is drawn as by diffusers."""
        rng = rng_of(ask.generator, ask.count, self._stage.dtype, self.device)
        x, times = ask.begin(self._stage, rng, ask.count)
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
                found = stage.see(image if image.ndim == 4 else image[None])
            else:
                found = stage.encode_image(read_image(image))
        return found.repeat_interleave(copies, dim=0)

    def _embeds(self, ask: Asked, callbacks: Callbacks | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings of the prompts, and of what to steer away from: (B x copies, D) each.

        Negative prompts are rows of the same batch, behind the prompts, so that one generator draws as
        diffusers does. A list with one generator per image gives each negative row the draws of its
        image from their beginning, so that the image's own do not depend on it.
        """
        stage, callbacks = self._stage, callbacks or Callbacks(self)
        rows = [text for text in ask.prompts + ask.negatives for _ in range(ask.copies)]
        against = [text for text in ask.negatives * 2 or [""] * len(ask.prompts) for _ in range(ask.copies)]
        half, several = ask.count, isinstance(ask.generator, Sequence) and len(ask.generator) == ask.count > 1
        self.scheduler.set_timesteps(ask.steps)
        with (
            self._calling(ask.guidance_scale) as call,
            self._ready("prior", "text_encoder", "image_encoder"),
            torch.no_grad(),
        ):
            if ask.negatives and several:
                rng = rng_of(ask.generator, half, stage.dtype, stage.device)
                again = rng.fork()
                parts = [(rows[:half], against[:half], rng), (rows[half:], against[half:], again)]
            else:
                parts = [(rows, against, rng_of(ask.generator, len(rows), stage.dtype, stage.device))]
            drawn = torch.cat([self._trajectory(ask, *part, callbacks, call) for part in parts])
        if ask.negatives:
            positive, negative = drawn.chunk(2)
            return positive, negative
        return drawn, self.get_zero_embed(len(drawn))

    def _trajectory(
        self, ask: Asked, rows: list[str], against: list[str], rng: Rng, callbacks: Callbacks, call: Call
    ) -> Tensor:
        stage, seen = self._stage, callbacks.on_step_end is not None or not is_plain(self.prior, PriorTransformer)
        guided = is_guided(ask.guidance_scale)
        if guided and rows == against and not seen:  # guidance changes nothing
            guided, call.offset = False, 1 - ask.guidance_scale
        # Callbacks and other people's networks are shown the states of padding too.
        known = {text: stage.encode_text(text, padded=seen) for text in dict.fromkeys(rows + against * guided)}
        _warn_of_dropped(known.values())
        condition = PriorCondition.of([known[text].condition for text in (against + rows if guided else rows)])
        x, call.times = ask.begin(stage, rng, len(rows))
        call.num_timesteps = len(call.times)
        told = (condition.text_embedding, condition.text_hidden, condition.text_mask)
        network = ComponentNetwork(self.prior, PRIOR, dict(zip(PRIOR_TEXTS, told, strict=True)))
        sampler = make_sampler(stage.schedule.sampler, stage.schedule.process, variance=stage.schedule.variance)
        first = x.to(stage.device, working_dtype(stage.dtype))
        x = follow(run(network, stage.schedule, sampler, first, rng, call), callbacks, network, call)
        return stage.network.denormalise(x.to(stage.dtype))


def _warn_of_dropped(known: Iterable[EncodedText]) -> None:
    for text in known:
        if text.dropped:
            warnings.warn(f"The prompt is too long: {text.dropped!r} was not read.", UserWarning, stacklevel=5)
