"""CLIP's two towers in the names of the first release: one state dict with both and the temperature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from kandinsky.checkpoints.keymap import Entry, KeyMap, rename
from kandinsky.checkpoints.layouts import TRANSPOSED
from kandinsky.checkpoints.maps.sizes import HINT, count, heads_of, shape, sized
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig


def _blocks(tower: str, foreign: str) -> list[Entry]:
    ours, theirs = f"{tower}.blocks.{{i}}", f"{foreign}transformer.resblocks.{{i}}"
    return [
        rename(f"{ours}.norm1.{{p}}", f"{theirs}.ln_1.{{p}}"),
        rename(f"{ours}.attention.qkv.{{p}}", f"{theirs}.attn.in_proj_{{p}}"),
        rename(f"{ours}.attention.out.{{p}}", f"{theirs}.attn.out_proj.{{p}}"),
        rename(f"{ours}.norm2.{{p}}", f"{theirs}.ln_2.{{p}}"),
        rename(f"{ours}.mlp.up.{{p}}", f"{theirs}.mlp.c_fc.{{p}}"),
        rename(f"{ours}.mlp.down.{{p}}", f"{theirs}.mlp.c_proj.{{p}}"),
    ]


ORIGINAL_CLIP = KeyMap(
    [
        rename("text.tokens.weight", "token_embedding.weight"),
        rename("text.positions", "positional_embedding"),
        *_blocks("text", ""),
        rename("text.norm.{p}", "ln_final.{p}"),
        Entry("text.projection.weight", ("text_projection",), TRANSPOSED),
        rename("vision.patches.weight", "visual.conv1.weight"),
        rename("vision.class_token", "visual.class_embedding"),
        rename("vision.positions", "visual.positional_embedding"),
        rename("vision.norm_in.{p}", "visual.ln_pre.{p}"),
        *_blocks("vision", "visual."),
        rename("vision.norm_out.{p}", "visual.ln_post.{p}"),
        Entry("vision.projection.weight", ("visual.proj",), TRANSPOSED),
        rename("logit_scale", "logit_scale"),
    ],
    # Single numbers that tensors of the file tell as well.
    ignored=["input_resolution", "context_length", "vocab_size"],
)
"""Both towers under `text.` and `vision.`, and the temperature, <-> the file."""


@dataclass(frozen=True)
class ClipTensors:
    """A file taken apart: each tower's native tensors, and the logarithm of the temperature of both."""

    text: dict[str, Tensor]
    vision: dict[str, Tensor]
    logit_scale: Tensor


def from_original_clip(tensors: Mapping[str, Tensor]) -> ClipTensors:
    """The towers of a file; raises CheckpointError for unknown names and a missing temperature."""
    shape(tensors, "logit_scale", 0)
    native = ORIGINAL_CLIP.to_native(tensors)
    text, vision = (
        {name.removeprefix(prefix): tensor for name, tensor in native.items() if name.startswith(prefix)}
        for prefix in ("text.", "vision.")
    )
    return ClipTensors(text, vision, native["logit_scale"])


def to_original_clip(clip: ClipTensors) -> dict[str, Tensor]:
    """The file with these towers; raises CheckpointError for a name that it has no place for."""
    text = {f"text.{name}": tensor for name, tensor in clip.text.items()}
    vision = {f"vision.{name}": tensor for name, tensor in clip.vision.items()}
    return ORIGINAL_CLIP.to_foreign({**text, **vision, "logit_scale": clip.logit_scale})


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
