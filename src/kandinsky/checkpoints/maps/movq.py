"""MoVQ: `VQModel`, or original files, `movq_final.ckpt` of 2.1 and `movq.pt` of 3.x with wrapped encoder norms."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap, rename
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.maps.autoencoder import diffusers_entries, original_entries
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.checkpoints.weights import Tensors
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.movq import MoVQConfig

CLASS = "VQModel"
_SIZES: fields.Table = {
    "channels": ("block_out_channels", (64,)),
    "layers": ("layers_per_block", 1),
    "image_channels": ("in_channels", 3),
    "latent_channels": ("latent_channels", 3),
    "codebook_size": ("num_vq_embeddings", 256),
    "groups": ("norm_num_groups", 32),
}


_CODEBOOK = rename("codebook.weight", "quantize.embedding.weight")
MOVQ = KeyMap([*diffusers_entries(modulated=True), _CODEBOOK])


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
    fields.require(json, CLASS)
    sizes = fields.read_sizes(json, _SIZES)
    own = json.get("vq_embed_dim") is not None
    dim = fields.whole(json, "vq_embed_dim", 3) if own else sizes["latent_channels"]
    config = fields.build(MoVQConfig, **sizes, codebook_dim=dim)
    fields.require(json, CLASS, **_fixed(config))
    return config


def with_codebook(config: MoVQConfig, state: Tensors) -> tuple[MoVQConfig, Tensors]:
    """Gives a network without codebook one of one zero: diffusers' class has one, and nothing reads it."""
    if config.codebook_size:
        return config, state
    zero = state["quant_conv.weight"].new_zeros(1, config.codebook_dim)
    return replace(config, codebook_size=1), {**state, "codebook.weight": zero}


def movq_json(config: MoVQConfig) -> dict[str, object]:
    """The config.json of a MoVQ; CheckpointError for one without codebook, which the format lacks."""
    if not config.codebook_size:
        raise CheckpointError("A MoVQ with codebook_size = 0 cannot be written in this format.", "Give it a codebook.")
    own = {"_class_name": CLASS, "sample_size": 32, "scaling_factor": 1.0}
    return own | _fixed(config) | fields.write_sizes(config, _SIZES) | {"vq_embed_dim": config.codebook_dim}


WRAPPED = "encoder.norm_out.norm_layer.weight"
"""A name that only files with wrapped norms have."""


def original_movq_map(config: MoVQConfig, wrapped: bool = False) -> KeyMap:
    """The names of a MoVQ of these sizes in an original file; `wrapped` ones have `WRAPPED`."""
    return KeyMap([*original_entries(len(config.channels), modulated=True, wrapped=wrapped), _CODEBOOK])


def infer_movq_config(tensors: Mapping[str, Tensor]) -> MoVQConfig:
    """The sizes of the MoVQ in an original file, read off its tensors (codebook size 0 without one); CheckpointError
    for other tensors."""
    levels = fields.count(tensors, "encoder.down.")
    firsts = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    has_codebook = "quantize.embedding.weight" in tensors
    return fields.sized(
        MoVQConfig,
        channels=tuple(fields.shape(tensors, name, 4)[0] for name in firsts),
        layers=fields.count(tensors, "encoder.down.0.block."),
        image_channels=fields.shape(tensors, "encoder.conv_in.weight", 4)[1],
        latent_channels=fields.shape(tensors, "encoder.conv_out.weight", 4)[0],
        codebook_size=fields.shape(tensors, "quantize.embedding.weight", 2)[0] if has_codebook else 0,
        codebook_dim=fields.shape(tensors, "quant_conv.weight", 4)[0],
    )


def _without_codebook(config: MoVQConfig, state: Tensors) -> tuple[MoVQConfig, Tensors]:
    rest = {name: tensor for name, tensor in state.items() if name != "codebook.weight"}
    return replace(config, codebook_size=0), rest


ORIGINAL_MOVQ = OriginalFile(
    lambda folder, _: folder.file(folder.files.codec),
    lambda tensors, _: infer_movq_config(tensors),
    lambda config, names: original_movq_map(config, wrapped=WRAPPED in names),
    lambda files, _, tensors: {files.codec: tensors},
)
LATER_MOVQ = replace(ORIGINAL_MOVQ, names=(WRAPPED,), trim=_without_codebook)
"""A codec's file whose encoder's norms are wrapped, and in which a codebook has no place."""
