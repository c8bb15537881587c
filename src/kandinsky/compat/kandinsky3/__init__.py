"""Names that code for the original Kandinsky 3 uses: change its import line to this package and it runs here.

Signatures, defaults and conventions are the original code's: guidance by (w + 1) cond - w uncond, an eta that
is a share of the variance, masks in which 1 is repainted.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from kandinsky.checkpoints.maps.original_files import FLASH, INPAINTING
from kandinsky.compat.kandinsky3.files import original_folder
from kandinsky.compat.kandinsky3.pipelines import (
    Kandinsky3InpaintingPipeline,
    Kandinsky3T2IFlashPipeline,
    Kandinsky3T2IPipeline,
)
from kandinsky.conditioning.one_text import OneTextConditioner
from kandinsky.core.errors import RequestError, nearest
from kandinsky.engine.acceleration.networks import laid_out_model
from kandinsky.engine.devices import choose_device, choose_dtype
from kandinsky.engine.quantize import check_quantize, quantize
from kandinsky.engine.weight_residency import WeightResidency
from kandinsky.generations.k30 import load
from kandinsky.generations.loading import Placement
from kandinsky.generations.model import Model

__all__ = [
    "Kandinsky3InpaintingPipeline",
    "Kandinsky3T2IFlashPipeline",
    "Kandinsky3T2IPipeline",
    "get_T2I_Flash_pipeline",
    "get_T2I_pipeline",
    "get_inpainting_pipeline",
]

CACHE = "/tmp/kandinsky3/"
P = TypeVar("P")
PARTS = ("unet", "text_encoder", "movq")


def _loader(name: str, variant: str | None, kind: Callable[[Model], P], does: str) -> Callable[..., P]:
    """The function that existing code loads one of the pipelines by."""

    def load_pipeline(
        device_map: object,
        dtype_map: object = torch.float32,
        low_cpu_mem_usage: bool = True,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        cache_dir: str | Path = CACHE,
        unet_path: str | Path | None = None,
        text_encoder_path: str | Path | None = None,
        movq_path: str | Path | None = None,
        *,
        fp16: bool = False,
        text_encode_path: str | Path | None = None,
    ) -> P:
        paths = (unet_path, text_encoder_path or text_encode_path, movq_path)
        width = _width(load_in_8bit, load_in_4bit)
        return kind(_load(variant, device_map, torch.float16 if fp16 else dtype_map, cache_dir, paths, width))

    load_pipeline.__name__ = load_pipeline.__qualname__ = name
    load_pipeline.__doc__ = f"Loads {does}.{_LOADING}"
    return load_pipeline


_LOADING = """

    `device_map` and `dtype_map` are one value, or one by part: "unet", "text_encoder", "movq". Parts without a path are
    looked for in `cache_dir`, and fetched into it. `fp16` and `text_encode_path` are names of the first release;
    weights are mapped from files whatever `low_cpu_mem_usage` says. `load_in_8bit` and `load_in_4bit` quantize the text
    encoder (an extra library). Raises RequestError for a device or a dtype and where that library is missing,
    CheckpointError for what is missing of the files.
    """
get_T2I_pipeline = _loader(  # noqa: N816  (the names that existing code uses)
    "get_T2I_pipeline",
    None,
    Kandinsky3T2IPipeline,
    "Kandinsky 3.0 or 3.1 for text-to-image; which of them the U-Net's file is of, it tells itself",
)
get_T2I_Flash_pipeline = _loader(  # noqa: N816
    "get_T2I_Flash_pipeline", FLASH, Kandinsky3T2IFlashPipeline, "Kandinsky 3.1 Flash, text-to-image in four steps"
)
get_inpainting_pipeline = _loader(
    "get_inpainting_pipeline", INPAINTING, Kandinsky3InpaintingPipeline, "Kandinsky 3.0 or 3.1 for inpainting"
)


def _width(eight: bool, four: bool) -> str | None:
    if eight and four:
        raise RequestError("Both load_in_8bit and load_in_4bit are given.", "Give one of them.")
    width = "int8" if eight else "int4" if four else None
    check_quantize(width)
    return width


def _load(
    variant: str | None,
    device_map: object,
    dtype_map: object,
    cache_dir: str | Path,
    paths: tuple[str | Path | None, str | Path | None, str | Path | None],
    width: str | None,
) -> Model:
    """The model of these files; `width` is what the text encoder's weights are quantized to."""
    devices = {part: choose_device(value) for part, value in _by_part(device_map, "device_map").items()}
    dtypes = {part: choose_dtype(value, devices[part]) for part, value in _by_part(dtype_map, "dtype_map").items()}
    if devices["unet"] != devices["movq"]:
        raise RequestError(
            f"unet on {devices['unet']} and movq on {devices['movq']} cannot work together.",
            "Give both the same device; text_encoder may have another.",
        )
    # Read as wide as the widest part needs, then narrowed, so that no part is rounded twice.
    widest = max(dtypes.values(), key=lambda dtype: torch.finfo(dtype).bits)
    folder = original_folder(variant, cache_dir, *paths)
    place = Placement(torch.device("cpu"), widest, variant, on_meta=width is not None)
    model = load(folder, None, place)
    for part, module in model.modules.items():
        residence = WeightResidency(place.weight_sources, devices[part], dtypes[part])
        if width is not None and part == "text_encoder":
            quantize(module, width, residence)
        elif width is not None:
            residence.bring(module)
        else:
            module.to(devices[part], dtypes[part])
    conditioner = model.conditioner
    assert isinstance(conditioner, OneTextConditioner)  # what `load` wires
    device, dtype = devices["unet"], dtypes["unet"]
    told = replace(conditioner, device=device, dtype=dtype)
    return laid_out_model(replace(model, conditioner=told, device=device, dtype=dtype))


def _by_part(value: object, name: str) -> dict[str, Any]:
    """One value by part; raises RequestError for a map with other parts or without some."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(PARTS, value)
    for part in (*value, *PARTS):
        if part not in PARTS:
            raise RequestError(f"{name} has a part {part!r}.", nearest(str(part), PARTS))
        if part not in value:
            raise RequestError(f"{name} lacks {part!r}.", f"Give all of {', '.join(PARTS)}, or one value.")
    return dict(value)
