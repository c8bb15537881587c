"""The U-Net of the original files of 3.x: `kandinsky3*.pt`, and `projection*.pt` beside the text encoder.

The first release keeps the projection of the text encoder's states in the U-Net's file, the second in one of
its own.
"""

from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.config_fields import HEAD_DIM, HINT, count, shape, sized
from kandinsky.checkpoints.maps.unet3 import Names, unet3_map
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.unet3 import UNet3Config

NULL = "null_embedding"
PROJECTION = "projection."
"""What we put before the names of the projection's tensors, to tell them from the U-Net's."""
_NESTED, _EMBEDDED, _ENCODER = "unet", "projections", "t5."
_ORIGINAL = Names(
    top={
        "time_mlp.0": "to_time_embed.1",
        "time_mlp.2": "to_time_embed.3",
        "projection.linear": f"{PROJECTION}0",
        "projection.norm": f"{PROJECTION}1",
        "conv_in": "in_layer",
        "norm_out": "out_layer.0",
        "conv_out": "out_layer.2",
        "pooling": "feature_pooling.attention",
    },
    down="down_samples",
    up="up_samples",
    self_attention="self_attention_block",
    first="resnet_attn_blocks.{0}.0",
    attention="resnet_attn_blocks.{0}.1",
    second="resnet_attn_blocks.{0}.2",
    projections=("to_query", "to_key", "to_value"),
    out="output_layer",
)


def original_unet3_map(config: UNet3Config) -> KeyMap:
    """The names of a U-Net of these sizes in original files, as `gathered` puts them together."""
    return unet3_map(config, _ORIGINAL)


def infer_unet3_config(tensors: Mapping[str, Tensor], head_dim: int = HEAD_DIM) -> UNet3Config:
    """The sizes of a U-Net, read off its gathered tensors.

    `head_dim` is the width of an attention head, which they do not tell. Raises CheckpointError when the
    tensors are not those of such a network.
    """
    levels = count(tensors, "down_samples.")
    ends = [f"down_samples.{i}.resnet_attn_blocks.0.0.resnet_blocks.3.projection.weight" for i in range(levels)]
    context_dim, text_dim = shape(tensors, f"{PROJECTION}0.weight", 2)
    return sized(
        UNet3Config,
        in_channels=shape(tensors, "in_layer.weight", 4)[1],
        out_channels=shape(tensors, "out_layer.2.weight", 4)[0],
        channels=tuple(shape(tensors, name, 4)[0] for name in ends),
        layers=count(tensors, "down_samples.0.resnet_attn_blocks."),
        time_dim=shape(tensors, "to_time_embed.1.weight", 2)[0],
        head_dim=head_dim,
        context_dim=context_dim,
        text_dim=text_dim,
        null_embedding=NULL in tensors,
    )


def embeds_projection(content: object) -> bool:
    """Whether a U-Net's file holds the projection too, as the first release's does."""
    return isinstance(content, Mapping) and _EMBEDDED in content


def gathered(content: object, projection: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All tensors of a U-Net under flat names, from its file's content and that of the projection's file.

    `projection` is None where the U-Net's file holds it. Raises CheckpointError for a file of another form.
    """
    nested = content.get(_NESTED) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not _is_tensors(nested):
        raise CheckpointError(f"There are no named tensors under {_NESTED!r}.", HINT)
    tensors = dict(nested or {})
    others = {name: value for name, value in content.items() if name not in (_NESTED, _EMBEDDED)}
    if not _is_tensors(others):
        raise CheckpointError(f"There is more than tensors beside {_NESTED!r}.", HINT)
    if projection is None:
        embedded = content.get(_EMBEDDED)
        if not _is_tensors(embedded):
            raise CheckpointError(f"There are no named tensors under {_EMBEDDED!r}.", HINT)
        projection = {name.removeprefix(_ENCODER): tensor for name, tensor in (embedded or {}).items()}
    return {**tensors, **others, **{f"{PROJECTION}{name}": value for name, value in projection.items()}}


def scattered(tensors: Mapping[str, Tensor], embed: bool = False) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The contents of a U-Net's file and of its projection's, from gathered tensors.

    With `embed` the U-Net's file holds the projection too, as in the first release.
    """
    projection = {
        name.removeprefix(PROJECTION): tensor for name, tensor in tensors.items() if name.startswith(PROJECTION)
    }
    beside = {NULL: tensors[NULL]} if NULL in tensors else {}
    rest = {name: tensor for name, tensor in tensors.items() if name != NULL and not name.startswith(PROJECTION)}
    embedded = {_EMBEDDED: {f"{_ENCODER}{name}": tensor for name, tensor in projection.items()}}
    return {_NESTED: rest, **beside, **(embedded if embed else {})}, projection


def _is_tensors(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
