"""A request: what one call asks for, validated once, at the edge.

A field is declared in `Request` and nowhere else: its type and limits, and in `About` what flags, files and
messages say of it. `Fields` and `Row` repeat names for type checkers; a test compares them.
"""

import numbers
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Unpack

from annotated_types import Interval, MinLen
from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    JsonValue,
    Strict,
    ValidationError,
    model_validator,
)

from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.fields import About, Fields, SamplerName
from kandinsky.core.images import (
    SIDES,
    Picture,
    image_from_json,
    image_to_json,
    read_image,
    read_mask,
    size_like,
)
from kandinsky.core.other_names import called_here
from kandinsky.core.outpainting import Margins, read_margins
from kandinsky.core.prompts import (
    Embedding,
    Mix,
    MixItem,
    Prompt,
    PromptLike,
    as_prompt,
    mix,
    prompt_from_json,
    prompt_to_json,
)
from kandinsky.core.request_checks import CHECKED, check, settled
from kandinsky.core.validation import INTERVAL_HINT, ascending, parts_of, translated, two

__all__ = [
    "About",
    "Embedding",
    "Fields",
    "Mix",
    "MixItem",
    "Prompt",
    "PromptLike",
    "Request",
    "Row",
    "SamplerName",
    "mix",
]

T = TypeVar("T")
LARGEST_SEED = 2**64 - 1
"""torch takes no larger one."""
MOST_IMAGES = 10_000
EFFECTIVE_GUIDANCE = "effective_guidance_scale"
"""A result's request has this too where the checkpoint means something of its own by guidance_scale: the
scale in the usual meaning, in which 1 is unguided."""
PROMPT, INPUT = "Prompt", "Input images"


def python_number(value: object) -> object:
    """The numbers of numpy and torch as Python's, also from an array without axes; all else as it is."""
    if type(value).__module__ in ("numpy", "torch") and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


Whole = Annotated[int, Strict(), BeforeValidator(python_number)]
Real = Annotated[float, Strict(), AllowInfNan(False), BeforeValidator(python_number)]
Side = Annotated[Whole, Interval(ge=SIDES[0], le=SIDES[1])]
Steps = Annotated[Whole, Interval(ge=1, le=1000)]
Seed = Annotated[Whole, Interval(ge=0, le=LARGEST_SEED)]
Count = Annotated[Whole, Interval(ge=1, le=MOST_IMAGES)]
Strength = Annotated[Real, Interval(gt=0, le=1)]
Share = Annotated[Real, Interval(ge=0, le=1)]
Scale = Annotated[Real, Interval(ge=0)]
Text = Annotated[str, Strict()]
Name = Annotated[Text, MinLen(1)]
Blur = Annotated[Whole, Interval(ge=0, le=512)]
Flag = Annotated[bool, Strict(), BeforeValidator(python_number)]
Image = Annotated[InstanceOf[Picture], BeforeValidator(read_image)]
Mask = Annotated[InstanceOf[Picture], BeforeValidator(read_mask)]
NoText = Annotated[InstanceOf[Mix] | InstanceOf[Embedding], BeforeValidator(as_prompt)]
OnePrompt = Annotated[Text | NoText, Field(union_mode="left_to_right")]
Each = Annotated[
    T | Annotated[tuple[T, ...], Strict()],
    Field(union_mode="left_to_right"),
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
"""One for all prompts, or one per prompt."""

SIDE_HINT = f"Give {SIDES[0]} to {SIDES[1]} pixels."
SCALE_HINT = "4 is usual; 1 and below is unguided."
ONE_OR_EACH = "Give one for all, or one per prompt."
YES_OR_NO = "Give True or False."
IMAGE_HINT = "Give a path, a PIL image or an array."


@dataclass(frozen=True)
class Row:
    """What one image is made from; guidance scales are in the usual meaning, 1 where nothing is guided."""

    prompt: Prompt
    negative_prompt: str | None
    prior_negative_prompt: str | None
    image: Picture | None
    mask: Picture | None
    hint: Picture | None
    seed: int
    guidance_scale: float = 1.0
    prior_guidance_scale: float = 1.0
    prompt_weights: bool = False


class Request(BaseModel):
    """What is asked of one call; None means the checkpoint's published default.

    `prompt` is one text, Mix, Embedding or image (a variation), or a list of these; negative prompts, images, masks,
    hints and guidance scales are one for all or one per prompt, and so is the seed: image i uses seed + i, or image j
    of a prompt its seed + j. strength is in (0, 1], steps and prior_steps in 1..1000, guidance scales 0 or more, eta in
    0..1, width and height in 8..8192 pixels, seed in 0..2**64 - 1, count at least 1. In a mask white (1) means repaint.
    With `prompt_weights` texts are read for weights, see `parse_weights`.
    `guidance_interval` is where the decoder is guided, from and to a share of the noising, 0 being the clean image and
    1 pure noise; elsewhere its network is evaluated once instead of twice. With `reuse` N its deep features are
    computed in every N-th step only (1: in each). Both save time at a price, and are off unless given. Raises
    RequestError naming the first value that cannot be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    prompt: Annotated[Each[OnePrompt], About("What to draw.", group=PROMPT)]
    negative_prompt: Annotated[Each[Text | None], About("What to steer away from.", group=PROMPT)] = None
    prior_negative_prompt: Annotated[
        Each[Text | None],
        About("What the prior alone steers away from.", group=PROMPT),
    ] = None
    prompt_weights: Annotated[
        Flag,
        About("Read (word:1.3), (word) and [word] in texts as weights.", bool, YES_OR_NO, "Prompt weights", PROMPT),
    ] = False
    image: Annotated[
        Each[Image] | None,
        About("An image to change.", Path, IMAGE_HINT, group=INPUT),
    ] = None
    mask: Annotated[
        Each[Mask] | None,
        About("White marks what to repaint in the image.", Path, IMAGE_HINT, group=INPUT),
    ] = None
    outpaint: Annotated[
        Annotated[InstanceOf[Margins], BeforeValidator(read_margins)] | None,
        About(
            "Paint margins around the image, in pixels.",
            str,
            "Write left=64,top=32.",
            "Outpaint",
            INPUT,
            metavar="SIDE=PIXELS,...",
        ),
    ] = None
    paste_back: Annotated[
        Flag,
        About("Keep the image's own pixels where nothing is painted.", bool, YES_OR_NO, "Paste back", INPUT),
    ] = False
    mask_blur: Annotated[
        Blur | None,
        About(
            "Pixels over which what is pasted back fades in.",
            int,
            "4 to 16 are usual, 0 is a hard edge.",
            "Mask blur",
            INPUT,
        ),
    ] = None
    hint: Annotated[
        Each[Image] | None,
        About("An image to follow (ControlNet models).", Path, IMAGE_HINT, group=INPUT),
    ] = None
    strength: Annotated[
        Strength | None,
        About(
            "How much to change the image.", float, "0.3 changes a little, 1 everything.", "Denoising strength", INPUT
        ),
    ] = None
    steps: Annotated[
        Steps | None,
        About("Denoising steps of the decoder.", int, "15 to 50 are usual, with an adapter for few steps 4.", "Steps"),
    ] = None
    sampler: Annotated[
        Name | None,
        About(
            "How steps are made, such as dpmpp_2m, ddim or euler.",
            str,
            "Give one such as 'ddim'.",
            "Sampler",
            metavar="NAME",
        ),
    ] = None
    guidance_scale: Annotated[
        Each[Scale | None],
        About("How closely to follow the prompt.", float, SCALE_HINT, "CFG scale"),
    ] = None
    guidance_interval: Annotated[
        Annotated[tuple[Share, Share], BeforeValidator(two), AfterValidator(ascending)] | None,
        About(
            "Guide only from FROM to TO, 1 being pure noise.",
            tuple[float, float],
            INTERVAL_HINT,
            "CFG interval",
            metavar="FROM TO",
        ),
    ] = None
    reuse: Annotated[
        Steps | None,
        About(
            "Compute deep features in every N-th step only (DeepCache).", int, "2 or 3 are usual, 1 is off.", "Reuse"
        ),
    ] = None
    seed: Annotated[
        Each[Seed] | None,
        About(
            "Image i uses seed + i; random if not given.",
            int,
            "Any whole number from 0 will do.",
            "Seed",
            names=("--seed", "-s"),
        ),
    ] = None
    width: Annotated[
        Side | None,
        About("The image's width in pixels; the model's own if not given.", int, SIDE_HINT, "Size"),
    ] = None
    height: Annotated[
        Side | None,
        About("The image's height in pixels; the model's own if not given.", int, SIDE_HINT),
    ] = None
    prior_steps: Annotated[
        Steps | None,
        About("Steps of the prior, which makes image embeddings of texts.", int, "25 is usual.", "Prior steps"),
    ] = None
    prior_guidance_scale: Annotated[
        Each[Scale | None],
        About("How closely the prior follows the prompt.", float, SCALE_HINT, "Prior CFG scale"),
    ] = None
    eta: Annotated[
        Share | None,
        About("The share of fresh noise in ddim and euler_ancestral.", float, "0 is without noise.", "Eta"),
    ] = None
    count: Annotated[
        Count,
        About("Images per prompt.", int, "Give the number of images.", names=("--count", "-n")),
    ] = 1

    def __init__(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> None:
        if unknown := sorted(fields.keys() - type(self).model_fields.keys()):
            raise RequestError(f"A request has no {unknown[0]!r}.", called_here(unknown[0], type(self).model_fields))
        try:
            super().__init__(prompt=prompt, **{name: value for name, value in fields.items() if value is not None})
        except ValidationError as error:
            hints = {name: said.hint for name, said in about(type(self)).items()}
            raise translated(error, type(self).model_fields, hints) from None

    @model_validator(mode="after")
    def _consistent(self) -> "Request":
        prompts = len(self.prompts)
        if not prompts:
            raise RequestError("The list of prompts is empty.", "Give at least one prompt.")
        for field in (*per_prompt(type(self)), "seed"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != prompts:
                raise RequestError(f"{field} has {len(value)} entries for {prompts} prompts.", ONE_OR_EACH)
        if any(getattr(self, name) not in (None, False) for name in CHECKED):
            check(self)
        if self.size > MOST_IMAGES:
            raise RequestError(f"{self.size} images are too many for one request.", "Ask for them in parts.")
        if self.seed is not None and max(self.seeds) > LARGEST_SEED:
            raise RequestError(f"seed {self.seed} leaves no seeds for {self.size} images.", "Stay below 2**64.")
        return self

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, also when there is one."""
        return self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)

    @property
    def repaints(self) -> bool:
        """Whether a part of its images is repainted, and the rest is kept."""
        return self.mask is not None or self.outpaint is not None

    @property
    def size(self) -> int:
        """The number of images: prompts x count."""
        return len(self.prompts) * self.count

    @property
    def seeds(self) -> list[int]:
        """The seed of each image; raises ValueError before `filled` gave one."""
        if self.seed is None:
            raise ValueError("this request has no seed yet; call filled() first")
        return [seed_of(self.seed, index, self.count) for index in range(self.size)]

    def of(self, field: str, index: int) -> Any:
        """What a field says to prompt `index`."""
        value = getattr(self, field)
        return value[index] if isinstance(value, tuple) else value

    def rows(self, guidance_offset: float = 0.0) -> list[Row]:
        """One Row per image: all `count` images of the first prompt, then those of the next.

        `guidance_offset` is what guidance scales lack of the usual meaning. Raises ValueError without a seed.
        """
        rows = []
        for index, seed in enumerate(self.seeds):
            own = {name: self.of(name, index // self.count) for name in per_prompt(type(self))}
            for name, offset in (("guidance_scale", guidance_offset), ("prior_guidance_scale", 0.0)):
                own[name] = 1.0 if own[name] is None else own[name] + offset
            rows.append(Row(seed=seed, prompt_weights=self.prompt_weights, **own))
        return settled(self, rows) if self.prompt_weights or self.outpaint else rows

    def alone(self, index: int) -> "Request":
        """The request for image `index` (from 0) of this one alone; it has a seed."""
        own = {name: self.of(name, index // self.count) for name in per_prompt(type(self))}
        return self.replaced(count=1, seed=self.seeds[index], **own)

    def filled(self, defaults: Mapping[str, Any]) -> "Request":
        """This request with the checkpoint's default for every None, and a random seed for a missing one.

        An image gives its shape, at about the area of the defaults and in multiples of 8; strength is filled
        only where it acts: its default for an image alone, 1 for an image with a mask.
        """
        known = type(self).model_fields.keys() - {"prompt"}
        if unknown := sorted(defaults.keys() - known):
            raise ValueError(f"a request has no {unknown[0]!r}; {nearest(unknown[0], known)}")
        given = {"seed": secrets.randbelow(2**32), **defaults}
        missing = {name: value for name, value in given.items() if getattr(self, name) is None}
        for name in ("guidance_scale", "prior_guidance_scale"):
            if isinstance(own := getattr(self, name), tuple):
                missing[name] = tuple(defaults.get(name) if value is None else value for value in own)
        missing.pop("strength", None)
        return self.replaced(**(missing if self.image is None else missing | self._filled_for_image(defaults)))

    def _filled_for_image(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The strength and the sides that an image gives, where they are not given."""
        own: dict[str, Any] = {}
        if self.strength is None:
            own["strength"] = 1.0 if self.repaints else defaults.get("strength")
        size = self.of("image", 0).size if self.outpaint is None else self.outpaint.around(self.of("image", 0).size)
        if (self.outpaint or self.paste_back) and not (self.width or self.height):
            own |= dict(zip(("width", "height"), size, strict=True))
        elif not (self.width and self.height):
            own |= size_like(size, self.width, self.height, defaults["width"] * defaults["height"])
        return own

    def replaced(self, **fields: object) -> "Request":
        """A copy with some fields changed, validated again."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | fields))

    def to_json(self) -> dict[str, JsonValue]:
        """This request as JSON values for `from_json`; input images as path, size and fingerprint."""
        return {name: _to_json(name, getattr(self, name)) for name in type(self).model_fields}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: str | Path | None = None, **changes: object) -> "Request":
        """Reads what `to_json` made, with `changes` in place of the stored fields.

        Input images are looked for at their stored path, then in `folder`. Raises RequestError when one is
        missing or not the same any more, or when the data is no request.
        """
        if not isinstance(data, Mapping) or "prompt" not in data:
            raise RequestError("The stored request has no prompt.", "Was the metadata edited?")
        place = None if folder is None else Path(folder)
        stored = {name: value for name, value in data.items() if name not in (*changes, EFFECTIVE_GUIDANCE)}
        readers = {"prompt": prompt_from_json} | dict.fromkeys(file_fields(cls), image_from_json)
        for name, read in readers.items():
            value = stored.get(name)
            if isinstance(value, list):
                stored[name] = tuple(read(one, place) for one in value)
            elif name in stored and value is not None:
                stored[name] = read(value, place)
        return cls(**(stored | changes))


@cache
def about(request: type[Request] = Request) -> dict[str, About]:
    """What is said of each field of a request, in their order."""
    return {
        name: next(part for part in field.metadata if isinstance(part, About))
        for name, field in request.model_fields.items()
    }


@cache
def per_prompt(request: type[Request] = Request) -> tuple[str, ...]:
    """The fields that are one for all, or one per prompt; but the seed, which differs in each image."""
    each = (name for name, field in request.model_fields.items() if ... in parts_of(field))
    return tuple(name for name in each if name != "seed")


@cache
def file_fields(request: type[Request] = Request) -> tuple[str, ...]:
    """The fields that hold input images, which users give as files."""
    return tuple(name for name, said in about(request).items() if said.type is Path)


def _to_json(name: str, value: Any) -> JsonValue:
    if isinstance(value, tuple):
        return [_to_json(name, one) for one in value]
    if name == "prompt" and not isinstance(value, str):
        return prompt_to_json(value)
    made: JsonValue = image_to_json(value) if isinstance(value, Picture) else value
    return asdict(value) if isinstance(value, Margins) else made


def seed_of(seed: int | Sequence[int], index: int, count: int) -> int:
    """The seed of image `index`, where each prompt has `count`, by one seed for all or one per prompt."""
    return seed + index if isinstance(seed, int) else seed[index // count] + index % count
