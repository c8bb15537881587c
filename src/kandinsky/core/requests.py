"""A request: what one call asks for, validated once, at the edge.

A field is declared in `Request` and nowhere else: its type and limits, and in `About` what flags, files and
messages say of it. `Fields` and `Row` repeat names for type checkers; a test compares them.
"""

import numbers
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, Unpack

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
from kandinsky.core.images import (
    SIDES,
    ImageLike,
    Picture,
    image_from_json,
    image_to_json,
    read_image,
    read_mask,
    size_like,
)
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
from kandinsky.core.validation import INTERVAL_HINT, ascending, parts_of, translated, two

__all__ = ["Embedding", "Fields", "Mix", "MixItem", "Prompt", "PromptLike", "Request", "Row", "mix"]

T = TypeVar("T")
LARGEST_SEED = 2**64 - 1
"""torch takes no larger one."""
MOST_IMAGES = 10_000
EFFECTIVE_GUIDANCE = "effective_guidance_scale"
"""A result's request has this too where the checkpoint means something of its own by guidance_scale: the
scale in the usual meaning, in which 1 is unguided."""
PROMPT, INPUT, STEERING = "Prompt", "Input images", "Steering"


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


def python_number(value: object) -> object:
    """The numbers of numpy and torch as Python's, also from an array without axes; all else as it is."""
    if getattr(value, "ndim", None) == 0:
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
IMAGE_HINT = "Give a path, a PIL image or an array."


class Fields(TypedDict, total=False):
    """The keyword arguments of a request besides the prompt, as `generate` and `stream` take them."""

    negative_prompt: str | Sequence[str | None] | None
    prior_negative_prompt: str | Sequence[str | None] | None
    image: "ImageLike | Sequence[ImageLike] | None"
    mask: "ImageLike | Sequence[ImageLike] | None"
    hint: "ImageLike | Sequence[ImageLike] | None"
    strength: float | None
    steps: int | None
    sampler: str | None
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


class Request(BaseModel):
    """What is asked of one call; None means the checkpoint's published default.

    `prompt` is one text, Mix, Embedding or image (a variation), or a list of these; negative prompts, images, masks,
    hints and guidance scales are one for all or one per prompt, and so is the seed: image i uses seed + i, or image j
    of a prompt its seed + j. strength is in (0, 1], steps and prior_steps in 1..1000, guidance scales 0 or more, eta in
    0..1, width and height in 8..8192 pixels, seed in 0..2**64 - 1, count at least 1. In a mask white (1) means repaint.
    `guidance_interval` is where the decoder is guided, from and to a share of the noising, 0 being the clean image and
    1 pure noise; elsewhere its network is evaluated once instead of twice. With `reuse` N its deep features are
    computed in every N-th step only (1: in each). Both save time at a price, and are off unless given. Raises
    RequestError naming the first value that cannot be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    prompt: Annotated[Each[OnePrompt], About("What to draw.", group=PROMPT)]
    negative_prompt: Annotated[Each[Text | None], About("What to steer away from.", group=PROMPT)] = None
    prior_negative_prompt: Annotated[Each[Text | None], About("The same for the prior alone.", group=PROMPT)] = None
    image: Annotated[Each[Image] | None, About("An image to change.", Path, IMAGE_HINT, group=INPUT)] = None
    mask: Annotated[Each[Mask] | None, About("White marks what to repaint in it.", Path, IMAGE_HINT, group=INPUT)] = (
        None
    )
    hint: Annotated[
        Each[Image] | None, About("An image to follow (ControlNet models).", Path, IMAGE_HINT, group=INPUT)
    ] = None
    strength: Annotated[
        Strength | None,
        About(
            "How much to change it, above 0 to 1.",
            float,
            "0.3 changes a little, 1 everything.",
            "Denoising strength",
            INPUT,
        ),
    ] = None
    steps: Annotated[Steps | None, About("Denoising steps.", int, "25 to 100 are usual.", "Steps")] = None
    sampler: Annotated[Name | None, About("Such as ddim.", str, "Give one such as 'ddim'.", "Sampler")] = None
    guidance_scale: Annotated[
        Each[Scale | None], About("How closely to follow the prompt.", float, SCALE_HINT, "CFG scale")
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
        About("Compute deep features in every N-th step only.", int, "2 or 3 are usual, 1 is off.", "Reuse"),
    ] = None
    seed: Annotated[
        Each[Seed] | None,
        About("Image i uses seed + i; random if not given.", int, "Any whole number from 0 will do.", "Seed"),
    ] = None
    width: Annotated[Side | None, About("In pixels.", int, SIDE_HINT, "Size")] = None
    height: Annotated[Side | None, About("In pixels.", int, SIDE_HINT)] = None
    prior_steps: Annotated[Steps | None, About("Steps of the prior.", int, "25 is usual.", "Prior steps")] = None
    prior_guidance_scale: Annotated[
        Each[Scale | None], About("The prior's guidance scale.", float, SCALE_HINT, "Prior CFG scale")
    ] = None
    eta: Annotated[Share | None, About("Noise of ddim, 0 to 1.", float, "0 is without noise.", "Eta")] = None
    count: Annotated[Count, About("Images per prompt.", int, "Give the number of images.", names=("--count", "-n"))] = 1

    def __init__(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> None:
        known = type(self).model_fields.keys() - {"prompt"}
        if unknown := sorted(fields.keys() - known):
            raise RequestError(f"A request has no {unknown[0]!r}.", nearest(unknown[0], known))
        if fields.get("count", 1) is None:
            del fields["count"]
        try:
            super().__init__(prompt=prompt, **fields)
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
                raise RequestError(
                    f"{field} has {len(value)} entries for {prompts} prompts.", "Give one for all, or one per prompt."
                )
        if self.image is not None or self.mask is not None or self.strength is not None:
            self._check_image()
        if self.size > MOST_IMAGES:
            raise RequestError(f"{self.size} images are too many for one request.", "Ask for them in parts.")
        if self.seed is not None and max(self.seeds) > LARGEST_SEED:
            raise RequestError(
                f"seed {self.seed} leaves no seeds for {self.size} images.", f"Stay below {LARGEST_SEED}."
            )
        return self

    def _check_image(self) -> None:
        if self.image is None:
            if self.mask is not None:
                raise RequestError("A mask is given without an image.", "Give the image that it is for.")
            raise RequestError(f"strength {self.strength:g} is given without an image.", "Give the image to change.")
        for index in range(len(self.prompts) if self.mask is not None else 0):
            image, mask = self._of("image", index), self._of("mask", index)
            if mask.size != image.size:
                sizes = [" x ".join(map(str, one.size)) for one in (mask, image)]
                raise RequestError(
                    f"The mask {mask.name} is {sizes[0]}, its image is {sizes[1]}.",
                    "Draw the mask on the image's own size.",
                )
            # One value per grey level; level 128 is the first that rounds to white.
            if not any(mask.image.histogram()[128:]):
                raise RequestError(
                    f"The mask {mask.name} marks nothing to repaint.", "White (1) is repainted and black (0) is kept."
                )

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, also when there is one."""
        return self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)

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

    def _of(self, field: str, index: int) -> Any:
        """What a field says to prompt `index`."""
        value = getattr(self, field)
        return value[index] if isinstance(value, tuple) else value

    def rows(self, guidance_offset: float = 0.0) -> list[Row]:
        """One Row per image: all `count` images of the first prompt, then those of the next.

        `guidance_offset` is what guidance scales lack of the usual meaning. Raises ValueError without a seed.
        """
        rows = []
        for index, seed in enumerate(self.seeds):
            own = {name: self._of(name, index // self.count) for name in per_prompt(type(self))}
            for name, offset in (("guidance_scale", guidance_offset), ("prior_guidance_scale", 0.0)):
                own[name] = 1.0 if own[name] is None else own[name] + offset
            rows.append(Row(seed=seed, **own))
        return rows

    def alone(self, index: int) -> "Request":
        """The request for image `index` (from 0) of this one alone; it has a seed."""
        own = {name: self._of(name, index // self.count) for name in per_prompt(type(self))}
        return self.replaced(count=1, seed=self.seeds[index], **own)

    def filled(self, defaults: Mapping[str, Any]) -> "Request":
        """This request with the checkpoint's default for every None, and a random seed for a missing one.

        An image gives its shape, at about the area of the defaults and in multiples of 8; strength is filled
        only where it acts: its default for an image alone, 1 for an image with a mask.
        """
        known = type(self).model_fields.keys() - {"prompt"}
        if unknown := sorted(defaults.keys() - known):
            raise ValueError(f"a request has no {unknown[0]!r}; {nearest(unknown[0], known)}")
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        for name in ("guidance_scale", "prior_guidance_scale"):
            given = getattr(self, name)
            if isinstance(given, tuple):
                missing[name] = tuple(defaults.get(name) if value is None else value for value in given)
        missing.pop("strength", None)
        if self.image is not None and self.strength is None:
            missing["strength"] = 1.0 if self.mask is not None else defaults.get("strength")
        missing |= {} if self.width and self.height else self._filled_size(defaults)
        if self.seed is None:
            missing["seed"] = secrets.randbelow(2**32)
        return self.replaced(**missing)

    def _filled_size(self, defaults: Mapping[str, Any]) -> dict[str, int]:
        if self.image is not None:
            area = defaults["width"] * defaults["height"]
            return size_like(self._of("image", 0), self.width, self.height, area)
        return {name: getattr(self, name) or defaults[name] for name in ("width", "height")}

    def replaced(self, **fields: object) -> "Request":
        """A copy with some fields changed, validated again."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(kept | fields))

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
    return made


def seed_of(seed: int | Sequence[int], index: int, count: int) -> int:
    """The seed of image `index`, where each prompt has `count`, by one seed for all or one per prompt."""
    return seed + index if isinstance(seed, int) else seed[index // count] + index % count
