"""The adapters of a part by name: added, chosen, fused and taken off as diffusers and peft do."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    """The adapters of one network by name; all methods are told the network, which is no part of this.

    `held` are those that learn with the part, `scales` how strongly each acts while it is `active`. `own` are
    the weights of layers that adapters of the names `fused` were added to.
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

    def add(self, network: nn.Module, name: str, adapter: Adapter, config: object) -> None:
        """Adds an adapter, the only active one from then on.

        Raises RequestError for a name in use or with a dot, and for one that does not fit.
        """
        if "." in name:
            raise RequestError(f"The name of an adapter is {name!r}.", "Names hold no dot.")
        lora.attach(network, adapter, name)
        self.taken(network, name, adapter, config)

    def taken(self, network: nn.Module, name: str, adapter: Adapter, config: object) -> None:
        """Notes an adapter that is on the network."""
        self.held[name], self.configs[name] = adapter, config
        self.scales[name], self.active = 1.0, [name]
        self._act(network)

    def choose(self, network: nn.Module, names: str | Sequence[str], weights: Any = None) -> None:
        """Lets only the named adapters act, each as strongly as its weight says (1 for None).

        Raises RequestError for names without an adapter, weights of another number or of another kind.
        """
        chosen = [names] if isinstance(names, str) else list(names)
        given = list(weights) if isinstance(weights, list | tuple) else [weights] * len(chosen)
        if len(given) != len(chosen):
            raise RequestError(f"{len(chosen)} adapters were given {len(given)} weights.", "Give one for each.")
        for name, weight in zip(chosen, given, strict=True):
            self.check(name)
            if weight is not None and not isinstance(weight, int | float):
                raise RequestError(f"The weight of {name!r} is {weight!r}.", "Give one number for the whole network.")
        self.scales |= {name: 1.0 if w is None else float(w) for name, w in zip(chosen, given, strict=True)}
        self.active = chosen
        self._act(network)

    def check(self, name: str) -> None:
        """Raises RequestError for a name without an adapter."""
        if name not in self.scales:
            raise RequestError(
                f"No adapter {name!r} is loaded.", nearest(name, self.scales) if self.scales else "None is."
            )

    def enable(self, network: nn.Module, enabled: bool) -> None:
        """Lets the active adapters act, or none."""
        self.enabled = enabled
        self._act(network)

    def remove(self, network: nn.Module, name: str) -> None:
        """Takes an adapter off; where it was fused, the weights stay as they are for good."""
        self.check(name)
        lora.detach(network, name)
        del self.held[name]
        for table in (self.scales, self.configs):
            table.pop(name, None)
        self.active = [one for one in self.active if one != name] or list(self.scales)[:1]
        if name in self.fused:
            self.fused, self.own = [], {}
        self._act(network)

    @torch.no_grad()
    def fuse(self, network: nn.Module, scale: float, safe: bool, names: Sequence[str] | None) -> None:
        """Adds adapters to the weights, whose own numbers are kept aside; ValueError as `Part.fuse_lora` says."""
        for name in names or ():
            self.check(name)
        wanted = [name for name in (self.active if names is None else names) if name not in self.fused]
        sums: dict[str, Tensor] = {}
        for path, layer in _layers(network):
            worn = [(self.scales[name], layer.slot.adapters[name]) for name in wanted if name in layer.slot.adapters]
            own = self.own.get(path, layer.weight.detach())
            for strength, applied in worn:
                change = replace(applied, scale=scale * strength).merged(own)
                sums[path] = sums.get(path, layer.weight.to(change.dtype)) + change
        if safe and not all(bool(one.isfinite().all()) for one in sums.values()):
            raise ValueError("NaNs detected in the merged weights. The adapters seem to be broken")
        for path, layer in _layers(network):
            if path in sums:
                self.own.setdefault(path, layer.weight.detach().clone())
                layer.weight.copy_(sums[path])
        self.fused += wanted
        self._act(network)

    @torch.no_grad()
    def unfuse(self, network: nn.Module) -> None:
        """Puts the own weights back, bit for bit."""
        for path, weight in self.own.items():
            network.get_submodule(path).weight.copy_(weight)  # type: ignore[operator]
        self.fused, self.own = [], {}
        self._act(network)

    def _act(self, network: nn.Module) -> None:
        for name, scale in self.scales.items():
            acts = self.enabled and name in self.active and name not in self.fused
            lora.set_scale(network, name, scale if acts else 0.0)


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
def read_adapter(
    source: str | Path | Mapping[str, Tensor], hotswap: bool, who: str, keywords: Mapping[str, Any]
) -> LoraFile:
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


def save_adapter(
    part: "Part", folder: Path, name: str, file: str | None, safe: bool, dtype: torch.dtype | None = None
) -> None:
    """Writes an adapter of a part into a folder, its names without a prefix; raises OutputError."""
    part.lora.check(name)
    tensors, settings = to_tensors(part.native, lora.adapter_of(part.native, name))
    tensors = {key: tensor.to(dtype or tensor.dtype) for key, tensor in tensors.items()}
    if safe:
        write_tensor_file(folder / (file or DIFFUSERS_FILE), tensors, {SETTINGS: json.dumps(settings, sort_keys=True)})
    else:
        write_pickles(folder, (file or "pytorch_lora_weights.bin").removesuffix(".bin"), tensors, ENDLESS)
