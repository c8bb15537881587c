"""The autoencoder of 2.0 in the diffusers layout (`AutoencoderKL`)."""

from collections.abc import Mapping
from typing import Any

from kandinsky.checkpoints.keymap import KeyMap, rename
from kandinsky.checkpoints.maps.configs import build, require
from kandinsky.checkpoints.maps.movq import half
from kandinsky.checkpoints.maps.options import whole, wholes
from kandinsky.networks.kl import KLConfig

CLASS = "AutoencoderKL"

KL = KeyMap(
    [
        *half("encoder", "down", "down_blocks", "downsamplers", modulated=False),
        *half("decoder", "up", "up_blocks", "upsamplers", modulated=False),
        rename("quant_conv.{p}", "quant_conv.{p}"),
        rename("post_quant_conv.{p}", "post_quant_conv.{p}"),
    ]
)


def kl_config(json: Mapping[str, Any]) -> KLConfig:
    """Reads an `AutoencoderKL` config.json; raises CheckpointError for anything our network does not do."""
    channels = wholes(json, "block_out_channels", (64,))
    image_channels = whole(json, "in_channels", 3)
    require(
        json,
        CLASS,
        act_fn="silu",
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        mid_block_add_attention=True,
        out_channels=image_channels,
        use_quant_conv=True,
        use_post_quant_conv=True,
    )
    return build(
        KLConfig,
        channels=channels,
        layers=whole(json, "layers_per_block", 1),
        image_channels=image_channels,
        latent_channels=whole(json, "latent_channels", 4),
        groups=whole(json, "norm_num_groups", 32),
    )


def kl_json(config: KLConfig, scale: float, sample_size: int = 256) -> dict[str, Any]:
    """The config.json with which the peer builds the same autoencoder.

    `scale` is the factor from its latents to those of the diffusion; `sample_size` is in pixels.
    """
    return {
        "_class_name": CLASS,
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(config.channels),
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "mid_block_add_attention": True,
        "norm_num_groups": config.groups,
        "out_channels": config.image_channels,
        "sample_size": sample_size,
        "scaling_factor": scale,
        "up_block_types": ["UpDecoderBlock2D"] * len(config.channels),
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    }
