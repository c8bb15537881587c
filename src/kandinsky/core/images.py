"""Images at the edge: whatever a user has becomes an RGB image, a mask of zeros and ones, or a tensor."""

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from kandinsky.core.errors import RequestError
from kandinsky.core.files import is_there
from kandinsky.core.image_files import decoded, open_image_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from pydantic import JsonValue
    from torch import Tensor

SIDES = (8, 8192)
"""The least and the most pixels of a side."""
SLACK = 1e-6
"""How far rounding may take a tensor's numbers out of their range."""
ImageLike: TypeAlias = "str | Path | Image | NDArray[Any] | Tensor | Picture"
"""What a user may give where an image is asked for; a plain string is a path."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One validated input image, mode RGB (or L for a mask), and the file it came from, if any.

    `numbers` are the exact values of one that was given as a tensor, (3, H, W) in -1..1, and of a mask with shares of
    repainting (1, H, W) in 0..1.
    """

    image: "Image"
    path: str | None = None
    numbers: "Tensor | None" = None

    @classmethod
    def of_numbers(cls, numbers: "Tensor") -> "Picture":
        """The image of a tensor (3, H, W) in -1..1, or the mask of one (1, H, W) in 0..1, white where it is above 0."""
        if len(numbers) == 1:
            import PIL.Image

            return cls(PIL.Image.fromarray((numbers[0] > 0).byte().numpy() * 255), None, numbers)
        return cls(to_pil(numbers[None])[0], None, numbers)

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the pixels (mode, size, bytes), whatever the file format."""
        header = f"{self.image.mode} {self.image.width} {self.image.height} ".encode()
        exact = b"" if self.numbers is None else self.numbers.numpy().tobytes()
        return hashlib.sha256(header + self.image.tobytes() + exact).hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size

    @property
    def name(self) -> str:
        """The file's name, or the start of the fingerprint for an image given in memory."""
        return Path(self.path).name if self.path else f"image {self.sha256[:8]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)


def open_image(source: "ImageLike") -> "Image":
    """Opens a path, a PIL image, an array or a tensor as an 8-bit RGB image.

    Transparency is laid on white, the camera's orientation and an embedded colour profile are applied, 16-bit and
    floating images are scaled, of an animation the first frame counts. Arrays are (H, W), (H, W, 1), (H, W, 3) or
    (H, W, 4): uint8 in 0..255, uint16 in 0..65535, floats in 0..1, or bool. Tensors are (3, H, W), (1, H, W) or
    (1, 3, H, W): whole numbers in 0..255, others in 0..1 where none is negative, else in -1..1. Raises RequestError
    when this is not an image.
    """
    return read_image(source).image


def read_image(source: "ImageLike") -> Picture:
    """As `open_image`, keeping the path and a tensor's exact numbers too."""
    if isinstance(source, Picture):
        return source if source.image.mode == "RGB" else Picture(source.image.convert("RGB"), source.path)
    if is_tensor(source):
        return tensor_image(_stored(source))
    image, path = _open(source)
    return Picture(_on_background(image, 255).convert("RGB"), path)


def read_layers(source: "str | Path | Image") -> "Image":
    """As `open_image`, with transparency kept: an 8-bit RGBA image."""
    return _open(source)[0].convert("RGBA")


def _stored(tensor: "Tensor") -> "Tensor":
    if tensor.is_meta or tensor.is_complex():
        raise RequestError("A tensor without real numbers is not an image.", "Give one on a device, of floats.")
    return tensor


def read_mask(source: "ImageLike") -> Picture:
    """Opens a mask as an 8-bit grey image, in which white (255) means repaint.

    Takes what `open_image` takes, integer arrays of zeros and ones, and tensors (H, W) of what arrays hold; what is
    transparent is kept, not repainted. Raises RequestError when this is not an image.
    """
    import numpy as np

    if isinstance(source, Picture):
        return source if source.image.mode == "L" else Picture(source.image.convert("L"), source.path)
    if is_tensor(source):
        values = _stored(source).detach().cpu()
        source = (values.float() if values.is_floating_point() else values).numpy().squeeze()
    if isinstance(source, np.ndarray):
        source = np.squeeze(source, axis=0) if source.ndim == 3 and source.shape[0] == 1 else source
        if source.dtype.kind in "iu" and source.size and source.max() <= 1:
            source = source.astype(bool)
    image, path = _open(source)
    return Picture(_on_background(image, 0).convert("L"), path)


def is_tensor(value: object) -> "TypeGuard[Tensor]":
    """Whether `value` is a torch tensor, found out without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor_image(image: "Tensor", unit: bool | None = None) -> Picture:
    """As `read_image`; `unit` says whether numbers that are not whole are in 0..1, None that they say so themselves."""
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        raise RequestError(
            f"A tensor of shape {tuple(image.shape)} is not an image.", "Images are (3, H, W), several a list of them."
        )
    counted = not (image.is_floating_point() or str(image.dtype) == "torch.bool")
    numbers = image.detach().float().cpu().expand(3, -1, -1)
    low, high = float(numbers.min()), float(numbers.max())
    unit = counted or (low >= 0 if unit is None else unit)
    # A NaN compares as false and so is refused here as well.
    if not (low >= (-SLACK if unit else -1 - SLACK) and high <= (255 if counted else 1 + SLACK)):
        wanted = "Scale it to 0..1." if unit else "Scale it to -1..1, or to 0..1."
        raise RequestError(
            f"The image's numbers go from {low:.3g} to {high:.3g}.",
            "Whole numbers are in 0..255." if counted else wanted,
        )
    numbers = numbers / 255 if counted else numbers
    return Picture.of_numbers((numbers * 2 - 1 if unit else numbers).clamp(-1, 1).contiguous())


def _open(source: object) -> "tuple[Image, str | None]":
    import numpy as np
    import PIL.Image
    import PIL.ImageFile

    if isinstance(source, np.ndarray):
        return _from_array(source), None
    if isinstance(source, PIL.Image.Image):
        path = source.filename if isinstance(source, PIL.ImageFile.ImageFile) else None
        return decoded(source, "the image"), str(path) if path else None
    if not isinstance(source, (str, Path)):
        raise RequestError(
            f"A value of type {type(source).__name__} is not an image.",
            "Give a path, a PIL image, an array (H, W, 3) or a tensor.",
        )
    with open_image_file(source) as file:
        return decoded(file, str(source)), str(source)


def _on_background(image: "Image", level: int) -> "Image":
    import PIL.Image

    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    ground = PIL.Image.new("RGBA", coloured.size, (level, level, level, 255))
    return PIL.Image.alpha_composite(ground, coloured)


def _from_array(array: "NDArray[Any]") -> "Image":
    import numpy as np
    import PIL.Image

    shape = " x ".join(map(str, array.shape))
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise RequestError(f"An array of shape {shape} is not an image.", "Images are (H, W), (H, W, 3) or (H, W, 4).")
    if array.dtype == bool:
        values = array * np.float64(255)
    elif array.dtype == np.uint16:
        values = array * (255 / 65535)
    elif array.dtype.kind in "iuf":
        values = array.astype(np.float64)
        # A NaN compares as false and so is refused here as well.
        limit = 1.0 if array.dtype.kind == "f" else 255.0
        if not (values.min() >= 0 and values.max() <= limit):
            raise RequestError(
                f"An array of {array.dtype} holds values from {values.min():g} to {values.max():g}.",
                "Floating images are in 0..1, whole-number images in 0..255.",
            )
        values = values * (255 / limit)
    else:
        raise RequestError(f"An array of {array.dtype} is not an image.", "Use uint8 or float32.")
    return PIL.Image.fromarray(np.round(values).astype(np.uint8))


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `size`."""
    return -(-size // multiple) * multiple


def size_like(size: tuple[int, int], width: int | None, height: int | None, area: float) -> dict[str, int]:
    """The sides that are given, and the others such that the shape is that of an image's size."""
    across, down = size
    if width is not None:
        return {"width": width, "height": height or _side(width * down / across)}
    if height is not None:
        return {"width": _side(height * across / down), "height": height}
    zoom = math.sqrt(area / (across * down))
    return {"width": _side(across * zoom), "height": _side(down * zoom)}


def _side(length: float) -> int:
    low, high = SIDES
    return min(max(round_up(round(length), low), low), high)


def to_array(image: "Image", width: int, height: int) -> "NDArray[np.uint8]":
    """Resizes to width x height (bicubic, reducing gap 1, as diffusers does) and returns (H, W, 3) uint8."""
    import numpy as np
    from PIL.Image import Resampling

    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BICUBIC, reducing_gap=1)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def to_tensor(images: "Sequence[Image]", width: int, height: int, multiple: int = 1) -> "Tensor":
    """Resizes images to width x height and stacks them as (N, 3, H', W') float32 in -1..1.

    H' and W' are height and width rounded up to `multiple`; the added right and bottom margin repeats the
    edge, so that `crop` of a result gives the image back uncut.
    """
    import numpy as np
    import torch

    rows = [_padded(to_array(image, width, height), multiple) for image in images]
    stacked = torch.from_numpy(np.stack(rows).transpose(0, 3, 1, 2).copy())
    return stacked.to(torch.float32) / 127.5 - 1.0


def pixels_of(pictures: Sequence[Picture], width: int, height: int, multiple: int = 1) -> "Tensor":
    """As `to_tensor`, of the exact numbers of those that have some."""
    import torch

    if all(one.numbers is None for one in pictures):
        return to_tensor([one.image for one in pictures], width, height, multiple)
    return torch.cat(
        [
            to_tensor([one.image], width, height, multiple)
            if one.numbers is None
            else edged(resized(one.numbers, width, height), multiple)
            for one in pictures
        ]
    )


def resized(numbers: "Tensor", width: int, height: int) -> "Tensor":
    """An image (3, H, W) in -1..1 at width x height, bicubic without overshoot."""
    from torch.nn.functional import interpolate

    if numbers.shape[1:] == (height, width):
        return numbers
    return interpolate(numbers[None], size=(height, width), mode="bicubic", antialias=True).clamp(-1, 1)[0]


def edged(numbers: "Tensor", multiple: int) -> "Tensor":
    """An image (3, H, W) as (1, 3, H', W'), its sides rounded up with the edge repeated."""
    from torch.nn.functional import pad

    height, width = numbers.shape[1:]
    margin = (0, round_up(width, multiple) - width, 0, round_up(height, multiple) - height)
    return pad(numbers[None], margin, mode="replicate")


def mask_array(mask: "ImageLike", width: int, height: int, multiple: int = 1) -> "NDArray[np.float32]":
    """The mask at width x height (Lanczos, as diffusers does) as (H', W') float32 of 0 (keep) and 1 (repaint).

    H' and W' are rounded up to `multiple` with the edge repeated; values from one half on count as 1.
    """
    import numpy as np
    from PIL.Image import Resampling

    grey = read_mask(mask).image
    if grey.size != (width, height):
        grey = grey.resize((width, height), Resampling.LANCZOS)
    values = np.asarray(grey, dtype=np.float32) / 255.0
    return _padded((values >= 0.5).astype(np.float32), multiple)


def _padded(array: "NDArray[Any]", multiple: int) -> "NDArray[Any]":
    import numpy as np

    height, width = array.shape[:2]
    margins = [(0, round_up(height, multiple) - height), (0, round_up(width, multiple) - width)]
    return np.pad(array, margins + [(0, 0)] * (array.ndim - 2), mode="edge")


def crop(tensor: "Tensor", width: int, height: int) -> "Tensor":
    """The top left width x height of images (N, C, H', W')."""
    return tensor[..., :height, :width]


def to_pil(tensor: "Tensor") -> "list[Image]":
    """Turns decoded images (N, 3, H, W) in -1..1 into PIL images: clamp(0.5 x + 0.5), then round(255 x)."""
    import numpy as np
    import PIL.Image

    values = (tensor.detach().float().cpu() * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return [PIL.Image.fromarray(row) for row in np.round(values * 255).astype(np.uint8)]


def image_to_json(image: Picture) -> "dict[str, JsonValue]":
    """Path, size and fingerprint of an input image; the pixels themselves stay where they are."""
    return {"path": image.path, "size": list(image.size), "sha256": image.sha256, "mode": image.image.mode}


def image_from_json(data: Any, folder: Path | None = None) -> Picture:
    """Finds a stored input image again, at its path or by its name in `folder`, and checks its fingerprint.

    Raises RequestError when it cannot be found or is not the same image any more.
    """
    try:
        path, digest, mode = data["path"], data["sha256"], data.get("mode", "RGB")
        if not isinstance(path, str | None) or not isinstance(digest, str):
            raise TypeError
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{str(data)[:60]!r} is not a stored image.", "Was the metadata edited?") from error
    if path is None:
        raise RequestError(
            f"The input image (sha256 {digest[:12]}) was given in memory, so it cannot be found again.",
            "Give the image itself again.",
        )
    places = [Path(path)] if folder is None else [Path(path), folder / path, folder / Path(path).name]
    found = [place for place in places if is_there(place) and place.is_file()]
    if not found:
        raise RequestError(f"The input image {path} is missing.", "Put it back, or give it again at its new place.")
    for place in found:
        image = read_mask(place) if mode == "L" else read_image(place)
        if image.sha256 == digest:
            return image
    raise RequestError(
        f"The input image {found[0]} has changed since (sha256 {image.sha256[:12]}, was {digest[:12]}).",
        "Restore the old one, or give an image explicitly.",
    )
