"""The numbers of a model card: what a checkpoint reaches on images that it was never trained on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from style_accuracy import StyleReader, background_share
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.core.files import write_atomically
from kandinsky.evaluation.features import Features, extract, to_bytes
from kandinsky.evaluation.kid import frechet_distance, kernel_distance
from kandinsky.evaluation.quality import Reconstruct, reconstruction_quality
from kandinsky.evaluation.retrieval import retrieval
from kandinsky.networks.lpips import PerceptualLoss

Generate = Callable[[Sequence[str], Sequence[int]], Tensor]
"""Captions (B) and seeds (B) to images (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class RealImages:
    """Images (N, 3, H, W) in [-1, 1] with concept ids and style ids (N,) int64."""

    pixels: Tensor
    concepts: Tensor
    styles: Tensor

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.concepts) == len(self.styles) > 0:
            raise DataError(
                f"{len(self.pixels)} images, {len(self.concepts)} concepts, {len(self.styles)} styles.",
                "Each image needs one of each, and there must be one.",
            )

    def where(self, keep: Tensor) -> "RealImages":
        """Those for which `keep` (N,) bool is true."""
        return RealImages(self.pixels[keep], self.concepts[keep], self.styles[keep])


@dataclass(frozen=True)
class Backgrounds:
    """Captions that name background colours: which of a `palette` of RGB 0 to 255 each names (`wanted`)."""

    captions: Sequence[str]
    wanted: Sequence[int]
    palette: Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Reference:
    """What a model is measured against.

    `held_out`: images never trained on, with one caption each in every language of `captions` (the first is
    the main one, the others are only searched for); captions name the style. `trained`: the images it was
    trained on. `gallery`: every real image, to search among. `style_names` by style id, for the report.
    `backgrounds`: captions of which only the background is measured.
    """

    held_out: RealImages
    captions: Mapping[str, Sequence[str]]
    trained: RealImages
    gallery: RealImages
    style_names: Sequence[str] = ()
    backgrounds: Backgrounds | None = None


@dataclass(frozen=True)
class Subject:
    """One set of weights: a way to make images and, if wanted, the autoencoder's way there and back."""

    generate: Generate
    reconstruct: Reconstruct | None = None


@dataclass(frozen=True)
class Measures:
    """What measuring needs; `seed` decides subsets and is the first image's seed, `cache` keeps real features."""

    features: Features
    perceptual: PerceptualLoss | None = None
    batch_size: int = 16
    seed: int = 0
    cache: Path | None = None
    progress: Callable[[str, int, int], None] | None = None


def evaluate_embedded(
    reference: Reference,
    trained: Subject,
    measures: Measures,
    *,
    untrained: Subject | None = None,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint on held-out captions, next to what real images and untrained weights reach.

    Returns (and writes to `output` as JSON): `real` (KID of held-out against trained-on images of the same styles;
    retrieval with real images of another style; how often a classifier of styles is right on held-out images),
    `trained` and `untrained` (KID and FID against the held-out images, retrieval by language (`untrained` in the first
    one alone), how often style and background are those that the caption names, reconstruction PSNR and LPIPS), and the
    counts behind them.

    Raises DataError when captions and images do not fit each other, OutputError when the file cannot be written.
    """
    if not reference.captions:
        raise DataError("There is no caption to make an image from.", "Give captions in at least one language.")
    for language, texts in reference.captions.items():
        if len(texts) != len(reference.held_out.pixels):
            raise DataError(
                f"{len(texts)} captions in {language!r}, {len(reference.held_out.pixels)} held-out images.",
                "Each held-out image needs one caption.",
            )
    gallery = _features(reference.gallery.pixels, measures, "gallery")
    held_out = _features(reference.held_out.pixels, measures, "held-out")
    real = _Real(held_out, gallery, _style_reader(reference, gallery))
    report: dict[str, Any] = {
        "counts": {
            "held_out": len(reference.held_out.pixels),
            "gallery": len(reference.gallery.pixels),
            "gallery_concepts": len(torch.unique(reference.gallery.concepts)),
        },
        "real": _real(reference, measures, real),
        "trained": _subject(reference, trained, measures, real),
    }
    if untrained is not None:
        # Random weights understand no language, so one stands for all.
        first = dict(list(reference.captions.items())[:1])
        report["untrained"] = _subject(replace(reference, captions=first), untrained, measures, real)
    if output is not None:
        write_atomically(output, (json.dumps(report, indent=2, sort_keys=True) + "\n").encode())
    return report


@dataclass(frozen=True)
class _Real:
    """Features of the held-out images and of the gallery; `styles` is None where there is one style."""

    held_out: Tensor
    gallery: Tensor
    styles: StyleReader | None


def _style_reader(reference: Reference, gallery: Tensor) -> StyleReader | None:
    """A classifier fitted on those images of the gallery that are not held out."""
    shown, held = reference.gallery, reference.held_out
    pairs = set(zip(held.concepts.tolist(), held.styles.tolist(), strict=True))
    named = zip(shown.concepts.tolist(), shown.styles.tolist(), strict=True)
    seen = torch.tensor([pair not in pairs for pair in named])
    if len(torch.unique(shown.styles[seen])) < 2:
        return None
    return StyleReader.fit(gallery[seen], shown.styles[seen])


def _features(pixels: Tensor, measures: Measures, stage: str) -> Tensor:
    progress = measures.progress

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"features: {stage}", done, total)

    return extract(
        measures.features, to_bytes(pixels), batch_size=measures.batch_size, cache=measures.cache, report=report
    )


def _real(reference: Reference, measures: Measures, real: _Real) -> dict[str, Any]:
    matched = _matched(reference, measures.seed)
    trained = _features(reference.trained.pixels[matched], measures, "trained on")
    found: dict[str, Any] = {
        "kid": asdict(kernel_distance(real.held_out, trained, seed=measures.seed)),
        "fid": frechet_distance(real.held_out, trained),
    }
    if real.styles is not None:
        found["style"] = asdict(real.styles.share(real.held_out, reference.held_out.styles))
    if pairs := _other_styles(reference, real.gallery):
        found["retrieval_other_style"] = {**_pooled(list(pairs.values())), "pairs": pairs}
    return found


def _other_styles(reference: Reference, gallery: Tensor) -> dict[str, dict[str, float]]:
    """What another artist's drawing of the held-out concepts reaches, searched for as a generated image is.

    Keys are "style of the query -> style searched".
    """
    held, shown = reference.held_out, reference.gallery
    found = {}
    for style in torch.unique(held.styles).tolist():
        there = shown.styles == style
        wanted = torch.isin(shown.concepts, held.concepts[held.styles == style])
        for other in torch.unique(shown.styles).tolist():
            rows = (shown.styles == other) & wanted
            if other == style or not bool(rows.any()):
                continue
            search = retrieval(gallery[rows], shown.concepts[rows], gallery[there], shown.concepts[there])
            found[f"{_name(reference, other)} -> {_name(reference, style)}"] = asdict(search)
    return found


def _name(reference: Reference, style: int) -> str:
    return reference.style_names[style] if style < len(reference.style_names) else str(style)


def _pooled(searches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Several searches as one: means weighted by how many queries each had."""
    count = sum(search["queries"] for search in searches)
    means = {
        key: sum(search[key] * search["queries"] for search in searches) / count for key in ("top1", "top5", "chance")
    }
    return {**means, "queries": count}


def _matched(reference: Reference, seed: int) -> Tensor:
    """Trained-on images with the held-out share of each style, as many as there are held-out ones if possible."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for style in torch.unique(reference.held_out.styles).tolist():
        wanted = int((reference.held_out.styles == style).sum())
        there = torch.nonzero(reference.trained.styles == style).flatten()
        chosen.append(there[torch.randperm(len(there), generator=generator)[:wanted]])
    return torch.cat(chosen)


def _subject(reference: Reference, subject: Subject, measures: Measures, real: _Real) -> dict[str, Any]:
    found: dict[str, Any] = {"retrieval": {}, "style": {}}
    for number, (language, captions) in enumerate(reference.captions.items()):
        made = _generate(subject.generate, captions, measures, language)
        seen = _features(made, Measures(measures.features, batch_size=measures.batch_size), language)
        if number == 0:
            found["kid"] = asdict(kernel_distance(seen, real.held_out, seed=measures.seed))
            found["fid"] = frechet_distance(seen, real.held_out)
        if real.styles is not None:
            found["style"][language] = asdict(real.styles.share(seen, reference.held_out.styles))
        found["retrieval"][language] = _by_style(reference, seen, real.gallery)
    if backgrounds := reference.backgrounds:
        made = _generate(subject.generate, backgrounds.captions, measures, "backgrounds")
        found["background"] = asdict(background_share(made, torch.tensor(backgrounds.wanted), backgrounds.palette))
    if subject.reconstruct is not None:
        found["reconstruction"] = asdict(
            reconstruction_quality(
                subject.reconstruct, reference.held_out.pixels, measures.perceptual, batch_size=measures.batch_size
            )
        )
    return found


def _by_style(reference: Reference, seen: Tensor, gallery: Tensor) -> dict[str, float]:
    """Searches for each generated image among the real ones of the style that its caption names."""
    held, shown, searches = reference.held_out, reference.gallery, []
    for style in torch.unique(held.styles).tolist():
        rows, there = held.styles == style, shown.styles == style
        search = retrieval(seen[rows], held.concepts[rows], gallery[there], shown.concepts[there])
        searches.append(asdict(search))
    return _pooled(searches)


def _generate(generate: Generate, captions: Sequence[str], measures: Measures, stage: str) -> Tensor:
    made = []
    for first in range(0, len(captions), measures.batch_size):
        last = min(first + measures.batch_size, len(captions))
        made.append(generate(captions[first:last], range(measures.seed + first, measures.seed + last)).cpu())
        if measures.progress is not None:
            measures.progress(f"images: {stage}", last, len(captions))
    return torch.cat(made)
