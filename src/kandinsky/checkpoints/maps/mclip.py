"""The text encoder of 2.0 and 2.1 (`MultilingualCLIP`): the same names in folders of both layouts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kandinsky.checkpoints.keymap import KeyMap, rename, stack
from kandinsky.checkpoints.maps.configs import build, require
from kandinsky.checkpoints.maps.options import whole
from kandinsky.checkpoints.maps.sizes import HEAD_DIM, count, heads_of, shape, sized
from kandinsky.networks.xlmr import MultilingualClipConfig

CLASS = "MultilingualCLIP"
MODEL_TYPE = "M-CLIP"

_BLOCK, _FOREIGN = "blocks.{i}", "transformer.encoder.layer.{i}"
_EMBEDDINGS = "transformer.embeddings"

MCLIP = KeyMap(
    [
        rename("tokens.weight", f"{_EMBEDDINGS}.word_embeddings.weight"),
        rename("positions.weight", f"{_EMBEDDINGS}.position_embeddings.weight"),
        rename("segment", f"{_EMBEDDINGS}.token_type_embeddings.weight"),
        rename("norm.{p}", f"{_EMBEDDINGS}.LayerNorm.{{p}}"),
        stack(
            f"{_BLOCK}.attention.qkv.{{p}}",
            *(f"{_FOREIGN}.attention.self.{x}.{{p}}" for x in ("query", "key", "value")),
        ),
        rename(f"{_BLOCK}.attention.out.{{p}}", f"{_FOREIGN}.attention.output.dense.{{p}}"),
        rename(f"{_BLOCK}.norm1.{{p}}", f"{_FOREIGN}.attention.output.LayerNorm.{{p}}"),
        rename(f"{_BLOCK}.mlp.up.{{p}}", f"{_FOREIGN}.intermediate.dense.{{p}}"),
        rename(f"{_BLOCK}.mlp.down.{{p}}", f"{_FOREIGN}.output.dense.{{p}}"),
        rename(f"{_BLOCK}.norm2.{{p}}", f"{_FOREIGN}.output.LayerNorm.{{p}}"),
        rename("pooler.{p}", "transformer.pooler.dense.{p}"),
        rename("projection.{p}", "LinearTransformation.{p}"),
    ],
    # Older writers stored the numbers 0, 1, 2, ... beside the table they index.
    ignored=[f"{_EMBEDDINGS}.position_ids"],
)
_FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "absolute",
    "type_vocab_size": 1,
}


def mclip_config(json: Mapping[str, Any], pooler: bool = True) -> MultilingualClipConfig:
    """Reads a `MultilingualCLIP` config.json; a missing value is that of the published encoder.

    `pooler` says whether the file holds the pooling layer, which the configuration does not tell. Raises
    CheckpointError for a config of another class, or for anything our encoder does not do.
    """
    given = {key: value for key, value in json.items() if value is not None}
    width = whole(given, "hidden_size", MultilingualClipConfig.width)
    require(given, CLASS, architectures=[CLASS], transformerDimensions=width, **_FIXED)
    return build(
        MultilingualClipConfig,
        vocab_size=whole(given, "vocab_size", MultilingualClipConfig.vocab_size),
        width=width,
        layers=whole(given, "num_hidden_layers", MultilingualClipConfig.layers),
        heads=whole(given, "num_attention_heads", MultilingualClipConfig.heads),
        mlp_width=whole(given, "intermediate_size", MultilingualClipConfig.mlp_width),
        positions=whole(given, "max_position_embeddings", MultilingualClipConfig.positions),
        projection=whole(given, "numDims", MultilingualClipConfig.projection),
        pad_id=whole(given, "pad_token_id", MultilingualClipConfig.pad_id, least=0),
        pooler=pooler,
    )


def mclip_json(config: MultilingualClipConfig) -> dict[str, Any]:
    """The config.json with which the peer builds the same encoder, always with a pooling layer."""
    return {
        "architectures": [CLASS],
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "model_type": MODEL_TYPE,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "numDims": config.projection,
        "pad_token_id": config.pad_id,
        "transformerDimensions": config.width,
        "vocab_size": config.vocab_size,
        **_FIXED,
    }


def infer_mclip_config(
    tensors: Mapping[str, Tensor], heads: int | None = None, pad_id: int = 1
) -> MultilingualClipConfig:
    """The sizes of the encoder, read off a file's tensors.

    `heads` is the number of attention heads, which they do not tell (None: heads 64 wide), nor do they tell
    the id of padding. Raises CheckpointError when the tensors are not those of such an encoder.
    """
    vocab_size, width = shape(tensors, f"{_EMBEDDINGS}.word_embeddings.weight", 2)
    return sized(
        MultilingualClipConfig,
        vocab_size=vocab_size,
        width=width,
        layers=count(tensors, "transformer.encoder.layer."),
        heads=heads or heads_of(width, HEAD_DIM),
        mlp_width=shape(tensors, "transformer.encoder.layer.0.intermediate.dense.weight", 2)[0],
        positions=shape(tensors, f"{_EMBEDDINGS}.position_embeddings.weight", 2)[0],
        projection=shape(tensors, "LinearTransformation.weight", 2)[0],
        pad_id=pad_id,
        pooler="transformer.pooler.dense.weight" in tensors,
    )
