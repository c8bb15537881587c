"""Tiny oracles with every zero-initialised tensor re-drawn, so that no condition is invisible."""

from typing import Any, TypeVar

import torch

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def redraw(module: ModuleT, seed: int = 0, scale: float = 0.05) -> ModuleT:
    """Adds noise to every parameter, norms and zeros included, and switches to evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = scale * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.dtype))
    return module.eval()


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers of a fixed seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute value of `theirs`."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def image_processor() -> Any:
    """transformers' class of processors of images for CLIP that resizes with Pillow, as we do.

    Where torchvision is installed its default resizes with that, and rounds pixels otherwise.
    """
    import transformers

    # Earlier versions have one class of this name, by Pillow.
    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


MOVQ_PUBLISHED: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "vq_embed_dim": 4,
    "num_vq_embeddings": 16384,
    "layers_per_block": 2,
    "norm_type": "spatial",
    "norm_num_groups": 32,
    "block_out_channels": (128, 256, 256, 512),
    "down_block_types": ["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
}
MOVQ_TINY = MOVQ_PUBLISHED | {"num_vq_embeddings": 16, "block_out_channels": (32, 32, 32, 64)}

UNET_PUBLISHED: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 8,
    "block_out_channels": (384, 768, 1152, 1536),
    "layers_per_block": 3,
    "attention_head_dim": 64,
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
    "cross_attention_dim": 768,
    "resnet_time_scale_shift": "scale_shift",
    "encoder_hid_dim": 1280,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
}
UNET_TINY = UNET_PUBLISHED | {
    "block_out_channels": (32, 64, 96, 128),
    "attention_head_dim": 16,
    "cross_attention_dim": 24,
    "encoder_hid_dim": 20,
}
