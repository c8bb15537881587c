"""The 3.x U-Net in the diffusers layout (`Kandinsky3UNet`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import Entry, KeyMap, convolution, rename, renames, stack
from kandinsky.checkpoints.maps.config_fields import Field, build, read_sizes, require, whole, write_sizes
from kandinsky.networks.unet3 import UNet3Config

CLASS = "Kandinsky3UNet"


@dataclass(frozen=True)
class Names:
    """Where two layouts differ; within the blocks they agree.

    `top` has the names outside the levels. `self_attention`, `first`, `attention` and `second` are within a
    level, the last three with places for the triple's number and the one above it. `projections` are those of
    queries, keys and values.
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
    alone = f"{theirs}.{names.self_attention}"
    yield from _around_attention(f"{ours}.attention", alone)
    yield from _over_positions(f"{ours}.attention.mixing", f"{alone}.attention", names)
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


_SIZES: Mapping[str, Field] = {
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
    """Reads a `Kandinsky3UNet` config.json.

    `out_channels` and `null_embedding` are keys of ours, for networks of the family that the peer lacks: one
    for inpainting, and one that has learned what to read where there is no text. Raises CheckpointError for
    values that make no network.
    """
    require(json, CLASS)
    out_channels = whole(json, "out_channels", whole(json, "in_channels", 4))
    null = json.get("null_embedding") is True
    return build(UNet3Config, **read_sizes(json, _SIZES), out_channels=out_channels, null_embedding=null)


def unet3_json(config: UNet3Config) -> dict[str, object]:
    """The config.json with which the peer builds the same network, where it has such a one."""
    own: dict[str, object] = {"_class_name": CLASS, **write_sizes(config, _SIZES)}
    if config.out_channels != config.in_channels:
        own["out_channels"] = config.out_channels
    if config.null_embedding:
        own["null_embedding"] = True
    return own
