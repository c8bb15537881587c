"""The requests that other tools leave in images: the Stable Diffusion web interfaces, ComfyUI and InvokeAI."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kandinsky.core.image_files import open_image_file
from kandinsky.core.metadata import COMMENT_IS_UNICODE, EXIF_DETAILS, SUMMARY_CHUNK, USER_COMMENT

if TYPE_CHECKING:
    from PIL.Image import Image

_PAIR = re.compile(r'\s*([A-Za-z][\w \-/]*):\s*("(?:\\\\.|[^\\\\"])*"|[^,]*)(?:,|$)')
WEIGHTS = "Prompt weights"
OURS, WEB, COMFY = "kandinsky", "A Stable Diffusion web interface", "ComfyUI"
DEPTH = 12
"""How many links of a workflow are followed to a text."""


@dataclass(frozen=True)
class Foreign:
    """What another tool says of an image: `fields` under our names with its values, the rest as it is written.

    `sampler` in `fields` is as that tool calls it.
    """

    tool: str
    fields: dict[str, Any]
    model: str = ""
    rest: dict[str, str] = field(default_factory=dict)

    @property
    def weighted(self) -> bool:
        """Whether its tool read brackets in a text of it as weights, such as (word:1.3)."""
        if self.tool == OURS:
            return self.rest.get(WEIGHTS) == "True"
        return self.tool in (WEB, COMFY) and any(set("()[]\\") & set(text) for text in self.texts.values())

    @property
    def texts(self) -> dict[str, str]:
        """Its texts, by our names of them."""
        found = {name: self.fields.get(name) for name in ("prompt", "negative_prompt")}
        return {name: text for name, text in found.items() if isinstance(text, str)}

    def as_weights(self) -> dict[str, str]:
        """The texts as `parse_weights` reads them: ComfyUI has no square brackets."""
        if self.tool != COMFY:
            return self.texts
        return {name: re.sub(r"(?<!\\)([\[\]])", r"\\\1", text) for name, text in self.texts.items()}


def read_foreign(path: str | Path) -> Foreign | None:
    """The request in an image of another tool; None where there is none. RequestError when there is no such image."""
    with open_image_file(path) as image:
        image.load()
        return foreign_in(image)


def foreign_in(image: "Image") -> Foreign | None:
    """As `read_foreign`, of an image that is loaded."""
    info = {str(name): value for name, value in image.info.items() if isinstance(value, str | bytes)}
    comment = image.getexif().get_ifd(EXIF_DETAILS).get(USER_COMMENT)
    for name, read in (("invokeai_metadata", _invoke), ("sd-metadata", _old_invoke), ("prompt", _comfy)):
        if name in info and (data := _json(info[name])) is not None and (found := read(data)) is not None:
            return found
    text = info.get(SUMMARY_CHUNK)
    if text is None and isinstance(comment, bytes):
        text = _comment(comment)
    return None if text is None else _web_interface(str(text))


def _comment(data: bytes) -> str | None:
    if data.startswith(COMMENT_IS_UNICODE):
        raw = data[len(COMMENT_IS_UNICODE) :]
        # Some writers follow the byte order of the file, which the standard leaves open.
        order = "utf-16-le" if raw[1:2] == b"\x00" else "utf-16-be"
        return raw.decode(order, "replace")
    return data.removeprefix(b"ASCII\x00\x00\x00").decode("utf-8", "replace") or None


def _json(text: str | bytes) -> Mapping[str, Any] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _web_interface(text: str) -> Foreign | None:
    """The `parameters` text: the prompt, `Negative prompt: ...`, then `Steps: 20, Sampler: Euler a, ...`."""
    lines = text.strip().split("\n")
    last = next((index for index in reversed(range(len(lines))) if re.match(r"\s*Steps: ?\d", lines[index])), None)
    if last is None:
        return None
    begin = next((index for index in range(last) if lines[index].startswith("Negative prompt:")), last)
    pairs = {name.strip(): _unquoted(value.strip()) for name, value in _PAIR.findall(", ".join(lines[last:]))}
    fields: dict[str, Any] = {"prompt": "\n".join(lines[:begin]).strip()}
    if begin < last:
        fields["negative_prompt"] = "\n".join(lines[begin:last]).removeprefix("Negative prompt:").strip()
    for name, key, kind in (
        ("steps", "Steps", int),
        ("sampler", "Sampler", str),
        ("guidance_scale", "CFG scale", float),
        ("seed", "Seed", int),
        ("strength", "Denoising strength", float),
    ):
        if key in pairs and (value := _as(kind, pairs[key])) is not None:
            fields[name] = value
            del pairs[key]
    if match := re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", "")):
        fields |= {"width": int(match[1]), "height": int(match[2])}
        del pairs["Size"]
    model = pairs.pop("Model", "")
    version = pairs.get("Version", "")
    tool = OURS if version.startswith(OURS) else WEB
    return Foreign(tool, fields, model, pairs)


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value.strip('"')
    return value


def _as(kind: type, value: object) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        return None


def _taken(data: Mapping[str, Any], names: Mapping[str, tuple[str, type]]) -> dict[str, Any]:
    """The values of `data` under our names, those of the right kind."""
    found = {
        ours: _as(kind, data.get(theirs)) for ours, (theirs, kind) in names.items() if data.get(theirs) is not None
    }
    return {name: value for name, value in found.items() if value is not None}


def _invoke(data: Mapping[str, Any]) -> Foreign | None:
    names = {
        "prompt": ("positive_prompt", str),
        "negative_prompt": ("negative_prompt", str),
        "steps": ("steps", int),
        "sampler": ("scheduler", str),
        "guidance_scale": ("cfg_scale", float),
        "seed": ("seed", int),
        "width": ("width", int),
        "height": ("height", int),
        "strength": ("strength", float),
    }
    fields = _taken(data, names)
    if "prompt" not in fields:
        return None
    model = data.get("model")
    name = str(model.get("name") or model.get("model_name") or "") if isinstance(model, dict) else str(model or "")
    known = {"model", *(theirs for theirs, _ in names.values())}
    rest = {key: str(value) for key, value in data.items() if key not in known and isinstance(value, str | int | float)}
    return Foreign("InvokeAI", fields, name, rest)


def _old_invoke(data: Mapping[str, Any]) -> Foreign | None:
    image = data.get("image")
    if not isinstance(image, dict):
        return None
    prompt = image.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        prompt = prompt[0].get("prompt")
    given = {**image, "positive_prompt": prompt, "scheduler": image.get("sampler"), "model": data.get("model_weights")}
    return _invoke({name: value for name, value in given.items() if name not in ("prompt", "sampler")})


def _comfy(data: Mapping[str, Any]) -> Foreign | None:
    """A workflow: the first node that samples, and what its links lead to."""
    nodes = {str(name): node for name, node in data.items() if isinstance(node, dict)}
    for node in nodes.values():
        inputs = node.get("inputs")
        if not isinstance(inputs, dict) or "steps" not in inputs or "positive" not in inputs:
            continue
        names = {
            "steps": ("steps", int),
            "sampler": ("sampler_name", str),
            "guidance_scale": ("cfg", float),
            "seed": ("noise_seed" if "noise_seed" in inputs else "seed", int),
        }
        fields = _taken({key: _value(nodes, value) for key, value in inputs.items()}, names)
        for ours, theirs in (("prompt", "positive"), ("negative_prompt", "negative")):
            if text := next(_texts(nodes, inputs.get(theirs)), None):
                fields[ours] = text
        latent = _node(nodes, inputs.get("latent_image"))
        fields |= _taken(latent.get("inputs", {}), {"width": ("width", int), "height": ("height", int)})
        loaders = [
            one.get("inputs", {}).get("ckpt_name") for one in nodes.values() if isinstance(one.get("inputs"), dict)
        ]
        model = next((str(name) for name in loaders if name), "")
        rest = {
            key: str(inputs[key]) for key in ("scheduler", "denoise") if isinstance(inputs.get(key), str | int | float)
        }
        return Foreign(COMFY, fields, model, rest) if "prompt" in fields else None
    return None


def _node(nodes: Mapping[str, Any], link: object) -> Mapping[str, Any]:
    """The node that a link leads to: links are [node, output]."""
    return nodes.get(str(link[0]), {}) if isinstance(link, list) and link else {}


def _value(nodes: Mapping[str, Any], value: object) -> object:
    """A value, or that of the node of constants that a link leads to."""
    for _ in range(DEPTH):
        if not isinstance(value, list):
            return value
        inputs = _node(nodes, value).get("inputs", {})
        value = next((one for one in inputs.values() if isinstance(one, str | int | float | list)), None)
    return None


def _texts(nodes: Mapping[str, Any], link: object, depth: int = DEPTH) -> Iterator[str]:
    """The texts behind a link, through nodes that combine or pass conditions on."""
    inputs = _node(nodes, link).get("inputs")
    if not isinstance(inputs, dict) or depth == 0:
        return
    for name in ("text", "text_g", "value", "string", "prompt"):
        if isinstance(inputs.get(name), str) and inputs[name].strip():
            yield inputs[name]
            return
    for value in inputs.values():
        yield from _texts(nodes, value, depth - 1)
