"""The T5 encoders of 2.0 (`MT5EncoderModel`) and 3.x (`T5EncoderModel`) in transformers' names."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import TIED, Entry, KeyMap, rename, renames
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.checkpoints.weights import read_weights
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.t5 import GateName, T5Config

ModelType = Literal["t5", "mt5"]
CLASSES: dict[ModelType, str] = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}
TABLES = ("shared.weight", "encoder.embed_tokens.weight")
"""The names under which files hold the one table of tokens: the first, the second, or both."""

_GATES: dict[str, GateName] = {"gated-gelu": "gelu_tanh", "gated-silu": "silu"}
_ATTENTION, _MLP = "layer.0.SelfAttention", "layer.1.DenseReluDense"
_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "q": f"{_ATTENTION}.q",
    "k": f"{_ATTENTION}.k",
    "v": f"{_ATTENTION}.v",
    "out": f"{_ATTENTION}.o",
    "norm2": "layer.1.layer_norm",
    "gate": f"{_MLP}.wi_0",
    "up": f"{_MLP}.wi_1",
    "down": f"{_MLP}.wo",
}
_ENTRIES = [
    rename("distances.weight", f"encoder.block.0.{_ATTENTION}.relative_attention_bias.weight"),
    *renames(_BLOCK, "blocks.{i}", "encoder.block.{i}"),
    rename("norm.weight", "encoder.final_layer_norm.weight"),
]
_SIZES: fields.Table = {
    "vocab_size": ("vocab_size", 0),
    "width": ("d_model", 0),
    "layers": ("num_layers", 0),
    "heads": ("num_heads", 0),
    "head_dim": ("d_kv", 0),
    "mlp_width": ("d_ff", 0),
    "buckets": ("relative_attention_num_buckets", 32),
    "max_distance": ("relative_attention_max_distance", 128),
}


def t5_map(names: Iterable[str] = TABLES[:1]) -> KeyMap:
    """The names of an encoder in a file with these `names`, by default those of transformers. Files hold the table of
    tokens once or twice; CheckpointError for none."""
    tables = tuple(sorted(set(names) & set(TABLES), reverse=True))
    if not tables:
        raise CheckpointError(f"The file has no table of tokens, {' or '.join(TABLES)}.", fields.HINT)
    return KeyMap([Entry("tokens.weight", tables, TIED), *_ENTRIES])


def without_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors of a file that may hold the whole sequence-to-sequence model."""
    return {
        name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.") and name != "lm_head.weight"
    }


def t5_config(json: Json) -> T5Config:
    """Reads the config.json of an encoder or of the whole model; CheckpointError for a missing size, another model or
    an unknown option."""
    model_type = fields.word(json, "model_type", "t5", tuple(CLASSES))
    fields.require(json, CLASSES["mt5" if model_type == "mt5" else "t5"])
    gate = fields.word(json, "feed_forward_proj", "gated-gelu" if model_type == "mt5" else "relu", tuple(_GATES))
    eps = fields.real(json, "layer_norm_epsilon", T5Config.eps, 0, 1)
    return fields.build(T5Config, **fields.read_sizes(json, _SIZES), gate=_GATES[gate], eps=eps)


def t5_json(config: T5Config, model_type: ModelType) -> dict[str, object]:
    """The config.json of the encoder."""
    names = {gate: name for name, gate in _GATES.items()}
    return {
        "architectures": [CLASSES[model_type]],
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": names[config.gate],
        "initializer_factor": 1.0,
        "is_encoder_decoder": False,
        "layer_norm_epsilon": config.eps,
        "model_type": model_type,
        "pad_token_id": 0,
        **fields.write_sizes(config, _SIZES),
    }


def infer_t5_config(tensors: Mapping[str, Tensor], gate: GateName, max_distance: int = 128) -> T5Config:
    """The sizes of an encoder, read off its tensors but for the gate and the largest distance; CheckpointError for
    other tensors."""
    table = next((name for name in TABLES if name in tensors), TABLES[0])
    vocab_size, width = fields.shape(tensors, table, 2)
    first = f"encoder.block.0.{_ATTENTION}"
    buckets, heads = fields.shape(tensors, f"{first}.relative_attention_bias.weight", 2)
    head_dim, rest = divmod(fields.shape(tensors, f"{first}.q.weight", 2)[0], heads)
    if rest:
        raise CheckpointError(f"{heads} heads do not divide the rows of {first}.q.weight.", fields.HINT)
    return fields.sized(
        T5Config,
        vocab_size=vocab_size,
        width=width,
        layers=fields.count(tensors, "encoder.block."),
        heads=heads,
        head_dim=head_dim,
        mlp_width=fields.shape(tensors, f"encoder.block.0.{_MLP}.wi_0.weight", 2)[0],
        gate=gate,
        buckets=buckets,
        max_distance=max_distance,
    )


ORIGINAL_SECOND_TEXT = OriginalFile(
    lambda folder, _: folder.second_encoder_folder(),
    lambda tensors, _: infer_t5_config(tensors, "gelu_tanh"),
    lambda _, names: t5_map(names),
    lambda files, _, tensors: {f"{files.second_text_encoder}/pytorch_model.bin": tensors},
    read=lambda _, path: without_decoder(read_weights(path, "pytorch_model")),
    describe=lambda config: t5_json(config, "mt5"),
    names=TABLES,
    tokenizer=OriginalFolder.second_encoder_folder,
)
ORIGINAL_ONE_TEXT = replace(
    ORIGINAL_SECOND_TEXT,
    place=lambda folder, _: folder.encoder_folder(),
    infer=lambda tensors, json: t5_config(json) if json else infer_t5_config(tensors, "silu"),
    contents=lambda files, _, tensors: {f"{files.text_encoder}/pytorch_model.bin": tensors},
    read=lambda _, path: without_decoder(read_weights(path, "model")),
    describe=lambda config: t5_json(config, "t5"),
    tokenizer=OriginalFolder.encoder_folder,
)
