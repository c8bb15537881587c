"""Builds the emoji image folder from npm packages: download, SVG rendering, join on code points.

    pip install resvg-py pillow
    python recipes/emoji/build.py out/emoji [--limit 40] [--size 128] [--packages folder-with-tgz]

Writes `images/*.webp` (RGBA), `metadata.jsonl`, `concepts.json` and `NOTICE`, the layout that `kandinsky train --recipe
emoji --data out/emoji` reads. `npm` is asked for the packages, so whatever registry it is configured for is used.
"""

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "uk", "zh")

GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals and nature",
    4: "food and drink",
    5: "travel and places",
    6: "activities",
    7: "objects",
    8: "symbols",
}
"""emojibase's groups, without skin tones and hair (2) and flags (9)."""


@dataclass(frozen=True)
class Style:
    """One set of drawings: its package, licence, and how a concept finds its drawing (`file`, `slug`, `chars`)."""

    name: str
    package: str
    licence: str
    lookup: str


STYLES = (
    Style("fluent-3d", "@lobehub/fluent-emoji-3d@1.1.0", "MIT", "file"),
    Style("fluent-color", "@iconify-json/fluent-emoji@1.2.7", "MIT", "slug"),
    Style("fluent-flat", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "slug"),
    Style("noto", "@iconify-json/noto@1.2.9", "Apache-2.0", "chars"),
    Style("noto-blob", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "slug"),
)

WORDS = ("emojibase-data@17.0.0", "cldr-annotations-full@48.2.0", "cldr-annotations-derived-full@48.2.0")

NOTICE = """Images and captions made by recipes/emoji come from:

Microsoft Fluent Emoji (styles fluent-3d, fluent-color, fluent-flat), MIT licence, packaged as
  @lobehub/fluent-emoji-3d 1.1.0, @iconify-json/fluent-emoji 1.2.7, @iconify-json/fluent-emoji-flat 1.2.6
Google Noto Emoji (styles noto, noto-blob), Apache-2.0 licence,
  packaged as @iconify-json/noto 1.2.9, @iconify-json/noto-v1 1.2.5
emojibase-data 17.0.0 (concepts and groups), MIT licence
Unicode CLDR annotations 48.2.0 (labels and tags), Unicode-3.0 licence

Keep this notice beside anything trained on them.
"""


def fetch(package: str, folder: Path) -> Path:
    """The tarball of `name@version` in `folder`, downloaded with `npm pack` unless it lies there already."""
    name, version = package.rsplit("@", 1)
    target = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not target.is_file():
        print(f"npm pack {package}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            subprocess.run(["npm", "pack", "--silent", package], cwd=fresh, check=True, stdout=subprocess.DEVNULL)
            os.replace(Path(fresh) / target.name, target)
    return target


def read_members(tarball: Path, pattern: str) -> dict[str, bytes]:
    """The files of an npm tarball whose path below `package/` matches; read in memory, nothing is extracted."""
    found = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = member.name.removeprefix("package/")
            if member.isfile() and re.fullmatch(pattern, path):
                stream = archive.extractfile(member)
                if stream is not None:
                    found[path] = stream.read()
    return found


def codepoints(text: str) -> str:
    """Upper case hexadecimal joined by `-`, without the variation selector FE0F."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def slug(label: str) -> str:
    """An icon set's name for a label: "woman’s hat" -> "womans-hat", "piñata" -> "pinata"."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "").replace("&", "and")).strip("-")


def is_test(style: str, key: str) -> bool:
    """Whether a (style, concept) pair is held out: 5 of 100, decided by SHA-256 of `style_codepoints`.

    A hash, not a draw: the split stays the same when concepts are added or the order changes.
    """
    return int(hashlib.sha256(f"{style}_{key}".encode()).hexdigest(), 16) % 100 < 5


def read_annotations(tarballs: dict[str, Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """language -> characters without U+FE0F -> CLDR's `{tts: [label], default: [tags]}`."""
    spoken: dict[str, dict[str, dict[str, Any]]] = {language: {} for language in LANGUAGES}
    for package, top in zip(WORDS[1:], ("annotations", "annotationsDerived"), strict=True):
        codes = "|".join(LANGUAGES)
        for path, data in read_members(tarballs[package], rf"{top}/({codes})/annotations\.json").items():
            table = spoken[path.split("/")[1]]
            for characters, entry in json.loads(data)[top]["annotations"].items():
                table.setdefault(characters.replace("\ufe0f", ""), entry)
    return spoken


def read_concepts(tarballs: dict[str, Path]) -> dict[str, Any]:
    """`{codepoints: {concept, group, captions}}` for all pictorial groups."""
    spoken = read_annotations(tarballs)
    (data,) = read_members(tarballs[WORDS[0]], r"en/data\.json").values()
    concepts = {}
    for entry in json.loads(data):
        if entry.get("group") not in GROUPS:
            continue
        key = codepoints(entry["hexcode"])
        characters = "".join(chr(int(point, 16)) for point in key.split("-"))
        captions = {}
        for language in LANGUAGES:
            annotation = spoken[language].get(characters, {})
            if annotation.get("tts"):
                captions[language] = {"label": annotation["tts"][0], "tags": annotation.get("default", [])}
        concepts[key] = {"captions": captions, "concept": entry["label"], "group": GROUPS[entry["group"]]}
    return dict(sorted(concepts.items()))


def svg_document(icon: dict[str, Any], defaults: dict[str, Any]) -> str:
    """An icon of an iconify set as a complete SVG."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", defaults["width"]), icon.get("height", defaults["height"])
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def render(svg: str, size: int) -> Image.Image:
    """Draws an SVG in the middle of size x size transparent pixels."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if drawn.size == (size, size):
        return drawn
    # A drawing that is not square keeps its proportions, so it comes back narrower or lower.
    frame = Image.new("RGBA", (size, size))
    frame.paste(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    return frame


def shrink(image: Image.Image, size: int) -> Image.Image:
    """All images are made at twice the size or more and shrunk alike, whatever drew them."""
    return image.resize((size, size), Image.Resampling.LANCZOS)


def drawings(
    style: Style, tarball: Path, concepts: dict[str, Any], size: int, limit: int | None
) -> Iterator[tuple[str, Image.Image]]:
    """Yields (codepoints, RGBA image) for every concept that the style draws, in the order of code points."""
    if style.lookup == "file":
        files = read_members(tarball, r"assets/.*\.webp")
        by_key = {codepoints(Path(path).stem): data for path, data in files.items()}
        for key in [key for key in concepts if key in by_key][:limit]:
            with Image.open(io.BytesIO(by_key[key])) as opened:
                yield key, shrink(opened.convert("RGBA"), size)
        return
    members = read_members(tarball, r"(icons|chars)\.json")
    icons = json.loads(members["icons.json"])
    bodies = icons["icons"]
    if style.lookup == "chars":
        names = {codepoints(points): name for points, name in json.loads(members["chars.json"]).items()}
    else:
        # Keyed by slug first: two labels with one slug must not both claim the drawing.
        names = {key: name for name, key in {slug(entry["concept"]): key for key, entry in concepts.items()}.items()}
    for key in [key for key in concepts if names.get(key) in bodies][:limit]:
        yield key, shrink(render(svg_document(bodies[names[key]], icons), 2 * size), size)


def write(path: Path, data: bytes) -> None:
    """Puts a file in place in one step, so that an interrupted build leaves no half image."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def build(target: Path, packages: Path, size: int, limit: int | None) -> int:
    """Builds the folder and returns how many images it holds."""
    packages.mkdir(parents=True, exist_ok=True)
    (target / "images").mkdir(parents=True, exist_ok=True)
    tarballs = {package: fetch(package, packages) for package in (*(style.package for style in STYLES), *WORDS)}
    concepts = read_concepts(tarballs)
    rows = []
    for style in STYLES:
        for key, image in drawings(style, tarballs[style.package], concepts, size, limit):
            name = f"images/{style.name}_{key}.webp"
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=95, method=4)
            write(target / name, buffer.getvalue())
            rows.append(
                {
                    "codepoints": key,
                    "file_name": name,
                    "licence": style.licence,
                    "source": style.package,
                    "split": "test" if is_test(style.name, key) else "train",
                    "style": style.name,
                }
            )
        print(f"{style.name}: {sum(row['style'] == style.name for row in rows)} images", file=sys.stderr)
    lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    write(target / "concepts.json", json.dumps(concepts, ensure_ascii=False, sort_keys=True).encode())
    write(target / "NOTICE", NOTICE.encode())
    # Last: a folder without metadata is not taken for a finished one.
    write(target / "metadata.jsonl", lines.encode())
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the emoji image folder from npm packages.")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many images of each style")
    parser.add_argument(
        "--packages", type=Path, default=None, help="where tarballs are kept (default: TARGET/packages)"
    )
    options = parser.parse_args()
    count = build(options.target, options.packages or options.target / "packages", options.size, options.limit)
    print(f"{count} images in {options.target}")


if __name__ == "__main__":
    main()
