"""Distillation into few steps: its settings, and whole runs on a tiny checkpoint."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import CPU, draw_images, step_context

import kandinsky
from kandinsky.checkpoints.files import OWN_ADAPTERS
from kandinsky.checkpoints.lora import read_lora
from kandinsky.checkpoints.maps.scheduler import few_steps_json
from kandinsky.cli.main import run
from kandinsky.cli.train import recipes
from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.core.metadata import read_metadata
from kandinsky.diffusion.process import Process
from kandinsky.engine.sampling_defaults import SAMPLING, Sampling
from kandinsky.training import events, run_config
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.objectives import DistillObjective
from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.finetune import teacher_trajectories as trajectories
from kandinsky.training.finetune.base_checkpoint import open_base
from kandinsky.training.finetune.distillation import draw_few, student
from kandinsky.training.finetune.teacher_trajectories import SegmentSource, draw_trajectories
from kandinsky.training.memory_plan import plan
from kandinsky.training.methods import METHODS
from kandinsky.training.objectives.distillation import SolverTimes
from kandinsky.training.run_folder import CHECKPOINTS
from kandinsky.training.task import Task
from tests.families import mostly_slow
from tests.tiny import write_tiny
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

PROCESS = Process.linear(0.00085, 0.012)
SETTINGS: dict[str, dict[str, Any]] = {
    "trajectories": {"adapter": {"rank": 2}, "trajectories": 5},
    "consistency": {"adapter": {"rank": 2}, "route": "consistency"},
    "whole": {"whole": True, "trajectories": 5},
    "whole-consistency": {"whole": True, "route": "consistency"},
}
SHORT = {"steps": 2, "solver_steps": 4, "chunk": 2, "guidance_scale": 3.0}
QUICK: dict[str, Any] = {"prior_steps": 2, "seed": 3}


# --- configurations


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"steps": 4, "solver_steps": 6}, "solver_steps is 6"),
        ({"steps": 4, "solver_steps": 4}, "solver_steps is 4"),
        ({"adapter": {"text_encoders": True}}, "text_encoders"),
        ({"route": "adversarial"}, "route"),
        ({"solver": "ddpm"}, "solver"),
        ({"stepz": 4}, "stepz"),
        ({"from_text": 1.5}, "from_text"),
    ],
)
def test_wrong_settings_are_named(objective: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(config(tmp_path, tmp_path, tmp_path / "out", objective))


def test_the_recipe_is_one() -> None:
    read = read_config(recipes()["emoji-fewstep"])
    assert read.stage[0].method == "distill"
    assert read.stage[0].name == "few-step"


def test_its_memory_is_not_planned(model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teacher draws"):
        plan(config(model, images, tmp_path, SETTINGS["trajectories"]))


# --- whole runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("distillation") / "images")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("distillation") / "model")


def config(model: Path, images: Path, out: Path, objective: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "model": {"name": str(model)},
        "data": {"folder": str(images), "size": 64, "held_out": 3},
        "threads": 1,
        "device": "cpu",
        "method": "distill",
        "name": "few-step",
        "batch": 2,
        "max_steps": 3,
        "save_every": 2,
        "sample_every": 3,
        "log_every": 1,
        "optimiser": {"lr": 1e-2},
        "schedule": {"kind": "constant", "warmup": 0},
        "ema": {"decay": 0.0},
        "objective": SHORT | objective,
    } | changes


def exported(happenings: Iterator[events.Event]) -> events.Exported:
    last = [*happenings][-1]
    assert isinstance(last, events.Exported)
    return last


def build(values: dict[str, Any]) -> tuple[TrainContext, Task]:
    read = read_config(values)
    ctx = TrainContext(read, CPU)
    return ctx, events.result_of(METHODS[read.stage[0].method](ctx, read.stage[0]))


def pixels(pipe: Any, **fields: Any) -> np.ndarray:
    return np.asarray(pipe.generate("a red disc", **QUICK | fields).images[0])


@pytest.fixture(scope="module")
def learned(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distillation") / "learned"
    return exported(run_config(config(model, images, out, SETTINGS["trajectories"]))).path


@pytest.mark.parametrize("kind", mostly_slow(SETTINGS, "trajectories", "whole-consistency"))
def test_what_is_learned_draws_in_few_steps(kind: str, model: Path, images: Path, tmp_path: Path) -> None:
    happened = [*run_config(config(model, images, tmp_path, SETTINGS[kind]))]
    result = happened[-1]
    assert isinstance(result, events.Exported)
    assert [event.values.keys() for event in happened if isinstance(event, events.Measured)] == [{"psnr"}]
    base = kandinsky.load(model, device="cpu")
    pipe = kandinsky.load(result.path if result.use == "--model" else model, device="cpu")
    if result.use == "--lora":
        pipe.load_lora(result.path)
    request = pipe.generate("a red disc", **QUICK).request
    assert {name: request[name] for name in ("steps", "guidance_scale", "sampler")} == {
        "steps": 2,
        "guidance_scale": 1.0,
        "sampler": "ddim",
    }
    shared = {"steps": 2, "guidance_scale": 1.0, "sampler": "ddim"}
    assert not np.array_equal(pixels(pipe), pixels(base, **shared))


@pytest.fixture(params=mostly_slow(["text and image", "two texts", "one text"], "text and image", "one text"))
def reader(
    request: pytest.FixtureRequest, text_image: TextImageCheckpoints, first_release: Path, one_text: OneTextCheckpoints
) -> dict[str, Any]:
    """A checkpoint whose decoder reads texts, as `load` takes it."""
    if request.param == "two texts":
        return {"name": str(first_release)}
    found: Any = text_image if request.param == "text and image" else one_text
    found.ours()
    prior = {"prior": str(found.root / "prior")} if found is text_image else {}
    return {"name": str(found.root / "decoder")} | prior


@pytest.mark.parametrize("kind", mostly_slow(["trajectories", "consistency"], "consistency"))
def test_decoders_that_read_texts_learn_few_steps_too(
    kind: str, reader: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    values = config(Path(), images, tmp_path, SETTINGS[kind]) | {"model": reader}
    result = exported(run_config(values))
    pipe = kandinsky.load(reader["name"], prior=reader.get("prior"), device="cpu", dtype="float32")
    requested = {"seed": 3, "width": 64, "height": 64} | ({"prior_steps": 2} if "prior" in reader else {})
    unguided = 1.0 - pipe.model.guidance_offset
    plain = pipe.generate("a red disc", steps=2, guidance_scale=unguided, sampler="ddim", **requested)
    pipe.load_lora(result.path)
    drawn = pipe.generate("a red disc", **requested)
    assert (drawn.request["steps"], drawn.request["guidance_scale"]) == (2, unguided)
    assert drawn.images[0].tobytes() != plain.images[0].tobytes()


@pytest.mark.parametrize("kind", mostly_slow(SETTINGS, "trajectories", "whole-consistency"))
def test_an_interrupted_run_ends_as_an_uninterrupted_one(kind: str, model: Path, images: Path, tmp_path: Path) -> None:
    """Interrupted twice: while the teacher draws, and between two steps."""
    values = config(model, images, tmp_path / "whole", SETTINGS[kind])
    exported(run_config(values))
    parts = values | {"out": str(tmp_path / "parts")}
    drawing = run_config(parts)
    assert any(isinstance(event, events.Preparing) and event.done for event in drawing)
    drawing.close()
    assert len([*(tmp_path / "parts" / "cache").glob("*/*.safetensors")]) == 1
    training = run_config(parts, resume=True)
    assert any(isinstance(event, events.Saved) for event in training)
    training.close()
    exported(run_config(parts, resume=True))
    ours, theirs = (newest(Path(v["out"]) / "few-step" / CHECKPOINTS).checkpoint for v in (parts, values))
    assert ours is not None
    assert theirs is not None
    assert ours.tensors.keys() == theirs.tensors.keys()
    for file, tensors in theirs.tensors.items():
        assert all(torch.equal(tensor, ours.tensors[file][name]) for name, tensor in tensors.items())
    logs = [(Path(v["out"]) / "few-step" / "losses.jsonl").read_text() for v in (parts, values)]
    assert logs[0] == logs[1]


def test_trajectories_are_what_requests_draw(model: Path, images: Path, tmp_path: Path) -> None:
    """The last state decodes to the image of the same request, the first is its noise."""
    ctx, _ = build(config(model, images, tmp_path, SETTINGS["trajectories"]))
    base = open_base(ctx, ctx.config.stage[0])
    objective = ctx.config.stage[0].objective_as(DistillObjective)
    states, embeddings = draw_trajectories(base, objective, ["a red fox", "a cat"], 5, 64)
    assert states.shape == (2, 3, 4, 8, 8)
    assert embeddings is not None
    assert embeddings.shape == (2, 16)
    pipe = kandinsky.load(model, device="cpu")
    pipe.model = Sampling({"steps": 4, "guidance_scale": 3.0, "sampler": "dpmpp_2m"}, "trailing").applied(pipe.model)
    drawn = pipe.generate(["a red fox", "a cat"], seed=5)
    decoded = ((base.model.codec.decode(states[:, -1]) * 0.5 + 0.5).clamp(0, 1) * 255).round()
    for image, wanted in zip(drawn.images, decoded.permute(0, 2, 3, 1).numpy(), strict=True):
        assert np.abs(np.asarray(image).astype(float) - wanted).max() <= 1


def test_examples_are_the_steps_of_trajectories(model: Path, images: Path, tmp_path: Path) -> None:
    _, task = build(config(model, images, tmp_path, SETTINGS["trajectories"]))
    source = task.data
    assert isinstance(source, SegmentSource)
    assert len(source) == 5 * 2
    batch = source.batch([3, 8], torch.Generator())
    assert batch.step.tolist() == [1, 0]
    kept = source.kept
    assert torch.equal(batch.x[0], kept.states[1, 1].float())
    assert torch.equal(batch.target[1], kept.states[4, 1].float())
    assert batch.captions == (kept.captions[1], kept.captions[4])


def test_the_teacher_draws_once(model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again only where a file is damaged, and for other settings."""
    values = config(model, images, tmp_path, SETTINGS["trajectories"])
    build(values)
    calls = []
    real = trajectories.draw_trajectories

    def counted(*arguments: Any) -> Any:
        calls.append(len(arguments[2]))
        return real(*arguments)

    monkeypatch.setattr(trajectories, "draw_trajectories", counted)
    build(values)
    assert calls == []
    broken = max((tmp_path / "cache").glob("*/00000004.safetensors"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    build(values)
    assert calls == [1]
    assert broken.read_bytes() == whole
    values["objective"] = values["objective"] | {"guidance_scale": 2.0}
    build(values)
    assert len(calls) == 1 + 2 + 3


def test_a_teacher_draws_again_under_edited_captions(model: Path, images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    values = config(model, folder, tmp_path, SETTINGS["trajectories"])
    _, task = build(values)
    assert all("disc" not in caption for caption in task.data.kept.captions)
    for text in folder.glob("*.txt"):
        text.write_text(f"{text.read_text(encoding='utf-8')} disc", encoding="utf-8")
    _, task = build(values)
    assert all(caption.endswith(" disc") for caption in task.data.kept.captions)
    fresh = build(values | {"out": str(tmp_path / "fresh")})[1]
    assert torch.equal(task.data.kept.states, fresh.data.kept.states)


def test_another_recipe_has_other_trajectories(model: Path, images: Path, tmp_path: Path) -> None:
    ctx, _ = build(config(model, images, tmp_path, SETTINGS["trajectories"]))
    stage = ctx.config.stage[0]
    base, learned = open_base(ctx, stage), ctx.data.split(64)[0]
    keys = set()
    for said in ({}, {"recipe": "emoji"}, {"recipe": "emoji", "measure_colours": True}):
        data = ctx.config.data.model_copy(update=said)
        other = replace(ctx, config=ctx.config.model_copy(update={"data": data}))
        keys.add(trajectories._key(other, stage, base, learned, "training"))
    assert len(keys) == 3


def test_a_fresh_adapter_changes_nothing(model: Path, images: Path, tmp_path: Path) -> None:
    """To the last bit; and the student it is draws what the checkpoint draws in as few unguided steps."""
    ctx, task = build(config(model, images, tmp_path, SETTINGS["trajectories"]))
    base = open_base(ctx, ctx.config.stage[0])
    objective = ctx.config.stage[0].objective_as(DistillObjective)
    kept = task.data.kept  # type: ignore[attr-defined]
    of = SolverTimes.of(PROCESS, 2, 4, CPU)
    before = draw_few(base, of, kept)
    student(base, objective)
    assert torch.equal(draw_few(base, of, kept), before)


def test_only_the_student_learns(model: Path, images: Path, tmp_path: Path) -> None:
    for kind, settings in SETTINGS.items():
        _, task = build(config(model, images, tmp_path / kind, settings))
        (trainable,) = task.trainables
        batch = task.data.batch(range(2), torch.Generator().manual_seed(1))
        trainable.loss(step_context(batch)).total.backward()
        assert all(value.grad is not None for value in trainable.module.parameters() if value.requires_grad)
        assert any(float(value.grad.abs().max()) > 0 for value in trainable.module.parameters())  # type: ignore[union-attr]


def test_half_precision_and_every_kind_of_layer(model: Path, images: Path, tmp_path: Path) -> None:
    layers = {"unet": ["conv_in", "conv1", "to_q", "add_k_proj", "time_emb_proj", "image_embeds"]}
    objective = {"trajectories": 2, "adapter": {"rank": 2, "layers": layers}}
    result = exported(run_config(config(model, images, tmp_path, objective, precision="bf16")))
    base, pipe = (kandinsky.load(model, device="cpu") for _ in range(2))
    pipe.load_lora(result.path)
    assert not np.array_equal(pixels(pipe), pixels(base))


def test_the_student_comes_nearer_to_its_teacher(model: Path, images: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 60, "save_every": 60, "sample_every": 0, "batch": 4, "optimiser": {"lr": 3e-3}}
    values = config(model, images, tmp_path, SETTINGS["whole"] | {"trajectories": 2}, **changes)
    losses = [event.losses["loss"] for event in run_config(values) if isinstance(event, events.Progress)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


# --- the adapter in use


def test_an_adapter_brings_its_own_defaults_while_it_acts(model: Path, learned: Path) -> None:
    pipe, base = (kandinsky.load(model, device="cpu") for _ in range(2))
    before = pixels(base)
    label = pipe.load_lora(learned)
    assert pipe.generate("a fox", **QUICK).request["steps"] == 2
    assert pipe.generate("a fox", **QUICK, steps=3, guidance_scale=2.0).request["steps"] == 3
    pipe.set_lora_scale(label, 0.0)
    assert pipe.generate("a fox", **QUICK).request["steps"] == 4
    assert np.array_equal(pixels(pipe), before)
    pipe.set_lora_scale(label, 1.0)
    pipe.unload_lora(label)
    assert np.array_equal(pixels(pipe), before)


def test_its_times_are_those_it_was_made_for(model: Path, learned: Path) -> None:
    pipe = kandinsky.load(model, device="cpu", lora={str(learned): 1.0})
    steps = [event for event in pipe.stream("a fox", **QUICK) if isinstance(event, kandinsky.Denoising)]
    assert [event.total for event in steps if event.stage == "decoder"] == [2, 2]
    assert pipe.resolve(kandinsky.Request("a fox", **QUICK)).begin.times == [999, 499]


def test_the_file_is_small_and_says_how_it_draws(learned: Path) -> None:
    found = read_lora(learned)
    assert {value.dtype for value in found.tensors.values()} == {torch.float16}
    assert found.notes[SAMPLING] == {
        "defaults": {"steps": 2, "guidance_scale": 1.0, "sampler": "ddim"},
        "spacing": "trailing",
    }


@pytest.mark.parametrize(
    "said",
    [
        3,
        {"defaults": {"steps": 2}, "spacing": "karras"},
        {"defaults": {"seed": 2}, "spacing": "trailing"},
        {"defaults": {"steps": 0}, "spacing": "trailing"},
        {"defaults": {"sampler": "lcmm"}, "spacing": "trailing"},
        {"spacing": "trailing"},
    ],
)
def test_a_sampling_that_cannot_be_is_refused(said: Any) -> None:
    with pytest.raises(CheckpointError, match=r"few\.safetensors"):
        Sampling.from_json(json.loads(json.dumps(said)), "few.safetensors")


def test_a_models_own_adapter_is_known_by_its_name(
    model: Path, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also on the command line, and in an image that is made again from its own file."""
    (model / OWN_ADAPTERS).mkdir()
    (model / OWN_ADAPTERS / "few-step.safetensors").write_bytes(learned.read_bytes())
    pipe = kandinsky.load(model, device="cpu", lora={"few-step": 1.0})
    assert pipe.loras == {"few-step": 1.0}
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    flags = ["--model", str(model), "--device", "cpu", "-q"]
    _cli(["generate", "a fox", "--lora", "few-step", "--seed", "1", "-o", str(first), *flags])
    stored = read_metadata(first)
    assert stored.settings["lora"] == {"few-step": 1.0}
    assert (stored.request["steps"], stored.request["guidance_scale"]) == (2, 1.0)
    _cli(["generate", "--from", str(first), "-o", str(again), "--device", "cpu", "-q"])
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    with pytest.raises(CheckpointError):
        pipe.load_lora("other-step")
    capsys.readouterr()


def _cli(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(arguments)
    assert left.value.code == 0


def test_diffusers_visits_the_same_times_and_ends_clean(model: Path, images: Path, tmp_path: Path) -> None:
    """A whole student's folder says how it is drawn in diffusers' own words."""
    from diffusers import DDIMScheduler

    result = exported(run_config(config(model, images, tmp_path, SETTINGS["whole"])))
    scheduler = DDIMScheduler.from_pretrained(result.path, subfolder="scheduler")
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 499]
    assert float(scheduler.final_alpha_cumprod) == 1.0
    index = json.loads((result.path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_diffusers_draws_the_same_image_with_the_adapter(model: Path, learned: Path) -> None:
    """By its own DDIM with trailing times, unguided, as the file's sampling says."""
    from diffusers import DDIMScheduler
    from diffusers.pipelines.kandinsky2_2 import KandinskyV22CombinedPipeline

    reference = KandinskyV22CombinedPipeline.from_pretrained(model, torch_dtype=torch.float32)
    config = few_steps_json(dict(reference.scheduler.config))
    reference.decoder_pipe.register_modules(scheduler=DDIMScheduler.from_config(config))
    reference.decoder_pipe.unet.load_lora_adapter(learned, prefix="unet", use_safetensors=True)
    for part in (reference, reference.prior_pipe, reference.decoder_pipe):
        part.set_progress_bar_config(disable=True)
    theirs = reference(
        "a red fox",
        prior_num_inference_steps=3,
        num_inference_steps=2,
        guidance_scale=1.0,
        height=64,
        width=64,
        generator=[torch.Generator().manual_seed(5)],
    ).images[0]
    pipe = kandinsky.load(model, device="cpu", lora={str(learned): 1.0})
    ours = pipe.generate("a red fox", seed=5, prior_steps=3, width=64, height=64).images[0]
    assert ours.size == theirs.size
    assert np.abs(np.asarray(ours).astype(float) - np.asarray(theirs)).max() <= 1
