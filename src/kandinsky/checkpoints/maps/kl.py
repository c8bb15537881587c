"""The autoencoder of 2.0 in the diffusers layout (`AutoencoderKL`)."""

from collections.abc import Mapping

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.config_fields import Field, build, read_sizes, require, write_sizes
from kandinsky.checkpoints.maps.movq import CONVOLUTIONS, half
from kandinsky.networks.kl import KLConfig

CLASS = "AutoencoderKL"
KL = KeyMap(
    [
        *half("encoder", "down", "down_blocks", "downsamplers", modulated=False),
        *half("decoder", "up", "up_blocks", "upsamplers", modulated=False),
        *CONVOLUTIONS,
    ]
)
_SIZES: Mapping[str, Field] = {
    "channels": ("block_out_channels", (64,)),
    "layers": ("layers_per_block", 1),
    "image_channels": ("in_channels", 3),
    "latent_channels": ("latent_channels", 4),
    "groups": ("norm_num_groups", 32),
}


def _fixed(config: KLConfig) -> dict[str, object]:
    levels = len(config.channels)
    return {
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "mid_block_add_attention": True,
        "out_channels": config.image_channels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    }


def kl_config(json: Json) -> KLConfig:
    """Reads an `AutoencoderKL` config.json; raises CheckpointError for anything our network does not do."""
    require(json, CLASS)
    config = build(KLConfig, **read_sizes(json, _SIZES))
    require(json, CLASS, **_fixed(config))
    return config


def kl_json(config: KLConfig, scale: float, sample_size: int = 256) -> dict[str, object]:
    """The config.json with which the peer builds the same autoencoder.

    `scale` is the factor from its latents to those of the diffusion; `sample_size` is in pixels.
    """
    own = {"_class_name": CLASS, "sample_size": sample_size, "scaling_factor": scale}
    return own | _fixed(config) | write_sizes(config, _SIZES)
