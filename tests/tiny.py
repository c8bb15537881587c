"""Whole tiny checkpoints of the published structure, random and without a zero tensor, all made here.

One is written by us as a combined folder; priors and decoders are made and saved by the oracle.
"""

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

import kandinsky
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations.k22 import write_combined
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.training.data.tokenizer_training import train_tokenizer, write_tokenizer
from tests.parity.oracles import MOVQ_TINY, UNET_TINY, image_processor, redraw

WIDTH, TOKENS = 16, 16
"""Of our own checkpoint: the size of its embeddings, and the length of its texts."""
DIM: int = UNET_TINY["encoder_hid_dim"]
"""The size of the embeddings in diffusers'."""
COMPONENTS = {
    "unet": "unet",
    "movq": "movq",
    "prior": "prior_prior",
    "text": "prior_text_encoder",
    "vision": "prior_image_encoder",
}
DEFAULTS = {"steps": 4, "prior_steps": 3}
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
DECODERS: dict[str, dict[str, Any]] = {
    "text2img": {},
    "inpaint": {"in_channels": 9},
    "control": {"in_channels": 8, "addition_embed_type": "image_hint"},
}


def networks() -> dict[str, Any]:
    """The networks of our own checkpoint, as `write_combined` takes them; 8 x 8 pixels a latent."""
    torch.manual_seed(0)
    words = len(_tokenizer().vocabulary)
    text = ClipTextConfig(words, WIDTH, 2, 2, 32, TOKENS, WIDTH, "gelu", words - 1, "eos")
    unet = UNet2Config(channels=(16, 16, 32, 32), layers=1, head_dim=8, context_dim=16, groups=8, image_dim=WIDTH)
    return {
        "unet": redraw(UNet2(unet)),
        "movq": redraw(MoVQ(MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=32))),
        "prior": redraw(Prior(PriorConfig(2, 8, 2, WIDTH, WIDTH, TOKENS))),
        "text": redraw(ClipText(text)),
        "vision": redraw(ClipVision(ClipVisionConfig(WIDTH, 2, 2, 32, 32, 8, WIDTH, "gelu"))),
    }


def write_tiny(folder: Path, **changes: Any) -> Path:
    """Writes our own checkpoint; `changes` replace arguments of `write_combined`."""
    arguments: dict[str, Any] = {"defaults": DEFAULTS, "sample_size": 8, "dtype": torch.float32} | changes
    parts = {name: arguments.pop(name, network) for name, network in networks().items()}
    write_combined(folder, {COMPONENTS[name]: network for name, network in parts.items()}, **arguments)
    write_tokenizer(_tokenizer(), folder / "prior_tokenizer", TOKENS)
    return folder


def as_published(pipe: Pipeline) -> Pipeline:
    """The pipeline whose sampler is the checkpoint's own unless asked otherwise, as diffusers has it."""
    sampler = {"sampler": pipe.model.schedule.sampler}
    pipe.model = replace(pipe.model, defaults={**pipe.model.defaults, **sampler})
    return pipe


def _tokenizer() -> Any:
    return train_tokenizer(["a red fox and a blue cat in a house"] * 4, 540)


def save_prior(root: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A prior folder by diffusers; returns diffusers' pipeline on the same weights."""
    from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from tests.parity.vocabulary import byte_tokenizer

    torch.manual_seed(0)
    words = byte_tokenizer()
    tower: dict[str, Any] = {
        "intermediate_size": 37,
        "projection_dim": DIM,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    }
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": 2, "pad_token_id": words.pad_token_id}
    text = CLIPTextConfig(vocab_size=len(words), hidden_size=DIM, max_position_embeddings=77, **(tower | ids))
    vision = CLIPVisionConfig(hidden_size=24, image_size=28, patch_size=14, **tower)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, num_layers=3, embedding_dim=DIM, num_embeddings=77
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
        variance_type="fixed_small_log",
        prediction_type="sample",
        num_train_timesteps=1000,
        clip_sample=True,
        clip_sample_range=10.0,
    )
    oracle = KandinskyV22PriorPipeline(**parts, tokenizer=words, scheduler=scheduler, image_processor=processor).to(
        dtype
    )
    oracle.save_pretrained(root)
    oracle.set_progress_bar_config(disable=True)
    return oracle


def save_decoder(root: Path, kind: str = "text2img", dtype: torch.dtype = torch.float32, **scheduler: Any) -> Any:
    """A decoder folder of one kind by diffusers; returns diffusers' pipeline on the same weights."""
    from diffusers import DDPMScheduler, UNet2DConditionModel, VQModel
    from diffusers.pipelines.kandinsky2_2 import (
        KandinskyV22ControlnetPipeline,
        KandinskyV22InpaintPipeline,
        KandinskyV22Pipeline,
    )

    pipelines = {
        "text2img": KandinskyV22Pipeline,
        "inpaint": KandinskyV22InpaintPipeline,
        "control": KandinskyV22ControlnetPipeline,
    }
    torch.manual_seed(1)
    unet = redraw(UNet2DConditionModel(**(UNET_TINY | DECODERS[kind] | {"sample_size": 8})), 4)
    movq = redraw(VQModel(**MOVQ_TINY), 5)
    oracle = pipelines[kind](unet=unet, movq=movq, scheduler=DDPMScheduler(**(SCHEDULER | scheduler))).to(dtype)
    oracle.save_pretrained(root)
    oracle.set_progress_bar_config(disable=True)
    return oracle


class Checkpoints:
    """Tiny folders under `root`, and diffusers' pipelines on its own; each is made when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept, self.kept_own = cache(self.ours), cache(self.own)
        """`ours` and `own`, loaded once: for tests that leave a pipeline as it was."""

    @cached_property
    def combined(self) -> Path:
        """Our own checkpoint."""
        return write_tiny(self.root / "combined")

    @cached_property
    def prior(self) -> Any:
        return save_prior(self.root / "prior")

    @cached_property
    def decoders(self) -> dict[str, Any]:
        return {kind: save_decoder(self.root / kind, kind) for kind in DECODERS}

    def own(self, batch_size: int = 1, dtype: str = "float32", **options: Any) -> Pipeline:
        """Our pipeline on our own checkpoint."""
        return kandinsky.load(self.combined, device="cpu", dtype=dtype, batch_size=batch_size, **options)

    def ours(self, kind: str, batch_size: int = 1, dtype: str = "float32") -> Pipeline:
        """Our pipeline on diffusers' folders, by default with the sampler that these name."""
        assert self.prior
        assert self.decoders
        return as_published(
            kandinsky.load(
                self.root / kind, prior=self.root / "prior", device="cpu", dtype=dtype, batch_size=batch_size
            )
        )
