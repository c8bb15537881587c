"""How far bfloat16, the default of large denoisers on some CPUs, is from float32 on a trained network."""

import pytest
import torch
from torch import Tensor

import kandinsky
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from tests.parity.oracles import noise


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of the exact numbers."""
    return float((found.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@pytest.mark.parametrize("part", ["step", "decode", "norm and softmax"])
@torch.no_grad()
def test_errors_of_bfloat16(part: str) -> None:
    pipe = kandinsky.load(device="cpu", dtype="float32")
    network, codec = pipe.model.network, pipe.model.codec
    assert isinstance(network, UNet2)
    latents = noise(2, 4, 16, 16)
    if part == "step":
        embedding = noise(2, network.config.image_dim, seed=1)
        exact = network.prepare(UNet2Condition(embedding), [500]).step(latents, 500)
        half = network.to(torch.bfloat16).prepare(UNet2Condition(embedding.bfloat16()), [500])
        found = half.step(latents.bfloat16(), 500)
        assert 1e-4 < error(found, exact) < 0.02
    elif part == "decode":
        exact = codec.decode(latents)
        codec.network.to(torch.bfloat16)  # type: ignore[attr-defined]
        assert 1e-4 < error(codec.decode(latents), exact) < 0.03
    else:
        # Sums are taken in float32 inside: as far off as the rounding of what goes in and comes out.
        x = noise(2, 64, 32, 32) + 3.0
        norm = torch.nn.GroupNorm(32, 64)
        assert error(norm.bfloat16()(x.bfloat16()), norm.float()(x)) < 0.01
        q = noise(2, 4, 256, 32, seed=2)
        attend = torch.nn.functional.scaled_dot_product_attention
        assert error(attend(q.bfloat16(), q.bfloat16(), q.bfloat16()), attend(q, q, q)) < 0.01
