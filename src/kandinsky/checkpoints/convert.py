"""Conversion between the diffusers layout and original files, both ways, with equal numbers."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from kandinsky.checkpoints.checkpoint import Checkpoint, note_logit_scale, read_checkpoint
from kandinsky.checkpoints.components import PRIOR_PREFIX, CheckpointSpec, Component, config_of
from kandinsky.checkpoints.diffusers_folder import CONFIGS, save_component, write_model_index
from kandinsky.checkpoints.files import OWN_SETTINGS, Json, make_folder, read_json, write_json
from kandinsky.checkpoints.maps.clip import write_clip
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION
from kandinsky.checkpoints.maps.original_files import FLASH, INPAINTING
from kandinsky.checkpoints.maps.scheduler import FILE, PRIOR_CLASS, PRIOR_SCHEDULE_JSON
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.core.errors import CheckpointError, OutputError, RequestError, nearest
from kandinsky.core.files import whole_folder

TOKENIZER_FILES = (".json", ".txt", ".model")


def convert(
    source: Source,
    target: str | Path,
    to: str,
    specs: Sequence[CheckpointSpec],
    *,
    prior: Source | None = None,
    variant: str | None = None,
) -> list[Path]:
    """Writes `source` to the new folder `target` in the layout `to`, "diffusers" or "original"; returns its files.

    Dtypes and numbers stay, so that the way back gives the same tensors. Left out are unused tensors (counters,
    training losses), and a codebook where original files have none. With `prior` a decoder and its prior become one
    folder. `variant` chooses among weights that are there several times, "inpainting" among original files. The folder
    appears when it is complete. Raises RequestError for an unknown layout, CheckpointError for a source that is in it
    already, is incomplete or does not fit into it, and OutputError.
    """
    if to not in _WRITERS:
        raise RequestError(f"There is no layout {to!r}.", nearest(to, _WRITERS))
    for given in (source, prior):
        if given is not None and isinstance(given, OriginalFolder) == (to == "original"):
            raise CheckpointError(f"{given.root} is in the layout {to!r} already.", "Copy it.")
    checkpoint = read_checkpoint(source, specs, variant)
    if prior is not None:
        of_prior = None if variant == INPAINTING else variant
        checkpoint = checkpoint.joined(read_checkpoint(prior, specs, of_prior))
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists already.", "Give a new folder.")
    with whole_folder(folder) as hidden:
        _WRITERS[to](checkpoint, hidden)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_folder(
    checkpoint: Checkpoint,
    root: Path,
    kind: str,
    *,
    dtype: torch.dtype | None = None,
    stated: Mapping[str, Json] | None = None,
    schedules: Mapping[str, Json] | None = None,
    settings: Json | None = None,
) -> None:
    """Writes a checkpoint in the diffusers layout, as a folder of class `kind`; the model index is written last.

    `stated` are further values of config.json by component, `schedules` the decoder's scheduler configurations,
    `settings` the content of our own file. Tokenizers that the checkpoint lacks are listed all the same. Raises
    CheckpointError for a network that the layout cannot describe, and OutputError.
    """
    listed: dict[str, tuple[str, str]] = {}

    def write(spec: Component, network: nn.Module, prefix: str, tokenizer: Path | None) -> None:
        name = prefix + spec.name
        spec.save(root, network, name, dtype=dtype, stated=(stated or {}).get(name))
        listed[name] = (spec.library, spec.class_name)
        if spec.tokenizer is not None:
            folder = root / f"{prefix}{spec.tokenizer}"
            if tokenizer is not None:
                _copy_tokenizer(tokenizer, folder)
            listed[folder.name] = ("transformers", _tokenizer_class(folder, spec))

    for spec in checkpoint.spec.decoder:
        if spec.name in checkpoint.decoder:
            write(spec, checkpoint.decoder[spec.name](), "", checkpoint.tokenizers.get(spec.name))
    for component, schedule in (schedules or {}).items():
        save_component(root, component, schedule, config_name=FILE)
        if component == "scheduler":
            listed[component] = ("diffusers", str(schedule["_class_name"]))
    if checkpoint.prior:
        prefix = PRIOR_PREFIX if checkpoint.decoder else ""
        for spec in checkpoint.spec.prior:
            network = checkpoint.prior[spec.name]()
            write(spec, network, prefix, checkpoint.prior_tokenizer)
            if spec.name == CLIP_VISION.name:
                steps = ClipPreprocess(config_of(network).image_size).to_json()
                save_component(root, f"{prefix}image_processor", steps, config_name=CONFIGS[2])
        save_component(root, f"{prefix}scheduler", PRIOR_SCHEDULE_JSON, config_name=FILE)
        listed[f"{prefix}scheduler"] = ("diffusers", PRIOR_CLASS)
        listed[f"{prefix}image_processor"] = ("transformers", "CLIPImageProcessor")
    if settings is not None:
        write_json(root / OWN_SETTINGS, settings)
    write_model_index(root, kind, listed)


def _write_diffusers(checkpoint: Checkpoint, root: Path) -> None:
    spec = checkpoint.spec
    write_folder(
        checkpoint,
        root,
        _kind(checkpoint),
        schedules=spec.schedules if checkpoint.decoder else None,
        settings=note_logit_scale(checkpoint.logit_scale()) if checkpoint.prior else None,
    )


def _kind(checkpoint: Checkpoint) -> str:
    spec = checkpoint.spec
    if not checkpoint.decoder:
        return spec.priors[0]
    if checkpoint.variant == FLASH:
        return str(spec.few_steps)
    classes = spec.combined if checkpoint.prior else spec.decoders
    return classes[1 if checkpoint.variant == INPAINTING and len(classes) > 1 else 0]


def _write_original(checkpoint: Checkpoint, root: Path) -> None:
    assert checkpoint.spec.files is not None
    folder = OriginalFolder(root, checkpoint.spec.files)
    towers = []
    for specs, networks in ((checkpoint.spec.decoder, checkpoint.decoder), (checkpoint.spec.prior, checkpoint.prior)):
        for spec in (spec for spec in specs if spec.name in networks):
            tensors = spec.save_original(folder, checkpoint.variant, networks[spec.name]())
            if spec in (CLIP_TEXT, CLIP_VISION):
                towers.append(tensors)
            if specs is checkpoint.spec.decoder and spec.tokenizer is not None:
                _copy_tokenizer(checkpoint.tokenizers[spec.name], spec.tokenizer_folder(folder))
    if checkpoint.prior_tokenizer is not None:
        write_clip(folder, towers, checkpoint.logit_scale())
        _copy_tokenizer(checkpoint.prior_tokenizer, root / folder.files.vocabularies[0])


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a tokenizer's files, which may lie in a text encoder's folder."""
    make_folder(target)
    for path in sorted(source.iterdir()):
        other = path.name in ("config.json", OWN_SETTINGS) or ".index." in path.name
        if path.is_file() and path.suffix in TOKENIZER_FILES and not other:
            shutil.copyfile(path, target / path.name)


def _tokenizer_class(folder: Path, spec: Component) -> str:
    path = folder / "tokenizer_config.json"
    stated = read_json(path).get("tokenizer_class") if path.is_file() else None
    return stated if isinstance(stated, str) else spec.tokenizer_class


_WRITERS: Mapping[str, Callable[[Checkpoint, Path], None]] = {
    "diffusers": _write_diffusers,
    "original": _write_original,
}
