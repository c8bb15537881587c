"""The recorded weights, drawn again without torch's generator, are what that generator draws."""

import numpy as np
import pytest
import torch

from tests.reference import drawn


@pytest.mark.parametrize("counts", [[16], [64, 3, 5], [37, 1, 4, 20], [15, 16, 17, 1000]])
def test_numbers_follow_torchs_generator(counts: list[int]) -> None:
    ours, generator = drawn.Normals(1041), torch.Generator().manual_seed(1041)
    for count in counts:
        theirs = torch.randn(count, generator=generator).double().numpy()
        assert np.abs(ours.draw(count) - theirs).max() < 1e-5


def test_another_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn.draw("kandinsky31/t5")
    recipe = drawn.recipes()["kandinsky31/t5"]
    monkeypatch.setitem(recipe, "seed", recipe["seed"] + 1)
    with pytest.raises(AssertionError, match="drawn otherwise"):
        drawn.draw("kandinsky31/t5")
