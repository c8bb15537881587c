"""`kandinsky train`: a file or a recipe becomes a run, its events bars and lines."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from kandinsky.cli.console import err, say, warn
from kandinsky.cli.entry import INTERRUPTED
from kandinsky.core.errors import ConfigError, OutputError, nearest, similar
from kandinsky.core.files import write_atomically
from kandinsky.core.progress import Bars
from kandinsky.training import events

if TYPE_CHECKING:
    from kandinsky.training.memory_plan import Plan

Settings = dict[str, object]
"""Settings that replace those of a file."""
SECONDS_BETWEEN_LINES = 30
MIB = 2**20
HALF = {"bf16": "bf16", "fp16": "fp16", "fp32": "bf16"}
"""The half precision to compare with, by what is set."""


def recipes() -> dict[str, Path]:
    """The runs that came with this package, recipes and then configurations of each generation, by name."""
    folder = Path(__file__).resolve().parent.parent / "training"
    return {path.stem: path for kind in ("recipes", "configs") for path in sorted(folder.glob(f"{kind}/*.toml"))}


def list_recipes() -> None:
    """Prints each of them with the first line of its file, which says what it is for."""
    known = recipes()
    width = max(len(name) for name in known)
    for name, path in known.items():
        with path.open(encoding="utf-8") as file:
            say(f"{name:{width}}  {file.readline().removeprefix('# ').strip()}")


def source(config: Path | None, recipe: str | None) -> Path:
    """The file of a run, from the path or the recipe's name; ConfigError when that recipe does not exist."""
    known = recipes()
    if config is not None:
        if config.exists() or str(config) in known:
            return config if config.exists() else known[str(config)]
        if config.suffix != ".toml" and len(config.parts) == 1:
            hint = f"{similar(str(config), known)} See kandinsky train --list.".strip()
            raise ConfigError(f"There is no file {config}, and no recipe of that name.", hint)
        return config
    if recipe not in known:
        hint = similar(str(recipe), known)
        raise ConfigError(f"There is no recipe {recipe!r}.", f"{hint} See kandinsky train --list.".strip())
    return known[recipe]


NEEDED = {
    "lora": ("data",),
    "full": ("data",),
    "distill": ("data",),
    "dreambooth": ("data", "prompt", "class_prompt"),
    "textual_inversion": ("data", "token", "init_from"),
}
"""Ways of fine-tuning, and the flags without which they mean nothing."""
OBJECTIVE = ("target", "token", "init_from", "prompt", "class_prompt")
PLACES = {
    "data": "data.folder",
    "size": "data.size",
    "model": "model.name",
    "prior": "model.prior",
    "steps": "max_steps",
}
PLACES |= {name: f"objective.{name}" for name in OBJECTIVE}
"""The settings of a file that flags replace, where they have other names."""


def check_method(method: str, given: Mapping[str, object], *, planned: bool = False) -> None:
    """Raises ConfigError for an unknown method, and for one without all the flags that it needs.

    What is only planned needs no data.
    """
    if method not in NEEDED:
        raise ConfigError(f"There is no method {method!r}.", nearest(method, NEEDED))
    needed = [name for name in NEEDED[method] if not (planned and name == "data")]
    if missing := [f"--{name.replace('_', '-')}" for name in needed if given[name] is None]:
        raise ConfigError(
            f"--method {method} needs {' and '.join(missing)}.",
            f"Or write a configuration: kandinsky train --init {method}.",
        )


def overrides(hints: str | None = None, **flags: object) -> Settings:
    """The settings that flags replace in the file; a flag that is None replaces nothing.

    `hints` are the edges of the images, or a folder of hints for them. They go with the images themselves,
    so that no variants of latents can be kept.
    """
    values = {PLACES.get(name, name): value for name, value in flags.items()}
    if hints is not None:
        values |= {"variants": 0, "objective.control": {"hints": "edges" if hints == "edges" else "given"}}
        values["data.hints"] = None if hints == "edges" else hints
    changes: Settings = {}
    for place, value in values.items():
        table, _, name = place.rpartition(".")
        if value is not None and table:
            changes[table] = {**cast(Settings, changes.get(table, {})), name: value}
        elif value is not None:
            changes[name] = value
    if flags.get("model") is not None and flags.get("prior") is None:
        # The file's prior belongs to the file's model.
        changes["model"] = {**cast(Settings, changes["model"]), "prior": None}
    return changes


@contextmanager
def flags_named(changes: Settings) -> Iterator[None]:
    """Inside, an error about a setting that a flag said names the flag."""
    typed = {
        key for name, value in changes.items() for key in ((value or {}) if isinstance(value, Mapping) else (name,))
    }
    try:
        yield
    except ConfigError as error:
        place, colon, said = error.message.partition(": ")
        key = place.rpartition(".")[2]
        flag = next((name for name, other in PLACES.items() if other.rpartition(".")[2] == key), key)
        if not colon or key not in typed:
            raise
        raise ConfigError(f"--{flag.replace('_', '-')}: {said}", "See kandinsky train --help.") from error


def write_template(method: str, out: Path | None) -> Path:
    """Writes a commented configuration of a method; OutputError when a file of that name is there already."""
    text = source(None, method).read_bytes()
    target = (out or Path()) / f"{method}.toml"
    if target.exists():
        raise OutputError(f"{target} exists already.", "Remove it, or name another folder with --out.")
    return write_atomically(target, text)


def processes() -> int:
    """How many processes $NPROC_PER_NODE asks for; 1 in one that was started for it already."""
    if "WORLD_SIZE" in os.environ:
        return 1
    asked = os.environ.get("NPROC_PER_NODE", "1")
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"NPROC_PER_NODE is {asked!r}.", "Give the number of GPUs to use, or unset it.")
    return int(asked)


def launch(count: int, arguments: Sequence[str]) -> int:
    """Runs this command in so many processes that train one thing together; returns the exit code."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    given = [f"--nproc_per_node={count}", "-m", "kandinsky", *arguments]
    return subprocess.run([*launcher, *given], check=False).returncode


def train(path: Path, changes: Settings, *, resume: bool, quiet: bool) -> None:
    """Runs a training run to its end; leaves with the code of Ctrl-C when it was stopped (and saved)."""
    from kandinsky.training.api import run_config
    from kandinsky.training.distributed import launched, leave

    quiet = quiet or not launched().first
    try:
        if not follow(run_config(path, resume=resume, overrides=changes), err(), quiet=quiet):
            raise typer.Exit(INTERRUPTED)
    finally:
        leave()


def export(path: Path, changes: Settings) -> None:
    """Writes the newest checkpoints of a run as a model and prints its folder."""
    from kandinsky.training.api import export as write

    say(str(write(path, overrides=changes)))


def show_plan(path: Path, changes: Settings) -> None:
    """Prints what a step of a run takes, and how precision and gradient checkpointing change it."""
    from kandinsky.training.config.run import read_config
    from kandinsky.training.memory_plan import plan

    config = read_config(path, changes)
    stage = config.stage[0]
    planned = plan(config)
    say("\n".join(plan_table(planned)))
    say(f"\n{'MiB at the peak':24}{'plain':>12}{'checkpointed':>14}")
    for precision in ("fp32", HALF[stage.precision]):
        peaks = []
        for recomputed in (False, True):
            same = (precision, recomputed) == (stage.precision, stage.gradient_checkpointing)
            found = planned if same else plan(config, precision=precision, gradient_checkpointing=recomputed)
            peaks.append(found.peak / MIB)
        say(f"{precision:24}{peaks[0]:12,.0f}{peaks[1]:14,.0f}")


def plan_table(planned: "Plan") -> list[str]:
    """The table of one plan, line by line."""
    stage = planned.stage
    batch = f"batch {stage.batch}" + (f" x {stage.accumulate}" if stage.accumulate > 1 else "")
    how = [batch, f"{planned.size} px", stage.precision, stage.optimiser.kind]
    how += ["gradient checkpointing"] * stage.gradient_checkpointing
    rows: list[tuple[str, int | None, int]] = [
        *((name, count, size) for name, (count, size) in planned.networks.items()),
        ("trainable", planned.numbers, planned.learned),
        ("gradients", None, planned.gradients),
        ("optimiser", None, planned.optimiser),
        ("EMA", None, planned.means),
        ("activations", None, planned.activations),
        ("of them, images", None, planned.images),
        ("peak", None, planned.peak),
    ]
    table = [
        f"{name:24}{'' if count is None else format(count, ','):>16}{size / MIB:12,.1f}" for name, count, size in rows
    ]
    title = f"{stage.method} on {planned.device}: {', '.join(how)}"
    return [title, f"{'':24}{'parameters':>16}{'MiB':>12}", *table]


def follow(happenings: Iterable[events.Event], console: Console, *, quiet: bool) -> bool:
    """Shows a run's events as they come; returns whether it came to its end."""
    finished = True
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Bars(console, *columns, quiet=quiet, transient=False) as bars:
        shown = _Shown(bars, console, quiet)
        for event in happenings:
            shown.show(event)
            finished = not isinstance(event, events.Stopped)
    return finished


@dataclass
class _Shown:
    """Bars on a terminal, now and then a line elsewhere."""

    bars: Bars
    console: Console
    quiet: bool
    last_line: float = float("-inf")

    def show(self, event: events.Event) -> None:
        match event:
            case events.Started(stage=stage, step=step, total=total, parameters=parameters):
                begun = f"continues at step {step}{f' of {total}' if total else ''}" if step else "begins"
                steps = f"{total} steps, " if total and not step else ""
                self._line(f"{stage} {begun}: {steps}{_count(parameters)} trainable parameters")
            case events.LearnsFrom(stage=stage):
                self._line(f"{stage} {event.line}")
            case events.Preparing(stage=stage, what=what, done=done, total=total):
                self.bars.update(f"{stage}: {what}", done / max(total, 1), 1.0, f"{done}/{total}")
            case events.Progress(stage=stage, fraction=fraction):
                text = _progress_text(event)
                self.bars.update(stage, fraction, 1.0, text)
                if not self.console.is_terminal and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
                    self.last_line = time.monotonic()
                    self._line(f"{stage} {fraction:.1%} {text}")
            case events.Measured(stage=stage, step=step, values=values):
                self._line(f"{stage} step {step}: {_numbers(values)}")
            case events.Sampled(path=path):
                self._line(f"samples: {path}")
            case events.Warned(message=message) if not self.quiet:
                warn(message)
            case events.Stopped(stage=stage, step=step, reason=reason):
                self._line(f"{stage} stopped at step {step} ({reason}); continue with --resume")
            case events.Finished(stage=stage, step=step, folder=folder, losses=losses):
                self.bars.update(stage, 1.0, 1.0, f"step {step}")
                self._line(f"{stage} finished after {step} steps: {_numbers(losses)}; its checkpoints are in {folder}")
            case events.Exported(path=path, use=use, words=words):
                flags = shlex.join([*(part for word in words for part in ("--words", word)), use, str(path)])
                self._line(f"the result is in {path}; draw with: kandinsky generate PROMPT {flags}")

    def _line(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False)


def _progress_text(event: events.Progress) -> str:
    speed = event.images_per_second
    return (
        f"step {event.step}, {_numbers(event.losses)}, {speed:.{0 if speed >= 10 else 1}f} images/s, "
        f"{_duration(event.remaining)} left"
    )


def _numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "no losses yet"


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} million" if parameters >= 1e6 else f"{parameters:,}"


def _duration(seconds: float) -> str:
    if not seconds < float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
