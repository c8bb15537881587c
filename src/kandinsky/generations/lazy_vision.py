"""A large vision tower that stays in its files until the first image.

Prompts of text only need one embedding of it: that of no image. It is a constant of the weights, so it is computed
once, a block at a time, and cached.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.checkpoints.weights import read_cached, write_tensor_file
from kandinsky.core.errors import OutputError
from kandinsky.core.system import cache_folder
from kandinsky.networks.clip import ClipVision

WAITS_FROM = 200_000_000
"""Towers of this many parameters wait; the time that smaller ones take is not felt."""
EMBEDDING = "embedding"
"""The one tensor in a file."""


@dataclass(frozen=True, eq=False)
class LazyVisionTower:
    """A vision tower whose `network` is on the meta device until the first image; `weights` are in files."""

    network: ClipVision
    weights: LazyWeights
    device: torch.device
    dtype: torch.dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        """Runs the tower; its weights stay from then on."""
        self.bring()
        embedding: Tensor = self.network(pixels)
        return embedding

    def bring(self) -> None:
        """Loads the weights, to stay."""
        if self._is_away:
            self._bring(self.network.state_dict())

    def of_nothing(self) -> Tensor:
        """The embedding (1, P) of an all-zero normalised image, from the cache if it is known there."""
        path = self._path()
        known = read_cached(path, EMBEDDING, (1, self.network.config.projection))
        if known is not None:
            return known.to(self.device, self.dtype)
        size = self.network.config.image_size
        nothing = torch.zeros(1, 3, size, size, device=self.device, dtype=self.dtype)
        embedding = self._streamed(nothing) if self._is_away else self(nothing)
        # A cache that cannot be written to is no reason to fail.
        with suppress(OutputError):
            write_tensor_file(path, {EMBEDDING: embedding}, {})
        return embedding

    @property
    def _is_away(self) -> bool:
        return self.network.class_token.is_meta

    def _bring(self, names: Collection[str]) -> None:
        self.weights.load_to(self.network, names, self.device, self.dtype)

    def _streamed(self, pixels: Tensor) -> Tensor:
        """The tower's answer with one block at a time in memory."""
        network = self.network
        names = list(network.state_dict())
        self._bring([name for name in names if not name.startswith("blocks.")])
        x = network.embed(pixels)
        for place, block in enumerate(network.blocks):
            self._bring([name for name in names if name.startswith(f"blocks.{place}.")])
            x = block(x)
            _drop(block)
        embedding = network.read(x)
        _drop(network)
        return embedding

    def _path(self) -> Path:
        key = f"{self.weights.identity()} {self.network.config} {self.dtype}"
        return cache_folder() / "no-image" / f"{sha256(key.encode()).hexdigest()}.safetensors"


def _drop(module: nn.Module) -> None:
    away = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    module.load_state_dict(away, assign=True)
