"""What an image is asked by: text, a weighted mix of texts and images, or an embedding."""

import array
import base64
import math
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture, image_from_json, image_to_json, read_image

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

    if is_tensor(source):
        source = source.detach().double().cpu().numpy()  # type: ignore[attr-defined]
    try:
        values = np.asarray(source, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RequestError(f"A {type(source).__name__} is not an embedding.", "Give a tensor (D,).") from error
    if values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 1 or values.size == 0:
        shape = " x ".join(map(str, values.shape)) or "one number"
        raise RequestError(f"An embedding of shape {shape} is not one vector.", "Give one Embedding per image.")
    if not np.isfinite(values).all():
        raise RequestError("An embedding holds infinite or undefined numbers.", "Check where it was computed.")
    return tuple(values.tolist())


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, found out without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


SIZES = {"f": 4, "d": 8}
"""Bytes of a number of a stored embedding."""
MixItem: TypeAlias = "str | Path | Image | NDArray[Any] | Picture | Embedding | Tensor"
"""What can be mixed: a string is a text, a Path is an image file, a tensor is an embedding."""


@dataclass(frozen=True)
class Mix:
    """A weighted sum of texts, images and embeddings in the space of image embeddings (weights are not normalised).

    Raises RequestError when it is empty, when the numbers of items and weights differ, and for weights that are not
    finite or all zero.
    """

    items: tuple[str | Picture | Embedding, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
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
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise RequestError(f"{items!r} is not a list to mix.", "Give a list, such as mix(['a cat', image]).")
    parts = tuple(_item(item) for item in items)
    if weights is None:
        return Mix(parts, (1 / len(parts),) * len(parts) if parts else ())
    try:
        return Mix(parts, tuple(float(weight) for weight in weights))
    except (TypeError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{weights!r} are not mixing weights.", "Give numbers, such as [0.3, 0.7].") from error


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
    item = _item(value)
    return Mix((item,), (1.0,)) if isinstance(item, Picture) else item


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
