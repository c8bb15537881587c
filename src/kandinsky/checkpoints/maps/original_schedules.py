"""The diffusion settings of 2.1, which none of its original files tells."""

from typing import Any

from kandinsky.checkpoints.maps.scheduler import decoder_schedule_json

TEXT_IMAGE_BETAS = (0.00085, 0.012)
TEXT_IMAGE_SCHEDULES: dict[str, dict[str, Any]] = {
    "scheduler": decoder_schedule_json(*TEXT_IMAGE_BETAS, clip=False, sampler="ddim"),
    "ddpm_scheduler": {
        **decoder_schedule_json(*TEXT_IMAGE_BETAS, clip=False, sampler="ddpm"),
        "clip_sample_range": 2.0,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 2.0,
        "steps_offset": 0,
        "thresholding": True,
        "variance_type": "learned_range",
    },
}
"""The two schedulers published with the 2.1 decoder in diffusers layout."""
