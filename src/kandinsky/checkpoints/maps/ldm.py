"""Names that the autoencoders of the original files share, those of latent diffusion."""

from collections.abc import Callable
from typing import Literal

from kandinsky.checkpoints.keymap import STACKED, Entry, rename, stack
from kandinsky.checkpoints.layouts import convolution

NormKind = Literal["plain", "wrapped", "modulated"]


def _plain(native: str, foreign: str) -> list[Entry]:
    return [rename(f"{native}.norm.{{p}}", f"{foreign}.{{p}}")]


def _wrapped(native: str, foreign: str) -> list[Entry]:
    return [rename(f"{native}.norm.{{p}}", f"{foreign}.norm_layer.{{p}}")]


def _modulated(native: str, foreign: str) -> list[Entry]:
    return [
        *_wrapped(native, foreign),
        stack(f"{native}.modulation.{{p}}", f"{foreign}.conv_y.{{p}}", f"{foreign}.conv_b.{{p}}"),
    ]


_NORMS: dict[NormKind, Callable[[str, str], list[Entry]]] = {
    "plain": _plain,
    "wrapped": _wrapped,
    "modulated": _modulated,
}


def _resnet(native: str, foreign: str, norm: NormKind) -> list[Entry]:
    return [
        *_NORMS[norm](f"{native}.norm1", f"{foreign}.norm1"),
        rename(f"{native}.conv1.{{p}}", f"{foreign}.conv1.{{p}}"),
        *_NORMS[norm](f"{native}.norm2", f"{foreign}.norm2"),
        rename(f"{native}.conv2.{{p}}", f"{foreign}.conv2.{{p}}"),
        rename(f"{native}.shortcut.{{p}}", f"{foreign}.nin_shortcut.{{p}}"),
    ]


def _attention(native: str, foreign: str, norm: NormKind) -> list[Entry]:
    return [
        *_NORMS[norm](f"{native}.norm", f"{foreign}.norm"),
        Entry(f"{native}.qkv.{{p}}", tuple(f"{foreign}.{x}.{{p}}" for x in "qkv"), convolution(2, STACKED)),
        Entry(f"{native}.out.{{p}}", (f"{foreign}.proj_out.{{p}}",), convolution(2)),
    ]


def _ends(side: str, norm: NormKind) -> list[Entry]:
    return [
        rename(f"{side}.conv_in.{{p}}", f"{side}.conv_in.{{p}}"),
        *_resnet(f"{side}.mid.resnets.0", f"{side}.mid.block_1", norm),
        *_attention(f"{side}.mid.attention", f"{side}.mid.attn_1", norm),
        *_resnet(f"{side}.mid.resnets.1", f"{side}.mid.block_2", norm),
        *_NORMS[norm](f"{side}.norm_out", f"{side}.norm_out"),
        rename(f"{side}.conv_out.{{p}}", f"{side}.conv_out.{{p}}"),
    ]


def encoder_entries(norm: NormKind) -> list[Entry]:
    """The encoder's names; its levels are numbered from the full resolution, as ours are."""
    native, foreign = "encoder.down.{i}", "encoder.down.{i}"
    return [
        *_ends("encoder", norm),
        *_resnet(f"{native}.resnets.{{j}}", f"{foreign}.block.{{j}}", norm),
        *_attention(f"{native}.attentions.{{j}}", f"{foreign}.attn.{{j}}", norm),
        rename(f"{native}.resample.conv.{{p}}", f"{foreign}.downsample.conv.{{p}}"),
    ]


def decoder_entries(levels: int, norm: NormKind) -> list[Entry]:
    """The decoder's names; the file numbers its levels from the full resolution, we in the order they run."""
    entries = _ends("decoder", norm)
    for position in range(levels):
        native, foreign = f"decoder.up.{position}", f"decoder.up.{levels - 1 - position}"
        entries += _resnet(f"{native}.resnets.{{j}}", f"{foreign}.block.{{j}}", norm)
        entries += _attention(f"{native}.attentions.{{j}}", f"{foreign}.attn.{{j}}", norm)
        entries.append(rename(f"{native}.resample.conv.{{p}}", f"{foreign}.upsample.conv.{{p}}"))
    return entries


CONVOLUTIONS = [
    rename("quant_conv.{p}", "quant_conv.{p}"),
    rename("post_quant_conv.{p}", "post_quant_conv.{p}"),
]
"""The 1x1 convolutions between the halves."""
