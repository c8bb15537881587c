"""Things in colours: what pictures get, what captions say of it, and which captions are true of which."""

import random
from pathlib import Path

import pytest
import torch

from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.training.data.captions import CaptionGrammar, CaptionMix, Tint
from kandinsky.training.data.pictures import Augmentation, PictureSet, open_pictures
from kandinsky.training.objectives.contrastive import matches
from tests.training_data.folders import emoji_folder

GROUPS = ("core",)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    folder = emoji_folder(tmp_path_factory.mktemp("tints") / "set", styles=("noto", "flat"))
    mix = CaptionMix(languages={"en": 0.5, "ru": 0.3, "hi": 0.2}, own_colour=0.5, style=0.0, tags=0.0)
    return open_pictures(folder, 64, groups=GROUPS, captions=mix, measure_colours=True)


def test_a_given_colour_is_seen_and_named(coloured: PictureSet) -> None:
    rows = list(range(len(coloured))) * 20
    draws = torch.Generator().manual_seed(0)
    batch = coloured.batch(rows, draws, Augmentation(white=1.0, recolour=1.0))
    assert bool((batch.tints >= len(NAMES)).all())
    assert bool(batch.names_colour.all())
    assert set(batch.languages) == {"en", "ru"}, "the other languages have no words for it"
    plain = coloured.batch(rows, torch.Generator().manual_seed(0), Augmentation(white=1.0))
    assert not torch.equal(plain.pixels, batch.pixels)
    red = NAMES.index("red") + len(NAMES)
    middle = batch.pixels[batch.tints == red][:, :, 32, 16].mean(dim=0)
    assert middle[0] > 0.3 > -0.2 > middle[1]
    says = [text for text, tint in zip(batch.captions, batch.tints.tolist(), strict=True) if tint == red]
    assert says
    assert all("red" in text or "красн" in text for text in says)


def test_own_colours_are_measured_and_named_now_and_then(coloured: PictureSet) -> None:
    assert coloured.palette is not None
    batch = coloured.batch(list(range(len(coloured))) * 20, torch.Generator().manual_seed(0))
    assert bool((batch.tints < len(NAMES)).all())
    known = batch.tints >= 0
    assert 0 < int(batch.names_colour[known].sum()) < int(known.sum())
    assert not bool(batch.names_colour[~known].any())
    part = coloured.where(coloured.style_ids == 0)
    assert part.palette is not None
    assert len(part.palette.colours) == len(part)


def test_without_a_palette_nothing_is_drawn_for_it(tmp_path: Path) -> None:
    folder = emoji_folder(tmp_path / "set")
    pictures = open_pictures(folder, 16, groups=GROUPS)
    draws = torch.Generator().manual_seed(0)
    batch = pictures.batch([0, 1], draws, Augmentation(recolour=1.0))
    assert batch.tints.tolist() == [-1, -1]
    assert not bool(batch.names_colour.any())


def test_common_things_are_seen_more_often(tmp_path: Path) -> None:
    folder = emoji_folder(tmp_path / "set")
    once, often = (open_pictures(folder, 16, groups=GROUPS, common=count) for count in (1, 3))
    assert len(once) == 3
    assert len(often) == 9
    assert sorted(set(often.files.tolist())) == once.files.tolist()


def test_words_for_other_colours_leave_the_caption(coloured: PictureSet) -> None:
    mix = CaptionMix(own_colour=1.0, style=0.0, tags=0.0, plain=0.0)
    grammar = CaptionGrammar(coloured.folder.concepts, mix)
    apple = next(i for i, one in enumerate(grammar.concepts) if one.name == "red apple")
    rng = random.Random(0)
    blue = Tint("blue", given=True)
    texts = {
        language: {grammar.caption(apple, rng, tint=blue, language=language).text for _ in range(60)}
        for language in ("en", "ru", "de", "zh")
    }
    assert not any("red" in text or "красн" in text for text in texts["en"] | texts["ru"])
    assert any("blue apple" in text for text in texts["en"])
    assert "синее яблоко" in texts["ru"]
    assert "blauer Apfel" in texts["de"]
    assert any("蓝色" in text for text in texts["zh"])
    pure = CaptionGrammar(coloured.folder.concepts, CaptionMix(own_colour=1.0, colour_alone=1.0, style=0.0))
    assert pure.caption(apple, rng, tint=blue, language="en").text == "blue"


def test_an_unnamed_colour_is_the_own_one() -> None:
    blue, red = NAMES.index("blue"), NAMES.index("red")
    no, none = torch.zeros(4, dtype=torch.bool), torch.full((4,), -1)
    found = matches(
        concepts=torch.zeros(4, dtype=torch.int64),
        beside=none,
        styles=none,
        backgrounds=none,
        names_style=no,
        names_background=no,
        captions=("apple", "red apple", "blue apple", "red fruit"),
        tints=torch.tensor([red, red, blue + len(NAMES), red + len(NAMES)]),
        names_colour=torch.tensor([False, True, True, True]),
    )
    assert found.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1]]
