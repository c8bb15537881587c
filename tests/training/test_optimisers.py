"""Optimisers, half precision with scaled losses, epochs, and the losses beside the square."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small import step_context
from torch import Tensor, nn
from toys import run_toy, toy_stage, toy_task

from kandinsky.core.errors import CheckpointError, ConfigError, KandinskyError
from kandinsky.training import events
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.objectives import DecoderObjective, PriorObjective
from kandinsky.training.config.run import OptimiserConfig
from kandinsky.training.diffusion_losses import noise_of
from kandinsky.training.learner import SMALLEST_SCALE, Learner
from kandinsky.training.objectives.denoising import error_of, huber_error, squared_error
from kandinsky.training.optim import make_optimiser, optimiser_state, restore_optimiser
from kandinsky.training.run_folder import CHECKPOINTS
from kandinsky.training.task import Losses, StepContext, Trainable

CPU = torch.device("cpu")


def last_weights(folder: Path) -> dict[str, Tensor]:
    found = newest(folder / CHECKPOINTS).checkpoint
    assert found is not None
    return {f"{file}/{name}": value for file, part in found.tensors.items() for name, value in part.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": {"kind": "adafactor", "lr": 1e-2}},
        {"precision": "fp16"},
        {"schedule": {"kind": "linear", "warmup": 3, "floor": 0.1}},
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(changes: dict[str, Any], tmp_path: Path) -> None:
    # A rate that falls with the steps would fall sooner in the shorter run.
    changes = {"schedule": {"kind": "constant", "warmup": 3}} | changes
    run_toy(tmp_path / "whole", **changes)
    run_toy(tmp_path / "parts", **changes | {"max_steps": 8})
    run_toy(tmp_path / "parts", resume=True, **changes)
    if changes["schedule"]["kind"] == "constant":
        ours, theirs = last_weights(tmp_path / "parts"), last_weights(tmp_path / "whole")
        assert all(torch.equal(ours[name], value) for name, value in theirs.items() if "random" not in name)
    losses = [e.losses for e in run_toy(tmp_path / "other", **changes) if isinstance(e, events.Progress)]
    assert losses[-1]["network/mse"] < losses[0]["network/mse"]


def one_step(precision: str, poison: float = 1.0, scale: float | None = None) -> tuple[Learner, dict[str, Tensor]]:
    torch.manual_seed(0)
    network = nn.Linear(4, 4)

    def loss(given: StepContext) -> Losses:
        return Losses(poison * network(given.batch).square().mean())

    trainable = Trainable("network", network, loss, OptimiserConfig(lr=0.1))
    learner = Learner(trainable, toy_stage(precision=precision), CPU)
    if scale is not None:
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return learner, learner.update([step_context(torch.ones(2, 4))], [], 0.0, 10)


def test_an_overflowing_step_is_left_out_and_the_scale_falls() -> None:
    torch.manual_seed(0)
    begun = nn.Linear(4, 4).weight
    learner, values = one_step("fp16", poison=1e38)
    assert torch.equal(learner.trainable.module.weight, begun)  # type: ignore[arg-type]
    assert float(values["grad_norm"]) == 0
    assert learner.scaler.get_scale() < 65536
    # The first scale is too large for this loss as well.
    learner, values = one_step("fp16", scale=256.0)
    assert not torch.equal(learner.trainable.module.weight, begun)  # type: ignore[arg-type]
    assert float(values["grad_norm"]) == pytest.approx(float(one_step("fp32")[1]["grad_norm"]), rel=1e-2)
    _, values = one_step("fp16", poison=float("nan"), scale=SMALLEST_SCALE / 2)
    assert not bool(values["grad_norm"].isfinite())


def test_a_loss_that_is_no_number_still_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(KandinskyError, match="not finite"):
        run_toy(tmp_path, precision="fp16", poison_at=5)


@pytest.mark.parametrize(("kind", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_a_package_that_is_not_there_is_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=package) as caught:
        make_optimiser(dict(nn.Linear(2, 2).named_parameters()), OptimiserConfig(kind=kind))  # type: ignore[arg-type]
    assert f"pip install {package}" in str(caught.value)


def test_numbers_of_whole_groups_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prodigy keeps its estimate of the rate in the groups, not beside the parameters."""

    class Prodigy(torch.optim.SGD):
        def __init__(self, groups: Any, lr: float, betas: Any, eps: float) -> None:
            super().__init__(groups, lr=lr)
            for group in self.param_groups:
                group["d"] = 1e-6

    stand_in = ModuleType("prodigyopt")
    stand_in.Prodigy = Prodigy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prodigyopt", stand_in)
    parameters = dict(nn.Linear(2, 2).named_parameters())
    first, second = (make_optimiser(parameters, OptimiserConfig(kind="prodigy", lr=1.0)) for _ in range(2))
    first.param_groups[1]["d"] = 0.25
    restore_optimiser(second, parameters, *optimiser_state(first, parameters))
    assert [group["d"] for group in second.param_groups] == [1e-6, 0.25]


def test_adafactor_keeps_less() -> None:
    parameters = {"weight": nn.Parameter(torch.randn(64, 64))}
    kept = {}
    for kind in ("adamw", "adafactor"):
        optimiser = make_optimiser(parameters, OptimiserConfig(kind=kind))  # type: ignore[arg-type]
        parameters["weight"].grad = torch.ones(64, 64)
        optimiser.step()
        kept[kind] = sum(value.numel() for value in optimiser_state(optimiser, parameters)[0].values())
    assert kept["adafactor"] < kept["adamw"] / 40


def test_epochs_are_counted_in_steps() -> None:
    stage = toy_stage(max_steps=None, epochs=3, batch=4, accumulate=2)
    assert stage.on(10).max_steps == 4
    assert toy_stage(max_steps=2, epochs=3, batch=4).on(10).max_steps == 2
    assert toy_stage().on(10).max_steps == 20


def test_pseudo_huber_is_square_near_zero_and_linear_far_off() -> None:
    output, zero = torch.tensor([[0.001], [100.0]]), torch.zeros(2, 1)
    near, far = huber_error(output, zero, 0.5).tolist()
    assert near == pytest.approx(1e-6, rel=5e-2)
    assert far == pytest.approx(2 * 0.5 * (100 - 0.5), rel=1e-3)
    said, wanted = torch.randn(2, 4), torch.randn(2, 4)
    assert torch.equal(error_of(PriorObjective(), said, wanted), squared_error(said, wanted))
    robust = PriorObjective(loss="huber", huber_c=0.2)
    assert torch.equal(error_of(robust, said, wanted), huber_error(said, wanted, 0.2))


def test_offset_noise_moves_whole_channels() -> None:
    x0 = torch.zeros(3, 4, 8, 8)
    plain = noise_of(step_context(None), x0, DecoderObjective())
    moved = noise_of(step_context(None), x0, DecoderObjective(offset_noise=0.5)) - plain
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-6)
    assert 0.2 < float(moved[:, :, 0, 0].std()) < 1.0


def test_the_toy_has_two_players() -> None:
    assert [trainable.name for trainable in toy_task().trainables] == ["network", "critic"]


def test_a_state_that_lacks_the_steps_of_a_parameter_is_damaged() -> None:
    parameters = {name: torch.nn.Parameter(torch.zeros(2)) for name in "ab"}
    optimiser = torch.optim.AdamW(parameters.values())
    with pytest.raises(CheckpointError, match="does not know how many steps b has made"):
        restore_optimiser(
            optimiser, parameters, {"a/exp_avg": torch.zeros(2), "b/exp_avg": torch.zeros(2)}, {"a/step": 1}
        )
