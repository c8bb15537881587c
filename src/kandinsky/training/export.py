"""Exports the result of a run, ready to be loaded: a new model, a changed copy of one, adapters, or a word."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import JsonValue
from torch import nn

from kandinsky.adapters.lora import Adapter
from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.checkpoints.diffusers_folder import CONFIGS, Folder
from kandinsky.checkpoints.files import INDEX, OWN_SETTINGS, read_json, write_json
from kandinsky.checkpoints.lora import network_keys, write_lora
from kandinsky.checkpoints.maps.scheduler import few_steps_json
from kandinsky.checkpoints.maps.unet2 import unet2_json
from kandinsky.checkpoints.textual_inversion import write_words
from kandinsky.checkpoints.weight_files import STEMS, parse
from kandinsky.checkpoints.weights import write_weights
from kandinsky.core.errors import ConfigError, nearest
from kandinsky.core.files import whole_folder
from kandinsky.core.metadata import library_version
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.engine.loras import adaptable
from kandinsky.engine.sampling_defaults import SAMPLING, Sampling
from kandinsky.generations import kind_for, write_checkpoint
from kandinsky.training.config.objectives import (
    DistillObjective,
    LoraObjective,
    Target,
    TextualInversionObjective,
    Tuned,
)
from kandinsky.training.config.run import FINETUNING, Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.ema import copy_into
from kandinsky.training.events import Exported
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, base_sources, open_base
from kandinsky.training.finetune.distillation import sampling_of
from kandinsky.training.finetune.textual_inversion import TRAINABLE, new_word
from kandinsky.training.finetune.tuning import add_adapters, together
from kandinsky.training.run_folder import word_file
from kandinsky.training.scratch.encoders import CaptionTokens, frozen_clip, frozen_movq

CHECKPOINT, CHECKPOINT_PRIOR = "checkpoint", "checkpoint-prior"
TOKENIZER = "prior_tokenizer"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")


def makes_model(stages: tuple[Stage, ...]) -> bool:
    """Whether a run ends in a whole new model."""
    return {"prior", "decoder"} <= {stage.method for stage in stages}


def check_export(ctx: TrainContext) -> None:
    """Raises, before hours are spent, ConfigError for a result that could not be written.

    CheckpointError for a decoder that the checkpoint's format has no words for.
    """
    networks = ctx.networks
    for stage in ctx.config.stage:
        for target in stage.targets if stage.whole else ():
            folder_of(ctx, target)
    if makes_model(ctx.config.stage):
        unet2_json(networks.unet.config, sample_size=1)
        sampler = ctx.config.export.sampler
        if sampler is not None and sampler not in SAMPLERS:
            raise ConfigError(f"export.sampler: there is no sampler {sampler!r}.", nearest(sampler, SAMPLERS))


def export_stage(ctx: TrainContext, stage: Stage) -> Iterator[Exported]:
    """Writes what a finished stage of fine-tuning learned, the averaged weights, and says where it is.

    Adapters and words go to one file in `out`; networks that learned as a whole to `checkpoint`, a copy of
    the one that the run began with. Other stages leave nothing. Nothing but the newest checkpoint of the run
    is needed. Raises CheckpointError when there is none, OutputError when the disk does not take it.
    """
    if stage.method not in FINETUNING:
        return
    objective, base = stage.objective, open_base(ctx, stage)
    sampling = sampling_of(base, objective) if isinstance(objective, DistillObjective) else None
    if isinstance(objective, TextualInversionObjective):
        word = new_word(base, objective)
        copy_into(word, ctx.run.means(stage, TRAINABLE))
        rows = {component: value.detach() for component, value in word.rows.items()}
        path = word_file(ctx.config.out, objective.token)
        yield Exported(write_words(path, {objective.token: rows}, _notes(ctx, stage)), "--words")
    elif stage.whole:
        yield from _write_copies(ctx, stage, base, sampling)
    else:
        yield Exported(_write_adapters(ctx, stage, base, sampling), "--lora", tuple(ctx.words(stage)))


def _write_adapters(ctx: TrainContext, stage: Stage, base: BaseCheckpoint, sampling: Sampling | None) -> Path:
    objective = cast(LoraObjective, stage.objective)
    networks, notes = adaptable(base.model), _notes(ctx, stage)
    dtype = _dtype(ctx, "float32" if sampling is None else "float16")
    if sampling is not None:
        notes[SAMPLING] = sampling.to_json()
    parts: dict[str, tuple[nn.Module, Adapter]] = {}
    for target in stage.targets:
        module = add_adapters(base, target, objective.adapter)
        copy_into(module, ctx.run.means(stage, target))
        module.to(dtype)
        for component, adapter in module.named_children():
            parts[component] = (networks[component], cast(Adapter, adapter))
    return write_lora(ctx.config.out / f"{stage.name}.safetensors", parts, notes)


def _dtype(ctx: TrainContext, usual: str = "float16") -> torch.dtype:
    """The dtype of the weights that are written: that of the configuration, else the `usual` one."""
    found: torch.dtype = getattr(torch, ctx.config.export.dtype or usual)
    return found


def _write_copies(
    ctx: TrainContext, stage: Stage, base: BaseCheckpoint, sampling: Sampling | None
) -> Iterator[Exported]:
    folders: dict[Path, dict[str, nn.Module]] = {}
    for target in stage.targets:
        folder = folder_of(ctx, target)
        for component, network in whole_networks(ctx, stage, base, target).items():
            folders.setdefault(folder.root, {})[component_in(folder, component)] = network
    dtype = _dtype(ctx)
    for root, networks in folders.items():
        path = ctx.config.out / (CHECKPOINT_PRIOR if "prior" in networks else CHECKPOINT)
        with whole_folder(path, replace=True) as aside:
            _copy_with(Folder(root, {}), networks, aside, dtype)
            if sampling is not None:
                _note_sampling(aside, sampling)
        yield Exported(path, "--prior" if "prior" in networks else "--model", tuple(ctx.words(stage)))


def whole_networks(ctx: TrainContext, stage: Stage, base: BaseCheckpoint, target: Target) -> dict[str, nn.Module]:
    """What learned as a whole for a target, with the averaged weights, by component."""
    with_texts = isinstance(stage.objective, Tuned) and stage.objective.with_texts
    networks = base.learners(target, with_texts)
    copy_into(together(networks), ctx.run.means(stage, target))
    return networks


def _copy_with(folder: Folder, networks: Mapping[str, nn.Module], target: Path, dtype: torch.dtype) -> None:
    """Writes a copy of a folder in which some components have the weights of these networks."""

    def replaced(place: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(place).name in networks and parse(name, STEMS)}

    for path in folder.root.iterdir():
        # Cards and measurements are of the old weights; only what a model is made of is taken over.
        if path.is_dir() and not path.name.startswith("."):
            shutil.copytree(path, target / path.name, ignore=replaced)
        elif path.name in (INDEX, OWN_SETTINGS):
            shutil.copyfile(path, target / path.name)
    if prior := folder.prior_reference():
        (target / "README.md").write_text(f"---\nprior: {prior}\n---\n", encoding="utf-8")
    for name, network in networks.items():
        state = {key: value.to(dtype) for key, value in network.state_dict().items()}
        stem = next(s for s in STEMS if any(parse(p.name, [s]) for p in (folder.root / name).iterdir()))
        write_weights(target / name, stem, network_keys(network).to_foreign(state))
        if name == "unet":
            _note_channels(target, network)


def _note_channels(folder: Path, decoder: nn.Module) -> None:
    """Writes down that a decoder was given channels for regions or hints, and what the whole is for now."""
    path = folder / "unet" / CONFIGS[0]
    json, config = read_json(path), cast(Any, decoder.config)
    if json.get("in_channels") == config.in_channels:
        return
    sizes = {"in_channels": config.in_channels, "out_channels": config.out_channels}
    hints = getattr(config, "condition", None) == "image_hint"
    write_json(path, {**json, **sizes, **({"addition_embed_type": config.condition} if hints else {})})
    index = read_json(folder / INDEX)
    kind = kind_for(str(index["_class_name"]), "Controlnet" if hints else "Inpaint")
    write_json(folder / INDEX, {**index, "_class_name": kind})


def _note_sampling(folder: Path, sampling: Sampling) -> None:
    """Writes down how a copy's images are drawn, for diffusers too."""
    path = folder / "scheduler" / "scheduler_config.json"
    json = few_steps_json(read_json(path))
    write_json(path, json)
    index = read_json(folder / INDEX)
    write_json(folder / INDEX, {**index, "scheduler": ["diffusers", json["_class_name"]]})
    own = folder / OWN_SETTINGS
    settings = read_json(own) if own.is_file() else {}
    write_json(own, {**settings, "defaults": {**settings.get("defaults", {}), **sampling.defaults}})


def folder_of(ctx: TrainContext, target: Target) -> Folder:
    """The folder in diffusers layout that a target's weights came from; ConfigError for another layout."""
    decoder, prior = base_sources(ctx.config.model)
    source = decoder if target == "decoder" else prior
    if not isinstance(source, Folder):
        raise ConfigError(
            f"The {target} of {ctx.config.model.name} does not lie in a folder in diffusers layout.",
            "Write it in that layout first: kandinsky convert.",
        )
    return source


def component_in(folder: Folder, component: str) -> str:
    """What a folder calls a component: in a folder of a prior names have no prefix."""
    return component if component in folder.components else component.removeprefix(PRIOR_PREFIX)


def _notes(ctx: TrainContext, stage: Stage) -> dict[str, JsonValue]:
    """What a file says of how it came to be."""
    return {
        "version": library_version(),
        "model": without_paths(ctx.config.model.model_dump(mode="json", exclude_none=True)),
        "stage": without_paths(stage.model_dump(mode="json", exclude_none=True)),
        "data": ctx.data.stamp(),
    }


def without_paths(json: JsonValue) -> JsonValue:
    """JSON values with absolute paths shortened to their names: a shared file shows no one's folders."""
    if isinstance(json, dict):
        return {_without_path(key): without_paths(value) for key, value in json.items()}
    if isinstance(json, list):
        return [without_paths(value) for value in json]
    return _without_path(json) if isinstance(json, str) else json


def _without_path(text: str) -> str:
    return Path(text).name if Path(text).is_absolute() else text


def load_networks(ctx: TrainContext) -> dict[str, nn.Module]:
    """Loads the networks of a finished run, by component, on the CPU in float32.

    Prior and decoder come from the last stage of each, towers and autoencoder from where those two had them. Raises
    ConfigError when a stage is missing in the configuration, CheckpointError when it has no whole checkpoint.
    """
    prior, decoder = ctx.run.last("prior"), ctx.run.last("decoder")
    # A decoder may have been begun while the text tower still learned: the prior's towers are the later ones.
    clip = frozen_clip(ctx, prior).module
    return {
        "movq": cast(nn.Module, frozen_movq(ctx, decoder).module),
        "prior_text_encoder": clip.text,
        "prior_image_encoder": clip.vision,
        "prior_prior": ctx.run.finished(prior, ctx.networks.prior()),
        "unet": ctx.run.finished(decoder, ctx.networks.decoder()),
    }


def export_model(ctx: TrainContext) -> Path:
    """Writes the newest checkpoints of a run from scratch as the folder `checkpoint` in `out`; returns it."""
    networks, target, settings = load_networks(ctx), ctx.config.out / CHECKPOINT, ctx.config.export
    tokenizer = CaptionTokens(ctx).folder
    with whole_folder(target, replace=True) as aside:
        write_checkpoint(
            aside,
            networks,
            defaults=settings.model_dump(exclude={"dtype"}, exclude_none=True),
            sample_size=ctx.data.size(ctx.run.last("decoder")) // ctx.networks.movq.config.downscale,
            dtype=_dtype(ctx),
        )
        (aside / TOKENIZER).mkdir()
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, aside / TOKENIZER / name)
    return target
