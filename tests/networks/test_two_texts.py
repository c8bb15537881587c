"""The U-Net conditioned on two texts: what its condition must hold, and that preparing changes nothing."""

from dataclasses import replace

import pytest
import torch

from kandinsky.core.errors import ConfigError
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from tests.parity.oracles import noise, redraw, relative

CONFIG = UNet2Config(
    channels=(32, 64),
    layers=1,
    head_dim=16,
    context_dim=24,
    condition="two_texts",
    text_hidden_dim=20,
    text_dim=12,
    second_text_dim=16,
)


def _network() -> UNet2:
    torch.manual_seed(0)
    return redraw(UNet2(CONFIG)).double()


def _condition(rows: int) -> UNet2Condition:
    d = torch.float64
    return UNet2Condition(
        text_hidden=noise(rows, 7, 20, seed=1, dtype=d),
        text_embedding=noise(rows, 12, seed=2, dtype=d),
        second_text_hidden=noise(rows, 5, 16, seed=3, dtype=d),
    )


@torch.no_grad()
def test_prepared_steps_equal_the_whole_network() -> None:
    network, condition = _network(), _condition(2)
    x = noise(2, 4, 8, 8, dtype=torch.float64)
    prepared = network.prepare(condition, [900])
    for t in (900, 20.5):
        whole = network(x, torch.full((2,), float(t)), condition)
        assert whole.shape == (2, 8, 8, 8)
        assert relative(prepared.step(x, t), whole) < 1e-12


@pytest.mark.parametrize("part", ["text_hidden", "text_embedding", "second_text_hidden"])
@torch.no_grad()
def test_every_part_of_the_condition_acts_and_is_asked_for(part: str) -> None:
    network, condition = _network(), _condition(1)
    x, t = noise(1, 4, 8, 8, dtype=torch.float64), torch.tensor([500.0])
    first = network(x, t, condition)
    changed = getattr(condition, part).clone()
    changed[0, -1] += 1.0  # of the states, the last token
    assert relative(network(x, t, replace(condition, **{part: changed})), first) > 1e-6
    with pytest.raises(ConfigError, match=f"needs {part}"):
        network(x, t, replace(condition, **{part: None}))


@torch.no_grad()
def test_conditions_join_row_by_row() -> None:
    network = _network()
    one, other = _condition(1), _condition(2)
    both = one.joined(other)
    assert both.image_embedding is None
    x, t = noise(3, 4, 8, 8, dtype=torch.float64), torch.tensor([500.0])
    together = network(x, t.expand(3), both)
    assert relative(together[:1], network(x[:1], t, one)) < 1e-12
    assert relative(together[1:], network(x[1:], t.expand(2), other)) < 1e-12


def test_an_image_network_asks_for_its_embedding() -> None:
    network = UNet2(UNet2Config(channels=(32, 64), layers=1, head_dim=16))
    with pytest.raises(ConfigError, match="needs image_embedding"):
        network(torch.zeros(1, 4, 8, 8), torch.zeros(1), UNet2Condition())


def test_the_second_text_must_fit_its_heads() -> None:
    with pytest.raises(ConfigError, match="8 heads do not divide a second text width of 20"):
        replace(CONFIG, second_text_dim=20)


@pytest.mark.parametrize(("channels", "parameters"), [(4, 1_223_352_584), (9, 1_223_369_864)])
def test_published_size(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        network = UNet2(UNet2Config(in_channels=channels, condition="two_texts", text_dim=640))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == 604
