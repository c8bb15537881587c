"""Values that no one means: every one is refused in one line, whatever it is given to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kandinsky
from kandinsky.core.errors import KandinskyError
from kandinsky.core.requests import Request
from tests.tiny import Checkpoints


class Evil:
    """Raises in everything that is asked of it."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("x")

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = __float__ = __int__ = __index__ = _raise
    __fspath__ = __getattr__ = __getitem__ = __contains__ = __call__ = __lt__ = __gt__ = __array__ = __add__ = _raise
    __hash__ = object.__hash__


VALUES: dict[str, Any] = {
    "huge": 10**5000,
    "large": 10**400,
    "10**30": 10**30,
    "minus": -(10**5000),
    "nan": float("nan"),
    "inf": float("inf"),
    "bool": True,
    "complex": 1j,
    "bytes": b"\xff",
    "nul": "a\x00b",
    "surrogate": "\ud800",
    "long": "a" * 100_000,
    "home": "~nobody-of-that-name/x",
    "evil": Evil(),
    "evils": [Evil(), Evil()],
    "evil class": Evil,
    "none": None,
    "empty": [],
    "dict": {"a": 1},
    "set": {1, 2},
    "np 0-d": np.array(3.5),
    "np 1-d": np.arange(3),
    "np 2-d": np.ones((2, 2)),
    "np object": np.array([None, Evil], dtype=object),
    "np nan": np.array([np.nan]),
    "np str": np.array(["a", "b"]),
    "np time": np.datetime64("2020-01-01"),
    "torch 1-d": torch.ones(3),
    "torch meta": torch.ones(3, device="meta"),
    "torch complex": torch.ones(2, dtype=torch.complex64),
    "numbers": [10**400, 10**5000],
    "image": Image.new("RGB", (2, 2)),
    "no pixels": Image.new("RGB", (0, 0)),
    "no width": Image.new("RGB", (0, 5)),
    "path": Path("/nonexistent/\x00"),
    "lambda": lambda: 1,
}
FIELDS = sorted(Request.model_fields)
FLAGS = (
    *("model", "prior", "device", "dtype", "variant", "revision", "behaviour", "batch_size", "lora", "words"),
    *("offload", "quantize", "prompt_cache", "tiling", "compile"),
)


def refused_or_right(call: Any) -> None:
    try:
        call()
    except KandinskyError as error:
        said = str(error)
        assert len(said) <= 500, said
        assert said.isprintable(), said


@pytest.mark.parametrize("value", VALUES)
def test_requests(value: str) -> None:
    given = VALUES[value]
    image = Image.new("RGB", (8, 8))
    for field in FIELDS:
        fields: dict[str, Any] = {field: given} if field == "prompt" else {"prompt": "a", field: given}
        refused_or_right(lambda fields=fields: Request(**fields))
        refused_or_right(lambda fields=fields: Request(**{**fields, "image": fields.get("image", image)}))
        refused_or_right(lambda fields=fields: Request(**{k: [v, v] for k, v in fields.items()}))


@pytest.mark.parametrize("value", VALUES)
def test_mixes_and_embeddings(value: str) -> None:
    given = VALUES[value]
    for items, weights in (
        (given, None),
        ([given], None),
        (["a", given], [0.5, 0.5]),
        (["a"], given),
        (["a"], [given]),
    ):
        refused_or_right(lambda items=items, weights=weights: kandinsky.mix(items, weights))
    for values, negative in ((given, None), ([given], None), ([1.0], given), ([1.0], [given])):
        refused_or_right(lambda values=values, negative=negative: kandinsky.Embedding(values, negative))


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_of_load(flag: str, tiny: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    for name, given in VALUES.items():
        if flag == "compile" and name == "bool":
            continue
        given_flags: dict[str, Any] = {"model": tiny.combined, "device": "cpu", flag: given}
        refused_or_right(lambda flags=given_flags: kandinsky.load(**flags))
