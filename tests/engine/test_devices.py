"""Devices and dtypes by name."""

from typing import Any

import pytest
import torch

from kandinsky.core.errors import RequestError
from kandinsky.engine.devices import DTYPES, choose_device, choose_dtype

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
    with pytest.raises(RequestError, match=r"no dtype"):
        choose_dtype(dtype, CPU)


def test_the_nearest_name_is_given() -> None:
    with pytest.raises(RequestError, match="Did you mean 'bfloat16'"):
        choose_dtype("bfloat61", CPU)
