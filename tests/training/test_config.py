"""One schema: right settings are read, each wrong one is one error that helps."""

from pathlib import Path
from typing import Any

import pytest

from kandinsky.cli import train as command
from kandinsky.core.errors import ConfigError
from kandinsky.networks.movq import MoVQConfig
from kandinsky.training.api import open_config, run_config
from kandinsky.training.config.objectives import DecoderObjective, MovqObjective
from kandinsky.training.config.run import FINETUNING, METHODS, OWN_SENTENCES, TrainConfig, read_config
from kandinsky.training.config.table import network_config
from kandinsky.training.methods import METHODS as BUILDERS

MINIMAL: dict[str, Any] = {
    "out": "run",
    "data": {"folder": "images"},
    "stage": [{"method": "movq", "max_steps": 5}, {"method": "decoder", "max_minutes": 1.5}],
}


@pytest.mark.parametrize(
    ("key", "ours"),
    [("lr", "optimiser.lr"), ("learning_rate", "optimiser.lr"), ("optimizer", "optimiser"), ("rank", "rank")],
)
def test_settings_of_other_trainers_are_answered_with_ours(key: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=f"no setting '{key}'.*It is called .*{ours} here"):
        read_config({"out": "x", "data": {"folder": "y"}, "method": "lora", key: 1})


def test_toml_becomes_stages(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        """
        out = "run"
        seed = 7
        [data]
        folder = "images"
        size = 32
        [networks.movq]
        channels = [32, 64]
        [[stage]]
        method = "movq"
        max_steps = 10
        optimiser = { lr = 1e-3, betas = [0.5, 0.9] }
        objective = { perceptual = 0.5 }
        [[stage]]
        method = "decoder"
        max_minutes = 2
        [stage.objective]
        min_snr = 5
        """
    )
    config = read_config(path, {"seed": 9, "data": {"size": 64}})
    assert (config.seed, config.data.size, config.data.folder) == (9, 64, Path("images"))
    first, second = config.stage
    assert isinstance(first.objective, MovqObjective)
    assert first.objective.perceptual == 0.5
    assert first.optimiser.betas == (0.5, 0.9)
    assert isinstance(second.objective, DecoderObjective)
    assert second.objective.min_snr == 5
    assert [stage.name for stage in config.stage] == ["movq", "decoder"]
    assert network_config(MoVQConfig, config.networks["movq"], "movq").channels == (32, 64)


def test_a_single_method_needs_no_stage_table() -> None:
    config = read_config({"out": "run", "data": {"folder": "x"}, "method": "prior", "max_steps": 3, "batch": 2})
    (stage,) = config.stage
    assert (stage.method, stage.batch, stage.max_steps) == ("prior", 2, 3)


def test_what_is_written_is_read_again() -> None:
    config = read_config(MINIMAL)
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def stage(**values: Any) -> dict[str, Any]:
    return {**MINIMAL, "stage": [{"method": "movq", "max_steps": 5, **values}]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**MINIMAL, "sed": 1}, "no setting 'sed'. Did you mean 'seed'?"),
        ({**MINIMAL, "data": {"folder": "x", "sise": 1}}, "data: there is no setting 'sise'. Did you mean 'size'?"),
        (stage(bach=3), "stage.0: there is no setting 'bach'. Did you mean 'batch'?"),
        (stage(optimiser={"lrr": 1}), "stage.0.optimiser: there is no setting 'lrr'. Did you mean 'lr'?"),
        (stage(objective={"perceptul": 1}), "no setting 'perceptul'. Did you mean 'perceptual'?"),
        (stage(batch=0), "stage.0.batch: input should be greater than or equal to 1 (got 0)"),
        (stage(optimiser={"lr": "fast"}), "stage.0.optimiser.lr"),
        (stage(precision="fp8"), "stage.0.precision"),
        (stage(max_steps=None), "stage 'movq' never ends"),
        (stage(init="clip"), "starts from 'clip', which is not an earlier stage"),
        (stage(method="movqq"), "no method 'movqq'. Did you mean 'movq'?"),
        ({**MINIMAL, "stage": []}, "stage"),
        ({**MINIMAL, "stage": MINIMAL["stage"][:1] * 2}, "two stages are called 'movq'"),
        ({key: value for key, value in MINIMAL.items() if key != "out"}, "out: field required"),
        (stage(method="clip", objective={"distillation": 1.0}), "needs a teacher"),
        (stage(method="clip", variants=2), "keeps 2 variants, but needs more"),
        (stage(method="clip", objective={"sketch": 1.0}), "weighs sketch, which a head of a recipe"),
        ({**MINIMAL, "data": {"folder": "x", "groups": ["faces"]}}, "data.groups is for a recipe"),
        (
            {"out": "run", "data": {"folder": "x", "recipe": "emoji"}, "max_steps": 1}
            | {"method": "dreambooth", "objective": {"prompt": "a zwx toy", "class_prompt": "a toy"}},
            "stage 'dreambooth' brings its own sentences",
        ),
        (
            {"out": "run", "data": {"folder": "x", "recipe": "emoji", "common": 2}, "max_steps": 1}
            | {"method": "textual_inversion", "objective": {"token": "zwx", "init_from": "red"}},
            "stage 'textual_inversion' brings its own sentences",
        ),
        (stage(objective={"method": "clip"}), "objective.method is 'clip', of a stage of method 'movq'"),
        (stage(method="full", objective={"decoder": {"vlb": -1}}), "stage.0.objective.decoder.vlb: input"),
    ],
)
def test_each_mistake_is_one_helpful_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(values)
    assert message in str(caught.value)


def test_a_network_with_an_unknown_or_wrong_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"networks.movq: .* 'chanels'. Did you mean 'channels'"):
        network_config(MoVQConfig, {"chanels": [1]}, "movq")
    with pytest.raises(ConfigError, match=r"networks.movq.layers: .*got 'two'"):
        network_config(MoVQConfig, {"layers": "two"}, "movq")


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("out = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"folder": "x", "recipe": "emojis"}}, "there is no recipe 'emojis'"),
        ({"networks": {"movqq": {}}}, "there is no network 'movqq'. Did you mean 'movq'?"),
        ({"networks": {"movq": {"chanels": [32]}}}, "networks.movq: there is no setting 'chanels'"),
        (stage(augmentation="colr"), "There is no augmentation 'colr'. Did you mean 'colour'?"),
        (stage(augmentation={"miror": 0.5}), "augmentation: there is no setting 'miror'"),
        (stage(augmentation={"mirror": 3}), "augmentation.mirror: input should be less than or equal to 1 (got 3"),
        (stage(augmentation={"smallest": 0}), "augmentation.smallest: input should be greater than 0"),
        (stage(augmentation={"recolour": 0.3}), "augmentation.recolour needs a recipe that measures colours"),
        (
            stage(augmentation={"recolour": 0.3}) | {"data": {"folder": "x", "recipe": "emoji"}},
            "augmentation.recolour needs a recipe that measures colours",
        ),
        (
            {"data": {"folder": "x", "recipe": "emoji", "captions": {"tgas": 0.3}}},
            "data.captions: there is no setting 'tgas'. Did you mean 'tags'? Known: article, colour_alone",
        ),
        ({"data": {"folder": "x", "recipe": "emoji", "captions": {"tags": 1.5}}}, "data.captions.tags: input"),
        ({"data": {"folder": "x", "recipe": "emoji", "captions": {"tags": -0.1}}}, "data.captions.tags: input"),
        (
            {"data": {"folder": "x", "recipe": "emoji", "captions": {"languages": {"tlh": 1}}}},
            "data.captions.languages: there is no setting 'tlh'",
        ),
        (
            {"data": {"folder": "x", "recipe": "emoji", "captions": {"languages": {"en": -1}}}},
            "data.captions.languages.en: input",
        ),
    ],
)
def test_names_are_checked_before_anything_is_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {**MINIMAL, **changes, "out": str(tmp_path / "run"), "device": "cpu"}
    with pytest.raises(ConfigError) as caught:
        next(iter(run_config(values)))
    assert message in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_what_a_recipe_and_its_colours_need_is_accepted() -> None:
    data = {"folder": "x", "recipe": "emoji", "measure_colours": True, "captions": {"languages": {"en": 1}}}
    config = open_config({**stage(augmentation={"recolour": 0.3}), "data": data})
    assert config.data.captions == {"languages": {"en": 1}}


def test_every_place_that_lists_methods_has_the_same() -> None:
    assert BUILDERS.keys() == METHODS
    assert command.NEEDED.keys() == FINETUNING
    assert METHODS >= FINETUNING >= OWN_SENTENCES
    assert command.recipes().keys() >= FINETUNING
