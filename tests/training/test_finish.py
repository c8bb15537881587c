"""The last steps: latents of mean 0 and deviation 1, and the whole model written as one folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import CPU, NETWORKS, build, draw_images, small_config, step_context

import kandinsky
from kandinsky.core.errors import CheckpointError, ConfigError, OutputError
from kandinsky.core.locks import LOCK
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.training import events, run_config
from kandinsky.training.api import export
from kandinsky.training.checkpoint import Checkpoint, newest, save
from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.export import load_networks
from kandinsky.training.scratch.movq import cropped, latent_statistics, normalise_latents

MOVQ = MoVQConfig(channels=(32, 32), layers=1, codebook_size=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finish")
    draw_images(folder / "images")
    return folder


def context(values: dict[str, Any]) -> TrainContext:
    return TrainContext(read_config(values), CPU)


def only_movq(root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    stage = {"method": "movq", "batch": 4, "max_steps": 4, "save_every": 2, "log_every": 1}
    stage |= {"schedule": {"kind": "constant"}, **changes}
    return small_config(root, out=str(out), stage=[stage])


def newest_tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = newest(folder / "movq" / "checkpoints").checkpoint
    assert found is not None
    return found.tensors


def network(values: dict[str, torch.Tensor]) -> MoVQ:
    movq = MoVQ(MOVQ)
    movq.load_state_dict(values)
    return movq.eval()


@torch.no_grad()
def test_standardising_changes_the_latents_and_nothing_that_is_decoded() -> None:
    torch.manual_seed(0)
    movq = MoVQ(MOVQ).eval()
    images = [torch.randn(4, 3, 16, 16) for _ in range(3)]
    # Latents far from standard, as a trained encoder's are.
    movq.quant_conv.weight.mul_(torch.tensor([9.0, 0.2, 3.0, 1.0])[:, None, None, None])
    movq.quant_conv.bias.add_(torch.tensor([5.0, -2.0, 0.0, 1.0]))  # type: ignore[union-attr]
    codes = torch.randint(32, (2, 8, 8))
    x = images[0]
    before = movq.decode(movq.encode(x)), movq.decode(movq.codebook(codes).permute(0, 3, 1, 2))
    assert movq.encode(x).mean().abs() > 0.5
    normalise_latents(movq, *latent_statistics(movq, images))
    after = movq.decode(movq.encode(x)), movq.decode(movq.codebook(codes).permute(0, 3, 1, 2))
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-5)
    z = torch.cat([movq.encode(batch) for batch in images])
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_dead_channel_stays_finite() -> None:
    movq = MoVQ(MOVQ).eval()
    movq.quant_conv.weight[2].zero_()
    mean, deviation = latent_statistics(movq, [torch.randn(2, 3, 16, 16)])
    assert deviation[2] == 1
    normalise_latents(movq, mean, deviation)
    assert all(value.isfinite().all() for value in movq.state_dict().values())


def test_an_autoencoder_ends_with_unit_latents_for_the_stages_after_it(root: Path, tmp_path: Path) -> None:
    config = only_movq(root, tmp_path / "run", augmentation="none", precision="bf16")
    list(run_config(config))
    tensors = newest_tensors(tmp_path / "run")
    raw, final = network(tensors["movq.ema"]), network(tensors["movq.final"])
    ctx, task = build(config, "movq")
    x = task.data.batch(range(len(task.data)), torch.Generator().manual_seed(0)).pixels
    with torch.no_grad():
        old, new = (movq.decode(movq.encode(x)) for movq in (raw, final))
    torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-5)
    mean, deviation = latent_statistics(final, [x])
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(4), atol=1e-4, rtol=0)
    assert latent_statistics(raw, [x])[1].sub(1).abs().max() > 0.01
    loaded = ctx.run.finished(ctx.run.last("movq"), ctx.networks.movq())
    assert torch.equal(loaded.quant_conv.weight, tensors["movq.final"]["quant_conv.weight"])


def test_it_is_done_once_however_often_a_run_is_resumed(root: Path, tmp_path: Path) -> None:
    config = only_movq(root, tmp_path / "run")
    list(run_config(config))
    first = newest_tensors(tmp_path / "run")
    assert [type(event) for event in run_config(config, resume=True)] == [events.Finished]
    again = newest_tensors(tmp_path / "run")
    assert all(torch.equal(value, again["movq.final"][name]) for name, value in first["movq.final"].items())
    # Going on starts from the weights that learn, and ends as if it had never stopped.
    list(run_config(only_movq(root, tmp_path / "run", max_steps=6), resume=True))
    list(run_config(only_movq(root, tmp_path / "whole", max_steps=6)))
    longer, whole = newest_tensors(tmp_path / "run"), newest_tensors(tmp_path / "whole")
    for file in ("movq", "movq.ema", "movq.final"):
        assert all(torch.equal(value, longer[file][name]) for name, value in whole[file].items()), file
    assert not torch.equal(longer["movq.final"]["quant_conv.bias"], first["movq.final"]["quant_conv.bias"])


def test_a_stage_that_was_over_before_it_was_finished_is_finished_on_resume(root: Path, tmp_path: Path) -> None:
    run = run_config(only_movq(root, tmp_path / "run"))
    for event in run:
        if isinstance(event, events.Saved):
            break
    run.close()  # type: ignore[attr-defined]
    assert "movq.final" not in newest_tensors(tmp_path / "run")
    said = list(run_config(only_movq(root, tmp_path / "run", max_steps=2), resume=True))
    assert [type(event) for event in said] == [events.LearnsFrom, events.Started, events.Saved, events.Finished]
    list(run_config(only_movq(root, tmp_path / "whole", max_steps=2)))
    found, whole = newest_tensors(tmp_path / "run"), newest_tensors(tmp_path / "whole")
    assert all(torch.equal(value, found["movq.final"][name]) for name, value in whole["movq.final"].items())


def test_without_the_option_the_running_mean_is_what_is_loaded(root: Path, tmp_path: Path) -> None:
    list(run_config(only_movq(root, tmp_path / "run", objective={"standardise": False})))
    assert newest_tensors(tmp_path / "run").keys() >= {"movq", "movq.ema"}
    assert "movq.final" not in newest_tensors(tmp_path / "run")


def test_windows_are_cut_from_each_image_at_its_own_place() -> None:
    size, crop = 12, 5
    place = torch.arange(size * size).reshape(1, 1, size, size).float()
    x = torch.cat([place, place + 1000]).repeat(8, 1, 1, 1)
    found = cropped(x, crop, step_context(None))
    assert found.shape == (16, 1, crop, crop)
    corners = found[:, 0, 0, 0] % 1000
    window = torch.arange(crop)[:, None] * size + torch.arange(crop)
    assert torch.equal(found[:, 0] % 1000, corners[:, None, None] + window)
    assert torch.equal(found[:, 0, 0, 0] >= 1000, x[:, 0, 0, 0] >= 1000)
    assert len(corners.unique()) > 8
    assert (corners % size).max() <= size - crop
    assert cropped(x, 12, step_context(None)) is x


WORDS = {
    "steps": 3,
    "guidance_scale": 2.0,
    "prior_steps": 2,
    "prior_guidance_scale": 1.5,
    "sampler": "ddim",
    "strength": 0.5,
}


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    config = small_config(root, out=str(root / "run"), export={"dtype": "float32", **WORDS})
    last = list(run_config(config))[-1]
    assert last == events.Exported(root / "run" / "checkpoint")
    return root / "run" / "checkpoint"


def test_a_finished_run_is_a_model_that_draws(model: Path) -> None:
    pipe = kandinsky.load(str(model))
    result = pipe.generate("красный bar", seed=1)
    assert result.images[0].size == (16, 16)
    for name in WORDS.keys() - {"strength"}:
        assert result.request[name] == WORDS[name]
    again = pipe.generate("красный bar", seed=1).images[0]
    assert np.array_equal(np.asarray(again), np.asarray(result.images[0]))


def test_diffusers_loads_the_same_folder(model: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.KandinskyV22CombinedPipeline.from_pretrained(str(model))
    reference.set_progress_bar_config(disable=True)
    unet = load_networks(context(json.loads((model.parent / "config.json").read_text())))["unet"]
    with torch.no_grad():
        drawn = reference(
            "red bar", height=16, width=16, num_inference_steps=2, prior_num_inference_steps=2, output_type="np"
        ).images
    assert drawn.shape == (1, 16, 16, 3)
    assert np.isfinite(drawn).all()
    theirs = {name: value for name, value in reference.unet.state_dict().items() if name == "conv_in.weight"}
    assert torch.equal(theirs["conv_in.weight"], unet.conv_in.weight)


def test_an_export_in_half_precision_replaces_the_one_before(model: Path) -> None:
    (model / "left.txt").write_text("of before")
    config = json.loads((model.parent / "config.json").read_text())
    before = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    try:
        assert export(config, overrides={"export": {"dtype": "float16"}}) == model
        after = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(value, before[name].half()) for name, value in after.items())
        assert not (model / "left.txt").exists()
        assert [path.name for path in model.parent.glob(".*")] == [LOCK]
        assert {path.name for path in (model / "prior_tokenizer").iterdir()} == {
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
            "special_tokens_map.json",
        }
    finally:
        export(config)


def test_networks_of_other_runs_are_exported_with_what_they_were_used_for(model: Path, root: Path) -> None:
    uses = {name: str(model.parent / name) for name in ("movq", "clip")}
    config = small_config(root, out=str(root / "rest"), tokenizer=str(model.parent / "tokenizer"))
    config["stage"] = [{**stage, "uses": uses} for stage in config["stage"][2:]]
    assert list(run_config(config))[-1] == events.Exported(root / "rest" / "checkpoint")
    whole = newest_tensors(model.parent)["movq.final"]
    assert torch.equal(load_networks(context(config))["movq"].quant_conv.weight, whole["quant_conv.weight"])


def test_exports_that_cannot_be_are_one_error_each(
    root: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        export(small_config(root, out=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="Did you mean 'ddim'"):
        export(small_config(root, export={"sampler": "dim"}))
    networks = {**NETWORKS, "decoder": {**NETWORKS["decoder"], "image_tokens": 4}}
    with pytest.raises(CheckpointError, match="image_tokens = 4"):
        next(run_config(small_config(root, out=str(tmp_path / "early"), networks=networks)))
    assert not (tmp_path / "early").exists()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    config = json.loads((model.parent / "config.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    monkeypatch.setattr("kandinsky.training.export.shutil.copyfile", full)
    with pytest.raises(OutputError, match="No space left"):
        export(config)
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    assert [path.name for path in model.parent.glob(".*")] == [LOCK]


def test_means_alone_are_enough_to_export(model: Path, root: Path, tmp_path: Path) -> None:
    for name in ("movq", "clip", "prior", "decoder"):
        found = newest(model.parent / name / "checkpoints").checkpoint
        assert found is not None
        kept = {f"{name}.ema": found.tensors[f"{name}.ema"]}
        save(tmp_path / "run" / name / "checkpoints", Checkpoint(1, kept, {"seconds": 0.0}), 1)
    config = small_config(root, out=str(tmp_path / "run"), tokenizer=str(model.parent / "tokenizer"))
    assert export(config) == tmp_path / "run" / "checkpoint"
