"""Latents of mean 0 and deviation 1, as diffusion wants them, without changing what the codec decodes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kandinsky.networks.autoencoder import CodebookAutoencoder, Norm

_DEAD = 1e-6


@torch.no_grad()
def latent_statistics(movq: CodebookAutoencoder, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C,) of the latents of batches of images (B, 3, H, W) in [-1, 1].

    A channel that never changes has deviation 1, so that it can be divided by.
    """
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for batch in images:
        latents = movq.encode(batch).double()
        count += latents.numel() // latents.shape[1]
        total = total + latents.sum(dim=(0, 2, 3))
        square = square + latents.square().sum(dim=(0, 2, 3))
    mean = total / count
    deviation = (square / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(deviation < _DEAD, torch.ones_like(deviation), deviation).float()


@torch.no_grad()
def normalise_latents(movq: CodebookAutoencoder, mean: Tensor, deviation: Tensor) -> None:
    """Folds z -> (z - mean) / deviation, per channel (C,), into the weights that make and read latents.

    `decode(encode(x))` and what the codebook decodes to stay the same, to rounding: every place that reads
    latents is a 1x1 convolution, which takes the inverse.
    """
    movq.quant_conv.weight.div_(deviation[:, None, None, None])
    _bias(movq.quant_conv).sub_(mean).div_(deviation)
    movq.required_codebook.weight.sub_(mean).div_(deviation)
    readers = [movq.post_quant_conv]
    readers += [m.modulation for m in movq.decoder.modules() if isinstance(m, Norm) and m.modulation is not None]
    for conv in readers:
        _bias(conv).add_(conv.weight[:, :, 0, 0] @ mean)
        conv.weight.mul_(deviation[None, :, None, None])


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
