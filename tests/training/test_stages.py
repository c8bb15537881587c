"""Whole runs of the four stages on drawn images with the real, tiny networks."""

import json
import math
import os
import signal
import tomllib
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from small import CPU, NETWORKS, build, draw_images, small_config, step_context

from kandinsky import training
from kandinsky.checkpoints import weights
from kandinsky.conditioning.clip_image import CLIP_MEAN
from kandinsky.core.errors import CheckpointError, ConfigError, DataError, OutputError
from kandinsky.recipes.emoji import sentence_teacher
from kandinsky.training import events, run_config
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.data import cached_encodings
from kandinsky.training.data.cached_encodings import ImageSource
from kandinsky.training.data.images import AUGMENTATIONS
from kandinsky.training.examples import Examples
from kandinsky.training.export import load_networks
from kandinsky.training.scratch.clip_model import vision_pixels
from kandinsky.training.scratch.diffusion import measure_statistics
from kandinsky.training.scratch.encoders import CaptionTokens, FrozenEncoders, frozen_clip, frozen_movq
from kandinsky.training.tensor_cache import keep

RECIPES = Path(training.__file__).parent / "recipes"
NAMES = ("movq", "clip", "prior", "decoder")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    draw_images(folder / "images")
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> tuple[Path, list[Any]]:
    config = small_config(root, out=str(root / "whole"))
    return root / "whole", list(run_config(config))


def finished(folder: Path, stage: str) -> dict[str, dict[str, torch.Tensor]]:
    found = newest(folder / stage / "checkpoints").checkpoint
    assert found is not None
    assert found.step == 3
    return found.tensors


def test_all_stages_run_in_order_and_leave_weights_losses_and_sheets(whole: tuple[Path, list[Any]]) -> None:
    folder, said = whole
    assert [event.stage for event in said if isinstance(event, events.Finished)] == list(NAMES)
    measured = {event.stage: event.values for event in said if isinstance(event, events.Measured)}
    assert measured["movq"].keys() == {"psnr"}
    assert measured["clip"].keys() == {"top1", "top5"}
    assert measured["prior"].keys() == {"cosine", "top5"}
    assert measured["decoder"].keys() == {"mse", "vlb"}
    assert {event.stage for event in said if isinstance(event, events.Sampled)} == {"movq", "decoder"}
    for name in NAMES:
        assert all(tensor.isfinite().all() for tensor in finished(folder, name)[f"{name}.ema"].values())
        lines = [json.loads(line) for line in (folder / name / "losses.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert read_config(json.loads((folder / "config.json").read_text())).stage[3].variants == 2


@pytest.mark.parametrize("at", [1, 6, 9, 16, 22])
def test_a_run_abandoned_anywhere_resumes_to_the_same_weights(
    at: int, root: Path, tmp_path: Path, whole: tuple[Path, list[Any]]
) -> None:
    config = small_config(root, out=str(tmp_path / "run"))
    run = run_config(config)
    for _ in range(at):
        next(run)
    assert isinstance(run, Iterator)
    run.close()  # type: ignore[attr-defined]
    said = list(run_config(config, resume=True))
    assert [event.stage for event in said if isinstance(event, events.Finished)] == list(NAMES)
    for name in NAMES:
        ours, theirs = finished(tmp_path / "run", name), finished(whole[0], name)
        for file, tensors in theirs.items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, ours[file][key]), f"{name} {file} {key}"
        logs = [(folder / name / "losses.jsonl").read_text() for folder in (tmp_path / "run", whole[0])]
        assert logs[0] == logs[1]


def test_encodings_are_made_once_for_the_same_networks(whole: tuple[Path, list[Any]], root: Path) -> None:
    folder, said = whole
    assert sum(isinstance(event, events.Preparing) for event in said) == 4
    config = small_config(root, out=str(folder))
    config["stage"].append({**config["stage"][3], "name": "again", "init": "decoder"})
    more = [event for event in run_config(config, resume=True) if event_stage(event) == "again"]
    assert not any(isinstance(event, events.Preparing) for event in more)
    assert isinstance(more[-1], events.Finished)
    first = newest(folder / "again" / "checkpoints").checkpoint
    assert first is not None


def event_stage(event: Any) -> str:
    return getattr(event, "stage", "")


def test_cached_encodings_are_those_of_the_images(whole: tuple[Path, list[Any]], root: Path) -> None:
    config = small_config(root, out=str(whole[0]))
    ctx, cached = build(config, "decoder")
    stage = ctx.config.stage[3]
    encoders = FrozenEncoders(frozen_clip(ctx, stage), frozen_movq(ctx, stage), CPU)
    x = ctx.data.split(ctx.data.size(stage))[0].plain([0, 1])
    direct = encoders.encode(x)
    assert direct["latents"].shape == (2, 4, 8, 8)
    found = cached.data.batch([0, 1], torch.Generator().manual_seed(0)).encoded(encoders)
    assert found["latents"].shape == direct["latents"].shape
    assert found["embeddings"].dtype == torch.float32
    again = Examples(("", ""), torch.ones(2), pixels=x).encoded(encoders)
    assert torch.equal(again["latents"], direct["latents"])


@pytest.mark.parametrize("name", ["prior", "decoder"])
def test_a_dropped_condition_is_not_seen(name: str, whole: tuple[Path, list[Any]], root: Path) -> None:
    losses = {}
    for dropout in (0.0, 1.0):
        config = small_config(root, out=str(whole[0]))
        number = NAMES.index(name)
        config["stage"][number]["objective"] = {"condition_dropout": dropout}
        _, task = build(config, name)
        # Residual branches start shut: one open layer is enough for the condition to reach the output.
        with torch.no_grad():
            for parameter in task.trainables[0].module.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        batch = task.data.batch([0, 1, 2, 3], torch.Generator().manual_seed(0))
        other = replace(batch, captions=batch.captions[::-1])
        if name == "decoder":
            embeddings = -batch.encodings["embeddings"]
            other = replace(batch, encodings=batch.encodings | {"embeddings": embeddings})
        loss = task.trainables[0].loss
        losses[dropout] = [loss(step_context(rows)).total.item() for rows in (batch, other)]
    assert losses[0.0][0] != losses[0.0][1]
    assert losses[1.0][0] == losses[1.0][1]


def test_the_prior_works_on_embeddings_of_mean_zero_and_deviation_one(
    whole: tuple[Path, list[Any]], root: Path
) -> None:
    _, task = build(small_config(root, out=str(whole[0])), "prior")
    prior: Any = task.trainables[0].module
    batch = task.data.batch(range(len(task.data)), torch.Generator().manual_seed(3))
    x = prior.normalise(batch.encodings["embeddings"])
    assert x.mean(0).abs().max() < 1.5
    assert 0.3 < x.std(0).mean() < 2
    assert not prior.clip_std.requires_grad


def test_a_prior_that_begins_with_another_measures_its_own_embeddings(
    whole: tuple[Path, list[Any]], root: Path
) -> None:
    config = small_config(root, out=str(whole[0]), data={"folder": str(root / "images"), "size": 16, "held_out": 8})
    config["stage"].append({**config["stage"][2], "name": "again", "init": "prior"})
    ctx, task = build(config, "again")
    prior: Any = task.trainables[0].module
    fresh = ctx.networks.prior()
    measure_statistics(fresh, task.data, FrozenEncoders(frozen_clip(ctx, ctx.config.stage[4]), None, CPU), ctx.seed)
    assert torch.equal(prior.clip_mean, fresh.clip_mean)
    assert torch.equal(prior.clip_std, fresh.clip_std)
    before = finished(whole[0], "prior")["prior.ema"]
    assert not torch.equal(prior.clip_mean, before["clip_mean"])
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items() if "clip_" not in name)


def test_pixels_for_the_vision_tower_are_shifted_scaled_and_resized() -> None:
    grey = (torch.tensor(CLIP_MEAN) * 2 - 1)[None, :, None, None].expand(1, 3, 20, 20)
    assert vision_pixels(grey, 16).shape == (1, 3, 16, 16)
    assert vision_pixels(grey, 16).abs().max() < 1e-5
    assert vision_pixels(torch.ones(1, 3, 8, 8), 8)[0, 0, 0, 0].item() == pytest.approx(1.9303, abs=1e-3)


def test_finished_networks_are_the_running_means(whole: tuple[Path, list[Any]], root: Path) -> None:
    ctx = TrainContext(read_config(small_config(root, out=str(whole[0]))), CPU)
    found = load_networks(ctx)
    means = finished(whole[0], "decoder")["decoder.ema"]
    assert all(torch.equal(value, means[name]) for name, value in found["unet"].state_dict().items())
    means = finished(whole[0], "clip")["clip.ema"]
    assert torch.equal(found["prior_image_encoder"].positions, means["towers.vision.positions"])
    assert (CaptionTokens(ctx).folder / "vocab.json").is_file()
    assert not found["prior_prior"].training
    lacking = small_config(root, out=str(whole[0]))
    lacking["stage"] = lacking["stage"][:3]
    with pytest.raises(ConfigError, match="no stage of method 'decoder'"):
        load_networks(TrainContext(read_config(lacking), CPU))


def test_a_tokenizer_with_too_many_ids_is_refused(whole: tuple[Path, list[Any]], root: Path, tmp_path: Path) -> None:
    text = {**NETWORKS["clip_text"], "vocab_size": 520}
    stage = {"method": "clip", "max_steps": 1}
    config = broken(root, tmp_path, stage=[stage], networks={**NETWORKS, "clip_text": text})
    config["tokenizer"] = str(whole[0] / "tokenizer")
    with pytest.raises(ConfigError, match=r"ids, networks\.clip_text\.vocab_size is 520"):
        list(run_config(config))


VARIED: list[tuple[str, dict[str, Any]]] = [
    ("movq", {"precision": "bf16", "channels_last": True, "objective": {"latent_noise": 0.1, "crop": 12}}),
    ("clip", {"objective": {"text_pairs": 0.5, "distillation": 1.0, "teacher": "usem3", "per_concept": 2}}),
    ("prior", {"precision": "bf16", "objective": {"times": "second_moment"}, "augmentation": "full"}),
    ("decoder", {"objective": {"target": "v", "min_snr": 5}, "accumulate": 2, "augmentation": {"mirror": 1.0}}),
    ("decoder", {"precision": "bf16", "channels_last": True, "variants": 1, "objective": {"target": "x0"}}),
]


@pytest.mark.parametrize(("method", "changes"), VARIED)
def test_options_train_too(
    method: str,
    changes: dict[str, Any],
    whole: tuple[Path, list[Any]],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def teach(texts: Any) -> torch.Tensor:
        return torch.stack([torch.full((sentence_teacher.WIDTH,), float(len(text))) for text in texts])

    monkeypatch.setattr("kandinsky.recipes.emoji.heads.load_teacher", lambda: teach)
    uses = {name: str(whole[0] / name) for name in ("movq", "clip")}
    stage = {"method": method, "batch": 4, "max_steps": 2, "log_every": 1, "uses": uses, **changes}
    config = small_config(root, out=str(tmp_path / "run"), stage=[stage], tokenizer=str(whole[0] / "tokenizer"))
    config["data"]["recipe"] = "emoji"
    said = list(run_config(config))
    assert isinstance(said[-1], events.Finished)
    assert all(math.isfinite(value) for value in said[-1].losses.values())
    tensors = newest(tmp_path / "run" / method / "checkpoints").checkpoint
    assert tensors is not None
    assert {t.dtype for t in tensors.tensors[method].values()} == {torch.float32}


def test_every_stage_learns(root: Path, tmp_path: Path) -> None:
    config = small_config(root, out=str(tmp_path / "run"))
    for stage, steps in zip(config["stage"], (40, 40, 60, 60), strict=True):
        schedule = {"kind": "constant", "warmup": 0}
        stage |= {"max_steps": steps, "save_every": 100, "sample_every": 0, "batch": 8, "schedule": schedule}
        stage |= {"optimiser": {"lr": 3e-3}, "ema": {"decay": 0.9}, "objective": {}}
    list(run_config(config))
    falls = {"movq": "l1", "clip": "contrastive", "prior": "mse", "decoder": "mse"}
    for name, loss in falls.items():
        lines = (tmp_path / "run" / name / "losses.jsonl").read_text().splitlines()
        values = [json.loads(line)[loss] for line in lines]
        assert sum(values[-10:]) < 0.85 * sum(values[:10]), name


def test_ctrl_c_saves_and_stops_and_resume_goes_on(root: Path, tmp_path: Path) -> None:
    config = small_config(root, out=str(tmp_path / "run"), stage=small_config(root)["stage"][:1])
    said = []
    for event in run_config(config):
        said.append(event)
        if isinstance(event, events.Progress) and event.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
    assert said[-1] == events.Stopped("movq", 1, "interrupted")
    assert isinstance(said[-2], events.Saved)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest = list(run_config(config, resume=True))
    assert rest[0] == events.LearnsFrom("movq", 9, 0, 3)
    assert rest[1] == events.Started("movq", 1, 3, rest[1].parameters)
    assert isinstance(rest[-1], events.Finished)


def test_images_of_the_test_split_are_never_opened(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    draw_images(folder)
    lines = []
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        caption = path.with_suffix(".txt").read_text(encoding="utf-8")
        row = {"file_name": path.name, "caption": caption, "split": "test" if number % 3 == 0 else "train"}
        lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    ctx = TrainContext(read_config(small_config(tmp_path)), CPU)
    learned, held_out = ctx.data.split(ctx.data.size(ctx.config.stage[0]))
    assert held_out is not None
    files = [one.folder.records[number].file_name for one in (learned, held_out) for number in one.files.tolist()]
    names = sorted(path.name for path in folder.glob("*.png"))
    assert sorted(files) == [names[number] for number in (1, 2, 4, 5, 7, 8, 10, 11)]


def broken(root: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return small_config(root, out=str(tmp_path / "run"), **changes)


def test_bad_settings_are_one_error_each_and_write_nothing(root: Path, tmp_path: Path) -> None:
    stage = {"method": "decoder", "max_steps": 1}
    networks = {**NETWORKS, "decoders": {}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"networks": networks}, "no network 'decoders'. Did you mean 'decoder'"),
        ({"networks": {**NETWORKS, "movq": {"channel": [1]}}}, "Did you mean 'channels'"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        ({"networks": {}}, "networks.decoder is not set"),
        ({"export": {"sampler": "dimm"}}, "export.sampler: .* 'dimm'. Did you mean 'ddim'"),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            list(run_config(broken(root, tmp_path, **changes)))
        assert not (tmp_path / "run").exists()
    later: list[tuple[dict[str, Any], str]] = [
        ({"stage": [stage]}, "'decoder' needs a 'movq', and no stage before it makes one"),
        ({"data": {"folder": str(root / "images"), "size": 16, "held_out": 12}}, "only 12 images"),
        ({"stage": [{"method": "movq", "max_steps": 1, "augmentation": "ful"}]}, "Did you mean 'full'"),
        ({"stage": [{"method": "movq", "max_steps": 1, "objective": {"crop": 13}}]}, "no multiple of 2"),
    ]
    for number, (changes, message) in enumerate(later):
        with pytest.raises(ConfigError, match=message):
            list(run_config(broken(root, tmp_path / str(number), **changes)))


def test_a_run_in_the_way_an_unfinished_stage_and_other_sizes_are_refused(
    whole: tuple[Path, list[Any]], root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        list(run_config(small_config(root, out=str(whole[0]))))
    stage = {"method": "prior", "max_steps": 1, "uses": {"clip": str(tmp_path)}}
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        list(run_config(broken(root, tmp_path, stage=[stage])))
    stage["uses"] = {"clip": str(whole[0] / "clip")}
    networks = {**NETWORKS, "clip_text": {**NETWORKS["clip_text"], "vocab_size": 700}}
    with pytest.raises(ConfigError, match="'clip' of other sizes"):
        list(run_config(broken(root, tmp_path, stage=[stage], networks=networks)))


def test_missing_images_or_perceptual_weights_are_data_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        list(run_config(broken(root, tmp_path, data={"folder": str(tmp_path / "none")})))
    objective = {"features": "lpips", "lpips_trunk_file": str(tmp_path / "none")}
    stage = {"method": "movq", "max_steps": 1, "objective": objective}
    with pytest.raises(DataError):
        list(run_config(broken(root, tmp_path, stage=[stage])))


def test_an_unconditional_text_is_the_empty_one(whole: tuple[Path, list[Any]], root: Path) -> None:
    ctx, _ = build(small_config(root, out=str(whole[0])), "prior")
    ids, mask = CaptionTokens(ctx)(["", "red circle"])
    assert mask.sum(1).tolist()[0] == 2
    encoders = FrozenEncoders(frozen_clip(ctx, ctx.config.stage[2]), None, CPU)
    given = encoders.prior_condition(ids, mask)
    assert given.text_hidden.shape == (2, 4, 16)
    assert not given.text_hidden.requires_grad


FROM_NOTHING = ["movq", "movq-full", "vision", "text", "prior", "decoder"]


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [
        ("emoji", FROM_NOTHING),
        pytest.param("emoji128", FROM_NOTHING, marks=pytest.mark.slow),
        ("emoji-continued", ["heads", "text", "prior", "decoder"]),
    ],
)
def test_recipes_fit_together_and_are_small_enough_to_ship(
    recipe: str, stages: list[str], root: Path, tmp_path: Path
) -> None:
    values = tomllib.loads((RECIPES / f"{recipe}.toml").read_text())
    values |= {"out": str(tmp_path / "run"), "threads": 1, "device": "cpu"}
    values["data"] |= {"folder": str(root / "images"), "held_out": 0}
    for stage in values["stage"]:
        stage |= {"max_steps": 1, "batch": 4, "sample_every": 0, "variants": min(stage.get("variants", 0), 1)}
        stage["precision"] = "fp32"
        # The classifier's weights are a package of their own.
        stage["objective"].pop("features", None)
    said = list(run_config(values))
    assert [event.stage for event in said if isinstance(event, events.Finished)] == stages
    assert said[-1] == events.Exported(tmp_path / "run" / "checkpoint")
    files = [path for path in (tmp_path / "run" / "checkpoint").rglob("*") if path.is_file()]
    assert 40e6 < sum(path.stat().st_size for path in files) < 56e6


def test_large_images_are_encoded_a_few_at_a_time(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = TrainContext(read_config(small_config(root, data={"folder": str(root / "images")})), CPU)
    images = ImageSource(ctx.data.split(16)[0], AUGMENTATIONS["full"])
    seen: list[int] = []

    def encode(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(pixels))
        return {"latents": pixels[:, :, ::8, ::8]}

    def encoded(at_once: int, folder: str) -> torch.Tensor:
        monkeypatch.setattr(cached_encodings, "AT_ONCE", at_once * 16 * 16)
        kept = events.result_of(cached_encodings.encode_once(images, 4, encode, "", tmp_path / folder, 0, "decoder"))
        return kept.tensors["latents"]

    assert encoded(8, "eight").shape == (48, 3, 2, 2)
    assert seen == [8] * 6
    seen.clear()
    assert encoded(3, "three").shape == (48, 3, 2, 2)
    assert seen == [3, 1] * 12


def encode_with(images: ImageSource, folder: Path) -> Path:
    """Encodes images, or reads them; returns the file."""

    def encode(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"latents": pixels[:, :, ::8, ::8]}

    before = {*folder.glob("*.safetensors")}
    for _ in cached_encodings.encode_once(images, 2, encode, "", folder, 0, "decoder"):
        pass
    (path,) = {*folder.glob("*.safetensors")} - before
    return path


def test_the_cache_of_encodings_is_whole_and_without_leftovers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = TrainContext(read_config(small_config(root, data={"folder": str(root / "images")})), CPU)
    images = ImageSource(ctx.data.split(16)[0], AUGMENTATIONS["full"])
    path = encode_with(images, tmp_path)
    whole = load_file(path)
    path.unlink()
    for left in (f".{path.name}.abc.part", f".{path.name}.part"):
        (tmp_path / left).write_bytes(b"what a killed run left")
    assert encode_with(images, tmp_path) == path
    assert [*tmp_path.iterdir()] == [path]
    again = load_file(path)
    assert all(torch.equal(again[name], value) for name, value in whole.items())

    def full(tensors: object, name: Path, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    path.unlink()
    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left"):
        encode_with(images, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_cache_of_encodings_is_written_without_a_copy_in_memory(tmp_path: Path) -> None:
    tensors = {"latents": torch.ones(4 * 2**20), "more": torch.zeros(2**20)}
    tracemalloc.start()
    try:
        keep(tmp_path / "encodings.safetensors", tensors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    assert torch.equal(load_file(tmp_path / "encodings.safetensors")["latents"], tensors["latents"])


def test_another_recipe_has_other_encodings(root: Path, tmp_path: Path) -> None:
    made = set()
    cases: list[dict[str, object]] = [{}, {"recipe": "emoji"}, {"recipe": "emoji", "measure_colours": True}]
    for settings in cases:
        data = {"folder": str(root / "images"), "cache": str(tmp_path / "decoded"), **settings}
        ctx = TrainContext(read_config(small_config(tmp_path, data=data)), CPU)
        source = ImageSource(ctx.data.split(16)[0], AUGMENTATIONS["none"])
        made.add(cached_encodings._content_hash(source, 1, "", 0))
    assert len(made) == 3
    images = source.images
    other = replace(images, mirrorable=~images.mirrorable)
    made.add(cached_encodings._content_hash(ImageSource(other, AUGMENTATIONS["none"]), 1, "", 0))
    assert len(made) == 4
