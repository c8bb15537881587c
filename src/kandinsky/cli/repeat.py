"""The request in an image's file, drawn again: our own to the pixel, another tool's as far as it can be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kandinsky.cli.console import warn
from kandinsky.core.errors import RequestError
from kandinsky.core.foreign_metadata import WEIGHTS, Foreign, read_foreign
from kandinsky.core.metadata import Metadata, library_version, read_metadata
from kandinsky.core.prompt_weights import parse_weights
from kandinsky.core.requests import Request
from kandinsky.diffusion.samplers import SAMPLERS, sampler_called

OF_LOADING = (
    *("prior", "dtype", "variant", "revision", "behaviour", "words"),
    *("quantize", "tiling", "compile", "lora", "backend"),
)


def repeated(
    path: Path, changes: Mapping[str, object], *, quiet: bool
) -> tuple[Request, str | None, dict[str, JsonValue]]:
    """The request in a file with `changes`, and the model and settings of loading that it names.

    Says what differs unless `quiet`. Raises RequestError for a file that holds none.
    """
    given = dict(changes)
    try:
        stored = read_metadata(path)
    except RequestError:
        foreign = read_foreign(path)
        if foreign is None:
            raise
        request, notes = taken(foreign, given)
        for note in () if quiet else notes:
            warn(note)
        return request, None, {}
    if not quiet:
        _note_differences(stored)
    if "sampler" in given:
        # The stored share of noise was the stored sampler's; others may have none.
        given.setdefault("eta", None)
    request = Request.from_json(stored.request, path.parent, **given)
    return request, stored.model or None, {k: v for k, v in stored.settings.items() if k in OF_LOADING}


def taken(foreign: Foreign, changes: Mapping[str, object]) -> tuple[Request, list[str]]:
    """A request of another tool as one of ours, and what differs."""
    fields: dict[str, Any] = {**foreign.fields}
    model = f" with the model {foreign.model!r}" if foreign.model else ""
    notes = [f"{foreign.tool} made that image{model}: another model draws another image of the same request."]
    if "sampler" in fields and "sampler" not in changes:
        ours = fields["sampler"] if fields["sampler"] in SAMPLERS else sampler_called(fields["sampler"])
        if ours is None:
            notes.append(f"The sampler {fields.pop('sampler')!r} is not here: the model's own is used.")
        else:
            fields["sampler"] = ours
    if "strength" in fields and "image" not in changes:
        notes.append(
            f"It was made from another image with strength {fields.pop('strength')}: give that one by --image."
        )
    if foreign.weighted and not {"prompt_weights", "prompt", "negative_prompt"} & set(changes):
        fields |= _weights(foreign, notes)
    rest = {name: value for name, value in foreign.rest.items() if name not in ("Version", "Model hash", WEIGHTS)}
    if rest:
        notes.append("Not taken: " + ", ".join(f"{name} {value}" for name, value in rest.items()) + ".")
    for name in ("width", "height"):
        if name in fields and not 8 <= fields[name] <= 8192:
            notes.append(f"The {name} {fields.pop(name)} cannot be drawn.")
    return Request(**{**fields, **changes}), notes


def _weights(foreign: Foreign, notes: list[str]) -> dict[str, Any]:
    """The texts with their weights switched on; where these cannot be read, a note and nothing."""
    texts = foreign.as_weights()
    try:
        for name, text in texts.items():
            parse_weights(text, name)
    except RequestError as error:
        notes.append(f"Its weights cannot be read, and its texts are drawn as they are written: {error.message}")
        return {}
    notes.append("Its brackets are read as weights (--prompt-weights), which act on other text encoders here.")
    return {**texts, "prompt_weights": True}


def _note_differences(stored: Metadata) -> None:
    here = library_version()
    if stored.version != here:
        warn(f"that image was made by version {stored.version}, this is {here}; the last bits may differ.")
    if stored.batch > 1:
        warn(f"that image was computed in a batch of {stored.batch}; the last bits may differ.")
