"""The text encoder of 2.0 and 2.1 (`MultilingualCLIP`): the same names in folders of both layouts."""

from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap, rename, renames, stack
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.checkpoints.weights import read_weights
from kandinsky.networks.xlmr import MultilingualClipConfig

CLASS = "MultilingualCLIP"
MODEL_TYPE = "M-CLIP"
POOLER = "transformer.pooler.dense.weight"

_BLOCK, _FOREIGN = "blocks.{i}", "transformer.encoder.layer.{i}"
_EMBEDDINGS = "transformer.embeddings"

MCLIP = KeyMap(
    [
        rename("tokens.weight", f"{_EMBEDDINGS}.word_embeddings.weight"),
        rename("positions.weight", f"{_EMBEDDINGS}.position_embeddings.weight"),
        rename("segment", f"{_EMBEDDINGS}.token_type_embeddings.weight"),
        *renames(
            {
                "norm": "transformer.embeddings.LayerNorm",
                "pooler": "transformer.pooler.dense",
                "projection": "LinearTransformation",
            }
        ),
        stack(
            f"{_BLOCK}.attention.qkv.{{p}}",
            *(f"{_FOREIGN}.attention.self.{x}.{{p}}" for x in ("query", "key", "value")),
        ),
        *renames(
            {
                "attention.out": "attention.output.dense",
                "norm1": "attention.output.LayerNorm",
                "mlp.up": "intermediate.dense",
                "mlp.down": "output.dense",
                "norm2": "output.LayerNorm",
            },
            _BLOCK,
            _FOREIGN,
        ),
    ],
    # Older writers stored the indices 0, 1, 2, ... of the table.
    ignored=[f"{_EMBEDDINGS}.position_ids"],
)
_SIZES: fields.Table = {
    "vocab_size": ("vocab_size", MultilingualClipConfig.vocab_size),
    "width": ("hidden_size", MultilingualClipConfig.width),
    "layers": ("num_hidden_layers", MultilingualClipConfig.layers),
    "heads": ("num_attention_heads", MultilingualClipConfig.heads),
    "mlp_width": ("intermediate_size", MultilingualClipConfig.mlp_width),
    "positions": ("max_position_embeddings", MultilingualClipConfig.positions),
    "projection": ("numDims", MultilingualClipConfig.projection),
}
_FIXED: Json = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "type_vocab_size": 1,
}


def mclip_config(json: Json, pooler: bool = True) -> MultilingualClipConfig:
    """Reads a `MultilingualCLIP` config.json; a missing value is the published one. `pooler` says whether the file
    holds the pooling layer. Raises CheckpointError for another class or an unknown option."""
    given = {key: value for key, value in json.items() if value is not None}
    sizes = fields.read_sizes(given, _SIZES)
    fields.require(given, CLASS, architectures=[CLASS], transformerDimensions=sizes["width"], **_FIXED)
    pad_id = fields.whole(given, "pad_token_id", MultilingualClipConfig.pad_id, least=0)
    eps = fields.real(given, "layer_norm_eps", MultilingualClipConfig.eps, 0, 1)
    return fields.build(MultilingualClipConfig, **sizes, pad_id=pad_id, pooler=pooler, eps=eps)


def mclip_json(config: MultilingualClipConfig) -> dict[str, object]:
    """The config.json of the encoder, always with a pooling layer."""
    return {
        "architectures": [CLASS],
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "layer_norm_eps": config.eps,
        "model_type": MODEL_TYPE,
        "pad_token_id": config.pad_id,
        "transformerDimensions": config.width,
        **_FIXED,
        **fields.write_sizes(config, _SIZES),
    }


def infer_mclip_config(
    tensors: Mapping[str, Tensor], heads: int | None = None, pad_id: int = 1
) -> MultilingualClipConfig:
    """The sizes of the encoder, read off its tensors; CheckpointError for other tensors. `heads` None means heads 64
    wide."""
    vocab_size, width = fields.shape(tensors, f"{_EMBEDDINGS}.word_embeddings.weight", 2)
    return fields.sized(
        MultilingualClipConfig,
        vocab_size=vocab_size,
        width=width,
        layers=fields.count(tensors, "transformer.encoder.layer."),
        heads=heads or fields.heads_of(width, fields.HEAD_DIM),
        mlp_width=fields.shape(tensors, "transformer.encoder.layer.0.intermediate.dense.weight", 2)[0],
        positions=fields.shape(tensors, f"{_EMBEDDINGS}.position_embeddings.weight", 2)[0],
        projection=fields.shape(tensors, "LinearTransformation.weight", 2)[0],
        pad_id=pad_id,
        pooler=POOLER in tensors,
    )


def _heads(json: Json) -> int | None:
    heads = json.get("num_attention_heads")
    return heads if isinstance(heads, int) and heads > 0 else None


ORIGINAL_MULTILINGUAL = OriginalFile(
    lambda folder, _: folder.encoder_folder(),
    lambda tensors, json: infer_mclip_config(tensors, _heads(json)),
    lambda *_: MCLIP,
    lambda files, _, tensors: {f"{files.text_encoder}/pytorch_model.bin": tensors},
    read=lambda _, path: read_weights(path, "pytorch_model"),
    describe=mclip_json,
    tokenizer=OriginalFolder.encoder_folder,
)
