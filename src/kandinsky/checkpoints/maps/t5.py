"""The T5 encoders of 2.0 (`MT5EncoderModel`) and 3.x (`T5EncoderModel`) in transformers' names."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from kandinsky.checkpoints.keymap import Entry, KeyMap, rename
from kandinsky.checkpoints.layouts import TIED
from kandinsky.checkpoints.maps.configs import build, require
from kandinsky.checkpoints.maps.options import whole, word
from kandinsky.checkpoints.maps.sizes import HINT, count, shape, sized
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.t5 import GateName, T5Config

ModelType = Literal["t5", "mt5"]
CLASSES: dict[ModelType, str] = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}
TABLES = ("shared.weight", "encoder.embed_tokens.weight")
"""The names under which files hold the one table of tokens: the first, the second, or both."""

_GATES: dict[str, GateName] = {"gated-gelu": "gelu_tanh", "gated-silu": "silu"}
_ATTENTION, _MLP = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
_ENTRIES = [
    rename("distances.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    rename("blocks.{i}.norm1.weight", f"{_ATTENTION}.layer_norm.weight"),
    rename("blocks.{i}.q.weight", f"{_ATTENTION}.SelfAttention.q.weight"),
    rename("blocks.{i}.k.weight", f"{_ATTENTION}.SelfAttention.k.weight"),
    rename("blocks.{i}.v.weight", f"{_ATTENTION}.SelfAttention.v.weight"),
    rename("blocks.{i}.out.weight", f"{_ATTENTION}.SelfAttention.o.weight"),
    rename("blocks.{i}.norm2.weight", f"{_MLP}.layer_norm.weight"),
    rename("blocks.{i}.gate.weight", f"{_MLP}.DenseReluDense.wi_0.weight"),
    rename("blocks.{i}.up.weight", f"{_MLP}.DenseReluDense.wi_1.weight"),
    rename("blocks.{i}.down.weight", f"{_MLP}.DenseReluDense.wo.weight"),
    rename("norm.weight", "encoder.final_layer_norm.weight"),
]


def t5_map(names: Iterable[str] = TABLES[:1]) -> KeyMap:
    """The names of an encoder in a file with these `names`; by default as the peer writes its files.

    Files differ in how often they hold the table of tokens. Raises CheckpointError when `names` has none.
    """
    tables = tuple(sorted(set(names) & set(TABLES), reverse=True))
    if not tables:
        raise CheckpointError(f"The file has no table of tokens, {' or '.join(TABLES)}.", HINT)
    return KeyMap([Entry("tokens.weight", tables, TIED), *_ENTRIES])


def without_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors of a file that may hold the whole sequence-to-sequence model."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("decoder.") and name != "lm_head.weight"
    }


def t5_config(json: Mapping[str, Any]) -> T5Config:
    """Reads the config.json of an encoder, or of the whole model it is a part of.

    Raises CheckpointError for a missing size, a config of another model, or anything our encoder does not do.
    """
    model_type = word(json, "model_type", "t5", tuple(CLASSES))
    require(json, CLASSES["mt5" if model_type == "mt5" else "t5"], layer_norm_epsilon=1e-6)
    gate = word(json, "feed_forward_proj", "gated-gelu" if model_type == "mt5" else "relu", tuple(_GATES))
    return build(
        T5Config,
        vocab_size=whole(json, "vocab_size", 0),  # sizes have no default: a missing one is refused
        width=whole(json, "d_model", 0),
        layers=whole(json, "num_layers", 0),
        heads=whole(json, "num_heads", 0),
        head_dim=whole(json, "d_kv", 0),
        mlp_width=whole(json, "d_ff", 0),
        gate=_GATES[gate],
        buckets=whole(json, "relative_attention_num_buckets", 32),
        max_distance=whole(json, "relative_attention_max_distance", 128),
    )


def t5_json(config: T5Config, model_type: ModelType) -> dict[str, Any]:
    """The config.json with which the peer builds the same encoder."""
    names = {gate: name for name, gate in _GATES.items()}
    return {
        "architectures": [CLASSES[model_type]],
        "d_ff": config.mlp_width,
        "d_kv": config.head_dim,
        "d_model": config.width,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": names[config.gate],
        "initializer_factor": 1.0,
        "is_encoder_decoder": False,
        "layer_norm_epsilon": 1e-6,
        "model_type": model_type,
        "num_heads": config.heads,
        "num_layers": config.layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.max_distance,
        "relative_attention_num_buckets": config.buckets,
        "vocab_size": config.vocab_size,
    }


def infer_t5_config(tensors: Mapping[str, Tensor], gate: GateName, max_distance: int = 128) -> T5Config:
    """The sizes of an encoder, read off a file's tensors, which tell neither the gate nor the largest
    distance.

    Raises CheckpointError when the tensors are not those of such an encoder.
    """
    table = next((name for name in TABLES if name in tensors), TABLES[0])
    vocab_size, width = shape(tensors, table, 2)
    first = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = shape(tensors, f"{first}.relative_attention_bias.weight", 2)
    head_dim, rest = divmod(shape(tensors, f"{first}.q.weight", 2)[0], heads)
    if rest:
        raise CheckpointError(f"{heads} heads do not divide the rows of {first}.q.weight.", HINT)
    return sized(
        T5Config,
        vocab_size=vocab_size,
        width=width,
        layers=count(tensors, "encoder.block."),
        heads=heads,
        head_dim=head_dim,
        mlp_width=shape(tensors, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        gate=gate,
        buckets=buckets,
        max_distance=max_distance,
    )
