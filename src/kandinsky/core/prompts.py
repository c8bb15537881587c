"""What an image is asked by: text, a weighted mix of texts and images, or an embedding."""

import array
import base64
import math
import numbers
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kandinsky.core.errors import RequestError
from kandinsky.core.image_files import is_image_name
from kandinsky.core.images import Picture, image_from_json, image_to_json, is_tensor, read_image
from kandinsky.core.validation import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from pydantic import JsonValue
    from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """One image embedding, as the prior makes them, and optionally the one to steer away from.

    `values` and `negative` are (D,) or (1, D): a tensor, an array or numbers; they are kept as a tuple of Python
    floats, which holds float32 and float64 exactly. Raises RequestError for another shape or a non-finite number.
    """

    values: tuple[float, ...]
    negative: tuple[float, ...] | None = None

    def __init__(self, values: object, negative: object = None) -> None:
        object.__setattr__(self, "values", _vector(values))
        object.__setattr__(self, "negative", None if negative is None else _vector(negative))
        if self.negative is not None and len(self.negative) != len(self.values):
            raise RequestError(
                f"An embedding of {len(self.values)} numbers has a negative of {len(self.negative)}.",
                "Both come from the same image encoder.",
            )


def _vector(source: object) -> tuple[float, ...]:
    import numpy as np

    try:
        if not _is_numeric(source):
            raise TypeError
        if is_tensor(source):
            source = source.detach().double().cpu().numpy()
        values = np.asarray(source, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise RequestError(f"A {type(source).__name__} is not an embedding.", "Give a tensor (D,).") from error
    if values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 1 or values.size == 0:
        shape = " x ".join(map(str, values.shape)) or "one number"
        raise RequestError(f"An embedding of shape {shape} is not one vector.", "Give one Embedding per image.")
    if not np.isfinite(values).all():
        raise RequestError("An embedding holds infinite or undefined numbers.", "Check where it was computed.")
    return tuple(values.tolist())


def _is_numeric(value: object) -> bool:
    """Whether a value is a number, an array, or a list of these: nothing else is asked what it is."""
    import numpy as np

    if isinstance(value, list | tuple):
        return all(_is_numeric(one) for one in value)
    return isinstance(value, numbers.Real | np.ndarray | np.generic) or is_tensor(value)


SIZES = {"f": 4, "d": 8}
"""Bytes of a number of a stored embedding."""
MixItem: TypeAlias = "str | Path | Image | NDArray[Any] | Picture | Embedding | Tensor"
"""What can be mixed: a string is a text, a Path is an image file, a tensor is an embedding."""


@dataclass(frozen=True)
class Mix:
    """A weighted sum of texts, images and embeddings in the space of image embeddings (weights are not normalised).

    Items may be given as `MixItem` has them, and are kept as texts, pictures and embeddings. Raises RequestError when
    it is empty, for an item that is none of these, when the numbers of items and weights differ, and for weights that
    are not finite or all zero.
    """

    items: tuple[str | Picture | Embedding, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.items, list | tuple):
            raise RequestError(f"{shown(self.items)} is not a list to mix.", "Give a list, such as ['a cat', image].")
        object.__setattr__(self, "items", tuple(_item(item) for item in self.items))
        object.__setattr__(self, "weights", _numbers(self.weights))
        if not self.items:
            raise RequestError("There is nothing to mix.", "Give texts or images, such as mix(['a cat', image]).")
        if len(self.items) != len(self.weights):
            raise RequestError(
                f"{len(self.items)} items are mixed with {len(self.weights)} weights.", "Give one weight per item."
            )
        if bad := [weight for weight in self.weights if not math.isfinite(weight)]:
            raise RequestError(f"A mixing weight of {bad[0]} is not finite.", "Use numbers such as 0.5.")
        if not any(self.weights):
            raise RequestError("All mixing weights are 0.", "Give at least one item a weight.")


def mix(items: Sequence[MixItem], weights: Sequence[float] | None = None) -> Mix:
    """Mixes texts, images and embeddings into one prompt; without weights all count the same and sum to 1.

    A string is a text; an image file is given as pathlib.Path. Raises RequestError as Mix does, and for an
    item that is none of these.
    """
    if weights is None and isinstance(items, list | tuple):
        weights = (1 / max(1, len(items)),) * len(items)
    return Mix(items, weights)  # type: ignore[arg-type]  # makes of them what it keeps


def _numbers(weights: object) -> tuple[float, ...]:
    import numpy as np

    hint = "Give numbers, such as [0.3, 0.7]."
    try:
        found = weights.tolist() if isinstance(weights, np.ndarray) or is_tensor(weights) else weights
        if not isinstance(found, list | tuple):
            raise RequestError(f"{shown(weights)} is not a list of mixing weights.", hint)
        for one in found:
            if not isinstance(one, numbers.Real):
                raise RequestError(f"{shown(one)} is not a mixing weight.", hint)
        return tuple(float(one) for one in found)
    except (OverflowError, NotImplementedError) as error:
        raise RequestError("A mixing weight is too large, or has no number.", hint) from error


def _item(item: object) -> str | Picture | Embedding:
    if isinstance(item, (str, Embedding)):
        return item
    if is_tensor(item):
        return Embedding(item)
    return read_image(item)  # type: ignore[arg-type]  # says itself what is wrong with the rest


Prompt: TypeAlias = str | Mix | Embedding
PromptLike: TypeAlias = "Prompt | MixItem"
"""One prompt as users may give it: an image alone asks for variations of it."""


def as_prompt(value: object) -> Prompt:
    """One prompt as a text, a Mix or an Embedding; RequestError for anything else."""
    if isinstance(value, (str, Mix, Embedding)):
        return value
    if value is None:
        raise RequestError("A prompt is None.", "Give a text; '' is the empty one.")
    if isinstance(value, bool | int | float | complex | bytes | Mapping | set | list | tuple):
        raise RequestError(
            f"The prompt {shown(value)} is of type {type(value).__name__}.",
            "Give a text, such as 'a red fox', or an image.",
        )
    item = _item(value)
    return Mix((item,), (1.0,)) if isinstance(item, Picture) else item


def parse_mix(parts: Sequence[str], folder: Path | None = None) -> Mix:
    """Reads `TEXT_OR_FILE:WEIGHT` parts, files in `folder`; with no weight at all, all count the same.

    A part that is an existing file, or is named like an image, is an image. Raises RequestError for an
    image that cannot be opened, for weights on some parts only, and as `mix` does.
    """
    split = [_weighted(part, folder or Path()) for part in parts]
    weights = [weight for _, weight in split if weight is not None]
    if weights and len(weights) < len(split):
        bare = next(text for text, weight in split if weight is None)
        raise RequestError(f"{bare!r} has no weight, but others have.", "Write it as TEXT_OR_FILE:WEIGHT.")
    return mix([_part(text, folder or Path()) for text, _ in split], weights or None)


def _weighted(part: str, folder: Path) -> tuple[str, float | None]:
    text, colon, tail = part.rpartition(":")
    with suppress(ValueError):
        if colon and not math.isnan(weight := float(tail)):
            return text, weight
    # Behind a colon of a sentence there is a space, and behind that of an address or a drive a slash.
    if colon and tail == tail.strip() and not set(" /\\") & set(tail) and not _is_file(folder / part):
        raise RequestError(
            f"{part!r} has the weight {tail!r}, which is no number.",
            f"Write such as {text}:0.5; a colon of the text needs a weight behind it, {part}:0.5.",
        )
    return part, None


def _part(text: str, folder: Path) -> str | Path:
    if not text.strip():
        raise RequestError("A part of the mix is empty.", "Write it as TEXT_OR_FILE:WEIGHT.")
    return folder / text if _is_file(folder / text) else text


def _is_file(path: Path) -> bool:
    """Whether a part of a mix is an image file."""
    try:
        return is_image_name(path) or path.is_file()
    except OSError:  # a text too long to be a file name
        return False


def prompt_to_json(prompt: Prompt) -> "JsonValue":
    """A prompt as JSON values: a string, {"mix": ...} or {"embedding": ...}."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Embedding):
        negative = None if prompt.negative is None else _pack(prompt.negative)
        return {"embedding": _pack(prompt.values), "negative": negative}
    items = [image_to_json(item) if isinstance(item, Picture) else prompt_to_json(item) for item in prompt.items]
    return {"mix": items, "weights": list(prompt.weights)}


def prompt_from_json(data: Any, folder: Path | None = None) -> Prompt:
    """Reads what `prompt_to_json` made; RequestError for other data or a missing or changed image."""
    match data:
        case str():
            return data
        case {"mix": list(items), "weights": list(weights)}:
            return mix([_item_from_json(item, folder) for item in items], weights)
        case {"embedding": values, "negative": negative}:
            return Embedding(_unpack(values), None if negative is None else _unpack(negative))
    raise RequestError(f"{str(data)[:60]!r} is not a stored prompt.", "Was the metadata edited?")


def _item_from_json(data: Any, folder: Path | None) -> str | Picture | Embedding:
    if isinstance(data, Mapping) and "sha256" in data:
        return image_from_json(data, folder)
    prompt = prompt_from_json(data, folder)
    if isinstance(prompt, Mix):
        raise RequestError("A mix is stored inside a mix.", "Was the metadata edited?")
    return prompt


def _pack(values: tuple[float, ...]) -> "dict[str, JsonValue]":
    # float32 holds what nearly all embeddings are made of, at half the size.
    code = "f" if tuple(array.array("f", values)) == values else "d"
    return {"type": code, "base64": base64.b64encode(struct.pack(f"<{len(values)}{code}", *values)).decode()}


def _unpack(data: Any) -> tuple[float, ...]:
    try:
        raw, code = base64.b64decode(data["base64"], validate=True), data["type"]
        return struct.unpack(f"<{len(raw) // SIZES[code]}{code}", raw)
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise RequestError("A stored embedding is damaged.", "Was the metadata edited?") from error
