"""Tables of scales and shifts: the same numbers however much of a request fits into them."""

import pytest
import torch
from torch import Tensor

from kandinsky.networks import film_table
from kandinsky.networks.film_table import FilmTable
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from tests.parity.oracles import noise

CONFIG = UNet2Config(channels=(32, 64), layers=1, head_dim=32, context_dim=16, image_dim=12, image_tokens=2)


def sums(t: Tensor, pooled: Tensor) -> list[Tensor]:
    both = t[:, None, None] + pooled
    return [both, torch.cat([both, both], dim=2)]


def test_a_table_has_room_for_so_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = noise(2, 3)
    monkeypatch.setattr(film_table, "MOST_BYTES", 2 * 9 * 4 * 2)
    table = FilmTable(sums, [5.0, 4.0, 5.0, 3.0], pooled, 9)
    assert table.times == {5.0, 4.0}
    for t in (5.0, 4.0, 3.0, 2.5):
        for found, expected in zip(table.split(table.row(t)), sums(torch.tensor([t]), pooled), strict=True):
            assert torch.equal(found, expected[0])


def test_one_time_is_always_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_table, "MOST_BYTES", 1)
    assert FilmTable(sums, [5.0, 4.0], noise(2, 3), 9).times == {5.0}


def test_steps_beyond_the_table_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = UNet2(CONFIG).eval()
    condition, x = UNet2Condition(image_embedding=noise(2, 12)), noise(2, 4, 4, 4)
    times = [900.0, 500.0, 100.0]
    with torch.no_grad():
        whole = network.prepare(condition, times)
        monkeypatch.setattr(film_table, "MOST_BYTES", 1)
        bounded = network.prepare(condition, times)
        assert whole.table.times == set(times)
        assert bounded.table.times == {900.0}
        for t in times:
            torch.testing.assert_close(bounded.step(x, t), whole.step(x, t), atol=1e-5, rtol=1e-5)
