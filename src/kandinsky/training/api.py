"""The way in: a configuration to the events of its stages."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from kandinsky.core.errors import ConfigError, OutputError
from kandinsky.core.files import write_atomically
from kandinsky.training import events
from kandinsky.training.checkpoint import newest_values, tidy
from kandinsky.training.config import FINETUNING, SETTINGS, Stage, TrainConfig, read_config
from kandinsky.training.distributed import World, join
from kandinsky.training.finetune.export import check_outcome, outcomes
from kandinsky.training.loop import CHECKPOINTS, is_over, train
from kandinsky.training.methods import METHODS
from kandinsky.training.scratch.export import Networks, check_export, write_export
from kandinsky.training.seeds import seed_globals
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Run

CHECKPOINT = "checkpoint"


def run_config(
    source: Path | str | Mapping[str, Any] | TrainConfig,
    *,
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[events.Event]:
    """Runs all stages of a configuration in order and yields what happens, see `events`.

    `source` is a TOML file, a mapping or a read configuration; `overrides` replace its settings. With
    `resume`, finished stages are passed over and the one that was interrupted continues exactly; an
    interrupted stage ends the run with `Stopped`. A run that makes prior and decoder ends with `Exported`:
    the whole model in the folder `checkpoint` of `out`; so does each stage of fine-tuning, with what it
    learned. Raises ConfigError for wrong settings before anything
    is written, DataError, CheckpointError and OutputError as they come up, and KandinskyError when a loss is
    not finite. Started by a launcher, several processes share the work; only the first writes.
    """
    config = source if isinstance(source, TrainConfig) else read_config(source, overrides)
    world, device = join(choose_device(config.device))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    shop = Workshop(config, device)
    whole = {"prior", "decoder"} <= {stage.method for stage in config.stage}
    if whole:
        check_export(config.export, shop.decoder)
    for stage in config.stage:
        if stage.method in FINETUNING:
            check_outcome(shop, stage)
        if not resume and (shop.folder(stage.name) / CHECKPOINTS).is_dir():
            raise ConfigError(
                f"{shop.folder(stage.name)} already holds a run.", "Resume it, or choose another `out`."
            )
    world.wait()
    if world.first:
        _note(config)
    for stage in config.stage:
        folder = shop.folder(stage.name)
        if resume and world.first:
            tidy(folder / CHECKPOINTS, stage.keep)
        world.wait()
        if resume and (step := _finished_at(folder, stage)) is not None:
            yield events.Finished(stage.name, step, folder)
            yield from _outcomes(shop, stage, world)
            continue
        # Initial weights are drawn from the global generator: a stage begins the same whatever ran before it.
        seed_globals(config.seed)
        with world.first_goes_first():
            task = yield from METHODS[stage.method](shop, stage)
        begun = resume and (folder / CHECKPOINTS).is_dir()
        for event in train(Run(task, stage.on(len(task.data)), folder, config.seed, device, begun, world)):
            yield event
            if isinstance(event, events.Stopped):
                return
        yield from _outcomes(shop, stage, world)
    if whole and world.first:
        yield events.Exported(export(config))


def _outcomes(shop: Workshop, stage: Stage, world: World) -> Iterator[events.Event]:
    if stage.method in FINETUNING and world.first:
        yield from outcomes(shop, stage)
    world.wait()


def export(
    source: Path | str | Mapping[str, Any] | TrainConfig, *, overrides: Mapping[str, Any] | None = None
) -> Path:
    """Writes the newest checkpoints of a run as one folder in diffusers layout; returns it.

    Of fine-tuning it writes what the last stage learned, and returns that. It replaces what an earlier
    export left. Raises what `load_networks` does, ConfigError for an unknown sampler, and OutputError when
    the folder cannot be written.
    """
    config = source if isinstance(source, TrainConfig) else read_config(source, overrides)
    shop = Workshop(config, torch.device("cpu"))
    if config.stage[-1].method in FINETUNING:
        return [*outcomes(shop, config.stage[-1])][-1].path
    check_export(config.export, shop.decoder)
    size = shop.last("decoder").size or config.data.size
    return write_export(load_networks(config), config.export, size, config.out / CHECKPOINT)


def load_networks(
    source: Path | str | Mapping[str, Any] | TrainConfig, *, overrides: Mapping[str, Any] | None = None
) -> Networks:
    """Loads the networks of a finished run, for writing them as a checkpoint.

    Prior and decoder come from the last stage of each, towers and autoencoder from where those two had them.
    Raises ConfigError when a stage is missing in the
    configuration, CheckpointError when it has no whole checkpoint.
    """
    config = source if isinstance(source, TrainConfig) else read_config(source, overrides)
    shop = Workshop(config, torch.device("cpu"))
    prior, decoder = shop.last("prior"), shop.last("decoder")
    # A decoder may have been begun while the text tower still learned: the prior's towers are the later ones.
    towers = shop.frozen_towers(prior).module
    return Networks(
        shop.frozen_movq(decoder).module,
        towers.text,
        towers.vision,
        shop.finished(prior, shop.new_prior()),
        shop.finished(decoder, shop.new_decoder()),
        shop.tokenizer_folder,
    )


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one, else the CPU; ConfigError for an unusable
    one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"The device {name!r} cannot be used.", "Use auto, cpu or cuda.") from error
    return device


def _finished_at(folder: Path, stage: Stage) -> int | None:
    values = newest_values(folder / CHECKPOINTS)
    if values is None or not values.get("finished"):
        return None
    data = values["data"]
    if not is_over(stage.on(data.get("examples", data["count"])), values["step"], values["seconds"]):
        return None
    return int(values["step"])


def _note(config: TrainConfig) -> None:
    """Leaves the settings beside the results."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{config.out} cannot be made ({error.strerror}).", "Choose another `out`."
        ) from error
    text = json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(config.out / SETTINGS, text.encode())
