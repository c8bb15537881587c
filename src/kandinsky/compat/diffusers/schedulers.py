"""Scheduler classes by their familiar names: each is a name for one of our samplers and its schedule."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, Signature
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.maps.scheduler import FILE, schedule_from_json
from kandinsky.compat.calls import signed
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.noise import rng_of
from kandinsky.compat.diffusers.outputs import Config, SchedulerOutput
from kandinsky.compat.diffusers.scheduler_settings import ACTING, IDLE, SETTINGS, VARIANCES
from kandinsky.compat.diffusers.surface import check_replaced, lacking, refuse
from kandinsky.compat.diffusers.weights import check_saving
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.process import Process, in_working_precision
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.schedule import Schedule

DPM_SOLVERS: Mapping[tuple[object, object], tuple[str, float | None]] = {
    ("dpmsolver++", 1): ("ddim", 0.0),
    ("dpmsolver++", 2): ("dpmpp_2m", None),
    ("sde-dpmsolver++", 1): ("ddim", 1.0),
    ("sde-dpmsolver++", 2): ("dpmpp_2m_sde", None),
}
"""By algorithm and order: the sampler and its share of fresh noise (of first order it is DDIM, arXiv 2211.01095)."""
NOT_OFFERED = "Leave it out, or use another scheduler: {}."


class SettingError(RequestError, CheckpointError):
    """A setting that no sampler follows, whether a keyword or a file gave it."""


class SchedulerMixin:
    """A scheduler: settings by diffusers' words, and the `schedule` of ours that they mean.

    `PARAMETERS` are those of the constructor in their order, with their defaults. Raises TypeError for other
    words, RequestError for settings that no sampler of ours follows.
    """

    PARAMETERS: ClassVar[Mapping[str, object]] = {}
    KIND: ClassVar[str] = ""
    init_noise_sigma = 1.0
    order = 1

    def __init_subclass__(cls) -> None:
        if cls.__name__ in SETTINGS:
            cls.KIND, cls.PARAMETERS = cls.__name__, SETTINGS[cls.__name__]

    def __init__(self, *values: object, **settings: object) -> None:
        given = self._bound(values, settings)
        self.schedule: Schedule
        self.config = Config({**given, "_class_name": type(self).__name__}, self.PARAMETERS)
        for name, default in self.PARAMETERS.items():
            acts = name in ACTING or name in IDLE or (name == "variance_type" and self._reads(self.config[name]))
            if not acts and self.config[name] not in (default, None):
                raise self._refused(f"{name} = {self.config[name]!r} is not offered, only {default!r}.")
        stated = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
        try:
            self.schedule = self._schedule({**stated, "_class_name": self.KIND})
        except CheckpointError as error:
            raise self._refused(re.sub(rf"^{FILE}(?: of an? \w+)? (?:has|is) ", "", error.message)) from error
        self.timesteps = torch.arange(self.schedule.process.T).flip(0)
        self.num_inference_steps: int | None = None

    def _bound(self, values: Sequence[object], settings: Mapping[str, object]) -> dict[str, object]:
        """The arguments of the constructor that were given, by name; TypeError as for any function."""
        parameters = [Parameter(one, Parameter.POSITIONAL_OR_KEYWORD, default=None) for one in self.PARAMETERS]
        found = dict(Signature(parameters).bind(*values, **settings).arguments)
        # Without it a file means the Runge-Kutta warm-up of diffusers' class, which is never taken here.
        return {"skip_prk_steps": True, **found} if "skip_prk_steps" in self.PARAMETERS else found

    def _schedule(self, settings: dict[str, Any]) -> Schedule:
        """What the settings mean; betas that are given by number take the place of those by name."""
        trained, asked = settings.pop("trained_betas", None), None
        if "algorithm_type" in self.PARAMETERS:
            asked = settings.pop("algorithm_type", "dpmsolver++"), settings.pop("solver_order", 2)
            if asked not in DPM_SOLVERS:
                raise CheckpointError(
                    f"algorithm_type = {asked[0]!r} of solver_order = {asked[1]!r} is not offered, only "
                    f"{', '.join(f'{name!r} of {order}' for name, order in DPM_SOLVERS)}."
                )
        schedule = schedule_from_json(settings)
        if asked is not None:
            schedule = replace(schedule, sampler=DPM_SOLVERS[asked][0], eta=DPM_SOLVERS[asked][1])
        if trained is None:
            return schedule
        if len(trained) != len(self):
            raise CheckpointError(f"{FILE} has trained_betas of {len(trained)} times, and {len(self)} are trained.")
        process = Process.from_betas(torch.tensor(trained), schedule.process.final_alpha_bar)
        clean = process.final_alpha_bar == 1.0
        return replace(schedule, process=process if clean else process.ending_at_the_first())

    def _reads(self, variance: object) -> bool:
        return self.KIND in VARIANCES or not str(variance).startswith("learned")

    def _refused(self, what: str) -> RequestError:
        return SettingError(f"{type(self).__name__}: {what}", NOT_OFFERED.format(", ".join(SCHEDULERS)))

    @classmethod
    def from_config(cls, config: Mapping[str, object] | str | Path, **changes: Any) -> Self:
        """The same settings for this class; of another scheduler's configuration only what was stated counts.

        Raises RequestError for misspelt changes; settings that the class does not have are ignored, changes with
        a warning.
        """
        if not isinstance(config, Mapping):
            return cls.from_pretrained(config, **changes)
        check_keywords(changes, cls.__name__, tuple(cls.PARAMETERS))
        stated = config.stated if isinstance(config, Config) else config
        return cls(**{name: value for name, value in {**stated, **changes}.items() if name in cls.PARAMETERS})

    @classmethod
    @loading_errors()
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **changes: Any
    ) -> Self:
        """Reads scheduler_config.json from a folder or a Hub id; raises CheckpointError when there is none."""
        check_keywords(changes, cls.__name__, (*cls.PARAMETERS, *LOADING))
        folder, name = Loading.of(changes).component(pretrained_model_name_or_path, subfolder)
        return cls.from_config(folder.config(name), **{k: v for k, v in changes.items() if k in cls.PARAMETERS})

    @classmethod
    @loading_errors()
    def load_config(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **keywords: object
    ) -> dict[str, Any]:
        """The content of a folder's or a Hub id's scheduler_config.json."""
        check_keywords(keywords, cls.__name__, LOADING)
        folder, name = Loading.of(keywords).component(pretrained_model_name_or_path, subfolder)
        return folder.config(name)

    def save_pretrained(self, save_directory: str | Path, **keywords: object) -> None:
        """Writes scheduler_config.json into a folder; raises OutputError when it cannot be written."""
        check_saving(keywords)
        target = Path(save_directory)
        save_component(target.parent, target.name, dict(self.config.stated), config_name=FILE)

    save_config = save_pretrained

    def register_to_config(self, **values: object) -> None:
        """Changes settings, as if they had been given at first, and notes what is none in the configuration."""
        known = {name: value for name, value in values.items() if name in self.PARAMETERS}
        if known:
            stated = {name: value for name, value in self.config.stated.items() if name in self.PARAMETERS}
            SchedulerMixin.__init__(self, **{**stated, **known})
        self.config = Config({**self.config.stated, **values}, self.PARAMETERS)

    @property
    def compatibles(self) -> list[type["SchedulerMixin"]]:
        """The classes that can take its place: all of decoders', or the prior's own."""
        alone = self.KIND == "UnCLIPScheduler"
        return [kind for name, kind in SCHEDULERS.items() if (name == "UnCLIPScheduler") == alone]

    betas = property(lambda self: self.schedule.process.betas, doc="The noise that is added at each time, (T,).")
    alphas = property(lambda self: 1.0 - self.betas, doc="1 - `betas`, (T,).")
    alphas_cumprod = property(
        lambda self: self.schedule.process.alpha_bar, doc="The share of the image's variance that is left, (T,)."
    )

    @property
    def final_alpha_cumprod(self) -> Tensor:
        """The same after the last step."""
        return torch.tensor(self.schedule.process.final_alpha_bar)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[int] | None = None,
        **others: object,
    ) -> None:
        """Sets `timesteps` to the times of a trajectory of that many steps, or to falling times that are given.

        Raises RequestError for both or neither, and for times that do not fall from below the number trained.
        """
        refuse("set_timesteps", others)
        if (num_inference_steps is None) == (timesteps is None):
            raise RequestError("A trajectory has a number of steps or its times.", "Give one of them.")
        if timesteps is not None:
            times = [int(one) for one in timesteps]
            if not times or times[0] >= len(self) or any(a <= b for a, b in pairwise(times)) or times[-1] < 0:
                raise RequestError(f"timesteps are {times}.", f"Give whole numbers that fall from below {len(self)}.")
        else:
            times = self.schedule.times(int(num_inference_steps or 0))
        self.num_inference_steps = len(times) if num_inference_steps is None else num_inference_steps
        self.timesteps = torch.tensor(times, device=device)

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The sample itself: every sampler here works on latents of unit variance."""
        return sample

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a network that predicts velocities is trained to say about samples (B, ...) at times (B,)."""
        return self.schedule.process.velocity(sample, noise, timesteps)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The samples (B, ...), noised to their own times (B,)."""
        return self.schedule.process.add_noise(original_samples, noise, timesteps)

    def __getattr__(self, name: str) -> Any:
        if name in vars(self).get("config", ()):
            warnings.warn(f"{name} is of the configuration: read config.{name}.", FutureWarning, stacklevel=2)
            return self.config[name]
        raise lacking("schedulers", self, name)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def __repr__(self) -> str:
        return f"{type(self).__name__} {dict(self.config)}"


class SteppingScheduler(SchedulerMixin):
    """A scheduler that can also be used by itself, a step at a time: `prev_sample` is what comes next."""

    _left: tuple[int, Any] | None = None
    """The time that the last step went to, and what its sampler keeps of it."""

    def previous_timestep(self, timestep: Any) -> Tensor:
        """The time that a step goes to, -1 after the last."""
        return torch.tensor(self._next(timestep)[1])

    def _next(self, timestep: Any) -> tuple[int, int]:
        """A time and the one that a step goes to, -1 after the last.

        From a time that is not of the trajectory DDIM goes as far as the trajectory's steps do, as code that inverts
        images wants it; RequestError in others.
        """
        t, times = int(timestep), self.timesteps.tolist()
        if t not in times and self.KIND == "DDIMScheduler" and 0 <= t < len(self):
            return t, max(t - len(self) // (self.num_inference_steps or len(self)), -1)
        if t not in times:
            raise RequestError(
                f"Time {t} is not one of this trajectory's {len(times)}.",
                "Walk over scheduler.timesteps after set_timesteps.",
            )
        place = times.index(t)
        return t, -1 if place == len(times) - 1 else times[place + 1]

    def _step(self, given: Mapping[str, Any]) -> Any:
        """One step of our own sampler from a time to the next, by what a network said."""
        output, sample, schedule = given["model_output"], given["sample"], self.schedule
        refuse("step", {name: given[name] or None for name in ("s_churn",) if name in given})
        if "eta" in given and self.num_inference_steps is None:
            raise RequestError("This scheduler was not told its steps.", "Call set_timesteps first.")
        if "prev_timestep" in given:
            t, after = int(given["timestep"]), given["prev_timestep"]
            t_next = t - 1 if after is None else int(after)
        else:
            t, t_next = self._next(given["timestep"])
        rederived = given.get("use_clipped_model_output", False)
        constraints = [replace(one, rederive_eps=one.rederive_eps or rederived) for one in schedule.constraints]
        said = make_denoiser(lambda *_: output, schedule.process, schedule.parametrization, constraints=constraints)
        eta = float(given["eta"]) if "eta" in given else schedule.eta
        sampler = make_sampler(schedule.sampler, schedule.process, variance=schedule.variance, eta=eta)
        rng = rng_of(given.get("generator"), len(output), output.dtype, output.device, given.get("variance_noise"))
        state = self._left[1] if self._left is not None and self._left[0] == t else None
        x, prediction, state = sampler.step(said, in_working_precision(sample), t, t_next, state, rng, t_next < 0)
        self._left = t_next, state
        return SchedulerOutput(x.to(sample.dtype), prediction.x0.to(sample.dtype)).handed(given["return_dict"])


STEP_DEFAULTS: Mapping[str, object] = {
    "eta": 0.0,
    "generator": None,
    "prev_timestep": None,
    "return_dict": True,
    "s_churn": 0.0,
    "s_noise": 1.0,
    "s_tmax": math.inf,
    "s_tmin": 0.0,
    "use_clipped_model_output": False,
    "variance_noise": None,
}
_AND_BEFORE = "By what the steps before said too; fresh noise may be given."
STEPS: Mapping[str, tuple[str, str]] = {
    "DDIMScheduler": (
        "eta use_clipped_model_output generator variance_noise",
        "`eta` in 0..1 is the share of fresh noise, or of `variance_noise`, in pipelines 0. With "
        "`use_clipped_model_output` the noise is made consistent with the clipped prediction.",
    ),
    "DDPMScheduler": ("generator", "Draws once at every time above 0."),
    "DPMSolverMultistepScheduler": ("generator variance_noise", _AND_BEFORE),
    "EulerAncestralDiscreteScheduler": ("generator variance_noise", _AND_BEFORE),
    "EulerDiscreteScheduler": ("s_churn s_tmin s_tmax s_noise generator", "RequestError for a churn above 0."),
    "UnCLIPScheduler": ("prev_timestep generator", "To `prev_timestep` or to the time below."),
    "UniPCMultistepScheduler": ("", _AND_BEFORE),
}
"""By scheduler, the parameters of `step` between the sample and `return_dict`, and what it does. The samplers of others
ask the network twice a step, or begin with several."""


def _made(name: str) -> type[SchedulerMixin]:
    """The class of a scheduler: its settings, and its `step` if it can be used by itself."""
    more: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"diffusers' {name}: its settings for a sampler of ours.",
    }
    if name not in STEPS:
        return type(name, (SchedulerMixin,), more)
    names, does = STEPS[name]
    step = signed(
        SteppingScheduler._step,
        f"model_output timestep sample {names} return_dict",
        STEP_DEFAULTS,
        f"From a sample (B, C, ...) at a time to the next, by an output of its shape or of twice its channels. {does}",
        "step",
    )
    return type(name, (SteppingScheduler,), {**more, "step": step})


SCHEDULERS: Mapping[str, type[SchedulerMixin]] = {name: _made(name) for name in SETTINGS}
globals().update(SCHEDULERS)
CALLED = ("step", "add_noise", "scale_model_input", "set_timesteps")
"""The methods that diffusers' pipelines call on a scheduler, and ours do not."""


def schedule_of(scheduler: object) -> Schedule:
    """The settings that a scheduler stands for.

    CheckpointError for one that is not from this package, RequestError for one with methods of its user's.
    """
    if not isinstance(scheduler, SchedulerMixin):
        raise CheckpointError(
            f"A {type(scheduler).__name__} was given where a scheduler of this package is needed.",
            f"Known: {', '.join(SCHEDULERS)}; their from_config takes another's config.",
        )
    check_replaced(scheduler, CALLED, "Set one of this package's, or step through its timesteps in a loop of your own.")
    return scheduler.schedule


def load_scheduler(folder: Folder, name: str) -> SchedulerMixin:
    """The scheduler of a component; its own file says which class it is of."""
    config = folder.config(name, SCHEDULERS)
    kind = str(config.get("_class_name") or folder.components.get(name, ""))
    if kind not in SCHEDULERS:
        raise RequestError(f"{folder.root / name} names no scheduler.", f"Known: {', '.join(SCHEDULERS)}.")
    return SCHEDULERS[kind].from_config(config)
