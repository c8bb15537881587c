"""CLIP's two towers in the names of the first release: one file with both and the temperature."""

import math
from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.keymap import TRANSPOSED, Entry, KeyMap, rename, renames
from kandinsky.checkpoints.maps.config_fields import HINT, count, heads_of, shape, sized
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig

BLOCK = {"norm1": "ln_1", "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
"""What transformers of the first release call the parts of a block."""


def _blocks(foreign: str) -> list[Entry]:
    ours, theirs = "blocks.{i}", f"{foreign}transformer.resblocks.{{i}}"
    return [
        rename(f"{ours}.attention.qkv.{{p}}", f"{theirs}.attn.in_proj_{{p}}"),
        *renames(BLOCK | {"attention.out": "attn.out_proj"}, ours, theirs),
    ]


ORIGINAL_CLIP_TEXT = KeyMap(
    [
        rename("tokens.weight", "token_embedding.weight"),
        rename("positions", "positional_embedding"),
        *_blocks(""),
        *renames({"norm": "ln_final"}),
        Entry("projection.weight", ("text_projection",), TRANSPOSED),
    ],
    # Single numbers that tensors of the file tell as well.
    ignored=["input_resolution", "context_length", "vocab_size"],
)
ORIGINAL_CLIP_VISION = KeyMap(
    [
        rename("patches.weight", "visual.conv1.weight"),
        rename("class_token", "visual.class_embedding"),
        rename("positions", "visual.positional_embedding"),
        *renames({"norm_in": "visual.ln_pre", "norm_out": "visual.ln_post"}),
        *_blocks("visual."),
        Entry("projection.weight", ("visual.proj",), TRANSPOSED),
    ]
)


def infer_clip_text_config(tensors: Mapping[str, Tensor]) -> ClipTextConfig:
    """The sizes of the text tower, read off the file's tensors; heads are 64 wide, as in every release.

    Raises CheckpointError when the tensors are not those of such a tower.
    """
    vocab_size, width = shape(tensors, "token_embedding.weight", 2)
    return sized(
        ClipTextConfig,
        vocab_size=vocab_size,
        width=width,
        layers=count(tensors, "transformer.resblocks."),
        heads=heads_of(width),
        mlp_width=shape(tensors, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        positions=shape(tensors, "positional_embedding", 2)[0],
        projection=shape(tensors, "text_projection", 2)[1],
        activation="quick_gelu",
        eos_id=None,
        pool="argmax",
    )


def infer_clip_vision_config(tensors: Mapping[str, Tensor]) -> ClipVisionConfig:
    """The sizes of the vision tower, read off the file's tensors; heads are 64 wide, as in every release.

    Raises CheckpointError when the tensors are not those of such a tower, of a convolutional one for
    instance.
    """
    width, _, patch, _ = shape(tensors, "visual.conv1.weight", 4)
    places = shape(tensors, "visual.positional_embedding", 2)[0] - 1
    grid = math.isqrt(max(places, 0))
    if grid * grid != places:
        raise CheckpointError(f"The vision tower has {places} patches, which make no square.", HINT)
    return sized(
        ClipVisionConfig,
        width=width,
        layers=count(tensors, "visual.transformer.resblocks."),
        heads=heads_of(width),
        mlp_width=shape(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        image_size=grid * patch,
        patch=patch,
        projection=shape(tensors, "visual.proj", 2)[1],
        activation="quick_gelu",
    )
