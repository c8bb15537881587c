"""Losses of a quantising autoencoder (VQGAN: Esser et al. 2021, arXiv 2012.09841; MoVQ: Zheng et al. 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SSIM_WINDOW = 5
_SMALLEST = 8


def structure_distance(images: Tensor, targets: Tensor) -> Tensor:
    """A perceptual distance that needs no weights: edges and local structure at halving sizes, (B,), >= 0.

    Both (B, C, H, W) in [-1, 1], sides at least 8. At each scale the mean absolute difference of the first
    differences along both axes, plus 1 - SSIM (Wang et al. 2004, IEEE TIP 13(4), eq. 13) over 5 x 5 windows.
    """
    total = torch.zeros(len(images), device=images.device, dtype=torch.float32)
    a, b = images.float(), targets.float()
    scales = 0
    while min(a.shape[-2:]) >= _SMALLEST and scales < 3:
        error = a - b
        edges = (error.diff(dim=-1).abs().flatten(1).mean(1) + error.diff(dim=-2).abs().flatten(1).mean(1)) / 2
        total = total + edges + 1 - similarity(a, b)
        a, b, scales = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2), scales + 1
    return total / max(scales, 1)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """The mean SSIM of each pair of images (B, C, H, W), (B,), with the constants for a range of 2."""
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean_a, mean_b = F.avg_pool2d(a, _SSIM_WINDOW, 1), F.avg_pool2d(b, _SSIM_WINDOW, 1)
    var_a = F.avg_pool2d(a * a, _SSIM_WINDOW, 1) - mean_a.square()
    var_b = F.avg_pool2d(b * b, _SSIM_WINDOW, 1) - mean_b.square()
    covariance = F.avg_pool2d(a * b, _SSIM_WINDOW, 1) - mean_a * mean_b
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
    return value.flatten(1).mean(1)


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """The peak signal-to-noise ratio in dB of each pair of images (B, C, H, W) in [-1, 1], clamped: (B,)."""
    error = (images.float().clamp(-1, 1) - targets.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * (4 / error.clamp(min=1e-10)).log10()  # the range is 2, so the square of the peak is 4


def latent_moments_loss(latents: Tensor) -> Tensor:
    """How far each channel of (B, C, h, w) is from mean 0 and deviation 1, squared.

    Diffusion takes these latents unscaled, so their scale has to come from the autoencoder itself.
    """
    flat = latents.float().transpose(0, 1).flatten(1)
    return flat.mean(1).square().mean() + (flat.std(1) - 1).square().mean()


def critic_hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises: mean relu(1 - real) + mean relu(1 + fake), halved (arXiv 1705.02894, eq. 1)."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_hinge_loss(fake: Tensor) -> Tensor:
    """What the generator minimises against a hinge critic: -mean fake."""
    score: Tensor = fake.float().mean()
    return -score


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """How strongly the adversarial loss may pull: |grad reconstruction| / (|grad adversarial| + 1e-4).

    Gradients at the decoder's last layer; a scalar in [0, 1e4] without gradient (VQGAN, eq. 7).
    """
    (ours,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = ours.norm() / (theirs.norm() + 1e-4)
    return ratio.clamp(0, 1e4).detach()


class PatchCritic(nn.Module):
    """Says of each patch of an image whether it looks real (Isola et al. 2017, arXiv 1611.07004, section 3.2.2).

    (B, 3, H, W) to (B, 1, h, w). Group norm instead of the published batch norm: batches of a small machine are too
    small for batch statistics.
    """

    def __init__(self, width: int = 64, levels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width
        for level in range(1, levels):
            wider = width * min(2**level, 8)
            layers += [nn.Conv2d(channels, wider, 4, 2, 1, bias=False), nn.GroupNorm(8, wider), nn.LeakyReLU(0.2)]
            channels = wider
        layers.append(nn.Conv2d(channels, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to logits (B, 1, h, w), high where real."""
        logits: Tensor = self.layers(images)
        return logits
