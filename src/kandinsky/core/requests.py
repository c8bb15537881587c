"""A request: everything that is asked of one call, validated once, at the edge."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict, Unpack

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from kandinsky.core import fields as checks
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.events import EFFECTIVE_GUIDANCE
from kandinsky.core.fields import Numbers, OnePrompt, Pictures, Texts
from kandinsky.core.images import Picture, PictureLike, read_mask, read_picture, round_up
from kandinsky.core.prompts import (
    Embedding,
    Mix,
    MixItem,
    Prompt,
    PromptLike,
    mix,
    picture_from_json,
    picture_to_json,
    prompt_from_json,
    prompt_to_json,
)

__all__ = ["Embedding", "Fields", "Mix", "MixItem", "Prompt", "PromptLike", "Request", "Row", "mix", "single"]

SIDES = (8, 8192)
STEPS = (1, 1000)
LARGEST_SEED = 2**63 - 1
MOST_PICTURES = 10_000


SIDE_HINT = f"Give {SIDES[0]} to {SIDES[1]} pixels."
SEED_HINT = "Any whole number from 0 up will do."
GUIDANCE = ("0 or more", 0.0, math.inf, "4 is usual; 1 and below is unguided.")


class Fields(TypedDict, total=False):
    """The keyword arguments of a request beside the prompt, as `generate` and `stream` take them."""

    negative_prompt: str | Sequence[str | None] | None
    prior_negative_prompt: str | Sequence[str | None] | None
    image: "PictureLike | Sequence[PictureLike] | None"
    mask: "PictureLike | Sequence[PictureLike] | None"
    strength: float | None
    hint: "PictureLike | Sequence[PictureLike] | None"
    width: int | None
    height: int | None
    steps: int | None
    guidance_scale: float | Sequence[float | None] | None
    guidance_interval: tuple[float, float] | None
    prior_steps: int | None
    prior_guidance_scale: float | Sequence[float | None] | None
    sampler: str | None
    eta: float | None
    reuse: int | None
    seed: int | Sequence[int] | None
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


EACH = (
    "negative_prompt",
    "prior_negative_prompt",
    "image",
    "mask",
    "hint",
    "guidance_scale",
    "prior_guidance_scale",
)
"""Fields that are one for all, or one per prompt."""
ROW_FIELDS = ("prompt", *EACH)
OF_ONE = (*ROW_FIELDS, EFFECTIVE_GUIDANCE)
"""What may be a list in a stored request, and is one value in that of a single picture."""


class Request(BaseModel):
    """What is asked of one call; None means the checkpoint's published default.

    `prompt` is one text, Mix, Embedding or picture (a variation), or a list of these; negative prompts,
    images, masks, hints and guidance scales are one for all or one per prompt, and so is the seed: picture i
    uses seed + i, or picture j of a prompt its seed + j. strength is in (0, 1], steps and prior_steps in
    1..1000, guidance scales 0 or more, eta in 0..1, width and height in 8..8192 pixels, seed in 0..2**63 - 1,
    count at least 1. In a mask white (1) means repaint. `guidance_interval` is where the decoder is guided,
    from and to a share of the noising, 0 being the clean picture and 1 pure noise; elsewhere its network is
    asked once instead of twice. With `reuse` N its deep features are computed in every N-th step only (1: in
    each). Both save time at a price, and are off unless given. Raises RequestError naming the first value
    that cannot be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    prompt: Annotated[OnePrompt | tuple[OnePrompt, ...], checks.prompts]
    negative_prompt: Annotated[Texts, checks.texts("negative_prompt")] = None
    prior_negative_prompt: Annotated[Texts, checks.texts("prior_negative_prompt")] = None
    image: Annotated[Pictures, checks.pictures(read_picture)] = None
    mask: Annotated[Pictures, checks.pictures(read_mask)] = None
    strength: Annotated[
        float | None,
        checks.real_number(
            "strength", "above 0 and at most 1", 0, 1, "0.3 changes a little, 1 everything.", above=True
        ),
    ] = None
    hint: Annotated[Pictures, checks.pictures(read_picture)] = None
    width: Annotated[int | None, checks.whole_number("width", *SIDES, SIDE_HINT)] = None
    height: Annotated[int | None, checks.whole_number("height", *SIDES, SIDE_HINT)] = None
    steps: Annotated[int | None, checks.whole_number("steps", *STEPS, "25 to 100 are usual.")] = None
    guidance_scale: Annotated[
        Numbers, BeforeValidator(checks.each(checks.real("guidance_scale", *GUIDANCE)))
    ] = None
    guidance_interval: Annotated[tuple[float, float] | None, checks.interval("guidance_interval")] = None
    prior_steps: Annotated[int | None, checks.whole_number("prior_steps", *STEPS, "25 is usual.")] = None
    prior_guidance_scale: Annotated[
        Numbers, BeforeValidator(checks.each(checks.real("prior_guidance_scale", *GUIDANCE)))
    ] = None
    sampler: Annotated[str | None, checks.sampler] = None
    eta: Annotated[float | None, checks.real_number("eta", "within 0 to 1", 0, 1, "0 is without noise.")] = (
        None
    )
    reuse: Annotated[int | None, checks.whole_number("reuse", *STEPS, "2 or 3 are usual, 1 is off.")] = None
    seed: Annotated[
        int | tuple[int, ...] | None,
        BeforeValidator(checks.each(checks.whole("seed", 0, LARGEST_SEED, SEED_HINT))),
    ] = None
    count: Annotated[
        int, checks.whole_number("count", 1, MOST_PICTURES, "Give the number of pictures per prompt.")
    ] = 1

    def __init__(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> None:
        if unknown := sorted(set(fields) - set(Fields.__annotations__)):
            raise RequestError(
                f"A request has no {unknown[0]!r}.", nearest(unknown[0], Fields.__annotations__)
            )
        if fields.get("count", 1) is None:
            del fields["count"]
        try:
            super().__init__(prompt=prompt, **fields)
        except ValidationError as error:
            raise _first(error) from None

    @model_validator(mode="after")
    def _consistent(self) -> "Request":
        prompts = len(self.prompts)
        for field in (*EACH, "seed"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != prompts:
                raise RequestError(
                    f"{field} has {len(value)} entries for {prompts} prompts.",
                    "Give one for all, or one per prompt.",
                )
        if self.image is None and self.mask is not None:
            raise RequestError("A mask is given without an image.", "Give the image that it belongs to.")
        if self.image is None and self.strength is not None:
            raise RequestError(
                f"strength {self.strength:g} is given without an image.", "Give the image to change."
            )
        for image, mask in zip(self._each("image"), self._each("mask"), strict=True):
            if mask is not None:
                _check_mask(image, mask)
        if self.size > MOST_PICTURES:
            raise RequestError(
                f"{self.size} pictures are too many for one request.", "Ask for them in parts."
            )
        if self.seed is not None and max(self.seeds) > LARGEST_SEED:
            raise RequestError(
                f"seed {self.seed} leaves no seeds for {self.size} pictures.", f"Stay below {LARGEST_SEED}."
            )
        return self

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, also when there is one."""
        return self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)

    @property
    def size(self) -> int:
        """The number of pictures: prompts x count."""
        return len(self.prompts) * self.count

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture: seed, seed + 1, ..., or so for each prompt's own.

        Raises ValueError before `filled` gave a seed.
        """
        if self.seed is None:
            raise ValueError("this request has no seed yet; call filled() first")
        return [seed_of(self.seed, index, self.count) for index in range(self.size)]

    def _each(self, field: str) -> list[Any]:
        value = getattr(self, field)
        return list(value) if isinstance(value, tuple) else [value] * len(self.prompts)

    def rows(self, guidance_offset: float = 0.0) -> list[Row]:
        """One Row per image, in order: all `count` images of the first prompt, then those of the next.

        `guidance_offset` is what guidance scales of requests lack of the usual meaning. Raises ValueError
        before `filled` gave a seed.
        """
        parts = {name: self._each(name) for name in ROW_FIELDS}
        for name, offset in (("guidance_scale", guidance_offset), ("prior_guidance_scale", 0.0)):
            parts[name] = [1.0 if scale is None else scale + offset for scale in parts[name]]
        return [
            Row(seed=seed, **{name: values[index // self.count] for name, values in parts.items()})
            for index, seed in enumerate(self.seeds)
        ]

    def alone(self, index: int) -> "Request":
        """The request for image `index` (from 0) of this one alone; it has a seed."""
        own = {name: self._each(name)[index // self.count] for name in ROW_FIELDS}
        return self.replaced(count=1, seed=self.seeds[index], **own)

    def filled(self, defaults: Mapping[str, Any]) -> "Request":
        """This request with the checkpoint's default for every None, and a random seed for a missing one.

        `defaults` maps field names to values; it must hold width and height. A request with an image and no
        size takes the image's shape at about the default area, in multiples of 8. strength is filled only
        where it acts: its default for an image alone, 1 for an image with a mask.
        """
        if unknown := sorted(set(defaults) - set(Fields.__annotations__)):
            raise ValueError(
                f"a request has no {unknown[0]!r}; {nearest(unknown[0], Fields.__annotations__)}"
            )
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        for name in ("guidance_scale", "prior_guidance_scale"):
            given = getattr(self, name)
            if isinstance(given, tuple):
                missing[name] = tuple(defaults.get(name) if value is None else value for value in given)
        missing.pop("strength", None)
        if self.image is not None and self.strength is None:
            strength = 1.0 if self.mask is not None else defaults.get("strength")
            missing |= {} if strength is None else {"strength": strength}
        missing |= self._filled_size(defaults)
        if self.seed is None:
            missing["seed"] = secrets.randbelow(2**32)
        return self.replaced(**missing)

    def _filled_size(self, defaults: Mapping[str, Any]) -> dict[str, int]:
        if self.width is not None and self.height is not None:
            return {}
        usual = int(defaults["width"]), int(defaults["height"])
        if self.image is None:
            return {"width": self.width or usual[0], "height": self.height or usual[1]}
        across, down = self._each("image")[0].size
        if self.width is not None:
            width, height = self.width, self.height or self.width * down / across
        elif self.height is not None:
            width, height = self.height * across / down, self.height
        else:
            zoom = math.sqrt(usual[0] * usual[1] / (across * down))
            width, height = across * zoom, down * zoom
        return {
            "width": self.width or _side(width),
            "height": self.height or _side(height),
        }

    def replaced(self, **fields: Any) -> "Request":
        """A copy with some fields changed, validated again."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return Request(**(kept | fields))

    def to_json(self) -> dict[str, Any]:
        """This request as JSON values for `from_json`; input pictures as path, size and fingerprint."""
        data = {name: _to_json(getattr(self, name)) for name in type(self).model_fields}
        prompts = [prompt_to_json(prompt) for prompt in self.prompts]
        return data | {"prompt": prompts if isinstance(self.prompt, tuple) else prompts[0]}

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], folder: str | Path | None = None, **changes: Any
    ) -> "Request":
        """Reads what `to_json` made, with `changes` in place of the stored fields.

        Input pictures are looked for at their stored path, then in `folder`. Raises RequestError when one is
        missing or not the same any more, or when the data is no request.
        """
        if not isinstance(data, Mapping) or "prompt" not in data:
            raise RequestError("The stored request has no prompt.", "Was the metadata edited?")
        place = None if folder is None else Path(folder)
        fields = {
            name: value for name, value in data.items() if name not in changes and name != EFFECTIVE_GUIDANCE
        }
        if "prompt" in fields:
            stored = fields["prompt"]
            several = isinstance(stored, list)
            prompts = tuple(prompt_from_json(item, place) for item in (stored if several else [stored]))
            fields["prompt"] = prompts if several else prompts[0]
        for name in {"image", "mask", "hint"} & set(fields):
            fields[name] = _pictures_from_json(fields[name], place)
        return cls(**(fields | changes))


def _side(length: float) -> int:
    low, high = SIDES
    return min(max(round_up(round(length), low), low), high)


def _sides(picture: Picture) -> str:
    return f"{picture.size[0]} x {picture.size[1]}"


def _check_mask(image: Picture, mask: Picture) -> None:
    if mask.size != image.size:
        raise RequestError(
            f"The mask {mask.name} is {_sides(mask)}, its image is {_sides(image)}.",
            "Draw the mask on the image's own size.",
        )
    # One value per grey level; level 128 is the first that rounds to white.
    if not any(mask.image.histogram()[128:]):
        raise RequestError(
            f"The mask {mask.name} marks nothing to repaint.", "White (1) is repainted and black (0) is kept."
        )


def _first(error: ValidationError) -> RequestError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, RequestError):
        return cause
    where = ".".join(str(part) for part in first["loc"][:1]) or "the request"
    return RequestError(
        f"{where} cannot be {checks.shown(first['input'])} ({first['msg']}).", "See help(kandinsky.Request)."
    )


def _to_json(value: Any) -> Any:
    if isinstance(value, Picture):
        return picture_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _pictures_from_json(data: Any, folder: Path | None) -> Any:
    if data is None:
        return None
    if isinstance(data, list):
        return tuple(picture_from_json(item, folder) for item in data)
    return picture_from_json(data, folder)


def seed_of(seed: int | Sequence[int], index: int, count: int) -> int:
    """The seed of picture `index`, where each prompt has `count`, by one seed for all or one per prompt."""
    return seed + index if isinstance(seed, int) else seed[index // count] + index % count


def single(data: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The stored, filled request that asks for picture `index` of a batch alone."""
    count = int(data["count"])
    alone = {
        name: value[index // count] if isinstance(value, list) and name in OF_ONE else value
        for name, value in data.items()
    }
    return alone | {"seed": seed_of(data["seed"], index, count), "count": 1}
