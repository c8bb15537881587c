"""What fine-tuning leaves behind: an adapter, a learned word, or a whole checkpoint, ready to be loaded."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from kandinsky.adapters.lora import Adapter
from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.checkpoints.diffusers_folder import CONFIGS, Folder
from kandinsky.checkpoints.files import INDEX, OWN_SETTINGS, read_json, write_json
from kandinsky.checkpoints.lora import network_keys, write_lora
from kandinsky.checkpoints.maps.scheduler import few_steps_json
from kandinsky.checkpoints.textual_inversion import write_words
from kandinsky.checkpoints.weight_files import STEMS, parse
from kandinsky.checkpoints.weights import write_weights
from kandinsky.core.errors import ConfigError
from kandinsky.core.files import whole_folder
from kandinsky.core.metadata import library_version
from kandinsky.engine.loras import adaptable
from kandinsky.engine.sampling_defaults import SAMPLING, Sampling
from kandinsky.generations import kind_for
from kandinsky.networks.unet2 import UNet2
from kandinsky.training.config import DistillObjective, LoraObjective, Stage, TextualInversionObjective
from kandinsky.training.ema import copy_into
from kandinsky.training.events import Exported
from kandinsky.training.stages.base import Base
from kandinsky.training.stages.distill import sampling_of
from kandinsky.training.stages.dreambooth import trainable
from kandinsky.training.stages.inversion import PLAYER, new_word
from kandinsky.training.stages.tuning import add_adapters, together
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.tuning_config import DreamBoothObjective, Target, Tuned

CHECKPOINT, CHECKPOINT_PRIOR = "checkpoint", "checkpoint-prior"


def outcomes(shop: Workshop, stage: Stage) -> Iterator[Exported]:
    """Writes what a finished stage learned, with the running means as values, and says where it is.

    Adapters and words go to one file in `out`; networks that learned as a whole to `checkpoint`, a copy of
    the one that the run began with. Nothing but the newest checkpoint of the run is needed. Raises
    CheckpointError when there is none, OutputError when the disk does not take it.
    """
    yield from OUTCOMES[stage.method](shop, stage)


def check_outcome(shop: Workshop, stage: Stage) -> None:
    """Raises ConfigError, before hours are spent, for a stage whose result could not be written."""
    if shop.learns_whole(stage):
        for target in cast(Tuned, stage.objective).targets:
            folder_of(shop, target)


def _adapters(shop: Workshop, stage: Stage) -> Iterator[Exported]:
    objective: LoraObjective = stage.objective
    base = shop.base(stage)
    modules = {target: add_adapters(base, target, objective.adapter) for target in objective.targets}
    yield _write_adapters(shop, stage, base, modules)


def _dreambooth(shop: Workshop, stage: Stage) -> Iterator[Exported]:
    objective: DreamBoothObjective = stage.objective
    if objective.whole:
        yield from _whole(shop, stage)
        return
    base = shop.base(stage)
    yield _write_adapters(shop, stage, base, trainable(base, objective))


def _write_adapters(
    shop: Workshop,
    stage: Stage,
    base: Base,
    modules: Mapping[Target, nn.Module],
    notes: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Exported:
    networks = adaptable(base.model)
    parts: dict[str, tuple[nn.Module, Adapter]] = {}
    for target, module in modules.items():
        copy_into(module, shop.means(stage, target))
        module.to(dtype)
        for component, adapter in module.named_children():
            parts[component] = (networks[component], cast(Adapter, adapter))
    path = shop.config.out / f"{stage.name}.safetensors"
    return Exported(write_lora(path, parts, {**_notes(shop, stage), **(notes or {})}), "--lora")


def _distilled(shop: Workshop, stage: Stage) -> Iterator[Exported]:
    objective: DistillObjective = stage.objective
    base = shop.base(stage)
    sampling = sampling_of(base, objective)
    if objective.whole:
        yield from _whole(shop, stage, partial(_note_sampling, sampling=sampling))
        return
    modules = {target: add_adapters(base, target, objective.adapter) for target in objective.targets}
    dtype = getattr(torch, shop.config.export.dtype)
    yield _write_adapters(shop, stage, base, modules, {SAMPLING: sampling.to_json()}, dtype)


def _words(shop: Workshop, stage: Stage) -> Iterator[Exported]:
    objective: TextualInversionObjective = stage.objective
    word = new_word(shop.base(stage), objective)
    copy_into(word, shop.means(stage, PLAYER))
    rows = {component: value.detach() for component, value in word.rows.items()}
    path = shop.config.out / f"{objective.token}.safetensors"
    yield Exported(write_words(path, {objective.token: rows}, _notes(shop, stage)), "--words")


def _whole(
    shop: Workshop, stage: Stage, finish: Callable[[Path], None] = lambda _: None
) -> Iterator[Exported]:
    base = shop.base(stage)
    folders: dict[Path, dict[str, nn.Module]] = {}
    for target in stage.objective.targets:
        folder = folder_of(shop, target)
        for component, network in whole_networks(shop, stage, base, target).items():
            folders.setdefault(folder.root, {})[component_in(folder, component)] = network
    dtype = getattr(torch, shop.config.export.dtype)
    for root, networks in folders.items():
        alone = "prior" in networks
        use: Literal["--prior", "--model"] = "--prior" if alone else "--model"
        path = shop.config.out / (CHECKPOINT_PRIOR if alone else CHECKPOINT)
        yield Exported(_copy_with(Folder(root, {}), networks, path, dtype, finish), use)


def whole_networks(shop: Workshop, stage: Stage, base: Base, target: Target) -> dict[str, nn.Module]:
    """What learned as a whole for a target, with the running means as weights, by component."""
    with_texts = isinstance(stage.objective, Tuned) and stage.objective.with_texts
    networks = base.learners(target, with_texts)
    copy_into(together(networks), shop.means(stage, target))
    return networks


def _copy_with(
    folder: Folder,
    networks: Mapping[str, nn.Module],
    target: Path,
    dtype: torch.dtype,
    finish: Callable[[Path], None],
) -> Path:
    """Writes a copy of a folder in which some components have the weights of these networks.

    `finish` changes what else it says before it takes its place.
    """

    def others(place: str, names: list[str]) -> set[str]:
        replaced = Path(place).name in networks
        return {name for name in names if replaced and parse(name, STEMS)}

    with whole_folder(target) as aside:
        aside.mkdir(parents=True)
        for path in folder.root.iterdir():
            # Cards and measurements are of the old weights; only what a model is made of is taken over.
            if path.is_dir() and not path.name.startswith("."):
                shutil.copytree(path, aside / path.name, ignore=others)
            elif path.name in (INDEX, OWN_SETTINGS):
                shutil.copyfile(path, aside / path.name)
        if prior := folder.prior_reference():
            (aside / "README.md").write_text(f"---\nprior: {prior}\n---\n", encoding="utf-8")
        for name, network in networks.items():
            state = {key: value.to(dtype) for key, value in network.state_dict().items()}
            stem = next(s for s in STEMS if any(parse(p.name, [s]) for p in (folder.root / name).iterdir()))
            write_weights(aside / name, stem, network_keys(network).to_foreign(state))
            _note_what_it_is_told(aside, name, network)
        finish(aside)
    return target


def _note_what_it_is_told(folder: Path, component: str, network: nn.Module) -> None:
    """Writes down that a decoder was given channels for regions or hints, and what the whole is for now."""
    path = folder / component / CONFIGS[0]
    json, config = read_json(path), cast(Any, network.config)
    if component != "unet" or json.get("in_channels") == config.in_channels:
        return
    sizes = {"in_channels": config.in_channels, "out_channels": config.out_channels}
    follows = isinstance(network, UNet2) and config.condition == "image_hint"
    write_json(path, {**json, **sizes, **({"addition_embed_type": config.condition} if follows else {})})
    index = read_json(folder / INDEX)
    kind = kind_for(str(index["_class_name"]), "Controlnet" if follows else "Inpaint")
    write_json(folder / INDEX, {**index, "_class_name": kind})


def _note_sampling(folder: Path, sampling: Sampling) -> None:
    """Writes down in a copy how its pictures are drawn, for the peer too."""
    path = folder / "scheduler" / "scheduler_config.json"
    json = few_steps_json(read_json(path))
    write_json(path, json)
    index = read_json(folder / INDEX)
    write_json(folder / INDEX, {**index, "scheduler": ["diffusers", json["_class_name"]]})
    own = folder / OWN_SETTINGS
    said = read_json(own) if own.is_file() else {}
    write_json(own, {**said, "defaults": {**said.get("defaults", {}), **sampling.defaults}})


def folder_of(shop: Workshop, target: Target) -> Folder:
    """The folder in diffusers layout that a target's weights came from; ConfigError for another layout."""
    decoder, prior = shop.sources
    source = decoder if target == "decoder" else prior
    if not isinstance(source, Folder):
        raise ConfigError(
            f"The {target} of {shop.config.model.name} does not lie in a folder in diffusers layout.",
            "Write it in that layout first: kandinsky convert.",
        )
    return source


def component_in(folder: Folder, component: str) -> str:
    """What a folder calls a component: in one of a prior alone names have no word that says so."""
    return component if component in folder.components else component.removeprefix(PRIOR_PREFIX)


def _notes(shop: Workshop, stage: Stage) -> dict[str, Any]:
    """What a file says of how it came to be."""
    return {
        "version": library_version(),
        "model": without_places(shop.config.model.model_dump(mode="json", exclude_none=True)),
        "stage": without_places(stage.model_dump(mode="json", exclude_none=True)),
        "data": shop.data_stamp(),
    }


def without_places(said: Any) -> Any:
    """JSON values with files and folders by their names alone: what is shared tells of no one's disk."""
    if isinstance(said, dict):
        return {without_places(key): without_places(value) for key, value in said.items()}
    if isinstance(said, list):
        return [without_places(value) for value in said]
    return Path(said).name if isinstance(said, str) and Path(said).is_absolute() else said


OUTCOMES: dict[str, Callable[[Workshop, Stage], Iterator[Exported]]] = {
    "lora": _adapters,
    "dreambooth": _dreambooth,
    "textual_inversion": _words,
    "full": _whole,
    "distill": _distilled,
}
