"""The first of two stages: texts and images become image embeddings, texts by a diffusion of their own.

Source: Ramesh et al. 2022 (unCLIP, arXiv 2204.06125), section 2.2.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.conditions import TextEncoder
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.conditioning.weighted_texts import token_weights, weighted_states
from kandinsky.core.images import Picture
from kandinsky.core.prompt_weights import parse_weights
from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import Trajectory, sample
from kandinsky.diffusion.process import working_dtype
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.schedule import Schedule
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.prepared import PreparedNetwork
from kandinsky.networks.prior import Prior, PriorCondition, PriorFixed

if TYPE_CHECKING:
    from PIL.Image import Image

Scale: TypeAlias = float | Tensor | None
"""A guidance scale, or one for each row (B,); None is unguided."""


@dataclass(frozen=True, eq=False)
class EncodedText:
    """The prior's condition of `text` (one row), and the end of it that did not fit."""

    text: str
    condition: PriorCondition
    dropped: str


class Stepper(Protocol):
    """A prior closed over its texts, such as a `PreparedNetwork`."""

    def step(self, x: Tensor, t: float) -> Tensor: ...


class LazyVision(Protocol):
    """A vision tower that loads its weights with the first image, or by `bring`."""

    def __call__(self, pixels: Tensor) -> Tensor: ...

    def bring(self) -> None: ...

    def of_nothing(self) -> Tensor: ...


PreparedPrior: TypeAlias = PreparedNetwork[PriorFixed]
Accelerate: TypeAlias = Callable[[PreparedPrior, int], PreparedPrior]


def unaccelerated(prepared: PreparedPrior, steps: int) -> PreparedPrior:
    """The prepared network itself."""
    return prepared


@dataclass(frozen=True, eq=False)
class PriorStage:
    """Everything that a prior checkpoint holds; `lazy_vision`, if any, runs `vision` while its weights are in files.

    `accelerate` says how a prepared network runs its so many steps.
    """

    tokenizer: Tokenizer
    text: ClipText
    vision: ClipVision
    preprocess: ClipPreprocess
    network: Prior
    schedule: Schedule
    lazy_vision: LazyVision | None = None
    accelerate: Accelerate = unaccelerated

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Its networks by the names of their components."""
        return {"prior": self.network, "text_encoder": self.text, "image_encoder": self.vision}

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.network.query.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.network.query.dtype

    @property
    def encoder(self) -> TextEncoder:
        """Its text encoder."""
        return TextEncoder(self.tokenizer, self.text)

    @property
    def image_size(self) -> int:
        """Pixels along a side of what `see` takes."""
        return self.vision.config.image_size

    def load_vision(self) -> None:
        """Brings the weights of the vision tower, to stay."""
        if self.lazy_vision is not None:
            self.lazy_vision.bring()

    @torch.no_grad()
    def encode_image(self, image: Picture) -> Tensor:
        """An image's image embedding (1, D)."""
        return self.embed_images([image.image])

    @torch.no_grad()
    def embed_images(self, images: "Sequence[Image]") -> Tensor:
        """The vision tower's embeddings (B, D) of RGB images."""
        return self.see(self.preprocess(images))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The text tower's embeddings (B, D), which lie in the space of the images'."""
        return torch.cat([self.encode_text(text).condition.text_embedding for text in texts])

    def see(self, pixels: Tensor) -> Tensor:
        """The embeddings (B, D) of normalised pixels (B, 3, S, S)."""
        embeddings: Tensor = (self.lazy_vision or self.vision)(pixels.to(self.device, self.dtype))
        return embeddings

    @cached_property
    def zero_embedding(self) -> Tensor:
        """The embedding (1, D) of an all-zero normalised image, which stands for no image at all."""
        size = self.image_size
        with torch.no_grad():
            if self.lazy_vision is not None:
                return self.lazy_vision.of_nothing()
            return self.see(torch.zeros(1, 3, size, size))

    @torch.no_grad()
    def encode_text(self, text: str, *, padded: bool = False) -> EncodedText:
        """The prior's condition of one text, encoded alone so that its numbers do not depend on its neighbours.

        Padding is left out unless asked for: the text tower is causal, so that it changes nothing in front of
        it, and the prior masks it.
        """
        tokens = self.tokenizer.encode([text], self.network.config.tokens)
        end = self.network.config.tokens if padded else int(tokens.mask.sum())
        features = self.text(tokens.ids[:, :end].to(self.device))
        mask = tokens.mask[:, :end].to(self.device)
        return EncodedText(text, PriorCondition(features.hidden, features.embedding, mask), tokens.dropped[0])

    @torch.no_grad()
    def encode_weighted(self, text: str) -> EncodedText:
        """As `encode_text`, of a text with weights, which act on the hidden states; the embedding is the plain text's.

        The result's `text` is without brackets.
        """
        weighted, length = parse_weights(text), self.network.config.tokens
        plain = self.encode_text(weighted.text)
        if weighted.is_plain:
            return plain
        hidden = plain.condition.text_hidden
        ids = self.tokenizer.encode([""], length).ids[:, : hidden.shape[1]]
        empty = self.text(ids.to(self.device)).hidden
        weights = token_weights(self.tokenizer.spans(weighted.text, length), weighted)
        return replace(plain, condition=replace(plain.condition, text_hidden=weighted_states(hidden, empty, weights)))

    def caption_condition(self, captions: Sequence[str]) -> PriorCondition:
        """The network's condition; gradients reach whatever learns in the text encoder."""
        tokens = self.tokenizer.encode(captions, self.network.config.tokens)
        features = self.text(tokens.ids.to(self.device))
        return PriorCondition(features.hidden, features.embedding, tokens.mask.to(self.device))

    @torch.no_grad()
    def prepare(self, texts: Sequence[EncodedText], steps: int) -> PreparedPrior:
        """The prior closed over texts, for trajectories of `steps` steps."""
        condition = PriorCondition.of([text.condition for text in texts])
        times = self.schedule.times(steps)
        return self.accelerate(self.network.prepare(condition, times), len(times))

    def denoise(
        self,
        prepared: Stepper,
        x: Tensor,
        times: Sequence[int],
        rng: Noise,
        scale: Scale,
        gradients: bool = False,
    ) -> Trajectory:
        """The trajectory from `x` (B, D), normalised and noised to times[0]; `prepared` as in `trajectory`.

        With `gradients` what comes out can be followed back through every step.
        """
        plan = self.schedule
        fixed = plan.process, plan.parametrization, scale, plan.constraints
        closed = make_denoiser(lambda x, t: prepared.step(x.to(self.dtype), t), *fixed)
        sampler = make_sampler(plan.sampler, plan.process, variance=plan.variance)
        begin = x.to(self.device, working_dtype(self.dtype))
        return sample(sampler, closed, begin, times, rng, gradients=gradients)

    def trajectory(self, prepared: Stepper, rng: Noise, count: int, steps: int, scale: Scale) -> Trajectory:
        """Draws `count` embeddings from noise; the last step's `x` is for `embedding`.

        `prepared` has `count` rows, or with a guidance `scale` the unconditional ones in front of them.
        """
        noise = rng.normal((count, self.network.config.embedding_dim))
        return self.denoise(prepared, noise, self.schedule.times(steps), rng, scale)

    @torch.no_grad()
    def embedding(self, x: Tensor) -> Tensor:
        """The image embeddings (B, D) that a trajectory ended at."""
        return self.network.denormalise(x.to(self.dtype))

    def sample(
        self, prepared: Stepper, rng: Noise, count: int, steps: int, scale: Scale
    ) -> Generator[int, None, Tensor]:
        """Draws image embeddings (B, D) as `trajectory` does; yields the steps done after each."""
        with closing(self.trajectory(prepared, rng, count, steps, scale)) as run:
            for step in run:
                yield step.index + 1
        return self.embedding(step.x)
