"""Headers of safetensors files that contradict themselves: all are refused in one line that names the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from kandinsky.checkpoints.safetensors_header import LARGEST, check_header
from kandinsky.checkpoints.weights import read_header, read_tensor_file
from kandinsky.core.errors import CheckpointError

FLOATS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
BODY = b"\0" * 16


def file(header: Any, body: bytes = BODY) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


MALFORMED: dict[str, bytes] = {
    "a header longer than the file": (10**12).to_bytes(8, "little") + b"{}",
    "a header of no length": file(b""),
    "a header too long": (LARGEST + 1).to_bytes(8, "little") + b" " * (LARGEST + 9),
    "no object": file([FLOATS]),
    "cut JSON": file(b'{"w": {"dtype":'),
    "no UTF-8": file(b'{"\xff": 1}'),
    "one name twice": file(
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "a negative offset": file({"w": {**FLOATS, "data_offsets": [-16, 0]}}),
    "offsets backwards": file({"w": {**FLOATS, "data_offsets": [16, 0]}}),
    "offsets past the end": file({"w": {**FLOATS, "shape": [8], "data_offsets": [0, 32]}}),
    "a gap": file({"w": {**FLOATS, "shape": [2], "data_offsets": [8, 16]}}),
    "two that overlap": file({"w": FLOATS, "v": {**FLOATS, "shape": [2], "data_offsets": [8, 16]}}),
    "bytes of no tensor": file({"w": FLOATS}, BODY + b"x"),
    "a shape of other size": file({"w": {**FLOATS, "shape": [5]}}),
    "a shape that overflows": file({"w": {**FLOATS, "shape": [2**62, 4]}}),
    "a negative side": file({"w": {**FLOATS, "shape": [-1, -4]}}),
    "a side that is no whole number": file({"w": {**FLOATS, "shape": [4.0]}}),
    "nine axes": file({"w": {**FLOATS, "shape": [4, *[1] * 8]}}),
    "an unknown dtype": file({"w": {**FLOATS, "dtype": "F31"}}),
    "no dtype": file({"w": {"shape": [4], "data_offsets": [0, 16]}}),
    "three offsets": file({"w": {**FLOATS, "data_offsets": [0, 8, 16]}}),
    "a name that cannot be printed": file({"w\x00": FLOATS}),
    "no name": file({"": FLOATS}),
    "metadata that are no texts": file({"__metadata__": {"a": 1}, "w": FLOATS}),
    "nested without end": file(b'{"a":' * 5000 + b"1" + b"}" * 5000),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(MALFORMED[name])
    for read in (check_header, read_header, read_tensor_file):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) <= 500


def test_a_sound_one(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(
        file({"__metadata__": {"a": "b"}, "w": FLOATS, "none": {**FLOATS, "shape": [0], "data_offsets": [0, 0]}})
    )
    assert check_header(path) == {"a": "b"}
    assert read_tensor_file(path)["w"].tolist() == [0.0] * 4


@pytest.mark.parametrize("part", range(1, 100, 7))
def test_cut_anywhere(part: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    whole = file({"w": FLOATS})
    path.write_bytes(whole[: len(whole) * part // 100])
    with pytest.raises(CheckpointError):
        read_tensor_file(path)
