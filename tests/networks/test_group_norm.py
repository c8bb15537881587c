"""Group norm with what follows it: each part against torch's own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.networks.group_norm import group_norm, normed
from tests.families import mostly_slow
from tests.parity.oracles import noise

GROUPS, CHANNELS = 8, 24
FORMS = ["plain", "film", "modulation"]


def layer() -> nn.GroupNorm:
    norm = nn.GroupNorm(GROUPS, CHANNELS, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(noise(CHANNELS, seed=1))
        norm.bias.copy_(noise(CHANNELS, seed=2))
    return norm


def modulations(form: str) -> dict[str, Tensor]:
    # A row of a table is a view of something wider.
    film = noise(2, 2 * CHANNELS + 5, seed=3)[:, : 2 * CHANNELS]
    return {"plain": {}, "film": {"film": film}, "modulation": {"modulation": noise(2, 2 * CHANNELS, 4, 5, seed=4)}}[
        form
    ]


def expected(x: Tensor, norm: nn.GroupNorm, form: str, silu: bool) -> Tensor:
    y = norm(x)
    for name, value in modulations(form).items():
        if name == "film":
            scale, shift = value.to(x)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        else:
            k = x.shape[2] // value.shape[2]
            scale, shift = value.to(x).repeat_interleave(k, 2).repeat_interleave(k, 3).chunk(2, dim=1)
            y = y * scale + shift
    return y * torch.sigmoid(y) if silu else y


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_the_parts_in_their_order(form: str, silu: bool) -> None:
    x, norm = noise(2, CHANNELS, 8, 10) + 3, layer()
    own = (norm.num_groups, norm.eps, norm.weight, norm.bias)
    torch.testing.assert_close(group_norm(x, *own, **modulations(form), silu=silu), expected(x, norm, form, silu))


def test_a_layer_without_numbers_of_its_own_and_gradients() -> None:
    x = noise(2, CHANNELS, 3, 5).requires_grad_()
    torch.testing.assert_close(group_norm(x, GROUPS, 1e-3), F.group_norm(x, GROUPS, eps=1e-3))
    normed(layer(), x, silu=True).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("affine", mostly_slow([False, True], True))
@torch.no_grad()
def test_large_images_lose_nothing(affine: bool) -> None:
    """torch's own is off by 0.001 here, and by more the larger an image is."""
    x = (noise(1, CHANNELS, 720, 1280) + 2).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(GROUPS, CHANNELS, eps=1e-3, affine=affine)
    if affine:
        norm = layer()
    made = normed(norm, x)
    assert (made - norm.double()(x.double())).abs().max() < 5e-6
    assert made.is_contiguous(memory_format=torch.channels_last)
