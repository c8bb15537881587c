"""A run says what it learns from, learns from nothing else, and a resumed run from the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import kandinsky
from kandinsky.checkpoints.textual_inversion import write_words
from kandinsky.core.errors import ConfigError, DataError
from kandinsky.core.metadata import read_metadata
from kandinsky.training import events, run_config
from kandinsky.training.api import open_config
from kandinsky.training.config.objectives import DreamBoothObjective
from kandinsky.training.config.run import DataConfig, read_config, read_settings
from kandinsky.training.context import TrainContext
from kandinsky.training.dataset import Dataset, learns_from
from kandinsky.training.distributed import as_launched
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, open_base
from kandinsky.training.finetune.dreambooth import draw_class
from kandinsky.training.resume import check_same


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANDINSKY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    return draw(tmp_path / "toys", [(64, 64)] * 4)


def draw(folder: Path, sizes: list[tuple[int, int]], captions: bool = True) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.new("RGB", size, ("red", "blue", "green", "orange")[number % 4]).save(folder / f"{number}.png")
        if captions:
            (folder / f"{number}.txt").write_text(f"toy {number}")
    return folder


def values(toys: Path, **changes: Any) -> dict[str, Any]:
    usual = {
        "method": "lora",
        "out": str(toys.parent / "run"),
        "device": "cpu",
        "threads": 1,
        "batch": 2,
        "max_steps": 1,
    }
    objective = {"adapter": {"rank": 1}} if changes.get("method", "lora") == "lora" and "stage" not in changes else {}
    merged = {**usual, "data": {"folder": str(toys), "size": 64}, "log_every": 1, **changes}
    merged["objective"] = {**objective, **changes.get("objective", {})}
    if "stage" in changes:
        merged = {k: v for k, v in merged.items() if k in ("out", "data", "device", "threads", "model", "stage")}
    return merged


def until(config: dict[str, Any], kind: type[Any], resume: bool = False) -> Any:
    """The first event of a kind; the run goes no further."""
    run = run_config(config, resume=resume)
    try:
        return next(event for event in run if isinstance(event, kind))
    finally:
        run.close()  # type: ignore[attr-defined]


def test_a_caption_that_is_a_link_to_nowhere_is_named(toys: Path) -> None:
    (toys / "0.txt").unlink()
    (toys / "0.txt").symlink_to(toys / "nowhere.txt")
    with pytest.raises(DataError, match=r"0\.txt cannot be read"):
        Dataset(DataConfig(folder=toys), 0, torch.device("cpu")).stamp()


def test_what_is_learned_from_is_said_and_kept(toys: Path) -> None:
    (toys / "a.heic").write_bytes(b"x")
    said = until(values(toys, data={"folder": str(toys), "size": 64, "held_out": 1}), events.LearnsFrom)
    assert said.line == "learns from 3 images with 3 captions; 1 held out; left out: 1 .heic"
    left = json.loads((toys.parent / "run" / "config.json").read_text())["found"]
    assert left["stages"]["lora"]["left_out"] == {".heic": 1}
    assert len(left["data"]) == 64
    assert read_settings(toys.parent / "run") == open_config(json.loads((toys.parent / "run/config.json").read_text()))


def test_captions_that_are_too_long_are_counted(toys: Path) -> None:
    (toys / "0.txt").write_text("a red toy " * 60)
    assert until(values(toys), events.LearnsFrom).cut == 1
    assert "1 caption too long, cut by the text encoder" in until(values(toys, out=f"{toys}-b"), events.LearnsFrom).line


@pytest.mark.parametrize("method", ["dreambooth", "textual_inversion"])
def test_sentences_that_are_said_of_all_images_are_counted_and_cut(method: str, toys: Path) -> None:
    """A subject's prompt and a word's templates are read by the same encoders as captions are."""
    long = "a very " * 60
    own = {
        "dreambooth": {"prompt": f"{long} zwx toy", "target": "prior", "class_images": 0, "adapter": {"rank": 1}},
        "textual_inversion": {"token": "zwx", "init_from": "red", "templates": ["a {}", f"{long} {{}}"]},
    }[method]
    said = until(values(toys, method=method, objective=own), events.LearnsFrom)
    count = {"dreambooth": "1 sentence", "textual_inversion": "2 sentences"}[method]
    assert said.line.startswith(f"learns from 4 images with {count} for all, captions are not read; ")
    assert said.line.endswith("; 1 sentence too long, cut by the text encoder")


def test_a_recipes_captions_count(toys: Path) -> None:
    learned, _ = Dataset(DataConfig(folder=toys, recipe="emoji"), 0, torch.device("cpu")).split(16)
    assert learns_from("text", [learned], (), []).line == "learns from 4 images with 4 captions"
    assert learns_from("decoder", [learned]).line == "learns from 4 images, captions are not read"


def test_buckets_are_said_and_an_epoch_has_each_image_once(tmp_path: Path) -> None:
    folder = draw(tmp_path / "four", [(64, 64), (128, 64), (64, 128), (96, 64)])
    buckets = values(folder, batch=4, epochs=1, max_steps=None, data={"folder": str(folder), "size": 64, "buckets": 16})
    run = run_config({k: v for k, v in buckets.items() if v is not None})
    seen = []
    for event in run:
        seen.append(event)
        if isinstance(event, events.Started):
            break
    run.close()  # type: ignore[attr-defined]
    said = next(event for event in seen if isinstance(event, events.LearnsFrom))
    assert sum(said.shapes.values()) == 4
    assert len(said.shapes) == 4
    assert "shapes: " in said.line
    assert seen[-1] == events.Started("lora", 0, 4, seen[-1].parameters)


@pytest.mark.parametrize(
    ("changes", "examples", "batches", "processes", "steps"),
    [
        ({"batch": 4}, 10, None, 1, 5),
        ({"batch": 4}, 10, None, 2, 3),
        ({"batch": 4, "accumulate": 2}, 10, None, 1, 3),
        ({"batch": 8}, 17, 4, 1, 8),
        ({"batch": 8, "accumulate": 3}, 17, 4, 1, 3),
    ],
)
def test_epochs_in_steps(
    changes: dict[str, int], examples: int, batches: int | None, processes: int, steps: int, toys: Path
) -> None:
    stage = read_config(values(toys, epochs=2, max_steps=1000, **changes)).stage[0]
    assert stage.on(examples, batches, processes).max_steps == steps


def test_adapters_learn_captions_where_nothing_else_reads_them(toys: Path) -> None:
    assert open_config(values(toys)).stage[0].targets == ("decoder", "prior")
    assert open_config(values(toys, objective={"target": "decoder"})).stage[0].targets == ("decoder",)


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_captions_are_not_asked_for_where_they_have_no_effect(captions: bool, method: str, tmp_path: Path) -> None:
    toys = draw(tmp_path / "toys", [(64, 64)] * 2, captions)
    said = until(values(toys, method=method, objective={"target": "decoder"}), events.LearnsFrom)
    assert said.line.startswith("learns from 2 images, captions are not read; captions have no effect on this decoder")
    assert "--target both" in said.line


def test_a_run_of_several_stages_reads_its_own_captions_and_knows_its_words(toys: Path) -> None:
    word = {"method": "textual_inversion", "max_steps": 1, "batch": 1}
    word["objective"] = {"token": "zwx", "init_from": "red"}
    style = {"method": "lora", "max_steps": 1, "batch": 1, "objective": {"adapter": {"rank": 1}, "target": "prior"}}
    (toys / "0.txt").write_text("a zwx")
    config = values(toys, stage=[word, style], model={"words": ["textual_inversion"]})
    found = [*run_config(config)]
    said = {event.stage: event.captions for event in found if isinstance(event, events.LearnsFrom)}
    assert said == {"textual_inversion": 0, "lora": 4}
    learned = [event for event in found if isinstance(event, events.Exported)]
    assert learned[1].words == (str(learned[0].path),)
    ctx = TrainContext(open_config(config), torch.device("cpu"))
    (before, after) = (open_base(ctx, stage) for stage in ctx.config.stage)
    known = [next(iter(base.encoders.values())).tokenizer.learned for base in (before, after)]
    assert [len(words) for words in known] == [0, 1]


def test_words_of_a_file_act_in_every_stage(toys: Path, tmp_path: Path) -> None:
    width = next(iter(BaseCheckpoint(kandinsky.load(device="cpu")).encoders.values())).width
    file = write_words(tmp_path / "zwx.safetensors", {"zwx": {"prior_text_encoder": torch.zeros(1, width)}})
    config = open_config(values(toys, model={"words": [str(file)]}))
    base = open_base(TrainContext(config, torch.device("cpu")), config.stage[0])
    assert len(next(iter(base.encoders.values())).tokenizer.learned) == 1


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"method": "full"}, "stage"),
    ({"objective": {"target": "decoder"}}, r"objective\.target"),
    ({"objective": {"adapter": {"rank": 2}}}, r"objective\.adapter\.rank"),
    ({"seed": 3}, "seed"),
    ({"size": 32}, "size"),
    ({"data": {"folder": "toys", "size": 32}}, r"data\.size"),
    ({"data": {"folder": "toys", "size": 64, "held_out": 1}}, r"data\.held_out"),
    ({"data": {"folder": "toys", "size": 64, "split": "validation"}}, r"data\.split"),
    ({"model": {"lora": {"few-step": 1.0}}}, r"model\.lora\.few-step"),
    ({"augmentation": "none"}, "augmentation"),
    ({"variants": 2}, "variants"),
    ({"optimiser": {"kind": "adafactor"}}, r"optimiser\.kind"),
]
SAME: list[dict[str, Any]] = [
    {"optimiser": {"lr": 1e-5}},
    {"max_steps": 9},
    {"batch": 1},
    {"accumulate": 2},
    {"save_every": 3},
    {"epochs": 3},
    {"precision": "bf16"},
    {"sample_every": 5, "log_every": 2, "keep": 1},
    {"schedule": {"warmup": 2}},
    {"device": "cpu", "threads": 2},
    {"data": {"folder": "elsewhere", "size": 64, "cache": "c"}},
    {"objective": {"prompts": ["a toy"]}},
]


@pytest.mark.parametrize(("change", "name"), CHANGED)
def test_what_changes_what_is_learned_is_refused_by_name(change: dict[str, Any], name: str, toys: Path) -> None:
    begun = open_config(values(toys, objective={"target": "both"}))
    now = open_config(values(toys, **{"objective": {"target": "both"}, **change}))
    with pytest.raises(ConfigError, match=rf"was begun with {name} = .*, and now it is .*another `out`"):
        check_same(begun, now)


@pytest.mark.parametrize("change", SAME)
def test_how_long_and_how_fast_may_change(change: dict[str, Any], toys: Path) -> None:
    check_same(open_config(values(toys)), open_config(values(toys, **change)))


def test_stages_may_be_added_behind(toys: Path) -> None:
    first = {"method": "lora", "max_steps": 1}
    second = {**first, "name": "more", "seed": None}
    second.pop("seed")
    one, two = (open_config(values(toys, stage=stages)) for stages in ([first], [first, second]))
    check_same(one, two)
    with pytest.raises(ConfigError, match="stage = 'more'"):
        check_same(two, one)


def test_a_resumed_run_has_the_same_images(toys: Path) -> None:
    config = values(toys)
    assert isinstance(until(config, events.Warned, resume=True), events.Warned), "nothing is there to be resumed"
    [*run_config(values(toys, out=str(toys.parent / "done")))]
    config = values(toys, out=str(toys.parent / "done"), max_steps=2)
    assert until(config, events.Started, resume=True).step == 1
    (toys.parent / "moved").symlink_to(toys)
    moved = {**config, "data": {**config["data"], "folder": str(toys.parent / "moved")}}
    assert until(moved, events.Started, resume=True).step == 1
    for change in (
        lambda: Image.new("RGB", (64, 64), "black").save(toys / "0.png"),
        lambda: (toys / "1.txt").write_text("another caption"),
    ):
        change()
        with pytest.raises(ConfigError, match="was begun with other images or captions"):
            until(config, events.Started, resume=True)


@pytest.mark.parametrize(
    ("given", "changes", "wanted"),
    [
        ({"MIXED_PRECISION": "bf16"}, {}, ("bf16", 1)),
        ({"MIXED_PRECISION": "fp16", "GRADIENT_ACCUMULATION_STEPS": "4"}, {}, ("fp16", 4)),
        ({"MIXED_PRECISION": "no", "GRADIENT_ACCUMULATION_STEPS": "1"}, {"precision": "bf16"}, ("bf16", 1)),
        ({"MIXED_PRECISION": "bf16"}, {"precision": "bf16", "accumulate": 3}, ("bf16", 3)),
        ({"MIXED_PRECISION": "bf16"}, {"precision": "fp32"}, "precision 'bf16', and stage 'lora' says 'fp32'"),
        ({"MIXED_PRECISION": "fp8"}, {}, "precision 'fp8'"),
        ({"GRADIENT_ACCUMULATION_STEPS": "4"}, {"accumulate": 2}, "accumulate 4, and stage 'lora' says 2"),
        ({"GRADIENT_ACCUMULATION_STEPS": "many"}, {}, "'many'"),
    ],
)
def test_what_accelerate_asks_for_acts_or_is_refused(
    given: dict[str, str], changes: dict[str, Any], wanted: Any, toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    config = read_config(values(toys, **changes))
    if isinstance(wanted, str):
        with pytest.raises(ConfigError, match=wanted):
            as_launched(config)
        return
    stage = as_launched(config).stage[0]
    assert (stage.precision, stage.accumulate) == wanted


def test_images_of_the_class_are_those_of_their_request(tmp_path: Path) -> None:
    base = BaseCheckpoint(kandinsky.load(device="cpu"))
    asked = DreamBoothObjective(prompt="a zwx", class_prompt="an apple", class_images=2, class_steps=1)

    def drawn(objective: DreamBoothObjective, base: BaseCheckpoint = base) -> list[str]:
        made = [*draw_class(base, objective, tmp_path / "class", (64, 64), "dreambooth")]
        prompts = [str(read_metadata(path).request["prompt"]) for path in sorted((tmp_path / "class").iterdir())]
        return [str(len(made) - 1), *prompts]

    assert drawn(asked) == ["2", "an apple", "an apple"]
    assert drawn(asked) == ["0", "an apple", "an apple"]
    clock = asked.model_copy(update={"class_prompt": "a clock", "class_images": 1})
    assert drawn(clock) == ["1", "a clock", "an apple"]
    assert drawn(clock.model_copy(update={"class_steps": 2}))[0] == "1"
    (tmp_path / "class" / "00000.png").write_bytes(b"half of an image")
    assert drawn(clock)[0] == "1"
    other = BaseCheckpoint(kandinsky.load(device="cpu", lora={"few-step": 1.0}))
    assert drawn(clock, other)[0] == "1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {}}, r"no setting 'optimizer'\. It is called optimiser here"),
        ({"acumulate": 2}, r"no setting 'acumulate'\. Did you mean 'accumulate'"),
        ({"export": {"steps": 3}}, "export is set, which lora does not read"),
        ({"tokenizer": "there"}, "tokenizer is set, which lora does not read"),
        ({"networks": {"prior": {}}}, "networks is set, which lora does not read"),
        ({"method": "textual_inversion", "objective": {"token": "../up", "init_from": "red"}}, "names a file"),
    ],
)
def test_settings_act_or_are_refused(changes: dict[str, Any], message: str, toys: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(values(toys, **changes))


def test_a_file_of_settings_with_a_mark(toys: Path) -> None:
    file = toys.parent / "run.toml"
    text = f'method = "lora"\nout = "run"\nmax_steps = 1\n[data]\nfolder = "{toys.as_posix()}"\n'
    file.write_bytes(text.encode("utf-8-sig"))
    assert read_config(file).stage[0].method == "lora"
    file.write_bytes(b"# caf\xe9\n" + text.encode())
    with pytest.raises(ConfigError, match=r"run\.toml is no UTF-8 text \(byte 5 is 0xe9\)"):
        read_config(file)
