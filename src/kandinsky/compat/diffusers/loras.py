"""Adapters and learned words of pipelines, by the names of diffusers' loaders.

diffusers has these for Kandinsky 3 alone, where its adapters do not fit its own U-Net; here they act on every
pipeline.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.hub import resolve_files
from kandinsky.checkpoints.lora import DIFFUSERS_FILE, SETTINGS, takes_adapters
from kandinsky.checkpoints.textual_inversion import Words, read_words, words_in
from kandinsky.checkpoints.weights import write_tensor_file
from kandinsky.compat.diffusers.adapters import ENDLESS, read_adapter
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.models import native_of, original_of
from kandinsky.compat.diffusers.part import Part
from kandinsky.compat.diffusers.weights import write_pickles
from kandinsky.conditioning.conditions import TextEncoder
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.engine.loras import adaptable, assigned
from kandinsky.engine.text_encoders import learn_word

if TYPE_CHECKING:
    from kandinsky.compat.diffusers.pipeline import DiffusionPipeline

ENCODERS = {"tokenizer": "text_encoder", "prior_tokenizer": "prior_text_encoder"}
WORD_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
WordSource = str | Path | Tensor | Mapping[str, object]


@dataclass(frozen=True)
class Networks:
    """A pipeline's networks, as the engine knows those of a model."""

    modules: Mapping[str, nn.Module]
    device: torch.device
    dtype: torch.dtype


def parts_of(pipe: "DiffusionPipeline", names: Sequence[str] | None = None) -> dict[str, Part]:
    """The parts of a pipeline that take adapters, all or those of the named components.

    Raises RequestError for a component that takes none.
    """
    parts = {name: original_of(part) for name, part in pipe.components.items()}
    found = {name: part for name, part in parts.items() if isinstance(part, Part) and takes_adapters(part.native)}
    if unknown := [name for name in names or () if name not in found]:
        raise RequestError(f"{unknown[0]!r} takes no adapters.", nearest(unknown[0], found))
    return {name: part for name, part in found.items() if names is None or name in names}


def load_lora(
    pipe: "DiffusionPipeline", source: str | Path | Mapping[str, Tensor], name: str | None, keywords: Mapping[str, Any]
) -> None:
    """Puts an adapter on the networks of a pipeline that its names fit; it alone acts from then on there.

    Raises CheckpointError for one that does not fit, RequestError for a name in use.
    """
    hotswap = bool(keywords.get("hotswap"))
    who, more = type(pipe).__name__, {key: value for key, value in keywords.items() if key != "hotswap"}
    found, parts = read_adapter(source, hotswap, who, more), parts_of(pipe)
    networks = adaptable(Networks({key: part.native for key, part in parts.items()}, pipe.device, pipe.dtype))
    where = Path("a dictionary") if isinstance(source, Mapping) else Path(source)
    with loading_errors():
        adapters = assigned(networks, found.tensors, found.settings, where)
    held = {id(part.native): part for part in parts.values()}
    chosen = [(held[id(networks[component])], adapter) for component, adapter in adapters.items()]
    label = name or max((part.lora.new_name for part, _ in chosen), key=len)
    if any(label in part.lora.scales for part, _ in chosen):
        raise RequestError(f"An adapter {label!r} is loaded already.", "Take it off first, or give another name.")
    done: list[Part] = []
    for part, adapter in chosen:
        try:
            part.lora.add(part.native, label, adapter.to(part.device, part.dtype), found.settings)
        except RequestError as error:
            for other in done:
                other.lora.remove(other.native, label)
            raise CheckpointError(f"{where}: {error.message}", error.hint) from error
        done.append(part)


def save_layers(
    folder: Path,
    layers: Mapping[str, Mapping[str, Tensor] | None],
    settings: Mapping[str, Mapping[str, object] | None],
    file: str | None,
    safe: bool,
) -> None:
    """Writes an adapter's tensors by component, with peft's settings of each, as one file that `load_lora` reads."""
    tensors = {f"{part}.{name}": one for part, found in layers.items() for name, one in (found or {}).items()}
    if not tensors:
        raise RequestError("There is no tensor of an adapter to save.", f"Give one of: {', '.join(layers)}.")
    stated = {f"{part}.{name}": one for part, found in settings.items() for name, one in (found or {}).items()}
    if safe:
        header = {SETTINGS: json.dumps(stated, sort_keys=True, default=list)} if stated else {}
        write_tensor_file(folder / (file or DIFFUSERS_FILE), tensors, header)
    else:
        write_pickles(folder, (file or "pytorch_lora_weights.bin").removesuffix(".bin"), tensors, ENDLESS)


def set_adapters(pipe: "DiffusionPipeline", names: str | Sequence[str], weights: Any) -> None:
    """Lets the named adapters act, each as strongly as its weight says (1 without), and no other.

    A weight may be a mapping by component. Raises RequestError for names that are not loaded, and for another
    number of weights.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    given = list(weights) if isinstance(weights, list | tuple) else [weights] * len(chosen)
    if len(given) != len(chosen):
        raise RequestError(f"{len(chosen)} adapters were given {len(given)} weights.", "Give one for each, or one.")
    for name in chosen:
        parts_with(pipe, name)
    for key, part in parts_of(pipe).items():
        here = [(n, w.get(key, 1.0) if isinstance(w, Mapping) else w) for n, w in zip(chosen, given, strict=True)]
        here = [(n, w) for n, w in here if n in part.lora.scales]
        part.lora.choose(part.native, [n for n, _ in here], [w for _, w in here])


def parts_with(pipe: "DiffusionPipeline", name: str) -> dict[str, Part]:
    """The parts that an adapter of that name is on; RequestError when there is none."""
    parts = parts_of(pipe)
    known = {one for part in parts.values() for one in part.lora.scales}
    if name not in known:
        raise RequestError(f"No adapter {name!r} is loaded.", nearest(name, known) if known else "None is.")
    return {key: part for key, part in parts.items() if name in part.lora.scales}


@loading_errors()
def load_words(
    pipe: "DiffusionPipeline",
    source: WordSource | Sequence[WordSource],
    token: str | Sequence[str] | None,
    keywords: Mapping[str, Any],
) -> list[str]:
    """Teaches a pipeline's text encoders words and returns them: of files, Hub ids, tensors or their mappings.

    `token` is what the word of a source is called instead of its own. Of words for several encoders those are
    read that the pipeline has. Raises CheckpointError when it has none of them, RequestError for tokens that
    do not go with the sources, and what `engine.text_encoders.learn_word` does.
    """
    check_keywords(keywords, type(pipe).__name__, (*LOADING, "weight_name", "subfolder"))
    sources = list(source) if isinstance(source, list | tuple) else [source]
    tokens = list(token) if isinstance(token, list | tuple) else [token] * len(sources)
    if len(tokens) != len(sources):
        raise RequestError(f"{len(sources)} sources of words were given {len(tokens)} tokens.", "Give one for each.")
    found: dict[str, dict[str, Tensor]] = {}
    for one, name in zip(sources, tokens, strict=True):
        found |= dict(_assigned_words(pipe, *_read(one, name, keywords)))
    encoders = _encoders_of(pipe)
    for word, rows in found.items():
        learn_word(encoders, word, rows)
    return list(found)


def _read(source: Any, token: Any, keywords: Mapping[str, Any]) -> tuple[Words, str]:
    """The words of one source under the names that they are to have, and what the source is called."""
    if isinstance(source, Tensor):
        source = {token or "": source}
    if isinstance(source, Mapping):
        words, where = words_in(source, "the given dictionary"), "the given dictionary"
    else:
        path = _words_file(source, keywords)
        words, where = read_words(path), str(path)
    if token is None or token in words:
        if "" in words:
            raise RequestError("A tensor is no word.", "Give token=, which it will stand for.")
        return words, where
    if len(words) > 1:
        raise RequestError(f"{where} holds {len(words)} words: {', '.join(words)}.", "Leave token out.")
    return {token: next(iter(words.values()))}, where


def _assigned_words(pipe: "DiffusionPipeline", words: Words, where: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    encoders = _encoders_of(pipe)
    for word, parts in words.items():
        rows = {name: value for name, value in parts.items() if name in encoders}
        rows |= {name: parts[""] for name, one in encoders.items() if "" in parts and one.width == parts[""].shape[1]}
        if not rows:
            raise CheckpointError(
                f"{where} has rows of {word!r} for {', '.join(parts) or 'no encoder'}, which a "
                f"{type(pipe).__name__} does not have.",
                f"It has: {', '.join(encoders) or 'no text encoder'}.",
            )
        yield word, {name: value.to(pipe.device, pipe.dtype) for name, value in rows.items()}


def _words_file(source: str | Path, keywords: Mapping[str, Any]) -> Path:
    path, inside = Path(source).expanduser(), keywords.get("subfolder") or ""
    names = (keywords["weight_name"],) if keywords.get("weight_name") else WORD_FILES
    if path.is_file():
        return path
    if path.is_dir():
        path = path / inside
        return next((path / name for name in names if (path / name).is_file()), path / names[0])
    name = f"{inside}/{names[-1]}" if inside else names[-1]
    place = Loading.of(keywords)
    folder = place.cached(str(source))
    if folder == str(source):
        folder = resolve_files(folder, [name], revision=place.revision, token=place.token, cache=place.cache)
    return Path(folder) / name


def _encoders_of(pipe: "DiffusionPipeline") -> dict[str, TextEncoder]:
    """The text encoders of a pipeline by the names in files, where a prior's is told from a decoder's."""
    components = pipe.components
    alone = "prior" in components
    found = {}
    for tokenizer, encoder in ENCODERS.items():
        if tokenizer in components and components.get(encoder) is not None:
            name = f"prior_{encoder}" if alone else encoder
            native = native_of(components[tokenizer], Tokenizer)
            found[name] = TextEncoder(native, native_of(components[encoder], nn.Module))
    return found
