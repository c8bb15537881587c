"""Devices and dtypes by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

import kandinsky
from kandinsky.core import system
from kandinsky.core.errors import RequestError
from kandinsky.engine import devices
from kandinsky.engine.devices import DTYPES, LARGE, choose_batch_size, choose_device, choose_dtype

CPU = torch.device("cpu")


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device(CPU) == CPU
    assert choose_device("cpu:0").type == "cpu"
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device().type == choose_device("auto").type == best


@pytest.mark.parametrize("device", ["abacus", "cpu:x", "", 1.5, ["cpu"], "cuda:99", "xpu"])
def test_devices_that_are_not_there(device: Any) -> None:
    with pytest.raises(RequestError, match=r"device|Device"):
        choose_device(device)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *DTYPES.items(),
        ("fp16", torch.float16),
        ("half", torch.float16),
        ("bf16", torch.bfloat16),
        ("torch.float64", torch.float64),
        (torch.bfloat16, torch.bfloat16),
        (None, torch.float32),
        ("auto", torch.float32),
    ],
)
def test_dtypes(name: Any, dtype: torch.dtype) -> None:
    assert choose_dtype(name, CPU) == dtype


def test_the_usual_dtype_of_an_accelerator() -> None:
    assert choose_dtype(None, torch.device("cuda")) == torch.float16
    assert choose_dtype("auto", torch.device("mps")) == torch.float16
    with pytest.raises(RequestError, match="mps cannot compute in float64"):
        choose_dtype("float64", torch.device("mps"))


@pytest.mark.parametrize("dtype", ["float33", "int8", torch.int8, 16, ""])
def test_dtypes_that_are_none(dtype: Any) -> None:
    with pytest.raises(RequestError, match=r"no dtype|not a dtype"):
        choose_dtype(dtype, CPU)


def test_the_nearest_name_is_given() -> None:
    with pytest.raises(RequestError, match="Did you mean 'bfloat16'"):
        choose_dtype("bfloat61", CPU)


@pytest.mark.parametrize(
    ("has", "parameters", "dtype"),
    [(True, LARGE + 1, torch.bfloat16), (True, LARGE, torch.float32), (False, LARGE + 1, torch.float32)],
)
def test_large_models_in_bfloat16_where_a_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, parameters: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "_has_fast_bfloat16", lambda: has)
    assert choose_dtype("auto", CPU, parameters) == choose_dtype(None, CPU, parameters) == dtype
    assert choose_dtype("float32", CPU, parameters) == torch.float32
    assert choose_dtype(None, torch.device("cuda"), parameters) == torch.float16


def test_flags_of_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"flags\t: avx2 avx512_bf16": True, "flags\t: avx2": False, "vendor: x": None}
    for text, has in told.items():
        file = tmp_path / "cpuinfo"
        file.write_text(text)
        monkeypatch.setattr(system, "Path", lambda *_, file=file: file)
        assert devices.bfloat16_in_hardware() is has
    file.unlink()
    assert devices.bfloat16_in_hardware() is None


def test_a_large_model_is_loaded_in_bfloat16_and_its_images_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_fast_bfloat16", lambda: True)
    assert kandinsky.load(prior=False, device="cpu").model.dtype == torch.float32
    monkeypatch.setattr(devices, "LARGE", 14_000_000)
    pipe = kandinsky.load(device="cpu")
    assert {parameter.dtype for parameter in pipe.model.network.parameters()} == {torch.bfloat16}
    result = pipe.generate("a red fox", steps=1, prior_steps=1, width=64, height=64, seed=3)
    assert result.settings["dtype"] == "bfloat16"
    again = kandinsky.load(device="cpu", dtype=result.settings["dtype"])
    repeated = again.generate("a red fox", steps=1, prior_steps=1, width=64, height=64, seed=3)
    assert repeated.images[0].tobytes() == result.images[0].tobytes()


def test_how_many_images_are_drawn_together() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [choose_batch_size(cpu, n) for n in (LARGE, LARGE + 1)] == [4, 1]
    assert choose_batch_size(cuda, 10 * LARGE) == 4
