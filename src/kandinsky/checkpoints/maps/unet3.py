"""The 3.x U-Net: `Kandinsky3UNet`, or original files: `kandinsky3*.pt`, and `projection*.pt` with the text encoder.

The first original release keeps the projection of the text encoder's states in the U-Net's file, the second in one of
its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import Entry, KeyMap, convolution, rename, renames, stack
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.maps.original_files import OriginalFiles
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.checkpoints.untrusted_pickle import read_pickle
from kandinsky.checkpoints.weights import Tensors, read_tensor_file
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.unet3 import UNet3Config

CLASS = "Kandinsky3UNet"


@dataclass(frozen=True)
class Names:
    """The names in which two layouts differ.

    `top` has the names outside the levels. `first`, `attention` and `second` have places for the triple's number and
    the next one. `projections` are those of queries, keys and values.
    """

    top: Mapping[str, str]
    down: str
    up: str
    self_attention: str
    first: str
    attention: str
    second: str
    projections: tuple[str, str, str]
    out: str


DIFFUSERS = Names(
    top={
        "time_mlp.0": "time_embedding.linear_1",
        "time_mlp.2": "time_embedding.linear_2",
        "projection.linear": "encoder_hid_proj.projection_linear",
        "projection.norm": "encoder_hid_proj.projection_norm",
        "conv_in": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
        "pooling": "add_time_condition.attention",
    },
    down="down_blocks",
    up="up_blocks",
    self_attention="attentions.0",
    first="resnets_in.{0}",
    attention="attentions.{1}",
    second="resnets_out.{0}",
    projections=("to_q", "to_k", "to_v"),
    out="to_out.0",
)


_RESNET = {
    "upsample": "shortcut_up_sample",
    "shortcut": "shortcut_projection",
    "downsample": "shortcut_down_sample",
    "convolutions.{k}.norm.film": "resnet_blocks.{k}.group_norm.context_mlp.1",
    "convolutions.{k}.upsample": "resnet_blocks.{k}.up_sample",
    "convolutions.{k}.conv": "resnet_blocks.{k}.projection",
    "convolutions.{k}.downsample": "resnet_blocks.{k}.down_sample",
}


def _over_context(native: str, foreign: str, names: Names) -> Iterable[Entry]:
    q, k, v = (f"{foreign}.{name}.{{p}}" for name in names.projections)
    yield rename(f"{native}.q.{{p}}", q)
    yield stack(f"{native}.context_kv.{{p}}", k, v)
    yield from renames({"out": names.out}, native, foreign)


def _over_positions(native: str, foreign: str, names: Names) -> Iterable[Entry]:
    yield stack(f"{native}.qkv.{{p}}", *(f"{foreign}.{name}.{{p}}" for name in names.projections))
    yield from renames({"out": names.out}, native, foreign)


def _around_attention(native: str, foreign: str) -> Iterable[Entry]:
    films = {"norm1.film": "in_norm.context_mlp.1", "norm2.film": "out_norm.context_mlp.1"}
    yield from renames(films, native, foreign)
    for ours, theirs in (("up", "feed_forward.0"), ("down", "feed_forward.2")):
        yield Entry(f"{native}.{ours}.{{p}}", (f"{foreign}.{theirs}.{{p}}",), convolution(2))


def _levels(native: str, foreign: str, config: UNet3Config, names: Names) -> Iterable[Entry]:
    ours, theirs = f"{native}.{{i}}", f"{foreign}.{{i}}"
    self_attention = f"{theirs}.{names.self_attention}"
    yield from _around_attention(f"{ours}.attention", self_attention)
    yield from _over_positions(f"{ours}.attention.mixing", f"{self_attention}.attention", names)
    for j in range(config.layers):
        triple = f"{ours}.triples.{j}"
        crossed = f"{theirs}.{names.attention.format(j, j + 1)}"
        yield from renames(_RESNET, f"{triple}.first", f"{theirs}.{names.first.format(j, j + 1)}")
        yield from _around_attention(f"{triple}.attention", crossed)
        yield from _over_context(f"{triple}.attention.mixing", f"{crossed}.attention", names)
        yield from renames(_RESNET, f"{triple}.second", f"{theirs}.{names.second.format(j, j + 1)}")


def unet3_map(config: UNet3Config, names: Names = DIFFUSERS) -> KeyMap:
    """The names of a U-Net of these sizes in one of the layouts."""
    top = dict(names.top)
    pooling = top.pop("pooling")
    return KeyMap(
        [
            rename("null_embedding", "null_embedding"),
            *_over_context("pooling", pooling, names),
            *renames(top),
            *_levels("down", names.down, config, names),
            *_levels("up", names.up, config, names),
        ]
    )


_SIZES: fields.Table = {
    "in_channels": ("in_channels", 4),
    "channels": ("block_out_channels", UNet3Config.channels),
    "layers": ("layers_per_block", UNet3Config.layers),
    "time_dim": ("time_embedding_dim", UNet3Config.time_dim),
    "head_dim": ("attention_head_dim", UNet3Config.head_dim),
    "context_dim": ("cross_attention_dim", UNet3Config.context_dim),
    "text_dim": ("encoder_hid_dim", UNet3Config.text_dim),
    "groups": ("groups", UNet3Config.groups),
}


def unet3_config(json: Json) -> UNet3Config:
    """Reads a `Kandinsky3UNet` config.json; CheckpointError for values that make no network. `out_channels`
    (inpainting) and `null_embedding` are keys of ours."""
    fields.require(json, CLASS)
    out_channels = fields.whole(json, "out_channels", fields.whole(json, "in_channels", 4))
    null = json.get("null_embedding") is True
    return fields.build(UNet3Config, **fields.read_sizes(json, _SIZES), out_channels=out_channels, null_embedding=null)


def unet3_json(config: UNet3Config) -> dict[str, object]:
    """The config.json of the network, with our own keys where diffusers lacks such a network."""
    own: dict[str, object] = {"_class_name": CLASS, **fields.write_sizes(config, _SIZES)}
    if config.out_channels != config.in_channels:
        own["out_channels"] = config.out_channels
    if config.null_embedding:
        own["null_embedding"] = True
    return own


NULL = "null_embedding"
PROJECTION = "projection."
"""Prefix of the projection's tensors among the U-Net's."""
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


def infer_unet3_config(tensors: Mapping[str, Tensor], head_dim: int = fields.HEAD_DIM) -> UNet3Config:
    """The sizes of a U-Net, read off its gathered tensors; CheckpointError for other tensors. `head_dim` is the width
    of an attention head."""
    levels = fields.count(tensors, "down_samples.")
    ends = [f"down_samples.{i}.resnet_attn_blocks.0.0.resnet_blocks.3.projection.weight" for i in range(levels)]
    context_dim, text_dim = fields.shape(tensors, f"{PROJECTION}0.weight", 2)
    return fields.sized(
        UNet3Config,
        in_channels=fields.shape(tensors, "in_layer.weight", 4)[1],
        out_channels=fields.shape(tensors, "out_layer.2.weight", 4)[0],
        channels=tuple(fields.shape(tensors, name, 4)[0] for name in ends),
        layers=fields.count(tensors, "down_samples.0.resnet_attn_blocks."),
        time_dim=fields.shape(tensors, "to_time_embed.1.weight", 2)[0],
        head_dim=head_dim,
        context_dim=context_dim,
        text_dim=text_dim,
        null_embedding=NULL in tensors,
    )


def embeds_projection(content: object) -> bool:
    """Whether a U-Net's file holds the projection too, as the first release's does."""
    return isinstance(content, Mapping) and _EMBEDDED in content


def gathered(content: object, projection: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All tensors of a U-Net under flat names, from its file's content and that of the projection's file (None where
    the U-Net's file holds it); CheckpointError for a file of another form."""
    nested = content.get(_NESTED) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not _is_tensors(nested):
        raise CheckpointError(f"There are no named tensors under {_NESTED!r}.", fields.HINT)
    tensors = dict(nested or {})
    others = {name: value for name, value in content.items() if name not in (_NESTED, _EMBEDDED)}
    if not _is_tensors(others):
        raise CheckpointError(f"There is more than tensors next to {_NESTED!r}.", fields.HINT)
    if projection is None:
        embedded = content.get(_EMBEDDED)
        if not _is_tensors(embedded):
            raise CheckpointError(f"There are no named tensors under {_EMBEDDED!r}.", fields.HINT)
        projection = {name.removeprefix(_ENCODER): tensor for name, tensor in (embedded or {}).items()}
    return {**tensors, **others, **{f"{PROJECTION}{name}": value for name, value in projection.items()}}


def scattered(tensors: Mapping[str, Tensor], embed: bool = False) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The contents of a U-Net's file and of its projection's; with `embed` the U-Net's file holds the projection too,
    as in the first release."""
    projection = {
        name.removeprefix(PROJECTION): tensor for name, tensor in tensors.items() if name.startswith(PROJECTION)
    }
    null = {NULL: tensors[NULL]} if NULL in tensors else {}
    rest = {name: tensor for name, tensor in tensors.items() if name != NULL and not name.startswith(PROJECTION)}
    embedded = {_EMBEDDED: {f"{_ENCODER}{name}": tensor for name, tensor in projection.items()}}
    return {_NESTED: rest, **null, **(embedded if embed else {})}, projection


def _is_tensors(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _read_original(folder: OriginalFolder, path: Path) -> Tensors:
    content = read_pickle(path)
    projection = None
    if not embeds_projection(content):
        projections = {folder.root / unet: file for unet, file in folder.files.projections}
        projection = read_tensor_file(folder.encoder_folder() / projections[path])
    try:
        return gathered(content, projection)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from error


def _contents(files: OriginalFiles, variant: str, tensors: Tensors) -> Mapping[str, object]:
    unet = files.unets[variant]
    network, projection = scattered(tensors)
    return {unet: network, f"{files.text_encoder}/{dict(files.projections)[unet]}": projection}


ORIGINAL_UNET3 = OriginalFile(
    lambda folder, variant: folder.unet_file(variant),
    lambda tensors, _: infer_unet3_config(tensors),
    lambda config, _: original_unet3_map(config),
    _contents,
    read=_read_original,
)


def is_first_release(folder: OriginalFolder, variant: str | None = None) -> bool:
    """Whether the U-Net is of the first release, whose file holds the projection."""
    return embeds_projection(read_pickle(folder.unet_file(variant)))
