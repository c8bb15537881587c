"""Names that the autoencoders of the original files share, those of latent diffusion."""

from typing import Literal

from kandinsky.checkpoints.keymap import STACKED, Entry, convolution, renames
from kandinsky.checkpoints.maps import movq

NormKind = Literal["plain", "wrapped", "modulated"]


def _norm(native: str, foreign: str, kind: NormKind) -> list[Entry]:
    if kind == "wrapped":
        return renames({"norm": "norm_layer"}, native, foreign)
    return movq.norm(native, foreign, kind == "modulated")


def _resnet(native: str, foreign: str, kind: NormKind) -> list[Entry]:
    return [
        *_norm(f"{native}.norm1", f"{foreign}.norm1", kind),
        *_norm(f"{native}.norm2", f"{foreign}.norm2", kind),
        *renames({"conv1": "conv1", "conv2": "conv2", "shortcut": "nin_shortcut"}, native, foreign),
    ]


def _attention(native: str, foreign: str, kind: NormKind) -> list[Entry]:
    return [
        *_norm(f"{native}.norm", f"{foreign}.norm", kind),
        Entry(f"{native}.qkv.{{p}}", tuple(f"{foreign}.{x}.{{p}}" for x in "qkv"), convolution(2, STACKED)),
        Entry(f"{native}.out.{{p}}", (f"{foreign}.proj_out.{{p}}",), convolution(2)),
    ]


def _level(native: str, foreign: str, resample: str, kind: NormKind) -> list[Entry]:
    return [
        *_resnet(f"{native}.resnets.{{j}}", f"{foreign}.block.{{j}}", kind),
        *_attention(f"{native}.attentions.{{j}}", f"{foreign}.attn.{{j}}", kind),
        *renames({"resample.conv": f"{resample}.conv"}, native, foreign),
    ]


def _ends(side: str, kind: NormKind) -> list[Entry]:
    return [
        *renames({"conv_in": "conv_in", "conv_out": "conv_out"}, side, side),
        *_resnet(f"{side}.mid.resnets.0", f"{side}.mid.block_1", kind),
        *_attention(f"{side}.mid.attention", f"{side}.mid.attn_1", kind),
        *_resnet(f"{side}.mid.resnets.1", f"{side}.mid.block_2", kind),
        *_norm(f"{side}.norm_out", f"{side}.norm_out", kind),
    ]


def encoder_entries(kind: NormKind) -> list[Entry]:
    """The encoder's names; its levels are numbered from the full resolution, as ours are."""
    return [*_ends("encoder", kind), *_level("encoder.down.{i}", "encoder.down.{i}", "downsample", kind)]


def decoder_entries(levels: int, kind: NormKind) -> list[Entry]:
    """The decoder's names; the file numbers its levels from the full resolution, we in the order they run."""
    entries = _ends("decoder", kind)
    for position in range(levels):
        foreign = f"decoder.up.{levels - 1 - position}"
        entries += _level(f"decoder.up.{position}", foreign, "upsample", kind)
    return entries
