"""How the original releases hold each network: its file or folder, its sizes, its names, both ways."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.checkpoints.components import OriginalFile, json_beside
from kandinsky.checkpoints.files import Json, make_folder, write_json
from kandinsky.checkpoints.maps import clip
from kandinsky.checkpoints.maps.mclip import MCLIP, infer_mclip_config, mclip_json
from kandinsky.checkpoints.maps.original_clip import (
    ORIGINAL_CLIP_TEXT,
    ORIGINAL_CLIP_VISION,
    infer_clip_text_config,
    infer_clip_vision_config,
)
from kandinsky.checkpoints.maps.original_files import OriginalFiles
from kandinsky.checkpoints.maps.original_kl import drop_training, infer_kl_config, original_kl_map
from kandinsky.checkpoints.maps.original_movq import WRAPPED, infer_movq_config, original_movq_map
from kandinsky.checkpoints.maps.original_prior import (
    infer_prior_config,
    original_prior_map,
    with_statistics,
    without_statistics,
)
from kandinsky.checkpoints.maps.original_unet2 import infer_unet2_config, original_unet2_map
from kandinsky.checkpoints.maps.original_unet3 import (
    embeds_projection,
    gathered,
    infer_unet3_config,
    original_unet3_map,
    scattered,
)
from kandinsky.checkpoints.maps.t5 import TABLES, infer_t5_config, t5_config, t5_json, t5_map, without_decoder
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.torchscript import is_torchscript, read_torchscript
from kandinsky.checkpoints.weights import Tensors, dense, read_pickle, read_tensor_file, read_weights
from kandinsky.core.errors import CheckpointError, OutputError
from kandinsky.networks.movq import MoVQConfig

LOGIT_SCALE = "logit_scale"


def save_pickle(path: Path, content: object) -> None:
    """Writes tensors in containers as torch does; OutputError when the disk does not take them."""
    make_folder(path.parent)
    try:
        torch.save(dense(content), path)
    except RuntimeError as error:  # so a full disk is reported
        raise OutputError(f"{path} cannot be written: {error}.", "Is there space left?") from error


Name = Callable[[OriginalFiles], str | None]


def _in_file(name: Name, key: str | None = None) -> Callable[[OriginalFolder, str, Tensors, Json], None]:
    def write(folder: OriginalFolder, _: str, tensors: Tensors, __: Json) -> None:
        save_pickle(folder.root / str(name(folder.files)), {key: tensors} if key else tensors)

    return write


def _in_folder(name: Name) -> Callable[[OriginalFolder, str, Tensors, Json], None]:
    def write(folder: OriginalFolder, _: str, tensors: Tensors, json: Json) -> None:
        path = folder.root / str(name(folder.files))
        save_pickle(path / "pytorch_model.bin", tensors)
        write_json(path / "config.json", json)

    return write


def _read(_: OriginalFolder, path: Path) -> Tensors:
    return read_tensor_file(path)


def _write_unet2(folder: OriginalFolder, variant: str, tensors: Tensors, _: Json) -> None:
    save_pickle(folder.root / folder.files.unets[variant], tensors)


UNET2 = OriginalFile(
    lambda folder, variant: folder.unet_file(variant),
    _read,
    lambda tensors, _: infer_unet2_config(tensors),
    lambda config, _: original_unet2_map(config),
    _write_unet2,
)
MOVQ = OriginalFile(
    lambda folder, _: folder.file(folder.files.codec),
    _read,
    lambda tensors, _: infer_movq_config(tensors),
    lambda config, names: original_movq_map(config, wrapped=WRAPPED in names),
    _in_file(lambda files: files.codec),
)


def _without_codebook(config: MoVQConfig, state: Tensors) -> tuple[MoVQConfig, Tensors]:
    rest = {name: tensor for name, tensor in state.items() if name != "codebook.weight"}
    return replace(config, codebook_size=0), rest


LATER_MOVQ = replace(MOVQ, names=(WRAPPED,), trim=_without_codebook)
"""A codec's file whose encoder's norms are wrapped, and in which a codebook has no place."""
KL = OriginalFile(
    lambda folder, _: folder.file(folder.files.codec),
    lambda _, path: drop_training(read_tensor_file(path)),
    lambda tensors, _: infer_kl_config(tensors),
    lambda config, _: original_kl_map(config),
    _in_file(lambda files: files.codec, "state_dict"),
)


def _heads(json: Json) -> int | None:
    heads = json.get("num_attention_heads")
    return heads if isinstance(heads, int) and heads > 0 else None


MULTILINGUAL = OriginalFile(
    lambda folder, _: folder.encoder_folder(),
    lambda _, path: read_weights(path, "pytorch_model"),
    lambda tensors, json: infer_mclip_config(tensors, _heads(json)),
    lambda *_: MCLIP,
    _in_folder(lambda files: files.text_encoder),
    mclip_json,
    tokenizer=OriginalFolder.encoder_folder,
)
SECOND_TEXT = OriginalFile(
    lambda folder, _: folder.second_encoder_folder(),
    lambda _, path: without_decoder(read_weights(path, "pytorch_model")),
    lambda tensors, _: infer_t5_config(tensors, "gelu_tanh"),
    lambda _, names: t5_map(names),
    _in_folder(lambda files: files.second_text_encoder),
    lambda config: t5_json(config, "mt5"),
    TABLES,
    tokenizer=OriginalFolder.second_encoder_folder,
)
ONE_TEXT = OriginalFile(
    lambda folder, _: folder.encoder_folder(),
    lambda _, path: without_decoder(read_weights(path, "model")),
    lambda tensors, json: t5_config(json) if json else infer_t5_config(tensors, "silu"),
    lambda _, names: t5_map(names),
    _in_folder(lambda files: files.text_encoder),
    lambda config: t5_json(config, "t5"),
    TABLES,
    tokenizer=OriginalFolder.encoder_folder,
)


def _open_prior(folder: OriginalFolder, path: Path) -> Tensors:
    statistics = read_pickle(folder.file(folder.files.statistics))
    return with_statistics(read_tensor_file(path), statistics)


def _write_prior(folder: OriginalFolder, _: str, tensors: Tensors, __: Json) -> None:
    network, statistics = without_statistics(tensors)
    save_pickle(folder.root / str(folder.files.prior), network)
    save_pickle(folder.root / str(folder.files.statistics), statistics)


PRIOR = OriginalFile(
    lambda folder, _: folder.file(folder.files.prior),
    _open_prior,
    lambda tensors, _: infer_prior_config(tensors),
    lambda config, _: original_prior_map(config),
    _write_prior,
)


def _open_unet3(folder: OriginalFolder, path: Path) -> Tensors:
    content = read_pickle(path)
    projection = None
    if not embeds_projection(content):
        projections = {folder.root / unet: file for unet, file in folder.files.projections}
        projection = read_tensor_file(folder.encoder_folder() / projections[path])
    try:
        return gathered(content, projection)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from error


def _write_unet3(folder: OriginalFolder, variant: str, tensors: Tensors, _: Json) -> None:
    name = folder.files.unets[variant]
    network, projection = scattered(tensors)
    save_pickle(folder.root / name, network)
    save_pickle(folder.root / folder.files.text_encoder / dict(folder.files.projections)[name], projection)


UNET3 = OriginalFile(
    lambda folder, variant: folder.unet_file(variant),
    _open_unet3,
    lambda tensors, _: infer_unet3_config(tensors),
    lambda config, _: original_unet3_map(config),
    _write_unet3,
)


def is_first_release(folder: OriginalFolder, variant: str | None = None) -> bool:
    """Whether the U-Net of one text that is read is of the first release: its file has the projection."""
    return embeds_projection(read_pickle(folder.unet_file(variant)))


def _clip_tensors(path: Path) -> Tensors:
    """All tensors of CLIP: of a TorchScript archive, of a plain file, or of a folder of transformers."""
    if path.is_dir():
        tensors: Tensors = read_weights(path, "model")
        if LOGIT_SCALE not in tensors or not all(
            isinstance(json_beside(path).get(f"{tower}_config"), Mapping) for tower in ("text", "vision")
        ):
            raise CheckpointError(f"{path} holds no CLIP with both its towers.", "Give a whole CLIPModel.")
        return tensors
    tensors = read_torchscript(path) if is_torchscript(path) else read_tensor_file(path)
    # The causal mask is a number of the program, not of the network.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("attn_mask")}
    if LOGIT_SCALE not in tensors:
        raise CheckpointError(f"{path}: The file has no tensor {LOGIT_SCALE}.", "It is of another model.")
    return tensors


def logit_scale(folder: OriginalFolder) -> Tensor:
    """The logarithm of CLIP's temperature."""
    return _clip_tensors(folder.clip_towers())[LOGIT_SCALE]


def _clip_tower(vision: bool) -> Callable[[OriginalFolder, Path], Tensors]:
    begins = ("visual.", "visual_", "vision_")

    def opened(_: OriginalFolder, path: Path) -> Tensors:
        tensors = _clip_tensors(path)
        return {n: t for n, t in tensors.items() if n != LOGIT_SCALE and n.startswith(begins) is vision}

    return opened


def _tower_json(json: Json, tower: str) -> Json:
    shared = {"projection_dim": json["projection_dim"]} if "projection_dim" in json else {}
    own = json.get(f"{tower}_config")
    return {**shared, **(own if isinstance(own, Mapping) else {})}


def _in_transformers(names: Iterable[str]) -> bool:
    return any(name.startswith(("text_model.", "vision_model.")) for name in names)


def write_clip(folder: OriginalFolder, towers: Iterable[Tensors], scale: Tensor) -> None:
    """Writes the tensors of both towers and the logarithm of their temperature as one file."""
    tensors = {name: tensor for tower in towers for name, tensor in tower.items()}
    save_pickle(folder.root / str(folder.files.clip), {**tensors, LOGIT_SCALE: scale})


def _write_elsewhere(*_: object) -> None:
    """Both towers go into one file, see `write_clip`."""


CLIP_TEXT = OriginalFile(
    lambda folder, _: folder.clip_towers(),
    _clip_tower(vision=False),
    lambda tensors, json: clip.clip_text_config(_tower_json(json, "text")) if json else infer_clip_text_config(tensors),
    lambda _, names: clip.CLIP_TEXT if _in_transformers(names) else ORIGINAL_CLIP_TEXT,
    _write_elsewhere,
    tokenizer=OriginalFolder.clip_vocabulary,
    pad_id=0,
)
CLIP_VISION = OriginalFile(
    lambda folder, _: folder.clip_towers(),
    _clip_tower(vision=True),
    lambda tensors, json: (
        clip.clip_vision_config(_tower_json(json, "vision")) if json else infer_clip_vision_config(tensors)
    ),
    lambda _, names: clip.CLIP_VISION if _in_transformers(names) else ORIGINAL_CLIP_VISION,
    _write_elsewhere,
)
