"""`kandinsky evaluate --protocol coco30k`: draws the captions, looks at both sets, and writes a page."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from kandinsky.cli import batch as batches
from kandinsky.cli.console import err, say
from kandinsky.cli.evaluate import BATCH, network_of
from kandinsky.cli.main import BatchFlags, ModelFlags
from kandinsky.cli.progress import Bars
from kandinsky.core.errors import RequestError
from kandinsky.core.files import write_atomically
from kandinsky.core.metadata import library_version, read_metadata
from kandinsky.core.requests import about
from kandinsky.evaluation import coco
from kandinsky.evaluation.clip_models import load_clip
from kandinsky.evaluation.image_files import ImageFile, find_images
from kandinsky.evaluation.measure import FEW, How, Network, Seen, look_at, numbers
from kandinsky.evaluation.moments import Moments, load_moments, save_moments
from kandinsky.evaluation.page import markdown, page

if TYPE_CHECKING:
    from kandinsky.cli.main import EvaluateFlags

NAME = "coco30k"
SWEPT = ("guidance_scale", "prior_guidance_scale", "steps", "prior_steps", "eta")


def coco30k(flags: "EvaluateFlags", fields: Mapping[str, object]) -> None:
    """Runs the protocol into the folder --out; see docs/evaluation.md.

    Raises RequestError for flags that it needs or that do not go with it, DataError for captions or images that
    are not there; what was drawn is kept, and the same command goes on.
    """
    drawing = _drawing(flags)
    if flags.coco_captions is None or flags.coco_images is None:
        raise RequestError(f"{NAME} needs the captions and the images.", "Give --coco-captions and --coco-images.")
    sweep = parse_sweep(flags.sweep)
    captions = coco.read_captions(flags.coco_captions)
    chosen = coco.sample(captions, min(flags.limit or coco.CAPTIONS, coco.CAPTIONS))
    real = coco.real_images(flags.coco_images, captions, chosen, flags.coco_rule)
    out = drawing.out
    out.mkdir(parents=True, exist_ok=True)
    listed = "".join(json.dumps({"id": str(one.id), "prompt": one.text}) + "\n" for one in chosen.captions)
    path = write_atomically(out / "captions.jsonl", listed.encode())
    how = How(flags.resize, coco.SIDE, BATCH)
    runs: list[dict[str, JsonValue]] = []
    reference: Moments | None = None
    folders: list[str] = []
    for name, value in sweep:
        given = {**fields, **({name: value} if name else {})}
        folder = out / (f"{name}-{value:g}" if name else "images")
        folders.append(folder.name)
        if not batches.batch(replace(drawing, list=path, out=folder, limit=None), given):
            raise RequestError(f"Rows of {folder} failed, so that it cannot be measured.", "See its manifest.jsonl.")
        with Bars(err(), quiet=drawing.quiet) as bars:
            how = replace(how, report=bars.update)
            network = network_of(flags)
            if reference is None:
                reference = _reference(out, real, network.name, how, network)
            clip = load_clip(flags.clip, flags.device)
            drawn = look_at(find_images(folder), network, how, clip=clip)
        found = numbers(["fid", "clip"], drawn, Seen(reference))
        scores = found["clip"]
        assert isinstance(scores, dict)
        row: dict[str, JsonValue] = {name: value} if name else {}
        runs.append({**row, "images": drawn.moments.count, "FID": found["fid"], "CLIP score": scores["score"]})
        sizes = dict(drawn.sizes)
    assert reference is not None
    request = _request(out / folders[0])
    report: dict[str, JsonValue] = {
        "title": f"{drawing.model or 'emoji'} on COCO",
        "notes": list(notes(len(chosen.captions), flags.coco_rule, flags.resize)),
        "runs": list(runs),
        "published": _published(runs, drawing.model or "emoji", len(chosen.captions)),
        "protocol": {
            "model": drawing.model or "emoji",
            "captions": f"{len(chosen.captions)} of {Path(flags.coco_captions).name}, digest {chosen.digest}",
            "real images": f"{reference.count}, rule {flags.coco_rule!r}",
            "drawn at": ", ".join(sizes),
            "compared at": f"{coco.SIDE}x{coco.SIDE}, centred squares, Pillow's bicubic filter",
            **{name: request.get(name) for name in REPORTED if request.get(name) is not None and name != sweep[0][0]},
            "seeds": "row i has seed i",
            "features": network.name,
            "resize to the network": flags.resize,
            "CLIP": clip.name,
            "versions": _versions(),
        },
    }
    for suffix, text in (
        (".json", json.dumps(report, indent=2, ensure_ascii=False) + "\n"),
        (".md", markdown(report)),
        (".html", page(report)),
    ):
        say(str(write_atomically(out / f"report{suffix}", text.encode())))
    for run in runs:
        say(
            ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in run.items()
            )
        )


REPORTED = (
    "sampler",
    "steps",
    "guidance_scale",
    "prior_steps",
    "prior_guidance_scale",
    "eta",
    "guidance_interval",
    "reuse",
)


def _drawing(flags: "EvaluateFlags") -> BatchFlags:
    """The flags of the batches that are drawn; RequestError for those of `evaluate` that a protocol decides."""
    for name in ("images", "metrics", "reference", "crop", "save_stats"):
        if getattr(flags, name) is not None:
            shown = "IMAGES" if name == "images" else f"--{name.replace('_', '-')}"
            raise RequestError(f"{shown} does not go with --protocol, which says what is measured.", "Leave it out.")
    if flags.out is None:
        raise RequestError("The protocol needs a folder for what it draws.", "Give --out.")
    shared = {one.name: getattr(flags, one.name) for one in fields_of(ModelFlags)}
    return BatchFlags(list=flags.out, out=flags.out, batch_size=flags.batch_size, workers=flags.workers, **shared)


def parse_sweep(text: str | None) -> list[tuple[str, float]]:
    """Pairs of a field and a value from "guidance_scale=1,2,4"; one pair without a name where nothing is swept."""
    if text is None:
        return [("", 0.0)]
    name, equals, values = text.partition("=")
    try:
        values_ = [float(one) for one in values.split(",")]
    except ValueError:
        values_ = []
    if name not in SWEPT or not equals or not values_ or len(set(values_)) < len(values_):
        raise RequestError(
            f"--sweep {text!r} is no list of values.", f"Write guidance_scale=1,2,4; known: {', '.join(SWEPT)}."
        )
    whole = about()[name].type is int
    return [(name, int(one) if whole else one) for one in values_]


def notes(count: int, rule: coco.Rule, resize: str) -> list[str]:
    """What a reader must know before he compares."""
    found = []
    if count < FEW:
        found.append(
            f"A trial with {count} captions: FID of a small set is biased upwards, so that it compares with no table."
        )
    elif count < coco.CAPTIONS:
        found.append(f"{count} captions instead of {coco.CAPTIONS}: FID is a little too high.")
    if resize == "clean":
        found.append("Images were resized as clean-fid does; most published tables used TensorFlow's resize.")
    if rule == "all":
        found.append("The real images are all of the captions' file; papers that match captions get another number.")
    return found


def _reference(out: Path, real: list[ImageFile], name: str, how: How, network: Network) -> Moments:
    """The moments of the real images, kept in the folder: they are looked at once."""
    digest = hashlib.sha256("\n".join(one.name for one in real).encode()).hexdigest()[:16]
    made = f"{name}, resize {how.resize}, crop {how.crop}, images {digest}"
    kept = out / "reference.npz"
    if kept.is_file():
        moments, about_it = load_moments(kept)
        if about_it == made:
            return moments
    moments = look_at(real, network, how, what="real images").moments
    save_moments(kept, moments, made)
    return moments


def _published(runs: list[dict[str, JsonValue]], name: str, count: int) -> list[JsonValue]:
    best = min(float(str(run["FID"])) for run in runs)
    said = name if count == coco.CAPTIONS else f"{name} ({count} captions: no comparison)"
    return [[f"**{one}**" if own else one, value] for one, value, own in coco.table(best, said)]


def _request(folder: Path) -> dict[str, JsonValue]:
    """What the first image of a folder was asked for, with every default filled in."""
    found: dict[str, JsonValue] = read_metadata(find_images(folder)[0].path).request
    return found


def _versions() -> str:
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "pillow", "numpy"))
    return f"kandinsky {library_version()}, {libraries}, Python {platform.python_version()}"
