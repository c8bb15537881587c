"""The settings of diffusers' schedulers: their order, their defaults, and which of them act here."""

import math
from collections.abc import Mapping

_OFF = (
    "euler_at_final rescale_betas_zero_snr thresholding use_beta_sigmas use_dynamic_shifting use_exponential_sigmas "
    "use_flow_sigmas use_karras_sigmas use_lu_lambdas"
)
_ON = "clip_sample lower_order_final predict_x0 set_alpha_to_one skip_prk_steps"
DEFAULTS: Mapping[str, object] = {
    **dict.fromkeys(_OFF.split(), False),
    **dict.fromkeys(_ON.split(), True),
    **dict.fromkeys(["shift_terminal", "sigma_max", "sigma_min", "solver_p", "trained_betas", "variance_type"]),
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample_range": 1.0,
    "disable_corrector": [],
    "dynamic_thresholding_ratio": 0.995,
    "final_sigmas_type": "zero",
    "flow_shift": 1.0,
    "interpolation_type": "linear",
    "lambda_min_clipped": -math.inf,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "bh2",
    "steps_offset": 0,
    "time_shift_type": "exponential",
    "timestep_spacing": "linspace",
    "timestep_type": "discrete",
}
"""What a setting is unless its scheduler's own row says otherwise."""
_BETAS = "num_train_timesteps beta_start beta_end beta_schedule trained_betas"
_THRESHOLD = "thresholding dynamic_thresholding_ratio"
_SIGMAS = "use_karras_sigmas use_exponential_sigmas use_beta_sigmas"
_DPM = "solver_type lower_order_final euler_at_final"


def _settings(names: str, **own: object) -> Mapping[str, object]:
    return {name: own.get(name, DEFAULTS[name]) for name in names.split()}


SETTINGS: Mapping[str, Mapping[str, object]] = {
    "DDIMScheduler": _settings(
        f"{_BETAS} clip_sample set_alpha_to_one steps_offset prediction_type {_THRESHOLD} clip_sample_range "
        "sample_max_value timestep_spacing rescale_betas_zero_snr",
        timestep_spacing="leading",
    ),
    "DDPMScheduler": _settings(
        f"{_BETAS} variance_type clip_sample prediction_type {_THRESHOLD} clip_sample_range sample_max_value "
        "timestep_spacing steps_offset rescale_betas_zero_snr",
        timestep_spacing="leading",
        variance_type="fixed_small",
    ),
    "DPMSolverMultistepScheduler": _settings(
        f"{_BETAS} solver_order prediction_type {_THRESHOLD} sample_max_value algorithm_type {_DPM} {_SIGMAS} "
        "use_lu_lambdas use_flow_sigmas flow_shift final_sigmas_type lambda_min_clipped variance_type "
        "timestep_spacing steps_offset rescale_betas_zero_snr use_dynamic_shifting time_shift_type",
        solver_type="midpoint",
    ),
    "EulerAncestralDiscreteScheduler": _settings(
        f"{_BETAS} prediction_type timestep_spacing steps_offset rescale_betas_zero_snr"
    ),
    "EulerDiscreteScheduler": _settings(
        f"{_BETAS} prediction_type interpolation_type {_SIGMAS} sigma_min sigma_max timestep_spacing timestep_type "
        "steps_offset rescale_betas_zero_snr final_sigmas_type"
    ),
    "HeunDiscreteScheduler": _settings(
        f"{_BETAS} prediction_type {_SIGMAS} clip_sample clip_sample_range timestep_spacing steps_offset",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
    ),
    "PNDMScheduler": _settings(
        f"{_BETAS} skip_prk_steps set_alpha_to_one prediction_type timestep_spacing steps_offset",
        set_alpha_to_one=False,
        timestep_spacing="leading",
    ),
    "UnCLIPScheduler": _settings(
        "num_train_timesteps variance_type clip_sample clip_sample_range prediction_type beta_schedule",
        beta_schedule="squaredcos_cap_v2",
        variance_type="fixed_small_log",
    ),
    "UniPCMultistepScheduler": _settings(
        f"{_BETAS} solver_order prediction_type {_THRESHOLD} sample_max_value predict_x0 solver_type "
        f"lower_order_final disable_corrector solver_p {_SIGMAS} use_flow_sigmas flow_shift timestep_spacing "
        "steps_offset final_sigmas_type rescale_betas_zero_snr use_dynamic_shifting time_shift_type sigma_min "
        "sigma_max shift_terminal"
    ),
}
"""The parameters of each scheduler in their order; `skip_prk_steps` is the one default that differs from diffusers'."""
_ACTING = (
    f"{_BETAS} {_THRESHOLD} sample_max_value timestep_spacing steps_offset algorithm_type clip_sample "
    "clip_sample_range prediction_type set_alpha_to_one skip_prk_steps solver_order"
)
ACTING = frozenset(_ACTING.split())
"""Settings that act; all others are followed at their default only."""
IDLE = frozenset({"flow_shift", "time_shift_type"})
"""Settings that nothing reads unless another one is set that is refused."""
VARIANCES = frozenset({"DDPMScheduler", "UnCLIPScheduler"})
"""Schedulers whose `variance_type` acts; the others read it only where it is learned."""
