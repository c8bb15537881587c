"""One network of a finished run as a component in diffusers layout, by the configuration of the run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.checkpoints.components import Component, config_of
from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.maps.networks import component_of
from kandinsky.checkpoints.weights import load_strict, read_tensor_file, read_weights
from kandinsky.core.errors import CheckpointError, ConfigError, nearest
from kandinsky.training.api import ConfigSource, open_config
from kandinsky.training.config.run import Stage, read_settings
from kandinsky.training.context import TrainContext
from kandinsky.training.export import component_in, folder_of, whole_networks
from kandinsky.training.finetune.base_checkpoint import base_sources, open_base
from kandinsky.training.run_folder import CHECKPOINTS

KEYS: dict[str, tuple[str, ...]] = {
    "unet": ("unet",),
    "prior": ("prior", "prior_prior"),
    "text_encoder": ("text_encoder", "prior_text_encoder"),
}
"""What can be written, and what folders call it, in the order in which it is looked for."""
WRAPPERS = ("module.", "_orig_mod.")
"""What parallel and compiled training puts before names."""
STEMS = ("pytorch_model", "model", "diffusion_pytorch_model")


def write_component(source: ConfigSource, trained: Path, target: Path, key: str, *, sharded: bool = False) -> Path:
    """Writes a network that a run trained into the folder `key` of `target`; returns that folder.

    `source` is the run's configuration, whose checkpoint says what the network is. `trained` is the `out` of a run of
    this library (the running means are written, and its own settings tell what it began with), or the result of another
    trainer: a file of named tensors in which the network's begin with `key`, `sharded` a folder of shards with their
    index (next to it, or in `model` below). Raises ConfigError for an unknown key, CheckpointError for tensors that are
    not those of the network, OutputError.
    """
    if key not in KEYS:
        raise ConfigError(f"There is no save key {key!r}.", nearest(key, KEYS))
    own = None if sharded else read_settings(trained)
    config = (own or open_config(source)).model_copy(update={"out": trained})
    ctx, stage = TrainContext(config, torch.device("cpu")), config.stage[-1]
    folder, component, form = _component(ctx, key)
    if not sharded and (ctx.run.of(stage.name) / CHECKPOINTS).is_dir():
        _save(target, key, folder.config(component), form, _trained(ctx, stage, folder, component, key))
        return target / key
    tensors = _named(_read(trained, sharded), key, trained)
    network_config = form.settle(form.config(folder, component), tensors)
    native = form.keys(network_config, tensors).to_native(form.strip(tensors))
    network = load_strict(lambda: form.build(network_config), native, None, key)
    _save(target, key, folder.config(component), form, network)
    return target / key


def _trained(ctx: TrainContext, stage: Stage, folder: Folder, component: str, key: str) -> torch.nn.Module:
    """The component, where a run trained the whole of it."""
    base = open_base(ctx, stage)
    for target in stage.targets if stage.whole else ():
        for learned, network in whole_networks(ctx, stage, base, target).items():
            if component_in(folder, learned) == component and folder_of(ctx, target) == folder:
                return network
    raise ConfigError(f"Stage {stage.name!r} did not train the whole {key}.", "Use what it left behind instead.")


def _save(target: Path, key: str, stated: Mapping[str, object], form: Component, network: torch.nn.Module) -> None:
    """Writes the network; its configuration keeps what the checkpoint's says besides the sizes."""
    form.save(target, network, key, stated={**stated, **form.write(config_of(network))})


def _component(ctx: TrainContext, key: str) -> tuple[Folder, str, Component]:
    """Where the checkpoint of the run has this network, and how it is written there."""
    for folder in base_sources(ctx.config.model):
        if not isinstance(folder, Folder):
            continue
        for name in KEYS[key]:
            found = component_of(folder.components.get(name, ""))
            if found is not None:
                return folder, name, found
    raise ConfigError(
        f"{ctx.config.model.name} has no {key} in diffusers layout.", "Name another checkpoint in [model]."
    )


def _read(trained: Path, sharded: bool) -> dict[str, Tensor]:
    if not sharded:
        return read_tensor_file(trained)
    for folder in (trained, trained / "model"):
        for stem in STEMS:
            if folder.is_dir() and any(folder.glob(f"{stem}*.index*.json")):
                return read_weights(folder, stem)
    raise CheckpointError(f"{trained} holds no index of shards.", "Give the folder of pytorch_model.bin.index.json.")


def _named(tensors: Mapping[str, Tensor], key: str, path: Path) -> dict[str, Tensor]:
    """The tensors whose names begin with the key, without it; all of them where none does."""
    found: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        bare = name
        for wrapper in WRAPPERS:
            bare = bare.removeprefix(wrapper)
        plain[bare] = value
        if bare.startswith(f"{key}."):
            found[bare.removeprefix(f"{key}.")] = value
    others = {name.partition(".")[0] for name in plain} & KEYS.keys()
    if not found and others:
        raise CheckpointError(
            f"{path} holds no {key}, but {', '.join(sorted(others))}.", "Choose among them by --save-keys."
        )
    return found or plain
