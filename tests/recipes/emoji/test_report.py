"""The model card's numbers on a world so small that every one of them is known beforehand."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from report import Backgrounds, Measures, RealImages, Reference, Subject, evaluate_embedded
from torch import Tensor

from kandinsky.core.errors import DataError

CONCEPTS, STYLES, SIZE = 8, 2, 8


def draw_image(concept: int, style: int, wobble: float = 0.0) -> Tensor:
    """A square of a colour that tells the concept; the style is the frame's brightness."""
    bits = [1.0 if concept >> k & 1 else -1.0 for k in range(3)]
    drawn = torch.full((3, SIZE, SIZE), 0.2 * style - 0.1)
    drawn[:, 2:6, 2:6] = torch.tensor(bits)[:, None, None] * (0.9 - wobble)
    return drawn


def features(images: Tensor) -> Tensor:
    pixels = images.float() / 127.5 - 1
    return torch.cat((pixels[:, :, 4, 4] * 3, pixels[:, :1, 0, 0]), dim=1)


def real(pairs: Sequence[tuple[int, int]], wobble: float = 0.0) -> RealImages:
    return RealImages(
        torch.stack([draw_image(c, s, wobble) for c, s in pairs]),
        torch.tensor([c for c, _ in pairs]),
        torch.tensor([s for _, s in pairs]),
    )


@pytest.fixture
def reference() -> Reference:
    everything = [(c, s) for s in range(STYLES) for c in range(CONCEPTS)]
    held = [(c, s) for c, s in everything if (c + s) % 4 == 0]
    return Reference(
        real(held),
        {"en": [f"thing {c} style {s}" for c, s in held], "ru": [f"вещь {c} стиль {s}" for c, s in held]},
        real([pair for pair in everything if pair not in held], 0.05),
        real(everything),
        ("flat", "noto"),
    )


def oracle(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Draws what English asks for; in Russian always thing 1."""
    words = [caption.split() for caption in captions]
    return torch.stack([draw_image(int(w[1]) if w[0] == "thing" else 1, int(w[3]), 0.02) for w in words])


def grey(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
    return torch.stack([torch.full((3, SIZE, SIZE), -0.5 + 0.001 * seed) for seed in seeds])


def test_numbers(reference: Reference, tmp_path: Path) -> None:
    given = list[str]()
    measures = Measures(features, batch_size=3, seed=5, progress=lambda stage, done, total: given.append(stage))
    report = evaluate_embedded(
        reference,
        Subject(oracle, lambda images: images * 0.9),
        measures,
        untrained=Subject(grey, torch.zeros_like),
        output=tmp_path / "numbers.json",
    )
    assert json.loads((tmp_path / "numbers.json").read_text()) == report
    assert report["counts"] == {"held_out": 4, "gallery": 16, "gallery_concepts": 8}
    assert report["trained"]["retrieval"]["en"] == {"top1": 1.0, "top5": 1.0, "chance": 0.125, "queries": 4}
    assert report["trained"]["retrieval"]["ru"]["top1"] < 0.5
    assert report["untrained"]["retrieval"]["en"]["top1"] <= 0.25
    assert report["trained"]["kid"]["value"] < report["untrained"]["kid"]["value"]
    assert report["trained"]["fid"] < 0.1 < report["untrained"]["fid"]
    assert report["trained"]["reconstruction"]["psnr"] > report["untrained"]["reconstruction"]["psnr"] + 10
    assert report["trained"]["reconstruction"]["lpips"] is None
    assert {"features: gallery", "images: ru"} <= set(given)


def test_styles_and_backgrounds_that_captions_name(reference: Reference) -> None:
    # An image of style 1 is framed in a brighter grey; thing 1 in Russian is drawn in the style asked for.
    palette = [(115, 115, 115), (140, 140, 140), (0, 0, 255)]
    requested = Backgrounds([f"thing 3 style {k}" for k in (0, 1, 1, 0)], [0, 1, 1, 2], palette)
    report = evaluate_embedded(
        replace(reference, backgrounds=requested), Subject(oracle), Measures(features), untrained=Subject(grey)
    )
    assert report["real"]["style"] == {"right": 1.0, "chance": 0.5, "images": 4}
    assert [report["trained"]["style"][language]["right"] for language in ("en", "ru")] == [1.0, 1.0]
    assert report["untrained"]["style"]["en"]["right"] == 0.5
    assert report["trained"]["background"] == {"right": 0.75, "chance": pytest.approx(1 / 3), "images": 4}


def test_real_images_of_another_style_are_the_yardstick(reference: Reference) -> None:
    report = evaluate_embedded(reference, Subject(oracle), Measures(features))
    other = report["real"]["retrieval_other_style"]
    # Here the styles differ in the frame only, so another style finds the concept always.
    assert (other["top1"], other["queries"]) == (1.0, 4)
    assert set(other["pairs"]) == {"flat -> noto", "noto -> flat"}
    assert "untrained" not in report
    assert "reconstruction" not in report["trained"]


def test_seeds_are_consecutive_and_images_repeat(reference: Reference) -> None:
    requested: list[int] = []

    def counting(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        requested.extend(seeds)
        return oracle(captions, seeds)

    evaluate_embedded(reference, Subject(counting), Measures(features, batch_size=3, seed=5))
    assert requested == [5, 6, 7, 8] * 2


def test_features_of_real_images_are_kept(reference: Reference, tmp_path: Path) -> None:
    shown: list[int] = []

    def counting(images: Tensor) -> Tensor:
        shown.append(len(images))
        return features(images)

    first = evaluate_embedded(reference, Subject(oracle), Measures(counting, cache=tmp_path))
    seen = sum(shown)
    assert evaluate_embedded(reference, Subject(oracle), Measures(counting, cache=tmp_path)) == first
    # The second time only the eight generated images are looked at.
    assert sum(shown) - seen == 8


def test_errors(reference: Reference) -> None:
    short = Reference(reference.held_out, {"en": ["one"]}, reference.trained, reference.gallery)
    with pytest.raises(DataError, match="1 captions in 'en', 4 held-out"):
        evaluate_embedded(short, Subject(oracle), Measures(features))
    with pytest.raises(DataError, match="no caption"):
        evaluate_embedded(
            Reference(reference.held_out, {}, reference.trained, reference.gallery), Subject(oracle), Measures(features)
        )
    with pytest.raises(DataError, match="4 images, 3 concepts"):
        RealImages(reference.held_out.pixels, torch.arange(3), torch.arange(4))
