"""Whole tiny checkpoints, made and saved by the peer at the published structure."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UNet2DConditionModel,
    UnCLIPScheduler,
    VQModel,
)
from diffusers.pipelines.kandinsky2_2 import (
    KandinskyV22ControlnetPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.parity.peers import MOVQ_TINY, UNET_TINY, redraw
from tests.parity.vocabulary import byte_tokenizer

DIM = UNET_TINY["encoder_hid_dim"]
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "clip_sample": False,
    "prediction_type": "epsilon",
    "thresholding": False,
}


def save_prior(root: Path, dtype: torch.dtype = torch.float32) -> KandinskyV22PriorPipeline:
    """A prior folder; returns the peer's pipeline on the same weights."""
    torch.manual_seed(0)
    words = byte_tokenizer()
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=DIM,
            intermediate_size=37,
            projection_dim=DIM,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=77,
            hidden_act="gelu",
            bos_token_id=words.bos_token_id,
            eos_token_id=2,
            pad_token_id=words.pad_token_id,
        )
    )
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=37,
            projection_dim=DIM,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            hidden_act="gelu",
        )
    )
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, num_layers=3, embedding_dim=DIM, num_embeddings=77
    )
    parts = {"text_encoder": redraw(text, 1), "image_encoder": redraw(vision, 2), "prior": redraw(prior, 3)}
    with torch.no_grad():
        prior.clip_std.abs_().add_(0.5)
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log",
        prediction_type="sample",
        num_train_timesteps=1000,
        clip_sample=True,
        clip_sample_range=10.0,
    )
    peer = KandinskyV22PriorPipeline(
        **parts, tokenizer=words, scheduler=scheduler, image_processor=processor
    ).to(dtype)
    peer.save_pretrained(root)
    peer.set_progress_bar_config(disable=True)
    return peer


_DECODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "text2img": (KandinskyV22Pipeline, {}),
    "inpaint": (KandinskyV22InpaintPipeline, {"in_channels": 9}),
    "control": (KandinskyV22ControlnetPipeline, {"in_channels": 8, "addition_embed_type": "image_hint"}),
}


def save_decoder(
    root: Path, kind: str = "text2img", dtype: torch.dtype = torch.float32, **scheduler: Any
) -> Any:
    """A decoder folder of one kind; returns the peer's pipeline on the same weights."""
    torch.manual_seed(1)
    pipeline, variant = _DECODERS[kind]
    unet = redraw(UNet2DConditionModel(**(UNET_TINY | variant | {"sample_size": 8})), 4)
    movq = redraw(VQModel(**MOVQ_TINY), 5)
    peer = pipeline(unet=unet, movq=movq, scheduler=DDPMScheduler(**(SCHEDULER | scheduler))).to(dtype)
    peer.save_pretrained(root)
    peer.set_progress_bar_config(disable=True)
    return peer
