"""What both sides are asked to do, as JSON values: a model folder, how to run it, and one request."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.against_diffusers.spans import Span

if TYPE_CHECKING:
    from PIL.Image import Image

Form = Literal["text2img", "img2img", "inpaint", "mix"]
Reads = Literal["prior", "text", "embedding", "both"]
"""What the model is told: a text that its prior reads, or that it reads itself; an embedding, or both."""

SEED = 7
PROMPT = "a red apple"
SECOND_PROMPT = "a yellow banana"


@dataclass(frozen=True)
class Asked:
    """One request, in the same words for both sides.

    `form` is what is done, `reads` what the model is told, `embedding` the size of its image embeddings.
    `sampler` is our name for the peer's scheduler, None where the folder says the same to both; with `steps`
    None each side takes its own steps and sampler.
    """

    form: Form = "text2img"
    reads: Reads = "prior"
    embedding: int = 0
    width: int = 128
    height: int = 128
    count: int = 1
    steps: int | None = 25
    sampler: str | None = None
    guidance_scale: float = 4.0
    prior_steps: int = 25
    prior_guidance_scale: float = 4.0
    strength: float = 0.5


@dataclass(frozen=True)
class Job:
    """What a process is told: the side, a model, the request, and the part of it that counts.

    `dtype` None leaves everything to the side's defaults; with one the side does its best in it. `folder` is
    in diffusers layout; where its denoiser is tiny but that of the model it stands for is not, `denoiser` is
    how many parameters that one has, by which a default dtype may be chosen.
    """

    side: Literal["ours", "peer"]
    folder: str
    asked: Asked
    span: Span = "whole"
    dtype: str | None = None
    device: str = "cpu"
    threads: int = 0
    compiled: bool = False
    denoiser: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Job":
        """The job of `to_json`."""
        return cls(**{**values, "asked": Asked(**values["asked"])})


def draw_image(asked: Asked) -> "Image":
    """An image of the request's size to begin with: two colours that fade into each other."""
    import numpy as np
    from PIL.Image import fromarray

    down, across = np.mgrid[0 : asked.height, 0 : asked.width]
    channels = [255 * down / asked.height, 255 * across / asked.width, np.full(down.shape, 96.0)]
    return fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def mask(asked: Asked) -> "Image":
    """A mask whose right half is to be repainted (white)."""
    import numpy as np
    from PIL.Image import fromarray

    pixels = np.zeros((asked.height, asked.width), np.uint8)
    pixels[:, asked.width // 2 :] = 255
    return fromarray(pixels)


def embeddings(asked: Asked) -> tuple[list[float], list[float]]:
    """An image embedding and one to steer away from."""
    import numpy as np

    draws = np.random.default_rng(SEED).standard_normal((2, asked.embedding))
    return draws[0].astype(np.float32).tolist(), draws[1].astype(np.float32).tolist()


@dataclass(frozen=True)
class Told:
    """What a side says of itself after loading: what it computes in, and what is worth knowing beside."""

    dtype: str
    notes: list[str] = field(default_factory=list)
