"""Tensors in files: safetensors, pickles of which nothing is ever run, shards, and strict loading."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kandinsky.checkpoints.files import make_folder, read_json, write_json
from kandinsky.checkpoints.keymap import summary
from kandinsky.checkpoints.safetensors_header import check_header
from kandinsky.checkpoints.untrusted_pickle import read_pickle
from kandinsky.checkpoints.weight_files import choose, file_name, index_name, parse, stems_for
from kandinsky.core.errors import CheckpointError, OutputError
from kandinsky.core.files import sync, whole_file

Tensors = Mapping[str, Tensor]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".th")
M = TypeVar("M", bound=nn.Module)
Content = TypeVar("Content")


def read_weights(folder: Path, stem: str, variant: str | None = None) -> dict[str, Tensor]:
    """Reads the weights named `stem` in `folder`, mapped from the file: safetensors before pickles, whole files before
    shards.

    `variant` None means the plain files, or the only variant. Raises CheckpointError for a missing folder, file, shard
    or variant (with those there are), and for a damaged file.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.", "Check the path, or download the model again.")
    names = [path.name for path in folder.iterdir()]
    choice = choose(names, variant, str(folder), stems_for(stem))
    if choice is None:
        raise CheckpointError(
            f"{folder} holds no weights named {stem!r}.", f"It holds: {summary(names) if names else 'nothing'}."
        )
    if choice.index is None:
        return read_tensor_file(folder / choice.files[0])
    return _read_shards(folder / choice.index)


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} lists no tensors.", "It is damaged; download it again.")
    files = sorted({str(file) for file in places.values()})
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise CheckpointError(f"{index} points outside its folder, to {outside[0]!r}.", "Do not trust this file.")
    there = {path.name for path in index.parent.iterdir() if path.is_file()}
    missing = [file for file in files if file not in there]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(files)} shards: {summary(missing)}.", "Download them again."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(read_tensor_file(index.parent / file))
    absent = [name for name in places if name not in tensors]
    if absent:
        raise CheckpointError(
            f"The shards of {index} lack {len(absent)} tensors: {summary(absent)}.", "Download them again."
        )
    return {name: tensors[name] for name in places}


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Reads all tensors of one file, mapped where the format allows; a pickle may hold them under `state_dict`.
    CheckpointError when the file is missing, damaged or holds something else."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.", "Check the path.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLES:
        raise CheckpointError(
            f"{path} has the unknown ending {path.suffix!r}.", f"Known: .safetensors, {', '.join(PICKLES)}."
        )
    content = read_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors.", "Is it a checkpoint?")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds more than tensors: {summary(others)}.", "Is it a checkpoint?")
    return {str(name): value for name, value in content.items()}


def read_cached(path: Path, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """A copy of one tensor of a file in a cache; None where there is none of this shape, or the file is damaged."""
    if not path.is_file():
        return None
    try:
        found = read_tensor_file(path).get(name)
    except CheckpointError:
        return None
    # A copy: the file may be replaced while it is mapped.
    return None if found is None or tuple(found.shape) != shape else found.clone()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.", "Download it again.") from error


def read_header(path: Path) -> dict[str, str]:
    """Reads the metadata of a safetensors file; CheckpointError when it is damaged."""
    return check_header(path)


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Path:
    """Writes one safetensors file, whole or not at all; raises OutputError when it cannot.

    The same tensors and header give the same bytes.
    """
    make_folder(path.parent)
    with whole_file(path) as part:
        try:
            save_file(dense(dict(tensors)), part, metadata={"format": "pt", **header})
        except SafetensorError as error:
            raise OutputError(f"{path} cannot be written ({error}).", "Free some disk space.") from error
        _sort_header(part)
    return path


def _sort_header(path: Path) -> None:
    """Sorts the header's own entries, which the library writes in a random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(length))
        content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))


def write_weights(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Tensor],
    max_shard_bytes: int | None = None,
    variant: str | None = None,
) -> list[Path]:
    """Writes `stem[.variant].safetensors`, or shards of at most `max_shard_bytes` with their index.

    All shards are on the disk under temporary names before the first takes its place, and files of an earlier
    save of the same stem and variant go last. Returns the paths written. Raises OutputError when it cannot.
    """
    groups = {file_name(stem, variant): list(tensors)}
    if max_shard_bytes is not None and sum(map(_bytes, tensors.values())) > max_shard_bytes:
        from huggingface_hub import split_torch_state_dict_into_shards

        pattern = file_name(stem, variant, "{suffix}")
        split = split_torch_state_dict_into_shards(
            dict(tensors), filename_pattern=pattern, max_shard_size=max_shard_bytes
        )
        groups = split.filename_to_tensors
    names = list(groups)
    temporary = [folder / f".{name}.tmp" for name in names]
    make_folder(folder)
    try:
        for path, group in zip(temporary, groups.values(), strict=True):
            save_file(dense({name: tensors[name] for name in group}), path, metadata={"format": "pt"})
            sync(path)
        for path, name in zip(temporary, names, strict=True):
            path.replace(folder / name)
        sync(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"Weights cannot be written to {folder}: {error}.", "Check the folder's rights and the space left."
        ) from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    if len(groups) > 1:
        total = sum(_bytes(tensor) for tensor in tensors.values())
        places = {tensor: name for name, group in groups.items() for tensor in group}
        names.append(index_name(stem, variant))
        write_json(folder / names[-1], {"metadata": {"total_size": total}, "weight_map": places})
    for path in list(folder.iterdir()):
        old = parse(path.name, [stem])
        if old and old.kind == "safetensors" and old.variant == variant and path.name not in names:
            path.unlink()
    return [folder / name for name in names]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def dense(content: Content) -> Content:
    """The same containers with dense CPU tensors, each with a storage of its own: a pickle holds whole storages, and
    safetensors refuses shared ones."""
    return cast(Content, _dense(content, set()))


def _dense(content: Any, seen: set[int]) -> Any:
    match content:
        case Tensor():
            tensor = content.detach().to("cpu").contiguous()
            storage = tensor.untyped_storage()
            whole = storage.nbytes() == _bytes(tensor) and (place := storage.data_ptr()) not in seen
            if not whole:
                return tensor.clone()
            seen.add(place)
            return tensor
        case Mapping():
            return {name: _dense(value, seen) for name, value in content.items()}
        case tuple() | list():
            return type(content)(_dense(value, seen) for value in content)
    return content


def load_strict(
    module_factory: Callable[[], M],
    native_state: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    what: str = "unet",
) -> M:
    """Builds a module in evaluation mode that shares the tensors of `native_state`; `dtype` None keeps theirs.
    CheckpointError lists the missing, unexpected and mis-shaped tensors of `what`."""
    module = meta_init(module_factory)
    expected = module.state_dict()
    faults = []
    if missing := [name for name in expected if name not in native_state]:
        faults.append(f"{len(missing)} missing ({summary(missing)})")
    if unexpected := [name for name in native_state if name not in expected]:
        faults.append(f"{len(unexpected)} unexpected ({summary(unexpected)})")
    shapes = [
        f"{name} is {tuple(native_state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in native_state and native_state[name].shape != tensor.shape
    ]
    if shapes:
        faults.append(f"{len(shapes)} of another shape ({summary(shapes)})")
    kinds = [
        f"{name} is {native_state[name].dtype}"
        for name, tensor in expected.items()
        if name in native_state and native_state[name].is_floating_point() != tensor.is_floating_point()
    ]
    if kinds:
        faults.append(f"{len(kinds)} of another kind of number ({summary(kinds)})")
    if faults:
        raise CheckpointError(
            f"The weights do not fit the {what}: {'; '.join(faults)}.", "They are of another model or configuration."
        )
    state = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in native_state.items()
    }
    module.load_state_dict(state, strict=True, assign=True)
    if unset := [name for name, buffer in module.named_buffers() if buffer.is_meta and name not in expected]:
        raise CheckpointError(
            f"The {what} has buffers that no file holds: {summary(unset)}.", "Compute them in forward instead."
        )
    return module.eval()


_FILLS = frozenset(
    (
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_uniform_,
        nn.init.trunc_normal_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.fill_,
        Tensor.zero_,
    )
)


def meta_init(build: Callable[[], M]) -> M:
    """Builds a module on the meta device without drawing initial values: drawing there imports torch's compiler, which
    takes longer than reading a small model."""
    with torch.device("meta"), _Undrawn():
        return build()


class _Undrawn(TorchFunctionMode):
    """Leaves out every call that only fills a tensor."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func in _FILLS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)
