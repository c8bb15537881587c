"""What is said of a field of a request, and their types for type checkers and editors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from kandinsky.core.images import ImageLike

STEERING = "Steering"


@dataclass(frozen=True)
class About:
    """What surfaces say of a field besides its type and limits.

    `help` and `group` are for command lines, where its flag takes a `type`, and may have `names` and a
    `metavar` of its own; `hint` follows an error; `summary` is its name in the text that other tools show.
    """

    help: str
    type: object = str
    hint: str = "Give one text, or one per prompt."
    summary: str | None = None
    group: str = STEERING
    names: tuple[str, ...] = ()
    metavar: str | None = None


SamplerName: TypeAlias = Literal[
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "euler",
    "euler_ancestral",
    "heun",
    "plms",
    "renoise",
    "unipc",
]
"""The samplers that are there without others being added to `SAMPLERS`."""


class Fields(TypedDict, total=False):
    """The keyword arguments of a request besides the prompt, as `generate` and `stream` take them."""

    negative_prompt: str | Sequence[str | None] | None
    prior_negative_prompt: str | Sequence[str | None] | None
    prompt_weights: bool
    image: "ImageLike | Sequence[ImageLike] | None"
    mask: "ImageLike | Sequence[ImageLike] | None"
    outpaint: Mapping[str, int] | str | None
    paste_back: bool
    mask_blur: int | None
    hint: "ImageLike | Sequence[ImageLike] | None"
    strength: float | None
    steps: int | None
    sampler: SamplerName | str | None
    guidance_scale: float | Sequence[float | None] | None
    guidance_interval: tuple[float, float] | None
    reuse: int | None
    seed: int | Sequence[int] | None
    width: int | None
    height: int | None
    prior_steps: int | None
    prior_guidance_scale: float | Sequence[float | None] | None
    eta: float | None
    count: int
