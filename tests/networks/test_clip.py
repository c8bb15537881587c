"""CLIP's towers: what may and may not depend on what, how they start, and bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.core.errors import ConfigError, RequestError
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from tests.parity.oracles import noise, redraw, relative

TEXT = ClipTextConfig(60, 24, 2, 3, 40, 9, 20, "gelu", 58, "eos")
VISION = ClipVisionConfig(24, 2, 3, 40, 12, 4, 20, "gelu")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 57), min_size=9, max_size=9), st.integers(1, 8), st.integers(0, 57))
def test_nothing_behind_the_end_token_reaches_the_embedding(ids: list[int], end: int, other: int) -> None:
    tower = redraw(ClipText(TEXT), scale=0.2)
    first = torch.tensor([ids])
    first[0, end] = 58
    second = first.clone()
    second[0, end + 1 :] = other
    with torch.no_grad():
        a, b = tower(first), tower(second)
        assert relative(a.embedding, b.embedding) < 1e-6
        assert relative(a.hidden[:, : end + 1], b.hidden[:, : end + 1]) < 1e-6
        # A prefix that ends at the end token gives the same embedding: shorter texts need no padding.
        assert relative(tower(first[:, : end + 1]).embedding, a.embedding) < 1e-5


def test_every_earlier_token_reaches_the_embedding() -> None:
    tower = redraw(ClipText(TEXT), scale=0.2)
    ids = torch.tensor([[1, 2, 3, 58, 0, 0, 0, 0, 0]]).repeat(4, 1)
    for row in range(3):
        ids[row + 1, row] = 40
    embedding = tower(ids).embedding
    assert all(relative(embedding[row : row + 1], embedding[:1]) > 1e-3 for row in (1, 2, 3))


def test_rows_do_not_see_each_other() -> None:
    text, vision = redraw(ClipText(TEXT)).double(), redraw(ClipVision(VISION)).double()
    ids = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    pixels = noise(3, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        for row in range(3):
            one = slice(row, row + 1)
            assert relative(text(ids[one]).embedding, text(ids).embedding[one]) < 1e-12
            assert relative(vision(pixels[one]), vision(pixels)[one]) < 1e-12


@pytest.mark.parametrize("module", [ClipText(TEXT), ClipVision(VISION)])
def test_every_parameter_learns(module: torch.nn.Module) -> None:
    if isinstance(module, ClipText):
        ids = torch.arange(1, 10)[None] % 60
        ids[0, 8] = 58
        module(ids).embedding.square().sum().backward()
    else:
        module(noise(2, 3, 12, 12)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_published_initial_scales() -> None:
    torch.manual_seed(0)
    width, layers = 64, 4
    tower = ClipText(ClipTextConfig(500, width, layers, 4, 256, 77, 64, "quick_gelu", 1, "eos"))
    block = tower.get_submodule("blocks.0")
    wanted = {
        tower.tokens.weight: 0.02,
        tower.positions: 0.01,
        tower.projection.weight: width**-0.5,
        block.get_parameter("attention.qkv.weight"): width**-0.5,
        block.get_parameter("attention.out.weight"): (2 * width * layers) ** -0.5,
        block.get_parameter("mlp.up.weight"): (2 * width) ** -0.5,
        block.get_parameter("mlp.down.weight"): (2 * width * layers) ** -0.5,
    }
    for parameter, std in wanted.items():
        assert float(parameter.std()) == pytest.approx(std, rel=0.05)


def test_half_precision_stays_finite() -> None:
    text, vision = ClipText(TEXT).bfloat16(), ClipVision(VISION).bfloat16()
    with torch.no_grad():
        assert text(torch.full((2, 9), 58)).embedding.isfinite().all()
        assert vision(noise(2, 3, 12, 12, dtype=torch.bfloat16)).isfinite().all()


def test_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(RequestError, match="10 tokens are more than the 9"):
        ClipText(TEXT)(torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(RequestError, match=r"\(1, 3, 16, 16\)"):
        ClipVision(VISION)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(RequestError, match=r"\(1, 1, 12, 12\)"):
        ClipVision(VISION)(torch.zeros(1, 1, 12, 12))


def test_configs_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="5 heads"):
        ClipTextConfig(60, 24, 2, 5, 40, 9, 20, "gelu", 58, "eos")
    with pytest.raises(ConfigError, match="eos_id is None"):
        ClipTextConfig(60, 24, 2, 3, 40, 9, 20, "gelu", None, "eos")
    with pytest.raises(ConfigError, match="5 heads"):
        ClipVisionConfig(24, 2, 5, 40, 12, 4, 20, "gelu")
    with pytest.raises(ConfigError, match="16 pixels"):
        ClipVisionConfig(24, 2, 3, 40, 12, 16, 20, "gelu")
