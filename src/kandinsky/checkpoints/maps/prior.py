"""The diffusion prior in the diffusers layout (`PriorTransformer`)."""

from collections.abc import Mapping
from typing import Any

from kandinsky.checkpoints.keymap import KeyMap, rename, stack
from kandinsky.checkpoints.maps.configs import require
from kandinsky.checkpoints.maps.options import whole
from kandinsky.core.errors import CheckpointError, nearest
from kandinsky.networks.prior import PriorConfig

CLASS = "PriorTransformer"
_BLOCK, _FOREIGN = "blocks.{i}", "transformer_blocks.{i}"

PRIOR = KeyMap(
    [
        rename("text_in.{p}", "encoder_hidden_states_proj.{p}"),
        rename("embedding_in.{p}", "embedding_proj.{p}"),
        rename("noisy_in.{p}", "proj_in.{p}"),
        rename("time_mlp.up.{p}", "time_embedding.linear_1.{p}"),
        rename("time_mlp.down.{p}", "time_embedding.linear_2.{p}"),
        rename("query", "prd_embedding"),
        rename("positions", "positional_embedding"),
        rename(f"{_BLOCK}.norm1.{{p}}", f"{_FOREIGN}.norm1.{{p}}"),
        stack(f"{_BLOCK}.attention.qkv.{{p}}", *(f"{_FOREIGN}.attn1.to_{x}.{{p}}" for x in "qkv")),
        rename(f"{_BLOCK}.attention.out.{{p}}", f"{_FOREIGN}.attn1.to_out.0.{{p}}"),
        rename(f"{_BLOCK}.norm2.{{p}}", f"{_FOREIGN}.norm3.{{p}}"),
        rename(f"{_BLOCK}.mlp.up.{{p}}", f"{_FOREIGN}.ff.net.0.proj.{{p}}"),
        rename(f"{_BLOCK}.mlp.down.{{p}}", f"{_FOREIGN}.ff.net.2.{{p}}"),
        rename("norm.{p}", "norm_out.{p}"),
        rename("out.{p}", "proj_to_clip_embeddings.{p}"),
        rename("clip_mean", "clip_mean"),
        rename("clip_std", "clip_std"),
    ],
    ignored=["causal_attention_mask"],
)

_FIXED: dict[str, Any] = {
    "added_emb_type": "prd",
    "additional_embeddings": 4,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "norm_in_type": None,
    "time_embed_act_fn": "silu",
}
_SAME_AS: dict[str, str] = {
    "clip_embed_dim": "embedding_dim",
    "embedding_proj_dim": "embedding_dim",
    "time_embed_dim": "num_attention_heads * attention_head_dim",
}


def prior_config(json: Mapping[str, Any]) -> PriorConfig:
    """Reads a `PriorTransformer` config.json; a missing value is the peer's default.

    Raises CheckpointError for a config of another class, an option we do not know, or one we do not offer.
    """
    require(json, CLASS, **_FIXED)
    known = prior_json(PriorConfig(heads=1, head_dim=1, layers=1, embedding_dim=1, text_width=1)).keys()
    for key in json:
        # Every key but the underscored ones is an argument of the network: an unknown one would change it.
        if key not in known and not key.startswith("_"):
            raise CheckpointError(
                f"config.json of a {CLASS} has an unknown option {key}.", nearest(key, known)
            )
    embedding_dim = whole(json, "embedding_dim", 768)
    config = PriorConfig(
        heads=whole(json, "num_attention_heads", 32),
        head_dim=whole(json, "attention_head_dim", 64),
        layers=whole(json, "num_layers", 20),
        embedding_dim=embedding_dim,
        text_width=embedding_dim,
        tokens=whole(json, "num_embeddings", 77),
    )
    for key, other in _SAME_AS.items():
        wanted = config.width if key == "time_embed_dim" else embedding_dim
        if json.get(key) not in (None, wanted):
            raise CheckpointError(
                f"config.json of a {CLASS} has {key} = {json[key]!r}, this network is made for {wanted}.",
                f"Only {key} = {other} is offered.",
            )
    return config


def prior_json(config: PriorConfig) -> dict[str, Any]:
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
    return {
        "_class_name": CLASS,
        **_FIXED,
        "attention_head_dim": config.head_dim,
        "clip_embed_dim": None,
        "dropout": 0.0,
        "embedding_dim": config.embedding_dim,
        "embedding_proj_dim": None,
        "num_attention_heads": config.heads,
        "num_embeddings": config.tokens,
        "num_layers": config.layers,
        "time_embed_dim": None,
    }
