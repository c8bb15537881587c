"""The names that existing code uses, over the native models; and our networks inside diffusers' own pipelines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kandinsky.compat.accelerate import accelerate_diffusers

__all__ = ["accelerate_diffusers"]


def __getattr__(name: str) -> object:
    # Looked up when first used: it loads torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kandinsky.compat.accelerate import accelerate_diffusers

    return accelerate_diffusers
