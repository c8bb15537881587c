"""The diffusion prior in the diffusers layout (`PriorTransformer`)."""

from collections.abc import Mapping

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap, rename, renames, stack
from kandinsky.checkpoints.maps.config_fields import Field, build, read_sizes, require, write_sizes
from kandinsky.core.errors import CheckpointError, nearest
from kandinsky.networks.prior import PriorConfig

CLASS = "PriorTransformer"
_BLOCK, _FOREIGN = "blocks.{i}", "transformer_blocks.{i}"

PRIOR = KeyMap(
    [
        *renames(
            {
                "text_in": "encoder_hidden_states_proj",
                "embedding_in": "embedding_proj",
                "noisy_in": "proj_in",
                "time_mlp.up": "time_embedding.linear_1",
                "time_mlp.down": "time_embedding.linear_2",
                "norm": "norm_out",
                "out": "proj_to_clip_embeddings",
            }
        ),
        rename("query", "prd_embedding"),
        rename("positions", "positional_embedding"),
        stack(f"{_BLOCK}.attention.qkv.{{p}}", *(f"{_FOREIGN}.attn1.to_{x}.{{p}}" for x in "qkv")),
        *renames(
            {
                "attention.out": "attn1.to_out.0",
                "norm1": "norm1",
                "norm2": "norm3",
                "mlp.up": "ff.net.0.proj",
                "mlp.down": "ff.net.2",
            },
            _BLOCK,
            _FOREIGN,
        ),
        rename("clip_mean", "clip_mean"),
        rename("clip_std", "clip_std"),
    ],
    ignored=["causal_attention_mask"],
)

_FIXED: Json = {
    "added_emb_type": "prd",
    "additional_embeddings": 4,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "norm_in_type": None,
    "time_embed_act_fn": "silu",
}
_SIZES: Mapping[str, Field] = {
    "heads": ("num_attention_heads", 32),
    "head_dim": ("attention_head_dim", 64),
    "layers": ("num_layers", 20),
    "embedding_dim": ("embedding_dim", 768),
    "tokens": ("num_embeddings", 77),
}
_OPEN = {"clip_embed_dim": None, "dropout": 0.0, "embedding_proj_dim": None, "time_embed_dim": None}
"""Values of which any will do that goes with the sizes."""


def prior_config(json: Json) -> PriorConfig:
    """Reads a `PriorTransformer` config.json; a missing value is the peer's default.

    Raises CheckpointError for a config of another class, an option we do not know, or one we do not offer.
    """
    require(json, CLASS, **_FIXED)
    known = (*_FIXED, *_OPEN, *(key for key, _ in _SIZES.values()))
    for key in json:
        # Every key but the underscored ones is an argument of the network: an unknown one would change it.
        if key not in known and not key.startswith("_"):
            raise CheckpointError(f"config.json of a {CLASS} has an unknown option {key}.", nearest(key, known))
    sizes = read_sizes(json, _SIZES)
    config = build(PriorConfig, **sizes, text_width=sizes["embedding_dim"])
    given = {key: value for key, value in json.items() if key in _OPEN and value is not None}
    width, dim = config.width, config.embedding_dim
    require(given, CLASS, clip_embed_dim=dim, embedding_proj_dim=dim, time_embed_dim=width)
    return config


def prior_json(config: PriorConfig) -> dict[str, object]:
    """The config.json with which the peer builds the same prior.

    Raises CheckpointError when the text's hidden states are not as wide as the embeddings: the format has one
    number for both.
    """
    if config.text_width != config.embedding_dim:
        raise CheckpointError(
            f"A prior with text_width = {config.text_width} and embedding_dim = {config.embedding_dim} "
            "has no place in this format.",
            "Give both the same size.",
        )
    return {"_class_name": CLASS, **_FIXED, **_OPEN, **write_sizes(config, _SIZES)}
