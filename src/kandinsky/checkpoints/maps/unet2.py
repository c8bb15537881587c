"""The 2.x U-Net in the diffusers layout (`UNet2DConditionModel`).

The peer has no U-Net of two texts; its configuration and names here are ours, in the same style.
"""

from collections.abc import Mapping
from typing import Any

from kandinsky.checkpoints.keymap import Entry, KeyMap, rename, stack
from kandinsky.checkpoints.maps.configs import build, require
from kandinsky.checkpoints.maps.options import whole, wholes
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.unet2 import ConditionKind, HintEncoder, UNet2Config

CLASS = "UNet2DConditionModel"
HINT_CONVS = len(HintEncoder.PLAN)


def _resnet(native: str, foreign: str) -> list[Entry]:
    names = {
        "norm1": "norm1",
        "conv1": "conv1",
        "film": "time_emb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "shortcut": "conv_shortcut",
    }
    return [rename(f"{native}.{ours}.{{p}}", f"{foreign}.{theirs}.{{p}}") for ours, theirs in names.items()]


def _attention(native: str, foreign: str) -> list[Entry]:
    return [
        rename(f"{native}.norm.{{p}}", f"{foreign}.group_norm.{{p}}"),
        stack(f"{native}.qkv.{{p}}", *(f"{foreign}.to_{x}.{{p}}" for x in "qkv")),
        stack(f"{native}.context_kv.{{p}}", *(f"{foreign}.add_{x}_proj.{{p}}" for x in "kv")),
        rename(f"{native}.out.{{p}}", f"{foreign}.to_out.0.{{p}}"),
    ]


def _levels(native: str, foreign: str, resample: str) -> list[Entry]:
    return [
        *_resnet(f"{native}.{{i}}.resnets.{{j}}", f"{foreign}.{{i}}.resnets.{{j}}"),
        *_attention(f"{native}.{{i}}.attentions.{{j}}", f"{foreign}.{{i}}.attentions.{{j}}"),
        *_resnet(f"{native}.{{i}}.resample", f"{foreign}.{{i}}.{resample}.0"),
    ]


_BLOCKS = [
    rename("time_mlp.0.{p}", "time_embedding.linear_1.{p}"),
    rename("time_mlp.2.{p}", "time_embedding.linear_2.{p}"),
    rename("conv_in.{p}", "conv_in.{p}"),
    *_levels("down", "down_blocks", "downsamplers"),
    *_resnet("mid.resnets.{j}", "mid_block.resnets.{j}"),
    *_attention("mid.attention", "mid_block.attentions.0"),
    *_levels("up", "up_blocks", "upsamplers"),
    rename("norm_out.{p}", "conv_norm_out.{p}"),
    rename("conv_out.{p}", "conv_out.{p}"),
]
_IMAGE = [
    rename("conditioning.tokens.{p}", "encoder_hid_proj.image_embeds.{p}"),
    rename("conditioning.tokens_norm.{p}", "encoder_hid_proj.norm.{p}"),
    rename("conditioning.pooled.{p}", "add_embedding.image_proj.{p}"),
    rename("conditioning.pooled_norm.{p}", "add_embedding.image_norm.{p}"),
]
_HINT = [
    rename(f"hint.convs.{k}.{{p}}", f"add_embedding.input_hint_block.{2 * k}.{{p}}")
    for k in range(HINT_CONVS)
]
_TEXT_IMAGE = [
    rename("conditioning.tokens.{p}", "encoder_hid_proj.image_embeds.{p}"),
    rename("conditioning.text_tokens.{p}", "encoder_hid_proj.text_proj.{p}"),
    rename("conditioning.pooled.{p}", "add_embedding.image_proj.{p}"),
    rename("conditioning.text_pooled.{p}", "add_embedding.text_proj.{p}"),
    rename("conditioning.text_pooled_norm.{p}", "add_embedding.text_norm.{p}"),
]
_TWO_TEXTS = [
    rename("conditioning.text_tokens.{p}", "encoder_hid_proj.text_proj.{p}"),
    rename("conditioning.second_tokens.{p}", "encoder_hid_proj.second_text_proj.{p}"),
    rename("conditioning.tokens_norm.{p}", "encoder_hid_proj.norm.{p}"),
    rename("conditioning.text_pooled.{p}", "add_embedding.text_proj.{p}"),
    rename("conditioning.text_pooled_norm.{p}", "add_embedding.text_norm.{p}"),
    rename("conditioning.second_pooled.out.{p}", "add_embedding.second_text_pool.to_out.{p}"),
    *(
        rename(f"conditioning.second_pooled.{x}.{{p}}", f"add_embedding.second_text_pool.to_{x}.{{p}}")
        for x in "qkv"
    ),
    rename("conditioning.second_pooled_norm.{p}", "add_embedding.second_text_norm.{p}"),
]
UNET2: dict[ConditionKind, KeyMap] = {
    "image": KeyMap(_BLOCKS + _IMAGE),
    "text_image": KeyMap(_BLOCKS + _TEXT_IMAGE),
    "image_hint": KeyMap(_BLOCKS + _IMAGE + _HINT),
    "two_texts": KeyMap(_BLOCKS + _TWO_TEXTS),
}
# condition -> (encoder_hid_dim_type, the number of image tokens, which the format has no key for)
_PROJECTIONS: dict[ConditionKind, tuple[str, int]] = {
    "image": ("image_proj", 32),
    "text_image": ("text_image_proj", 10),
    "image_hint": ("image_proj", 32),
    "two_texts": ("two_texts_proj", UNet2Config.image_tokens),
}


def unet2_config(
    json: Mapping[str, Any], image_dim: int | None = None, text_dim: int | None = None
) -> UNet2Config:
    """Reads a `UNet2DConditionModel` config.json; raises CheckpointError for anything our U-Net does not do.

    `image_dim` and `text_dim` are the widths of the embeddings where the file leaves them out ("text_image").
    """
    channels = wholes(json, "block_out_channels", (320, 640, 1280, 1280))
    plain = len(channels) - 1
    require(
        json,
        CLASS,
        down_block_types=["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * plain,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D"] * plain + ["ResnetUpsampleBlock2D"],
        resnet_time_scale_shift="scale_shift",
        act_fn="silu",
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
        time_embedding_type="positional",
        time_embedding_dim=None,
        time_embedding_act_fn=None,
        timestep_post_act=None,
        class_embed_type=None,
        only_cross_attention=False,
        mid_block_only_cross_attention=None,
        cross_attention_norm=None,
        center_input_sample=False,
        resnet_skip_time_act=False,
        resnet_out_scale_factor=1.0,
        mid_block_scale_factor=1,
        num_attention_heads=None,
        conv_in_kernel=3,
        conv_out_kernel=3,
    )
    kind = json.get("addition_embed_type")
    if kind not in UNET2:
        raise CheckpointError(
            f"config.json of a {CLASS} has addition_embed_type = {kind!r}.",
            f"Known: {', '.join(UNET2)}. Is this a Kandinsky 2 decoder?",
        )
    projection, tokens = _PROJECTIONS[kind]
    require(json, CLASS, encoder_hid_dim_type=projection)
    context = whole(json, "cross_attention_dim", 1280)
    hidden = whole(json, "encoder_hid_dim", 0)  # without a default: a missing one is refused
    text = kind in ("text_image", "two_texts")
    two = kind == "two_texts"
    return build(
        UNet2Config,
        in_channels=whole(json, "in_channels", 4),
        out_channels=whole(json, "out_channels", 4),
        channels=channels,
        layers=whole(json, "layers_per_block", 2),
        head_dim=whole(json, "attention_head_dim", 8),
        context_dim=context,
        groups=whole(json, "norm_num_groups", 32),
        condition=kind,
        image_dim=UNet2Config.image_dim if two else (image_dim or context) if text else hidden,
        image_tokens=tokens,
        text_hidden_dim=hidden if text else UNet2Config.text_hidden_dim,
        text_dim=whole(json, "text_embed_dim", text_dim or context) if text else UNet2Config.text_dim,
        second_text_dim=whole(json, "second_encoder_hid_dim", 0) if two else UNet2Config.second_text_dim,
    )


def unet2_json(config: UNet2Config, sample_size: int = 64) -> dict[str, Any]:
    """The config.json with which the peer builds the same network; `sample_size` is in latents.

    Raises CheckpointError for another number of image tokens than the published one, and for a text_image
    network whose embeddings are not as wide as its context: the format can say neither.
    """
    _require_writable(config)
    plain = len(config.channels) - 1
    text = config.condition in ("text_image", "two_texts")
    widths = {"text_embed_dim": config.text_dim, "second_encoder_hid_dim": config.second_text_dim}
    return {
        "_class_name": CLASS,
        "act_fn": "silu",
        "addition_embed_type": config.condition,
        "attention_head_dim": config.head_dim,
        "block_out_channels": list(config.channels),
        "cross_attention_dim": config.context_dim,
        "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * plain,
        "encoder_hid_dim": config.text_hidden_dim if text else config.image_dim,
        "encoder_hid_dim_type": _PROJECTIONS[config.condition][0],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": config.groups,
        "out_channels": config.out_channels,
        "resnet_time_scale_shift": "scale_shift",
        "sample_size": sample_size,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * plain + ["ResnetUpsampleBlock2D"],
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
