"""Small helpers that code for MindSpore imports beside the pipelines."""

from kandinsky.compat.diffusers.utils import load_image, make_image_grid

__all__ = ["load_image", "make_image_grid"]
