"""The diffusion settings that original files do not tell, as folders in diffusers layout have them."""

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
ONE_TEXT_SCHEDULES: dict[str, dict[str, Any]] = {
    "scheduler": {
        "_class_name": "DDPMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.00085,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "steps_offset": 1,
        "thresholding": False,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "variance_type": "fixed_small",
    }
}
"""The scheduler published with the 3.0 decoder in diffusers layout."""
