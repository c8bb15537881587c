"""`kandinsky batch`: a list of requests becomes a folder of images; run again, it goes on where it stopped."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kandinsky.cli.console import err, report, say, warn
from kandinsky.cli.generate import MEMORY_SETTINGS, as_files, load_settings, typed
from kandinsky.core.errors import KandinskyError, RequestError
from kandinsky.engine.devices import choose_batch_size, choose_device
from kandinsky.engine.embedded import EMBEDDED
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.pipeline import check_batch_size
from kandinsky.jobs import store
from kandinsky.jobs.batch import Batch, Settings, open_batch, plan
from kandinsky.jobs.rows import read_rows

if TYPE_CHECKING:
    from kandinsky.cli.main import BatchFlags
    from kandinsky.engine.pipeline import Pipeline

OUTLINED = ("prior", "variant", "revision", "behaviour", "lora")
"""Settings of loading that a model without weights takes: they decide what a request may ask for."""


def batch(flags: "BatchFlags", fields: Mapping[str, object]) -> bool:
    """Draws the list into the folder; returns whether every row is done.

    The typed `fields` are what a row does not say. All rows are checked against the model before one is drawn.
    Raises RowError that names all wrong rows, OutputError and JobError for a folder that cannot be gone on with.
    """
    workers = _workers(flags)
    rows = read_rows(flags.list)[: flags.limit]
    given = as_files(fields)
    seed = given.pop("seed", 0)
    assert isinstance(seed, int)
    pipe = _outlined(flags)
    settings = _settings(flags, pipe)
    planned = plan(rows, pipe, settings, given, seed)
    rows_and_images = f"{_count(len(rows), 'row')}, {_count(planned.images, 'image')}"
    what = f"{rows_and_images} in {_count(planned.batches, 'batch', 'es')} of up to {settings.batch_size}"
    where = ", ".join(str(one["device"]) for one in workers)
    if not flags.quiet:
        warn(f"{what}, by {settings.model} on {where}, into {flags.out}.")
    if flags.dry_run:
        return True
    with open_batch(flags.out, settings) as opened:
        held = opened.add(planned.jobs)
        lost = opened.reopen_lost()
        again = store.retry(opened.db) if flags.retry_failed else 0
        counts = store.counts(opened.db)
        if not flags.quiet and held:
            left = f", {lost} of them lost their files" if lost else ""
            tried = f", {again} failed ones are tried again" if again else ""
            warn(f"{_count(held, 'row')} begun before{left}{tried}; {counts['done']} are done.")
        with _Watch(opened, quiet=flags.quiet) as watch:
            opened.run(workers, watch)
        return _summary(opened, flags)


def _workers(flags: "BatchFlags") -> list[dict[str, JsonValue]]:
    """What each worker's device is: one GPU each, where there are several."""
    import torch

    if flags.workers < 1:
        raise RequestError(f"--workers is {flags.workers}.", "Use 1 or more.")
    device = choose_device(flags.device)
    several = device.type == "cuda" and device.index is None
    if not several:
        return [{"device": str(device)} for _ in range(flags.workers)]
    found = torch.cuda.device_count()
    if flags.workers > found:
        raise RequestError(f"There are {found} GPUs for {flags.workers} workers.", f"Use --workers {found}.")
    return [{"device": f"cuda:{index}"} for index in range(flags.workers)]


def _outlined(flags: "BatchFlags") -> "Pipeline":
    """The model without its weights, against which rows are checked."""
    settings = load_settings(flags)
    return meta_model(flags.model, **{name: settings[name] for name in OUTLINED if name in settings})  # type: ignore[arg-type]


def _settings(flags: "BatchFlags", pipe: "Pipeline") -> Settings:
    load = {**load_settings(flags), **typed(flags, MEMORY_SETTINGS)}
    size = flags.batch_size
    if size is None:
        parameters = sum(one.numel() for one in pipe.model.network.parameters())  # type: ignore[attr-defined]
        size = choose_batch_size(choose_device(flags.device), parameters)
    prompt_cache = load.get("prompt_cache")
    if prompt_cache is not None:
        load["prompt_cache"] = str(prompt_cache)
    return Settings(
        {"model": flags.model, **load},
        flags.model or EMBEDDED,
        check_batch_size(size),
        f".{flags.format.lower().lstrip('.')}",
        flags.shards,
    )


@dataclass
class _Speed:
    done: int = 0
    failed: int = 0


class _Watch:
    """A bar of rows with failures and the time left, and a line for each failed row."""

    def __init__(self, opened: Batch, *, quiet: bool) -> None:
        console = err()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        counts = store.counts(opened.db)
        self._opened, self._quiet, self._speed, self._warned = opened, quiet, _Speed(), set[str]()
        ended = counts["done"] + counts["failed"] + counts["cancelled"]
        self._bar = self._progress.add_task("loading", total=sum(counts.values()), completed=ended, speed="")

    def __enter__(self) -> "_Watch":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, header: dict[str, JsonValue], data: bytes) -> None:
        jobs = header.get("jobs")
        count = len(jobs) if isinstance(jobs, list) else 0
        match header["kind"]:
            case "ready":
                self._progress.update(self._bar, description="drawing")
            case "done":
                self._advance(done=count)
            case "failed":
                self._advance(failed=count)
                assert isinstance(jobs, list)
                self._say(f"{store.get(self._opened.db, int(str(jobs[0]))).name} failed: {_sentence(header['error'])}")
            case "crashed":
                words = data.decode(errors="replace").strip().splitlines()
                self._say(f"A worker ended (exit code {header['code']}) and is replaced. {words[-1] if words else ''}")
            case "warned" if (message := str(header["message"])) not in self._warned:
                self._warned.add(message)
                self._say(message)

    def _advance(self, done: int = 0, failed: int = 0) -> None:
        self._speed.done += done
        self._speed.failed += failed
        seconds = self._progress.tasks[0].elapsed or 0
        speed = f"{self._speed.done / seconds:.2f} rows/s" if seconds else ""
        wrong = f", {self._speed.failed} failed" if self._speed.failed else ""
        self._progress.update(self._bar, advance=done + failed, speed=speed + wrong)

    def _say(self, message: str) -> None:
        if not self._quiet:
            self._progress.console.print(f"note: {message}", style="yellow", markup=False)


def _count(number: int, word: str, more: str = "s") -> str:
    return f"{number:,} {word}{'' if number == 1 else more}"


def _sentence(error: JsonValue) -> str:
    return f"{error.get('message')} {error.get('hint', '')}".strip() if isinstance(error, dict) else str(error)


def _summary(opened: Batch, flags: "BatchFlags") -> bool:
    counts = store.counts(opened.db)
    failed = counts["failed"]
    if not flags.quiet:
        say(str(flags.out / "manifest.jsonl"))
    if failed:
        one = next(store.listed(opened.db, "failed", limit=1))
        first = f"the first of them {one.name!r}: {_sentence(one.error)}"
        message = f"{failed} of {sum(counts.values())} rows failed, {first}"
        report(KandinskyError(message, "--retry-failed draws them again."))
    return not failed
