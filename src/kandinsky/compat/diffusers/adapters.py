"""The adapters of a part by name: added, chosen, fused and taken off as diffusers and peft do."""

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kandinsky.adapters import lora
from kandinsky.adapters.lora import AdaptedConv, AdaptedLinear, Adapter, LowRank, Place
from kandinsky.checkpoints.hub import resolve_files
from kandinsky.checkpoints.lora import (
    DIFFUSERS_FILE,
    SETTINGS,
    LoraFile,
    choose_places,
    from_tensors,
    modules_of,
    read_lora,
    to_tensors,
)
from kandinsky.checkpoints.weights import write_tensor_file
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.weights import write_pickles
from kandinsky.core.errors import RequestError, nearest

if TYPE_CHECKING:
    from kandinsky.compat.diffusers.part import Part

Source = str | Path | Mapping[str, Tensor]
ENDLESS = 2**62
NEUTRAL: Mapping[str, object] = {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_bias": False,
    "megatron_config": None,
    "modules_to_save": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_qalora": False,
}
"""Settings of a LoraConfig that cannot act here, with the value that asks for nothing."""


class Adapters(nn.Module):
    """The adapters of one part by name.

    `held` are those that learn with it, `scales` how strongly each acts while it is `active`. `own` are the weights of
    layers that adapters of the names `fused` were added to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = nn.ModuleDict()
        self.scales: dict[str, float] = {}
        self.active: list[str] = []
        self.enabled = True
        self.configs: dict[str, object] = {}
        self.fused: list[str] = []
        self.own: dict[str, Tensor] = {}

    @property
    def new_name(self) -> str:
        """The name of an adapter that is given none."""
        return f"default_{len(self.scales)}"

    def check(self, names: str | Sequence[str]) -> list[str]:
        """The names as a list; RequestError for one without an adapter."""
        found = [names] if isinstance(names, str) else list(names)
        if unknown := [name for name in found if name not in self.scales]:
            known = nearest(unknown[0], self.scales) if self.scales else "None is."
            raise RequestError(f"No adapter {unknown[0]!r} is loaded.", known)
        return found

    def act(self, network: nn.Module) -> None:
        """Lets the layers of the network know how strongly each adapter acts."""
        for name, scale in self.scales.items():
            acts = self.enabled and name in self.active and name not in self.fused
            lora.set_scale(network, name, scale if acts else 0.0)


def put_on(self: "Part", name: str, adapter: Adapter, config: object) -> None:
    """Adds an adapter, the only active one from then on.

    Raises RequestError for a name in use or with a dot, and for one that does not fit.
    """
    if "." in name:
        raise RequestError(f"The name of an adapter is {name!r}.", "Names hold no dot.")
    lora.attach(self.native, adapter, name)
    self.lora.held[name], self.lora.configs[name] = adapter, config
    self.lora.scales[name], self.lora.active = 1.0, [name]
    self.lora.act(self.native)


def add_adapter(self: "Part", adapter_config: object, adapter_name: str = "default") -> None:
    """Adds a new adapter by a LoraConfig of peft and freezes all other weights.

    Raises RequestError for settings that cannot act here, ConfigError for modules that are not there.
    """
    adapter = adapter_of_config(self.native, adapter_config)
    self.native.requires_grad_(False)
    put_on(self, adapter_name, adapter.train(self.training), adapter_config)


def load_lora_adapter(
    self: "Part",
    pretrained_model_name_or_path_or_dict: Source,
    prefix: str | None = "transformer",
    hotswap: bool = False,
    adapter_name: str | None = None,
    **keywords: Any,
) -> None:
    """Adds an adapter of tensors, a file, a folder or a Hub id; of its names those behind `prefix` count.

    Raises CheckpointError when it does not fit.
    """
    found = read_adapter(pretrained_model_name_or_path_or_dict, hotswap, type(self).__name__, keywords)
    if prefix is not None:
        found = behind(found, prefix)
        if not found.tensors:
            warnings.warn(f"No tensor of the adapter begins with {prefix!r}.", UserWarning, stacklevel=2)
            return
    adapter = from_tensors(self.native, found.tensors, found.settings).to(self.device, self.dtype)
    put_on(self, adapter_name or self.lora.new_name, adapter, found.settings)


def load_attn_procs(self: "Part", pretrained_model_name_or_path_or_dict: Source, **keywords: Any) -> None:
    """As `load_lora_adapter`, of tensors with the names of attention processors or of modules, prefixed or not."""
    found = read_adapter(pretrained_model_name_or_path_or_dict, False, type(self).__name__, keywords)
    inside = next((one for one in map(partial(behind, found), ("unet", "prior")) if one.tensors), found)
    load_lora_adapter(self, inside.tensors, None, **keywords)


def save_lora_adapter(
    self: "Part",
    save_directory: str | Path,
    adapter_name: str = "default",
    upcast_before_saving: bool = False,
    safe_serialization: bool = True,
    weight_name: str | None = None,
) -> None:
    """Writes an adapter into a folder, as diffusers' `load_lora_adapter(..., prefix=None)` reads it."""
    self.lora.check(adapter_name)
    tensors, settings = to_tensors(self.native, lora.adapter_of(self.native, adapter_name))
    if upcast_before_saving:
        tensors = {key: tensor.float() for key, tensor in tensors.items()}
    write_adapter(Path(save_directory), tensors, settings, weight_name, safe_serialization)


def set_adapters(self: "Part", adapter_names: str | Sequence[str], weights: Any = None) -> None:
    """Lets only these adapters act, each as strongly as its weight says (1 for None).

    Raises RequestError for names without an adapter, weights of another number or of another kind.
    """
    chosen = self.lora.check(adapter_names)
    given = list(weights) if isinstance(weights, list | tuple) else [weights] * len(chosen)
    if len(given) != len(chosen):
        raise RequestError(f"{len(chosen)} adapters were given {len(given)} weights.", "Give one for each.")
    for name, weight in zip(chosen, given, strict=True):
        if weight is not None and not isinstance(weight, int | float):
            raise RequestError(f"The weight of {name!r} is {weight!r}.", "Give one number for the whole network.")
    self.lora.scales |= {name: 1.0 if w is None else float(w) for name, w in zip(chosen, given, strict=True)}
    self.lora.active = chosen
    self.lora.act(self.native)


def set_adapter(self: "Part", adapter_name: str | Sequence[str]) -> None:
    """Lets only these adapters act, each as strongly as before."""
    self.lora.active = self.lora.check(adapter_name)
    self.lora.act(self.native)


def active_adapters(self: "Part") -> list[str]:
    """The names of the adapters that act; RequestError when there is none."""
    if not self.lora.scales:
        raise RequestError("No adapter is loaded.", "Load one first.")
    return list(self.lora.active)


def delete_adapters(self: "Part", adapter_names: str | Sequence[str]) -> None:
    """Takes the named adapters off; where one was fused, the weights stay as they are for good.

    RequestError for one that is not there.
    """
    held = self.lora
    for name in held.check(adapter_names):
        lora.detach(self.native, name)
        del held.held[name], held.scales[name], held.configs[name]
        held.active = [one for one in held.active if one != name] or list(held.scales)[:1]
        if name in held.fused:
            held.fused, held.own = [], {}
    held.act(self.native)


def unload_lora(self: "Part") -> None:
    """Takes all adapters off; what is fused stays."""
    delete_adapters(self, list(self.lora.scales))


def enable_lora(self: "Part") -> None:
    """Lets the active adapters act."""
    self.lora.enabled = True
    self.lora.act(self.native)


def disable_lora(self: "Part") -> None:
    """Lets no adapter act."""
    self.lora.enabled = False
    self.lora.act(self.native)


@torch.no_grad()
def fuse_lora(
    self: "Part", lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: Sequence[str] | None = None
) -> None:
    """Adds adapters (those named, or the active ones) to the weights, `lora_scale` times as strongly as they act.

    With `safe_fusing` ValueError where the sum is not finite; then nothing is fused.
    """
    held, layers = self.lora, _layers(self.native)
    names = held.active if adapter_names is None else held.check(adapter_names)
    wanted = [name for name in names if name not in held.fused]
    sums: dict[str, Tensor] = {}
    for path, layer in layers:
        worn = [(held.scales[name], layer.slot.adapters[name]) for name in wanted if name in layer.slot.adapters]
        own = held.own.get(path, layer.weight.detach())
        for strength, applied in worn:
            change = replace(applied, scale=lora_scale * strength).merged(own)
            sums[path] = sums.get(path, layer.weight.to(change.dtype)) + change
    if safe_fusing and not all(bool(one.isfinite().all()) for one in sums.values()):
        raise ValueError("NaNs detected in the merged weights. The adapters seem to be broken")
    for path, layer in layers:
        if path in sums:
            held.own.setdefault(path, layer.weight.detach().clone())
            layer.weight.copy_(sums[path])
    held.fused += wanted
    held.act(self.native)


@torch.no_grad()
def unfuse_lora(self: "Part") -> None:
    """Undoes `fuse_lora` to the last bit."""
    for path, weight in self.lora.own.items():
        self.native.get_submodule(path).weight.copy_(weight)  # type: ignore[operator]
    self.lora.fused, self.lora.own = [], {}
    self.lora.act(self.native)


def _layers(network: nn.Module) -> list[tuple[str, AdaptedLinear | AdaptedConv]]:
    found = network.named_modules()
    return [(path, module) for path, module in found if isinstance(module, AdaptedLinear | AdaptedConv)]


def adapter_of_config(network: nn.Module, config: Any) -> Adapter:
    """A new adapter by a LoraConfig of peft.

    Raises RequestError for settings that cannot act here, ConfigError for modules that are not there.
    """
    settings = vars(config)
    for name, value in NEUTRAL.items():
        if settings.get(name, value) not in (value, None, [], {}):
            raise RequestError(f"{name} = {settings[name]!r} of a LoraConfig cannot act here.", "Leave it out.")
    known = {place: name for name, place in modules_of(network).items()}
    skipped = settings.get("exclude_modules")
    places = [
        one for one in _targets(network, settings.get("target_modules"), known) if not _named(known[one], skipped)
    ]
    if not places:
        raise RequestError(f"target_modules = {settings.get('target_modules')!r} names no layer.", "Name some.")
    return Adapter({place: _new(network, place, known[place], settings) for place in places})


def _targets(network: nn.Module, targets: Any, known: Mapping[Place, str]) -> list[Place]:
    if not isinstance(targets, str):
        return choose_places(network, targets)
    if targets == "all-linear":
        return [place for place in known if isinstance(network.get_submodule(place.layer), nn.Linear)]
    return [place for place, name in known.items() if re.fullmatch(targets, name)]


def _named(name: str, patterns: Any) -> bool:
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in patterns or ())


def _new(network: nn.Module, place: Place, name: str, settings: Mapping[str, Any]) -> LowRank:
    layer = network.get_submodule(place.layer)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight[place.rows(len(layer.weight))].detach()

    def setting(what: str, default: Any) -> Any:
        patterns = settings.get(f"{what}_pattern") or {}
        return next((v for key, v in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", name)), default)

    rank, alpha = int(setting("rank", settings["r"])), float(setting("alpha", settings["lora_alpha"]))
    alpha *= math.sqrt(rank) if settings.get("use_rslora") else 1.0
    made = LowRank.new(weight, rank, alpha, float(settings["lora_dropout"]), bool(settings.get("use_dora")))
    match settings.get("init_lora_weights", True):
        case True | None:
            pass
        case "gaussian":
            nn.init.normal_(made.down, std=1 / rank)
        case False:
            nn.init.kaiming_uniform_(made.up, a=math.sqrt(5))
        case other:
            raise RequestError(f"init_lora_weights is {other!r}.", 'Use True, False or "gaussian".')
    return made.to(weight.device, weight.dtype)


@loading_errors()
def read_adapter(source: Source, hotswap: bool, who: str, keywords: Mapping[str, Any]) -> LoraFile:
    """The adapter in tensors, a file, a folder or a Hub id.

    Raises RequestError for keywords that cannot act here, CheckpointError for what cannot be read.
    """
    if hotswap:
        raise RequestError("hotswap cannot act.", "Delete the adapter and load the other under its name.")
    own = ("adapter_name", "weight_name", "subfolder", "network_alphas", "metadata", "local_dir")
    check_keywords(keywords, who, (*LOADING, *own))
    settings = dict(keywords.get("metadata") or {})
    alphas = {name: torch.tensor(float(v)) for name, v in (keywords.get("network_alphas") or {}).items()}
    if isinstance(source, Mapping):
        return LoraFile({**source, **alphas}, settings, {})
    path = Path(source).expanduser()
    weight_name = keywords.get("weight_name")
    if path.is_dir():
        path = path / (keywords.get("subfolder") or "")
        found = read_lora(path / weight_name if weight_name else path)
    elif path.is_file():
        found = read_lora(path)
    else:
        place = Loading.of(keywords)
        name = "/".join(filter(None, (keywords.get("subfolder"), weight_name or DIFFUSERS_FILE)))
        cached = place.cached(source)
        if isinstance(cached, str) and cached == str(source):
            cached = resolve_files(cached, [name], revision=place.revision, token=place.token, cache=place.cache)
        found = read_lora(Path(cached) / name)
    return LoraFile({**found.tensors, **alphas}, settings or found.settings, found.notes)


def behind(found: LoraFile, prefix: str) -> LoraFile:
    """What of an adapter's names and settings begins with a prefix, without it."""
    start = f"{prefix}."
    tensors = {name.removeprefix(start): one for name, one in found.tensors.items() if name.startswith(start)}
    settings = {name.removeprefix(start): one for name, one in found.settings.items() if name.startswith(start)}
    return LoraFile(tensors, settings, found.notes)


def write_adapter(
    folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, object], file: str | None, safe: bool
) -> None:
    """Writes an adapter's tensors and settings as one file into a folder; raises OutputError."""
    if safe:
        header = {SETTINGS: json.dumps(settings, sort_keys=True, default=list)} if settings else {}
        write_tensor_file(folder / (file or DIFFUSERS_FILE), tensors, header)
    else:
        write_pickles(folder, (file or "pytorch_lora_weights.bin").removesuffix(".bin"), tensors, ENDLESS)
