"""The shared layers: formulas and shapes."""

import math

import pytest
import torch

from kandinsky.networks.layers import Attention, Block, quick_gelu, sinusoid
from tests.parity.oracles import noise, redraw, relative


@pytest.mark.parametrize("dim", [8, 64])
def test_sinusoid_is_its_formula(dim: int) -> None:
    t = [0.0, 1.0, 17.5]
    table = sinusoid(torch.tensor(t, dtype=torch.float64), dim)
    assert table.dtype == torch.float32
    half = dim // 2
    for row, time in enumerate(t):
        angles = [time * 10_000.0 ** (-k / half) for k in range(half)]
        wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert table[row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_quick_gelu_is_its_formula() -> None:
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    assert quick_gelu(x).tolist() == pytest.approx([v / (1 + math.exp(-1.702 * v)) for v in x.tolist()])


def test_attention_is_a_softmax_over_each_head() -> None:
    layer = redraw(Attention(12, 3), scale=0.5).double()
    x, mask = noise(2, 5, 12, dtype=torch.float64), noise(2, 1, 5, 5, seed=1, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in layer.qkv(x).chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2 + mask, dim=-1)
    wanted = layer.out((weights @ v).transpose(1, 2).flatten(2)).detach()
    assert relative(layer(x, mask).detach(), wanted) < 1e-12


def test_extending_a_block_token_by_token_equals_one_causal_pass() -> None:
    block = redraw(Block(12, 3, 20, "gelu"), scale=0.5).double()
    x = noise(2, 5, 12, dtype=torch.float64)
    past, parts = None, []
    for i in range(5):
        y, past = block.extend(x[:, i : i + 1], past, None)
        parts.append(y)
    assert relative(torch.cat(parts, dim=1), block(x, causal=True)) < 1e-12
