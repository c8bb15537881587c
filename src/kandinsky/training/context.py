"""The configuration, data, run folder and networks that the stages of a run share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from kandinsky.engine.pipeline import Pipeline, load
from kandinsky.training.config.run import TrainConfig
from kandinsky.training.dataset import Dataset
from kandinsky.training.run_folder import RunFolder
from kandinsky.training.scratch.networks import NetworkFactory


@dataclass(frozen=True)
class TrainContext:
    """A configuration and a device; `opens` is `load`, or what makes pipelines without weights."""

    config: TrainConfig
    device: torch.device
    opens: Callable[..., Pipeline] = load

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def run(self) -> RunFolder:
        return RunFolder(self.config.out, self.config.stage)

    @cached_property
    def data(self) -> Dataset:
        return Dataset(self.config.data, self.config.seed, self.device)

    @cached_property
    def networks(self) -> NetworkFactory:
        return NetworkFactory(self.config.networks)
