"""`kandinsky generate`: flags become a request, the request a stream, the stream bars and files."""

import gc
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

import kandinsky
from kandinsky.cli.console import err, say, warn
from kandinsky.cli.outputs import targets
from kandinsky.cli.progress import Bars
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Finished, Result, Warned
from kandinsky.core.metadata import FORMATS, Metadata, library_version, metadata_of, read_metadata, write_image
from kandinsky.core.requests import Mix, Request, file_fields, mix

if TYPE_CHECKING:
    from kandinsky.cli.main import Flags
    from kandinsky.engine.pipeline import Pipeline

PREVIEWS_PER_IMAGE = 10
OTHER_FORMATS = (".gif", ".bmp", ".tif", ".tiff")
LOAD_SETTINGS = (*("prior", "dtype", "variant", "revision", "behaviour"), *("words", "quantize", "tiling", "compile"))
MEMORY_SETTINGS = ("offload", "prompt_cache")
"""Of loading too, but they shape no pixel: an image's file does not hold them."""


@dataclass(frozen=True)
class Job:
    """What is to be done, known before any weights are loaded; `settings` are those of loading."""

    request: Request
    outputs: list[Path]
    model: str | None
    settings: dict[str, JsonValue]


def generate(flags: "Flags", fields: Mapping[str, object]) -> None:
    """Makes the images and writes each as soon as it is done, printing its path.

    `fields` are those of the request that were typed. Every image is computed by itself, so that its file
    repeats it to the last bit whatever else was asked for. Raises KandinskyError; a stopped run leaves
    finished images and nothing else.
    """
    job = plan(flags, fields)
    with Bars(err(), quiet=flags.quiet) as bars:
        pipe = opened(bars, flags, job.model, job.settings)
        warned: set[str] | None = None if flags.quiet else set()
        for index, output in enumerate(job.outputs):
            bars.start(f"{index + 1}/{len(job.outputs)}" if len(job.outputs) > 1 else "")
            request = job.request.alone(index)
            result = _follow(pipe, request, bars, output if flags.preview else None, warned)
            write_image(result.images[0], output, metadata_with(result, pipe, job.settings))
            if not flags.quiet:
                say(str(output))


def opened(bars: Bars, flags: "Flags", model: str | None, settings: Mapping[str, JsonValue]) -> "Pipeline":
    """The pipeline that the flags ask for.

    While it is loaded the collector of cycles is off: objects only come then, and it would walk through all
    of them again and again, for a tenth of the time.
    """
    bars.start("loading")
    options = {**settings, **typed(flags, MEMORY_SETTINGS)}
    was_on = gc.isenabled()
    gc.disable()
    try:
        return kandinsky.load(model, device=flags.device, on_progress=bars.download, **options)  # type: ignore[arg-type]
    finally:
        if was_on:
            gc.enable()


def plan(flags: "Flags", fields: Mapping[str, object]) -> Job:
    """Turns flags, and the stored request of `--from`, into a Job, places to write checked as well.

    Raises RequestError or OutputError.
    """
    changes = as_files(fields)
    if (prompt := _prompt(flags)) is not None:
        changes["prompt"] = prompt
    settings, model = load_settings(flags), flags.model
    if flags.repeat is None:
        if prompt is None:
            raise RequestError("There is no prompt.", "Say what to draw, such as 'a red apple'.")
        request = Request(**changes)  # type: ignore[arg-type]
    else:
        stored = read_metadata(flags.repeat)
        if not flags.quiet:
            _note_differences(stored)
        if "sampler" in changes:
            # The stored share of noise was the stored sampler's; others may have none.
            changes.setdefault("eta", None)
        request = Request.from_json(stored.request, flags.repeat.parent, **changes)
        if model is None:
            model = stored.model or None
            known = (*LOAD_SETTINGS, "lora")
            settings = {k: v for k, v in stored.settings.items() if k in known} | settings
    if request.seed is None:
        # Drawn here rather than by the pipeline, because file names hold it.
        request = request.replaced(seed=secrets.randbelow(2**32))
    return Job(request, targets(flags.output, request), model, settings)


def as_files(fields: Mapping[str, object]) -> dict[str, object]:
    """Typed fields, file names among them as paths."""
    named = file_fields()
    return {name: Path(str(value)) if name in named else value for name, value in fields.items()}


def typed(flags: "Flags", names: Sequence[str]) -> dict[str, JsonValue]:
    """Those of the named flags that were typed."""
    return {name: value for name in names if (value := getattr(flags, name)) is not None}


def load_settings(flags: "Flags") -> dict[str, JsonValue]:
    """The typed flags of loading that shape pixels, as `load` takes them."""
    settings = typed(flags, LOAD_SETTINGS)
    if flags.lora:
        settings["lora"] = dict(parse_lora(text) for text in flags.lora)
    return settings


def parse_lora(text: str) -> tuple[str, float]:
    """An adapter and its scale from `SOURCE` or `SOURCE:SCALE`; RequestError where that is no number."""
    source, colon, number = text.rpartition(":")
    if not colon or "/" in number or "\\" in number:
        return text, 1.0
    try:
        return source, float(number)
    except ValueError as error:
        raise RequestError(f"--lora {text!r} has the scale {number!r}.", "Write a number behind the colon.") from error


def parse_mix(parts: Sequence[str], folder: Path | None = None) -> Mix:
    """Reads `TEXT_OR_FILE:WEIGHT` parts, files in `folder`; with no weight at all, all count the same.

    A part that is an existing file, or is named like an image, is an image. Raises RequestError for an
    image that cannot be opened, for weights on some parts only, and as `mix` does.
    """
    split = [_split(part) for part in parts]
    weights = [weight for _, weight in split if weight is not None]
    if weights and len(weights) < len(split):
        bare = next(text for text, weight in split if weight is None)
        raise RequestError(f"--mix {bare!r} has no weight, but others have.", "Write it as TEXT_OR_FILE:WEIGHT.")
    return mix([_item(text, folder or Path()) for text, _ in split], weights or None)


def _split(part: str) -> tuple[str, float | None]:
    text, colon, tail = part.rpartition(":")
    with suppress(ValueError):
        if colon and not math.isnan(weight := float(tail)):
            return text, weight
    return part, None


def _item(text: str, folder: Path) -> str | Path:
    if not text.strip():
        raise RequestError("A part of --mix is empty.", "Write it as TEXT_OR_FILE:WEIGHT.")
    path = folder / text
    try:
        is_file = path.suffix.lower() in (*FORMATS, *OTHER_FORMATS) or path.is_file()
    except OSError:  # a text too long to be a file name
        is_file = False
    return path if is_file else text


def _prompt(flags: "Flags") -> object:
    if flags.mix:
        if flags.prompts:
            raise RequestError(
                f"The prompt {flags.prompts[0]!r} is given together with --mix.", "Make it a part: --mix TEXT:WEIGHT."
            )
        return parse_mix(flags.mix)
    if not flags.prompts:
        return None
    return flags.prompts if len(flags.prompts) > 1 else flags.prompts[0]


def _note_differences(stored: Metadata) -> None:
    here = library_version()
    if stored.version != here:
        warn(f"that image was made by version {stored.version}, this is {here}; the last bits may differ.")
    if stored.batch > 1:
        warn(f"that image was computed in a batch of {stored.batch}; the last bits may differ.")


def _follow(
    pipe: "Pipeline", request: Request, bars: Bars, preview_for: Path | None, warned: set[str] | None
) -> Result:
    """Draws one image; a preview file next to `preview_for` is kept up to date, and gone at the end."""
    given = {name: value for name, value in request if name != "prompt" and value is not None}
    preview = None if preview_for is None else preview_for.with_name(f"{preview_for.stem}.preview.png")
    try:
        # Closing is what stops the work when Ctrl-C lands between two events.
        with closing(pipe.stream(request.prompt, **given)) as stream:
            for event in stream:
                bars.show(event)
                match event:
                    case Finished(result=result):
                        return result
                    case Warned(message=message) if warned is not None and message not in warned:
                        warned.add(message)
                        warn(message)
                    case Denoising() if preview is not None:
                        _write_preview(event, preview)
    finally:
        if preview is not None:
            preview.unlink(missing_ok=True)
    raise RuntimeError("the stream ended without a result")


def _write_preview(event: Denoising, path: Path) -> None:
    every = max(1, event.total // PREVIEWS_PER_IMAGE)
    if event.preview is not None and event.step % every == 0 and event.step < event.total:
        write_image(event.preview()[0], path)


def metadata_with(result: Result, pipe: "Pipeline", settings: Mapping[str, JsonValue]) -> Metadata:
    """What the file of a result of one image holds; `settings` are those that `load` was given."""
    made = metadata_of(result, 0)
    return replace(made, model=made.model or pipe.model_id, settings={**settings, **made.settings})
