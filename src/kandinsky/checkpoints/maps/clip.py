"""CLIP's towers in published folders: `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`."""

from collections.abc import Mapping
from typing import Any, cast

from kandinsky.checkpoints.keymap import Entry, KeyMap, rename, stack
from kandinsky.checkpoints.maps.configs import build, require
from kandinsky.checkpoints.maps.options import whole, word
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipActivation, ClipTextConfig, ClipVisionConfig

TEXT_CLASS = "CLIPTextModelWithProjection"
VISION_CLASS = "CLIPVisionModelWithProjection"
ARGMAX_EOS = 2
"""The end token's id as older files give it; every reader takes it to mean: pool at the highest id."""


def _blocks(tower: str) -> list[Entry]:
    native, foreign = "blocks.{i}", f"{tower}.encoder.layers.{{i}}"
    return [
        rename(f"{native}.norm1.{{p}}", f"{foreign}.layer_norm1.{{p}}"),
        stack(f"{native}.attention.qkv.{{p}}", *(f"{foreign}.self_attn.{x}_proj.{{p}}" for x in "qkv")),
        rename(f"{native}.attention.out.{{p}}", f"{foreign}.self_attn.out_proj.{{p}}"),
        rename(f"{native}.norm2.{{p}}", f"{foreign}.layer_norm2.{{p}}"),
        rename(f"{native}.mlp.up.{{p}}", f"{foreign}.mlp.fc1.{{p}}"),
        rename(f"{native}.mlp.down.{{p}}", f"{foreign}.mlp.fc2.{{p}}"),
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
        rename("norm_in.{p}", "vision_model.pre_layrnorm.{p}"),
        *_blocks("vision_model"),
        rename("norm_out.{p}", "vision_model.post_layernorm.{p}"),
        rename("projection.weight", "visual_projection.weight"),
    ],
    ignored=["vision_model.embeddings.position_ids"],
)


def clip_text_config(json: Mapping[str, Any]) -> ClipTextConfig:
    """Reads a text tower's config.json; a missing value is the peer's default.

    Raises CheckpointError for a config of another class, or for anything our tower does not do.
    """
    _require_tower(json, TEXT_CLASS, "clip_text_model")
    eos = json.get("eos_token_id", 49407)
    if isinstance(eos, bool) or not isinstance(eos, int):
        raise CheckpointError(
            f"config.json of a {TEXT_CLASS} has eos_token_id = {eos!r}, expected one whole number.",
            "The file is damaged or of another model.",
        )
    argmax = eos == ARGMAX_EOS
    return build(
        ClipTextConfig,
        vocab_size=whole(json, "vocab_size", 49408),
        width=whole(json, "hidden_size", 512),
        layers=whole(json, "num_hidden_layers", 12),
        heads=whole(json, "num_attention_heads", 8),
        mlp_width=whole(json, "intermediate_size", 2048),
        positions=whole(json, "max_position_embeddings", 77),
        projection=whole(json, "projection_dim", 512),
        activation=_activation(json),
        eos_id=None if argmax else eos,
        pool="argmax" if argmax else "eos",
    )


def clip_text_json(config: ClipTextConfig) -> dict[str, Any]:
    """The config.json with which the peer builds the same text tower.

    Raises CheckpointError for pool "eos" with the one id that the format keeps for "argmax".
    """
    if config.pool == "eos" and config.eos_id == ARGMAX_EOS:
        raise CheckpointError(
            f"An end token of id {ARGMAX_EOS} cannot be written: readers would pool at the highest id.",
            "Give the end token another id.",
        )
    return _tower_json(config, TEXT_CLASS, "clip_text_model") | {
        "eos_token_id": ARGMAX_EOS if config.pool == "argmax" else config.eos_id,
        "max_position_embeddings": config.positions,
        "vocab_size": config.vocab_size,
    }


def clip_vision_config(json: Mapping[str, Any]) -> ClipVisionConfig:
    """Reads a vision tower's config.json; a missing value is the peer's default.

    Raises CheckpointError for a config of another class, or for anything our tower does not do.
    """
    _require_tower(json, VISION_CLASS, "clip_vision_model")
    require(json, VISION_CLASS, num_channels=3)
    return build(
        ClipVisionConfig,
        width=whole(json, "hidden_size", 768),
        layers=whole(json, "num_hidden_layers", 12),
        heads=whole(json, "num_attention_heads", 12),
        mlp_width=whole(json, "intermediate_size", 3072),
        image_size=whole(json, "image_size", 224),
        patch=whole(json, "patch_size", 32),
        projection=whole(json, "projection_dim", 512),
        activation=_activation(json),
    )


def clip_vision_json(config: ClipVisionConfig) -> dict[str, Any]:
    """The config.json with which the peer builds the same vision tower."""
    return _tower_json(config, VISION_CLASS, "clip_vision_model") | {
        "image_size": config.image_size,
        "num_channels": 3,
        "patch_size": config.patch,
    }


def _require_tower(json: Mapping[str, Any], class_name: str, model_type: str) -> None:
    # A two-tower CLIPModel or a tower without projection differs in its tensors; the file says so here. A
    # null is what the peer writes for a config that never met a model.
    given = {key: value for key, value in json.items() if value is not None}
    require(given, class_name, architectures=[class_name], model_type=model_type, layer_norm_eps=1e-5)


def _activation(json: Mapping[str, Any]) -> ClipActivation:
    return cast(ClipActivation, word(json, "hidden_act", "quick_gelu", ("gelu", "quick_gelu")))


def _tower_json(
    config: ClipTextConfig | ClipVisionConfig, class_name: str, model_type: str
) -> dict[str, Any]:
    return {
        "architectures": [class_name],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": 1e-05,
        "model_type": model_type,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": None,
        "projection_dim": config.projection,
    }
