"""MoVQ in the diffusers layout (`VQModel`)."""

from collections.abc import Mapping
from typing import Any

from kandinsky.checkpoints.keymap import Entry, KeyMap, rename, stack
from kandinsky.checkpoints.maps.configs import build, require
from kandinsky.checkpoints.maps.options import whole, wholes
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.movq import MoVQConfig


def _norm(native: str, foreign: str, modulated: bool) -> list[Entry]:
    if not modulated:
        return [rename(f"{native}.norm.{{p}}", f"{foreign}.{{p}}")]
    return [
        rename(f"{native}.norm.{{p}}", f"{foreign}.norm_layer.{{p}}"),
        stack(f"{native}.modulation.{{p}}", f"{foreign}.conv_y.{{p}}", f"{foreign}.conv_b.{{p}}"),
    ]


def _resnet(native: str, foreign: str, modulated: bool) -> list[Entry]:
    return [
        *_norm(f"{native}.norm1", f"{foreign}.norm1", modulated),
        rename(f"{native}.conv1.{{p}}", f"{foreign}.conv1.{{p}}"),
        *_norm(f"{native}.norm2", f"{foreign}.norm2", modulated),
        rename(f"{native}.conv2.{{p}}", f"{foreign}.conv2.{{p}}"),
        rename(f"{native}.shortcut.{{p}}", f"{foreign}.conv_shortcut.{{p}}"),
    ]


def _attention(native: str, foreign: str, modulated: bool) -> list[Entry]:
    norm = "spatial_norm" if modulated else "group_norm"
    return [
        *_norm(f"{native}.norm", f"{foreign}.{norm}", modulated),
        stack(f"{native}.qkv.{{p}}", *(f"{foreign}.to_{x}.{{p}}" for x in "qkv")),
        rename(f"{native}.out.{{p}}", f"{foreign}.to_out.0.{{p}}"),
    ]


def half(side: str, native_levels: str, levels: str, resample: str, modulated: bool) -> list[Entry]:
    """The names of one half, "encoder" or "decoder" (`side`); `levels` is what the file calls its levels."""
    return [
        rename(f"{side}.conv_in.{{p}}", f"{side}.conv_in.{{p}}"),
        *_resnet(
            f"{side}.{native_levels}.{{i}}.resnets.{{j}}", f"{side}.{levels}.{{i}}.resnets.{{j}}", modulated
        ),
        *_attention(
            f"{side}.{native_levels}.{{i}}.attentions.{{j}}",
            f"{side}.{levels}.{{i}}.attentions.{{j}}",
            modulated,
        ),
        rename(
            f"{side}.{native_levels}.{{i}}.resample.conv.{{p}}",
            f"{side}.{levels}.{{i}}.{resample}.0.conv.{{p}}",
        ),
        *_resnet(f"{side}.mid.resnets.{{j}}", f"{side}.mid_block.resnets.{{j}}", modulated),
        *_attention(f"{side}.mid.attention", f"{side}.mid_block.attentions.0", modulated),
        *_norm(f"{side}.norm_out", f"{side}.conv_norm_out", modulated),
        rename(f"{side}.conv_out.{{p}}", f"{side}.conv_out.{{p}}"),
    ]


MOVQ = KeyMap(
    [
        *half("encoder", "down", "down_blocks", "downsamplers", modulated=False),
        *half("decoder", "up", "up_blocks", "upsamplers", modulated=True),
        rename("quant_conv.{p}", "quant_conv.{p}"),
        rename("post_quant_conv.{p}", "post_quant_conv.{p}"),
        rename("codebook.weight", "quantize.embedding.weight"),
    ]
)


def movq_config(json: Mapping[str, Any]) -> MoVQConfig:
    """Reads a `VQModel` config.json; raises CheckpointError for anything our MoVQ does not do."""
    require(json, "VQModel", norm_type="spatial", act_fn="silu", mid_block_add_attention=True)
    channels = wholes(json, "block_out_channels", (64,))
    plain = len(channels) - 1
    require(
        json,
        "VQModel",
        down_block_types=["DownEncoderBlock2D"] * plain + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * plain,
    )
    image_channels = whole(json, "in_channels", 3)
    require(json, "VQModel", out_channels=image_channels)
    latent_channels = whole(json, "latent_channels", 3)
    has_own_width = json.get("vq_embed_dim") is not None
    return build(
        MoVQConfig,
        channels=channels,
        layers=whole(json, "layers_per_block", 1),
        image_channels=image_channels,
        latent_channels=latent_channels,
        codebook_size=whole(json, "num_vq_embeddings", 256),
        codebook_dim=whole(json, "vq_embed_dim", 3) if has_own_width else latent_channels,
        groups=whole(json, "norm_num_groups", 32),
    )


def movq_json(config: MoVQConfig) -> dict[str, Any]:
    """The config.json with which the peer builds the same network.

    Raises CheckpointError for a network without codebook, which the peer always has.
    """
    if not config.codebook_size:
        raise CheckpointError(
            "A MoVQ with codebook_size = 0 cannot be written in this format.", "Give it a codebook."
        )
    plain = len(config.channels) - 1
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * plain + ["AttnDownEncoderBlock2D"],
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "mid_block_add_attention": True,
        "norm_num_groups": config.groups,
        "norm_type": "spatial",
        "num_vq_embeddings": config.codebook_size,
        "out_channels": config.image_channels,
        "sample_size": 32,
        "scaling_factor": 1.0,
        "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * plain,
        "vq_embed_dim": config.codebook_dim,
    }
