"""`kandinsky generate`: flags become a request, the request a stream, the stream bars and files."""

import gc
import secrets
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kandinsky
from kandinsky.cli.console import err, say, warn
from kandinsky.cli.mixes import parse_mix
from kandinsky.cli.outputs import targets
from kandinsky.cli.progress import Bars
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Finished, Result, Warned
from kandinsky.core.metadata import Metadata, library_version, metadata_of, read_metadata, write_picture
from kandinsky.core.requests import Request

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline

PREVIEWS_PER_PICTURE = 10
LOAD_SETTINGS = (
    *("prior", "dtype", "variant", "revision", "behaviour"),
    *("lora", "words", "quantize", "tiling", "compile"),
)
MEMORY_SETTINGS = ("offload", "prompt_cache")
"""Of loading too, but they shape no pixel: a picture's file does not hold them."""
REQUEST_FLAGS = (
    "negative_prompt",
    "prior_negative_prompt",
    "image",
    "mask",
    "strength",
    "hint",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "guidance_interval",
    "prior_steps",
    "prior_guidance_scale",
    "sampler",
    "eta",
    "reuse",
    "seed",
    "count",
)


@dataclass(frozen=True)
class Flags:
    """The flags of `kandinsky generate`, as typed; None is what was not given."""

    prompts: list[str] | None
    model: str | None
    prior: str | None
    image: Path | None
    mask: Path | None
    strength: float | None
    hint: Path | None
    mix: list[str] | None
    negative_prompt: str | None
    prior_negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    prior_steps: int | None
    prior_guidance_scale: float | None
    sampler: str | None
    eta: float | None
    reuse: int | None
    seed: int | None
    count: int | None
    width: int | None
    height: int | None
    device: str | None
    dtype: str | None
    variant: str | None
    revision: str | None
    behaviour: str | None
    lora: list[str] | None
    words: list[str] | None
    offload: str | None
    quantize: str | None
    prompt_cache: Path | None
    tiling: bool | None
    compile: bool | None
    output: Path | None
    repeat: Path | None
    requests: Path | None
    batch_size: int | None
    preview: bool
    quiet: bool


@dataclass(frozen=True)
class Job:
    """What is to be done, known before any weights are loaded."""

    request: Request
    outputs: list[Path]
    model: str | None
    device: str | None
    settings: dict[str, Any]
    memory: dict[str, Any]


def generate(flags: Flags) -> None:
    """Makes the pictures and writes each as soon as it is done, printing its path.

    Every picture is computed by itself, so that its file repeats it to the last bit whatever else was asked
    for. Raises KandinskyError; a stopped run leaves finished pictures and nothing else.
    """
    job = plan(flags)
    console = err()
    with Bars(console, quiet=flags.quiet) as bars:
        pipe = opened(bars, job.model, job.device, **job.settings, **job.memory)
        warned: set[str] | None = None if flags.quiet else set()
        for index, output in enumerate(job.outputs):
            bars.start(f"{index + 1}/{len(job.outputs)}" if len(job.outputs) > 1 else "")
            request = job.request.alone(index)
            result = _follow(pipe, request, bars, output if flags.preview else None, warned)
            write_picture(result.images[0], output, told(result, pipe, job.settings))
            if not flags.quiet:
                say(str(output))


def opened(bars: Bars, model: str | None, device: str | None, **settings: Any) -> "Pipeline":
    """The pipeline that the flags ask for."""
    bars.start("loading")
    with _uncollected():
        return kandinsky.load(model, device=device, on_progress=bars.download, **settings)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps the collector of cycles away from a time in which objects only come: imports and loading.

    It would walk through all of them again and again, for a tenth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def plan(flags: Flags) -> Job:
    """Turns flags, and the stored request of `--from`, into a Job; checks all of it, places to write
    included.

    Raises RequestError or OutputError.
    """
    changes = typed(flags, REQUEST_FLAGS)
    if (prompt := _prompt(flags)) is not None:
        changes["prompt"] = prompt
    settings = load_settings(flags)
    model = flags.model
    if flags.repeat is None:
        if prompt is None:
            raise RequestError("There is no prompt.", "Say what to draw, such as 'a red apple'.")
        request = Request(**changes)
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
            settings = {
                name: stored.settings[name] for name in LOAD_SETTINGS if name in stored.settings
            } | settings
    if request.seed is None:
        # Drawn here rather than by the pipeline, because file names hold it.
        request = request.replaced(seed=secrets.randbelow(2**32))
    memory = typed(flags, MEMORY_SETTINGS)
    return Job(request, targets(flags.output, request.rows()), model, flags.device, settings, memory)


def typed(flags: Flags, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named flags that were typed."""
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def load_settings(flags: Flags) -> dict[str, Any]:
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
        raise RequestError(
            f"--lora {text!r} has the scale {number!r}.", "Write a number behind the colon."
        ) from error


def _prompt(flags: Flags) -> object:
    if flags.mix:
        if flags.prompts:
            raise RequestError(
                f"The prompt {flags.prompts[0]!r} stands beside --mix.", "Make it a part: --mix TEXT:WEIGHT."
            )
        return parse_mix(flags.mix)
    if not flags.prompts:
        return None
    return flags.prompts if len(flags.prompts) > 1 else flags.prompts[0]


def _note_differences(stored: Metadata) -> None:
    here = library_version()
    if stored.version != here:
        warn(f"that picture was made by version {stored.version}, this is {here}; the last bits may differ.")
    if stored.batch > 1:
        warn(f"that picture was computed in a batch of {stored.batch}; the last bits may differ.")


def _follow(
    pipe: "Pipeline",
    request: Request,
    bars: Bars,
    preview_for: Path | None,
    warned: set[str] | None,
) -> Result:
    given = {name: value for name in REQUEST_FLAGS if (value := getattr(request, name)) is not None}
    preview = None if preview_for is None else preview_for.with_name(f"{preview_for.stem}.preview.png")
    stream = pipe.stream(request.prompt, **given)
    try:
        # Closing is what stops the work when Ctrl-C lands between two events.
        with closing(stream):
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
    every = max(1, event.total // PREVIEWS_PER_PICTURE)
    if event.preview is not None and event.step % every == 0 and event.step < event.total:
        write_picture(event.preview()[0], path)


def told(result: Result, pipe: "Pipeline", settings: dict[str, Any]) -> Metadata:
    """What the file of a result of one picture holds; `settings` are those that `load` was given."""
    made = metadata_of(result, 0)
    return replace(made, model=made.model or pipe.model_id, settings=settings | made.settings)
