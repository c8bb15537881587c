"""Stages from scratch that begin or work with the networks of a whole checkpoint."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import kandinsky
from kandinsky import training
from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.engine.embedded import embedded_folder
from kandinsky.training import run_config
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.scratch.encoders import CaptionTokens
from kandinsky.training.scratch.started_from import PARTS, checkpoint_weights
from tests.training.small import CPU, NETWORKS, draw_images, small_config

RECIPE = Path(training.__file__).parent / "recipes" / "emoji-continued.toml"
STAGE = {"method": "prior", "init": "emoji", "uses": {"clip": "emoji"}, "max_steps": 1, "batch": 4, "sample_every": 0}
"""A step so small that weights stay what they were."""
STILL = {"optimiser": {"lr": 1e-12, "weight_decay": 0.0}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from")
    draw_images(folder / "images")
    return folder


def config(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    networks = tomllib.loads(RECIPE.read_text())["networks"]
    return small_config(root, out=str(out), networks=networks, stage=[STAGE | STILL | changes])


@pytest.mark.parametrize("method", list(PARTS))
def test_a_stage_begins_with_the_weights_of_a_checkpoint(method: str, root: Path, tmp_path: Path) -> None:
    networks = TrainContext(read_config(config(root, tmp_path / "run")), CPU).networks
    makes = {"clip": networks.clip, "prior": networks.prior, "decoder": networks.decoder, "movq": networks.movq}
    found, stamp = checkpoint_weights(embedded_folder(), method)
    wanted = {name if method != "clip" else f"towers.{name}" for name in makes[method]().state_dict()}
    assert found.keys() == wanted
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert stamp == checkpoint_weights(embedded_folder(), method)[1]


def test_a_prior_goes_on_from_a_checkpoint_in_its_words(root: Path, tmp_path: Path) -> None:
    """Its towers' tokenizer is taken too: another one's numbers would be other words."""
    list(run_config(config(root, tmp_path / "run")))
    kept = newest(tmp_path / "run" / "prior" / "checkpoints").checkpoint
    assert kept is not None
    before, _ = checkpoint_weights(embedded_folder(), "prior")
    for name, mean in kept.tensors["prior.ema"].items():
        if name not in ("clip_mean", "clip_std"):
            torch.testing.assert_close(mean, before[name])
    assert not (tmp_path / "run" / "tokenizer").exists()
    ids, _ = CaptionTokens(TrainContext(read_config(config(root, tmp_path / "run")), CPU))(["a red apple"])
    theirs = kandinsky.load(device="cpu").model.conditioner.stage.encoder.tokenizer.encode(["a red apple"], 32)
    assert torch.equal(ids, theirs.ids)


def test_the_tokenizer_of_another_run_is_taken_with_its_texts(root: Path, tmp_path: Path) -> None:
    clip = {"method": "clip", "max_steps": 1, "batch": 4, "sample_every": 0}
    list(run_config(small_config(root, out=str(tmp_path / "first"), stage=[clip])))
    other = small_config(root, out=str(tmp_path / "second"), stage=[{**clip, "init": str(tmp_path / "first" / "clip")}])
    assert CaptionTokens(TrainContext(read_config(other), CPU)).folder == tmp_path / "first" / "tokenizer"


def test_what_a_checkpoint_lacks_or_has_in_other_sizes_is_named(root: Path, tmp_path: Path) -> None:
    small = small_config(root, out=str(tmp_path / "run"), networks=NETWORKS, stage=[STAGE])
    with pytest.raises(ConfigError, match="holds a 'clip' of other sizes"):
        list(run_config(small))
    decoder = tmp_path / "decoder"
    decoder.mkdir()
    index = {"_class_name": "KandinskyV22Pipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (decoder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"text_encoder"):
        list(run_config(config(root, tmp_path / "other", uses={"clip": str(decoder)})))
    with pytest.raises(ConfigError, match="starts from 'emojy', which is not"):
        read_config(config(root, tmp_path / "third", init="emojy"))
