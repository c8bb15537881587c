"""Scheduler classes by their familiar names: each is a name for one of our samplers and its schedule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.maps.scheduler import FILE, schedule_from_json
from kandinsky.compat.diffusers.files import component_folder
from kandinsky.compat.diffusers.values import Config
from kandinsky.core.errors import RequestError
from kandinsky.diffusion.schedule import Schedule

_COMMON: dict[str, Any] = {"num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 0}


class SchedulerMixin:
    """A scheduler: settings in the peer's words, and the `schedule` of ours that they mean.

    Raises CheckpointError for settings that no sampler of ours follows.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    init_noise_sigma = 1.0
    order = 1

    def __init__(self, **settings: Any) -> None:
        settings = {**settings, "_class_name": type(self).__name__}
        self.config = Config(settings, {**_COMMON, **self.DEFAULTS})
        self.schedule: Schedule = schedule_from_json(settings)
        self.timesteps = torch.tensor([], dtype=torch.int64)
        self.num_inference_steps: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> Self:
        """The same settings for this class; of another scheduler's configuration only what was stated
        counts."""
        stated = config.stated if isinstance(config, Config) else config
        kept = {name: value for name, value in stated.items() if not name.startswith("_")}
        return cls(**{**kept, **changes})

    @classmethod
    def from_pretrained(
        cls, path: str | Path, subfolder: str | None = None, *, revision: str | None = None, **changes: Any
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
        """The share of the picture's variance that is left at each time, (T,)."""
        return self.schedule.process.alpha_bar

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Sets `timesteps` to the times of a trajectory of that many steps."""
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(self.schedule.times(num_inference_steps), device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample itself: every sampler here works on latents of unit variance."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The samples (B, ...), noised to their own times (B,)."""
        return self.schedule.process.add_noise(original_samples, noise, timesteps)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def __repr__(self) -> str:
        return f"{type(self).__name__} {dict(self.config)}"


class DDPMScheduler(SchedulerMixin):
    """The sampler "ddpm"."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "variance_type": "fixed_small",
        "timestep_spacing": "leading",
    }


class DDIMScheduler(SchedulerMixin):
    """The sampler "ddim", without noise of its own (eta 0)."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "leading",
    }


class PNDMScheduler(SchedulerMixin):
    """The sampler "plms"; the Runge-Kutta warm-up of the peer's class is never taken."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"skip_prk_steps": True, "timestep_spacing": "leading"}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"skip_prk_steps": True, **settings})


class DPMSolverMultistepScheduler(SchedulerMixin):
    """The sampler "dpmpp_2m"."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"thresholding": False, "timestep_spacing": "linspace"}


class UniPCMultistepScheduler(SchedulerMixin):
    """The sampler "unipc"."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"thresholding": False, "timestep_spacing": "linspace"}


class EulerDiscreteScheduler(SchedulerMixin):
    """The sampler "euler"."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"timestep_spacing": "linspace"}


class EulerAncestralDiscreteScheduler(SchedulerMixin):
    """The sampler "euler_ancestral"."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"timestep_spacing": "linspace"}


class HeunDiscreteScheduler(SchedulerMixin):
    """The sampler "heun"."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "timestep_spacing": "linspace"}


class UnCLIPScheduler(SchedulerMixin):
    """The prior's sampler: "ddpm" on squared-cosine times that are spread evenly."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "variance_type": "fixed_small_log",
        "beta_schedule": "squaredcos_cap_v2",
    }


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


def load_scheduler(folder: Folder, name: str) -> SchedulerMixin:
    """The scheduler of a component; its own file says which class it is of."""
    config = folder.config(name, SCHEDULERS)
    kind = str(config.get("_class_name") or folder.components.get(name, ""))
    if kind not in SCHEDULERS:
        raise RequestError(f"{folder.root / name} names no scheduler.", f"Known: {', '.join(SCHEDULERS)}.")
    return SCHEDULERS[kind].from_config(config)
