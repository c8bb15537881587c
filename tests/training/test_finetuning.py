"""Fine-tuning of the embedded checkpoint: every method from images to a file that acts."""

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small import CPU, draw_images, step_context

import kandinsky
from kandinsky.adapters.lora import applied_to
from kandinsky.checkpoints.lora import read_lora
from kandinsky.cli.main import run
from kandinsky.core.errors import ConfigError, DataError, KandinskyError
from kandinsky.training import events, run_config
from kandinsky.training.api import export
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.diffusion_losses import weighted
from kandinsky.training.examples import Examples, PriorPreservationSource
from kandinsky.training.export import without_paths
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, open_base
from kandinsky.training.methods import METHODS
from kandinsky.training.run_folder import CHECKPOINTS
from kandinsky.training.task import Task
from tests.families import mostly_slow
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

OBJECTIVES: dict[str, dict[str, Any]] = {
    "lora": {"target": "both", "adapter": {"rank": 2, "text_encoders": True}},
    "full": {"target": "both", "frozen": ["resnets"]},
    "dreambooth": {
        "prompt": "a zwx disc",
        "class_prompt": "a disc",
        "class_images": 2,
        "class_steps": 1,
        "adapter": {"rank": 2, "dora": True},
    },
    "textual_inversion": {"token": "zwx", "init_from": "red", "vectors": 2},
}
QUICK: dict[str, Any] = {"steps": 2, "prior_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("finetuning") / "images")


def config(images: Path, out: Path, method: str, **changes: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "data": {"folder": str(images), "size": 32},
        "threads": 1,
        "device": "cpu",
        "method": method,
        "batch": 2,
        "max_steps": 3,
        "save_every": 2,
        "log_every": 1,
        "optimiser": {"lr": 1e-2},
        "schedule": {"kind": "constant", "warmup": 0},
        "ema": {"decay": 0.0},
        "objective": OBJECTIVES[method],
    } | changes


def build(values: dict[str, Any]) -> tuple[TrainContext, Task]:
    read = read_config(values)
    ctx = TrainContext(read, CPU)
    torch.manual_seed(0)
    return ctx, events.result_of(METHODS[read.stage[0].method](ctx, read.stage[0]))


def exported(happenings: Iterator[events.Event]) -> events.Exported:
    last = [*happenings][-1]
    assert isinstance(last, events.Exported)
    return last


def draw(pipe: Any, prompt: str = "a red disc") -> np.ndarray:
    return np.asarray(pipe.generate(prompt, **QUICK).images[0])


def apply(result: events.Exported) -> Any:
    if result.use == "--model":
        return kandinsky.load(result.path, device="cpu")
    pipe = kandinsky.load(device="cpu")
    (pipe.load_lora if result.use == "--lora" else pipe.load_words)(result.path)
    return pipe


@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_what_is_learned_is_written_and_acts(method: str, images: Path, tmp_path: Path) -> None:
    result = exported(run_config(config(images, tmp_path / "run", method)))
    prompt = "a zwx" if method == "textual_inversion" else "a red disc"
    base = kandinsky.load(device="cpu")
    changed = apply(result)
    assert not np.array_equal(draw(changed, prompt), draw(base, prompt))
    assert result.use == {"full": "--model", "textual_inversion": "--words"}.get(method, "--lora")
    first = result.path.read_bytes() if result.path.is_file() else draw(changed, prompt).tobytes()
    # Once more, from the run's checkpoints alone.
    again = exported(run_config(config(images, tmp_path / "run", method), resume=True))
    assert (again.path.read_bytes() if again.path.is_file() else draw(apply(again), prompt).tobytes()) == first
    assert export(config(images, tmp_path / "run", method)) == result.path


@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_an_interrupted_run_ends_as_an_uninterrupted_one(method: str, images: Path, tmp_path: Path) -> None:
    objective = OBJECTIVES[method] | ({} if method == "textual_inversion" else {"target": "prior"})
    objective.pop("frozen", None)
    values = config(images, tmp_path / "whole", method, objective=objective)
    exported(run_config(values))
    parts = values | {"out": str(tmp_path / "parts")}
    stopped = run_config(parts)
    for event in stopped:
        if isinstance(event, events.Saved):
            break
    stopped.close()
    exported(run_config(parts, resume=True))
    ours, theirs = (newest(Path(v["out"]) / method / CHECKPOINTS).checkpoint for v in (parts, values))
    assert ours is not None
    assert theirs is not None
    assert ours.tensors.keys() == theirs.tensors.keys()
    for file, tensors in theirs.tensors.items():
        assert all(torch.equal(tensor, ours.tensors[file][name]) for name, tensor in tensors.items())


def test_only_what_should_learn_does(images: Path, tmp_path: Path) -> None:
    for method in OBJECTIVES:
        _, task = build(config(images, tmp_path / method, method))
        batch = task.data.batch(range(2), torch.Generator().manual_seed(1))
        for trainable in task.trainables:
            trainable.loss(step_context(batch)).total.backward()
            learned = {name for name, value in trainable.module.named_parameters() if value.requires_grad}
            assert learned
            if method == "full":
                assert not any("resnets" in name for name in learned)
                assert not {"clip_mean", "clip_std"} & learned
            for name, value in trainable.module.named_parameters():
                assert (value.grad is not None) == (name in learned), (method, trainable.name, name)


@pytest.mark.parametrize("method", mostly_slow(["lora", "full"], "full"))
def test_half_precision_and_accumulation(method: str, images: Path, tmp_path: Path) -> None:
    """Frozen networks are in half precision where nothing of them learns; what learns never is."""
    objective = OBJECTIVES[method] | {"target": "prior"}
    objective.pop("frozen", None)
    changes = {"precision": "bf16", "accumulate": 2, "optimiser": {"lr": 1e-3}, "objective": objective}
    ctx, task = build(config(images, tmp_path, method, **changes))
    weights = {value.dtype for value in task.trainables[0].module.parameters()}
    assert weights == {torch.float32}
    vision = open_base(ctx, ctx.config.stage[0]).need_prior().vision
    assert vision.projection.weight.dtype == (torch.bfloat16 if method == "lora" else torch.float32)
    result = exported(run_config(config(images, tmp_path / "run", method, **changes)))
    assert not np.array_equal(draw(apply(result)), draw(kandinsky.load(device="cpu")))


def test_words_leave_the_vocabulary_alone(images: Path, tmp_path: Path) -> None:
    result = exported(run_config(config(images, tmp_path, "textual_inversion")))
    pipe, base = kandinsky.load(device="cpu"), kandinsky.load(device="cpu")
    before = draw(pipe)
    assert pipe.load_words(result.path) == ["zwx"]
    for name, module in base.model.modules.items():
        theirs = pipe.model.modules[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())
    assert np.array_equal(draw(pipe), before)
    assert np.array_equal(draw(pipe, "a ZWX."), draw(pipe, "a zwx ."))
    rows = load_file(result.path)["prior_text_encoder.zwx"]
    assert rows.shape == (2, 256)
    assert pipe.settings["words"] == [str(result.path)]


def test_what_is_shared_tells_of_no_disk() -> None:
    said = {"name": "/home/someone/model", "layers": ["conv_in", "/a/b"], "rank": 8, "prior": "owner/name"}
    kept = {"name": "model", "layers": ["conv_in", "b"], "rank": 8, "prior": "owner/name"}
    assert without_paths(said) == kept


def test_an_adapter_file_says_where_it_comes_from(images: Path, tmp_path: Path) -> None:
    result = exported(run_config(config(images, tmp_path, "lora")))
    notes = read_lora(result.path).notes
    assert notes["stage"]["objective"]["adapter"]["rank"] == 2
    assert len(notes["data"]) == 64
    assert str(tmp_path) not in str(notes)
    names = {name.partition(".")[0] for name in load_file(result.path)}
    assert names == {"unet", "prior_prior", "prior_text_encoder"}


@pytest.mark.parametrize(("dtype", "found"), [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_an_adapter_is_written_in_the_dtype_that_is_asked_for(
    dtype: str | None, found: torch.dtype, images: Path, tmp_path: Path
) -> None:
    values = config(images, tmp_path, "lora", max_steps=1, save_every=1, export={"dtype": dtype})
    result = exported(run_config(values))
    assert {value.dtype for value in load_file(result.path).values()} == {found}


def test_words_have_no_dtype_to_be_written_in(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export\.dtype is set, which textual_inversion does not read"):
        read_config(config(images, tmp_path, "textual_inversion", export={"dtype": "float16"}))


def test_a_whole_checkpoint_keeps_what_did_not_learn(images: Path, tmp_path: Path) -> None:
    values = config(images, tmp_path, "full", objective={"target": "prior"})
    result = exported(run_config(values))
    base = kandinsky.load(device="cpu")
    pipe = kandinsky.load(result.path, device="cpu")
    same = {
        name: all(
            torch.equal(value, pipe.model.modules[name].state_dict()[key]) for key, value in module.state_dict().items()
        )
        for name, module in base.model.modules.items()
    }
    assert same == {name: name != "prior" for name in same}
    assert pipe.model.defaults == base.model.defaults
    assert not (result.path / "README.md").exists()


def test_class_images_are_drawn_once_and_weighed(images: Path, tmp_path: Path) -> None:
    values = config(images, tmp_path, "dreambooth")
    values["objective"] = OBJECTIVES["dreambooth"] | {"class_weight": 0.25}
    _, task = build(values)
    drawn = sorted((tmp_path / "dreambooth" / "class").iterdir())
    assert [path.name for path in drawn if path.suffix == ".png"] == ["00000.png", "00001.png"]
    stamps = [path.stat().st_mtime_ns for path in drawn]
    drawn[1].write_bytes(b"half")
    _, task = build(values)
    again = sorted((tmp_path / "dreambooth" / "class").iterdir())
    assert again[0].stat().st_mtime_ns == stamps[0]
    with Image.open(again[1]) as repaired:
        assert repaired.size == (32, 32)
    assert isinstance(task.data, PriorPreservationSource)
    batch = task.data.batch([0, 1], torch.Generator().manual_seed(0))
    assert batch.captions == ("a zwx disc", "a zwx disc", "a disc", "a disc")
    assert batch.weights.tolist() == [1.0, 1.0, 0.25, 0.25]


def test_a_class_is_drawn_with_the_guidance_that_is_given(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[Any] = []
    generate = kandinsky.Pipeline.generate
    monkeypatch.setattr(
        kandinsky.Pipeline, "generate", lambda *given, **fields: requested.append(fields) or generate(*given, **fields)
    )
    for name, given in (("guided", {}), ("free", {"class_prior_guidance_scale": 1.0})):
        values = config(images, tmp_path / name, "dreambooth")
        values["objective"] = OBJECTIVES["dreambooth"] | given
        build(values)
    scales = [fields.get("prior_guidance_scale") for fields in requested]
    assert scales == [None, None, 1.0, 1.0]


def test_the_mean_is_that_of_the_paper() -> None:
    """Mean over the subject's rows plus a weight times the mean over as many rows of the class."""
    losses = weighted(torch.tensor([1.0, 3.0, 10.0, 30.0]), {}, torch.tensor([1.0, 1.0, 0.5, 0.5]))
    assert float(losses.total) == pytest.approx(2.0 + 0.5 * 20.0)


@pytest.mark.parametrize("route", ["direct", "sampled"])
def test_a_decoder_that_reads_texts_learns_a_row_in_each_encoder(
    route: str, text_image: TextImageCheckpoints, images: Path, tmp_path: Path
) -> None:
    text_image.ours()
    objective = {"token": "zwxq", "init_from": "a", "route": route, "prior_steps": 2}
    values = config(images, tmp_path, "textual_inversion", objective=objective)
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(text_image.root / "decoder"), "prior": str(text_image.root / "prior")}
    result = exported(run_config(values))
    rows = load_file(result.path)
    assert set(rows) == {"text_encoder.zwxq", "prior_text_encoder.zwxq"}
    fresh = BaseCheckpoint(kandinsky.load(**_of(values["model"])))
    for name, encoder in fresh.encoders.items():
        first = encoder.network.get_submodule("tokens").weight[encoder.tokenizer.word_ids("a")]
        assert not torch.equal(rows[f"{name}.zwxq"], first)


@pytest.mark.parametrize("method", mostly_slow(OBJECTIVES, "lora", "textual_inversion"))
def test_the_newest_generation_learns_too(
    method: str, one_text: OneTextCheckpoints, images: Path, tmp_path: Path
) -> None:
    one_text.ours()
    objective = OBJECTIVES[method] | {"target": "decoder", "adapter": {"rank": 2, "text_encoders": True}}
    if method == "textual_inversion":
        objective = {"token": "zwxq", "init_from": "a"}
    elif method == "full":
        objective = {"frozen": ["attentions"]}
    values = config(images, tmp_path, method, objective=objective)
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(one_text.root / "decoder")}
    result = exported(run_config(values))
    pipe = kandinsky.load(one_text.root / "decoder", device="cpu", dtype="float32")
    given = {"seed": 1, "steps": 2, "width": 64, "height": 64}
    before = pipe.generate("a zwxq", **given).images[0].tobytes()
    if result.use == "--model":
        pipe = kandinsky.load(result.path, device="cpu", dtype="float32")
    else:
        (pipe.load_lora if result.use == "--lora" else pipe.load_words)(result.path)
    assert pipe.generate("a zwxq", **given).images[0].tobytes() != before


def test_original_files_learn_but_are_not_written(first_release: Path, images: Path, tmp_path: Path) -> None:
    values = config(images, tmp_path, "lora", objective={"adapter": {"rank": 2, "text_encoders": True}})
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(first_release)}
    result = exported(run_config(values))
    names = {name.partition(".")[0] for name in load_file(result.path)}
    assert names == {"unet", "text_encoder", "text_encoder_2"}
    values = config(images, tmp_path / "full", "full", objective={})
    values["model"] = {"name": str(first_release)}
    with pytest.raises(ConfigError, match="kandinsky convert"):
        [*run_config(values)]


def _of(model: dict[str, str]) -> dict[str, Any]:
    return {"model": model["name"], "prior": model["prior"], "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("lora", {"objective": {"target": "both", "rnak": 3}}, "no setting 'rnak'"),
        ("lora", {"objective": {"adapter": {"layers": {"unet": ["to_x"]}}}}, "No layer is called 'to_x'"),
        ("lora", {"objective": {"adapter": {"layers": {"vae": ["to_q"]}}}}, "no component 'vae'"),
        ("lora", {"model": {"name": "nowhere"}}, "'nowhere' is neither a folder"),
        ("lora", {"objective": {"decoder": {"target": "v"}}}, "target is 'v'"),
        ("full", {"uses": {"movq": "there"}}, "begins with no stage"),
        ("lora", {"size": 30}, "30 pixels do not fit"),
        ("full", {"objective": {"frozen": ["resnots"]}}, "'resnots'"),
        ("dreambooth", {"objective": {"class_prompt": "a disc"}}, "prompt is not set"),
        ("dreambooth", {"objective": {"prompt": "a zwx disc"}}, "class_prompt is not set"),
        ("textual_inversion", {"objective": {"token": "red", "init_from": "red"}}, "'red' is in the vocab"),
        ("textual_inversion", {"objective": {"token": "z w", "init_from": "red"}}, "not one word"),
        ("textual_inversion", {"objective": {"token": "zwx", "init_from": "apple"}}, "is 2 tokens"),
        ("textual_inversion", {"objective": {"token": "zwx"}}, "init_from"),
        (
            "textual_inversion",
            {"objective": {"token": "zwx", "init_from": "red", "templates": ["no place"]}},
            "'no place' has no place",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_learned(
    method: str, changes: dict[str, Any], message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(KandinskyError, match=message):
        [*run_config(config(images, tmp_path / "run", method, **changes))]
    assert not [*tmp_path.rglob("step-*")]


def test_images_that_cannot_be_learned_from(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        [*run_config(config(tmp_path / "empty", tmp_path / "run", "textual_inversion"))]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="not a readable image"):
        [*run_config(config(tmp_path / "bad", tmp_path / "run", "textual_inversion"))]


def test_a_word_that_is_known_is_not_loaded_again(images: Path, tmp_path: Path) -> None:
    result = exported(run_config(config(images, tmp_path, "textual_inversion")))
    pipe = kandinsky.load(device="cpu")
    pipe.load_words(result.path)
    with pytest.raises(KandinskyError, match="in the vocabulary already"):
        pipe.load_words(result.path)


def test_embeddings_of_the_original_format_are_read(tmp_path: Path) -> None:
    pipe = kandinsky.load(device="cpu")
    rows = torch.randn(256, generator=torch.Generator().manual_seed(0))
    torch.save({"t2": {"zwx": rows}}, tmp_path / "learned_embeds.bin")
    assert pipe.load_words(tmp_path / "learned_embeds.bin") == ["zwx"]
    other = kandinsky.load(device="cpu")
    torch.save({"zwx": rows[None]}, tmp_path / "one.bin")
    other.load_words(tmp_path / "one.bin")
    assert np.array_equal(draw(pipe, "a zwx"), draw(other, "a zwx"))
    torch.save({"t1": {"qwx": rows}}, tmp_path / "decoder.bin")
    with pytest.raises(KandinskyError, match="encoder text_encoder"):
        pipe.load_words(tmp_path / "decoder.bin")


def test_the_command_line_needs_no_file(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            run(list(arguments))
        assert isinstance(ended.value.code, int)
        return ended.value.code

    flags = ["--data", str(images), "--steps", "1", "--device", "cpu", "-q", "--threads", "1"]
    word = ["--token", "zwx", "--init-from", "red", "--out", "run", "--size", "32"]
    assert command("train", "--method", "textual_inversion", *flags, *word) == 0
    given = ["--steps", "1", "--prior-steps", "1", "--seed", "1", "--device", "cpu", "-q", "-o", "a.png"]
    assert command("generate", "a zwx", "--words", "run/zwx.safetensors", *given) == 0
    assert command("generate", "--from", "a.png", "-o", "b.png", "-q", "--device", "cpu") == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))
    assert command("train", "--init", "lora") == 0
    assert read_config("lora.toml").stage[0].method == "lora"
    assert command("train", "--init", "lora", "-q") == 1
    assert command("train", "--method", "dreambooth", *flags) == 1
    assert command("train", "--method", "lorra", *flags) == 1


@pytest.mark.parametrize("method", [*OBJECTIVES, "distill"])
def test_templates_are_whole_configurations(method: str) -> None:
    from kandinsky.cli.train import recipes

    read = read_config(recipes()[method])
    assert [stage.method for stage in read.stage] == [method]
    assert json.loads(read.model_dump_json())["out"].startswith("runs/")


def test_the_base_is_bare_again_for_the_next_stage(images: Path, tmp_path: Path) -> None:
    ctx, _ = build(config(images, tmp_path, "lora"))
    stage = ctx.config.stage[0]
    assert not any(applied_to(module) for module in open_base(ctx, stage).model.modules.values())


def test_a_stage_says_its_own_captions_after_one_without_captions(images: Path, tmp_path: Path) -> None:
    """Two stages of one run at one size: a word that learns from templates, then adapters from captions."""
    stages = [config(images, tmp_path, method) for method in ("textual_inversion", "lora")]
    kept = ("method", "batch", "max_steps", "objective")
    shared = {name: stages[0][name] for name in ("out", "data", "device")}
    values = shared | {"stage": [{name: stage[name] for name in kept} for stage in stages]}
    ctx = TrainContext(read_config(values), CPU)
    said = []
    for stage in ctx.config.stage:
        *_, task = steps_of(METHODS[stage.method](ctx, stage))
        said.append(task.data.batch(range(4), torch.Generator().manual_seed(0)).captions)
    assert all("zwx" in caption for caption in said[0])
    assert not any("zwx" in caption for caption in said[1])


def steps_of(making: Generator[events.Event, None, Task[Any]]) -> Iterator[Any]:
    """What a generator yields and, last, what it returns."""
    yield (yield from making)


def test_cached_and_fresh_examples_are_of_one_kind(images: Path, tmp_path: Path) -> None:
    fresh = build(config(images, tmp_path / "a", "lora"))[1].data
    cached = build(config(images, tmp_path / "b", "lora", variants=1, augmentation="none"))[1].data
    one: Examples = fresh.batch([0, 1], torch.Generator().manual_seed(0))
    two: Examples = cached.batch([0, 1], torch.Generator().manual_seed(0))
    base = BaseCheckpoint(kandinsky.load(device="cpu"))
    ctx = TrainContext(read_config(config(images, tmp_path, "lora")), CPU)
    plain = ctx.data.split(ctx.data.size(ctx.config.stage[0]))[0].plain([0, 1])
    assert one.pixels is not None
    assert two.encodings is not None
    for name, value in base.encode(plain).items():
        # Kept in half precision.
        assert torch.allclose(two.encodings[name], value, atol=2e-3 * float(value.abs().max()))


def test_a_wrong_target_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target"):
        read_config(config(images, tmp_path, "lora", objective={"target": "vae"}))
