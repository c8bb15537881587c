"""The zero-shot protocol on COCO as a report: what was measured, how, and what others published beside it."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import library_version, read_metadata
from kandinsky.core.requests import about
from kandinsky.evaluation import coco
from kandinsky.evaluation.image_files import ImageFile, find_images
from kandinsky.evaluation.measure import FEW, How, Network, look_at
from kandinsky.evaluation.moments import Moments, load_moments, save_moments

SWEPT = ("guidance_scale", "prior_guidance_scale", "steps", "prior_steps", "eta")
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
"""Fields of a request that a stranger needs to draw the same images."""


@dataclass(frozen=True)
class Facts:
    """What a run of the protocol was: the model, the file of captions and which of them, the rule for the real
    images and how many there were, and how both sets were looked at."""

    model: str
    file: str
    chosen: coco.Sample
    rule: coco.Rule
    real: int
    how: How
    network: Network


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
            f"--sweep {text!r} is not a list of values.", f"Write guidance_scale=1,2,4; known: {', '.join(SWEPT)}."
        )
    whole = about()[name].type is int
    return [(name, int(one) if whole else one) for one in values_]


def reference_moments(out: Path, real: list[ImageFile], how: How, network: Network) -> Moments:
    """The moments of the real images, kept in the folder: they are looked at once."""
    digest = hashlib.sha256("\n".join(one.name for one in real).encode()).hexdigest()[:16]
    made = f"{how.named(network)}, images {digest}"
    kept = out / "reference.npz"
    if kept.is_file():
        moments, about_it = load_moments(kept)
        if about_it == made:
            return moments
    moments = look_at(real, network, how, what="real images").moments
    save_moments(kept, moments, made)
    return moments


def report_of(
    facts: Facts, runs: Sequence[dict[str, JsonValue]], sizes: Sequence[str], clip: str, drawn: Path
) -> dict[str, JsonValue]:
    """The report of a protocol: `runs` are its rows (a swept field, images, FID, CLIP score), `sizes` those that were
    drawn, `drawn` the folder of the first run, whose first image says what was asked for."""
    count, swept = len(facts.chosen.captions), set(runs[0]) & set(SWEPT)
    request = read_metadata(find_images(drawn)[0].path).request
    asked: dict[str, JsonValue] = {
        name: request[name] for name in REPORTED if request.get(name) is not None and name not in swept
    }
    return {
        "title": f"{facts.model} on COCO",
        "notes": list(notes(count, facts.rule, facts.how.resize)),
        "runs": list(runs),
        "published": _published(runs, facts.model, count),
        "protocol": {
            "model": facts.model,
            "captions": f"{count} of {facts.file}, digest {facts.chosen.digest}",
            "real images": f"{facts.real}, rule {facts.rule!r}",
            "drawn at": ", ".join(sizes),
            "compared at": f"{coco.SIDE}x{coco.SIDE}, centred squares, Pillow's bicubic filter",
            **asked,
            "seeds": "row i has seed i",
            "features": facts.network.name,
            "resize to the network": facts.how.resize,
            "CLIP": clip,
            "versions": _versions(),
        },
    }


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


def _published(runs: Sequence[dict[str, JsonValue]], name: str, count: int) -> list[JsonValue]:
    best = min(float(str(run["FID"])) for run in runs)
    said = name if count == coco.CAPTIONS else f"{name} ({count} captions: no comparison)"
    return [[one, value, "this run" if own else ""] for one, value, own in coco.table(best, said)]


def _versions() -> str:
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "pillow", "numpy"))
    return f"kandinsky {library_version()}, {libraries}, Python {platform.python_version()}"
