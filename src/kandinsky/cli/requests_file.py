"""`kandinsky generate --requests FILE`: a request a line, drawn in batches; only what is not there yet."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from kandinsky.cli.console import err, say, warn
from kandinsky.cli.generate import as_files, load_settings, metadata_with, opened, parse_mix
from kandinsky.cli.outputs import slug
from kandinsky.cli.progress import Bars
from kandinsky.core.errors import KandinskyError, OutputError, RequestError, nearest
from kandinsky.core.events import Finished, Warned, numbered
from kandinsky.core.metadata import Metadata, check_image_path, read_metadata, single, write_image
from kandinsky.core.requests import Request, file_fields

if TYPE_CHECKING:
    from kandinsky.cli.main import Flags
    from kandinsky.engine.pipeline import Pipeline

OWN = ("mix", "output")
"""What a line may hold besides the fields of a request."""


@dataclass(frozen=True)
class Wanted:
    """One image that is still to be drawn: the request for it alone, its line, and where it goes."""

    line: int
    request: Request
    output: Path


def generate(flags: "Flags", path: Path, fields: Mapping[str, object]) -> None:
    """Draws what the lines ask for, each image written as soon as it is done, its path printed.

    Lines of the file at `path` are JSON objects with the fields of a request; "mix" holds parts as --mix
    takes them, and "output" a file name. The typed `fields` are what a line does not say. Images that are
    there already are left alone. All lines are checked before anything is loaded, and against the model
    before anything is drawn: RequestError and OutputError name the line.
    """
    folder = _folder(flags)
    wanted = [one for line in read_lines(path, folder, as_files(fields), flags.model) for one in line]
    if not wanted:
        return
    settings = load_settings(flags)
    with Bars(err(), quiet=flags.quiet) as bars:
        pipe = opened(bars, flags, flags.model, settings)
        for one in wanted:
            with _named(path, one.line):
                pipe.checked(one.request)
        _draw(pipe, wanted, settings, bars, flags)


def _draw(
    pipe: "Pipeline", wanted: list[Wanted], settings: Mapping[str, JsonValue], bars: Bars, flags: "Flags"
) -> None:
    warned: set[str] = set()
    done = 0
    stream = pipe.stream_batch([one.request for one in wanted], flags.batch_size)
    # Closing is what stops the work when Ctrl-C lands between two events.
    with closing(stream):
        for event in stream:
            bars.title = f"{done}/{len(wanted)}"
            bars.show(event)
            match event:
                case Finished(result=result, index=index):
                    done += 1
                    output = wanted[index].output
                    write_image(result.images[0], output, metadata_with(result, pipe, settings))
                    if not flags.quiet:
                        say(str(output))
                case Warned(message=message) if message not in warned and not flags.quiet:
                    warned.add(message)
                    warn(message)


def _folder(flags: "Flags") -> Path:
    """The folder of images; RequestError for flags that do not go with a file of requests."""
    for name, value in {"a prompt": flags.prompts, "--mix": flags.mix, "--from": flags.repeat}.items():
        if value:
            raise RequestError(f"{name} is given together with --requests.", "Write it into a line of the file.")
    if flags.preview:
        raise RequestError("--preview shows one image, and --requests draws many.", "Leave it out.")
    folder = flags.output or Path()
    if not folder.is_dir():
        raise OutputError(f"There is no folder {folder}.", "Create it, then give it as -o.")
    return folder


def read_lines(path: Path, folder: Path, given: Mapping[str, object], model: str | None) -> Iterator[list[Wanted]]:
    """What is still to be drawn, line by line; empty lines count and are skipped.

    Raises RequestError and OutputError that name the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read ({error}).", "Give a text file.") from error
    names: dict[Path, int] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        with _named(path, number):
            fields = _fields(text, given, path.parent)
            output = fields.pop("output", None)
            given_seed = "seed" in fields
            fields.setdefault("seed", secrets.randbelow(2**32))
            request = Request(**fields)
            outputs = _outputs(output, folder, number, request)
            for place in outputs:
                if names.setdefault(place, number) != number:
                    raise OutputError(f"{place.name} is the output of line {names[place]} too.", "Name it otherwise.")
            yield [
                Wanted(number, request.alone(index), place)
                for index, place in enumerate(outputs)
                if not _is_done(place, request, index, model, given_seed)
            ]


@contextmanager
def _named(path: Path, line: int) -> Iterator[None]:
    """Puts the line before what a KandinskyError inside says."""
    try:
        yield
    except KandinskyError as error:
        raise type(error)(f"{path} line {line}: {error.message}", error.hint) from error


def _fields(text: str, given: Mapping[str, object], base: Path) -> dict[str, Any]:
    """The fields of a line, and those `given` for all; paths are relative to `base`, the folder of the file."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise RequestError(f"This is no JSON ({error}).", 'Write {"prompt": "a red fox"}.') from error
    if not isinstance(data, dict):
        raise RequestError(f"{text[:40]} is no JSON object.", 'Write {"prompt": "a red fox"}.')
    known = (*Request.model_fields, *OWN)
    if unknown := sorted(set(data) - set(known)):
        raise RequestError(f"A line has no {unknown[0]!r}.", nearest(unknown[0], known))
    for name in set(file_fields()) & set(data):
        data[name] = _path(data[name], name, base)
    if (parts := data.pop("mix", None)) is not None:
        if "prompt" in data or not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise RequestError(
                "mix is not a list of texts in the place of a prompt.", 'Write ["a cat:0.7", "cat.png:0.3"].'
            )
        data["prompt"] = parse_mix(parts, base)
    if "prompt" not in data:
        raise RequestError("There is no prompt.", 'Write {"prompt": "a red fox"}.')
    return {**given, **{name: value for name, value in data.items() if value is not None}}


def _path(value: object, name: str, base: Path) -> Any:
    if isinstance(value, list):
        return [_path(one, name, base) for one in value]
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} is no file name.", "Write the path of an image.")
    return None if value is None else base / value


def _outputs(name: object, folder: Path, line: int, request: Request) -> list[Path]:
    """Where the images of a line go: names of its number and prompt, so that they are found again."""
    if name is None:
        name = f"{line:04d}-{slug(request.prompts[0])}.png"
    if not isinstance(name, str) or Path(name).name != name:
        raise OutputError(f"output is {name!r}, which is no file name.", "Name it without a folder.")
    path = folder / name
    count = request.size
    return [check_image_path(path if count == 1 else numbered(path, index)) for index in range(count)]


def _is_done(path: Path, request: Request, index: int, model: str | None, given_seed: bool) -> bool:
    """Whether an image is there; OutputError when something else is in its place."""
    if not path.exists():
        return False
    try:
        stored: Metadata | None = read_metadata(path)
    except RequestError:
        stored = None
    asked = {name: value for name, value in single(request.to_json(), index).items() if value is not None}
    if not given_seed:
        del asked["seed"]
    same = stored is not None and all(
        _plain(stored.request.get(name)) == _plain(value) for name, value in asked.items()
    )
    if stored is None or not same or (model is not None and stored.model != model):
        raise OutputError(
            f"{path} is there already, and is not what this line asks for.", "Move it, or take another folder."
        )
    return True


def _plain(value: Any) -> Any:
    """Stored values without the paths of input images, which are compared by their fingerprints."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items() if name != "path"}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
