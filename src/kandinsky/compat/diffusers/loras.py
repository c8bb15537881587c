"""Adapters and learned words of pipelines, by the names of diffusers' loaders.

diffusers has these for Kandinsky 3 alone, where its adapters do not fit its own U-Net; here they act on every
pipeline.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.hub import resolve_files
from kandinsky.checkpoints.lora import takes_adapters
from kandinsky.checkpoints.textual_inversion import Words, read_words, words_in
from kandinsky.compat.diffusers import adapters
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.models import native_of, original_of, part_of
from kandinsky.compat.diffusers.part import Part
from kandinsky.compat.diffusers.weights import check_saving
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


def load_lora_weights(
    self: "DiffusionPipeline",
    pretrained_model_name_or_path_or_dict: adapters.Source,
    adapter_name: str | None = None,
    hotswap: bool = False,
    **keywords: Any,
) -> None:
    """Adds an adapter of tensors, a file, a folder or a Hub id to the networks that its names fit.

    It alone acts from then on there. Raises CheckpointError when it does not fit, RequestError for a name in use.
    """
    source = pretrained_model_name_or_path_or_dict
    found, parts = adapters.read_adapter(source, hotswap, type(self).__name__, keywords), parts_of(self)
    networks = adaptable(Networks({key: part.native for key, part in parts.items()}, self.device, self.dtype))
    where = Path("a dictionary") if isinstance(source, Mapping) else Path(source)
    with loading_errors():
        fitting = assigned(networks, found.tensors, found.settings, where)
    held = {id(part.native): part for part in parts.values()}
    chosen = [(held[id(networks[component])], adapter) for component, adapter in fitting.items()]
    label = adapter_name or max((part.lora.new_name for part, _ in chosen), key=len)
    if any(label in part.lora.scales for part, _ in chosen):
        raise RequestError(f"An adapter {label!r} is loaded already.", "Take it off first, or give another name.")
    done: list[Part] = []
    for part, adapter in chosen:
        try:
            adapters.put_on(part, label, adapter.to(part.device, part.dtype), found.settings)
        except RequestError as error:
            for other in done:
                other.delete_adapters(label)
            raise CheckpointError(f"{where}: {error.message}", error.hint) from error
        done.append(part)


def save_lora_weights(
    cls: type[Any],
    save_directory: str | Path,
    unet_lora_layers: Mapping[str, Tensor] | None = None,
    text_encoder_lora_layers: Mapping[str, Tensor] | None = None,
    is_main_process: bool = True,
    weight_name: str | None = None,
    save_function: None = None,
    safe_serialization: bool = True,
    unet_lora_adapter_metadata: Mapping[str, object] | None = None,
    text_encoder_lora_adapter_metadata: Mapping[str, object] | None = None,
) -> None:
    """Writes an adapter's tensors, by peft's names for each component, as one file that `load_lora_weights` reads.

    Raises RequestError without any, OutputError when it cannot be written.
    """
    check_saving({"save_function": save_function})
    layers = {"unet": unet_lora_layers, "text_encoder": text_encoder_lora_layers}
    settings = {"unet": unet_lora_adapter_metadata, "text_encoder": text_encoder_lora_adapter_metadata}
    tensors = {f"{part}.{name}": one for part, found in layers.items() for name, one in (found or {}).items()}
    if not tensors:
        raise RequestError("There is no tensor of an adapter to save.", f"Give one of: {', '.join(layers)}.")
    stated = {f"{part}.{name}": one for part, found in settings.items() for name, one in (found or {}).items()}
    if is_main_process:
        adapters.write_adapter(Path(save_directory), tensors, stated, weight_name, safe_serialization)


def on_parts(method: str, does: str) -> Any:
    """The method of a pipeline that calls one of its networks' without arguments on all that take adapters."""

    def call(self: "DiffusionPipeline") -> None:
        for part in parts_of(self).values():
            getattr(part, method)()

    call.__doc__ = does
    return call


def set_adapters(self: "DiffusionPipeline", adapter_names: str | Sequence[str], adapter_weights: Any = None) -> None:
    """Lets the named adapters act, each as strongly as its weight says (1 without), and no other.

    A weight may be a mapping by component. Raises RequestError for names that are not loaded, and for another
    number of weights.
    """
    chosen = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
    given = list(adapter_weights) if isinstance(adapter_weights, list | tuple) else [adapter_weights] * len(chosen)
    if len(given) != len(chosen):
        raise RequestError(f"{len(chosen)} adapters were given {len(given)} weights.", "Give one for each, or one.")
    check_loaded(self, chosen)
    for key, part in parts_of(self).items():
        here = [(n, w.get(key, 1.0) if isinstance(w, Mapping) else w) for n, w in zip(chosen, given, strict=True)]
        here = [(n, w) for n, w in here if n in part.lora.scales]
        part.set_adapters([n for n, _ in here], [w for _, w in here])


def delete_adapters(self: "DiffusionPipeline", adapter_names: str | Sequence[str]) -> None:
    """Takes the named adapters off; raises RequestError for one that is not there."""
    names = check_loaded(self, adapter_names)
    for part in parts_of(self).values():
        part.delete_adapters([name for name in names if name in part.lora.scales])


def get_active_adapters(self: "DiffusionPipeline") -> list[str]:
    """The names of the adapters that act."""
    return list(dict.fromkeys(name for part in parts_of(self).values() for name in part.lora.active))


def get_list_adapters(self: "DiffusionPipeline") -> dict[str, list[str]]:
    """The names of all adapters, by component."""
    return {name: list(part.lora.scales) for name, part in parts_of(self).items() if part.lora.scales}


def fused_loras(self: "DiffusionPipeline") -> set[str]:
    """The names of the adapters that are fused."""
    return {name for part in parts_of(self).values() for name in part.lora.fused}


def fuse_lora(
    self: "DiffusionPipeline",
    components: Sequence[str] | None = None,
    lora_scale: float = 1.0,
    safe_fusing: bool = False,
    adapter_names: Sequence[str] | None = None,
) -> None:
    """Adds adapters (those named, or the active ones) to the weights, `lora_scale` times as strongly as they act.

    Raises RequestError for a component that takes none and for a name that is not loaded.
    """
    check_loaded(self, adapter_names or ())
    for part in parts_of(self, components or None).values():
        names = None if adapter_names is None else [name for name in adapter_names if name in part.lora.scales]
        part.fuse_lora(lora_scale, safe_fusing, names)


def unfuse_lora(self: "DiffusionPipeline", components: Sequence[str] | None = None) -> None:
    """Undoes `fuse_lora` to the last bit."""
    for part in parts_of(self, components or None).values():
        part.unfuse_lora()


def check_loaded(pipe: "DiffusionPipeline", names: str | Sequence[str]) -> list[str]:
    """The names of adapters as a list; RequestError for one that is on no network."""
    found = [names] if isinstance(names, str) else list(names)
    known = {one for part in parts_of(pipe).values() for one in part.lora.scales}
    if unknown := [name for name in found if name not in known]:
        raise RequestError(f"No adapter {unknown[0]!r} is loaded.", nearest(unknown[0], known) if known else "None is.")
    return found


@loading_errors()
def load_textual_inversion(
    self: "DiffusionPipeline",
    pretrained_model_name_or_path: WordSource | Sequence[WordSource],
    token: str | Sequence[str] | None = None,
    **keywords: Any,
) -> None:
    """Teaches the text encoders words of files, folders, Hub ids, tensors, their mappings, or several of these.

    `token` is what the word of a source is called instead of its own. Of words for several encoders those are
    read that the pipeline has. Raises CheckpointError when it has none of them, RequestError for tokens that
    do not go with the sources, and what `engine.text_encoders.learn_word` does.
    """
    check_keywords(keywords, type(self).__name__, (*LOADING, "weight_name", "subfolder"))
    given = pretrained_model_name_or_path
    sources = list(given) if isinstance(given, list | tuple) else [given]
    tokens = list(token) if isinstance(token, list | tuple) else [token] * len(sources)
    if len(tokens) != len(sources):
        raise RequestError(f"{len(sources)} sources of words were given {len(tokens)} tokens.", "Give one for each.")
    found: dict[str, dict[str, Tensor]] = {}
    for one, name in zip(sources, tokens, strict=True):
        found |= dict(_assigned_words(self, *_read(one, name, keywords)))
    for word, rows in found.items():
        learn_word(_encoders_of(self), word, rows)


def unload_textual_inversion(self: "DiffusionPipeline", tokens: str | Sequence[str] | None = None) -> None:
    """Makes the text encoders spell learned words again, all or those named; RequestError for one not learned."""
    held = [original_of(self.components[name]) for name in ENCODERS if self.components.get(name) is not None]
    known = {word for one in held for word in one.native.learned_words}
    words = known if tokens is None else {tokens} if isinstance(tokens, str) else set(tokens)
    if unknown := sorted(words - known):
        raise RequestError(f"{unknown[0]!r} is no learned word.", nearest(unknown[0], known) if known else "None is.")
    for one in held:
        one.native = one.native.without(words)


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
            found[name] = TextEncoder(native, part_of(components[encoder], Part).native)
    return found
