"""Low-rank adapters in files: the key layout of peft and diffusers, read and written.

A tensor is called `<component>.<module>.lora_A.weight` (our `down`), `.lora_B.weight` (`up`) or
`.lora_magnitude_vector`; components and modules have the names of the diffusers layout. Settings that are no
tensors (alpha) are JSON in the file's header under `lora_adapter_metadata`, as diffusers writes it, or in an
`adapter_config.json` in the file's folder, as peft does.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kandinsky.adapters.lora import Adapter, LowRank, Place
from kandinsky.checkpoints.components import Component, config_of
from kandinsky.checkpoints.files import Json, read_json
from kandinsky.checkpoints.keymap import KeyMap, summary
from kandinsky.checkpoints.lora_settings import LoraSettings
from kandinsky.checkpoints.maps.networks import COMPONENTS, component_of
from kandinsky.checkpoints.weights import read_header, read_tensor_file, write_tensor_file
from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
SETTINGS, NOTES = "lora_adapter_metadata", "kandinsky"


# Older files of diffusers name the attention's processor, and its projections on it.
_PROCESSOR = re.compile(r"\.processor\.(\w+)_lora\.(down|up)\.weight$")
_MATRIX = re.compile(r"\.(?:lora_(?P<peft>[AB])|lora(?:_linear_layer)?\.(?P<old>down|up))(?:\.default)?\.weight$")
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$")


@dataclass(frozen=True, eq=False)
class LoraFile:
    """The content of an adapter file: tensors by name, the settings of peft, and notes of our own."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    notes: Json


def takes_adapters(network: nn.Module) -> bool:
    """Whether networks of this kind can have adapters."""
    found = component_of(type(network))
    return found is not None and bool(found.adapted)


def network_keys(network: nn.Module) -> KeyMap:
    """The names of a network's tensors in files; ConfigError for a kind that takes no adapters."""
    keys: KeyMap = _adaptable(network).keys(config_of(network), None)
    return keys


def modules_of(network: nn.Module) -> dict[str, Place]:
    """The linear layers and convolutions of a network, by their names in files; those of another kind in files are left
    out. ConfigError for a kind of network that takes no adapters."""
    keys = network_keys(network)
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            names = keys.stacked_names(f"{path}.weight")
            for part, name in enumerate(names):
                found[name.removesuffix(".weight")] = Place(path, part, len(names))
    return found


def names_of(network: nn.Module) -> dict[str, list[str]]:
    """The names in files of every weight of a network; ConfigError for a kind that takes no adapters."""
    keys = network_keys(network)
    return {name: keys.foreign_names(name) or [] for name, _ in network.named_parameters()}


def choose_places(network: nn.Module, targets: Iterable[str] | None = None) -> list[Place]:
    """The places of modules whose name in files is or ends in one of `targets`, None being the attention's projections;
    ConfigError for a target that no module has."""
    wanted = _adaptable(network).adapted if targets is None else tuple(targets)
    known = modules_of(network)
    chosen: dict[Place, None] = {}
    for target in wanted:
        places = [place for name, place in known.items() if name == target or name.endswith(f".{target}")]
        if not places and targets is not None:
            ends = sorted({name.rpartition(".")[2] for name in known} - set("0123456789"))
            raise ConfigError(f"No layer is called {target!r}.", f"Names end in: {', '.join(ends)}.")
        chosen |= dict.fromkeys(places)
    return list(chosen)


def to_tensors(network: nn.Module, adapter: Adapter) -> tuple[dict[str, Tensor], Json]:
    """An adapter of a network as tensors by the names of peft, and the settings that peft reads them with."""
    names = {place: name for name, place in modules_of(network).items()}
    tensors: dict[str, Tensor] = {}
    ranks, alphas, dora, dropout = {}, {}, False, 0.0
    for place, change in adapter.items():
        name = names[place]
        tensors[f"{name}.lora_A.weight"] = change.down.detach()
        tensors[f"{name}.lora_B.weight"] = change.up.detach()
        ranks[name], alphas[name], dropout = change.rank, change.alpha, change.dropout
        if change.magnitude is not None:
            dora, length = True, change.magnitude.detach()
            shape = (1, -1, 1, 1) if change.down.ndim > 2 else (-1,)
            tensors[f"{name}.lora_magnitude_vector"] = length.reshape(shape)
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "use_dora": dora,
        "target_modules": sorted(names[place] for place in adapter.places),
        "rank_pattern": {name: other for name, other in ranks.items() if other != rank},
        "alpha_pattern": {name: other for name, other in alphas.items() if other != alpha},
    }
    return tensors, settings


def from_tensors(network: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Adapter:
    """The adapter of tensors with names of peft or diffusers, component and wrapper taken off; `settings` are peft's.
    Without `lora_alpha` and `.alpha` tensors alpha is the rank. CheckpointError for unknown names, half an adapter, or
    bad shapes."""
    known = modules_of(network)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, role = _read_name(name)
        parts.setdefault(module, {})[role] = tensor
    if unknown := [module for module in parts if module not in known]:
        raise CheckpointError(
            f"The adapter changes {len(unknown)} layers that this network does not have: {summary(unknown)}.",
            "It was made for another model.",
        )
    if halves := [module for module, found in parts.items() if not {"down", "up"} <= found.keys()]:
        raise CheckpointError(f"The adapter has only half of its tensors for {summary(halves)}.", "Download it again.")
    stated = LoraSettings.of(settings)
    changes = {known[module]: _low_rank(module, found, stated) for module, found in parts.items()}
    return Adapter(changes).eval()


def _low_rank(module: str, found: Mapping[str, Tensor], settings: LoraSettings) -> LowRank:
    down, up, magnitude, alpha = (found.get(role) for role in ("down", "up", "magnitude", "alpha"))
    assert down is not None
    assert up is not None
    rank = down.shape[0] if down.ndim else 0
    fits = down.ndim in (2, 4) and up.ndim == down.ndim and rank and up.shape[1] == rank
    if not fits or not all(side == 1 for side in up.shape[2:]):
        raise CheckpointError(
            f"The adapter of {module} has shapes {tuple(down.shape)} and {tuple(up.shape)}.",
            "It is damaged or of another kind.",
        )
    sizes = {"alpha": 1, "magnitude": up.shape[0]}
    odd = [role for role, size in sizes.items() if role in found and found[role].numel() != size]
    if odd or any(one.is_complex() or not one.isfinite().all() for one in found.values()):
        wrong = f"a {odd[0]} of a wrong size" if odd else "numbers that are not finite"
        raise CheckpointError(f"The adapter of {module} has {wrong}.", "It is damaged; download it again.")
    stated = settings.alpha_of(module, rank) if alpha is None else float(alpha)
    length = None if magnitude is None else magnitude.float().flatten()
    return LowRank(down.float(), up.float(), settings.strength(rank, stated), length, settings.dropout)


def tensor_module(name: str) -> str:
    """The module that a tensor of an adapter belongs to; CheckpointError for a name of another kind."""
    return _read_name(name)[0]


def _read_name(name: str) -> tuple[str, str]:
    """The module and the role of a tensor: down, up, magnitude or alpha."""
    plain = name.removeprefix(PEFT_PREFIX)
    if match := _PROCESSOR.search(plain):
        projection = "to_out.0" if match[1] == "to_out" else match[1]
        return f"{plain[: match.start()]}.{projection}", match[2]
    if match := _MATRIX.search(plain):
        return plain[: match.start()], match["old"] or {"A": "down", "B": "up"}[match["peft"]]
    if match := _MAGNITUDE.search(plain):
        return plain[: match.start()], "magnitude"
    if plain.endswith(".alpha"):
        return plain.removesuffix(".alpha"), "alpha"
    raise CheckpointError(
        f"{name} is not a tensor of a low-rank adapter.", "Known are the layouts of peft and of diffusers."
    )


def holds_change(name: str) -> bool:
    """Whether a tensor is called like a part of an adapter."""
    return any(form.search(name) for form in (_PROCESSOR, _MATRIX, _MAGNITUDE)) or name.endswith(".alpha")


def _adaptable(network: nn.Module) -> Component:
    found = component_of(type(network))
    if found is None or not found.adapted:
        known = dict.fromkeys(spec.class_name for spec in COMPONENTS if spec.adapted)
        raise ConfigError(f"A {type(network).__name__} takes no adapters.", f"Those that do: {', '.join(known)}.")
    return found


_OF_A_CHANGE = re.compile("lora|hada|lokr|ia3|oft|diff", re.IGNORECASE)


def read_lora(path: Path) -> LoraFile:
    """Reads an adapter file, or the one that a folder holds; raises CheckpointError when it cannot."""
    file = path
    if path.is_dir():
        usual = [path / name for name in (DIFFUSERS_FILE, PEFT_FILE) if (path / name).is_file()]
        others = sorted(path.glob("*.safetensors"))
        if not usual and len(others) != 1:
            raise CheckpointError(
                f"{path} holds {len(others) or 'no'} adapter files.",
                f"Expected {DIFFUSERS_FILE} or {PEFT_FILE}; name the file.",
            )
        file = (usual or others)[0]
    tensors = read_tensor_file(file)
    if tensors and _are_words(tensors):
        raise CheckpointError(f"{file} holds learned words, no adapter.", "Give it as words (--words).")
    header = read_header(file) if file.suffix == ".safetensors" else {}
    settings = _header_json(file, header, SETTINGS)
    peft_config = file.with_name(PEFT_CONFIG)
    if not settings and peft_config.is_file():
        settings = read_json(peft_config)
    return LoraFile(tensors, settings, _header_json(file, header, NOTES))


def _are_words(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are learned words: rows under names that are no place in a network and no part of a change."""
    plain = (name.count(".") <= 1 and not _OF_A_CHANGE.search(name) and not holds_change(name) for name in tensors)
    return all(plain) and all(one.ndim <= 2 for one in tensors.values())


def _header_json(file: Path, header: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = parse_json(header.get(key, "{}"))
    except UnsoundTextError as error:
        raise CheckpointError(f"{file} has a damaged {key}: {error}.", "Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} has a {key} that is not a table.", "Download it again.")
    return value


def write_lora(file: Path, parts: Mapping[str, tuple[nn.Module, Adapter]], notes: Json | None = None) -> Path:
    """Writes adapters as one safetensors file that diffusers reads; OutputError. `parts` are networks and adapters by
    component (`unet`, `prior_prior`, ...); `notes` are kept in the header for this library."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, object] = {}
    for component, (network, adapter) in parts.items():
        own, peft = to_tensors(network, adapter)
        tensors |= {f"{component}.{name}": tensor for name, tensor in own.items()}
        settings |= {f"{component}.{key}": value for key, value in peft.items()}
    header = {SETTINGS: json.dumps(settings, sort_keys=True)}
    if notes:
        header[NOTES] = json.dumps(notes, ensure_ascii=False, sort_keys=True)
    return write_tensor_file(file, tensors, header)
