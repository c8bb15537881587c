"""The weights of a part by the names in files: read, written and put in place; and how they are saved."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kandinsky.checkpoints.components import config_of
from kandinsky.checkpoints.files import make_folder, write_json
from kandinsky.checkpoints.lora import to_tensors
from kandinsky.checkpoints.weights import dense
from kandinsky.core.errors import OutputError, RequestError

if TYPE_CHECKING:
    from kandinsky.compat.diffusers.part import Part

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
LOCAL = "Everything is written to a folder; `huggingface-cli upload` sends it to the Hub."
NOT_SAVED = {"push_to_hub": LOCAL, "save_function": "Files are written whole or not at all.", "use_flashpack": LOCAL}
_MATRIX = re.compile(r"\.lora_([AB])\.weight$")


def foreign_state(part: "Part", adapters: bool = True, keep_vars: bool = False) -> dict[str, Tensor]:
    """The weights of a part by the names in files, those of its adapters as peft names them."""
    spec = part.FORMAT
    config, state = spec.complete(config_of(part.native), part.native.state_dict(keep_vars=keep_vars))
    foreign = spec.keys(config, None).to_foreign(state)
    if not adapters:
        return foreign
    foreign |= {alias: foreign[name] for alias, name in part.TIED.items()}
    wrapped: set[str] = set()
    learned: dict[str, Tensor] = {}
    for name, adapter in part.lora.held.items():
        for key, tensor in to_tensors(part.native, adapter)[0].items():  # type: ignore[arg-type]
            module = key.partition(".lora_")[0]
            wrapped.add(module)
            known = _MATRIX.sub(rf".lora_\1.{name}.weight", key)
            learned[known if known != key else f"{module}.lora_magnitude_vector.{name}.weight"] = tensor
    return {_base_name(name, wrapped): tensor for name, tensor in foreign.items()} | learned


def _base_name(name: str, wrapped: set[str]) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if module in wrapped else name


def load_foreign(
    part: "Part",
    state_dict: dict[str, Tensor],
    prefix: str,
    metadata: Mapping[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Gives `load_state_dict` the network's own names for those in files, as a hook before it.

    Names and shapes that do not fit are told by the names in files.
    """
    own = {name: tensor for name, tensor in foreign_state(part).items() if name not in part.TIED}
    for alias, name in part.TIED.items():
        if (twice := state_dict.pop(f"{prefix}{alias}", None)) is not None:
            state_dict.setdefault(f"{prefix}{name}", twice)
    given = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    found: dict[str, Tensor] = {}
    for name, tensor in given.items():
        plain = name.removeprefix(prefix)
        known = plain if plain in own else _base_name(plain, {plain.rpartition(".")[0]})
        known = known if known in own else plain.replace(".base_layer.", ".")
        if known not in own:
            unexpected.append(name)
        elif tensor.shape != own[known].shape:
            errors.append(
                f"size mismatch for {name}: copying a param with shape {tensor.shape} from checkpoint, the shape in "
                f"current model is {own[known].shape}."
            )
        else:
            found[known] = tensor
    missing.extend(f"{prefix}{name}" for name in own if name not in found)
    merged = {name.replace(".base_layer.", "."): value for name, value in {**own, **found}.items()}
    plain_found = {name.replace(".base_layer.", ".") for name in found}
    keys, native = part.FORMAT.keys(config_of(part.native), None), part.native.state_dict()
    for name in native:
        names = keys.foreign_names(name) or []
        if len(names) > 1 and not keys.stacked_names(name):  # one tensor that files hold several times
            told = next((one for one in names if one in plain_found), names[0])
            merged |= dict.fromkeys(names, merged[told])
    weights = {name: tensor for name, tensor in merged.items() if ".lora_" not in name}
    for name, tensor in keys.to_native(weights).items():
        if name in native:
            state_dict[f"{prefix}native.{name}"] = tensor
    state_dict.update({f"{prefix}lora.{name}": tensor for name, tensor in part.lora.state_dict().items()})
    _copy_adapters({name: tensor for name, tensor in found.items() if ".lora_" in name}, own)


@torch.no_grad()
def _copy_adapters(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, tensor in found.items():
        own[name].copy_(tensor)


def check_saving(keywords: Mapping[str, object]) -> None:
    """Raises RequestError for keywords of `save_pretrained` that cannot act here."""
    for name, value in keywords.items():
        if name in NOT_SAVED and value:
            raise RequestError(f"{name}={value!r} cannot act.", NOT_SAVED[name])
        if name not in NOT_SAVED and name not in ("token", "repo_id", "private", "commit_message", "create_pr"):
            raise TypeError(f"save_pretrained() got an unexpected keyword argument {name!r}")


def size_in_bytes(size: int | str) -> int:
    """Bytes of a number, or of a text such as "5GB"; RequestError for another."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", str(size).upper())
    if match is None:
        raise RequestError(f"max_shard_size is {size!r}.", 'Give bytes, or a text such as "5GB".')
    return int(float(match[1]) * UNITS[match[2] or ""])


def write_pickles(
    folder: Path, stem: str, tensors: Mapping[str, Tensor], max_shard_bytes: int, variant: str | None = None
) -> None:
    """Writes weights as pickles of tensors, in shards with their index where they hold more; raises OutputError."""
    from huggingface_hub import split_torch_state_dict_into_shards

    middle = f".{variant}" if variant else ""
    split = split_torch_state_dict_into_shards(
        dict(tensors), filename_pattern=f"{stem}{middle}{{suffix}}.bin", max_shard_size=max_shard_bytes
    )
    make_folder(folder)
    try:
        for file, names in split.filename_to_tensors.items():
            torch.save(dense({name: tensors[name] for name in names}), folder / file)
    except OSError as error:
        raise OutputError(f"Weights cannot be written to {folder}: {error}.", "Check the space left.") from error
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / f"{stem}.bin.index{middle}.json", index)
