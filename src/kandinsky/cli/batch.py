"""`kandinsky batch`: a list of requests becomes a folder of images; run again, it goes on where it stopped."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from kandinsky.cli.console import err, report, say, warn
from kandinsky.cli.generate import MEMORY_SETTINGS, as_files, load_settings, typed
from kandinsky.core.errors import KandinskyError, RequestError, shortened
from kandinsky.core.progress import Bars
from kandinsky.engine.devices import choose_batch_size, choose_device
from kandinsky.engine.embedded import EMBEDDED
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.pipeline import check_batch_size
from kandinsky.jobs import store
from kandinsky.jobs.batch import MANIFEST, Batch, Draw, Settings, by_processes, open_batch, plan
from kandinsky.jobs.places import is_url
from kandinsky.jobs.rows import RowError, read_rows

if TYPE_CHECKING:
    from kandinsky.cli.flags import BatchFlags
    from kandinsky.engine.pipeline import Pipeline

SHOWN = 1000
"""Wrong rows that are printed."""
OUTLINED = ("prior", "variant", "revision", "behaviour", "lora")
"""Settings of loading that a model without weights takes: they decide what a request may ask for."""


def batch(flags: "BatchFlags", fields: Mapping[str, object]) -> bool:
    """Draws the list into the folder; returns whether every row is done.

    The typed `fields` are what a row does not say. All rows are checked against the model before one is drawn.
    Raises RowError that names all wrong rows, OutputError and JobError for a folder that cannot be gone on with.
    """
    folder = _folder(flags)
    draw, where = _drawing(flags)
    with _all_rows_named():
        rows = read_rows(flags.list)[: flags.limit]
    given = as_files(fields)
    seed = given.pop("seed", 0)
    assert isinstance(seed, int)
    pipe = _outlined(flags)
    settings = _settings(flags, pipe)
    with _all_rows_named():
        planned = plan(rows, pipe, settings, given, seed)
    rows_and_images = f"{_count(len(rows), 'row')}, {_count(planned.images, 'image')}"
    what = f"{rows_and_images} in {_count(planned.batches, 'batch', 'es')} of up to {settings.batch_size}"
    if not flags.quiet:
        warn(f"{what}, by {settings.model} on {where}, into {flags.out}.")
    if flags.dry_run:
        return True
    with open_batch(folder, settings, flags.out if is_url(flags.out) else None) as opened:
        held = opened.add(planned.jobs)
        lost = opened.reopen_lost()
        again = store.retry(opened.db) if flags.retry_failed else 0
        counts = store.counts(opened.db)
        if not flags.quiet and held:
            left = f", {lost} of them lost their files" if lost else ""
            tried = f", {again} failed ones are tried again" if again else ""
            warn(f"{_count(held, 'row')} begun before{left}{tried}; {counts['done']} are done.")
        with _Watch(opened, quiet=flags.quiet) as watch:
            opened.run(draw, watch)
        return _summary(opened, flags)


@contextmanager
def _all_rows_named() -> Iterator[None]:
    """Prints every row that is wrong; an error holds the first ones alone."""
    try:
        yield
    except RowError as error:
        for row in error.rows[:SHOWN]:
            err().print(Text(shortened(row)))
        more = f" {len(error.rows) - SHOWN} more are as wrong." if len(error.rows) > SHOWN else ""
        raise RequestError(
            f"{len(error.rows)} of {error.of} rows cannot be drawn.{more}", "They are named above."
        ) from error


def _folder(flags: "BatchFlags") -> Path:
    """Where the store and the manifest lie: in OUT, or beside what goes elsewhere."""
    if is_url(flags.out) == (flags.ledger is None):
        if flags.ledger is None:
            raise RequestError(f"{flags.out} cannot hold the store of the list.", "Give --ledger, a folder here.")
        raise RequestError("--ledger goes with an OUT that is an address.", "Leave it out: the store lies in OUT.")
    return Path(flags.out) if flags.ledger is None else flags.ledger


def _drawing(flags: "BatchFlags") -> tuple[Draw, str]:
    """Who draws, and a word for where."""
    if flags.ray is not None:
        from kandinsky.jobs.cluster import Cluster, by_cluster

        return by_cluster(Cluster(flags.ray, flags.workers, flags.device)), f"the Ray cluster at {flags.ray}"
    workers = _workers(flags)
    return by_processes(workers), ", ".join(str(one["device"]) for one in workers)


def _workers(flags: "BatchFlags") -> list[dict[str, JsonValue]]:
    """What each worker's device is: one GPU each, where there are several."""
    import torch

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


class _Watch:
    """A bar of rows with failures and the time left, and a line for each failed row."""

    def __init__(self, opened: Batch, *, quiet: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        shown = (*columns, TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
        self._bars = Bars(err(), *shown, quiet=quiet)
        counts = store.counts(opened.db)
        self._opened, self._quiet, self._warned = opened, quiet, set[str]()
        self._total, self._before = sum(counts.values()), counts["done"] + counts["failed"] + counts["cancelled"]
        self._done = self._failed = 0
        self._begun = time.monotonic()

    def __enter__(self) -> "_Watch":
        self._bars.__enter__()
        self._show()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.__exit__(*error)

    def __call__(self, header: dict[str, JsonValue], data: bytes) -> None:
        jobs = header.get("jobs")
        count = len(jobs) if isinstance(jobs, list) else 0
        match header["kind"]:
            case "ready" if not self._done:
                self._begun = time.monotonic()
            case "done":
                self._done += count
            case "failed":
                self._failed += count
                assert isinstance(jobs, list)
                self._say(f"{store.get(self._opened.db, int(str(jobs[0]))).name} failed: {_sentence(header['error'])}")
            case "crashed":
                words = data.decode(errors="replace").strip().splitlines()
                self._say(f"A worker ended ({header['code']}) and is replaced. {words[-1] if words else ''}")
            case "warned" if (message := str(header["message"])) not in self._warned:
                self._warned.add(message)
                self._say(message)
        self._show()

    def _show(self) -> None:
        drawn, seconds = self._done + self._failed, time.monotonic() - self._begun
        speed = f"{drawn / seconds:.2f} rows/s" if drawn and seconds else "loading"
        wrong = f", {self._failed} failed" if self._failed else ""
        self._bars.update("rows", self._before + drawn, self._total, speed + wrong)

    def _say(self, message: str) -> None:
        if not self._quiet:
            self._bars.note(message)


def _count(number: int, word: str, more: str = "s") -> str:
    return f"{number:,} {word}{'' if number == 1 else more}"


def _sentence(error: JsonValue) -> str:
    return f"{error.get('message')} {error.get('hint', '')}".strip() if isinstance(error, dict) else str(error)


def _summary(opened: Batch, flags: "BatchFlags") -> bool:
    counts = store.counts(opened.db)
    failed = counts["failed"]
    if not flags.quiet:
        say(str(opened.folder / MANIFEST))
    if failed:
        one = next(store.listed(opened.db, "failed", limit=1))
        first = f"the first of them {one.name!r}: {_sentence(one.error)}"
        message = f"{failed} of {sum(counts.values())} rows failed, {first}"
        report(KandinskyError(message, "--retry-failed draws them again."))
    return not failed
