"""Two processes train as one does that accumulates: the same weights, from one log and one result."""

import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import draw_images
from test_finetuning import build, config, exported

from kandinsky.core.errors import ConfigError
from kandinsky.training import fsdp, run_config
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.run import read_config
from kandinsky.training.distributed import ALONE, World, launched
from kandinsky.training.learner import Learner, shards
from kandinsky.training.run_folder import CHECKPOINTS


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(part)}" for name, part in value.items()) + "}"
    return json.dumps(value)


def together(
    values: dict[str, Any], count: int, folder: Path, *flags: str, **given: str
) -> list[subprocess.CompletedProcess[str]]:
    """Runs `python -m kandinsky.training` in as many processes as a launcher would start."""
    file = folder / "run.toml"
    file.write_text("".join(f"{name} = {toml(value)}\n" for name, value in values.items()))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    common = os.environ | place | given
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "kandinsky.training", str(file), *flags],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    done = []
    for process in running:
        out, said = process.communicate(timeout=240)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, said))
    return done


def test_two_processes_learn_what_one_does_in_two_turns(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images")
    objective = {"target": "prior", "adapter": {"rank": 2}}
    values = config(images, tmp_path / "one", "lora", objective=objective, accumulate=2)
    alone = load_file(exported(run_config(values)).path)
    shared = values | {"out": str(tmp_path / "two"), "accumulate": 1}
    for process in together(shared, 2, tmp_path):
        assert process.returncode == 0, process.stderr
    both = load_file(tmp_path / "two" / "lora.safetensors")
    assert both.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.allclose(both[name], value, atol=1e-6), name
    logs = [(tmp_path / name / "lora" / "losses.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 3
    for ours, theirs in zip(*logs, strict=True):
        assert json.loads(ours)["loss"] == pytest.approx(json.loads(theirs)["loss"], rel=1e-5)


def spread_run(tmp_path: Path) -> dict[str, Any]:
    """Settings of the same run in one process, done, and in two with half of everything each, to be done."""
    images = draw_images(tmp_path / "images")
    objective = {"target": "prior", "text_encoders": True}
    changes = {"max_steps": 2, "save_every": 1, "sample_every": 2, "optimiser": {"lr": 1e-4}}
    values = config(images, tmp_path / "one", "full", objective=objective, accumulate=2, **changes)
    values["data"]["held_out"] = 2
    exported(run_config(values))
    return values | {"out": str(tmp_path / "two"), "accumulate": 1}


def test_networks_are_spread_over_processes(tmp_path: Path) -> None:
    shared = spread_run(tmp_path)
    for process in together(shared, 2, tmp_path, ACCELERATE_USE_FSDP="true"):
        assert process.returncode == 0, process.stderr
    assert list((tmp_path / "two" / "full" / "samples").glob("*.png"))
    assert (tmp_path / "two" / "checkpoint" / "model_index.json").is_file()
    same_run(tmp_path / "two" / "full", tmp_path / "one" / "full")


@pytest.mark.slow
def test_one_process_and_two_continue_what_two_began(tmp_path: Path) -> None:
    shared = spread_run(tmp_path) | {"spread": True, "max_steps": 1}
    for process in together(shared, 2, tmp_path):
        assert process.returncode == 0, process.stderr
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    for name, count in (("two", 1), ("three", 2)):
        again = {"out": str(tmp_path / name), "accumulate": 2 // count, "max_steps": 2}
        for process in together(shared | again, count, tmp_path, "--resume"):
            assert process.returncode == 0, process.stderr
        same_run(tmp_path / name / "full", tmp_path / "one" / "full")


def test_what_cannot_be_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(tmp_path / "images")
    values = config(images, tmp_path / "run", "full", objective={"target": "prior"}, spread=True)
    _, task = build(values)
    (trainable,) = task.trainables
    stage = read_config(values | {"optimiser": {"kind": "adafactor"}}).stage[0]
    assert not shards(stage, ALONE)
    assert shards(stage, World(0, 2))
    with pytest.raises(ConfigError, match="do not learn by adafactor in fp32"):
        Learner(trainable, stage, torch.device("cpu"), World(0, 2))
    stage = read_config(values | {"precision": "fp16"}).stage[0]
    with pytest.raises(ConfigError, match="do not learn by adamw in fp16"):
        Learner(trainable, stage, torch.device("cpu"), World(0, 2))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    plain = read_config(values | {"spread": False}).stage[0]
    assert shards(plain, World(0, 2))


def same_run(ours: Path, theirs: Path) -> None:
    found, expected = (newest(path / CHECKPOINTS).checkpoint for path in (ours, theirs))
    assert found is not None
    assert expected is not None
    assert found.step == expected.step == 2
    assert found.tensors.keys() == expected.tensors.keys()
    for file, tensors in expected.tensors.items():
        assert tensors.keys() == found.tensors[file].keys()
        for name, value in tensors.items():
            if not file.startswith("random"):
                assert torch.allclose(found.tensors[file][name], value, atol=1e-5, rtol=1e-3), (file, name)


@pytest.mark.slow
def test_histories_of_losses_are_shared(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images")
    objective = {"target": "prior", "prior": {"times": "second_moment"}, "adapter": {"rank": 2}}
    values = config(images, tmp_path / "one", "lora", objective=objective, accumulate=2, max_steps=2)
    exported(run_config(values))
    shared = values | {"out": str(tmp_path / "two"), "accumulate": 1}
    for process in together(shared, 2, tmp_path):
        assert process.returncode == 0, process.stderr
    ours, theirs = (newest(tmp_path / name / "lora" / CHECKPOINTS).checkpoint for name in ("two", "one"))
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours.tensors["extra"]["prior.seen"], theirs.tensors["extra"]["prior.seen"])
    # Two steps of two batches of two.
    assert int(ours.tensors["extra"]["prior.seen"].sum()) == 8
    assert torch.allclose(ours.tensors["extra"]["prior.losses"], theirs.tensors["extra"]["prior.losses"])


def test_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert launched() == World(3, 4)
    assert not launched().first
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ConfigError, match="RANK is 4"):
        launched()


def test_how_many_processes_the_command_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from kandinsky.cli import train as command

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert command.processes() == 2
    requested: list[list[str]] = []

    def run(line: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        requested.append(line)
        return subprocess.CompletedProcess(line, 7)

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.launch(2, ["train", "x.toml"]) == 7
    assert requested[0][-4:] == ["-m", "kandinsky", "train", "x.toml"]
    assert "--nproc_per_node=2" in requested[0]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.processes() == 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("NPROC_PER_NODE", "many")
    with pytest.raises(ConfigError, match="'many'"):
        command.processes()


def test_networks_are_spread_twice_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda kind, shape: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            fsdp.ShardedNetworks([], ALONE, torch.device("cpu"))
