"""What a run that is resumed must have in common with the one that was begun."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kandinsky.core.errors import ConfigError
from kandinsky.training.config.run import TrainConfig

FREE = frozenset({"out", "device", "threads", "export"})
"""Settings of a run that may change: they shape nothing that was learned."""
FREE_OF_STAGES = frozenset(
    {"max_steps", "epochs", "max_minutes", "batch", "accumulate", "clip_norm", "precision", "channels_last", "compile"}
    | {"gradient_checkpointing", "spread", "save_every", "keep", "sample_every", "log_every", "schedule", "ema"}
    | {"optimiser.lr", "optimiser.betas", "optimiser.weight_decay", "optimiser.eps"}
    | {"objective.prompts", "objective.shown", "objective.shown_steps"}
)
"""The same of a stage: how long and how fast it learns on, and what is saved and shown."""
PLACES = frozenset({"data.folder", "data.dataset", "data.hints", "data.cache"})
"""Where the data are; what they are is compared by their contents."""


def check_same(begun: TrainConfig, now: TrainConfig) -> None:
    """Raises ConfigError that names the first setting in which a run differs from the one that `out` was begun with.

    Stages may be added behind the others.
    """
    names = [stage.name for stage in now.stage]
    for number, stage in enumerate(begun.stage):
        if names[number : number + 1] != [stage.name]:
            raise _differs(now, "stage", stage.name, names[number] if number < len(names) else None)
    before, after = _settings(begun), _settings(now)
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in before and _of_new_stage(name, begun):
            continue
        if _plain(name, before.get(name)) != _plain(name, after.get(name)):
            raise _differs(now, name, before.get(name), after.get(name))


def check_data(out: Path, folder: object, begun: object, now: str) -> None:
    """Raises ConfigError where the hash of the data is not the one that the run began with, if it left one."""
    if begun is not None and begun != now:
        raise ConfigError(
            f"{out} was begun with other images or captions than {str(folder)!r} holds now.",
            "Restore them to resume, or give another `out` for a new run.",
        )


def _differs(now: TrainConfig, name: str, before: object, after: object) -> ConfigError:
    if len(now.stage) == 1:
        name = name.removeprefix(f"stage {now.stage[0].name}: ")
    return ConfigError(
        f"{now.out} was begun with {name} = {before!r}, and now it is {after!r}.",
        "Give the same to resume, or another `out` for a new run.",
    )


def _settings(config: TrainConfig) -> dict[str, object]:
    """The settings that must not change, by dotted name; those of stages behind the name of theirs."""
    values = config.model_dump(mode="json")
    stages: list[dict[str, Any]] = values.pop("stage")
    found = {name: value for name, value in _flat(values) if name.partition(".")[0] not in FREE and name not in PLACES}
    for stage in stages:
        prefix = f"stage {stage['name']}: "
        for name, value in _flat(stage):
            if name not in FREE_OF_STAGES and name.partition(".")[0] not in FREE_OF_STAGES:
                found[prefix + name] = value
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _of_new_stage(name: str, begun: TrainConfig) -> bool:
    stage = name.removeprefix("stage ").partition(": ")[0]
    return name.startswith("stage ") and stage not in {one.name for one in begun.stage}


def _plain(name: str, value: object) -> object:
    """A value as it is compared: a checkpoint by where it is, however its path was written."""
    if name in ("model.name", "model.prior") and isinstance(value, str) and Path(value).exists():
        return str(Path(value).resolve())
    return None if value in ({}, [], ()) else value
