"""MoVQ in the original files: `movq_final.ckpt` of 2.1, and `movq.pt` of 3.x with wrapped encoder norms."""

from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.keymap import KeyMap, rename
from kandinsky.checkpoints.maps.config_fields import count, shape, sized
from kandinsky.checkpoints.maps.ldm import decoder_entries, encoder_entries
from kandinsky.checkpoints.maps.movq import CONVOLUTIONS
from kandinsky.networks.movq import MoVQConfig

WRAPPED = "encoder.norm_out.norm_layer.weight"
"""A name that only files with wrapped norms have."""


def original_movq_map(config: MoVQConfig, wrapped: bool = False) -> KeyMap:
    """The names of a MoVQ of these sizes in an original file; `wrapped` ones have `WRAPPED`."""
    return KeyMap(
        [
            *encoder_entries("wrapped" if wrapped else "plain"),
            *decoder_entries(len(config.channels), "modulated"),
            *CONVOLUTIONS,
            rename("codebook.weight", "quantize.embedding.weight"),
        ]
    )


def infer_movq_config(tensors: Mapping[str, Tensor]) -> MoVQConfig:
    """The sizes of the MoVQ in an original file, read off its tensors; a file without codebook has size 0.

    Raises CheckpointError when the tensors are not those of such a network.
    """
    levels = count(tensors, "encoder.down.")
    firsts = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    has_codebook = "quantize.embedding.weight" in tensors
    return sized(
        MoVQConfig,
        channels=tuple(shape(tensors, name, 4)[0] for name in firsts),
        layers=count(tensors, "encoder.down.0.block."),
        image_channels=shape(tensors, "encoder.conv_in.weight", 4)[1],
        latent_channels=shape(tensors, "encoder.conv_out.weight", 4)[0],
        codebook_size=shape(tensors, "quantize.embedding.weight", 2)[0] if has_codebook else 0,
        codebook_dim=shape(tensors, "quant_conv.weight", 4)[0],
    )
