"""Runs a training configuration and yields its events; exports what a run made."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from kandinsky.core.errors import ConfigError, OutputError
from kandinsky.core.files import write_atomically
from kandinsky.training import events
from kandinsky.training.checkpoint import newest, tidy
from kandinsky.training.config.run import FINETUNING, SETTINGS, Stage, TrainConfig, read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.dataset import check_data
from kandinsky.training.distributed import join
from kandinsky.training.export import check_export, export_model, export_stage, makes_model
from kandinsky.training.loop import is_over, train
from kandinsky.training.methods import METHODS
from kandinsky.training.run_folder import CHECKPOINTS
from kandinsky.training.scratch.networks import NetworkFactory
from kandinsky.training.seeds import seed_globals
from kandinsky.training.task import TrainState

ConfigSource = Path | str | Mapping[str, object] | TrainConfig
"""A TOML file, a mapping, or a configuration that is read already."""


def run_config(
    source: ConfigSource, *, resume: bool = False, overrides: Mapping[str, object] | None = None
) -> Iterator[events.Event]:
    """Runs all stages of a configuration in order and yields what happens, see `events`.

    `source` is a TOML file, a mapping or a read configuration; `overrides` replace its settings. With `resume`,
    finished stages are passed over and the one that was interrupted continues exactly; an interrupted stage ends the
    run with `Stopped`. A run that makes prior and decoder ends with `Exported`: the whole model in the folder
    `checkpoint` of `out`; so does each stage of fine-tuning, with what it learned. Raises ConfigError for wrong
    settings before anything is written, DataError, CheckpointError and OutputError as they come up, and KandinskyError
    when a loss is not finite. Started by a launcher, several processes share the work; only the first writes.
    """
    config = open_config(source, overrides)
    world, device = join(choose_device(config.device))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    ctx = TrainContext(config, device)
    check_export(ctx)
    for stage in config.stage:
        if not resume and (ctx.run.of(stage.name) / CHECKPOINTS).is_dir():
            raise ConfigError(f"{ctx.run.of(stage.name)} already holds a run.", "Resume it, or choose another `out`.")
    world.wait()
    if world.first:
        _write_settings(config)
    for stage in config.stage:
        folder = ctx.run.of(stage.name)
        if resume and world.first:
            tidy(folder / CHECKPOINTS, stage.keep)
        world.wait()
        if resume and (step := _finished_at(folder, stage)) is not None:
            yield events.Finished(stage.name, step, folder)
        else:
            # Initial weights come from the global generator: a stage begins the same whatever ran before.
            seed_globals(config.seed)
            with world.first_goes_first():
                task = yield from METHODS[stage.method](ctx, stage)
            begun = resume and (folder / CHECKPOINTS).is_dir()
            state = TrainState(task, stage.on(len(task.data)), folder, config.seed, device, begun, world)
            for event in train(state):
                yield event
                if isinstance(event, events.Stopped):
                    return
        if world.first:
            yield from export_stage(ctx, stage)
        world.wait()
    if makes_model(config.stage) and world.first:
        yield events.Exported(export_model(ctx))


def export(source: ConfigSource, *, overrides: Mapping[str, object] | None = None) -> Path:
    """Writes the newest checkpoints of a run as one folder in diffusers layout; returns it.

    Of fine-tuning it writes what the last stage learned, and returns that. It replaces what an earlier
    export left. Raises CheckpointError for a stage that left no whole checkpoint, ConfigError for wrong
    settings, such as an unknown sampler, and OutputError when the folder cannot be written.
    """
    ctx = TrainContext(open_config(source, overrides), torch.device("cpu"))
    if ctx.config.stage[-1].method in FINETUNING:
        return [*export_stage(ctx, ctx.config.stage[-1])][-1].path
    check_export(ctx)
    return export_model(ctx)


def open_config(source: ConfigSource, overrides: Mapping[str, object] | None = None) -> TrainConfig:
    """Reads a configuration unless it is read already, and checks the names in it; ConfigError."""
    config = source if isinstance(source, TrainConfig) else read_config(source, overrides)
    check_data(config)
    NetworkFactory(config.networks)
    return config


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one, else the CPU; ConfigError for an unusable one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"The device {name!r} cannot be used.", "Use auto, cpu or cuda.") from error
    return device


def _finished_at(folder: Path, stage: Stage) -> int | None:
    found = newest(folder / CHECKPOINTS).checkpoint
    if found is None or not found.values.get("finished"):
        return None
    data = found.values["data"]
    examples = data.get("examples", data["count"])
    return found.step if is_over(stage.on(examples), found.step, found.values["seconds"]) else None


def _write_settings(config: TrainConfig) -> None:
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{config.out} cannot be made ({error.strerror}).", "Choose another `out`.") from error
    text = json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(config.out / SETTINGS, text.encode())
