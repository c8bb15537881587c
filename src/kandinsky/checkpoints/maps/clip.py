"""CLIP's towers in published folders: `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`."""

from collections.abc import Mapping
from typing import Final

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import Entry, KeyMap, rename, renames, stack
from kandinsky.checkpoints.maps.config_fields import HINT, Field, build, read_sizes, require, word, write_sizes
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig

TEXT_CLASS = "CLIPTextModelWithProjection"
VISION_CLASS = "CLIPVisionModelWithProjection"
ARGMAX_EOS: Final = 2
"""The end token's id as older files give it; every reader takes it to mean: pool at the highest id."""
_BLOCK = {"attention.out": "self_attn.out_proj", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
_NORMS = {"norm1": "layer_norm1", "norm2": "layer_norm2"}
_TOWER: Mapping[str, Field] = {
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 8),
    "mlp_width": ("intermediate_size", 2048),
    "projection": ("projection_dim", 512),
}
_TEXT: Mapping[str, Field] = {
    **_TOWER,
    "vocab_size": ("vocab_size", 49408),
    "positions": ("max_position_embeddings", 77),
}
_VISION: Mapping[str, Field] = {
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
    """Reads a text tower's config.json; a missing value is the peer's default.

    Raises CheckpointError for a config of another class, or for anything our tower does not do.
    """
    _require_tower(json, TEXT_CLASS, "clip_text_model")
    eos = json.get("eos_token_id", 49407)
    if isinstance(eos, bool) or not isinstance(eos, int):
        raise CheckpointError(
            f"config.json of a {TEXT_CLASS} has eos_token_id = {eos!r}, expected one whole number.", HINT
        )
    argmax = eos == ARGMAX_EOS
    return build(
        ClipTextConfig,
        **read_sizes(json, _TEXT),
        activation=_activation(json),
        eos_id=None if argmax else eos,
        pool="argmax" if argmax else "eos",
    )


def clip_text_json(config: ClipTextConfig) -> dict[str, object]:
    """The config.json with which the peer builds the same text tower.

    Raises CheckpointError for pool "eos" with the one id that the format keeps for "argmax".
    """
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
    require(json, VISION_CLASS, num_channels=3)
    return build(ClipVisionConfig, **read_sizes(json, _VISION), activation=_activation(json))


def clip_vision_json(config: ClipVisionConfig) -> dict[str, object]:
    """The config.json with which the peer builds the same vision tower."""
    return _tower_json(config, VISION_CLASS, "clip_vision_model", _VISION) | {"num_channels": 3}


def _require_tower(json: Json, class_name: str, model_type: str) -> None:
    # A two-tower CLIPModel or a tower without projection differs in its tensors; the file says so here. A
    # null is what the peer writes for a config that never met a model.
    given = {key: value for key, value in json.items() if value is not None}
    require(given, class_name, architectures=[class_name], model_type=model_type, layer_norm_eps=1e-5)


def _activation(json: Json) -> str:
    return word(json, "hidden_act", "quick_gelu", ("gelu", "quick_gelu"))


def _tower_json(
    config: ClipTextConfig | ClipVisionConfig, class_name: str, model_type: str, fields: Mapping[str, Field]
) -> dict[str, object]:
    return {
        "architectures": [class_name],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "hidden_act": config.activation,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "model_type": model_type,
        "pad_token_id": None,
        **write_sizes(config, fields),
    }
