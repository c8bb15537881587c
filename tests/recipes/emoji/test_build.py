"""The emoji recipe on packages of two drawings: names, joins, the split, and that the result opens."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from kandinsky.recipes.emoji.recipe import open_emoji

RECIPE = Path(__file__).parents[3] / "recipes" / "emoji" / "build.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("emoji_build", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emoji_build"] = module
    spec.loader.exec_module(module)
    return module


def image_bytes(colour: str, size: tuple[int, int], form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", size, colour).save(buffer, form, lossless=True)
    return buffer.getvalue()


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for resvg: draws green, keeps the proportions of the view box, remembers what it was given."""
    drawn: list[str] = []

    def svg_to_bytes(*, svg_string: str, width: int, height: int) -> bytes:
        drawn.append(svg_string)
        box = [float(n) for n in svg_string.split('viewBox="')[1].split('"', maxsplit=1)[0].split()]
        scale = min(width / box[2], height / box[3])
        return image_bytes("green", (round(box[2] * scale), round(box[3] * scale)), "PNG")

    module = ModuleType("resvg_py")
    module.svg_to_bytes = svg_to_bytes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "resvg_py", module)
    return drawn


def pack(folder: Path, recipe: ModuleType, package: str, files: dict[str, bytes]) -> None:
    name, version = package.rsplit("@", 1)
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz", "w:gz") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def packages(tmp_path: Path, recipe: ModuleType) -> Path:
    folder = tmp_path / "packages"
    webp = image_bytes("red", (32, 32), "WEBP")
    pack(folder, recipe, recipe.STYLES[0].package, {"assets/1f34e.webp": webp, "assets/2764-fe0f.webp": webp})
    icons = {"width": 32, "height": 32, "icons": {"red-apple": {"body": "<a/>"}, "womans-hat": {"body": "<h/>"}}}
    wide = {"width": 128, "height": 64, "icons": {"apple_drawing": {"body": "<n/>"}}}
    for style in recipe.STYLES[1:]:
        chars = {"1f34e": "apple_drawing"} if style.lookup == "chars" else {}
        body = wide if style.lookup == "chars" else {**icons, "aliases": {"red-heart": {"parent": "red-apple"}}}
        pack(folder, recipe, style.package, {"icons.json": dump(body), "chars.json": dump(chars)})
    entries = [
        {"hexcode": "1F34E", "label": "red apple", "group": 4},
        {"hexcode": "2764-FE0F", "label": "red heart", "group": 0},
        {"hexcode": "1F452", "label": "woman’s hat", "group": 7},
        {"hexcode": "1F1E6", "label": "regional indicator A"},
        {"hexcode": "1F3F4", "label": "black flag", "group": 9},
    ]
    pack(folder, recipe, recipe.WORDS[0], {"en/data.json": dump(entries)})
    apple = {"🍎": {"default": ["apple"], "tts": ["red apple"]}, "❤️": {"default": ["heart"], "tts": ["red heart"]}}
    plain = {"annotations": {"annotations": apple}}
    pack(folder, recipe, recipe.WORDS[1], {f"annotations/{c}/annotations.json": dump(plain) for c in ("en", "xx")})
    hat = {"annotationsDerived": {"annotations": {"👒": {"tts": ["woman’s hat"]}}}}
    pack(folder, recipe, recipe.WORDS[2], {"annotationsDerived/en/annotations.json": dump(hat)})
    return folder


def test_names(recipe: ModuleType) -> None:
    assert recipe.slug("woman’s hat") == "womans-hat"
    assert recipe.slug("piñata") == "pinata"
    assert recipe.slug("family: man, boy") == "family-man-boy"
    assert recipe.codepoints("0023-fe0f-20e3") == "0023-20E3"


def test_split_is_fixed_for_all_time(recipe: ModuleType) -> None:
    held = [("fluent-3d", "1F30A"), ("fluent-3d", "1F34C"), ("fluent-3d", "0033-20E3")]
    assert all(recipe.is_test(*pair) for pair in held)
    assert not any(recipe.is_test("noto", key) for key in ("0023-20E3", "1F34E"))
    share = sum(recipe.is_test("style", f"{n:04X}") for n in range(4000)) / 4000
    assert 0.035 < share < 0.065


def test_builds_a_folder_that_opens(recipe: ModuleType, packages: Path, renderer: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert recipe.build(target, packages, 16, None) == 9
    concepts = json.loads((target / "concepts.json").read_text())
    assert {key: entry["group"] for key, entry in concepts.items()} == {
        "1F34E": "food and drink",
        "1F452": "objects",
        "2764": "smileys",
    }
    assert concepts["2764"]["captions"] == {"en": {"label": "red heart", "tags": ["heart"]}}
    assert concepts["1F452"]["captions"] == {"en": {"label": "woman’s hat", "tags": []}}
    rows = [json.loads(line) for line in (target / "metadata.jsonl").read_text().splitlines()]
    assert [(row["style"], row["codepoints"]) for row in rows] == [
        ("fluent-3d", "1F34E"),
        ("fluent-3d", "2764"),
        ("fluent-color", "1F34E"),
        ("fluent-color", "1F452"),
        ("fluent-flat", "1F34E"),
        ("fluent-flat", "1F452"),
        ("noto", "1F34E"),
        ("noto-blob", "1F34E"),
        ("noto-blob", "1F452"),
    ]
    assert all(row["split"] in ("train", "test") and (target / row["file_name"]).is_file() for row in rows)
    assert 'viewBox="0 0 128 64"' in "".join(renderer)
    assert "Apache-2.0" in (target / "NOTICE").read_text()
    assert not list(target.rglob("*.part"))
    images = open_emoji(target, 16, split="all", groups=("all",))
    assert len(images) == 9
    wide = images.planes[torch.tensor([6])][0]
    # A drawing twice as wide as high stands in the middle, with nothing above and below.
    assert int(wide[3, 8].min()) > 250
    assert int(wide[3, 1].max()) <= 2


def test_limit(recipe: ModuleType, packages: Path, renderer: list[str], tmp_path: Path) -> None:
    assert recipe.build(tmp_path / "out", packages, 16, 1) == 5
