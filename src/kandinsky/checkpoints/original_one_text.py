"""The original files of decoders that read one text: a U-Net, a projection for it, a text encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.maps.original_movq import WRAPPED
from kandinsky.checkpoints.maps.original_unet3 import (
    embeds_projection,
    gathered,
    infer_unet3_config,
    original_unet3_map,
    scattered,
)
from kandinsky.checkpoints.maps.t5 import TABLES, infer_t5_config, t5_config, t5_map, without_decoder
from kandinsky.checkpoints.original import MOVQ, Dtype, Form, OriginalFolder
from kandinsky.checkpoints.stored import Stored
from kandinsky.checkpoints.weights import load_strict, read_pickle, read_tensor_file, read_weights
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet3 import UNet3

UNET3 = Form(infer_unet3_config, UNet3, lambda config, _: original_unet3_map(config))
MOVQ3 = replace(MOVQ, names=(WRAPPED,))
"""An autoencoder's file whose encoder's norms are wrapped, as this release writes them."""


def read_unet3(folder: OriginalFolder, variant: str | None = None, dtype: Dtype = None) -> UNet3:
    """The U-Net with the projection that belongs to it.

    This and the following keep the file's dtypes where `dtype` is None, and raise CheckpointError for files
    that are missing, damaged or of another network.
    """
    return cast(UNet3, stored_unet3(folder, variant).load(dtype))


def stored_unet3(folder: OriginalFolder, variant: str | None = None) -> Stored:
    """The same where it lies."""
    name = folder.layout.unets[folder.chosen(variant)]
    path = folder.file(name)

    def tensors() -> dict[str, Tensor]:
        content = read_pickle(path)
        projection: dict[str, Tensor] | None = None
        if not embeds_projection(content):
            projection = read_tensor_file(encoder_folder(folder) / dict(folder.layout.projections)[name])
        try:
            return gathered(content, projection)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", error.hint) from error

    return UNET3.stored(path, tensors)


def is_first_release(folder: OriginalFolder, variant: str | None = None) -> bool:
    """Whether the U-Net that `read_unet3` would read is of the first release: its file has the projection."""
    return embeds_projection(read_pickle(folder.file(folder.layout.unets[folder.chosen(variant)])))


def unet3_files(unet: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of a U-Net's file and of its projection's; CheckpointError for what they cannot say."""
    return scattered(UNET3.tensors(unet))


def with_codebook(movq: MoVQ) -> MoVQ:
    """The same autoencoder with a codebook of one zero: the peer's class has one, and nothing reads it."""
    if movq.config.codebook_size:
        return movq
    config = replace(movq.config, codebook_size=1)
    state = movq.state_dict()
    zero = state["quant_conv.weight"].new_zeros(1, config.codebook_dim)
    return load_strict(lambda: MoVQ(config), {**state, "codebook.weight": zero}, what="movq")


def movq_file(movq: MoVQ) -> dict[str, Tensor]:
    """The content of an autoencoder's file, in which a codebook has no place."""
    config = replace(movq.config, codebook_size=0)
    state = {name: tensor for name, tensor in movq.state_dict().items() if name != "codebook.weight"}
    return MOVQ3.tensors(load_strict(lambda: MoVQ(config), state, what="movq"))


def encoder_files(encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of a text encoder's folder."""
    return t5_map(TABLES).to_foreign(encoder.state_dict())


def encoder_folder(folder: OriginalFolder) -> Path:
    """The folder of the text encoder and its tokenizer; CheckpointError when there is none."""
    if folder.encoder is not None:
        return folder.encoder
    elsewhere = folder.layout.published_text_encoder
    raise CheckpointError(
        f"{folder.root} lacks the folder {folder.layout.text_encoder!r} of the text encoder.",
        "Download it beside the others"
        + (f", or {elsewhere} into a folder {elsewhere}." if elsewhere else "."),
    )


def read_encoder(folder: OriginalFolder, dtype: Dtype = None) -> T5Encoder:
    """The text encoder, by the configuration beside it, or of the published kind where there is none."""
    return cast(T5Encoder, stored_encoder(folder).load(dtype))


def stored_encoder(folder: OriginalFolder) -> Stored:
    """The same where it lies."""
    path = encoder_folder(folder)

    def tensors() -> dict[str, Tensor]:
        return without_decoder(read_weights(path, "model"))

    found, described = tensors(), path / "config.json"
    config = t5_config(read_json(described)) if described.is_file() else infer_t5_config(found, "silu")
    return Stored(tensors, t5_map(found), lambda: T5Encoder(config), f"text encoder of {path}")


def read_tokenizer(folder: OriginalFolder) -> Tokenizer:
    """The tokenizer beside the text encoder; TokenizerError without its files."""
    return load_tokenizer(encoder_folder(folder))
