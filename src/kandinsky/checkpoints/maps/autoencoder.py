"""The names of the encoder and the decoder that the autoencoders share, in both layouts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kandinsky.checkpoints.keymap import SAME, STACKED, Entry, Layout, convolution, renames, stack

CONVOLUTIONS = renames({"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"})
"""The 1x1 convolutions between the halves."""


@dataclass(frozen=True)
class Names:
    """The names of parts in a layout. `norm` is an attention's norm, `modulated_norm` one that latents modulate;
    `wrapped` plain norms lie in a layer of their own. `stacked` and `same` are the layouts of an attention's
    matrices."""

    resnet: str
    shortcut: str
    attention: str
    norm: str
    modulated_norm: str
    projection: str
    out: str
    middle: tuple[str, str, str]
    norm_out: str
    stacked: Layout = STACKED
    same: Layout = SAME
    wrapped: bool = False

    def _norm(self, native: str, foreign: str, modulated: bool) -> list[Entry]:
        if not modulated:
            return renames({"norm": f"{foreign}.norm_layer" if self.wrapped else foreign}, native)
        parts = (f"{foreign}.conv_y.{{p}}", f"{foreign}.conv_b.{{p}}")
        return [*renames({"norm": "norm_layer"}, native, foreign), stack(f"{native}.modulation.{{p}}", *parts)]

    def _resnet(self, native: str, foreign: str, modulated: bool) -> Iterator[Entry]:
        for norm in ("norm1", "norm2"):
            yield from self._norm(f"{native}.{norm}", f"{foreign}.{norm}", modulated)
        yield from renames({"conv1": "conv1", "conv2": "conv2", "shortcut": self.shortcut}, native, foreign)

    def _attention(self, native: str, foreign: str, modulated: bool) -> Iterator[Entry]:
        norm = self.modulated_norm if modulated else self.norm
        yield from self._norm(f"{native}.norm", f"{foreign}.{norm}", modulated)
        qkv = tuple(f"{foreign}.{self.projection.format(x)}.{{p}}" for x in "qkv")
        yield Entry(f"{native}.qkv.{{p}}", qkv, self.stacked)
        yield Entry(f"{native}.out.{{p}}", (f"{foreign}.{self.out}.{{p}}",), self.same)

    def half(self, side: str, levels: Iterable[tuple[str, str]], resample: str, modulated: bool) -> Iterator[Entry]:
        """The names of one half, "encoder" or "decoder" (`side`), whose `levels` are pairs of ours and the file's."""
        yield from renames({"conv_in": "conv_in", "conv_out": "conv_out"}, side, side)
        for ours, theirs in levels:
            native, foreign = f"{side}.{ours}", f"{side}.{theirs}"
            yield from self._resnet(f"{native}.resnets.{{j}}", f"{foreign}.{self.resnet}.{{j}}", modulated)
            yield from self._attention(f"{native}.attentions.{{j}}", f"{foreign}.{self.attention}.{{j}}", modulated)
            yield from renames({"resample.conv": f"{resample}.conv"}, native, foreign)
        first, second, attention = (f"{side}.{name}" for name in self.middle)
        yield from self._resnet(f"{side}.mid.resnets.0", first, modulated)
        yield from self._resnet(f"{side}.mid.resnets.1", second, modulated)
        yield from self._attention(f"{side}.mid.attention", attention, modulated)
        yield from self._norm(f"{side}.norm_out", f"{side}.{self.norm_out}", modulated)


_DIFFUSERS = Names(
    resnet="resnets",
    shortcut="conv_shortcut",
    attention="attentions",
    norm="group_norm",
    modulated_norm="spatial_norm",
    projection="to_{}",
    out="to_out.0",
    middle=("mid_block.resnets.0", "mid_block.resnets.1", "mid_block.attentions.0"),
    norm_out="conv_norm_out",
)
_PLAIN, _WRAPPED = (
    Names(
        resnet="block",
        shortcut="nin_shortcut",
        attention="attn",
        norm="norm",
        modulated_norm="norm",
        projection="{}",
        out="proj_out",
        middle=("mid.block_1", "mid.block_2", "mid.attn_1"),
        norm_out="norm_out",
        stacked=convolution(2, STACKED),
        same=convolution(2),
        wrapped=wrapped,
    )
    for wrapped in (False, True)
)


def diffusers_entries(modulated: bool) -> list[Entry]:
    """All names in the diffusers layout; the decoder's norms may be `modulated` by latents."""
    return [
        *_DIFFUSERS.half("encoder", [("down.{i}", "down_blocks.{i}")], "downsamplers.0", modulated=False),
        *_DIFFUSERS.half("decoder", [("up.{i}", "up_blocks.{i}")], "upsamplers.0", modulated),
        *CONVOLUTIONS,
    ]


def original_entries(levels: int, modulated: bool, wrapped: bool = False) -> list[Entry]:
    """All names in original files, those of latent diffusion; norms of the encoder may be `wrapped`. The file numbers
    the decoder's levels from the full resolution, we in the order they run."""
    up = [(f"up.{position}", f"up.{levels - 1 - position}") for position in range(levels)]
    encoder = _WRAPPED if wrapped else _PLAIN
    return [
        *encoder.half("encoder", [("down.{i}", "down.{i}")], "downsample", modulated=False),
        *_PLAIN.half("decoder", up, "upsample", modulated),
        *CONVOLUTIONS,
    ]
