"""A learned perceptual distance between images: features of a classifier, weighted by channel."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)

Layer = tuple[int, int, int, int] | tuple[int, int]
"""A convolution (width, kernel, stride, padding), or a max pooling (kernel, stride)."""

TRUNKS: dict[str, tuple[tuple[Layer, ...], ...]] = {
    "alexnet": (
        ((64, 11, 4, 2),),
        ((3, 2), (192, 5, 1, 2)),
        ((3, 2), (384, 3, 1, 1)),
        ((256, 3, 1, 1),),
        ((256, 3, 1, 1),),
    ),
    "vgg16": (
        ((64, 3, 1, 1),) * 2,
        ((2, 2), *((128, 3, 1, 1),) * 2),
        ((2, 2), *((256, 3, 1, 1),) * 3),
        ((2, 2), *((512, 3, 1, 1),) * 3),
        ((2, 2), *((512, 3, 1, 1),) * 3),
    ),
}
"""The convolutions of each classifier in five stages; a ReLU follows each, each stage's end is compared."""


@dataclass(frozen=True)
class PerceptualConfig:
    """The classifier of the features."""

    trunk: Literal["alexnet", "vgg16"] = "vgg16"


class PerceptualLoss(nn.Module):
    """The distance of Zhang 2018 (LPIPS, equation 1), a metric and a training loss; its parameters are frozen."""

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[None, :, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor
        stages, heads, width = [], [], 3
        for layers in TRUNKS[config.trunk]:
            stage: list[nn.Module] = []
            for layer in layers:
                if len(layer) == 2:
                    stage.append(nn.MaxPool2d(layer[0], layer[1]))
                    continue
                stage += [nn.Conv2d(width, layer[0], layer[1], layer[2], layer[3]), nn.ReLU()]
                width = layer[0]
            stages.append(nn.Sequential(*stage))
            heads.append(nn.Conv2d(width, 1, 1, bias=False))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.requires_grad_(False)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Five maps of unit-length features (B, C, h, w) of `pixels` (B, 3, H, W) in [-1, 1], H and W at least 32
        (AlexNet) or 16 (VGG)."""
        x = (pixels - self.mean) / self.std
        maps = []
        for stage in self.stages:
            x = stage(x)
            # The tiny term keeps the gradient of the root finite where all features are zero.
            length = (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
            maps.append(x / (length + 1e-10))
        return maps

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """The distance of each pair, (B,), 0 for equal images; both (B, 3, H, W) in [-1, 1]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and target.requires_grad):
            wanted = self.features(target)
        distance = torch.zeros(len(pixels), device=pixels.device, dtype=pixels.dtype)
        for found, known, head in zip(self.features(pixels), wanted, self.heads, strict=True):
            weight = head.get_parameter("weight")
            distance = distance + functional.conv2d((found - known).square(), weight).mean(dim=(1, 2, 3))
        return distance
