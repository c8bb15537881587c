"""Colours of things: named, measured, changed."""

import torch

from kandinsky.recipes.emoji.colours import NAMES, PROTOTYPE_IDS, PROTOTYPES, lab_of, named, rgb_of, target_lab
from kandinsky.recipes.emoji.recolour import measured, recoloured
from kandinsky.recipes.emoji.vocabulary import COLOURS

RED, BLUE, GREY = (NAMES.index(name) for name in ("red", "blue", "grey"))


def layer(*parts: tuple[tuple[int, int, int], int]) -> torch.Tensor:
    """A premultiplied image (4, 64, 64) of upright stripes of (colour, width), transparent to the right."""
    image, left = torch.zeros(4, 64, 64), 0
    for colour, width in parts:
        image[:3, :, left : left + width] = torch.tensor(colour, dtype=torch.float32)[:, None, None]
        image[3, :, left : left + width] = 255
        left += width
    return image


def test_lab_goes_there_and_back() -> None:
    rgb = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rgb_of(lab_of(rgb)), rgb, atol=2e-4, rtol=0)
    white = lab_of(torch.ones(3))
    torch.testing.assert_close(white, torch.tensor([100.0, 0.0, 0.0]), atol=1e-2, rtol=0)


def test_names_are_those_of_backgrounds_and_name_themselves() -> None:
    assert tuple(COLOURS) == NAMES
    assert torch.equal(named(PROTOTYPES), PROTOTYPE_IDS)
    assert named(lab_of(torch.tensor([200.0, 30, 30]) / 255)) == RED


def test_the_dominant_colour_is_measured_with_its_shades() -> None:
    lit_and_shaded = layer(((230, 60, 60), 20), ((170, 30, 30), 20), ((255, 255, 255), 10))
    two = layer(((222, 48, 44), 15), ((44, 96, 220), 15), ((66, 168, 78), 15))
    nothing = torch.zeros(4, 64, 64)
    palette = measured(torch.stack([lit_and_shaded, two, nothing]))
    assert palette.colours.tolist() == [RED, -1, -1]
    assert palette.changeable.tolist() == [True, False, False]


def test_a_thing_takes_another_colour_and_keeps_shades_and_other_colours() -> None:
    images = torch.stack([layer(((230, 60, 60), 20), ((170, 30, 30), 20), ((255, 255, 255), 10))] * 3)
    palette = measured(images)
    found = recoloured(images, palette, torch.tensor([BLUE, GREY, -1]))
    assert torch.equal(found[2], images[2])
    assert torch.equal(found[:, 3], images[:, 3])
    pixel = found[:, :3, 32] / 255
    assert named(lab_of(pixel[0, :, 10])) == BLUE
    assert named(lab_of(pixel[1, :, 10])) == GREY
    assert float(pixel[0, :, 30].sum()) < float(pixel[0, :, 10].sum())
    torch.testing.assert_close(found[0, :3, 32, 45], torch.full((3,), 255.0), atol=6, rtol=0)
    again = measured(found[:2])
    assert again.colours.tolist() == [BLUE, GREY]


def test_targets_are_the_first_shades() -> None:
    assert named(target_lab(BLUE)) == BLUE
