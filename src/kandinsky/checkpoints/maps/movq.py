"""MoVQ in the diffusers layout (`VQModel`)."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import Entry, KeyMap, rename, renames, stack
from kandinsky.checkpoints.maps.config_fields import Field, build, read_sizes, require, whole, write_sizes
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.movq import MoVQConfig

CLASS = "VQModel"
CONVOLUTIONS = renames({"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"})
"""The 1x1 convolutions between the halves."""
_SIZES: Mapping[str, Field] = {
    "channels": ("block_out_channels", (64,)),
    "layers": ("layers_per_block", 1),
    "image_channels": ("in_channels", 3),
    "latent_channels": ("latent_channels", 3),
    "codebook_size": ("num_vq_embeddings", 256),
    "groups": ("norm_num_groups", 32),
}


def norm(native: str, foreign: str, modulated: bool) -> list[Entry]:
    """A norm's names; a `modulated` one is told of the latents."""
    if not modulated:
        return renames({"norm": foreign}, native)
    return [
        *renames({"norm": "norm_layer"}, native, foreign),
        stack(f"{native}.modulation.{{p}}", f"{foreign}.conv_y.{{p}}", f"{foreign}.conv_b.{{p}}"),
    ]


def _resnet(native: str, foreign: str, modulated: bool) -> list[Entry]:
    return [
        *norm(f"{native}.norm1", f"{foreign}.norm1", modulated),
        *norm(f"{native}.norm2", f"{foreign}.norm2", modulated),
        *renames({"conv1": "conv1", "conv2": "conv2", "shortcut": "conv_shortcut"}, native, foreign),
    ]


def _attention(native: str, foreign: str, modulated: bool) -> list[Entry]:
    return [
        *norm(f"{native}.norm", f"{foreign}.{'spatial_norm' if modulated else 'group_norm'}", modulated),
        stack(f"{native}.qkv.{{p}}", *(f"{foreign}.to_{x}.{{p}}" for x in "qkv")),
        *renames({"out": "to_out.0"}, native, foreign),
    ]


def half(side: str, native_levels: str, levels: str, resample: str, modulated: bool) -> list[Entry]:
    """The names of one half, "encoder" or "decoder" (`side`); `levels` is what the file calls its levels."""
    native, foreign = f"{side}.{native_levels}.{{i}}", f"{side}.{levels}.{{i}}"
    return [
        *renames({"conv_in": "conv_in", "conv_out": "conv_out"}, side, side),
        *_resnet(f"{native}.resnets.{{j}}", f"{foreign}.resnets.{{j}}", modulated),
        *_attention(f"{native}.attentions.{{j}}", f"{foreign}.attentions.{{j}}", modulated),
        *renames({"resample.conv": f"{resample}.0.conv"}, native, foreign),
        *_resnet(f"{side}.mid.resnets.{{j}}", f"{side}.mid_block.resnets.{{j}}", modulated),
        *_attention(f"{side}.mid.attention", f"{side}.mid_block.attentions.0", modulated),
        *norm(f"{side}.norm_out", f"{side}.conv_norm_out", modulated),
    ]


MOVQ = KeyMap(
    [
        *half("encoder", "down", "down_blocks", "downsamplers", modulated=False),
        *half("decoder", "up", "up_blocks", "upsamplers", modulated=True),
        *CONVOLUTIONS,
        rename("codebook.weight", "quantize.embedding.weight"),
    ]
)


def _fixed(config: MoVQConfig) -> dict[str, object]:
    plain = len(config.channels) - 1
    return {
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * plain + ["AttnDownEncoderBlock2D"],
        "mid_block_add_attention": True,
        "norm_type": "spatial",
        "out_channels": config.image_channels,
        "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * plain,
    }


def movq_config(json: Json) -> MoVQConfig:
    """Reads a `VQModel` config.json; raises CheckpointError for anything our MoVQ does not do."""
    require(json, CLASS)
    sizes = read_sizes(json, _SIZES)
    own = json.get("vq_embed_dim") is not None
    dim = whole(json, "vq_embed_dim", 3) if own else sizes["latent_channels"]
    config = build(MoVQConfig, **sizes, codebook_dim=dim)
    require(json, CLASS, **_fixed(config))
    return config


def with_codebook(config: MoVQConfig, state: Mapping[str, Tensor]) -> tuple[MoVQConfig, Mapping[str, Tensor]]:
    """A network without codebook with one of one zero: the peer's class has one, and nothing reads it."""
    if config.codebook_size:
        return config, state
    zero = state["quant_conv.weight"].new_zeros(1, config.codebook_dim)
    return replace(config, codebook_size=1), {**state, "codebook.weight": zero}


def movq_json(config: MoVQConfig) -> dict[str, object]:
    """The config.json with which the peer builds the same network.

    Raises CheckpointError for a network without codebook, which the peer always has.
    """
    if not config.codebook_size:
        raise CheckpointError("A MoVQ with codebook_size = 0 cannot be written in this format.", "Give it a codebook.")
    own = {"_class_name": CLASS, "sample_size": 32, "scaling_factor": 1.0}
    return own | _fixed(config) | write_sizes(config, _SIZES) | {"vq_embed_dim": config.codebook_dim}
