"""Caches encoded texts in a folder, by text and encoder."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kandinsky.adapters import lora
from kandinsky.adapters.tokens import table_of
from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.checkpoints.weights import read_cached, write_tensor_file
from kandinsky.conditioning.conditions import TextNetwork

STATES = "states"
"""The one tensor in a file."""


@dataclass(frozen=True, eq=False)
class CachingEncoder:
    """A text encoder that looks a text up in `folder` before it reads it, and stores the result there.

    `network` holds the weights that `reader` reads with, which are those `stored`; `kept` says what else
    distinguishes its outputs. With learned words in a text, or adapters on the encoder, it is read.
    """

    reader: TextNetwork
    network: nn.Module
    stored: LazyWeights
    folder: Path
    kept: str = ""

    @property
    def config(self) -> Any:
        return self.reader.config

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As the encoder's own, without its weights where the text is known.

        Raises OutputError when the folder cannot be written to.
        """
        if lora.applied_to(self.network) or bool((ids >= table_of(self.network).num_embeddings).any()):
            return self.reader(ids, mask)
        path = self.folder / f"{self._key(ids, mask)}.safetensors"
        known = read_cached(path, STATES, (*ids.shape, self.config.width))
        if known is not None:
            return known.to(ids.device)
        states = self.reader(ids, mask)
        write_tensor_file(path, {STATES: states}, {})
        return states

    @cached_property
    def _identity(self) -> str:
        return self.stored.identity()

    def _key(self, ids: Tensor, mask: Tensor) -> str:
        dtype = table_of(self.network).weight.dtype
        said = f"{self._identity} {self.kept} {dtype} {self.config} {ids.tolist()} {mask.tolist()}"
        return sha256(said.encode()).hexdigest()
