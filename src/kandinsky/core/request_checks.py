"""Fields of a request that belong together, and what rows become of those that change images and texts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kandinsky.core.errors import RequestError
from kandinsky.core.images import SIDES, Picture
from kandinsky.core.outpainting import Margins, extended
from kandinsky.core.prompt_weights import parse_weights, without_idle_weights
from kandinsky.core.prompts import Mix

if TYPE_CHECKING:
    from kandinsky.core.requests import Request, Row

CHECKED = ("image", "mask", "strength", "outpaint", "mask_blur", "paste_back", "prompt_weights")
"""Fields that need `check`, where one of them is given."""


def check(request: "Request") -> None:
    """Raises RequestError for fields that do not go together, or cannot be read."""
    if request.prompt_weights:
        _check_weights(request)
    if request.image is None:
        _check_alone(request)
    if request.mask is None and request.outpaint is None:
        if request.paste_back:
            raise RequestError("paste_back is given without a mask.", "Give a mask, or margins to outpaint.")
        if request.mask_blur:
            raise RequestError("mask_blur is given without a mask.", "Give a mask, or margins to outpaint.")
    if request.mask_blur and not request.paste_back:
        raise RequestError(
            f"mask_blur {request.mask_blur} is given without paste_back, whose edge it softens.",
            "Give paste_back=True (--paste-back) too.",
        )
    for index in range(len(request.prompts) if request.image is not None else 0):
        if request.outpaint is not None:
            _check_margins(request, request.of("image", index), request.outpaint)
        elif request.mask is not None:
            _check_mask(request.of("image", index), request.of("mask", index))


def _check_alone(request: "Request") -> None:
    """Raises RequestError for what only acts on an image."""
    if request.mask is not None:
        raise RequestError("A mask is given without an image.", "Give the image that it is for.")
    if request.strength is not None:
        raise RequestError(f"strength {request.strength:g} is given without an image.", "Give the image to change.")
    if request.outpaint is not None:
        raise RequestError("outpaint is given without an image.", "Give the image that is to become larger.")


def _check_margins(request: "Request", image: Picture, margins: Margins) -> None:
    if request.mask is not None:
        raise RequestError(
            "outpaint is given with a mask, and marks the margins itself.",
            "Leave mask out; or leave outpaint out, and give a larger image with its mask.",
        )
    size = margins.around(image.size)
    if max(size) > SIDES[1]:
        raise RequestError(
            f"{image.name} becomes {size[0]} x {size[1]} pixels with outpaint {margins}.",
            f"At most {SIDES[1]} pixels a side can be drawn.",
        )


def _check_mask(image: Picture, mask: Picture) -> None:
    if mask.size != image.size:
        sizes = [" x ".join(map(str, one.size)) for one in (mask, image)]
        raise RequestError(
            f"The mask {mask.name} is {sizes[0]}, its image is {sizes[1]}.", "Draw the mask on the image's own size."
        )
    # One value per grey level; level 128 is the first that rounds to white.
    if not any(mask.image.histogram()[128:]):
        raise RequestError(
            f"The mask {mask.name} marks nothing to repaint.", "White (1) is repainted and black (0) is kept."
        )


def _check_weights(request: "Request") -> None:
    """Raises RequestError for a text whose weights cannot be read, naming it."""
    several = len(request.prompts) > 1
    for index, prompt in enumerate(request.prompts):
        items = prompt.items if isinstance(prompt, Mix) else (prompt,)
        negatives = {name: request.of(name, index) for name in ("negative_prompt", "prior_negative_prompt")}
        for name, text in (*(("prompt", item) for item in items), *negatives.items()):
            if isinstance(text, str):
                parse_weights(text, f"{name} {index + 1}" if several else name)


def settled(request: "Request", rows: "Sequence[Row]") -> "list[Row]":
    """The rows with their images on larger canvases, and without brackets that weigh nothing."""
    found = [_without_idle_brackets(row) if request.prompt_weights else row for row in rows]
    if request.outpaint is None:
        return found
    images = dict.fromkeys(row.image for row in rows if row.image is not None)
    canvases = {image: extended(image, request.outpaint) for image in images}
    pairs = [canvases[row.image] for row in rows if row.image is not None]
    return [replace(row, image=image, mask=mask) for row, (image, mask) in zip(found, pairs, strict=True)]


def _without_idle_brackets(row: "Row") -> "Row":
    """A row in whose texts brackets that weigh nothing are gone, so that equal texts are known as such."""
    negatives = (row.negative_prompt, row.prior_negative_prompt)
    said, own = (None if text is None else without_idle_weights(text) for text in negatives)
    prompt = row.prompt
    if isinstance(prompt, Mix):
        items = (without_idle_weights(item) if isinstance(item, str) else item for item in prompt.items)
        prompt = Mix(tuple(items), prompt.weights)
    elif isinstance(prompt, str):
        prompt = without_idle_weights(prompt)
    return replace(row, prompt=prompt, negative_prompt=said, prior_negative_prompt=own)
