"""Plans of memory: nothing is read or used for them, and they say what a run takes."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kandinsky.core.errors import ConfigError
from kandinsky.training.ledger import CudaAutocast, Hollow, Ledger
from kandinsky.training.plan import plan

MIB = 2**20
OBJECTIVES: dict[str, dict[str, Any]] = {
    "textual_inversion": {"token": "zwx", "init_from": "red", "vectors": 2},
    "lora": {"target": "both", "adapter": {"rank": 2}},
    "dreambooth": {"prompt": "a zwx toy", "class_prompt": "a toy", "target": "prior"},
    "full": {"target": "prior"},
}


def config(method: str, **changes: Any) -> dict[str, Any]:
    """A run whose pictures are nowhere."""
    return {
        "method": method,
        "out": "nowhere",
        "data": {"folder": "nowhere", "size": 32},
        "device": "cpu",
        "batch": 2,
        "max_steps": 3,
        "variants": 2,
        "objective": OBJECTIVES[method],
    } | changes


def test_the_book_holds_what_is_alive() -> None:
    layer = nn.Linear(100, 100, bias=False)
    Hollow().make(layer)
    ledger = Ledger()
    assert ledger.count(layer.state_dict().values()) == ledger.live == 40_000
    assert ledger.count(layer.parameters()) == 0
    with ledger:
        ledger.mark()
        x = torch.ones(10, 100)
        y = layer(layer(x).relu())
        assert ledger.live == 40_000 + 4 * 4_000 - 4_000
        y.sum().backward()
        del x, y
    assert layer.weight.grad is not None
    assert ledger.live == 80_000
    assert ledger.peak >= 80_000 + 3 * 4_000
    del layer
    gc.collect()
    assert ledger.live == 0


def test_norms_are_wide_under_autocast_of_another_device() -> None:
    norm = nn.LayerNorm(8).half()
    with CudaAutocast():
        y = norm(torch.ones(2, 8, dtype=torch.float16, requires_grad=True))
        assert y.dtype == torch.float32
        y.sum().backward()  # type: ignore[no-untyped-call]
    assert nn.Linear(8, 8)(torch.ones(2, 8)).dtype == torch.float32


@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_every_method_is_planned_without_pictures(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan(config(method))
    assert not [*tmp_path.iterdir()]
    learned = {"textual_inversion": 2 * 256}.get(method, found.numbers)
    assert found.numbers == learned
    whole = method == "full"
    assert (found.learned == 0) == whole
    if not whole:
        assert found.learned == 4 * found.numbers
    # Moments of AdamW, and a count of steps for each parameter.
    assert found.gradients >= 4 * found.numbers / 2
    assert 8 * found.numbers <= found.optimiser < 8 * found.numbers + 4 * 2000
    assert found.means >= 4 * found.numbers
    assert found.activations > 0
    assert found.peak == sum(
        (found.weights, found.learned, found.gradients, found.optimiser, found.means, found.activations)
    )


def test_checkpointing_and_half_precision_take_less() -> None:
    plain = plan(config("lora"))
    assert plan(config("lora"), gradient_checkpointing=True).activations < 0.8 * plain.activations
    half = plan(config("lora"), precision="bf16")
    assert half.weights == plain.weights / 2
    # The GPU keeps wide what enters its norms.
    assert half.activations < plan(config("lora", device="cuda"), precision="bf16").activations


def test_a_run_from_scratch_is_not_planned() -> None:
    scratch = {"out": "nowhere", "data": {"folder": "nowhere"}, "stage": [{"method": "movq", "max_steps": 1}]}
    with pytest.raises(ConfigError, match="no fine-tuning"):
        plan(scratch)
