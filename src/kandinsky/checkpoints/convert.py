"""From one published layout to the other, both ways, without a change to any number."""

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints import formats, original
from kandinsky.checkpoints import original_one_text as one_text
from kandinsky.checkpoints.diffusers_folder import Folder, save_component, write_model_index
from kandinsky.checkpoints.files import make_folder, read_json, sync, write_json
from kandinsky.checkpoints.formats import Format
from kandinsky.checkpoints.maps.mclip import mclip_json
from kandinsky.checkpoints.maps.original_clip import (
    ClipTensors,
    infer_clip_text_config,
    infer_clip_vision_config,
    to_original_clip,
)
from kandinsky.checkpoints.maps.original_files import FLASH, INPAINTING, ONE_TEXT, TEXT_IMAGE
from kandinsky.checkpoints.maps.original_prior import without_statistics
from kandinsky.checkpoints.maps.original_schedules import ONE_TEXT_SCHEDULES, TEXT_IMAGE_SCHEDULES
from kandinsky.checkpoints.maps.scheduler import FILE, PRIOR_SCHEDULE_JSON
from kandinsky.checkpoints.maps.t5 import t5_json
from kandinsky.checkpoints.original import OriginalFolder, check_told
from kandinsky.checkpoints.release import (
    DECODER_PARTS,
    NOTES,
    PREFIX,
    PRIOR_PARTS,
    TOKENIZERS,
    Release,
    note_logit_scale,
    read_release,
)
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.core.errors import CheckpointError, OutputError, RequestError, nearest
from kandinsky.networks.clip import ClipVision
from kandinsky.networks.movq import MoVQ

TOKENIZER_FILES = (".json", ".txt", ".model")
TOKENIZER_CLASSES = {
    formats.MULTILINGUAL.name: "XLMRobertaTokenizerFast",
    formats.SECOND_TEXT.name: "T5TokenizerFast",
    formats.ONE_TEXT.name: "T5TokenizerFast",
    formats.CLIP_TEXT.name: "CLIPTokenizer",
}
"""Text encoders -> the class of a tokenizer whose files do not name theirs."""
Component = tuple[str, str]
_SCHEDULES = {TEXT_IMAGE.kind: TEXT_IMAGE_SCHEDULES, ONE_TEXT.kind: ONE_TEXT_SCHEDULES}
"""The schedules published with a decoder in diffusers layout, by the kind of the release."""


def convert(
    source: Folder | OriginalFolder,
    target: str | Path,
    to: str,
    *,
    prior: Folder | OriginalFolder | None = None,
    variant: str | None = None,
) -> list[Path]:
    """Writes `source` to the new folder `target` in the layout `to`, "diffusers" or "original".

    Dtypes and numbers stay as they are, so that the way back gives the same tensors; left out are tensors
    that no network uses (counters, training losses), and a codebook where the original files have none. With
    `prior` a decoder and its prior become one folder.
    `variant` chooses among weights that are there several times, "inpainting" among original files. The
    folder appears when it is complete. Returns its files. Raises RequestError for an unknown layout,
    CheckpointError for a source that is already in it, is incomplete, or that it cannot hold, and
    OutputError.
    """
    if to not in _WRITERS:
        raise RequestError(f"There is no layout {to!r}.", nearest(to, _WRITERS))
    for given in (source, prior):
        if given is not None and isinstance(given, OriginalFolder) == (to == "original"):
            raise CheckpointError(f"{given.root} is in the layout {to!r} already.", "Copy it.")
    release = read_release(source, variant)
    if prior is not None:
        release = release.joined(read_release(prior, None if variant == INPAINTING else variant))
    return _whole(Path(target), lambda folder: _WRITERS[to](release, folder))


def _whole(target: Path, write: Callable[[Path], None]) -> list[Path]:
    """Lets `write` fill a hidden folder beside `target`, which takes its place when all is on the disk."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists already.", "Give a new folder.")
    hidden = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    make_folder(hidden)
    try:
        write(hidden)
        for path in sorted(hidden.rglob("*")):
            sync(path)
        if target.exists():
            target.rmdir()
        hidden.rename(target)
        sync(target.parent)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}.", "Choose another place for it.") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return sorted(path for path in target.rglob("*") if path.is_file())


def _write_diffusers(release: Release, root: Path) -> None:
    listed: dict[str, Component] = {}

    def write(part: str, component: str, form: Format) -> nn.Module:
        module = release.networks[part]()
        form.save(root, component, module)
        listed[component] = (form.library, form.name)
        return module

    def tokenizer(part: str, component: str, form: Format) -> None:
        _copy_tokenizer(release.tokenizers[part], root / component)
        listed[component] = ("transformers", _tokenizer_class(root / component, form))

    if release.has_decoder:
        for part, (component, form) in DECODER_PARTS[release.layout.kind].items():
            write(part, component, form)
            if part in TOKENIZERS:
                tokenizer(part, TOKENIZERS[part], form)
        for component, schedule in _SCHEDULES.get(release.layout.kind, {}).items():
            save_component(root, component, schedule, config_name=FILE)
            if component == "scheduler":
                listed[component] = ("diffusers", schedule["_class_name"])
    if release.has_prior:
        prefix = PREFIX if release.has_decoder else ""
        for part, (component, form) in PRIOR_PARTS.items():
            module = write(part, prefix + component, form)
            if isinstance(module, ClipVision):
                steps = ClipPreprocess(module.config.image_size).to_json()
                save_component(
                    root, f"{prefix}image_processor", steps, config_name="preprocessor_config.json"
                )
        tokenizer("clip_text", f"{prefix}tokenizer", formats.CLIP_TEXT)
        save_component(root, f"{prefix}scheduler", PRIOR_SCHEDULE_JSON, config_name=FILE)
        listed[f"{prefix}scheduler"] = ("diffusers", PRIOR_SCHEDULE_JSON["_class_name"])
        listed[f"{prefix}image_processor"] = ("transformers", "CLIPImageProcessor")
        write_json(root / NOTES, note_logit_scale(release.logit_scale()))
    write_model_index(root, _kind(release), listed)


def _kind(release: Release) -> str:
    layout = release.layout
    if not release.has_decoder:
        return layout.priors[0]
    if release.variant == FLASH:
        return str(layout.few_steps)
    classes = layout.combined if release.has_prior else layout.decoders
    return classes[1 if release.variant == INPAINTING and len(classes) > 1 else 0]


def _write_one_text(release: Release, root: Path) -> None:
    layout, networks = release.layout, release.networks
    name = layout.unets[release.variant]
    encoder = root / layout.text_encoder
    text: Any = networks["text"]()
    _write_encoder(release, encoder, "text", one_text.encoder_files(text), t5_json(text.config, "t5"))
    unet, projection = one_text.unet3_files(networks["unet"]())
    _save(root / name, unet)
    _save(encoder / dict(layout.projections)[name], projection)
    _save(root / layout.codec, one_text.movq_file(cast(MoVQ, networks["codec"]())))


def _write_original(release: Release, root: Path) -> None:
    layout, networks = release.layout, release.networks
    if layout == ONE_TEXT:
        _write_one_text(release, root)
        return
    if release.has_decoder:
        _save(root / layout.unets[release.variant], original.UNET.tensors(networks["unet"]()))
        codec = networks["codec"]()
        if layout.prior:
            _save(root / layout.codec, original.MOVQ.tensors(codec))
        else:
            _save(root / layout.codec, {"state_dict": original.KL.tensors(codec)})
        text: Any = networks["text"]()
        form = original.multilingual(text.config.heads)
        _write_encoder(
            release, root / layout.text_encoder, "text", form.tensors(text), mclip_json(text.config)
        )
    if "second_text" in networks:
        second: Any = networks["second_text"]()
        tensors, config = original.SECOND_TEXT.tensors(second), t5_json(second.config, "mt5")
        _write_encoder(release, root / str(layout.second_text_encoder), "second_text", tensors, config)
    if release.has_prior:
        tensors, statistics = without_statistics(original.PRIOR.tensors(networks["prior"]()))
        _save(root / str(layout.prior), tensors)
        _save(root / str(layout.statistics), statistics)
        _save(root / str(layout.clip), _clip_tensors(release))
        _copy_tokenizer(release.tokenizers["clip_text"], root / layout.vocabularies[0])


def _clip_tensors(release: Release) -> dict[str, Tensor]:
    text, vision = (cast(Any, release.networks[part]()) for part in ("clip_text", "clip_vision"))
    tensors = to_original_clip(ClipTensors(text.state_dict(), vision.state_dict(), release.logit_scale()))
    check_told(text.config, infer_clip_text_config(tensors))
    check_told(vision.config, infer_clip_vision_config(tensors))
    return tensors


def _write_encoder(
    release: Release, folder: Path, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> None:
    make_folder(folder)
    _save(folder / "pytorch_model.bin", tensors)
    write_json(folder / "config.json", config)
    _copy_tokenizer(release.tokenizers[part], folder)


def _save(path: Path, content: Any) -> None:
    try:
        torch.save(_alone(content), path)
    except RuntimeError as error:  # so a full disk is reported
        raise OutputError(f"{path} cannot be written: {error}.", "Is there space left?") from error


def _alone(content: Any) -> Any:
    """The same, each tensor with a memory of its own: a file holds the whole memory of what is saved."""
    if isinstance(content, Mapping):
        return {name: _alone(value) for name, value in content.items()}
    if isinstance(content, tuple):
        return tuple(_alone(value) for value in content)
    tensor = cast(Tensor, content).detach().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a vocabulary's files, which may lie beside an encoder's configuration and weights."""
    make_folder(target)
    for path in sorted(source.iterdir()):
        other = path.name in ("config.json", NOTES) or ".index." in path.name
        if path.is_file() and path.suffix in TOKENIZER_FILES and not other:
            shutil.copyfile(path, target / path.name)


def _tokenizer_class(folder: Path, form: Format) -> str:
    path = folder / "tokenizer_config.json"
    stated = read_json(path).get("tokenizer_class") if path.is_file() else None
    return stated if isinstance(stated, str) else TOKENIZER_CLASSES[form.name]


_WRITERS: dict[str, Callable[[Release, Path], None]] = {
    "diffusers": _write_diffusers,
    "original": _write_original,
}
