"""Latents as what was asked for: PIL images, an array, a tensor, or the latents themselves."""

from typing import Any

from torch import Tensor

from kandinsky.compat.diffusers.outputs import ImagePipelineOutput
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.images import crop, to_pil
from kandinsky.generations.model import Model

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_output_type(output_type: str | None) -> str:
    """The output type, "pil" for None; raises RequestError for an unknown one, before any work is done for
    it."""
    if output_type is None:
        return "pil"
    if output_type not in OUTPUT_TYPES:
        raise RequestError(f"There is no output_type {output_type!r}.", nearest(str(output_type), OUTPUT_TYPES))
    return output_type


def decoded_images(model: Model, latents: Tensor, width: int, height: int, output_type: str) -> Any:
    """Decodes latents (B, C, h, w) to width x height.

    "pil" gives a list; "np" an array (B, H, W, 3) and "pt" a tensor (B, 3, H, W), both float in 0..1;
    "latent" the latents as they are.
    """
    if output_type == "latent":
        return latents.to(model.dtype)
    decoded = crop(model.codec.decode(latents), width, height)
    if output_type == "pil":
        return to_pil(decoded)
    unit = (decoded * 0.5 + 0.5).clamp(0, 1)
    return unit.to(model.dtype) if output_type == "pt" else unit.float().cpu().permute(0, 2, 3, 1).numpy()


def output(images: object, return_dict: bool) -> Any:
    """The images as an output that is read by name, or as a tuple of one."""
    return ImagePipelineOutput(images) if return_dict else (images,)
