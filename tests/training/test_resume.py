"""A run that is killed anywhere, even while it saves, ends as if nothing had happened."""

import multiprocessing
import random
from pathlib import Path

import pytest
import torch
from toys import run_and_die, run_toy

from kandinsky.core import files
from kandinsky.core.errors import CheckpointError, ConfigError, OutputError
from kandinsky.training import checkpoint as state
from kandinsky.training import events
from kandinsky.training.checkpoint import newest
from kandinsky.training.logs import LossLog


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_toy(folder)
    return folder


@pytest.fixture(scope="module")
def children() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kandinsky.training.loop", "torch.utils.tensorboard", "pytest"])
    return context


def assert_same_end(folder: Path, whole: Path) -> None:
    ours, theirs = (newest(path / "checkpoints").checkpoint for path in (folder, whole))
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == 20
    assert ours.tensors.keys() == theirs.tensors.keys() >= {"network", "network.ema", "critic.optimiser"}
    for file, tensors in theirs.tensors.items():
        assert tensors.keys() == ours.tensors[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ours.tensors[file][name]), f"{file}: {name}"
    assert {**ours.values, "seconds": 0} == {**theirs.values, "seconds": 0}
    assert (folder / "losses.jsonl").read_bytes() == (whole / "losses.jsonl").read_bytes()
    for sheet in (whole / "samples").iterdir():
        assert sheet.read_bytes() == (folder / "samples" / sheet.name).read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_points_it_ends_the_same(
    seed: int, whole: Path, tmp_path: Path, children: multiprocessing.context.ForkServerContext
) -> None:
    draw = random.Random(seed)
    kills = 0
    for _ in range(6):
        child = children.Process(target=run_and_die, args=(tmp_path, draw.randint(1, 160)))
        child.start()
        child.join(60)
        assert child.exitcode in (-9, 0)
        kills += child.exitcode == -9
        if child.exitcode == 0:
            break
    assert kills > 0
    run_toy(tmp_path, resume=True)
    assert_same_end(tmp_path, whole)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 260, 3))
def test_killed_at_every_third_moment_it_ends_the_same(
    at: int, whole: Path, tmp_path: Path, children: multiprocessing.context.ForkServerContext
) -> None:
    child = children.Process(target=run_and_die, args=(tmp_path, at))
    child.start()
    child.join(60)
    run_toy(tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "hashes"])
def test_a_damaged_newest_checkpoint_is_refused_and_the_one_before_used(
    damage: str, whole: Path, tmp_path: Path
) -> None:
    run_toy(tmp_path)
    path = tmp_path / "checkpoints" / "step-00000020"
    victim = path / ("hashes.json" if damage == "hashes" else "network.safetensors")
    content = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "delete":
        victim.unlink()
    else:
        victim.write_bytes(content[: len(content) // 2])
    said = run_toy(tmp_path, resume=True)
    (warning,) = [event.message for event in said if isinstance(event, events.Warned)]
    assert victim.name in warning
    assert next(event for event in said if isinstance(event, events.Started)).step == 16
    assert_same_end(tmp_path, whole)


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    run_toy(tmp_path, keep=3)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000012",
        "step-00000016",
        "step-00000020",
    ]


def test_a_finished_run_is_finished_again_without_a_step(tmp_path: Path) -> None:
    run_toy(tmp_path)
    before = (tmp_path / "losses.jsonl").read_bytes()
    said = run_toy(tmp_path, resume=True)
    assert [type(event) for event in said] == [events.Started, events.Finished]
    assert (tmp_path / "losses.jsonl").read_bytes() == before


def test_a_folder_in_use_is_refused_without_resume(tmp_path: Path) -> None:
    run_toy(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        run_toy(tmp_path)


def test_a_not_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="not finite at step 11"):
        run_toy(tmp_path, poison_at=10)
    found = newest(tmp_path / "checkpoints").checkpoint
    assert found is not None
    assert found.step == 8
    assert all(t.isfinite().all() for t in found.tensors["network"].values())


def test_a_full_disk_is_one_error_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_toy(tmp_path, max_steps=8)
    calls = 0

    def full(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OutputError, match="No space left"):
        run_toy(tmp_path, resume=True)
    assert calls == 1
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000004", "step-00000008"]


def test_losses_that_find_no_room_are_one_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LossLog.write

    def full(log: LossLog, step: int, values: dict[str, float]) -> None:
        if step == 6:
            log._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        whole(log, step, values)

    monkeypatch.setattr(LossLog, "write", full)
    with pytest.raises(OutputError, match=r"losses\.jsonl cannot be written \(No space left"):
        run_toy(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    run_toy(tmp_path, resume=True)


def test_other_weights_or_other_data_are_refused(tmp_path: Path) -> None:
    run_toy(tmp_path, max_steps=4)
    found = newest(tmp_path / "checkpoints").checkpoint
    assert found is not None
    wrong = {**found.tensors, "network": {"other": torch.zeros(1)}}
    state.save(tmp_path / "checkpoints", state.Checkpoint(5, wrong, found.values), 9)
    with pytest.raises(CheckpointError, match="'network' are of another network"):
        run_toy(tmp_path, resume=True)
    values = {**found.values, "data": {**found.values["data"], "count": 9}}
    state.save(tmp_path / "checkpoints", state.Checkpoint(6, found.tensors, values), 9)
    with pytest.raises(CheckpointError, match="started on 9 examples, now there are 7"):
        run_toy(tmp_path, resume=True)
