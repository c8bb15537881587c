"""CLIP's towers: `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`, or one file with both."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import TRANSPOSED, Entry, KeyMap, rename, renames, stack
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_file import OriginalFile, config_beside, save_pickle
from kandinsky.checkpoints.torchscript import is_torchscript, read_torchscript
from kandinsky.checkpoints.weights import Tensors, read_tensor_file, read_weights
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig

TEXT_CLASS = "CLIPTextModelWithProjection"
VISION_CLASS = "CLIPVisionModelWithProjection"
ARGMAX_EOS: Final = 2
"""The end token's id as older files give it; every reader takes it to mean: pool at the highest id."""
_BLOCK = {"attention.out": "self_attn.out_proj", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
_NORMS = {"norm1": "layer_norm1", "norm2": "layer_norm2"}
_TOWER: fields.Table = {
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 8),
    "mlp_width": ("intermediate_size", 2048),
    "projection": ("projection_dim", 512),
}
_TEXT: fields.Table = {
    **_TOWER,
    "vocab_size": ("vocab_size", 49408),
    "positions": ("max_position_embeddings", 77),
}
_VISION: fields.Table = {
    **_TOWER,
    "width": ("hidden_size", 768),
    "heads": ("num_attention_heads", 12),
    "mlp_width": ("intermediate_size", 3072),
    "image_size": ("image_size", 224),
    "patch": ("patch_size", 32),
}


def _blocks(tower: str) -> list[Entry]:
    native, foreign = "blocks.{i}", f"{tower}.encoder.layers.{{i}}"
    return [
        stack(f"{native}.attention.qkv.{{p}}", *(f"{foreign}.self_attn.{x}_proj.{{p}}" for x in "qkv")),
        *renames(_BLOCK | _NORMS, native, foreign),
    ]


CLIP_TEXT = KeyMap(
    [
        rename("tokens.weight", "text_model.embeddings.token_embedding.weight"),
        rename("positions", "text_model.embeddings.position_embedding.weight"),
        *_blocks("text_model"),
        rename("norm.{p}", "text_model.final_layer_norm.{p}"),
        rename("projection.weight", "text_projection.weight"),
    ],
    ignored=["text_model.embeddings.position_ids"],
)
CLIP_VISION = KeyMap(
    [
        rename("patches.weight", "vision_model.embeddings.patch_embedding.weight"),
        rename("class_token", "vision_model.embeddings.class_embedding"),
        rename("positions", "vision_model.embeddings.position_embedding.weight"),
        *renames({"norm_in": "pre_layrnorm", "norm_out": "post_layernorm"}, "", "vision_model"),
        *_blocks("vision_model"),
        rename("projection.weight", "visual_projection.weight"),
    ],
    ignored=["vision_model.embeddings.position_ids"],
)


def clip_text_config(json: Json) -> ClipTextConfig:
    """Reads a text tower's config.json with diffusers' defaults; CheckpointError for another class or an unknown
    option."""
    _require_tower(json, TEXT_CLASS, "clip_text_model")
    eos = 49407 if json.get("eos_token_id") is None else json["eos_token_id"]
    if isinstance(eos, bool) or not isinstance(eos, int):
        raise CheckpointError(
            f"config.json of a {TEXT_CLASS} has eos_token_id = {eos!r}, expected one whole number.", fields.HINT
        )
    argmax = eos == ARGMAX_EOS
    return fields.build(
        ClipTextConfig,
        **fields.read_sizes(json, _TEXT),
        activation=_activation(json),
        eps=_eps(json),
        eos_id=None if argmax else eos,
        pool="argmax" if argmax else "eos",
    )


def clip_text_json(config: ClipTextConfig) -> dict[str, object]:
    """The config.json of a text tower; CheckpointError for pool "eos" with the id that the format reserves for
    "argmax"."""
    if config.pool == "eos" and config.eos_id == ARGMAX_EOS:
        raise CheckpointError(
            f"An end token of id {ARGMAX_EOS} cannot be written: readers would pool at the highest id.",
            "Give the end token another id.",
        )
    return _tower_json(config, TEXT_CLASS, "clip_text_model", _TEXT) | {
        "eos_token_id": ARGMAX_EOS if config.pool == "argmax" else config.eos_id
    }


def clip_vision_config(json: Json) -> ClipVisionConfig:
    """Reads a vision tower's config.json; see `clip_text_config`."""
    _require_tower(json, VISION_CLASS, "clip_vision_model")
    fields.require(json, VISION_CLASS, num_channels=3)
    return fields.build(
        ClipVisionConfig, **fields.read_sizes(json, _VISION), activation=_activation(json), eps=_eps(json)
    )


def clip_vision_json(config: ClipVisionConfig) -> dict[str, object]:
    """The config.json of a vision tower."""
    return _tower_json(config, VISION_CLASS, "clip_vision_model", _VISION) | {"num_channels": 3}


def _require_tower(json: Json, class_name: str, model_type: str) -> None:
    # A two-tower CLIPModel or a tower without projection differs in its tensors; the file says so here. A
    # null is what transformers writes for a config that never met a model.
    given = {key: value for key, value in json.items() if value is not None}
    fields.require(given, class_name, architectures=[class_name], model_type=model_type)


def _activation(json: Json) -> str:
    return fields.word(json, "hidden_act", "quick_gelu", ("gelu", "quick_gelu"))


def _eps(json: Json) -> float:
    return fields.real(json, "layer_norm_eps", 1e-5, 0, 1)


def _tower_json(
    config: ClipTextConfig | ClipVisionConfig, class_name: str, model_type: str, table: fields.Table
) -> dict[str, object]:
    return {
        "architectures": [class_name],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "hidden_act": config.activation,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": config.eps,
        "model_type": model_type,
        "pad_token_id": None,
        **fields.write_sizes(config, table),
    }


# The original file of both towers and the temperature, or a folder with the same of transformers.

LOGIT_SCALE = "logit_scale"
ORIGINAL_BLOCK = {"norm1": "ln_1", "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
"""The names of a block's parts in transformers of the first release."""


def _original_blocks(foreign: str) -> list[Entry]:
    ours, theirs = "blocks.{i}", f"{foreign}transformer.resblocks.{{i}}"
    return [
        rename(f"{ours}.attention.qkv.{{p}}", f"{theirs}.attn.in_proj_{{p}}"),
        *renames(ORIGINAL_BLOCK | {"attention.out": "attn.out_proj"}, ours, theirs),
    ]


ORIGINAL_CLIP_TEXT = KeyMap(
    [
        rename("tokens.weight", "token_embedding.weight"),
        rename("positions", "positional_embedding"),
        *_original_blocks(""),
        *renames({"norm": "ln_final"}),
        Entry("projection.weight", ("text_projection",), TRANSPOSED),
    ],
    # Single numbers that follow from tensors' shapes.
    ignored=["input_resolution", "context_length", "vocab_size"],
)
ORIGINAL_CLIP_VISION = KeyMap(
    [
        rename("patches.weight", "visual.conv1.weight"),
        rename("class_token", "visual.class_embedding"),
        rename("positions", "visual.positional_embedding"),
        *renames({"norm_in": "visual.ln_pre", "norm_out": "visual.ln_post"}),
        *_original_blocks("visual."),
        Entry("projection.weight", ("visual.proj",), TRANSPOSED),
    ]
)


def infer_clip_text_config(tensors: Mapping[str, Tensor]) -> ClipTextConfig:
    """The sizes of the text tower, read off the file's tensors, heads being 64 wide; CheckpointError for others."""
    vocab_size, width = fields.shape(tensors, "token_embedding.weight", 2)
    return fields.sized(
        ClipTextConfig,
        vocab_size=vocab_size,
        width=width,
        layers=fields.count(tensors, "transformer.resblocks."),
        heads=fields.heads_of(width),
        mlp_width=fields.shape(tensors, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        positions=fields.shape(tensors, "positional_embedding", 2)[0],
        projection=fields.shape(tensors, "text_projection", 2)[1],
        activation="quick_gelu",
        eos_id=None,
        pool="argmax",
    )


def infer_clip_vision_config(tensors: Mapping[str, Tensor]) -> ClipVisionConfig:
    """The sizes of the vision tower, read off the file's tensors, heads being 64 wide; CheckpointError for others."""
    width, _, patch, _ = fields.shape(tensors, "visual.conv1.weight", 4)
    places = fields.shape(tensors, "visual.positional_embedding", 2)[0] - 1
    grid = math.isqrt(max(places, 0))
    if grid * grid != places:
        raise CheckpointError(f"The vision tower has {places} patches, which make no square.", fields.HINT)
    return fields.sized(
        ClipVisionConfig,
        width=width,
        layers=fields.count(tensors, "visual.transformer.resblocks."),
        heads=fields.heads_of(width),
        mlp_width=fields.shape(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        image_size=grid * patch,
        patch=patch,
        projection=fields.shape(tensors, "visual.proj", 2)[1],
        activation="quick_gelu",
    )


def _clip_tensors(path: Path) -> Tensors:
    """All tensors of CLIP: of a TorchScript archive, of a plain file, or of a folder of transformers."""
    if path.is_dir():
        tensors: Tensors = read_weights(path, "model")
        if LOGIT_SCALE not in tensors or not all(
            isinstance(config_beside(path).get(f"{tower}_config"), Mapping) for tower in ("text", "vision")
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


def _tower_part(json: Json, tower: str) -> Json:
    shared = {"projection_dim": json["projection_dim"]} if "projection_dim" in json else {}
    own = json.get(f"{tower}_config")
    return {**shared, **(own if isinstance(own, Mapping) else {})}


def _in_transformers(names: Iterable[str]) -> bool:
    return any(name.startswith(("text_model.", "vision_model.")) for name in names)


def write_clip(folder: OriginalFolder, towers: Iterable[Tensors], scale: Tensor) -> None:
    """Writes the tensors of both towers and the logarithm of their temperature as one file."""
    tensors = {name: tensor for tower in towers for name, tensor in tower.items()}
    save_pickle(folder.root / str(folder.files.clip), {**tensors, LOGIT_SCALE: scale})


ORIGINAL_TEXT = OriginalFile(
    lambda folder, _: folder.clip_towers(),
    lambda tensors, json: clip_text_config(_tower_part(json, "text")) if json else infer_clip_text_config(tensors),
    lambda _, names: CLIP_TEXT if _in_transformers(names) else ORIGINAL_CLIP_TEXT,
    lambda *_: {},  # Both towers go into one file, see `write_clip`.
    read=_clip_tower(vision=False),
    tokenizer=OriginalFolder.clip_vocabulary,
    pad_id=0,
)
ORIGINAL_VISION = OriginalFile(
    lambda folder, _: folder.clip_towers(),
    lambda tensors, json: (
        clip_vision_config(_tower_part(json, "vision")) if json else infer_clip_vision_config(tensors)
    ),
    lambda _, names: CLIP_VISION if _in_transformers(names) else ORIGINAL_CLIP_VISION,
    lambda *_: {},
    read=_clip_tower(vision=True),
)
