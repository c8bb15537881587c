"""Things in colours: what images get, what captions say of it, and which captions are true of which."""

import random
from pathlib import Path

import pytest
import torch

from kandinsky.core.errors import ConfigError
from kandinsky.recipes.emoji.captions import CaptionGrammar, CaptionMix, Tint, tints_of
from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.recipe import grammar_of, read_emoji
from kandinsky.recipes.emoji.recolour import Palette
from kandinsky.training.data.caption import Caption
from kandinsky.training.data.images import Augmentation, ImageSet, open_images
from tests.training_data.folders import emoji_folder

GROUPS = ("core",)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = emoji_folder(tmp_path_factory.mktemp("tints") / "set", styles=("noto", "flat"))
    mix = CaptionMix(languages={"en": 0.5, "ru": 0.3, "hi": 0.2}, own_colour=0.5, style=0.0, tags=0.0)
    return open_images(read_emoji(folder, GROUPS, mix=mix, measure_colours=True), 64)


def test_a_given_colour_is_seen_and_named(coloured: ImageSet) -> None:
    rows = list(range(len(coloured))) * 20
    draws = torch.Generator().manual_seed(0)
    batch = coloured.batch(rows, draws, Augmentation(white=1.0, recolour=1.0))
    assert bool((tints_of(batch.facts) >= len(NAMES)).all())
    assert bool(batch.names("tints").all())
    languages = {caption.language for caption in batch.said}
    assert languages == {"en", "ru"}, "the other languages have no words for it"
    plain = coloured.batch(rows, torch.Generator().manual_seed(0), Augmentation(white=1.0))
    assert not torch.equal(plain.pixels, batch.pixels)
    red = NAMES.index("red") + len(NAMES)
    middle = batch.pixels[tints_of(batch.facts) == red][:, :, 32, 16].mean(dim=0)
    assert middle[0] > 0.3 > -0.2 > middle[1]
    tints = tints_of(batch.facts).tolist()
    says = [text for text, tint in zip(batch.captions, tints, strict=True) if tint == red]
    assert says
    assert all("red" in text or "красн" in text for text in says)


def test_own_colours_are_measured_and_named_now_and_then(coloured: ImageSet) -> None:
    assert isinstance(coloured.painter, Palette)
    batch = coloured.batch(list(range(len(coloured))) * 20, torch.Generator().manual_seed(0))
    assert bool((tints_of(batch.facts) < len(NAMES)).all())
    known = tints_of(batch.facts) >= 0
    assert 0 < int(batch.names("tints")[known].sum()) < int(known.sum())
    assert not bool(batch.names("tints")[~known].any())
    part = coloured.where(coloured.style_ids == 0)
    assert isinstance(part.painter, Palette)
    assert len(part.painter.colours) == len(part)


def test_without_measured_colours_none_are_given(tmp_path: Path) -> None:
    images = open_images(read_emoji(emoji_folder(tmp_path / "set"), GROUPS), 16)
    draws = torch.Generator().manual_seed(0)
    batch = images.batch([0, 1], draws)
    assert tints_of(batch.facts).tolist() == [-1, -1]
    assert not bool(batch.names("tints").any())
    with pytest.raises(ConfigError, match="recolour needs a recipe"):
        images.batch([0, 1], draws, Augmentation(recolour=1.0))


def test_common_things_are_seen_more_often(tmp_path: Path) -> None:
    folder = emoji_folder(tmp_path / "set")
    once, often = (open_images(read_emoji(folder, GROUPS, common=count), 16) for count in (1, 3))
    assert len(once) == 3
    assert len(often) == 9
    assert sorted(set(often.files.tolist())) == once.files.tolist()


def test_words_for_other_colours_leave_the_caption(coloured: ImageSet) -> None:
    mix = CaptionMix(own_colour=1.0, style=0.0, tags=0.0, plain=0.0)
    grammar = CaptionGrammar(grammar_of(coloured.folder).concepts, mix)
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
    pure = CaptionGrammar(grammar_of(coloured.folder).concepts, CaptionMix(own_colour=1.0, colour_alone=1.0, style=0.0))
    assert pure.caption(apple, rng, tint=blue, language="en").text == "blue"


def test_an_unnamed_colour_is_the_own_one() -> None:
    blue, red = NAMES.index("blue"), NAMES.index("red")
    none = torch.full((4,), -1)
    facts = {"concepts": torch.zeros(4, dtype=torch.int64), "beside": none, "styles": none, "backgrounds": none}
    facts["tints"] = torch.tensor([red, red, blue + len(NAMES), red + len(NAMES)])
    texts = ("apple", "red apple", "blue apple", "red fruit")
    said = [Caption(text, names=frozenset({"tints"} if number else ())) for number, text in enumerate(texts)]
    found = CaptionGrammar([]).matches(facts, said)
    assert found.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1]]
