"""Adapters and learned words of pipelines, by the names of the peer's loaders.

The peer has these for Kandinsky 3 alone, where its adapters do not fit its own U-Net; here they act
on every pipeline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kandinsky.checkpoints.hub import resolve_files
from kandinsky.checkpoints.textual_inversion import read_words
from kandinsky.compat.diffusers.models import Part, native_of, original_of
from kandinsky.conditioning.conditions import TextEncoder
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.engine import loras
from kandinsky.engine.text_encoders import learn_word

if TYPE_CHECKING:
    from kandinsky.compat.diffusers.pipeline import DiffusionPipeline

ENCODERS = {"tokenizer": "text_encoder", "prior_tokenizer": "prior_text_encoder"}
WORD_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


@dataclass(frozen=True)
class Networks:
    """A pipeline's networks, as the engine knows those of a model."""

    modules: Mapping[str, nn.Module]
    device: torch.device
    dtype: torch.dtype


def networks_of(pipe: "DiffusionPipeline") -> Networks:
    """The networks of a pipeline that are there, by the names of its components."""
    parts = {name: original_of(part) for name, part in pipe.components.items()}
    modules = {name: part.native for name, part in parts.items() if isinstance(part, Part)}
    return Networks(modules, pipe.device, pipe.dtype)


def load_lora(pipe: "DiffusionPipeline", source: str | Path, weight_name: str | None, adapter_name: str | None) -> None:
    """Puts an adapter on a pipeline's networks; see `engine.loras.load_lora`."""
    path: str | Path = source
    if weight_name is not None:
        folder = Path(source).expanduser()
        path = (folder if folder.is_dir() else resolve_files(str(source), [weight_name])) / weight_name
    loras.load_lora(networks_of(pipe), path, name=adapter_name)


def set_adapters(
    pipe: "DiffusionPipeline", names: str | Sequence[str], weights: float | Sequence[float] | None
) -> None:
    """Lets the named adapters act, each as strongly as its weight says, and no other.

    Raises RequestError for a name that is not loaded and for another number of weights.
    """
    networks = networks_of(pipe)
    chosen = [names] if isinstance(names, str) else list(names)
    scales = [1.0] * len(chosen) if weights is None else weights
    scales = [float(scales)] * len(chosen) if isinstance(scales, int | float) else list(scales)
    if len(scales) != len(chosen):
        raise RequestError(
            f"{len(chosen)} adapters were given {len(scales)} weights.", "Give one for each, or one for all."
        )
    for name, scale in zip(chosen, scales, strict=True):
        loras.set_scale(networks, name, scale)
    for name in loras.applied(networks):
        if name not in chosen:
            loras.set_scale(networks, name, 0.0)


def load_words(pipe: "DiffusionPipeline", source: str | Path, weight_name: str | None) -> list[str]:
    """Teaches a pipeline's text encoders the words of a file, a folder or a Hub id; returns them.

    Of a file for several encoders those are read that the pipeline has. Raises CheckpointError when it has
    none of them, and what `engine.text_encoders.learn_word` does.
    """
    path = _words_file(source, weight_name)
    encoders = _encoders_of(pipe)
    words = read_words(path)
    assigned: dict[str, dict[str, Any]] = {}
    for word, parts in words.items():
        rows = {name: value for name, value in parts.items() if name in encoders}
        rows |= {name: parts[""] for name, one in encoders.items() if "" in parts and _fits(one, parts[""])}
        if not rows:
            raise CheckpointError(
                f"{path} has rows of {word!r} for {', '.join(parts) or 'no encoder'}, which a "
                f"{type(pipe).__name__} does not have.",
                f"It has: {', '.join(encoders) or 'no text encoder'}.",
            )
        assigned[word] = {name: value.to(pipe.device, pipe.dtype) for name, value in rows.items()}
    for word, found in assigned.items():
        learn_word(encoders, word, found)
    return list(assigned)


def _fits(encoder: TextEncoder, rows: torch.Tensor) -> bool:
    return encoder.width == rows.shape[1]


def _words_file(source: str | Path, weight_name: str | None) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        names = (weight_name,) if weight_name else WORD_FILES
        return next((path / name for name in names if (path / name).is_file()), path / names[0])
    name = weight_name or WORD_FILES[-1]
    return resolve_files(str(source), [name]) / name


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
