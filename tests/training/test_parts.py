"""The parts of the loop on their own: order, running mean, schedule, optimiser state, sheets, teacher."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.recipes.emoji.sentence_teacher import remembering
from kandinsky.training.checkpoint import Checkpoint, read, save
from kandinsky.training.config.run import OptimiserConfig, ScheduleConfig
from kandinsky.training.data.samplers import EpochSampler
from kandinsky.training.ema import Ema
from kandinsky.training.image_grid import GAP, grid, write_grid
from kandinsky.training.optim import (
    make_optimiser,
    optimiser_state,
    parameter_groups,
    rate_factor,
    restore_optimiser,
    trained,
)
from kandinsky.training.scratch.clip_model import ClipModel, by_length
from kandinsky.training.seeds import generator


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 40), st.integers(0, 1000))
def test_order_sees_everything_once_an_epoch_and_resumes_anywhere(
    count: int, batch: int, steps: int, seed: int
) -> None:
    whole = EpochSampler(count, batch, seed)
    seen = [whole.next() for _ in range(steps + 3)]
    flat = [index for indices in seen for index in indices]
    for first in range(0, len(flat) - count + 1, count):
        assert Counter(flat[first : first + count]) == Counter(range(count))
    part = EpochSampler(count, batch, seed)
    for _ in range(steps):
        part.next()
    resumed = EpochSampler(count, batch, seed)
    resumed.restore(part.state())
    assert [resumed.next() for _ in range(3)] == seen[steps:]


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    sampler = EpochSampler(50, 50, 0)
    first, second = sampler.next(), sampler.next()
    assert first != second
    assert first != EpochSampler(50, 50, 1).next()


def test_generators_of_different_purposes_differ_and_repeat() -> None:
    draws = [torch.rand(4, generator=generator(*path)).tolist() for path in ((1, "a", 2), (1, "a", 3), (2, "a", 2))]
    assert draws[0] != draws[1] != draws[2]
    assert draws[0] == torch.rand(4, generator=generator(1, "a", 2)).tolist()


def test_ema_is_the_recursion_with_its_warm_up() -> None:
    module = nn.BatchNorm1d(3)
    ema = Ema(module, 0.5)
    expected = module.weight.detach().clone()
    for step in range(8):
        with torch.no_grad():
            module.weight.copy_(torch.randn(3, generator=torch.Generator().manual_seed(step)))
            module.num_batches_tracked.fill_(step)
        ema.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(ema.mean["weight"], expected)
    assert ema.mean["num_batches_tracked"] == 7


def test_ema_swaps_in_and_back_bit_for_bit() -> None:
    module = nn.Linear(3, 2).to(torch.bfloat16)
    ema = Ema(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    before = module.weight.detach().clone()
    with ema.swapped(module):
        assert not torch.equal(module.weight, before)
        assert torch.equal(module.weight.float(), ema.mean["weight"])
    assert torch.equal(module.weight, before)


def test_norms_and_biases_are_not_decayed() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Conv2d(3, 3, 1))
    module[2].weight.requires_grad_(False)
    decayed, plain = parameter_groups(trained(module), 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight)]
    assert len(plain["params"]) == 4


def test_schedules() -> None:
    cosine = ScheduleConfig(kind="cosine", warmup=4, floor=0.1)
    assert [rate_factor(cosine, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate_factor(cosine, 99, 0.5) == pytest.approx(0.55)
    assert rate_factor(cosine, 99, 1.0) == pytest.approx(0.1)
    linear = ScheduleConfig(kind="linear", warmup=0)
    assert rate_factor(linear, 0, 0.25) == pytest.approx(0.75)
    assert rate_factor(ScheduleConfig(kind="constant", warmup=0), 0, 0.9) == 1.0


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_optimiser_continues_from_its_saved_state(tmp_path: Path, channels_last: bool) -> None:
    def step(module: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        module(x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
        if channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module, make_optimiser(trained(module), OptimiserConfig())

    module, optimiser = make()
    for seed in range(3):
        step(module, optimiser, seed)
    tensors, numbers = optimiser_state(optimiser, trained(module))
    path = save(tmp_path, Checkpoint(3, {"w": dict(module.state_dict()), "o": tensors}, {"n": numbers}), 1)
    found = read(path)
    other, resumed = make()
    other.load_state_dict(found.tensors["w"])
    restore_optimiser(resumed, trained(other), found.tensors["o"], found.values["n"])
    for seed in range(3, 6):
        step(module, optimiser, seed)
        step(other, resumed, seed)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    with pytest.raises(CheckpointError, match="parameters not trained now"):
        restore_optimiser(resumed, {}, found.tensors["o"], {})


def test_checkpoints_keep_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": base, "turned": base.T, "row": base[1], "flag": torch.tensor(True)}
    found = read(save(tmp_path, Checkpoint(1, {"t": tensors}, {"x": [1, "ü"]}), 1))
    assert found.values == {"x": [1, "ü"]}
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors["t"][name], tensor)


def test_grid_and_sheet(tmp_path: Path) -> None:
    images = torch.stack([torch.full((3, 4, 6), value) for value in (-2.0, 0.0, 1.0)])
    sheet = grid(images, 2)
    assert sheet.shape == (8 + GAP, 12 + GAP, 3)
    assert (sheet[:4, :6] == 0).all()
    assert (sheet[:4, 6 + GAP :] == 128).all()
    assert (sheet[4 + GAP :, :6] == 255).all()
    path = write_grid(tmp_path / "a.png", sheet)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(path.read_bytes()))), sheet)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_teacher_is_asked_once_for_each_text() -> None:
    requested: list[str] = []

    def encode(texts: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        requested.extend(texts)  # type: ignore[call-overload]
        return np.array([[len(text)] for text in texts], dtype=np.float32)  # type: ignore[attr-defined]

    teach = remembering(encode)
    assert teach(["aa", "b", "aa"]).flatten().tolist() == [2, 1, 2]
    assert teach(["b", "ccc"]).flatten().tolist() == [1, 3]
    assert requested == ["aa", "b", "ccc"]


def test_captions_read_in_groups_of_their_length_come_back_in_their_places() -> None:
    torch.manual_seed(0)
    vision = ClipVisionConfig(16, 1, 2, 32, 16, 8, 8, "gelu")
    towers = ClipModel(ClipTextConfig(50, 16, 2, 2, 32, 12, 8, "gelu", 49, "eos"), vision)
    lengths = torch.tensor([3, 12, 2, 7, 7, 4, 9])
    mask = torch.arange(12)[None] < lengths[:, None]
    ids = torch.randint(49, (7, 12)) * mask
    ids[torch.arange(7), lengths - 1] = 49
    with torch.no_grad():
        torch.testing.assert_close(towers.embed(ids, mask), towers.read(ids).embedding)
    groups = by_length(lengths, torch.device("cpu"))
    assert sorted(torch.cat(groups).tolist()) == list(range(7))
    assert [lengths[rows].max() for rows in groups] == sorted(lengths[rows].max() for rows in groups)
    assert len(by_length(lengths, torch.device("cuda"))) == 1
