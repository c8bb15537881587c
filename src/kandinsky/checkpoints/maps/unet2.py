"""The 2.x U-Net in the diffusers layout (`UNet2DConditionModel`).

The peer has no U-Net of two texts; its configuration and names here are ours, in the same style.
"""

from collections.abc import Mapping, Sequence

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import Entry, KeyMap, renames, stack
from kandinsky.checkpoints.maps.config_fields import Field, build, read_sizes, require, whole, write_sizes
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


_SIZES: Mapping[str, Field] = {
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
"""What the peer's defaults say as well, so that it need not be written."""


def _levels_json(channels: Sequence[int]) -> dict[str, object]:
    plain = len(channels) - 1
    return {
        "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * plain,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * plain + ["ResnetUpsampleBlock2D"],
    }


def unet2_config(json: Json, image_dim: int | None = None, text_dim: int | None = None) -> UNet2Config:
    """Reads a `UNet2DConditionModel` config.json; raises CheckpointError for anything our U-Net does not do.

    `image_dim` and `text_dim` are the widths of the embeddings where the file leaves them out ("text_image").
    """
    require(json, CLASS)
    sizes = read_sizes(json, _SIZES)
    channels, context = sizes["channels"], sizes["context_dim"]
    assert isinstance(channels, tuple)
    assert isinstance(context, int)
    require(json, CLASS, **_levels_json(channels), **_FIXED, **_UNSAID)
    kind = json.get("addition_embed_type")
    if kind not in UNET2:
        raise CheckpointError(
            f"config.json of a {CLASS} has addition_embed_type = {kind!r}.",
            f"Known: {', '.join(UNET2)}. Is this a Kandinsky 2 decoder?",
        )
    projection, tokens = _PROJECTIONS[kind]
    require(json, CLASS, encoder_hid_dim_type=projection)
    hidden = whole(json, "encoder_hid_dim", 0)  # without a default: a missing one is refused
    if kind == "text_image":
        sizes |= {"image_dim": image_dim or context}
    elif kind != "two_texts":
        sizes |= {"image_dim": hidden}
    if kind in ("text_image", "two_texts"):
        text = whole(json, "text_embed_dim", text_dim or context)
        sizes |= {"text_hidden_dim": hidden, "text_dim": text}
    if kind == "two_texts":
        sizes |= {"second_text_dim": whole(json, "second_encoder_hid_dim", 0)}
    return build(UNet2Config, **sizes, condition=kind, image_tokens=tokens)


def unet2_json(config: UNet2Config, sample_size: int = 64) -> dict[str, object]:
    """The config.json with which the peer builds the same network; `sample_size` is in latents.

    Raises CheckpointError for another number of image tokens than the published one, and for a text_image
    network whose embeddings are not as wide as its context: the format can say neither.
    """
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
        **write_sizes(config, _SIZES),
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
