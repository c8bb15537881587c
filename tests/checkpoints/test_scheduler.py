"""Reading scheduler_config.json: diffusers' own class reads the same file alike."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers.schedulers import UnCLIPScheduler

from kandinsky.checkpoints.maps.scheduler import PRIOR_SCHEDULE_JSON, decoder_schedule_json, schedule_from_json
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.schedule import Schedule

CLASSES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
}
NEEDED: dict[str, dict[str, Any]] = {"PNDMScheduler": {"skip_prk_steps": True}}
PUBLISHED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "clip_sample": True,
    "set_alpha_to_one": False,
    "thresholding": False,
    "prediction_type": "epsilon",
}


def saved(scheduler: Any, folder: Path) -> dict[str, Any]:
    scheduler.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "scheduler_config.json").read_text())
    return config


def scheduler_of(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(**(NEEDED.get(name, {}) | options))


def assert_agree(schedule: Schedule, scheduler: Any) -> None:
    """Tables, the end, the times and the sampler of a schedule are those of diffusers' scheduler."""
    assert np.array_equal(schedule.process.alpha_bar.numpy(), scheduler.alphas_cumprod.numpy())
    assert schedule.process.final_alpha_bar == pytest.approx(float(getattr(scheduler, "final_alpha_cumprod", 1.0)))
    # One linspaced step is at time 0 in diffusers, where the noise that it starts from cannot be.
    single = () if schedule.spacing == "linspaced" and not schedule.open_end else (1,)
    for steps in (*single, 4, 25, 30):
        scheduler.set_timesteps(steps)
        theirs = [float(t) for t in scheduler.timesteps]
        if schedule.sampler in ("plms", "heun"):  # times that diffusers visits twice stand twice in its list
            theirs = sorted(set(theirs), reverse=True)
        ours = schedule.times(steps)
        assert len(ours) == len(theirs)
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 0.5
        if schedule.sampler not in ("euler", "euler_ancestral", "heun"):
            assert ours == theirs
    assert make_sampler(schedule.sampler, schedule.process, variance=schedule.variance)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("spacing", [None, "leading", "linspace", "trailing"])
def test_the_classes_of_diffusers(name: str, spacing: str | None, tmp_path: Path) -> None:
    scheduler = scheduler_of(name, **({} if spacing is None else {"timestep_spacing": spacing}), steps_offset=1)
    schedule = schedule_from_json(saved(scheduler, tmp_path))
    assert schedule.sampler == CLASSES[name]
    assert_agree(schedule, scheduler)


@pytest.mark.parametrize("name", CLASSES)
def test_a_file_that_says_nothing_means_the_class_s_defaults(name: str) -> None:
    schedule = schedule_from_json({"_class_name": name, **NEEDED.get(name, {})})
    assert_agree(schedule, scheduler_of(name))
    clips = getattr(scheduler_of(name).config, "clip_sample", False)
    assert ([c.kind for c in schedule.constraints] == ["static"]) == clips


@pytest.mark.parametrize("name", CLASSES)
def test_settings_of_another_class_do_not_count(name: str, tmp_path: Path) -> None:
    """A scheduler made from another's file keeps all of its settings in its own, but reads only some."""
    other = diffusers.DDIMScheduler(**PUBLISHED, timestep_spacing="leading")
    scheduler = getattr(diffusers, name).from_config(other.config, **NEEDED.get(name, {}))
    config = saved(scheduler, tmp_path)
    assert config["clip_sample"] is True
    assert config["set_alpha_to_one"] is False
    schedule = schedule_from_json(config)
    assert_agree(schedule, scheduler)
    assert ([c.kind for c in schedule.constraints] == ["static"]) == (
        name in ("DDPMScheduler", "DDIMScheduler", "HeunDiscreteScheduler")
    )
    ends_at_first = name in ("DDIMScheduler", "PNDMScheduler")
    assert (schedule.process.final_alpha_bar < 1) == ends_at_first


def test_constraints() -> None:
    ddpm = {"_class_name": "DDPMScheduler"}
    assert schedule_from_json(ddpm | {"clip_sample_range": 2.0}).constraints == (Constraint("static", limit=2.0),)
    assert schedule_from_json(ddpm | {"clip_sample": False}).constraints == ()
    dynamic = ddpm | {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9}
    assert schedule_from_json(dynamic).constraints == (Constraint("percentile", ratio=0.9, max=2.0),)
    euler = {"_class_name": "EulerDiscreteScheduler", "thresholding": True, "clip_sample": True}
    assert schedule_from_json(euler).constraints == ()


def test_readings_and_variances() -> None:
    ddpm = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    assert schedule_from_json(ddpm).variance == "learned_range"
    euler = {"_class_name": "DDIMScheduler", "variance_type": "learned_range", "prediction_type": "v_prediction"}
    schedule = schedule_from_json(euler)
    assert (schedule.variance, schedule.prediction_type) == ("fixed_small", "velocity")


def test_the_prior_s_scheduler(tmp_path: Path) -> None:
    scheduler = UnCLIPScheduler(**{k: v for k, v in PRIOR_SCHEDULE_JSON.items() if k != "_class_name"})
    for schedule in (schedule_from_json(PRIOR_SCHEDULE_JSON), schedule_from_json(saved(scheduler, tmp_path))):
        assert np.array_equal(schedule.process.alpha_bar.numpy(), scheduler.alphas_cumprod.numpy())
        assert (schedule.sampler, schedule.prediction_type) == ("ddpm", "sample")
        assert schedule.constraints == (Constraint("static", limit=10.0),)
        for steps in (2, 25):
            scheduler.set_timesteps(steps)
            assert schedule.times(steps) == scheduler.timesteps.tolist()
        assert schedule.times(1) == [999]
        bare = schedule_from_json({"_class_name": "UnCLIPScheduler"})
        assert (bare.prediction_type, bare.constraints) == ("epsilon", (Constraint("static", limit=1.0),))
        with pytest.raises(CheckpointError, match="beta_schedule = 'linear'"):
            schedule_from_json(PRIOR_SCHEDULE_JSON | {"beta_schedule": "linear"})


REFUSED = [
    ("DDPMScheduler", {"_class_name": "DDPMSchedular"}, "Did you mean 'DDPMScheduler'"),
    ("DDPMScheduler", {"_class_name": None}, "is of a nameless class"),
    ("DDPMScheduler", {"trained_betas": [0.1]}, "trained_betas"),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True"),
    ("DDPMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
    ("DDPMScheduler", {"variance_type": "fixed_large"}, "variance_type = 'fixed_large'"),
    ("DDPMScheduler", {"prediction_type": "flow"}, "prediction_type = 'flow'"),
    ("DDPMScheduler", {"timestep_spacing": ["leading"]}, "timestep_spacing"),
    ("DDPMScheduler", {"steps_offset": -1}, "steps_offset = -1, expected a whole number from 0 up"),
    ("DDPMScheduler", {"num_train_timesteps": "many"}, "num_train_timesteps = 'many'"),
    ("DDPMScheduler", {"beta_end": "big"}, "beta_end = 'big'"),
    ("DDPMScheduler", {"clip_sample_range": -1.0}, "clip_sample_range = -1.0"),
    ("PNDMScheduler", {"skip_prk_steps": False}, "skip_prk_steps = False"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order = 3"),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas"),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}, "solver_type = 'bh1'"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type"),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas = True"),
]


@pytest.mark.parametrize(("name", "change", "words"), REFUSED)
def test_what_we_would_not_follow_is_refused(name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        schedule_from_json({"_class_name": name, **NEEDED.get(name, {}), **change})


def test_a_pndm_file_without_a_word_means_its_own_warm_up() -> None:
    with pytest.raises(CheckpointError, match="skip_prk_steps"):
        schedule_from_json({"_class_name": "PNDMScheduler"})


@pytest.mark.parametrize("name", CLASSES)
def test_what_we_write_both_sides_read(name: str) -> None:
    config = decoder_schedule_json(0.00085, 0.012, clip=False, sampler=CLASSES[name])
    assert config["_class_name"] == name
    schedule = schedule_from_json(config)
    spacing = "trailing" if schedule.open_end else "leading"
    assert (schedule.sampler, schedule.spacing, schedule.offset) == (CLASSES[name], spacing, 1)
    assert schedule.constraints == ()
    assert_agree(schedule, getattr(diffusers, name).from_config(config))


def test_what_cannot_be_written() -> None:
    assert decoder_schedule_json(0.1, 0.2, clip=True, sampler="ddim")["clip_sample"] is True
    with pytest.raises(CheckpointError, match="cannot clip"):
        decoder_schedule_json(0.1, 0.2, clip=True, sampler="euler")
    with pytest.raises(CheckpointError, match="Did you mean 'ddim'"):
        decoder_schedule_json(0.1, 0.2, clip=False, sampler="ddimm")


def test_more_steps_than_times() -> None:
    for name in ("DDPMScheduler", "UniPCMultistepScheduler"):
        schedule = schedule_from_json({"_class_name": name, "num_train_timesteps": 10})
        assert len(schedule.times(10)) == 10
        with pytest.raises(RequestError, match="11 steps"):
            schedule.times(11)
