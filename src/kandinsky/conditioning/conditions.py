"""Interfaces of conditioners, and the conditions that they make for the denoising loop and for training."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from kandinsky.adapters.tokens import table_of
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.events import Event
from kandinsky.core.requests import Request, Row
from kandinsky.core.rng import Noise, Rng
from kandinsky.diffusion.loop import Trajectory
from kandinsky.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are denoised together: their rows of the request, and the source of their noise."""

    rows: Sequence[Row]
    rng: Rng


@dataclass(frozen=True, eq=False)
class Conditions:
    """Network conditions, one row an image; `uncond` is None when nothing is guided."""

    cond: Any
    uncond: Any | None


Encoded = Generator[Event, None, list[Conditions]]
"""The events of encoding the prompts of batches; it returns their conditions in order."""


class Conditioner(Protocol):
    """Turns prompts into conditions; `guided` says whether unconditional ones are wanted as well."""

    def check(self, request: Request, guided: bool) -> None:
        """Raises RequestError for a request (defaults filled in) whose prompts `encode` would refuse."""
        ...

    def encode(self, batches: Sequence[Batch], prior_steps: int, guided: bool) -> Encoded:
        """Encodes the prompts of all batches, a prior in `prior_steps`."""
        ...


class TextNetwork(Protocol):
    """A text encoder: ids and mask (B, L) to states (B, L, `config.width`)."""

    @property
    def config(self) -> Any: ...

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor: ...


class SingleEncoder(ABC):
    """A conditioner all of whose texts go through one text encoder, which something else may run."""

    @property
    @abstractmethod
    def encoder(self) -> TextNetwork:
        """What runs the text encoder."""

    @abstractmethod
    def with_encoder(self, encoder: TextNetwork, device: torch.device) -> Conditioner:
        """The same conditioner with its text encoder run by `encoder`, on ids on `device`."""


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text encoder and the tokenizer that makes its ids; it reads on `device`, None for where its weights are."""

    tokenizer: Tokenizer
    network: nn.Module
    device: torch.device | None = None

    def read(self, texts: Sequence[str], length: int) -> tuple[Any, list[str]]:
        """The output for texts cut or padded to `length` tokens, and the end of each that did not fit."""
        tokens = self.tokenizer.encode(texts, length)
        device = self.device or next(self.network.parameters()).device
        return self.network(tokens.ids.to(device), tokens.mask.to(device)), tokens.dropped

    @property
    def width(self) -> int:
        """How wide its token table is."""
        return int(table_of(self.network).embedding_dim)


class PriorNetwork(Protocol):
    """A diffusion prior: (x, t, condition) to the clean embedding (B, D), all normalised."""

    clip_mean: nn.Parameter
    clip_std: nn.Parameter

    @property
    def config(self) -> Any: ...

    def __call__(self, noisy: Tensor, t: Tensor, condition: Any) -> Tensor: ...

    def prepare(self, condition: Any, times: Sequence[float]) -> Any: ...

    def normalise(self, embedding: Tensor) -> Tensor: ...

    def denormalise(self, x: Tensor) -> Tensor: ...


class DiffusionPrior(Protocol):
    """The first of two stages, as training and evaluation use it: image embeddings of captions and of images."""

    @property
    def network(self) -> PriorNetwork: ...

    @property
    def schedule(self) -> Schedule: ...

    @property
    def encoder(self) -> TextEncoder: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Its networks by the names of their components."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels along a side of what `see` takes."""
        ...

    def load_vision(self) -> None:
        """Brings the weights of the vision tower, to stay."""
        ...

    def see(self, pixels: Tensor) -> Tensor:
        """The embeddings (B, D) of normalised pixels (B, 3, S, S)."""
        ...

    def caption_condition(self, captions: Sequence[str]) -> Any:
        """The network's condition; gradients reach whatever learns in the text encoder."""
        ...

    def embed_images(self, images: "Sequence[Image]") -> Tensor:
        """The vision tower's embeddings (B, D) of RGB images."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """The text tower's embeddings (B, D), which lie in the space of the images'."""
        ...

    def denoise(
        self, prepared: Any, x: Tensor, times: Sequence[int], rng: Noise, scale: float | None, gradients: bool = False
    ) -> Trajectory:
        """The trajectory from `x` (B, D), normalised and noised to times[0]."""
        ...


class CaptionConditioner(ABC):
    """A conditioner that makes conditions of captions too, so that its decoder can learn."""

    @property
    @abstractmethod
    def prior(self) -> DiffusionPrior | None:
        """What makes the image embeddings; None for a decoder that takes none, or that has no prior here."""

    @property
    @abstractmethod
    def encoders(self) -> Sequence[TextEncoder]:
        """The text encoders that the decoder reads itself."""

    @property
    def caption_tokens(self) -> int:
        """The most tokens of a caption that those encoders read."""
        return 0

    @abstractmethod
    def caption_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> Any:
        """The condition for captions and embeddings (B, D); rows `dropped` (B,) get the empty one.

        That is the empty text and the embedding of an all-zero image, as in inference's unconditional half.
        Gradients reach whatever learns in the text encoders.
        """


def kept(captions: Sequence[str], dropped: Tensor) -> list[str]:
    """The captions, those of rows `dropped` (B,) empty."""
    return ["" if drop else text for text, drop in zip(captions, dropped.tolist(), strict=True)]
