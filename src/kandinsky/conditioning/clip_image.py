"""Images as CLIP's vision tower expects them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError
from kandinsky.core.validation import shown

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
LARGEST = 8192
"""Pixels of a side."""


@dataclass(frozen=True)
class ClipPreprocess:
    """Resizes the shorter edge to `size` (bicubic), crops the centre square, and normalises by channel.

    Source: the preprocessing published with CLIP (Radford et al. 2021).
    """

    size: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "ClipPreprocess":
        """Reads a preprocessor_config.json; raises CheckpointError for steps that we do not do."""
        steps = dict.fromkeys(("do_resize", "do_center_crop", "do_normalize", "do_rescale"), True)
        for key, wanted in {**steps, "resample": BICUBIC, "rescale_factor": 1 / 255}.items():
            if json.get(key, wanted) != wanted:
                raise _refused(key, json[key], f"Only {wanted} is offered.")
        edge, crop = json.get("size", 224), json.get("crop_size", 224)
        edge = edge.get("shortest_edge", edge.get("height")) if isinstance(edge, Mapping) else edge
        crop = crop.get("height") if isinstance(crop, Mapping) else crop
        if edge != crop:
            raise CheckpointError(
                f"preprocessor_config.json resizes to {shown(edge)} and crops {shown(crop)}.", "They must agree."
            )
        if not isinstance(edge, int) or not 1 <= edge <= LARGEST:
            raise _refused("size", edge, "Expected a positive whole number.")
        mean, std = json.get("image_mean", CLIP_MEAN), json.get("image_std", CLIP_STD)
        for key, values in (("image_mean", mean), ("image_std", std)):
            if not _are_numbers(values) or (key == "image_std" and 0 in values):
                raise _refused(key, values, "Expected one number for each of three channels.")
        return cls(edge, tuple(map(float, mean)), tuple(map(float, std)))

    def to_json(self) -> dict[str, Any]:
        """The preprocessor_config.json with which transformers does the same."""
        return {
            "crop_size": {"height": self.size, "width": self.size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.mean),
            "image_processor_type": "CLIPImageProcessor",
            "image_std": list(self.std),
            "resample": BICUBIC,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": self.size},
        }

    def __call__(self, images: "Sequence[Image]") -> Tensor:
        """RGB images of any sizes to (B, 3, size, size) float32, normalised."""
        rows = torch.from_numpy(np.stack([self._cropped(image) for image in images]))
        return self.normalise(rows.permute(0, 3, 1, 2).float() / 255.0)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, S, S) in [0, 1] in units of the channels' statistics."""
        mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (self.mean, self.std))
        return (pixels - mean) / std

    def _cropped(self, image: "Image") -> np.ndarray[Any, np.dtype[np.uint8]]:
        from PIL.Image import Resampling

        short, long = sorted(image.size)
        scaled = int(self.size * long / short)
        size = (self.size, scaled) if image.width <= image.height else (scaled, self.size)
        array = np.asarray(image.resize(size, Resampling.BICUBIC).convert("RGB"))
        top, left = (array.shape[0] - self.size) // 2, (array.shape[1] - self.size) // 2
        return array[top : top + self.size, left : left + self.size]


def _are_numbers(values: object) -> bool:
    """Whether they are three finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _refused(key: str, value: object, hint: str) -> CheckpointError:
    return CheckpointError(f"preprocessor_config.json has {key} = {shown(value)}.", hint)
