"""The configuration, data, run folder and networks that the stages of a run share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from kandinsky.engine.pipeline import Pipeline, load
from kandinsky.training.config.objectives import TextualInversionObjective
from kandinsky.training.config.run import Stage, TrainConfig
from kandinsky.training.dataset import Dataset
from kandinsky.training.run_folder import RunFolder, word_file
from kandinsky.training.scratch.networks import NetworkFactory


@dataclass(frozen=True)
class TrainContext:
    """A configuration and a device; `opens` is `load`, or what makes pipelines without weights, which draw nothing."""

    config: TrainConfig
    device: torch.device
    opens: Callable[..., Pipeline] = load

    @property
    def draws(self) -> bool:
        """Whether the pipelines that it opens can draw."""
        return self.opens is load

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def run(self) -> RunFolder:
        return RunFolder(self.config.out, self.config.stage)

    def words(self, stage: Stage) -> list[str]:
        """The files of learned words that a stage begins with: those given, and those that earlier stages learn."""
        before = [other.name for other in self.config.stage]
        before = before[: before.index(stage.name)] if stage.name in before else []
        learns = {other.name: other.objective for other in self.config.stage}
        found = []
        for name in self.config.model.words:
            objective = learns.get(name)
            if not isinstance(objective, TextualInversionObjective):
                found.append(name)
            elif name in before:
                found.append(str(word_file(self.config.out, objective.token)))
        return found

    @cached_property
    def data(self) -> Dataset:
        return Dataset(self.config.data, self.config.seed, self.device, self.config.out)

    @cached_property
    def networks(self) -> NetworkFactory:
        return NetworkFactory(self.config.networks)
