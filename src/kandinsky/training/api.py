"""Runs a training configuration and yields its events; exports what a run made."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.files import make_folder
from kandinsky.core.errors import ConfigError, OutputError
from kandinsky.core.files import write_atomically
from kandinsky.core.locks import only_writer
from kandinsky.engine.pipeline import open_sources
from kandinsky.training import events
from kandinsky.training.checkpoint import newest, tidy
from kandinsky.training.config.objectives import LoraObjective
from kandinsky.training.config.run import FINETUNING, FOUND, SETTINGS, Stage, TrainConfig, read_config, read_left
from kandinsky.training.context import TrainContext
from kandinsky.training.dataset import check_data as check_settings
from kandinsky.training.distributed import World, as_launched, join
from kandinsky.training.export import check_export, export_model, export_stage, makes_model
from kandinsky.training.loop import is_over, order_of, train
from kandinsky.training.methods import METHODS
from kandinsky.training.resume import check_data, check_same
from kandinsky.training.run_folder import CHECKPOINTS
from kandinsky.training.scratch.networks import NetworkFactory
from kandinsky.training.seeds import seed_globals
from kandinsky.training.task import Task, TrainState

Found = dict[str, object]
"""What a run found to learn from, as it leaves it: the hash of the data, and by stage."""
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
    config = as_launched(open_config(source, overrides))
    world, device = join(choose_device(config.device))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    ctx = TrainContext(config, device)
    check_export(ctx)
    if resume and world.first and not (config.out / SETTINGS).is_file():
        yield events.Warned(f"{config.out} holds no run to resume; it begins anew.")
    with ExitStack() as stack:
        yield from _stages(ctx, world, device, resume, _begin(ctx, world, resume, stack))


def _stages(
    ctx: TrainContext, world: World, device: torch.device, resume: bool, found: Found
) -> Iterator[events.Event]:
    config = ctx.config
    for stage in config.stage:
        folder = ctx.run.of(stage.name)
        if resume and world.first:
            tidy(folder / CHECKPOINTS, stage.keep)
        world.wait()
        if resume and (step := _finished_at(folder, stage, world.size)) is not None:
            yield events.Finished(stage.name, step, folder)
        else:
            # Initial weights come from the global generator: a stage begins the same whatever ran before.
            seed_globals(config.seed)
            with world.first_goes_first():
                task = yield from _noting(METHODS[stage.method](ctx, stage), config, found, world)
            begun = resume and (folder / CHECKPOINTS).is_dir()
            order = order_of(task, stage.batch, config.seed)
            ends = stage.on(len(task.data), order.state().get("batches"), world.size)
            state = TrainState(task, ends, folder, config.seed, device, begun, world)
            for event in train(state):
                yield event
                if isinstance(event, events.Stopped):
                    return
        if world.first:
            yield from export_stage(ctx, stage)
        world.wait()
    if makes_model(config.stage) and world.first:
        yield events.Exported(export_model(ctx))


def _begin(ctx: TrainContext, world: World, resume: bool, stack: ExitStack) -> Found:
    """Checks that `out` is free, or holds the run that is resumed, and leaves the settings; returns what it found.

    No other process writes into it until the end of `stack`; OutputError where one does.
    """
    config, found = ctx.config, Found()
    if resume and (left := read_left(config.out)) is not None:
        check_same(left[0], config)
        found = left[1]
    for stage in config.stage:
        if not resume and (ctx.run.of(stage.name) / CHECKPOINTS).is_dir():
            raise ConfigError(
                f"{ctx.run.of(stage.name)} already holds a run.",
                "Continue it with --resume, or choose another folder with --out (`out`).",
            )
    with world.first_goes_first():
        stamp = ctx.data.stamp()
    check_data(config.out, config.data.dataset or config.data.folder, found.get("data"), stamp)
    world.wait()
    found["data"] = stamp
    if world.first:
        make_folder(config.out)
        stack.enter_context(only_writer(config.out))
        _write_settings(config, found)
    return found


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
    check_settings(config)
    NetworkFactory(config.networks)
    return with_targets(config)


def with_targets(config: TrainConfig) -> TrainConfig:
    """The configuration with the networks named that learn where none is: those that captions have an effect on."""
    if all(not isinstance(one.objective, LoraObjective) or one.objective.target for one in config.stage):
        return config
    model = config.model
    decoder, prior = open_sources(model.name, model.prior, model.variant, model.revision, weights=False)
    silent = isinstance(decoder, Folder) and "text_encoder" not in decoder.components
    target = "both" if silent and prior is not None else "decoder"

    def named(stage: Stage) -> Stage:
        objective = stage.objective
        if not isinstance(objective, LoraObjective) or objective.target:
            return stage
        return stage.model_copy(update={"objective": objective.model_copy(update={"target": target})})

    return config.model_copy(update={"stage": tuple(named(stage) for stage in config.stage)})


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one, else the CPU; ConfigError for an unusable one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device {name!r} cannot be used.",
            "Leave it out, or use cpu: this machine has no such device, or torch was built without it.",
        ) from error
    return device


def _finished_at(folder: Path, stage: Stage, processes: int) -> int | None:
    found = newest(folder / CHECKPOINTS).checkpoint
    if found is None or not found.values.get("finished"):
        return None
    data = found.values["data"]
    examples = data.get("examples", data["count"])
    ends = stage.on(examples, data.get("batches"), processes)
    return found.step if is_over(ends, found.step, found.values["seconds"]) else None


def _noting(
    making: Generator[events.Event, None, Task[Any]], config: TrainConfig, found: Found, world: World
) -> Generator[events.Event, None, Task[Any]]:
    """Makes a task, and adds what it learns from to the settings that the run leaves."""
    while True:
        try:
            event = next(making)
        except StopIteration as made:
            return cast(Task[Any], made.value)
        if isinstance(event, events.LearnsFrom):
            stages = found.get("stages")
            found["stages"] = {**(stages if isinstance(stages, dict) else {}), event.stage: asdict(event)}
            if world.first:
                _write_settings(config, found)
        yield event


def _write_settings(config: TrainConfig, found: Found) -> None:
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{config.out} cannot be made ({error.strerror}).", "Choose another `out`.") from error
    text = json.dumps({**config.model_dump(mode="json"), FOUND: found}, indent=1, ensure_ascii=False)
    write_atomically(config.out / SETTINGS, text.encode())
