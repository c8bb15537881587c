"""A finished run's networks as components, for the facade and for diffusers itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import draw_images
from test_finetuning import OBJECTIVES, build, config, exported
from torch import Tensor

from kandinsky.cli.main import run
from kandinsky.cli.train import recipes
from kandinsky.compat.diffusers import Kandinsky3UNet, PriorTransformer
from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.training import run_config
from kandinsky.training.components import write_component
from kandinsky.training.config.run import DataConfig, read_config, read_settings
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints

POKEMON = ("kandinsky_v22_prior_pokemon_blip", "kandinsky_v22_decoder_pokemon_blip", "kandinsky_v3_pokemon_blip")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("components") / "images")


def of_v3(one_text: OneTextCheckpoints, images: Path, out: Path) -> dict[str, Any]:
    one_text.ours()
    values = config(images, out, "full", objective={"target": "decoder"})
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(one_text.root / "decoder")}
    return values


def tensors_of(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def test_a_run_of_our_own_and_diffusers_reads_it(one_text: OneTextCheckpoints, images: Path, tmp_path: Path) -> None:
    from diffusers import Kandinsky3UNet as Oracle

    values = of_v3(one_text, images, tmp_path / "run")
    result = exported(run_config(values))
    folder = write_component(values, tmp_path / "run", tmp_path / "out", "unet")
    assert folder == tmp_path / "out" / "unet"
    ours = Kandinsky3UNet.from_pretrained(tmp_path / "out", subfolder="unet")
    theirs = Oracle.from_pretrained(tmp_path / "out", subfolder="unet")
    written = tensors_of(folder)
    assert theirs.state_dict().keys() == written.keys()
    assert all(torch.equal(value, written[name]) for name, value in theirs.state_dict().items())
    # The checkpoint that the run left has the same weights in half precision.
    left = tensors_of(result.path / "unet")
    assert all(torch.equal(left[name], value.half()) for name, value in written.items())
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([7])
    hidden, mask = torch.randn(1, 5, ours.config.encoder_hid_dim), torch.ones(1, 5)
    with torch.no_grad():
        said = (
            network(x, t, encoder_hidden_states=hidden, encoder_attention_mask=mask).sample
            for network in (ours, theirs)
        )
        first, second = said
    assert torch.allclose(first, second, atol=1e-4)
    with pytest.raises(ConfigError, match="did not train the whole text_encoder"):
        write_component(values, tmp_path / "run", tmp_path / "other", "text_encoder")
    with pytest.raises(ConfigError, match="has no prior"):
        write_component(values, tmp_path / "run", tmp_path / "other", "prior")


@pytest.mark.parametrize("form", mostly_slow(["file", "compiled", "shards"], "compiled", "shards"))
def test_the_results_of_other_trainers(form: str, one_text: OneTextCheckpoints, images: Path, tmp_path: Path) -> None:
    values = of_v3(one_text, images, tmp_path / "run")
    wanted = {name: value + 1 for name, value in tensors_of(one_text.root / "decoder" / "unet").items()}
    named = {f"unet.{name}": value for name, value in wanted.items()}
    if form == "compiled":
        named = {f"module._orig_mod.{name}": value for name, value in named.items()}
    beside = {"text_encoder.shared.weight": torch.zeros(1)}
    source = tmp_path / "trained.pth"
    if form == "shards":
        source = tmp_path / "epoch_50.pth"
        (source / "model").mkdir(parents=True)
        half = len(wanted) // 2
        parts = [dict(list(named.items())[:half]), dict(list(named.items())[half:]) | beside]
        names = [f"pytorch_model-{n}-of-00002.bin" for n in ("00001", "00002")]
        places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        for name, part in zip(names, parts, strict=True):
            torch.save(part, source / "model" / name)
        index = {"metadata": {}, "weight_map": places}
        (source / "model" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save({"state_dict": named | beside, "meta": {"epoch": 50}}, source)
    folder = write_component(values, source, tmp_path / "out", "unet", sharded=form == "shards")
    written = tensors_of(folder)
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], value) for name, value in wanted.items())


def test_the_prior_and_the_command_line(tiny: Checkpoints, images: Path, tmp_path: Path) -> None:
    tiny.ours("text2img")
    config_file = tmp_path / "prior.toml"
    config_file.write_text(
        'method = "full"\nout = "unused"\nmax_steps = 1\n[data]\nfolder = "x"\n'
        '[objective]\ntarget = "prior"\n'
        f'[model]\nname = "{tiny.root / "text2img"}"\nprior = "{tiny.root / "prior"}"\n'
    )
    wanted = tensors_of(tiny.root / "prior" / "prior")
    torch.save({f"prior.{name}": value for name, value in wanted.items()}, tmp_path / "prior.pth")
    requested = ["convert", str(config_file), str(tmp_path / "prior.pth"), str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        run([*requested, "--save-keys", "prior"])
    assert ended.value.code == 0
    loaded = PriorTransformer.from_pretrained(tmp_path / "out", subfolder="prior")
    assert torch.equal(loaded.native.get_parameter("clip_mean"), wanted["clip_mean"])
    with pytest.raises(CheckpointError, match="holds no unet, but prior"):
        write_component(config_file, tmp_path / "prior.pth", tmp_path / "b", "unet")
    with pytest.raises(ConfigError, match="no save key 'unets'"):
        write_component(config_file, tmp_path / "prior.pth", tmp_path / "b", "unets")
    with pytest.raises(SystemExit) as ended:
        run(["convert", str(config_file), str(tmp_path / "prior.pth")])
    assert ended.value.code == 2


def test_a_damaged_result_leaves_nothing(one_text: OneTextCheckpoints, images: Path, tmp_path: Path) -> None:
    values = of_v3(one_text, images, tmp_path / "run")
    torch.save({"unet.conv_in.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError):
        write_component(values, tmp_path / "bad.pth", tmp_path / "out", "unet")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="no index of shards"):
        write_component(values, tmp_path, tmp_path / "out", "unet", sharded=True)


def test_the_built_in_runs_have_the_published_values() -> None:
    found = {name: read_config(recipes()[name]) for name in POKEMON}
    stages = [run.stage[0] for run in found.values()]
    assert [stage.epochs for stage in stages] == [50, 50, 50]
    assert [(stage.batch, stage.accumulate) for stage in stages] == [(4, 1), (4, 1), (2, 4)]
    assert [stage.precision for stage in stages] == ["fp16", "fp16", "bf16"]
    assert [run.data.size for run in found.values()] == [768, 768, 1024]
    for stage in stages:
        assert (stage.optimiser.lr, stage.optimiser.weight_decay, stage.clip_norm) == (1e-5, 1e-2, 1.0)
        assert set(stage.objective.prompts) == {"yoda pokemon"}


def test_a_built_in_run_by_its_name_on_local_images(
    one_text: OneTextCheckpoints, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_text.ours()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "pokemon")
    for extra in list(Path("pokemon").iterdir())[4:]:
        if extra.suffix == ".png":
            extra.unlink()
    flags = ["--model", str(one_text.root / "decoder"), "--size", "64", "--steps", "2", "--device", "cpu", "-q"]
    with pytest.raises(SystemExit) as ended:
        run(["train", POKEMON[2], "--data", "pokemon", *flags, "-q", "--out", "run"])
    assert ended.value.code == 0
    assert Path("run/checkpoint/unet/config.json").is_file()
    # The recipe names a published checkpoint; the run knows that it began with another one.
    with pytest.raises(SystemExit) as ended:
        run(["convert", POKEMON[2], "run", "out", "--save-keys", "unet", "-q"])
    assert ended.value.code == 0
    Kandinsky3UNet.from_pretrained("out", subfolder="unet")
    Path("run/config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_settings(Path("run"))


def test_the_settings_that_a_run_leaves_are_read_again(tmp_path: Path) -> None:
    for name in (*OBJECTIVES, "kandinsky_v3_pokemon_blip"):
        read = read_config(recipes()[name])
        (tmp_path / "config.json").write_text(json.dumps(read.model_dump(mode="json")))
        again = read_settings(tmp_path)
        assert again is not None
        assert again.model_dump() == read.model_dump()
    of_a_dataset = read.model_copy(update={"data": DataConfig(dataset="someone/images")})
    (tmp_path / "config.json").write_text(json.dumps(of_a_dataset.model_dump(mode="json")))
    assert read_settings(tmp_path) == of_a_dataset
    assert read_settings(tmp_path / "nowhere") is None


def test_sheets_draw_the_prompts(images: Path, tmp_path: Path) -> None:
    values = config(images, tmp_path, "lora", objective={"prompts": ["a", "b", "c"], "adapter": {"rank": 1}})
    _, task = build(values)
    assert task.grid is not None
    # Three images side by side, two pixels apart.
    assert task.grid(torch.Generator()).shape == (32, 3 * 32 + 4, 3)
