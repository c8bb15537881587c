"""Scheduler classes by their familiar names: each is a name for one of our samplers and its schedule."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.maps.scheduler import FILE, schedule_from_json
from kandinsky.compat.diffusers.files import component_folder
from kandinsky.compat.diffusers.generators import Generators, GivenFirst, rng_of
from kandinsky.compat.diffusers.outputs import Config, SchedulerOutput
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.rng import Rng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.process import in_working_precision
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.schedule import Schedule

_COMMON: dict[str, object] = {"num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 0}


class SchedulerMixin:
    """A scheduler: settings in the peer's words, and the `schedule` of ours that they mean.

    Raises CheckpointError for settings that no sampler of ours follows.
    """

    DEFAULTS: ClassVar[Mapping[str, object]] = {}
    init_noise_sigma = 1.0
    order = 1

    def __init__(self, **settings: object) -> None:
        settings = {**settings, "_class_name": type(self).__name__}
        self.config = Config(settings, {**_COMMON, **self.DEFAULTS})
        self.schedule: Schedule = schedule_from_json(settings)
        self.timesteps = torch.arange(self.schedule.process.T).flip(0)
        self.num_inference_steps: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, object], **changes: object) -> Self:
        """The same settings for this class; of another scheduler's configuration only what was stated
        counts."""
        stated = config.stated if isinstance(config, Config) else config
        kept = {name: value for name, value in stated.items() if not name.startswith("_")}
        return cls(**{**kept, **changes})

    @classmethod
    def from_pretrained(
        cls, path: str | Path, subfolder: str | None = None, *, revision: str | None = None, **changes: object
    ) -> Self:
        """Reads scheduler_config.json from a folder or a Hub id; raises CheckpointError when there is
        none."""
        folder, name = component_folder(path, subfolder, revision=revision)
        for word in ("torch_dtype", "use_safetensors", "variant", "cache_dir", "local_files_only", "token"):
            changes.pop(word, None)
        return cls.from_config(folder.config(name), **changes)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes scheduler_config.json into a folder; raises OutputError when it cannot be written."""
        target = Path(path)
        save_component(target.parent, target.name, dict(self.config.stated), config_name=FILE)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The share of the image's variance that is left at each time, (T,)."""
        return self.schedule.process.alpha_bar

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Sets `timesteps` to the times of a trajectory of that many steps."""
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(self.schedule.times(num_inference_steps), device=device)

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The sample itself: every sampler here works on latents of unit variance."""
        return sample

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a network that predicts velocities is trained to say about samples (B, ...) at times (B,)."""
        return self.schedule.process.velocity(sample, noise, timesteps)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The samples (B, ...), noised to their own times (B,)."""
        return self.schedule.process.add_noise(original_samples, noise, timesteps)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def __repr__(self) -> str:
        return f"{type(self).__name__} {dict(self.config)}"


class SteppingScheduler(SchedulerMixin):
    """A scheduler that can also be used by itself, a step at a time: `prev_sample` is what comes next."""

    def _next(self, timestep: Any) -> tuple[int, int]:
        """A time of the trajectory and the one behind it, -1 after the last; RequestError for another
        time."""
        t, times = int(timestep), self.timesteps.tolist()
        if t not in times:
            raise RequestError(
                f"Time {t} is not one of this trajectory's {len(times)}.",
                "Walk over scheduler.timesteps after set_timesteps.",
            )
        place = times.index(t)
        return t, -1 if place == len(times) - 1 else times[place + 1]

    def _stepped(
        self,
        model_output: Tensor,
        times: tuple[int, int],
        sample: Tensor,
        rng: Rng,
        return_dict: bool,
        eta: float | None = None,
        rederive_eps: bool = False,
    ) -> Any:
        """One step of our own sampler from the first of `times` to the second, by what a network said."""
        t, t_next = times
        schedule = self.schedule
        constraints = [replace(one, rederive_eps=one.rederive_eps or rederive_eps) for one in schedule.constraints]
        said = make_denoiser(
            lambda *_: model_output, schedule.process, schedule.parametrization, constraints=constraints
        )
        sampler = make_sampler(schedule.sampler, schedule.process, variance=schedule.variance, eta=eta)
        x = in_working_precision(sample)
        x, prediction, _ = sampler.step(said, x, t, t_next, None, rng, t_next < 0)
        found = SchedulerOutput(x.to(sample.dtype), prediction.x0.to(sample.dtype))
        return found if return_dict else found.to_tuple()


def _rng(generator: Generators, model_output: Tensor) -> Rng:
    return rng_of(generator, len(model_output), model_output.dtype, model_output.device)


class DDPMScheduler(SteppingScheduler):
    """The sampler "ddpm"."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "variance_type": "fixed_small",
        "timestep_spacing": "leading",
    }

    def step(
        self,
        model_output: Tensor,
        timestep: object,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """From a sample (B, C, ...) at a time of `timesteps` to the next, by what the network said of it.

        `model_output` is shaped like the sample or has twice its channels, variances behind. Draws once at
        every time above 0. Raises RequestError for another time.
        """
        rng = _rng(generator, model_output)
        return self._stepped(model_output, self._next(timestep), sample, rng, return_dict)


class DDIMScheduler(SteppingScheduler):
    """The sampler "ddim", in pipelines without noise of its own (eta 0)."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "leading",
    }

    def step(
        self,
        model_output: Tensor,
        timestep: object,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As `DDPMScheduler.step`, with the share `eta` in 0..1 of fresh noise, or of `variance_noise`.

        With `use_clipped_model_output` the noise is made consistent with the clipped prediction. Raises
        RequestError before `set_timesteps`.
        """
        if self.num_inference_steps is None:
            raise RequestError("This scheduler was not told its steps.", "Call set_timesteps first.")
        rng = _rng(generator, model_output)
        rng = rng if variance_noise is None else GivenFirst(variance_noise, rng)
        times = self._next(timestep)
        return self._stepped(model_output, times, sample, rng, return_dict, float(eta), use_clipped_model_output)


class PNDMScheduler(SchedulerMixin):
    """The sampler "plms"; the Runge-Kutta warm-up of the peer's class is never taken."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {"skip_prk_steps": True, "timestep_spacing": "leading"}

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"skip_prk_steps": True, **settings})


class DPMSolverMultistepScheduler(SchedulerMixin):
    """The sampler "dpmpp_2m"."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {"thresholding": False, "timestep_spacing": "linspace"}


class UniPCMultistepScheduler(SchedulerMixin):
    """The sampler "unipc"."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {"thresholding": False, "timestep_spacing": "linspace"}


class EulerDiscreteScheduler(SchedulerMixin):
    """The sampler "euler"."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {"timestep_spacing": "linspace"}


class EulerAncestralDiscreteScheduler(SchedulerMixin):
    """The sampler "euler_ancestral"."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {"timestep_spacing": "linspace"}


class HeunDiscreteScheduler(SchedulerMixin):
    """The sampler "heun"."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {"clip_sample": False, "timestep_spacing": "linspace"}


class UnCLIPScheduler(SteppingScheduler):
    """The prior's sampler: "ddpm" on squared-cosine times that are spread evenly."""

    DEFAULTS: ClassVar[Mapping[str, object]] = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "variance_type": "fixed_small_log",
        "beta_schedule": "squaredcos_cap_v2",
    }

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        prev_timestep: Any = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """As `DDPMScheduler.step`, to `prev_timestep` or to the time below."""
        t = int(timestep)
        t_next = t - 1 if prev_timestep is None else int(prev_timestep)
        return self._stepped(model_output, (t, t_next), sample, _rng(generator, model_output), return_dict)


SCHEDULERS: dict[str, type[SchedulerMixin]] = {
    kind.__name__: kind
    for kind in (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        PNDMScheduler,
        UnCLIPScheduler,
        UniPCMultistepScheduler,
    )
}


def schedule_of(scheduler: object) -> Schedule:
    """The settings that a scheduler stands for; CheckpointError for one that is not from this package."""
    if not isinstance(scheduler, SchedulerMixin):
        raise CheckpointError(
            f"A {type(scheduler).__name__} was given where a scheduler of this package is needed.",
            f"Known: {', '.join(SCHEDULERS)}; their from_config takes another's config.",
        )
    return scheduler.schedule


def load_scheduler(folder: Folder, name: str) -> SchedulerMixin:
    """The scheduler of a component; its own file says which class it is of."""
    config = folder.config(name, SCHEDULERS)
    kind = str(config.get("_class_name") or folder.components.get(name, ""))
    if kind not in SCHEDULERS:
        raise RequestError(f"{folder.root / name} names no scheduler.", f"Known: {', '.join(SCHEDULERS)}.")
    return SCHEDULERS[kind].from_config(config)
