"""Every kind of network that a checkpoint holds, in both layouts."""

from dataclasses import replace
from functools import partial

from torch import nn

from kandinsky.checkpoints.components import Component, ComponentSpec
from kandinsky.checkpoints.maps import clip, kl, mclip, movq, prior, t5, unet2, unet3
from kandinsky.checkpoints.maps.original_files import KL_SCALE
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.kl import AutoencoderKL, KLConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.t5 import T5Config, T5Encoder
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Config
from kandinsky.networks.xlmr import MultilingualClip, MultilingualClipConfig

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""The names of an attention's projections in diffusers."""
UNET = ComponentSpec(
    "unet",
    "diffusers",
    unet2.CLASS,
    UNet2Config,
    UNet2,
    unet2.unet2_config,
    unet2.unet2_json,
    lambda config, _: unet2.UNET2[config.condition],
    adapted=(*PROJECTIONS, "add_k_proj", "add_v_proj"),
    original=unet2.ORIGINAL_UNET2,
)
UNET3 = ComponentSpec(
    "unet",
    "diffusers",
    unet3.CLASS,
    UNet3Config,
    UNet3,
    unet3.unet3_config,
    unet3.unet3_json,
    lambda config, _: unet3.unet3_map(config),
    adapted=PROJECTIONS,
    original=unet3.ORIGINAL_UNET3,
)
MOVQ = ComponentSpec(
    "movq",
    "diffusers",
    movq.CLASS,
    MoVQConfig,
    MoVQ,
    movq.movq_config,
    movq.movq_json,
    lambda *_: movq.MOVQ,
    complete=movq.with_codebook,
    original=movq.ORIGINAL_MOVQ,
)
LATER_MOVQ = replace(MOVQ, original=movq.LATER_MOVQ)
KL = ComponentSpec(
    "vae",
    "diffusers",
    kl.CLASS,
    KLConfig,
    AutoencoderKL,
    kl.kl_config,
    partial(kl.kl_json, scale=KL_SCALE),
    lambda *_: kl.KL,
    original=kl.ORIGINAL_KL,
)
PRIOR = ComponentSpec(
    "prior",
    "diffusers",
    prior.CLASS,
    PriorConfig,
    Prior,
    prior.prior_config,
    prior.prior_json,
    lambda *_: prior.PRIOR,
    adapted=PROJECTIONS,
    original=prior.ORIGINAL_PRIOR,
)
CLIP_TEXT = ComponentSpec(
    "text_encoder",
    "transformers",
    clip.TEXT_CLASS,
    ClipTextConfig,
    ClipText,
    clip.clip_text_config,
    clip.clip_text_json,
    lambda *_: clip.CLIP_TEXT,
    "model",
    tokenizer="tokenizer",
    tokenizer_class="CLIPTokenizer",
    adapted=("q_proj", "k_proj", "v_proj", "out_proj"),
    original=clip.ORIGINAL_TEXT,
)
CLIP_VISION = ComponentSpec(
    "image_encoder",
    "transformers",
    clip.VISION_CLASS,
    ClipVisionConfig,
    ClipVision,
    clip.clip_vision_config,
    clip.clip_vision_json,
    lambda *_: clip.CLIP_VISION,
    "model",
    original=clip.ORIGINAL_VISION,
)
MULTILINGUAL = ComponentSpec(
    "text_encoder",
    "kandinsky",
    mclip.CLASS,
    MultilingualClipConfig,
    MultilingualClip,
    mclip.mclip_config,
    mclip.mclip_json,
    lambda *_: mclip.MCLIP,
    "model",
    settle=lambda config, tensors: replace(config, pooler=mclip.POOLER in tensors),
    tokenizer="tokenizer",
    tokenizer_class="XLMRobertaTokenizerFast",
    adapted=("query", "key", "value", "attention.output.dense"),
    original=mclip.ORIGINAL_MULTILINGUAL,
)
SECOND_TEXT = ComponentSpec(
    "text_encoder_2",
    "transformers",
    t5.CLASSES["mt5"],
    T5Config,
    T5Encoder,
    t5.t5_config,
    partial(t5.t5_json, model_type="mt5"),
    lambda _, tensors: t5.t5_map() if tensors is None else t5.t5_map(tensors),
    "model",
    strip=t5.without_decoder,
    tokenizer="tokenizer_2",
    tokenizer_class="T5TokenizerFast",
    adapted=("q", "k", "v", "o"),
    original=t5.ORIGINAL_SECOND_TEXT,
)
ONE_TEXT = replace(
    SECOND_TEXT,
    name="text_encoder",
    class_name=t5.CLASSES["t5"],
    write=partial(t5.t5_json, model_type="t5"),
    tokenizer="tokenizer",
    original=t5.ORIGINAL_ONE_TEXT,
)
COMPONENTS: tuple[Component, ...] = (
    UNET,
    UNET3,
    MOVQ,
    KL,
    PRIOR,
    CLIP_TEXT,
    CLIP_VISION,
    MULTILINGUAL,
    SECOND_TEXT,
    ONE_TEXT,
)
"""Every kind of network that a component can be."""


def component_of(network: type[nn.Module] | str) -> Component | None:
    """The kind of networks of this class, or that a model index names so; None for none."""
    return next((spec for spec in COMPONENTS if network in (spec.build, spec.class_name)), None)
