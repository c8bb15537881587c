"""The 2.x U-Net: `UNet2DConditionModel`, or original files (`Kandinsky-2-0*.pt`, `decoder_fp16`, `inpainting_fp16`).

diffusers has no U-Net of two texts; its configuration and names in that layout are ours, in the same style. Blocks of
original files are numbered through all levels, so that names depend on the number of levels and their depth.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import Entry, KeyMap, convolution, interleaved, rename, renames, stack
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.unet2 import ConditionKind, HintEncoder, UNet2Config

CLASS = "UNet2DConditionModel"
_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "film": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}


def _attention(native: str, foreign: str) -> list[Entry]:
    return [
        stack(f"{native}.qkv.{{p}}", *(f"{foreign}.to_{x}.{{p}}" for x in "qkv")),
        stack(f"{native}.context_kv.{{p}}", *(f"{foreign}.add_{x}_proj.{{p}}" for x in "kv")),
        *renames({"norm": "group_norm", "out": "to_out.0"}, native, foreign),
    ]


def _levels(native: str, foreign: str, resample: str) -> list[Entry]:
    ours, theirs = f"{native}.{{i}}", f"{foreign}.{{i}}"
    return [
        *renames(_RESNET, f"{ours}.resnets.{{j}}", f"{theirs}.resnets.{{j}}"),
        *_attention(f"{ours}.attentions.{{j}}", f"{theirs}.attentions.{{j}}"),
        *renames(_RESNET, f"{ours}.resample", f"{theirs}.{resample}.0"),
    ]


_BLOCKS = [
    *renames(
        {
            "time_mlp.0": "time_embedding.linear_1",
            "time_mlp.2": "time_embedding.linear_2",
            "conv_in": "conv_in",
            "norm_out": "conv_norm_out",
            "conv_out": "conv_out",
        }
    ),
    *_levels("down", "down_blocks", "downsamplers"),
    *renames(_RESNET, "mid.resnets.{j}", "mid_block.resnets.{j}"),
    *_attention("mid.attention", "mid_block.attentions.0"),
    *_levels("up", "up_blocks", "upsamplers"),
]
_IMAGE = {
    "conditioning.tokens": "encoder_hid_proj.image_embeds",
    "conditioning.tokens_norm": "encoder_hid_proj.norm",
    "conditioning.pooled": "add_embedding.image_proj",
    "conditioning.pooled_norm": "add_embedding.image_norm",
}
_HINT = {f"hint.convs.{k}": f"add_embedding.input_hint_block.{2 * k}" for k in range(len(HintEncoder.PLAN))}
_TEXT = {
    "conditioning.text_tokens": "encoder_hid_proj.text_proj",
    "conditioning.text_pooled": "add_embedding.text_proj",
    "conditioning.text_pooled_norm": "add_embedding.text_norm",
}
_TEXT_IMAGE = _TEXT | {
    "conditioning.tokens": "encoder_hid_proj.image_embeds",
    "conditioning.pooled": "add_embedding.image_proj",
}
_TWO_TEXTS = _TEXT | {
    "conditioning.second_tokens": "encoder_hid_proj.second_text_proj",
    "conditioning.tokens_norm": "encoder_hid_proj.norm",
    "conditioning.second_pooled.out": "add_embedding.second_text_pool.to_out",
    **{f"conditioning.second_pooled.{x}": f"add_embedding.second_text_pool.to_{x}" for x in "qkv"},
    "conditioning.second_pooled_norm": "add_embedding.second_text_norm",
}
UNET2: dict[ConditionKind, KeyMap] = {
    "image": KeyMap(_BLOCKS + renames(_IMAGE)),
    "text_image": KeyMap(_BLOCKS + renames(_TEXT_IMAGE)),
    "image_hint": KeyMap(_BLOCKS + renames(_IMAGE | _HINT)),
    "two_texts": KeyMap(_BLOCKS + renames(_TWO_TEXTS)),
}
# condition -> (encoder_hid_dim_type, the number of image tokens, which the format has no key for)
_PROJECTIONS: dict[ConditionKind, tuple[str, int]] = {
    "image": ("image_proj", 32),
    "text_image": ("text_image_proj", 10),
    "image_hint": ("image_proj", 32),
    "two_texts": ("two_texts_proj", UNet2Config.image_tokens),
}


_SIZES: fields.Table = {
    "in_channels": ("in_channels", 4),
    "out_channels": ("out_channels", 4),
    "channels": ("block_out_channels", (320, 640, 1280, 1280)),
    "layers": ("layers_per_block", 2),
    "head_dim": ("attention_head_dim", 8),
    "context_dim": ("cross_attention_dim", 1280),
    "groups": ("norm_num_groups", 32),
}
_FIXED: Json = {
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "scale_shift",
}
_UNSAID: Json = {
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "num_attention_heads": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
"""Defaults of diffusers, which need not be written."""


def _levels_json(channels: Sequence[int]) -> dict[str, object]:
    plain = len(channels) - 1
    return {
        "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * plain,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * plain + ["ResnetUpsampleBlock2D"],
    }


def unet2_config(json: Json, image_dim: int | None = None, text_dim: int | None = None) -> UNet2Config:
    """Reads a `UNet2DConditionModel` config.json; CheckpointError for an unknown option. `image_dim` and `text_dim` are
    the widths of embeddings that the file leaves out ("text_image")."""
    fields.require(json, CLASS)
    sizes = fields.read_sizes(json, _SIZES)
    channels, context = sizes["channels"], sizes["context_dim"]
    assert isinstance(channels, tuple)
    assert isinstance(context, int)
    fields.require(json, CLASS, **_levels_json(channels), **_FIXED, **_UNSAID)
    kind = json.get("addition_embed_type")
    if kind not in UNET2:
        raise CheckpointError(
            f"config.json of a {CLASS} has addition_embed_type = {kind!r}.",
            f"Known: {', '.join(UNET2)}. Is this a Kandinsky 2 decoder?",
        )
    projection, tokens = _PROJECTIONS[kind]
    fields.require(json, CLASS, encoder_hid_dim_type=projection)
    hidden = fields.whole(json, "encoder_hid_dim", 0)  # without a default: a missing one is refused
    if kind == "text_image":
        sizes |= {"image_dim": image_dim or context}
    elif kind != "two_texts":
        sizes |= {"image_dim": hidden}
    if kind in ("text_image", "two_texts"):
        text = fields.whole(json, "text_embed_dim", text_dim or context)
        sizes |= {"text_hidden_dim": hidden, "text_dim": text}
    if kind == "two_texts":
        sizes |= {"second_text_dim": fields.whole(json, "second_encoder_hid_dim", 0)}
    return fields.build(UNet2Config, **sizes, condition=kind, image_tokens=tokens)


def unet2_json(config: UNet2Config, sample_size: int = 64) -> dict[str, object]:
    """The config.json of a U-Net; `sample_size` is in latents. CheckpointError for another number of image tokens than
    the published one, and for a text_image network whose embeddings differ in width from its context."""
    _require_writable(config)
    text = config.condition in ("text_image", "two_texts")
    widths = {"text_embed_dim": config.text_dim, "second_encoder_hid_dim": config.second_text_dim}
    return {
        "_class_name": CLASS,
        "addition_embed_type": config.condition,
        "encoder_hid_dim": config.text_hidden_dim if text else config.image_dim,
        "encoder_hid_dim_type": _PROJECTIONS[config.condition][0],
        "sample_size": sample_size,
        **_FIXED,
        **_levels_json(config.channels),
        **fields.write_sizes(config, _SIZES),
        **(widths if config.condition == "two_texts" else {}),
    }


def _require_writable(config: UNet2Config) -> None:
    tokens = _PROJECTIONS[config.condition][1]
    if config.image_tokens != tokens:
        raise CheckpointError(
            f"A U-Net with image_tokens = {config.image_tokens} cannot be written in this format.",
            f"It knows {tokens} only.",
        )
    widths = {config.image_dim, config.text_dim, config.context_dim}
    if config.condition == "text_image" and len(widths) > 1:
        raise CheckpointError(
            f"A text_image U-Net with image_dim = {config.image_dim}, text_dim = {config.text_dim} and "
            f"context_dim = {config.context_dim} cannot be written in this format.",
            "Give all the same size.",
        )


_ORIGINAL_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "film": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
# condition -> (our name under `conditioning.`, the file's name)
_ORIGINAL_CONDITIONING: dict[ConditionKind, dict[str, str]] = {
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


def _original_attention(native: str, foreign: str, head_dim: int) -> list[Entry]:
    return [
        *renames({"norm": "norm"}, native, foreign),
        Entry(f"{native}.qkv.{{p}}", (f"{foreign}.qkv.{{p}}",), convolution(1, interleaved(3, head_dim))),
        Entry(f"{native}.context_kv.{{p}}", (f"{foreign}.encoder_kv.{{p}}",), convolution(1, interleaved(2, head_dim))),
        Entry(f"{native}.out.{{p}}", (f"{foreign}.proj_out.{{p}}",), convolution(1)),
    ]


def _original_down(config: UNet2Config) -> list[Entry]:
    entries, number = [rename("conv_in.{p}", "input_blocks.0.0.{p}")], 1
    for level in range(len(config.channels)):
        for j in range(config.layers):
            entries += renames(_ORIGINAL_RESNET, f"down.{level}.resnets.{j}", f"input_blocks.{number}.0")
            if level > 0:
                entries += _original_attention(
                    f"down.{level}.attentions.{j}", f"input_blocks.{number}.1", config.head_dim
                )
            number += 1
        if level < len(config.channels) - 1:
            entries += renames(_ORIGINAL_RESNET, f"down.{level}.resample", f"input_blocks.{number}.0")
            number += 1
    return entries


def _original_up(config: UNet2Config) -> list[Entry]:
    entries: list[Entry] = []
    last = len(config.channels) - 1
    for level in range(last + 1):
        lowest = level == last
        for j in range(config.layers + 1):
            foreign = f"output_blocks.{level * (config.layers + 1) + j}"
            entries += renames(_ORIGINAL_RESNET, f"up.{level}.resnets.{j}", f"{foreign}.0")
            if not lowest:
                entries += _original_attention(f"up.{level}.attentions.{j}", f"{foreign}.1", config.head_dim)
        if not lowest:
            entries += renames(_ORIGINAL_RESNET, f"up.{level}.resample", f"{foreign}.2")
    return entries


def original_unet2_map(config: UNet2Config) -> KeyMap:
    """The names of a U-Net of these sizes in an original file; CheckpointError for a condition that none has."""
    if config.condition not in _ORIGINAL_CONDITIONING:
        raise CheckpointError(
            f"A U-Net with condition = {config.condition!r} has no place in an original file.",
            f"Those have {' or '.join(_ORIGINAL_CONDITIONING)}.",
        )
    return KeyMap(
        [
            rename("time_mlp.{i}.{p}", "time_embed.{i}.{p}"),
            *renames(_ORIGINAL_CONDITIONING[config.condition], "conditioning"),
            *_original_down(config),
            *renames(_ORIGINAL_RESNET, "mid.resnets.0", "middle_block.0"),
            *_original_attention("mid.attention", "middle_block.1", config.head_dim),
            *renames(_ORIGINAL_RESNET, "mid.resnets.1", "middle_block.2"),
            *_original_up(config),
            *renames({"norm_out": "out.0", "conv_out": "out.2"}),
        ]
    )


def infer_unet2_config(tensors: Mapping[str, Tensor], head_dim: int = fields.HEAD_DIM) -> UNet2Config:
    """The sizes of the U-Net in an original file, read off its tensors; CheckpointError for other tensors. `head_dim`
    is the width of an attention head."""
    blocks = fields.count(tensors, "output_blocks.")
    # Each level but the last of the upward half ends with a second residual block, behind an attention.
    levels = 1 + sum(f"output_blocks.{k}.2.in_layers.0.weight" in tensors for k in range(blocks))
    layers = blocks // levels - 1
    if layers < 1 or blocks % levels or fields.count(tensors, "input_blocks.") != blocks:
        raise CheckpointError(
            f"The file has {blocks} output_blocks for {levels} levels and "
            f"{fields.count(tensors, 'input_blocks.')} input_blocks.",
            fields.HINT,
        )
    firsts = [f"input_blocks.{1 + level * (layers + 1)}.0.out_layers.3.weight" for level in range(levels)]
    condition, sizes = _infer_condition(tensors)
    return fields.sized(
        UNet2Config,
        in_channels=fields.shape(tensors, "input_blocks.0.0.weight", 4)[1],
        out_channels=fields.shape(tensors, "out.2.weight", 4)[0],
        channels=tuple(fields.shape(tensors, name, 4)[0] for name in firsts),
        layers=layers,
        head_dim=head_dim,
        condition=condition,
        **sizes,
    )


def _infer_condition(tensors: Mapping[str, Tensor]) -> tuple[ConditionKind, dict[str, int]]:
    context = fields.shape(tensors, "middle_block.1.encoder_kv.weight", 3)[1]
    if "clip_to_seq.weight" in tensors:
        rows, image_dim = fields.shape(tensors, "clip_to_seq.weight", 2)
        return "text_image", {
            "context_dim": context,
            "image_dim": image_dim,
            "image_tokens": rows // context,
            "text_hidden_dim": fields.shape(tensors, "to_model_dim_n.weight", 2)[1],
            "text_dim": fields.shape(tensors, "proj_n.weight", 2)[1],
        }
    if "to_model_dim2.weight" in tensors:
        return "two_texts", {
            "context_dim": context,
            "text_hidden_dim": fields.shape(tensors, "to_model_dim.weight", 2)[1],
            "text_dim": fields.shape(tensors, "proj.weight", 2)[1],
            "second_text_dim": fields.shape(tensors, "to_model_dim2.weight", 2)[1],
        }
    raise CheckpointError("The file has neither clip_to_seq.weight nor to_model_dim2.weight.", fields.HINT)


ORIGINAL_UNET2 = OriginalFile(
    lambda folder, variant: folder.unet_file(variant),
    lambda tensors, _: infer_unet2_config(tensors),
    lambda config, _: original_unet2_map(config),
    lambda files, variant, tensors: {files.unets[variant]: tensors},
)
