"""One schema: right settings are read, each wrong one is one error that helps."""

from pathlib import Path
from typing import Any

import pytest

from kandinsky.core.errors import ConfigError
from kandinsky.networks.movq import MoVQConfig
from kandinsky.training.config import (
    DecoderObjective,
    MovqObjective,
    TrainConfig,
    network_config,
    read_config,
)

MINIMAL: dict[str, Any] = {
    "out": "run",
    "data": {"folder": "pictures"},
    "stage": [{"method": "movq", "max_steps": 5}, {"method": "decoder", "max_minutes": 1.5}],
}


def test_toml_becomes_stages(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        """
        out = "run"
        seed = 7
        [data]
        folder = "pictures"
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
    assert (config.seed, config.data.size, config.data.folder) == (9, 64, Path("pictures"))
    first, second = config.stage
    assert isinstance(first.objective, MovqObjective)
    assert first.objective.perceptual == 0.5
    assert first.optimiser.betas == (0.5, 0.9)
    assert isinstance(second.objective, DecoderObjective)
    assert second.objective.min_snr == 5
    assert [stage.name for stage in config.stage] == ["movq", "decoder"]
    assert network_config(MoVQConfig, config.networks["movq"], "movq").channels == (32, 64)


def test_a_single_method_needs_no_stage_table() -> None:
    config = read_config(
        {"out": "run", "data": {"folder": "x"}, "method": "prior", "max_steps": 3, "batch": 2}
    )
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
        (
            {**MINIMAL, "data": {"folder": "x", "sise": 1}},
            "data: there is no setting 'sise'. Did you mean 'size'?",
        ),
        (stage(bach=3), "stage.0: there is no setting 'bach'. Did you mean 'batch'?"),
        (stage(optimiser={"lrr": 1}), "stage.0.optimiser: there is no setting 'lrr'. Did you mean 'lr'?"),
        (stage(objective={"perceptul": 1}), "no setting 'perceptul'. Did you mean 'perceptual'?"),
        (stage(batch=0), "stage.0.batch: input should be greater than or equal to 1 (got 0)"),
        (stage(optimiser={"lr": "fast"}), "stage.0.optimiser.lr"),
        (stage(precision="fp8"), "stage.0.precision"),
        (stage(max_steps=None), "stage 'movq' never ends"),
        (stage(init="clip"), "starts from 'clip', which is no earlier stage"),
        (stage(method="movqq"), "no method 'movqq'. Did you mean 'movq'?"),
        ({**MINIMAL, "stage": []}, "stage"),
        ({**MINIMAL, "stage": MINIMAL["stage"][:1] * 2}, "two stages are called 'movq'"),
        ({key: value for key, value in MINIMAL.items() if key != "out"}, "out: field required"),
        (stage(method="clip", objective={"distillation": 1.0}), "needs a teacher"),
        (stage(method="clip", variants=2), "keeps 2 variants, but needs more"),
        (stage(method="clip", objective={"sketch": 1.0}), "weighs sketch, which a head of a recipe"),
        ({**MINIMAL, "data": {"folder": "x", "groups": ["faces"]}}, "data.groups is for a recipe"),
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
    with pytest.raises(ConfigError, match="is no TOML"):
        read_config(tmp_path / "bad.toml")
