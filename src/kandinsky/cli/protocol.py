"""`kandinsky evaluate --protocol coco30k`: draws the captions, looks at both sets, and writes a page."""

import json
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from kandinsky.cli import batch as batches
from kandinsky.cli.console import err, say
from kandinsky.cli.evaluate import BATCH, network_of
from kandinsky.cli.flags import BatchFlags, ModelFlags
from kandinsky.core.errors import RequestError
from kandinsky.core.files import write_atomically
from kandinsky.core.progress import Bars
from kandinsky.engine.embedded import EMBEDDED
from kandinsky.evaluation import coco
from kandinsky.evaluation.clip_models import load_clip
from kandinsky.evaluation.image_files import find_images
from kandinsky.evaluation.measure import How, Seen, look_at, numbers
from kandinsky.evaluation.moments import Moments
from kandinsky.evaluation.page import markdown, page
from kandinsky.evaluation.protocol import Facts, parse_sweep, reference_moments, report_of

if TYPE_CHECKING:
    from kandinsky.cli.flags import EvaluateFlags

NAME = "coco30k"


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
    out = Path(drawing.out)
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
        if not batches.batch(replace(drawing, list=path, out=str(folder), limit=None), given):
            raise RequestError(f"Rows of {folder} failed, so that it cannot be measured.", "See its manifest.jsonl.")
        with Bars(err(), quiet=drawing.quiet) as bars:
            how = replace(how, report=bars.update)
            network = network_of(flags)
            if reference is None:
                reference = reference_moments(out, real, how, network)
            clip = load_clip(flags.clip, flags.device)
            drawn = look_at(find_images(folder), network, how, clip=clip)
        found = numbers(["fid", "clip"], drawn, Seen(reference))
        scores = found["clip"]
        assert isinstance(scores, dict)
        row: dict[str, JsonValue] = {name: value} if name else {}
        runs.append({**row, "images": drawn.moments.count, "FID": found["fid"], "CLIP score": scores["score"]})
        sizes = list(drawn.sizes)
    assert reference is not None
    facts = Facts(
        drawing.model or EMBEDDED,
        Path(flags.coco_captions).name,
        chosen,
        flags.coco_rule,
        reference.count,
        how,
        network,
    )
    report = report_of(facts, runs, sizes, clip.name, out / folders[0])
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


def _drawing(flags: "EvaluateFlags") -> BatchFlags:
    """The flags of the batches that are drawn; RequestError for those of `evaluate` that a protocol decides."""
    for name in ("images", "metrics", "reference", "crop", "save_stats"):
        if getattr(flags, name) is not None:
            shown = "IMAGES" if name == "images" else f"--{name.replace('_', '-')}"
            raise RequestError(f"{shown} does not go with --protocol, which says what is measured.", "Leave it out.")
    if flags.out is None:
        raise RequestError("The protocol needs a folder for what it draws.", "Give --out.")
    shared = {one.name: getattr(flags, one.name) for one in fields_of(ModelFlags)}
    shared |= {name: getattr(flags, name) for name in ("batch_size", "workers", "ray")}
    return BatchFlags(list=flags.out, out=str(flags.out), **shared)
