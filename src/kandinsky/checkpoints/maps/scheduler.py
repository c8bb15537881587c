"""scheduler_config.json of the diffusers layout <-> our Schedule.

A saved file often carries settings of the class it was first written for; only those that its own class
reads count, and one that the file lacks has that class's default.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.core.errors import CheckpointError, nearest
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import Schedule, Spacing

T = TypeVar("T")
FILE = "scheduler_config.json"
DDPM_BETAS, LATENT_BETAS = (0.0001, 0.02), (0.00085, 0.012)
"""The linear betas of Ho et al. 2020 and of latent diffusion: from the first time to the last."""
PREDICTION_TYPES = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "velocity"}
SPACINGS: dict[str, Spacing] = {"leading": "leading", "linspace": "linspaced", "trailing": "trailing"}
VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "learned_range": "learned_range"}
PLAIN_BETAS = {"trained_betas": None, "rescale_betas_zero_snr": False}
PLAIN_SIGMAS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "final_sigmas_type": "zero",
}


@dataclass(frozen=True)
class _Class:
    """What one scheduler class does.

    `clip` and `clean_end` are its defaults for clip_sample and set_alpha_to_one, None where it reads
    neither; `threshold` says whether it knows dynamic thresholding; `fixed` are settings that we follow at
    one value only.
    """

    sampler: str
    spacing: str = "leading"
    clip: bool | None = None
    threshold: bool = False
    clean_end: bool | None = None
    open_end: bool = False
    betas: tuple[float, float] = DDPM_BETAS
    fixed: Json = field(default_factory=dict)


_CLASSES: dict[str, _Class] = {
    "DDPMScheduler": _Class("ddpm", clip=True, threshold=True, fixed=PLAIN_BETAS),
    "DDIMScheduler": _Class("ddim", clip=True, threshold=True, clean_end=True, fixed=PLAIN_BETAS),
    "PNDMScheduler": _Class("plms", clean_end=False, fixed=PLAIN_BETAS | {"skip_prk_steps": True}),
    "DPMSolverMultistepScheduler": _Class(
        "dpmpp_2m",
        spacing="linspace",
        threshold=True,
        open_end=True,
        fixed=PLAIN_BETAS
        | PLAIN_SIGMAS
        | {
            "algorithm_type": "dpmsolver++",
            "euler_at_final": False,
            "solver_order": 2,
            "solver_type": "midpoint",
            "use_flow_sigmas": False,
            "use_lu_lambdas": False,
        },
    ),
    "UniPCMultistepScheduler": _Class(
        "unipc",
        spacing="linspace",
        threshold=True,
        open_end=True,
        fixed=PLAIN_BETAS
        | PLAIN_SIGMAS
        | {
            "disable_corrector": [],
            "lower_order_final": True,
            "predict_x0": True,
            "solver_order": 2,
            "solver_p": None,
            "solver_type": "bh2",
            "use_flow_sigmas": False,
        },
    ),
    "EulerDiscreteScheduler": _Class(
        "euler",
        spacing="linspace",
        fixed=PLAIN_BETAS
        | PLAIN_SIGMAS
        | {"interpolation_type": "linear", "sigma_max": None, "sigma_min": None, "timestep_type": "discrete"},
    ),
    "EulerAncestralDiscreteScheduler": _Class("euler_ancestral", spacing="linspace", fixed=PLAIN_BETAS),
    "HeunDiscreteScheduler": _Class(
        "heun",
        spacing="linspace",
        clip=False,
        betas=LATENT_BETAS,
        fixed={key: value for key, value in (PLAIN_BETAS | PLAIN_SIGMAS).items() if key != "final_sigmas_type"},
    ),
}
PRIOR_CLASS = "UnCLIPScheduler"
# What a missing value means in the classes whose default is not the value that we follow.
_DEFAULTS: Mapping[str, Json] = {"PNDMScheduler": {"skip_prk_steps": False}}


def schedule_from_json(json: Json) -> Schedule:
    """Reads a scheduler_config.json; raises CheckpointError for a class or a setting that we do not follow.

    Times that diffusers spreads without rounding (Euler's and Heun's "linspace") are rounded to whole ones.
    """
    json = {key: value for key, value in json.items() if value is not None}
    name = str(json.get("_class_name", ""))
    if name == PRIOR_CLASS:
        return _prior_schedule(json)
    if name not in _CLASSES:
        raise CheckpointError(f"{FILE} is of a {name or 'nameless class'}.", nearest(name, (*_CLASSES, PRIOR_CLASS)))
    kind = _CLASSES[name]
    for key, wanted in kind.fixed.items():
        found = json.get(key, _DEFAULTS.get(name, {}).get(key, wanted))
        if found != wanted:
            raise CheckpointError(
                f"{FILE} of a {name} has {key} = {found!r}, only {wanted!r} is offered.",
                "Change the file, or name another class in it.",
            )
    return Schedule(
        _process(json, kind),
        prediction_type=_known(json, "prediction_type", "epsilon", PREDICTION_TYPES),
        constraints=_constraints(json, kind),
        variance=_known(json, "variance_type", "fixed_small", VARIANCES) if kind.sampler == "ddpm" else "fixed_small",
        sampler=kind.sampler,
        spacing=_known(json, "timestep_spacing", kind.spacing, SPACINGS),
        offset=fields.whole(json, "steps_offset", 0, least=0, file=FILE),
        open_end=kind.open_end,
    )


def _prior_schedule(json: Json) -> Schedule:
    betas = json.get("beta_schedule", "squaredcos_cap_v2")
    if betas != "squaredcos_cap_v2":
        raise CheckpointError(f"{FILE} of an {PRIOR_CLASS} has beta_schedule = {betas!r}.", "Known: squaredcos_cap_v2.")
    clip = json.get("clip_sample", True)
    return Schedule(
        Process.squared_cosine(fields.whole(json, "num_train_timesteps", 1000, file=FILE)),
        prediction_type=_known(json, "prediction_type", "epsilon", PREDICTION_TYPES),
        constraints=(Constraint("static", limit=_limit(json)),) if clip else (),
        variance=_known(json, "variance_type", "fixed_small_log", VARIANCES),
        spacing="linspaced",
    )


def _known(json: Json, key: str, default: str, table: Mapping[str, T]) -> T:
    value = json.get(key, default)
    if not isinstance(value, str) or value not in table:
        raise CheckpointError(f"{FILE} has {key} = {value!r}.", nearest(str(value), table))
    return table[value]


def _process(json: Json, kind: _Class) -> Process:
    steps = fields.whole(json, "num_train_timesteps", 1000, file=FILE)
    betas = json.get("beta_schedule", "linear")
    if betas in ("linear", "scaled_linear"):
        start, end = (
            fields.real(json, key, default, 0, 1, FILE)
            for key, default in zip(("beta_start", "beta_end"), kind.betas, strict=True)
        )
        scaled = torch.linspace(start**0.5, end**0.5, steps) ** 2
        process = Process.linear(start, end, steps) if betas == "linear" else Process.from_betas(scaled)
    elif betas == "squaredcos_cap_v2":
        process = Process.squared_cosine(steps)
    else:
        raise CheckpointError(
            f"{FILE} has beta_schedule = {betas!r}.", "Known: linear, scaled_linear, squaredcos_cap_v2."
        )
    if kind.clean_end is not None and not json.get("set_alpha_to_one", kind.clean_end):
        return process.ending_at_the_first()
    return process


def _constraints(json: Json, kind: _Class) -> tuple[Constraint, ...]:
    if kind.threshold and json.get("thresholding", False):
        ratio = fields.real(json, "dynamic_thresholding_ratio", 0.995, 0, 1, FILE)
        largest = fields.real(json, "sample_max_value", 1.0, 0, math.inf, FILE)
        return (Constraint("percentile", ratio=ratio, max=largest),)
    if kind.clip is not None and json.get("clip_sample", kind.clip):
        return (Constraint("static", limit=_limit(json)),)
    return ()


def _limit(json: Json) -> float:
    return fields.real(json, "clip_sample_range", 1.0, 0, math.inf, FILE)


def decoder_schedule_json(start: float, end: float, *, clip: bool, sampler: str = "ddpm") -> dict[str, object]:
    """The scheduler_config.json of a decoder with linear betas from `start` to `end`.

    Raises CheckpointError for a sampler that no class stands for, or to clip in one whose class cannot.
    """
    classes = {kind.sampler: name for name, kind in _CLASSES.items()}
    if sampler not in classes:
        raise CheckpointError(f"No scheduler class stands for {sampler!r}.", nearest(sampler, classes))
    kind = _CLASSES[classes[sampler]]
    if clip and kind.clip is None:
        raise CheckpointError(
            f"A {classes[sampler]} cannot clip.", "Write the file for 'ddpm' or 'ddim', or without clipping."
        )
    json: dict[str, object] = {
        "_class_name": classes[sampler],
        "beta_end": end,
        "beta_schedule": "linear",
        "beta_start": start,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        # Times of few steps begin at pure noise; those of samplers of first order are as published.
        "timestep_spacing": "trailing" if kind.open_end else "leading",
    }
    json |= {} if kind.clip is None else {"clip_sample": clip}
    json |= {"thresholding": False} if kind.threshold else {}
    json |= {} if kind.clean_end is None else {"set_alpha_to_one": False}
    json |= {"variance_type": "fixed_small"} if sampler == "ddpm" else {}
    return json | dict(kind.fixed)


def few_steps_json(json: Json) -> dict[str, object]:
    """The scheduler_config.json of a decoder that was distilled to a few steps of DDIM, from its teacher's.

    They are trailing, and end on a clean image.
    """
    process = ("beta_end", "beta_schedule", "beta_start", "num_train_timesteps", "prediction_type")
    return {
        "_class_name": "DDIMScheduler",
        **{key: json[key] for key in process if key in json},
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "thresholding": False,
        "timestep_spacing": "trailing",
    }


PRIOR_SCHEDULE_JSON: dict[str, object] = {
    "_class_name": PRIOR_CLASS,
    "clip_sample": True,
    "clip_sample_range": 10.0,
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "variance_type": "fixed_small_log",
}
"""The published prior's scheduler."""
TEXT_IMAGE_SCHEDULES: Mapping[str, Mapping[str, object]] = {
    "scheduler": decoder_schedule_json(*LATENT_BETAS, clip=False, sampler="ddim"),
    "ddpm_scheduler": {
        **decoder_schedule_json(*LATENT_BETAS, clip=False, sampler="ddpm"),
        "clip_sample_range": 2.0,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 2.0,
        "steps_offset": 0,
        "thresholding": True,
        "variance_type": "learned_range",
    },
}
"""The two schedulers published with the 2.1 decoder in diffusers layout."""
ONE_TEXT_SCHEDULES: Mapping[str, Mapping[str, object]] = {
    "scheduler": {
        "_class_name": "DDPMScheduler",
        "beta_end": LATENT_BETAS[1],
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": LATENT_BETAS[0],
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
