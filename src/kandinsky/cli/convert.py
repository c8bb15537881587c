"""`kandinsky convert`: a checkpoint in one layout becomes a folder in the other."""

from collections.abc import Sequence
from pathlib import Path

from kandinsky.checkpoints.maps.original_files import INPAINTING
from kandinsky.checkpoints.original import open_model
from kandinsky.checkpoints.original_hub import DECODER, HALVES, PRIOR
from kandinsky.cli.console import err, say
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.progress import Bars
from kandinsky.engine.embedded import EMBEDDED, embedded_folder
from kandinsky.generations import convert as convert_folder

LAYOUTS = ("diffusers", "original")


def components(config: str, source: Path, target: Path, keys: Sequence[str], *, sharded: bool, quiet: bool) -> None:
    """Writes networks of a finished run as components of `target` and prints their folders."""
    from kandinsky.cli.train import source as run_of
    from kandinsky.training.components import write_component

    for key in keys:
        path = write_component(run_of(Path(config), None), source, target, key, sharded=sharded)
        if not quiet:
            say(str(path))


def convert(source: str, target: Path, to: str, *, prior: str | None, variant: str | None, quiet: bool) -> None:
    """Writes the folder and prints the paths of its files; `source` and `prior` may be hub ids.

    Raises KandinskyError; a stopped run leaves nothing.
    """
    if to not in LAYOUTS:
        raise RequestError(f"There is no layout {to!r}.", nearest(to, LAYOUTS))
    source = str(embedded_folder()) if source == EMBEDDED else source
    halves = HALVES if prior is None else (DECODER,)
    of_prior = None if variant == INPAINTING else variant
    with Bars(err(), quiet=quiet) as bars:
        bars.start("reading")
        opened = open_model(source, variant=variant, halves=halves, on_progress=bars.download)
        other = None
        if prior is not None:
            other = open_model(prior, variant=of_prior, halves=(PRIOR,), on_progress=bars.download)
        bars.start("writing")
        files = convert_folder(opened, target, to, prior=other, variant=variant)
    if not quiet:
        for path in files:
            say(str(path))
