"""`kandinsky evaluate`: the numbers of a folder of images, and of a published protocol."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from kandinsky.cli.console import err, say, warn
from kandinsky.cli.generate import LOAD_SETTINGS, MEMORY_SETTINGS
from kandinsky.core.errors import RequestError
from kandinsky.core.files import check_writable, write_atomically
from kandinsky.core.metadata import library_version
from kandinsky.core.progress import Bars
from kandinsky.engine.devices import choose_device
from kandinsky.evaluation.clip_models import load_clip
from kandinsky.evaluation.features import INCEPTION_NAME, load_inception, load_whole_inception
from kandinsky.evaluation.image_files import find_images
from kandinsky.evaluation.measure import OF_FEATURES, OF_REFERENCE, How, Network, Seen, look_at, numbers, parse_metrics
from kandinsky.evaluation.moments import load_moments, save_moments

if TYPE_CHECKING:
    from kandinsky.cli.flags import EvaluateFlags


DRAWING = (
    *LOAD_SETTINGS,
    *MEMORY_SETTINGS,
    "model",
    "lora",
    "coco_captions",
    "coco_images",
    "sweep",
    "batch_size",
    "workers",
    "ray",
)
"""Flags that act where images are drawn."""
BATCH = 32
"""Images that are looked at together."""


def evaluate(flags: "EvaluateFlags", fields: Mapping[str, object]) -> None:
    """Measures the images and prints a line a metric, or runs a protocol; see `kandinsky evaluate --help`.

    Raises RequestError for flags that do not go together.
    """
    if flags.protocol is not None:
        from kandinsky.cli.protocol import coco30k

        coco30k(flags, fields)
        return
    if flags.images is None:
        raise RequestError("There are no images to measure.", "Give a folder, or --protocol.")
    _refuse_protocols(flags, fields)
    usual = "fid,kid" if flags.reference is not None else ""
    metrics = parse_metrics(flags.metrics or usual) if flags.metrics or usual else []
    for path in (flags.out, flags.save_stats):
        if path is not None:
            check_writable(path)
    if not metrics and flags.save_stats is None:
        raise RequestError("There is nothing to measure.", "Give --reference, --metrics or --save-stats.")
    needing = [metric for metric in metrics if metric in OF_REFERENCE]
    if needing and flags.reference is None:
        raise RequestError(f"{needing[0]} compares with real images.", "Give --reference.")
    if flags.reference is not None and not needing:
        raise RequestError(
            "--reference is given, and no metric compares with it.", f"Name one of {', '.join(OF_REFERENCE)}."
        )
    found = find_images(flags.images)[: flags.limit]
    with Bars(err(), quiet=flags.quiet) as bars:
        how = How(flags.resize, flags.crop, BATCH, bars.update)
        bars.start("")
        network = network_of(flags)
        clip = load_clip(flags.clip, flags.device) if "clip" in metrics else None
        keep = any(metric in OF_FEATURES for metric in metrics)
        reference = None if flags.reference is None else _reference(flags.reference, network, how, keep)
        drawn = look_at(found, network, how, keep=keep, clip=clip)
    if flags.save_stats is not None:
        save_moments(flags.save_stats, drawn.moments, how.named(network))
        say(str(flags.save_stats))
    report: dict[str, JsonValue] = {
        "images": str(flags.images),
        "count": drawn.moments.count,
        "sizes": dict(drawn.sizes),
        "reference": None if flags.reference is None else str(flags.reference),
        "reference_count": None if reference is None else reference.moments.count,
        "network": network.name,
        "resize": flags.resize,
        "crop": flags.crop,
        "clip": None if clip is None else clip.name,
        "version": library_version(),
        "metrics": numbers(metrics, drawn, reference),
    }
    if len(drawn.sizes) > 1 and not flags.quiet and flags.crop is None:
        warn(f"The images have {len(drawn.sizes)} sizes, from {', '.join(list(drawn.sizes)[:3])} on.")
    show(report)
    if flags.out is not None:
        write_atomically(flags.out, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


def _refuse_protocols(flags: "EvaluateFlags", fields: Mapping[str, object]) -> None:
    """RequestError for a flag that says how to draw: nothing is drawn here."""
    drawing = {**fields, **{name: getattr(flags, name) for name in DRAWING}}
    given = [name for name, value in drawing.items() if value is not None and value != 1]
    if given:
        raise RequestError(f"--{given[0].replace('_', '-')} goes with --protocol.", "The images are drawn already.")


def network_of(flags: "EvaluateFlags") -> Network:
    """The Inception network that the flags ask for."""
    device = choose_device(flags.device)
    if flags.inception is None:
        return Network(load_inception(device=device), INCEPTION_NAME)
    features, probabilities, name = load_whole_inception(flags.inception, device)
    return Network(features, name, probabilities)


def _reference(path: Path, network: Network, how: How, keep: bool) -> Seen:
    if path.suffix.lower() != ".npz":
        return look_at(find_images(path), network, how, keep=keep, what="reference")
    moments, made = load_moments(path)
    if made and made != how.named(network):
        raise RequestError(f"{path} was made with {made}, and this is {how.named(network)}.", "Use the same for both.")
    if not made:
        warn(f"{path} does not say which network and resize it was made with.")
    return Seen(moments)


def show(report: Mapping[str, JsonValue]) -> None:
    """Prints the metrics, one a line, as `name value`."""
    metrics = report["metrics"]
    assert isinstance(metrics, dict)
    for name, value in metrics.items():
        match value:
            case {"value": float(number), "std": float(spread)}:
                say(f"{name} {number:.5g} ± {spread:.2g}")
            case {"score": float(number)}:
                say(f"{name} {number:.4g}")
            case float():
                say(f"{name} {value:.5g}")
            case _:
                warn(str(value))
