"""The folder of a run: where its stages keep their results, and how later stages load them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.engine.embedded import EMBEDDED, embedded_folder
from kandinsky.training.checkpoint import HASHES, newest
from kandinsky.training.config.run import Stage
from kandinsky.training.ema import copy_into
from kandinsky.training.scratch.started_from import checkpoint_weights, is_checkpoint, tokenizer_beside

CHECKPOINTS = "checkpoints"
"""The folder below a stage's that holds its checkpoints."""


def word_file(out: Path, token: str) -> Path:
    """Where a run leaves the word that it learned."""
    return out / f"{token}.safetensors"


M = TypeVar("M", bound=nn.Module)
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Frozen(Generic[T_co]):
    """A network that an earlier stage made, in evaluation mode; `stamp` changes with its weights."""

    module: T_co
    stamp: str


@dataclass(frozen=True)
class RunFolder:
    """`out` of a configuration, with one folder a stage."""

    out: Path
    stages: tuple[Stage, ...]

    @property
    def cache(self) -> Path:
        """Where encodings and trajectories are kept."""
        return self.out / "cache"

    def of(self, stage: str) -> Path:
        """Where a stage keeps its checkpoints, losses and samples."""
        return self.out / stage

    @property
    def tokenizer(self) -> Path | None:
        """That of the checkpoint or the other run whose text tower stages begin or work with; None without such."""
        own = {stage.name for stage in self.stages}
        named = [stage.uses.get("clip", stage.init if stage.method == "clip" else None) for stage in self.stages]
        found = [tokenizer_beside(self._named(name)) for name in named if name is not None and name not in own]
        return next((folder for folder in found if folder is not None), None)

    def last(self, method: str) -> Stage:
        """The last stage of a method; ConfigError when there is none."""
        for stage in reversed(self.stages):
            if stage.method == method:
                return stage
        raise ConfigError(f"The configuration has no stage of method {method!r}.", "Add and train one.")

    def means(self, stage: Stage, trainable: str) -> dict[str, Tensor]:
        """The averaged weights of a finished stage; CheckpointError when there is no whole checkpoint."""
        return _means(self.of(stage.name), trainable)[0]

    def start(
        self, stage: Stage, trainable: str, module: nn.Module, prefix: str = "", *, optional: bool = False
    ) -> bool:
        """Copies the averaged weights of the stage named by `init`, if any, into a module.

        Tensors are taken whose names begin with `prefix`; where `optional`, that may be none. Returns whether
        there were some.
        """
        if stage.init is None:
            return False
        folder = self._named(stage.init)
        if optional and not any(name.startswith(prefix) for name in _means(folder, trainable)[0]):
            return False
        _load(folder, trainable, module, prefix)
        return True

    def finished(self, stage: Stage, module: M) -> M:
        """Copies what a stage made into a module and returns it."""
        _load(self.of(stage.name), stage.method, module, "")
        return module.eval().requires_grad_(False)

    def frozen(self, stage: Stage, method: str, module: M, device: torch.device, prefix: str = "") -> Frozen[M]:
        """The network of another method that a stage works with: by `uses`, or of the last one before."""
        stamp = _load(self._source(stage, method), method, module, prefix)
        module.to(device).eval().requires_grad_(False)
        return Frozen(module, stamp)

    def _named(self, name: str) -> Path:
        """The folder of the stage of that name, the embedded checkpoint's, or else the folder itself."""
        if name in {stage.name for stage in self.stages}:
            return self.of(name)
        return embedded_folder() if name == EMBEDDED else Path(name)

    def _source(self, stage: Stage, method: str) -> Path:
        if method in stage.uses:
            return self._named(stage.uses[method])
        before = self.stages[: [other.name for other in self.stages].index(stage.name)]
        for other in reversed(before):
            if other.method == method:
                return self.of(other.name)
        raise ConfigError(
            f"stage {stage.name!r} needs a {method!r}, and no stage before it makes one.",
            f"Add such a stage, or say uses.{method} = <folder of a finished one>.",
        )


def _means(folder: Path, trainable: str) -> tuple[dict[str, Tensor], str]:
    """What a stage made, finished where that is a step of its own, or a checkpoint holds, and a stamp of it."""
    if is_checkpoint(folder):
        return checkpoint_weights(folder, trainable)
    place = folder / CHECKPOINTS
    found = newest(place, {f"{trainable}.ema"}, {f"{trainable}.final"})
    if found.checkpoint is None:
        reason = f" ({found.refused[0]})" if found.refused else ""
        raise CheckpointError(f"{place} holds no whole checkpoint{reason}.", "Train that stage first.")
    tensors, path = found.checkpoint.tensors, found.checkpoint.path
    means = tensors.get(f"{trainable}.final", tensors[f"{trainable}.ema"])
    return means, (path / HASHES).read_text() if path else ""


def _load(folder: Path, trainable: str, module: nn.Module, prefix: str) -> str:
    means, stamp = _means(folder, trainable)
    chosen = {name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)}
    try:
        copy_into(module, chosen)
    except (KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{folder} holds a {trainable!r} of other sizes ({error}).", "Keep `networks` as it was then."
        ) from error
    return stamp


def weights_stamp(modules: Mapping[str, nn.Module]) -> str:
    """A hash of the names and weights of networks: what was encoded by others is encoded anew."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        for key, value in modules[name].state_dict().items():
            digest.update(f"{name}.{key}".encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
