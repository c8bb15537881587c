"""The numbers of a set of images: its distance from real ones, what it covers of them, and what it shows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from pydantic import JsonValue
from torch import Tensor

from kandinsky.core.errors import DataError, RequestError, nearest
from kandinsky.evaluation.clip_score import Clip, clip_score, pair_cosines
from kandinsky.evaluation.features import INCEPTION_SIZE, Features
from kandinsky.evaluation.image_files import ImageFile, opened, with_captions
from kandinsky.evaluation.inception_score import inception_score
from kandinsky.evaluation.kid import kernel_distance
from kandinsky.evaluation.moments import Moments, frechet_distance
from kandinsky.evaluation.precision_recall import precision_recall
from kandinsky.evaluation.resizing import Resize, resized

if TYPE_CHECKING:
    from PIL.Image import Image

Metric: TypeAlias = Literal["fid", "kid", "precision", "recall", "inception", "clip"]
METRICS: tuple[Metric, ...] = get_args(Metric)
OF_FEATURES: tuple[Metric, ...] = ("kid", "precision", "recall")
"""Metrics that need the features of all reference images, not their moments alone."""
OF_REFERENCE: tuple[Metric, ...] = ("fid", *OF_FEATURES)
FEW = 10_000
"""FID of fewer images is so much too high that it compares with no table."""


@dataclass(frozen=True)
class Network:
    """What features come from: a function, and the classes' probabilities where it has them."""

    features: Features
    name: str
    probabilities: Features | None = None


@dataclass(frozen=True)
class How:
    """How images become features: `crop` cuts the largest centred square and brings it to that side first."""

    resize: Resize = "clean"
    crop: int | None = None
    batch_size: int = 32
    report: Callable[[str, int, int], None] | None = None

    def named(self, network: Network) -> str:
        """What statistics depend on, as it is kept with them."""
        return f"{network.name}, resize {self.resize}, crop {self.crop}"


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of a set: its moments, and its features and probabilities where these are kept."""

    moments: Moments
    features: Tensor | None = None
    probabilities: Tensor | None = None
    cosines: Tensor | None = None
    sizes: dict[str, int] = field(default_factory=dict)


def parse_metrics(text: str) -> list[Metric]:
    """Metrics from "fid,kid"; RequestError for an unknown one."""
    names = [one.strip() for one in text.split(",") if one.strip()]
    for name in names:
        if name not in METRICS:
            raise RequestError(f"There is no metric {name!r}.", nearest(name, METRICS))
    if not names:
        raise RequestError("No metric is named.", f"Known: {', '.join(METRICS)}.")
    return [metric for metric in METRICS if metric in names]


def square(image: "Image", side: int) -> "Image":
    """The largest centred square of an image, brought to `side` pixels by Pillow's bicubic filter."""
    from PIL.Image import Resampling

    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.resize((side, side), Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def look_at(
    images: list[ImageFile],
    network: Network,
    how: How,
    *,
    keep: bool = False,
    clip: Clip | None = None,
    what: str = "images",
) -> Seen:
    """Looks at each image once, a few at a time; features are kept only when they are to be.

    Raises DataError for an image that cannot be read or, with `clip`, has no caption.
    """
    if clip is not None:
        images = with_captions(images)
    moments: Moments | None = None
    features, probabilities, cosines, sizes = [], [], [], dict[str, int]()
    done = 0
    for batch in opened(images, how.batch_size):
        for image in batch:
            size = f"{image.width}x{image.height}"
            sizes[size] = sizes.get(size, 0) + 1
        shown = [square(image, how.crop) for image in batch] if how.crop else batch
        pixels = torch.stack([resized(image, INCEPTION_SIZE, how.resize) for image in shown])
        found = network.features(pixels)
        part = Moments.of(found)
        moments = part if moments is None else moments + part
        if keep:
            features.append(found)
        if network.probabilities is not None:
            probabilities.append(network.probabilities(pixels))
        if clip is not None:
            captions = [one.caption or "" for one in images[done : done + len(batch)]]
            cosines.append(pair_cosines(clip, shown, captions))
        done += len(batch)
        if how.report is not None:
            how.report(what, done, len(images))
    if moments is None:
        raise DataError("There is no image.", "Give at least one.")
    return Seen(
        moments,
        torch.cat(features) if features else None,
        torch.cat(probabilities) if probabilities else None,
        torch.cat(cosines) if cosines else None,
        dict(sorted(sizes.items())),
    )


def numbers(metrics: Sequence[Metric], drawn: Seen, reference: Seen | None) -> dict[str, JsonValue]:
    """The metrics of a set, with what a reader needs to judge them.

    Raises DataError where a metric needs a reference, or the reference's features and not its moments alone.
    """
    found: dict[str, JsonValue] = {}
    for metric in metrics:
        if metric in OF_REFERENCE and reference is None:
            raise DataError(f"{metric} compares with real images.", "Give --reference.")
        if metric in OF_FEATURES and (reference is None or reference.features is None or drawn.features is None):
            raise DataError(f"{metric} needs the real images themselves.", "Give --reference a folder.")
    if "fid" in metrics:
        assert reference is not None
        found["fid"] = frechet_distance(drawn.moments, reference.moments)
        if drawn.moments.count < FEW:
            found["fid_note"] = (
                f"FID of {drawn.moments.count} images is biased upwards: compare it only with that of as many images."
            )
    if reference is not None and drawn.features is not None and reference.features is not None:
        if "kid" in metrics:
            found["kid"] = asdict(kernel_distance(drawn.features, reference.features))
        if "precision" in metrics or "recall" in metrics:
            both = precision_recall(drawn.features, reference.features)
            found |= {name: getattr(both, name) for name in ("precision", "recall") if name in metrics}
    if "inception" in metrics:
        if drawn.probabilities is None:
            raise DataError(
                "The Inception network at hand has no classes: its package holds the features alone.",
                "Give --inception FILE, a TorchScript of the whole network.",
            )
        found["inception"] = asdict(inception_score(drawn.probabilities))
    if "clip" in metrics:
        assert drawn.cosines is not None
        found["clip"] = asdict(clip_score(drawn.cosines))
    return found
