"""The autoencoder of the original 2.0 files: `vae.ckpt`, in the names of latent diffusion."""

from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.config_fields import HINT, count, shape, sized
from kandinsky.checkpoints.maps.ldm import decoder_entries, encoder_entries
from kandinsky.checkpoints.maps.movq import CONVOLUTIONS
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.kl import KLConfig


def original_kl_map(config: KLConfig) -> KeyMap:
    """The names of an autoencoder of these sizes in an original file."""
    return KeyMap([*encoder_entries("plain"), *decoder_entries(len(config.channels), "plain"), *CONVOLUTIONS])


def drop_training(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of the training losses (`loss.`), which published files may carry along."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}


def infer_kl_config(tensors: Mapping[str, Tensor]) -> KLConfig:
    """The sizes of the autoencoder in an original file, read off its tensors.

    Raises CheckpointError when the tensors are not those of such a network.
    """
    levels = count(tensors, "encoder.down.")
    firsts = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    moments = shape(tensors, "encoder.conv_out.weight", 4)[0]
    if moments % 2:
        raise CheckpointError(f"The encoder ends in {moments} channels, no pair of mean and variance.", HINT)
    return sized(
        KLConfig,
        channels=tuple(shape(tensors, name, 4)[0] for name in firsts),
        layers=count(tensors, "encoder.down.0.block."),
        image_channels=shape(tensors, "encoder.conv_in.weight", 4)[1],
        latent_channels=moments // 2,
    )
