"""What distilling a decoder into few steps learns and minimises, as a table."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kandinsky.core.errors import ConfigError
from kandinsky.training.objectives_config import Robust
from kandinsky.training.tuning_config import AdapterConfig, Target


class DistillObjective(Robust):
    """The decoder learns to draw in `steps` steps, unguided, what it draws in `solver_steps` guided ones.

    `guidance_scale` is the teacher's, the checkpoint's usual one without it, and `solver` its deterministic
    sampler. With `route` "trajectories" the teacher draws `trajectories` pictures before, `chunk` at a time,
    and the student learns each stretch of their way as one step; a share `from_text` of them begins with
    captions, as requests do, the others with the pictures themselves. With "consistency" the way begins with
    noised pictures, the teacher goes one of its steps, and the student learns to say before what it says
    after it; with one step this is latent consistency distillation. `whole` teaches all weights, else
    adapters learn.
    """

    steps: int = Field(default=4, ge=1)
    solver_steps: int = Field(default=16, ge=2)
    solver: Literal["dpmpp_2m", "ddim", "euler", "heun", "unipc"] = "dpmpp_2m"
    guidance_scale: float | None = Field(default=None, ge=0)
    route: Literal["trajectories", "consistency"] = "trajectories"
    trajectories: int = Field(default=1024, ge=1)
    chunk: int = Field(default=32, ge=1)
    from_text: float = Field(default=0.75, ge=0, le=1)
    loss: Literal["mse", "huber"] = "huber"
    whole: bool = False
    adapter: AdapterConfig = AdapterConfig()

    @property
    def targets(self) -> tuple[Target, ...]:
        """The networks that learn."""
        return ("decoder",)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.solver_steps % self.steps or self.solver_steps == self.steps:
            raise ConfigError(
                f"objective.solver_steps is {self.solver_steps}, for {self.steps} steps of the student.",
                f"Choose a larger multiple of {self.steps}.",
            )
        if self.adapter.text_encoders:
            raise ConfigError(
                "objective.adapter.text_encoders: the teacher's texts stay as they are.", "Leave it out."
            )
        return self
