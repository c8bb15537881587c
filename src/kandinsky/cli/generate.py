"""`kandinsky generate`: flags become a request, the request a stream, the stream bars and files."""

import gc
import json
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

import kandinsky
from kandinsky.cli.console import err, say, warn
from kandinsky.cli.outputs import STDOUT, Places, places
from kandinsky.cli.repeat import repeated
from kandinsky.cli.table import heads, table
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Finished, Result, Warned
from kandinsky.core.metadata import Metadata, metadata_of, prompt_text, write_image
from kandinsky.core.progress import Bars
from kandinsky.core.prompts import parse_mix
from kandinsky.core.requests import Request, file_fields
from kandinsky.core.sheets import sheet
from kandinsky.jobs.rows import STDIN, read_rows

if TYPE_CHECKING:
    from PIL.Image import Image

    from kandinsky.cli.flags import Flags, ModelFlags
    from kandinsky.engine.pipeline import Pipeline

PREVIEWS_PER_IMAGE = 10
LOAD_SETTINGS = (
    *("prior", "dtype", "variant", "revision", "behaviour"),
    *("words", "quantize", "tiling", "compile", "backend"),
)
MEMORY_SETTINGS = ("offload", "prompt_cache")
"""Of loading too, but they shape no pixel: an image's file does not hold them."""
LISTS = (".txt", ".csv", ".jsonl")
OF_LISTS = ("prompt", "negative_prompt", "seed")
"""What the rows of a list of prompts may say; the rest is for `kandinsky batch`."""


@dataclass(frozen=True)
class Job:
    """What is to be done, known before any weights are loaded; `settings` are those of loading.

    `requests` are for one image each; those of a sheet have `heads` for columns and `names` for rows.
    """

    requests: list[Request]
    places: Places
    model: str | None
    settings: dict[str, JsonValue]
    sheet: bool = False
    heads: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def generate(flags: "Flags", fields: Mapping[str, object], typed_names: Set[str]) -> None:
    """Makes the images, several at once, and writes each as soon as it is done, printing its path.

    `fields` are those of the request that were given, `typed_names` the parameters that were typed. Raises
    KandinskyError; a stopped run leaves finished images and nothing else.
    """
    if flags.as_json and flags.output == STDOUT:
        raise RequestError("--json and -o - both write to stdout.", "Leave one out.")
    job = plan(flags, fields, typed_names)
    quiet = flags.quiet or flags.output == STDOUT
    begun = time.monotonic()
    with Bars(err(), quiet=flags.quiet) as bars:
        pipe = opened(bars, flags, job.model, job.settings)
        bars.start("")
        results: dict[int, Result] = {}
        for index, result in _drawn(pipe, job, bars, flags):
            if job.sheet:
                results[index] = result
                continue
            path = job.places.write(result[0], index, metadata_with(result, pipe, job.settings))
            if not quiet:
                say(_line(path, result, pipe, begun) if flags.as_json else str(path))
        if job.sheet:
            found = [results[index] for index in range(len(job.requests))]
            path = job.places.write(_sheet(job, found), 0, None)
            if not quiet:
                say(_line(path, found[0], pipe, begun) if flags.as_json else str(path))


def _drawn(pipe: "Pipeline", job: Job, bars: Bars, flags: "Flags") -> Iterator[tuple[int, Result]]:
    """The results with the places of their requests, as they are done.

    Preview files next to those of the images are kept up to date, and gone at the end.
    """
    waiting = list(range(len(job.requests)))
    warned: set[str] = set()
    previews: list[Path] = []
    if flags.preview and not job.sheet and not job.places.stdout:
        previews = [path.with_name(f"{path.stem}.preview.png") for path in job.places.paths]
    try:
        # Closing is what stops the work when Ctrl-C lands between two events.
        with closing(pipe.stream_batch(job.requests, flags.batch_size)) as stream:
            for event in stream:
                bars.show(event)
                match event:
                    case Finished(result=result, index=index):
                        waiting.remove(index)
                        yield index, result
                    case Warned(message=message) if not flags.quiet and message not in warned:
                        warned.add(message)
                        warn(message)
                    case Denoising() if previews:
                        _write_previews(event, [previews[index] for index in waiting])
    finally:
        for preview in previews:
            preview.unlink(missing_ok=True)


def _line(path: Path, result: Result, pipe: "Pipeline", begun: float) -> str:
    """One image, or a sheet, as a line of JSON."""
    request = result.request
    about = {
        "path": str(path),
        "prompt": prompt_text(request.get("prompt")),
        "seed": result.seeds[0],
        "width": result[0].width,
        "height": result[0].height,
        "model": result.model or pipe.model_id,
        "request": request,
        "warnings": result.warnings,
        "seconds": round(time.monotonic() - begun, 3),
    }
    return json.dumps(about, ensure_ascii=False)


def _sheet(job: Job, results: Sequence[Result]) -> "Image":
    images = [result[0] for result in results]
    if job.heads:
        return sheet(images, len(job.heads), rows=job.names, heads=job.heads)
    labels = [f"{prompt_text(one.request.get('prompt'))}, seed {one.seeds[0]}" for one in results]
    return sheet(images, math.ceil(math.sqrt(len(images))), labels)


def opened(bars: Bars, flags: "ModelFlags", model: str | None, settings: Mapping[str, JsonValue]) -> "Pipeline":
    """The pipeline that the flags ask for.

    While it is loaded the collector of cycles is off: objects only come then, and it would walk through all
    of them again and again, for a tenth of the time.
    """
    bars.start("")
    bars.update("loading", 0, None)
    options = {**settings, **typed(flags, MEMORY_SETTINGS)}
    was_on = gc.isenabled()
    gc.disable()
    try:
        return kandinsky.load(model, device=flags.device, on_progress=bars.download, **options)  # type: ignore[arg-type]
    finally:
        if was_on:
            gc.enable()


def plan(flags: "Flags", fields: Mapping[str, object], typed_names: Set[str]) -> Job:
    """Turns flags, and the stored request of `--from`, into a Job, places to write checked as well.

    Raises RequestError or OutputError.
    """
    changes = as_files(fields) | _size(flags, fields)
    changes |= _prompt(flags, changes)
    settings, model = load_settings(flags), flags.model
    if flags.repeat is None:
        if "prompt" not in changes:
            raise RequestError("There is no prompt.", "Say what to draw, such as 'a red apple'.")
        request = Request(**changes)  # type: ignore[arg-type]
    else:
        # Only what was typed changes an image that is repeated: settings are for new ones.
        changes = {
            name: value for name, value in changes.items() if name in {*typed_names, *_size(flags, fields), "prompt"}
        }
        settings = {name: value for name, value in settings.items() if name in typed_names}
        model = model if "model" in typed_names else None
        request, stored_model, stored_settings = repeated(Path(flags.repeat), changes, quiet=flags.quiet)
        if model is None:
            model, settings = stored_model, stored_settings | settings
    if not flags.quiet and any(isinstance(one, str) and not one.strip() for one in request.prompts):
        warn("a prompt is empty: its image may show anything.")
    if request.seed is None:
        # Drawn here rather than by the pipeline, because file names hold it.
        request = request.replaced(seed=secrets.randbelow(2**32))
    wants_sheet = flags.grid or flags.xy is not None
    where = places(flags.output, request, overwrite=flags.overwrite, sheet=wants_sheet)
    if flags.xy is not None:
        if flags.grid or request.size > 1:
            raise RequestError("--xy draws one prompt with one seed.", "Leave out --grid, --count and other prompts.")
        x, y = flags.xy
        return Job(table(request, x, y), where, model, settings, sheet=True, heads=heads(x), names=heads(y))
    requests = [request.alone(index) for index in range(request.size)]
    return Job(requests, where, model, settings, sheet=flags.grid)


def as_files(fields: Mapping[str, object]) -> dict[str, object]:
    """Typed fields, file names among them as paths."""
    named = file_fields()
    return {name: Path(str(value)) if name in named else value for name, value in fields.items()}


def typed(flags: "ModelFlags", names: Sequence[str]) -> dict[str, JsonValue]:
    """Those of the named flags that were typed."""
    return {name: value for name in names if (value := getattr(flags, name)) is not None}


def load_settings(flags: "ModelFlags") -> dict[str, JsonValue]:
    """The typed flags of loading that shape pixels, as `load` takes them."""
    settings = typed(flags, LOAD_SETTINGS)
    if flags.lora:
        settings["lora"] = parse_loras(flags.lora)
    return settings


def parse_loras(texts: Sequence[str]) -> dict[str, JsonValue]:
    """Adapters with their scales; RequestError for one that is given twice, and as `parse_lora` does."""
    found: dict[str, JsonValue] = {}
    places: set[str] = set()
    for source, scale in map(parse_lora, texts):
        bare = Path(source if Path(source).exists() else source.rpartition("=")[2])
        place = str(bare.resolve() if bare.exists() else bare)
        if place in places:
            raise RequestError(f"--lora {source!r} is given twice.", "Give it once, with the scale that you want.")
        places.add(place)
        found[source] = scale
    return found


def parse_lora(text: str) -> tuple[str, float]:
    """An adapter, which may be named, and its scale from `[NAME=]SOURCE[:SCALE]`; RequestError for another scale."""
    source, colon, number = text.rpartition(":")
    if not colon or "/" in number or "\\" in number:
        return text, 1.0
    try:
        scale = float(number)
    except ValueError as error:
        raise RequestError(f"--lora {text!r} has the scale {number!r}.", "Write a number behind the colon.") from error
    if not math.isfinite(scale):
        raise RequestError(f"--lora {text!r} has the scale {number!r}.", "Write a finite number, such as 0.8.")
    return source, scale


def _size(flags: "Flags", fields: Mapping[str, object]) -> dict[str, int]:
    """The sides that --size says."""
    if flags.size is None:
        return {}
    match = re.fullmatch(r"(\d+)\s*[xX×]\s*(\d+)", flags.size.strip())
    if match is None:
        raise RequestError(f"--size {flags.size!r} is no size.", "Write it as WIDTHxHEIGHT, such as 96x64.")
    return {"width": int(match[1]), "height": int(match[2])}


def _prompt(flags: "Flags", fields: Mapping[str, object]) -> dict[str, object]:
    """The prompt as a field, and what a list of prompts says besides."""
    if flags.mix:
        if flags.prompts:
            raise RequestError(
                f"The prompt {flags.prompts[0]!r} is given together with --mix.", "Make it a part: --mix TEXT:WEIGHT."
            )
        return {"prompt": parse_mix(flags.mix)}
    rows: list[dict[str, object]] = []
    for text in flags.prompts or ():
        rows += _listed(text) if _is_list(text) else [{"prompt": text}]
    if not rows:
        return {}
    found: dict[str, object] = {}
    for name in OF_LISTS:
        if any(name in row for row in rows):
            values = [row.get(name, fields.get(name)) for row in rows]
            if name == "seed" and None in values:
                raise RequestError("Some prompts of the list have a seed, and some have none.", "Give all of them one.")
            found[name] = values[0] if len(values) == 1 else values
    return found


def _is_list(text: str) -> bool:
    return text == STDIN or (Path(text).suffix.lower() in LISTS and " " not in text)


def _listed(text: str) -> list[dict[str, object]]:
    rows = read_rows(text)
    for row in rows:
        if other := sorted(set(row.values) - set(OF_LISTS)):
            hint = f"Use kandinsky batch {text} FOLDER for lists of whole requests."
            raise RequestError(
                f"Line {row.line} of {text} says {other[0]!r}, and generate takes {', '.join(OF_LISTS)}.", hint
            )
    return [row.values for row in rows]


def _write_previews(event: Denoising, paths: Sequence[Path]) -> None:
    every = max(1, event.total // PREVIEWS_PER_IMAGE)
    if event.preview is not None and event.step % every == 0 and event.step < event.total:
        for image, path in zip(event.preview(), paths, strict=False):
            write_image(image, path)


def metadata_with(result: Result, pipe: "Pipeline", settings: Mapping[str, JsonValue]) -> Metadata:
    """What the file of a result of one image holds; `settings` are those that `load` was given."""
    made = metadata_of(result, 0)
    return replace(made, model=made.model or pipe.model_id, settings={**settings, **made.settings})
