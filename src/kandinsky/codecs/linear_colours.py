"""A cheap look at latents: the linear map to colours that fits plain coloured pictures best."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearColours:
    """Latents (B, C, h, w) to small pictures (B, 3, h, w) in [-1, 1], by `matrix` (C, 3) and `bias` (3,)."""

    matrix: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, encode: Callable[[Tensor], Tensor], downscale: int, device: torch.device) -> "LinearColours":
        """The least squares fit to 27 pictures of one colour each, encoded on `device`."""
        levels = torch.tensor([-1.0, 0.0, 1.0])
        colours = torch.cartesian_prod(levels, levels, levels)
        side = 8 * downscale
        pictures = colours[:, :, None, None].expand(-1, -1, side, side)
        latents = encode(pictures.to(device)).float().mean(dim=(2, 3)).cpu()
        with_one = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
        fit = torch.linalg.lstsq(with_one, colours).solution
        return cls(fit[:-1], fit[-1])

    def __call__(self, latents: Tensor) -> Tensor:
        rgb = torch.einsum("bchw,cd->bdhw", latents.float(), self.matrix.to(latents.device))
        return (rgb + self.bias.to(latents.device)[:, None, None]).clamp(-1, 1)
