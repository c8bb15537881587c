"""The request inside the image: what is needed to repeat it, in our own words and in those other tools read.

PNG has two text chunks: `kandinsky`, our JSON, and `parameters`, the one-line summary that the Stable Diffusion web
interfaces began and most viewers show. JPEG and WebP hold the same two as XMP and as the EXIF user comment.
"""

import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kandinsky.core.errors import OutputError, RequestError, nearest
from kandinsky.core.files import check_writable, write_atomically
from kandinsky.core.image_files import open_image_file
from kandinsky.core.untrusted_text import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from kandinsky.core.events import Result

CHUNK = "kandinsky"
SUMMARY_CHUNK = "parameters"
LAYOUT = 1
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

# EXIF tags: the sub-directory with the user comment, the comment itself, and the software that made the image.
EXIF_DETAILS, USER_COMMENT, SOFTWARE = 0x8769, 0x9286, 0x0131
COMMENT_IS_UNICODE = b"UNICODE\x00"


@dataclass(frozen=True)
class Metadata:
    """What repeats one image: its own request (`Request.to_json`, count 1), the model and the other load arguments.

    `batch` is how many images were computed together with it: alone (1) means that the same machine repeats it to the
    last bit.
    """

    request: dict[str, Any]
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    batch: int = 1


def library_version() -> str:
    """The version of the installed distribution; "0" when run from a bare source folder."""
    try:
        return version("kandinsky-diffusion")
    except PackageNotFoundError:
        return "0"


def metadata_of(result: "Result", index: int) -> Metadata:
    """The metadata of image `index` of a result."""
    alone = single(result.request, index)
    return Metadata(alone, result.model, dict(result.settings), library_version(), result.batch or len(result.images))


def single(data: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The stored, filled request that asks for image `index` of a batch alone."""
    from kandinsky.core.requests import EFFECTIVE_GUIDANCE, per_prompt, seed_of

    count, each = int(data["count"]), (*per_prompt(), EFFECTIVE_GUIDANCE)
    alone = {
        name: value[index // count] if isinstance(value, list) and name in each else value
        for name, value in data.items()
    }
    return alone | {"seed": seed_of(data["seed"], index, count), "count": 1}


def check_image_path(path: str | Path) -> Path:
    """Makes sure, before the work, that an image can be written at `path`: a known suffix, a folder that takes files.

    Raises OutputError otherwise.
    """
    _format_of(Path(path))
    return check_writable(path)


def check_suffix(path: str | Path) -> None:
    """Raises OutputError for a suffix of no image format that can be written."""
    _format_of(Path(path))


def _format_of(path: Path) -> str:
    if (suffix := path.suffix.lower()) not in FORMATS:
        raise OutputError(f"{path.name} has no image format.", nearest(suffix, FORMATS))
    return FORMATS[suffix]


def encode_image(image: "Image", name: str | Path, metadata: Metadata | None = None) -> bytes:
    """An image in the format of the suffix of `name` (.png, .jpg, .webp), with its metadata.

    The same image and metadata give the same bytes. Raises OutputError when the suffix is unknown, or when the
    metadata is too long for the format.
    """
    target, buffer = Path(name), io.BytesIO()
    kind = _format_of(target)
    quality = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}[kind]
    stored = {} if metadata is None else _png_options(metadata) if kind == "PNG" else _exif_options(metadata)
    try:
        image.save(buffer, format=kind, **quality, **stored)
    except (ValueError, OSError) as error:
        raise OutputError(f"{target.name} cannot be encoded ({error}).", "Use .png instead.") from error
    return buffer.getvalue()


def write_image(image: "Image", path: str | Path, metadata: Metadata | None = None, *, replace: bool = True) -> Path:
    """Writes an image in one step, as `encode_image` does it; OutputError also where the place cannot be written.

    Raises ExistsError unless it may `replace` a file.
    """
    return write_atomically(path, encode_image(image, path, metadata), replace=replace)


def _as_json(metadata: Metadata) -> str:
    return json.dumps({"layout": LAYOUT, **vars(metadata)}, ensure_ascii=False, allow_nan=False)


def _png_options(metadata: Metadata) -> dict[str, object]:
    from PIL.PngImagePlugin import PngInfo

    chunks, text = PngInfo(), _as_json(metadata)
    # iTXt is UTF-8; the older tEXt is Latin-1 only. Long ones (embeddings) are compressed.
    chunks.add_itxt(CHUNK, text, zip=len(text) > 4096)
    chunks.add_itxt(SUMMARY_CHUNK, summary(metadata))
    return {"pnginfo": chunks}


def _exif_options(metadata: Metadata) -> dict[str, object]:
    from PIL.Image import Exif

    exif = Exif()
    exif[SOFTWARE] = f"kandinsky {metadata.version}"
    exif.get_ifd(EXIF_DETAILS)[USER_COMMENT] = COMMENT_IS_UNICODE + summary(metadata).encode("utf-16-be")
    value = html.escape(_as_json(metadata), quote=True).replace("\n", "&#10;")
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:{CHUNK}="urn:kandinsky:request:{LAYOUT}" {CHUNK}:request="{value}"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    return {"exif": exif.tobytes(), "xmp": packet.encode()}


def read_metadata(path: str | Path) -> Metadata:
    """Reads back what `write_image` stored.

    Raises RequestError when there is no such image, or when it holds no request of this library.
    """
    with open_image_file(path) as image:
        image.load()  # text chunks may come after the pixels
        return stored_in(image, path)


def stored_in(image: "Image", name: str | Path) -> Metadata:
    """As `read_metadata`, of an image that is loaded."""
    stored = image.info.get(CHUNK) or _from_xmp(image.info.get("xmp"))
    if stored is None:
        raise RequestError(
            f"{name} does not hold the request that made it.", "Editors and web sites often remove metadata."
        )
    return _parse(str(stored), name)


def _from_xmp(packet: object) -> str | None:
    if isinstance(packet, bytes):
        packet = packet.decode("utf-8", "replace")
    if not isinstance(packet, str):
        return None
    match = re.search(rf'\b{CHUNK}:request="([^"]*)"', packet)
    return html.unescape(match[1]) if match else None


def _object(stored: str) -> dict[str, Any]:
    found = parse_json(stored, finite=True)
    if not isinstance(found, dict):
        raise TypeError("it is no object")
    return found


def _parse(stored: str, path: str | Path) -> Metadata:
    try:
        data = {"layout": LAYOUT, "settings": {}, "batch": 1, **_object(stored)}
        layout, batch = int(data["layout"]), int(data["batch"])
        made = Metadata(data["request"], str(data["model"]), data["settings"], str(data["version"]), batch)
        if not isinstance(made.request, dict) or not isinstance(made.settings, dict):
            raise TypeError("no request in it")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise RequestError(f"The metadata of {path} is damaged ({error}).", "Was it edited?") from error
    if layout > LAYOUT:
        raise RequestError(
            f"{path} was made by version {made.version}, whose metadata (layout {layout}) is newer.",
            "Update kandinsky.",
        )
    return made


AFTER_MODEL = (
    "Denoising strength",
    "Mask blur",
    "Paste back",
    "Outpaint",
    "Prompt weights",
    "Prior steps",
    "Prior CFG scale",
    "Eta",
)
"""Names that `summary` lists last, since other tools look for the steps first."""


def summary(metadata: Metadata) -> str:
    """The request as the `parameters` text other tools show: prompt, negative, then `Name: value`."""
    from kandinsky.core.requests import EFFECTIVE_GUIDANCE, about

    request = metadata.request
    lines = [prompt_text(request.get("prompt"))]
    negative = request.get("negative_prompt")
    if isinstance(negative, str) and negative:
        lines.append(f"Negative prompt: {negative}")
    size = f"{request['width']}x{request['height']}" if request.get("width") else None
    values = {**request, "guidance_scale": request.get(EFFECTIVE_GUIDANCE, request.get("guidance_scale"))}
    values |= {"width": size, "guidance_interval": _span(request.get("guidance_interval"))}
    values |= {name: request.get(name) or None for name in ("prompt_weights", "paste_back")}
    values |= {"outpaint": _margins(request.get("outpaint"))}
    pairs = {said.summary: values.get(name) for name, said in about().items() if said.summary}
    pairs |= {"Model": metadata.model or None}
    for name in AFTER_MODEL:
        pairs[name] = pairs.pop(name)
    pairs |= {"Version": f"kandinsky {metadata.version}"}
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in pairs.items() if value is not None))
    return "\n".join(lines)


def _margins(sides: Mapping[str, int] | None) -> str | None:
    return None if sides is None else ",".join(f"{side}={pixels}" for side, pixels in sides.items() if pixels)


def _span(ends: Sequence[float] | None) -> str | None:
    return None if ends is None else " to ".join(f"{end:g}" for end in ends)


def _quoted(value: object) -> str:
    # A comma or colon inside a value would read as the next pair.
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def prompt_text(prompt: object) -> str:
    """A stored prompt as one line for people: the parts of a mix with their weights, images by name."""
    match prompt:
        case str():
            return prompt
        case {"mix": list(items), "weights": list(weights)}:
            return " | ".join(f"{prompt_text(item)}:{weight:g}" for item, weight in zip(items, weights, strict=False))
        case {"sha256": str(digest)} if isinstance(prompt, Mapping):
            return Path(prompt.get("path") or f"image-{digest[:8]}").name
    return "(embedding)"
