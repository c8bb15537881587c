"""Tiny checkpoints whose decoders read the text too, made and saved by diffusers, without a zero tensor.

All widths are 64 and so are all heads, which is what original files can hold as well.
"""

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import kandinsky
from kandinsky.engine.pipeline import Pipeline
from tests.parity.oracles import MOVQ_TINY, UNET_TINY, image_processor, redraw
from tests.tiny import as_published

WIDTH = 64
UNET: dict[str, Any] = UNET_TINY | {
    "addition_embed_type": "text_image",
    "attention_head_dim": WIDTH,
    # Three levels: in a fourth one a group would be two numbers, of which a norm leaves the sign alone.
    "block_out_channels": (32, 64, 64),
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 2,
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 2 + ["ResnetUpsampleBlock2D"],
    "cross_attention_dim": WIDTH,
    "encoder_hid_dim": WIDTH,
    "encoder_hid_dim_type": "text_image_proj",
    "layers_per_block": 1,
    "sample_size": 8,
}
DDIM: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "thresholding": False,
}
"""As published."""


def multilingual_tokenizer() -> Any:
    """A byte-level stand-in with the special tokens of XLM-R at their places, for texts of any length."""
    from transformers import PreTrainedTokenizerFast

    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    ends = [("<s>", 0), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **names)


def save_prior(root: Path) -> Any:
    """A prior folder; returns diffusers' pipeline on the same weights."""
    from diffusers import KandinskyPriorPipeline, PriorTransformer, UnCLIPScheduler
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from tests.parity.vocabulary import byte_tokenizer

    torch.manual_seed(0)
    byte_tokenizer().save_pretrained(root / "words")
    words = CLIPTokenizer.from_pretrained(root / "words", pad_token="!")
    tower: dict[str, Any] = {
        "hidden_act": "quick_gelu",
        "hidden_size": WIDTH,
        "intermediate_size": 80,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "projection_dim": WIDTH,
    }
    text = CLIPTextConfig(vocab_size=len(words), eos_token_id=2, max_position_embeddings=77, **tower)
    vision = CLIPVisionConfig(image_size=28, patch_size=14, **tower)
    prior = PriorTransformer(
        num_attention_heads=1, attention_head_dim=WIDTH, num_layers=2, embedding_dim=WIDTH, num_embeddings=77
    )
    parts = {
        "text_encoder": redraw(CLIPTextModelWithProjection(text), 1),
        "image_encoder": redraw(CLIPVisionModelWithProjection(vision), 2),
        "prior": redraw(prior, 3),
    }
    with torch.no_grad():
        prior.clip_std.abs_().add_(0.5)
    processor = image_processor()(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=10.0
    )
    oracle = KandinskyPriorPipeline(**parts, tokenizer=words, scheduler=scheduler, image_processor=processor)
    oracle.save_pretrained(root)
    oracle.set_progress_bar_config(disable=True)
    return oracle


def save_decoder(root: Path, inpainting: bool = False) -> Any:
    """A decoder folder; returns diffusers' pipeline on the same weights."""
    from diffusers import DDIMScheduler, KandinskyInpaintPipeline, KandinskyPipeline, UNet2DConditionModel, VQModel
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(1)
    text = MCLIPConfig(
        vocab_size=260,
        hidden_size=WIDTH,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=100,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        transformerDimSize=WIDTH,
        imageDimSize=WIDTH,
    )
    kind = KandinskyInpaintPipeline if inpainting else KandinskyPipeline
    oracle = kind(
        text_encoder=redraw(MultilingualCLIP(text), 4),
        tokenizer=multilingual_tokenizer(),
        unet=redraw(UNet2DConditionModel(**(UNET | {"in_channels": 9 if inpainting else 4})), 5),
        scheduler=DDIMScheduler(**DDIM),
        movq=redraw(VQModel(**MOVQ_TINY), 6),
    )
    oracle.save_pretrained(root)
    oracle.set_progress_bar_config(disable=True)
    return oracle


class TextImageCheckpoints:
    """Tiny folders under `root`, and diffusers' pipelines on them; each is made when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept = cache(self.ours)
        """`ours`, loaded once: for tests that leave a pipeline as it was."""

    @cached_property
    def prior(self) -> Any:
        return save_prior(self.root / "prior")

    @cached_property
    def decoder(self) -> Any:
        return save_decoder(self.root / "decoder")

    @cached_property
    def inpainting(self) -> Any:
        return save_decoder(self.root / "inpainting", inpainting=True)

    def ours(self, kind: str = "decoder", batch_size: int = 1, **options: Any) -> Pipeline:
        """Our pipeline on those folders, by default with the sampler that these name."""
        assert self.prior
        assert getattr(self, kind)
        settings: dict[str, Any] = {"prior": self.root / "prior", "device": "cpu", "dtype": "float32"}
        return as_published(kandinsky.load(self.root / kind, batch_size=batch_size, **(settings | options)))
