"""The blocks of the autoencoders: what is computed in another way must give the same numbers."""

import pytest
import torch

from kandinsky.networks.autoencoder import Upsample
from tests.parity.oracles import noise, redraw, relative


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_folded_upsampling_equals_the_two_layers(dtype: torch.dtype, tolerance: float) -> None:
    layer = redraw(Upsample(6), scale=0.3).to(dtype)
    x = noise(2, 6, 16, 17, dtype=dtype)
    two = layer(x).detach()  # with gradients on nothing is folded
    with torch.no_grad():
        one = layer(x)
    assert not torch.equal(one, two)
    assert relative(one, two) < tolerance
