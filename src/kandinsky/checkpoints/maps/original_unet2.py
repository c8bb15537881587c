"""The U-Net of the original files of 2.0 (`Kandinsky-2-0*.pt`) and 2.1 (`decoder_fp16`, `inpainting_fp16`).

Their blocks are numbered through all levels, so that the names depend on the number of levels and their
depth.
"""

from collections.abc import Mapping

from torch import Tensor

from kandinsky.checkpoints.keymap import Entry, KeyMap, convolution, interleaved, rename, renames
from kandinsky.checkpoints.maps.config_fields import HEAD_DIM, HINT, count, shape, sized
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.unet2 import ConditionKind, UNet2Config

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "film": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
# condition -> (our name under `conditioning.`, the file's name)
_CONDITIONING: dict[ConditionKind, dict[str, str]] = {
    "text_image": {
        "tokens": "clip_to_seq",
        "text_tokens": "to_model_dim_n",
        "pooled": "img_layer",
        "text_pooled": "proj_n",
        "text_pooled_norm": "ln_model_n",
    },
    "two_texts": {
        "text_tokens": "to_model_dim",
        "second_tokens": "to_model_dim2",
        "tokens_norm": "ln_model1",
        "text_pooled": "proj",
        "text_pooled_norm": "ln_model2",
        "second_pooled.q": "proj2.q_linear",
        "second_pooled.k": "proj2.k_linear",
        "second_pooled.v": "proj2.v_linear",
        "second_pooled.out": "proj2.out",
        "second_pooled_norm": "ln_model3",
    },
}


def _attention(native: str, foreign: str, head_dim: int) -> list[Entry]:
    return [
        *renames({"norm": "norm"}, native, foreign),
        Entry(f"{native}.qkv.{{p}}", (f"{foreign}.qkv.{{p}}",), convolution(1, interleaved(3, head_dim))),
        Entry(f"{native}.context_kv.{{p}}", (f"{foreign}.encoder_kv.{{p}}",), convolution(1, interleaved(2, head_dim))),
        Entry(f"{native}.out.{{p}}", (f"{foreign}.proj_out.{{p}}",), convolution(1)),
    ]


def _down(config: UNet2Config) -> list[Entry]:
    entries, number = [rename("conv_in.{p}", "input_blocks.0.0.{p}")], 1
    for level in range(len(config.channels)):
        for j in range(config.layers):
            entries += renames(_RESNET, f"down.{level}.resnets.{j}", f"input_blocks.{number}.0")
            if level > 0:
                entries += _attention(f"down.{level}.attentions.{j}", f"input_blocks.{number}.1", config.head_dim)
            number += 1
        if level < len(config.channels) - 1:
            entries += renames(_RESNET, f"down.{level}.resample", f"input_blocks.{number}.0")
            number += 1
    return entries


def _up(config: UNet2Config) -> list[Entry]:
    entries: list[Entry] = []
    last = len(config.channels) - 1
    for level in range(last + 1):
        lowest = level == last
        for j in range(config.layers + 1):
            foreign = f"output_blocks.{level * (config.layers + 1) + j}"
            entries += renames(_RESNET, f"up.{level}.resnets.{j}", f"{foreign}.0")
            if not lowest:
                entries += _attention(f"up.{level}.attentions.{j}", f"{foreign}.1", config.head_dim)
        if not lowest:
            entries += renames(_RESNET, f"up.{level}.resample", f"{foreign}.2")
    return entries


def original_unet2_map(config: UNet2Config) -> KeyMap:
    """The names of a U-Net of these sizes in an original file.

    Raises CheckpointError for a condition that no original file has.
    """
    if config.condition not in _CONDITIONING:
        raise CheckpointError(
            f"A U-Net with condition = {config.condition!r} has no place in an original file.",
            f"Those have {' or '.join(_CONDITIONING)}.",
        )
    return KeyMap(
        [
            rename("time_mlp.{i}.{p}", "time_embed.{i}.{p}"),
            *renames(_CONDITIONING[config.condition], "conditioning"),
            *_down(config),
            *renames(_RESNET, "mid.resnets.0", "middle_block.0"),
            *_attention("mid.attention", "middle_block.1", config.head_dim),
            *renames(_RESNET, "mid.resnets.1", "middle_block.2"),
            *_up(config),
            *renames({"norm_out": "out.0", "conv_out": "out.2"}),
        ]
    )


def infer_unet2_config(tensors: Mapping[str, Tensor], head_dim: int = HEAD_DIM) -> UNet2Config:
    """The sizes of the U-Net in an original file, read off its tensors.

    `head_dim` is the width of an attention head, which they do not tell. Raises CheckpointError when the
    tensors are not those of such a network.
    """
    blocks = count(tensors, "output_blocks.")
    # Each level but the last of the upward half ends with a second residual block, behind an attention.
    levels = 1 + sum(f"output_blocks.{k}.2.in_layers.0.weight" in tensors for k in range(blocks))
    layers = blocks // levels - 1
    if layers < 1 or blocks % levels or count(tensors, "input_blocks.") != blocks:
        raise CheckpointError(
            f"The file has {blocks} output_blocks for {levels} levels and "
            f"{count(tensors, 'input_blocks.')} input_blocks.",
            HINT,
        )
    firsts = [f"input_blocks.{1 + level * (layers + 1)}.0.out_layers.3.weight" for level in range(levels)]
    condition, sizes = _condition(tensors)
    return sized(
        UNet2Config,
        in_channels=shape(tensors, "input_blocks.0.0.weight", 4)[1],
        out_channels=shape(tensors, "out.2.weight", 4)[0],
        channels=tuple(shape(tensors, name, 4)[0] for name in firsts),
        layers=layers,
        head_dim=head_dim,
        condition=condition,
        **sizes,
    )


def _condition(tensors: Mapping[str, Tensor]) -> tuple[ConditionKind, dict[str, int]]:
    context = shape(tensors, "middle_block.1.encoder_kv.weight", 3)[1]
    if "clip_to_seq.weight" in tensors:
        rows, image_dim = shape(tensors, "clip_to_seq.weight", 2)
        return "text_image", {
            "context_dim": context,
            "image_dim": image_dim,
            "image_tokens": rows // context,
            "text_hidden_dim": shape(tensors, "to_model_dim_n.weight", 2)[1],
            "text_dim": shape(tensors, "proj_n.weight", 2)[1],
        }
    if "to_model_dim2.weight" in tensors:
        return "two_texts", {
            "context_dim": context,
            "text_hidden_dim": shape(tensors, "to_model_dim.weight", 2)[1],
            "text_dim": shape(tensors, "proj.weight", 2)[1],
            "second_text_dim": shape(tensors, "to_model_dim2.weight", 2)[1],
        }
    raise CheckpointError("The file has neither clip_to_seq.weight nor to_model_dim2.weight.", HINT)
