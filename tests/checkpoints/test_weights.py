"""Reading and writing tensors: every published spelling, and one clear error for every kind of damage."""

import json
import os
import pickle
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kandinsky.checkpoints.weights import (
    load_strict,
    read_json,
    read_pickle,
    read_tensor_file,
    read_weights,
    write_json,
    write_weights,
)
from kandinsky.core.errors import CheckpointError, OutputError

UNET = "diffusion_pytorch_model"


def some_tensors() -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(3)
    return {
        "a.weight": torch.randn(8, 4, generator=make),
        "a.bias": torch.randn(8, generator=make).half(),
        "b.weight": torch.randn(3, 3, 2, 2, generator=make).bfloat16(),
        "steps": torch.tensor(7),
        "ids": torch.arange(20),
    }


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    return list(got) == list(want) and all(got[k].dtype == want[k].dtype and torch.equal(got[k], want[k]) for k in want)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("limit", [None, 1, 150, 10_000])
def test_what_is_written_is_read(tmp_path: Path, variant: str | None, limit: int | None) -> None:
    tensors = some_tensors()
    paths = write_weights(tmp_path, UNET, tensors, limit, variant)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}
    assert (len(paths) > 1) == (limit in (1, 150))
    assert all(p.stat().st_size < 1200 for p in paths)
    got = read_weights(tmp_path, UNET, variant)
    assert got.keys() == tensors.keys()
    assert same({k: got[k] for k in tensors}, tensors)


def test_a_new_save_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    tensors = some_tensors()
    write_weights(tmp_path, UNET, tensors, 100)
    write_weights(tmp_path, UNET, tensors, variant="fp16")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    write_weights(tmp_path, UNET, changed)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{UNET}.fp16.safetensors", f"{UNET}.safetensors"]
    write_weights(tmp_path, UNET, tensors, 100)
    assert not (tmp_path / f"{UNET}.safetensors").exists()
    assert torch.equal(read_weights(tmp_path, UNET)["steps"], tensors["steps"])


def test_reading_maps_the_file(tmp_path: Path) -> None:
    (path,) = write_weights(tmp_path, "model", {"w": torch.zeros(1024)})
    tensor = read_weights(tmp_path, "model")["w"]
    mapped = Path(f"/proc/{os.getpid()}/maps")
    if mapped.exists():
        assert str(path) in mapped.read_text()
    assert tensor.sum() == 0


def test_tensors_in_one_place_are_written_apart(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base, "c": base.T, "d": base[1]}
    (path,) = write_weights(tmp_path, "model", tensors)
    assert same(read_tensor_file(path), {k: v.contiguous() for k, v in tensors.items()})


def test_our_shards_are_read_by_both_publishing_libraries(tmp_path: Path) -> None:
    network = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    state = network.state_dict()
    write_json(tmp_path / "vq" / "config.json", network.config)
    write_weights(tmp_path / "vq", UNET, state, 2000, "fp16")
    loaded = diffusers.VQModel.from_pretrained(tmp_path / "vq", variant="fp16")
    assert same(loaded.state_dict(), state)
    config = transformers.CLIPTextConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    text = transformers.CLIPTextModelWithProjection(config)
    write_json(tmp_path / "text" / "config.json", config.to_dict())
    write_weights(tmp_path / "text", "model", text.state_dict(), 2000, "fp16")
    again = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "text", variant="fp16")
    assert again.state_dict().keys() == text.state_dict().keys()
    assert all(torch.equal(v, text.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["10GB", "2KB"])
@pytest.mark.parametrize("safe", [True, False])
def test_what_diffusers_saves_is_read(tmp_path: Path, variant: str | None, shard: str, safe: bool) -> None:
    network = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    network.save_pretrained(tmp_path, max_shard_size=shard, variant=variant, safe_serialization=safe)
    got = read_weights(tmp_path, UNET, variant)
    want = network.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
    ],
)
def test_both_spellings_of_a_variants_shards(tmp_path: Path, index: str, shards: str) -> None:
    tensors = some_tensors()
    files = {name: shards.format(1 + i % 2) for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({k: v for k, v in tensors.items() if files[k] == file}, tmp_path / file)
    write_json(tmp_path / index, {"weight_map": files})
    assert same(read_weights(tmp_path, "model", "fp16"), tensors)
    assert same(read_weights(tmp_path, "model"), tensors)


def test_safetensors_go_before_pickles_and_whole_files_before_shards(tmp_path: Path) -> None:
    def mark(value: int) -> dict[str, Tensor]:
        return {"w": torch.tensor([value]), "v": torch.tensor([value])}

    torch.save(mark(1), tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path, "model")["w"] == 1
    write_weights(tmp_path, "model", mark(2), 1)
    assert read_weights(tmp_path, "model")["w"] == 2
    save_file(mark(3), tmp_path / "model.safetensors")
    save_file(mark(4), tmp_path / "model.fp16.safetensors")
    assert read_weights(tmp_path, "model")["w"] == 3
    assert read_weights(tmp_path, "model", "fp16")["w"] == 4


def test_the_only_variant_is_the_default_and_others_are_listed(tmp_path: Path) -> None:
    write_weights(tmp_path, UNET, {"w": torch.ones(1)}, variant="fp16")
    assert read_weights(tmp_path, UNET)["w"] == 1
    write_weights(tmp_path, UNET, {"w": torch.ones(1)}, variant="bf16")
    with pytest.raises(CheckpointError, match="'bf16', 'fp16'"):
        read_weights(tmp_path, UNET)
    write_weights(tmp_path, UNET, {"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"'fp8'.*the plain one, 'bf16', 'fp16'"):
        read_weights(tmp_path, UNET, "fp8")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        read_weights(tmp_path / "unet", UNET)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"no weights named 'diffusion_pytorch_model'.*readme\.txt"):
        read_weights(tmp_path, UNET)
    with pytest.raises(CheckpointError, match=r"\.txt"):
        read_tensor_file(tmp_path / "readme.txt")
    with pytest.raises(CheckpointError, match="no file"):
        read_tensor_file(tmp_path / "model.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / f"{UNET}-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="no index"):
        read_weights(tmp_path, UNET)


def header(entry: dict[str, object], body: bytes = b"\0" * 16) -> bytes:
    raw = json.dumps({"w": entry}).encode()
    return len(raw).to_bytes(8, "little") + raw + body


FLOATS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES = {
    "empty": (b"", "0 bytes"),
    "short": (b"abc", "3 bytes"),
    "text": (b"these are words, not weights\n" * 9, "text file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "length": ((10**9).to_bytes(8, "little") + b"{}", "1000000000 bytes"),
    "json": ((4).to_bytes(8, "little") + b"{{{{", "damaged header"),
    "list": ((2).to_bytes(8, "little") + b"[]", "damaged header"),
    "offsets": (header({**FLOATS, "shape": [99], "data_offsets": [0, 396]}), "header needs"),
    "shape": (header({**FLOATS, "shape": [5]}), "damaged"),
    "backwards": (header({**FLOATS, "data_offsets": [16, 0]}), "damaged"),
    "negative": (header({**FLOATS, "data_offsets": [-16, 0]}), "damaged"),
    "dtype": (header({**FLOATS, "dtype": "F31"}), "damaged"),
    "no offsets": (header({"dtype": "F32", "shape": [4]}), "damaged header"),
    "tail": (header(FLOATS, b"\0" * 20), "damaged"),
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_that_lie(tmp_path: Path, lie: str) -> None:
    content, said = LIES[lie]
    path = tmp_path / f"{UNET}.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_weights(tmp_path, UNET)
    assert str(path) in str(caught.value)


def test_an_honest_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header(FLOATS))
    assert same(read_tensor_file(path), {"w": torch.zeros(4)})


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old.bin"])
@settings(max_examples=40, deadline=None)
@given(part=st.floats(0, 0.999))
def test_any_truncation_is_a_clear_error(tmp_path_factory, kind: str, part: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / ("model.safetensors" if kind == "safetensors" else "model.bin")
    if kind == "safetensors":
        save_file(some_tensors(), path)
    else:
        torch.save(some_tensors(), path, _use_new_zipfile_serialization=kind == "bin")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match="model"):
        read_tensor_file(path)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".th"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_tensors(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"movq{suffix}"
    torch.save({"state_dict": some_tensors()}, path, _use_new_zipfile_serialization=zipped)
    assert same(read_tensor_file(path), some_tensors())
    torch.save((torch.ones(2), torch.zeros(2)), path, _use_new_zipfile_serialization=zipped)
    mean, std = read_pickle(path)
    assert mean.sum() == 2
    assert std.sum() == 0
    with pytest.raises(CheckpointError, match="tuple"):
        read_tensor_file(path)
    torch.save({"w": torch.ones(1), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="epoch"):
        read_tensor_file(path)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize("how", ["plain", "zip", "old"])
def test_a_pickle_never_runs(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sprung = tmp_path / "sprung"
    monkeypatch.setenv("TRAP", str(sprung))
    path = tmp_path / "pytorch_model.bin"
    if how == "plain":
        path.write_bytes(pickle.dumps({"w": Trap()}))
    else:
        torch.save({"w": Trap()}, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_weights(tmp_path, "model")
    assert not sprung.exists()


def test_a_text_file_posing_as_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_weights(tmp_path, "pytorch_model")


def test_shards_that_do_not_hold_what_the_index_says(tmp_path: Path) -> None:
    paths = write_weights(tmp_path, UNET, some_tensors(), 100)
    index = paths[-1]
    kept = paths[0].read_bytes()
    paths[0].unlink()
    with pytest.raises(CheckpointError, match=f"1 of 3 shards: {paths[0].name}"):
        read_weights(tmp_path, UNET)
    paths[0].write_bytes(kept)
    content = read_json(index)
    content["weight_map"]["ghost"] = paths[0].name
    write_json(index, content)
    with pytest.raises(CheckpointError, match="ghost"):
        read_weights(tmp_path, UNET)
    for places in ({"w": "../outside.safetensors"}, {}, ["w"]):
        write_json(index, {"weight_map": places})
        with pytest.raises(CheckpointError, match=r"outside|lists no tensors"):
            read_weights(tmp_path, UNET)


def test_writing_fails_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path, UNET, {"w": torch.ones(1)})
    calls = []

    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("kandinsky.checkpoints.weights.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        write_weights(tmp_path, UNET, some_tensors(), 100)
    assert [p.name for p in tmp_path.iterdir()] == [f"{UNET}.safetensors"]
    assert same(load_file(tmp_path / f"{UNET}.safetensors"), {"w": torch.ones(1)})
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_weights(tmp_path / "file", UNET, some_tensors())


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.json"
    write_json(path, {"name": "лиса", "sizes": [1, 2]})
    assert read_json(path) == {"name": "лиса", "sizes": [1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]
    with pytest.raises(CheckpointError, match="missing"):
        read_json(tmp_path / "config.json")
    for content in (b"{", b"[1]", b"\xff\xfe{}", b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read_json(path)


class Small(nn.Module):
    def __init__(self, width: int = 4, extra: bool = False) -> None:
        super().__init__()
        self.lin = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        if extra:
            self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.lin(x))


def test_strict_loading_takes_over_the_tensors() -> None:
    state = {k: torch.ones_like(v) for k, v in Small().state_dict().items()}
    module = load_strict(Small, state)
    assert module.lin.weight.data_ptr() == state["lin.weight"].data_ptr()
    assert not module.training
    half = load_strict(Small, state, torch.float16)
    assert half.lin.weight.dtype == torch.float16
    assert half.norm.num_batches_tracked.dtype == torch.int64
    assert half(torch.ones(2, 3).half()).shape == (2, 4)
    assert all(p.requires_grad for p in half.parameters())


def test_strict_loading_lists_every_fault_at_once() -> None:
    state = Small(5).state_dict()
    del state["norm.bias"]
    state["lin.gain"] = torch.ones(1)
    with pytest.raises(CheckpointError) as caught:
        load_strict(Small, state, what="prior")
    for said in ("prior", "1 missing (norm.bias)", "1 unexpected (lin.gain)", "lin.weight is (5, 3), not (4, 3)"):
        assert said in str(caught.value)
    good = Small().state_dict()
    with pytest.raises(CheckpointError, match="scale"):
        load_strict(lambda: Small(extra=True), good)
