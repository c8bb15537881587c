"""The autoencoder of 2.0: `AutoencoderKL`, or the original `vae.ckpt`."""

from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.maps.autoencoder import diffusers_entries, original_entries
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.checkpoints.weights import read_tensor_file
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.kl import KLConfig

CLASS = "AutoencoderKL"
KL = KeyMap(diffusers_entries(modulated=False))
_SIZES: fields.Table = {
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
    fields.require(json, CLASS)
    config = fields.build(KLConfig, **fields.read_sizes(json, _SIZES))
    fields.require(json, CLASS, **_fixed(config))
    return config


def kl_json(config: KLConfig, scale: float, sample_size: int = 256) -> dict[str, object]:
    """The config.json of an autoencoder; `scale` is the factor of its latents, `sample_size` is in pixels."""
    own = {"_class_name": CLASS, "sample_size": sample_size, "scaling_factor": scale}
    return own | _fixed(config) | fields.write_sizes(config, _SIZES)


def original_kl_map(config: KLConfig) -> KeyMap:
    """The names of an autoencoder of these sizes in an original file."""
    return KeyMap(original_entries(len(config.channels), modulated=False))


def drop_training(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of the training losses (`loss.`), which published files may carry along."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}


def infer_kl_config(tensors: Mapping[str, Tensor]) -> KLConfig:
    """The sizes of the autoencoder in an original file, read off its tensors; CheckpointError for other tensors."""
    levels = fields.count(tensors, "encoder.down.")
    firsts = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    moments = fields.shape(tensors, "encoder.conv_out.weight", 4)[0]
    if moments % 2:
        raise CheckpointError(f"The encoder ends in {moments} channels, no pair of mean and variance.", fields.HINT)
    return fields.sized(
        KLConfig,
        channels=tuple(fields.shape(tensors, name, 4)[0] for name in firsts),
        layers=fields.count(tensors, "encoder.down.0.block."),
        image_channels=fields.shape(tensors, "encoder.conv_in.weight", 4)[1],
        latent_channels=moments // 2,
    )


ORIGINAL_KL = OriginalFile(
    lambda folder, _: folder.file(folder.files.codec),
    lambda tensors, _: infer_kl_config(tensors),
    lambda config, _: original_kl_map(config),
    lambda files, _, tensors: {files.codec: {"state_dict": tensors}},
    read=lambda _, path: drop_training(read_tensor_file(path)),
)
