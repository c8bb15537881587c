"""Tiny checkpoints whose decoders read one text, made and saved by diffusers, without a zero tensor."""

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import kandinsky
from kandinsky.engine.pipeline import Pipeline
from tests.parity.oracles import MOVQ_TINY, redraw

UNET: dict[str, Any] = {
    # diffusers builds attentions by the position of a level among four.
    "block_out_channels": (16, 32, 32, 64),
    "layers_per_block": 2,
    "time_embedding_dim": 32,
    # Many numbers a group: a norm of few would blow rounding up.
    "groups": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "encoder_hid_dim": 20,
}
TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "d_model": 20,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-silu",
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
SCHEDULER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.00085,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "leading",
    "variance_type": "fixed_small",
}
"""As published."""


MARKS = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def letters() -> Tokenizer:
    """A byte-level stand-in with the special tokens of T5 at their places: a token for each letter."""
    marks = ["<pad>", "</s>", "<unk>"]
    letters = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def letters_tokenizer() -> Any:
    """The same as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=letters(), model_max_length=512, **MARKS)


def save_oracle(root: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A folder by diffusers; returns diffusers' pipeline on the same weights."""
    from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    unet = redraw(Kandinsky3UNet(**UNET), 2, scale=0.15)
    with torch.no_grad():
        # Less noise is predicted than there is: what guidance makes of rounding stays small.
        unet.conv_out.weight.mul_(0.3)
    oracle = Kandinsky3Pipeline(
        tokenizer=letters_tokenizer(),
        text_encoder=redraw(T5EncoderModel(T5Config(**TEXT)), 1, scale=0.2),
        unet=unet,
        scheduler=DDPMScheduler(**SCHEDULER),
        movq=redraw(VQModel(**MOVQ_TINY), 3),
    ).to(dtype)
    oracle.save_pretrained(root)
    oracle.set_progress_bar_config(disable=True)
    return oracle


class OneTextCheckpoints:
    """Tiny folders under `root`, and diffusers' pipelines on them; each is made when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept = cache(self.ours)
        """`ours`, loaded once: for tests that leave a pipeline as it was."""

    @cached_property
    def oracle(self) -> Any:
        return save_oracle(self.root / "decoder")

    @cached_property
    def changer(self) -> Any:
        """diffusers' image-to-image pipeline on the same parts."""
        from diffusers import Kandinsky3Img2ImgPipeline

        changer = Kandinsky3Img2ImgPipeline(**self.oracle.components)
        changer.set_progress_bar_config(disable=True)
        return changer

    @cached_property
    def double(self) -> Any:
        """diffusers in double precision; the same weights."""
        return save_oracle(self.root / "double", torch.float64)

    def ours(self, batch_size: int = 1, kind: str = "decoder", **options: Any) -> Pipeline:
        """Our pipeline on that folder."""
        assert self.double if kind == "double" else self.oracle
        settings: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
        return kandinsky.load(self.root / kind, batch_size=batch_size, **(settings | options))
