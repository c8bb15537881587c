"""Jobs become images: drawn together where that goes, each by itself where something is wrong with one."""

import contextlib
import gc
import hashlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import JsonValue

from kandinsky.core.errors import JobError, KandinskyError, OutputError, RequestError
from kandinsky.core.events import Event, Finished, Result
from kandinsky.core.images import Picture
from kandinsky.core.metadata import encode_image, metadata_of
from kandinsky.core.prompts import Mix
from kandinsky.core.requests import Request, file_fields

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline


class StopDrawing(Exception):  # noqa: N818  # not an error: the end of the work
    """Nothing more is to be drawn."""


class Ledger(Protocol):
    """Who hears what becomes of jobs, and keeps it."""

    def hear(self, event: Event, jobs: Sequence[int]) -> set[int]:
        """What happens to `jobs`; returns those that are not wanted any more. Raises StopDrawing to end."""

    def keep(self, result: Result, names: Sequence[str]) -> JsonValue:
        """Keeps the images of a job under `names`; returns what its result says of them."""

    def done(self, results: dict[int, JsonValue]) -> None:
        """All of these are drawn and kept."""

    def failed(self, job: int, error: dict[str, JsonValue]) -> None:
        """The job cannot be drawn."""

    def warned(self, message: str) -> None:
        """Something that a person should know."""


def draw_jobs(pipe: "Pipeline", jobs: Mapping[int, JsonValue], batch_size: int, ledger: Ledger) -> None:
    """Draws jobs (what `job_request` made, by their ids) together, up to `batch_size` images at once, and tells the
    ledger what became of each.

    All are kept before the first is called done, so that after a kill the same jobs are drawn in the same batch
    again. Where drawing fails for want of memory the batch is halved, then each is drawn by itself; where it fails
    for another reason, the job that fails alone is the one that is failed. That an image or the store cannot be
    written is no job's fault: OutputError and JobError come through.
    """
    requests: dict[int, Request] = {}
    for one, data in jobs.items():
        try:
            requests[one] = _request(pipe, data)
        except KandinskyError as error:
            _fail(one, error, ledger)
    names = {one: outputs_of(data) for one, data in jobs.items()}
    size = batch_size
    while requests:
        try:
            _together(pipe, requests, names, size, ledger)
            return
        except (StopDrawing, OutputError, JobError):
            raise
        except Exception as error:
            failure = error
        if is_out_of_memory(failure) and size > 1:
            _free_memory()
            size = max(1, size // 2)
            ledger.warned(f"Out of memory: drawn again {size} at a time.")
        elif len(requests) == 1:
            _fail(next(iter(requests)), failure, ledger)
            return
        else:
            for one, request in requests.items():
                _alone(pipe, {one: request}, names, ledger)
            return


def _alone(pipe: "Pipeline", request: dict[int, Request], names: dict[int, list[str]], ledger: Ledger) -> None:
    try:
        _together(pipe, request, names, 1, ledger)
    except (StopDrawing, OutputError, JobError):
        raise
    except Exception as error:
        _fail(next(iter(request)), error, ledger)


def _together(
    pipe: "Pipeline", requests: dict[int, Request], names: dict[int, list[str]], size: int, ledger: Ledger
) -> None:
    """Draws requests in one go; those that are not wanted any more leave `requests`."""
    ids = list(requests)
    results: dict[int, JsonValue] = {}
    with contextlib.closing(pipe.stream_batch(list(requests.values()), size)) as stream:
        for event in stream:
            for one in ledger.hear(event, ids):
                requests.pop(one, None)
            if not requests:
                return
            if isinstance(event, Finished) and ids[event.index] in requests:
                one = ids[event.index]
                results[one] = ledger.keep(event.result, names[one])
    ledger.done({one: results[one] for one in ids if one in requests})


def _request(pipe: "Pipeline", job: JsonValue) -> Request:
    assert isinstance(job, dict)
    data, base = job["request"], job.get("base")
    assert isinstance(data, dict)
    request = Request.from_json(data, None if base is None else str(base))
    return pipe.checked(_private(request, str(base)) if job.get("private") else request)


def _private(request: Request, base: str) -> Request:
    """The request, its input images in `base` called by their names alone: files are told to people elsewhere."""

    def told(value: Any) -> Any:
        match value:
            case Picture(path=str(path)) if path.startswith(base):
                return Picture(value.image, Path(path).name, value.numbers)
            case Mix():
                return replace(value, items=tuple(told(one) for one in value.items))
            case tuple():
                return tuple(told(one) for one in value)
        return value

    return request.replaced(**{name: told(getattr(request, name)) for name in ("prompt", *file_fields())})


def job_request(
    request: Request, outputs: Sequence[str], base: object = None, previews: int = 0
) -> dict[str, JsonValue]:
    """What a job holds: the request, the file names of its images, the folder of its input images, and how many
    previews are to be shown on the way."""
    made: dict[str, JsonValue] = {"request": request.to_json(), "outputs": list(outputs)}
    return made | {"base": None if base is None else str(base)} | ({"previews": previews} if previews else {})


def preview_steps(job: JsonValue, total: int) -> set[int]:
    """The steps of `total` after which a job's previews are due: evenly, and none after the last."""
    asked = job.get("previews") if isinstance(job, dict) else None
    count = asked if isinstance(asked, int) else 0
    return {round(total * (i + 1) / (count + 1)) for i in range(count)} - {0, total}


def encoded(result: Result, names: Sequence[str], model: str) -> Iterator[tuple[str, bytes, JsonValue]]:
    """The images of a result as files: their names, their bytes, and what the job's result says of each.

    Raises RequestError where the format cannot hold the request.
    """
    for index, (image, name) in enumerate(zip(result.images, names, strict=True)):
        made = metadata_of(result, index)
        try:
            data = encode_image(image, name, replace(made, model=made.model or model))
        except OutputError as error:
            raise RequestError(error.message, error.hint) from error
        digest = hashlib.sha256(data).hexdigest()
        yield name, data, {"file": name, "sha256": digest, "seed": result.seeds[index], "size": [*image.size]}


def outputs_of(job: JsonValue) -> list[str]:
    """The file names of a job's images."""
    assert isinstance(job, dict)
    outputs = job["outputs"]
    assert isinstance(outputs, list)
    return [str(one) for one in outputs]


def _fail(job: int, error: Exception, ledger: Ledger) -> None:
    if not isinstance(error, KandinskyError):
        traceback.print_exception(error)
    ledger.failed(job, error_json(error))


def error_json(error: Exception) -> dict[str, JsonValue]:
    """What a failed job says: the kind of error, and its message in one line."""
    message = error.message if isinstance(error, KandinskyError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, KandinskyError) else ""
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return {"type": kind, "message": " ".join(message.split())[:500], "hint": hint}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left: torch says it of CPUs in words alone."""
    import torch

    words = ("not enough memory", "can't allocate memory", "out of memory")
    in_words = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or in_words


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
