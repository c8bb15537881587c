"""`kandinsky interpolate`: a film from one text or image to the next, through mixes of them."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky.cli.console import err, say, warn
from kandinsky.cli.generate import as_files, load_settings, metadata_with, opened
from kandinsky.core.errors import OutputError, RequestError
from kandinsky.core.events import Finished, Warned, numbered
from kandinsky.core.files import check_writable, whole_file
from kandinsky.core.metadata import write_image
from kandinsky.core.progress import Bars
from kandinsky.core.prompts import Mix, mix, parse_mix
from kandinsky.core.requests import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from kandinsky.cli.flags import InterpolateFlags
    from kandinsky.engine.pipeline import Pipeline

FILMS = (".gif", ".webp", ".mp4")
DEFAULT_SEED = 0


def interpolate(flags: "InterpolateFlags", fields: Mapping[str, object]) -> None:
    """Draws the frames, all from one seed, and writes the film, printing its path.

    Raises RequestError where a model cannot mix, OutputError for a place that cannot be written.
    """
    where = _place(flags)
    given = as_files(fields)
    if int(str(given.pop("count", 1))) != 1:
        raise RequestError("--count is given, and a film has its --frames.", "Leave it out.")
    seed = given.pop("seed", DEFAULT_SEED)
    requests = [Request(one, seed=seed, **given) for one in mixes(flags.ends, flags.frames)]  # type: ignore[arg-type]
    with Bars(err(), quiet=flags.quiet) as bars:
        pipe = opened(bars, flags, flags.model, load_settings(flags))
        bars.start("")
        if where.suffix:
            images = [image for _, image in sorted(_frames(pipe, requests, bars, flags), key=lambda pair: pair[0])]
            bars.update("writing", 0, None)
            write_film(where, [*images, *images[-2:0:-1]] if flags.bounce else images, flags.fps, flags.overwrite)
        else:
            _write_frames(where, pipe, requests, bars, flags)
    if not flags.quiet:
        say(str(where))


def mixes(ends: Sequence[str], frames: int) -> list[Mix]:
    """The prompts of the frames: from each end to the next `frames` mixes, both ends counted, no end twice."""
    if len(ends) < 2:
        raise RequestError(f"{ends[0]!r} alone leads nowhere.", "Give two texts or images, or more.")
    items = [parse_mix([f"{end}:1"]).items[0] for end in ends]
    found = [mix([items[0], items[1]], [1.0, 0.0])]
    for first, second in pairwise(items):
        shares = [index / (frames - 1) for index in range(1, frames)]
        found += [mix([first, second], [1 - share, share]) for share in shares]
    return found


def _place(flags: "InterpolateFlags") -> Path:
    """The film's file, or the folder of its frames, found to be writable."""
    path = Path(flags.output)
    if flags.output.endswith("/") or path.is_dir():
        return path
    if path.suffix.lower() not in FILMS:
        raise OutputError(f"{flags.output} is no film.", f"Name it with one of {', '.join(FILMS)}, or give a folder/.")
    if path.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        raise OutputError("An .mp4 needs the program ffmpeg, which is not here.", "Install it, or write a .webp.")
    if path.exists() and not flags.overwrite:
        raise OutputError(f"{path} exists already.", "--overwrite replaces it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return check_writable(path)


def _frames(
    pipe: "Pipeline", requests: Sequence[Request], bars: Bars, flags: "InterpolateFlags"
) -> "Iterator[tuple[int, Image]]":
    with closing(pipe.stream_batch(requests, flags.batch_size)) as stream:
        for event in stream:
            bars.show(event)
            if isinstance(event, Finished):
                yield event.index, event.result[0]
            elif isinstance(event, Warned) and not flags.quiet:
                warn(event.message)


def _write_frames(
    folder: Path, pipe: "Pipeline", requests: Sequence[Request], bars: Bars, flags: "InterpolateFlags"
) -> None:
    """Each frame as an image that repeats itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(pipe.stream_batch(requests, flags.batch_size)) as stream:
        for event in stream:
            bars.show(event)
            if isinstance(event, Finished):
                path = numbered(folder / "frame.png", event.index)
                write_image(
                    event.result[0],
                    path,
                    metadata_with(event.result, pipe, load_settings(flags)),
                    replace=flags.overwrite,
                )


def write_film(path: Path, images: "Sequence[Image]", fps: float, overwrite: bool = False) -> None:
    """Writes images as an animation that repeats, whole or not at all; .mp4 through ffmpeg. Raises OutputError."""
    first, *others = images
    with whole_file(path, replace=overwrite) as temporary:
        match path.suffix.lower():
            case ".gif":
                first.save(temporary, "GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)
            case ".webp":
                options = {"duration": round(1000 / fps), "loop": 0, "quality": 90, "method": 4}
                first.save(temporary, "WEBP", save_all=True, append_images=others, **options)
            case _:
                _mp4(temporary, images, fps)


def _mp4(path: Path, images: "Sequence[Image]", fps: float) -> None:
    width, height = images[0].size
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-"]
    # Sides of the usual pixel format are even.
    made = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", "mp4"]
    command = ["ffmpeg", "-loglevel", "error", "-y", *raw, *made, str(path)]
    data = b"".join(image.convert("RGB").tobytes() for image in images)
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OutputError(f"ffmpeg failed ({said[-1] if said else done.returncode}).", "Write a .webp instead.")
