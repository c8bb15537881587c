"""The original files of decoders that read one text: a U-Net, a projection for it, a text encoder."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.maps.original_unet3 import (
    embeds_projection,
    gathered,
    infer_unet3_config,
    original_unet3_map,
    scattered,
)
from kandinsky.checkpoints.maps.t5 import infer_t5_config, t5_config, t5_map, without_decoder
from kandinsky.checkpoints.original import Dtype, Form, OriginalFolder
from kandinsky.checkpoints.weights import load_strict, read_pickle, read_tensor_file, read_weights
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet3 import UNet3

UNET3 = Form(infer_unet3_config, UNet3, lambda config, _: original_unet3_map(config))


def read_unet3(folder: OriginalFolder, variant: str | None = None, dtype: Dtype = None) -> UNet3:
    """The U-Net with the projection that belongs to it.

    This and the following keep the file's dtypes where `dtype` is None, and raise CheckpointError for files
    that are missing, damaged or of another network.
    """
    layout = folder.layout
    name = layout.unets[folder.chosen(variant)]
    path = folder.file(name)
    content = read_pickle(path)
    projection: dict[str, Tensor] | None = None
    if not embeds_projection(content):
        projection = read_tensor_file(encoder_folder(folder) / dict(layout.projections)[name])
    try:
        tensors = gathered(content, projection)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from error
    return UNET3.load(path, tensors, dtype)


def unet3_files(unet: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of a U-Net's file and of its projection's; CheckpointError for what they cannot say."""
    return scattered(UNET3.tensors(unet))


def encoder_folder(folder: OriginalFolder) -> Path:
    """The folder of the text encoder and its tokenizer; CheckpointError when there is none."""
    names = (folder.layout.text_encoder, folder.layout.published_text_encoder)
    found = next((folder.root / name for name in names if name and (folder.root / name).is_dir()), None)
    return folder.folder(folder.layout.text_encoder) if found is None else found


def read_encoder(folder: OriginalFolder, dtype: Dtype = None) -> T5Encoder:
    """The text encoder, by the configuration beside it, or of the published kind where there is none."""
    path = encoder_folder(folder)
    tensors = without_decoder(read_weights(path, "model"))
    described = path / "config.json"
    config = t5_config(read_json(described)) if described.is_file() else infer_t5_config(tensors, "silu")
    native = t5_map(tensors).to_native(tensors)
    return load_strict(lambda: T5Encoder(config), native, dtype, f"text encoder of {path}")


def read_tokenizer(folder: OriginalFolder) -> Tokenizer:
    """The tokenizer beside the text encoder; TokenizerError without its files."""
    return load_tokenizer(encoder_folder(folder))
