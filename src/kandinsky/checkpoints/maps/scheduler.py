"""scheduler_config.json of the diffusers layout <-> our Schedule."""

from collections.abc import Mapping
from typing import Any

from kandinsky.core.errors import CheckpointError, nearest
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import Schedule, Spacing

# scheduler class -> our sampler
_SAMPLERS = {
    "DDPMScheduler": "ddpm",
    "UnCLIPScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "UniPCMultistepScheduler": "unipc",
}
_READINGS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "velocity"}
_SPACINGS: dict[str, Spacing] = {"leading": "leading", "linspace": "linspaced", "trailing": "trailing"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "learned_range": "learned_range",
}
# defaults of the classes whose config files leave them out
_CLIPS = ("DDPMScheduler", "DDIMScheduler")


def _known(json: Mapping[str, Any], key: str, default: str, table: Mapping[str, Any]) -> Any:
    value = json.get(key, default)
    if value not in table:
        raise CheckpointError(f"scheduler_config.json has {key} = {value!r}.", nearest(str(value), table))
    return table[value]


def schedule_from_json(json: Mapping[str, Any]) -> Schedule:
    """Reads a scheduler_config.json; raises CheckpointError for a class or a setting that we do not follow."""
    name = json.get("_class_name", "")
    if name == "UnCLIPScheduler":
        process = Process.squared_cosine(json.get("num_train_timesteps", 1000))
        clip = json.get("clip_sample", True)
        limit = float(json.get("clip_sample_range", 1.0))
        return Schedule(
            process,
            reading=_known(json, "prediction_type", "epsilon", _READINGS),
            constraint=Constraint("static", limit=limit) if clip else Constraint(),
            variance=_known(json, "variance_type", "fixed_small_log", _VARIANCES),
            spacing="linspaced",
        )
    if name not in _SAMPLERS:
        raise CheckpointError(
            f"scheduler_config.json is of a {name or 'nameless class'}.", nearest(name, _SAMPLERS)
        )
    process = _process(json)
    return Schedule(
        process,
        reading=_known(json, "prediction_type", "epsilon", _READINGS),
        constraint=_constraint(json, name),
        variance=_known(json, "variance_type", "fixed_small", _VARIANCES)
        if name == "DDPMScheduler"
        else "fixed_small",
        sampler=_SAMPLERS[name],
        spacing=_known(json, "timestep_spacing", "leading", _SPACINGS),
        offset=int(json.get("steps_offset", 0)),
    )


def _process(json: Mapping[str, Any]) -> Process:
    steps = int(json.get("num_train_timesteps", 1000))
    kind = json.get("beta_schedule", "linear")
    if json.get("trained_betas") is not None:
        raise CheckpointError(
            "scheduler_config.json has trained_betas.", "Only named schedules are supported."
        )
    if json.get("rescale_betas_zero_snr"):
        raise CheckpointError(
            "scheduler_config.json asks for rescale_betas_zero_snr.", "It is not supported."
        )
    if kind == "linear":
        process = Process.linear(json.get("beta_start", 0.0001), json.get("beta_end", 0.02), steps)
    elif kind == "squaredcos_cap_v2":
        process = Process.squared_cosine(steps)
    else:
        raise CheckpointError(
            f"scheduler_config.json has beta_schedule = {kind!r}.", "Known: linear, squaredcos_cap_v2."
        )
    if not json.get("set_alpha_to_one", True):
        process = Process(process.betas, process.alpha_bar, float(process.alpha_bar[0]))
    return process


def _constraint(json: Mapping[str, Any], name: str) -> Constraint:
    if json.get("thresholding", False):
        ratio = float(json.get("dynamic_thresholding_ratio", 0.995))
        return Constraint("percentile", ratio=ratio, max=float(json.get("sample_max_value", 1.0)))
    if json.get("clip_sample", name in _CLIPS):
        return Constraint("static", limit=float(json.get("clip_sample_range", 1.0)))
    return Constraint()


def decoder_schedule_json(start: float, end: float, *, clip: bool, sampler: str = "ddpm") -> dict[str, Any]:
    """The scheduler_config.json of a decoder with linear betas."""
    classes = {ours: theirs for theirs, ours in _SAMPLERS.items() if theirs != "UnCLIPScheduler"}
    common: dict[str, Any] = {
        "_class_name": classes[sampler],
        "beta_end": end,
        "beta_schedule": "linear",
        "beta_start": start,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    extra: dict[str, dict[str, Any]] = {
        "ddpm": {"clip_sample": clip, "thresholding": False, "variance_type": "fixed_small"},
        "ddim": {"clip_sample": clip, "set_alpha_to_one": False, "thresholding": False},
    }
    return common | extra.get(sampler, {})


PRIOR_SCHEDULE_JSON: dict[str, Any] = {
    "_class_name": "UnCLIPScheduler",
    "clip_sample": True,
    "clip_sample_range": 10.0,
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "variance_type": "fixed_small_log",
}
"""The published prior's scheduler."""
