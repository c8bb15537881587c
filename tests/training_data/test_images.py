"""Batches: what is filtered, what pixels are composited, what augmentations do, and that all of it can be
repeated.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky import recipes
from kandinsky.core.errors import ConfigError, DataError
from kandinsky.recipes.emoji.concepts import wasteful
from kandinsky.recipes.emoji.recipe import concept_of, grammar_of, open_emoji, read_emoji
from kandinsky.recipes.emoji.vocabulary import COLOUR_WORDS, COLOURS
from kandinsky.training.data.compose import composite, place
from kandinsky.training.data.decoded_cache import decoded
from kandinsky.training.data.folder import read_folder
from kandinsky.training.data.images import AUGMENTATIONS, Augmentation, ImageSet, open_images
from kandinsky.training.recipe import load_recipe
from tests.training_data.folders import emoji_folder, half_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return emoji_folder(tmp_path / "set")


@pytest.fixture
def everything(root: Path) -> ImageSet:
    return open_emoji(root, 16, groups=("all",), keep_wasteful=True)


def names(images: ImageSet) -> set[tuple[str, str]]:
    return {(concept_of(images, i).name, images.folder.styles[int(images.style_ids[i])]) for i in range(len(images))}


def test_training_never_sees_the_held_out(root: Path) -> None:
    assert ("red apple", "noto") not in names(open_emoji(root, 16, groups=("all",)))
    assert names(open_emoji(root, 16, split="test")) == {("red apple", "noto")}
    assert ("red apple", "noto") in names(open_emoji(root, 16, split="all"))


def test_groups_and_wasteful_signs(root: Path) -> None:
    assert {name for name, _ in names(open_emoji(root, 16))} == {"red apple", "cat face"}
    assert {name for name, _ in names(open_emoji(root, 16, keep_wasteful=True))} == {
        "red apple",
        "cat face",
        "one o’clock",
    }
    assert {name for name, _ in names(open_emoji(root, 16, groups=("people",)))} == {"backhand index pointing right"}
    assert {c.key for c in grammar_of(read_emoji(root, ("all",))).concepts if wasteful(c)} == {"1F550", "0031-20E3"}
    assert names(open_emoji(root, 16, styles=("noto",))) == {("cat face", "noto")}
    with pytest.raises(ConfigError, match=r"'poeple'.*Did you mean 'people'"):
        open_emoji(root, 16, groups=("poeple",))
    with pytest.raises(ConfigError, match="'cubism'"):
        open_emoji(root, 16, styles=("cubism",))
    with pytest.raises(DataError, match="No image of split 'validation'"):
        open_emoji(root, 16, split="validation")


def test_pixels_are_laid_over_the_named_colour(everything: ImageSet) -> None:
    colours = list(COLOURS)
    batch = everything.batch(range(8), torch.Generator().manual_seed(0), Augmentation(white=0.3))
    assert batch.pixels.shape == (8, 3, 16, 16)
    assert batch.pixels.dtype == torch.float32
    for i in range(8):
        wanted = torch.tensor(COLOURS[colours[int(batch.facts["backgrounds"][i])]]) / 127.5 - 1
        assert torch.allclose(batch.pixels[i, :, :, 8:], wanted[:, None, None].expand(-1, 16, 8), atol=1e-6)
        colour = everything.planes[torch.tensor([i])][0, :3, 0, 0] / 127.5 - 1
        assert torch.allclose(batch.pixels[i, :, :, :8], colour[:, None, None].expand(-1, 16, 8), atol=1e-6)
    assert len(set(batch.facts["backgrounds"].tolist())) > 2


def test_half_transparent_pixels_mix(tmp_path: Path) -> None:
    layers = torch.tensor([100.0, 50.0, 0.0, 128.0])[None, :, None, None].expand(1, 4, 2, 2).clone()
    blue = list(COLOURS).index("blue")
    mixed = (composite(layers, torch.tensor([blue])) + 1) * 127.5
    share = 1 - 128 / 255
    wanted = torch.tensor([100 + 44 * share, 50 + 96 * share, 220 * share])
    assert torch.allclose(mixed[0, :, 0, 0], wanted, atol=1e-3)


def test_a_batch_is_a_function_of_the_generator(everything: ImageSet) -> None:
    options = AUGMENTATIONS["full"]
    generator = torch.Generator().manual_seed(3)
    everything.batch(range(4), generator, options)
    state = generator.get_state()
    first = everything.batch(range(4), generator, options)
    generator.set_state(state)
    again = everything.batch(range(4), generator, options)
    assert torch.equal(first.pixels, again.pixels)
    assert first.said == again.said
    other = everything.batch(range(4), torch.Generator().manual_seed(4), options)
    assert other.captions != first.captions


def test_mirror_swaps_the_sides_but_never_of_what_names_one(everything: ImageSet) -> None:
    batch = everything.batch(
        range(len(everything)), torch.Generator().manual_seed(0), Augmentation(mirror=1.0, white=1.0)
    )
    for i in range(len(everything)):
        name = concept_of(everything, i).name
        assert bool(batch.facts["mirrored"][i]) == (name not in ("backhand index pointing right", "keycap: 1"))
        left_is_white = bool((batch.pixels[i, :, :, 0] == 1).all())
        assert left_is_white == bool(batch.facts["mirrored"][i])


def test_pairs_stand_side_by_side(everything: ImageSet) -> None:
    batch = everything.batch(
        range(len(everything)), torch.Generator().manual_seed(0), Augmentation(pair=1.0, white=1.0)
    )
    paired = batch.facts["beside"] >= 0
    assert bool(paired.any())
    assert bool((batch.facts["beside"] != batch.facts["concepts"]).all())
    white = torch.ones(3)
    for i in torch.nonzero(paired).flatten().tolist():
        image = batch.pixels[i]
        # Half images at half size: colour in columns 0 to 3 and 8 to 11, in the middle rows.
        assert torch.equal(image[:, 0, 0], white)
        assert not torch.equal(image[:, 8, 1], white)
        assert not torch.equal(image[:, 8, 9], white)
        assert torch.equal(image[:, 8, 6], white)


def test_placing_keeps_the_ink() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = torch.rand((3, 4, 12, 12), generator=generator)
    scale = torch.tensor([1.0, 0.5, 0.8])
    offset = torch.tensor([[0.0, 0.0], [0.5, 0.25], [0.1, 0.2]])
    placed = place(layers, scale, offset)
    assert torch.allclose(placed[0], layers[0], atol=1e-6)
    ink = layers.sum(dim=(2, 3)) * scale[:, None] ** 2
    assert torch.allclose(placed.sum(dim=(2, 3)), ink, rtol=1e-4)
    blocks = layers[1].reshape(4, 6, 2, 6, 2).mean(dim=(2, 4))
    assert torch.allclose(placed[1, :, 6:, 3:9], blocks, atol=1e-5)


def test_plain_images(everything: ImageSet) -> None:
    white = everything.plain([0, 1])
    assert bool((white[:, :, :, 8:] == 1).all())
    black = everything.plain([0], "black")
    assert bool((black[0, :, :, 8:] == -1).all())
    with pytest.raises(ConfigError, match=r"'vhite'.*'white'"):
        everything.plain([0], "vhite")


def test_decoding_is_kept_and_follows_the_content(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = decoded(read_emoji(root, ("all",)), 16, cache).copy()
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    assert np.array_equal(decoded(read_emoji(root, ("all",)), 16, cache), first)
    assert kept.stat().st_mtime_ns == stamp
    half_image(colour=(1, 2, 3)).save(root / "images" / "noto_1F431.png")
    changed = decoded(read_emoji(root, ("all",)), 16, cache)
    assert not np.array_equal(changed, first)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cache_is_made_again(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = decoded(read_emoji(root, ("all",)), 16, cache).copy()
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(decoded(read_emoji(root, ("all",)), 16, cache), first)


def test_resizing_makes_no_dark_fringe(tmp_path: Path) -> None:
    half_image(64, (255, 255, 255)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("white", encoding="utf-8")
    pixels = decoded(read_folder(tmp_path), 8, tmp_path / "cache")[0]
    # White premultiplied by alpha is alpha, at the edge too.
    assert np.abs(pixels[:3].astype(int) - pixels[3:].astype(int)).max() <= 1


def test_opaque_photographs_are_cut_square_and_keep_no_colour(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (10, 200, 30)).save(tmp_path / "photo.jpg")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "photo.jpg", "caption": "green"}))
    images = open_images(tmp_path, 8)
    batch = images.batch([0, 0], torch.Generator().manual_seed(0), AUGMENTATIONS["full"])
    assert batch.facts["backgrounds"].tolist() == [-1, -1]
    assert batch.captions == ("green", "green")
    assert torch.allclose((batch.pixels.mean(dim=(0, 2, 3)) + 1) * 127.5, torch.tensor([10.0, 200.0, 30.0]), atol=3)


def test_bad_images_and_sizes_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("not an image")
    (tmp_path / "bad.txt").write_text("x")
    with pytest.raises(DataError, match=r"bad\.png"):
        open_images(tmp_path, 16)
    with pytest.raises(DataError, match="4 px"):
        open_images(tmp_path, 4)


def test_a_set_can_be_split(everything: ImageSet) -> None:
    part = everything.where(everything.style_ids == 0)
    assert len(part) == 5
    assert torch.equal(part.plain([0]), everything.plain([int(torch.nonzero(everything.style_ids == 0)[0])]))
    assert torch.equal(part.to("cpu").plain([1]), part.plain([1]))


def test_a_batch_knows_what_its_captions_name(everything: ImageSet) -> None:
    batch = everything.batch(range(len(everything)), torch.Generator().manual_seed(0))
    assert batch.names("styles").dtype == batch.names("backgrounds").dtype == torch.bool
    assert batch.names("styles").shape == batch.facts["concepts"].shape
    again = everything.batch(range(len(everything)), torch.Generator().manual_seed(0))
    assert torch.equal(again.names("backgrounds"), batch.names("backgrounds"))
    named = [
        any(colour in caption.text for colour in COLOUR_WORDS[caption.language].values()) for caption in batch.said
    ]
    assert all(found for found, says in zip(named, batch.names("backgrounds").tolist(), strict=True) if says)


def test_pixels_lie_in_one_way_decoded_or_from_the_cache(tmp_path: Path) -> None:
    emoji_folder(tmp_path / "set")
    first, second = (open_emoji(tmp_path / "set", 16, split="all", groups=("all",)) for _ in range(2))
    rows = torch.tensor([3, 0])
    assert first.planes[rows].is_contiguous()
    assert second.planes[rows].is_contiguous()
    assert torch.equal(first.planes[rows], second.planes[rows])


def test_captions_of_a_user_stay_as_they_are_written(tmp_path: Path) -> None:
    """No background is named, and no caption is taken for the code point of a thing that shows nothing."""
    for number, caption in enumerate(("красная игрушка", "2650", "31-20E3", "a toy on white")):
        half_image().save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption, encoding="utf-8")
    images = open_images(tmp_path, 16)
    batch = images.batch([0, 1, 2, 3] * 8, torch.Generator().manual_seed(0), AUGMENTATIONS["colour"])
    assert batch.captions == ("красная игрушка", "2650", "31-20E3", "a toy on white") * 8
    assert len(set(batch.facts["backgrounds"].tolist())) > 2
    # The recipe's grammar was asked for: it names backgrounds, and drops nothing either.
    requested = open_emoji(tmp_path, 16)
    assert len(requested) == 4
    named = requested.batch([1] * 8, torch.Generator().manual_seed(0), Augmentation(white=0.0)).captions
    assert any("background" in caption or "on " in caption for caption in named)


@pytest.mark.parametrize("name", ["emojis", "emoji.captions"])
def test_a_recipe_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no recipe '{name}'"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("import a_package_that_is_nowhere", ModuleNotFoundError, "a_package_that_is_nowhere"),
        ("import json\n\njson.gone()", AttributeError, "gone"),
    ],
)
def test_a_fault_inside_a_recipe_is_shown(
    text: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    (tmp_path / "faulty.py").write_text(text)
    with pytest.raises(kind, match=message):
        load_recipe("faulty")
