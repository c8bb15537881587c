"""Networks in their files: loaded whole, or known by shape alone and read in parts when they are needed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.hollow import hollow
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.weights import load_strict
from kandinsky.core.errors import CheckpointError

SAMPLE = 1024
"""How many numbers at each end of a tensor tell weights apart."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A network that lies in files.

    `open` maps all its tensors under the files' names without reading them, `keys` renames them, and `build`
    makes the network they belong to; `what` and `where` are for messages. Of an `outlined` network only the
    configuration is there.
    """

    open: Callable[[], Mapping[str, Tensor]]
    keys: KeyMap
    build: Callable[[], nn.Module]
    what: str
    where: Path | None = None
    outlined: bool = False

    def load(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The network with its weights, in their own dtypes where `dtype` is None.

        Raises CheckpointError for weights that do not fit.
        """
        return load_strict(self.build, self._native(self.open()), dtype, self.what)

    def parked(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The network without its weights: on the meta device, checked as `load` checks it.

        Raises CheckpointError as well for files that can only be read whole.
        """
        if self.outlined:
            network = hollow(self.build).eval()
            return network if dtype is None else network.to(dtype)
        tensors = self.open()
        # What a mapping holds cannot grow; what was read into memory can.
        if any(tensor.untyped_storage().resizable() for tensor in tensors.values()):
            raise CheckpointError(
                f"The weights of the {self.what} lie in an old form of pickle, which is only read whole.",
                "Convert the model with `kandinsky convert`, or load it without offload and quantize.",
            )
        shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
        return load_strict(self.build, self._native(shapes), dtype, self.what)

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """The tensors of these native names, mapped from the files where the files hold them alike."""
        foreign = self.open()
        wanted = {theirs for name in names for theirs in self.keys.foreign_names(name) or ()}
        return self._native({name: tensor for name, tensor in foreign.items() if name in wanted})

    def is_fused(self, name: str) -> bool:
        """Whether the tensor of a native name is made of several in the files."""
        return len(self.keys.foreign_names(name) or ()) > 1

    def identity(self) -> str:
        """A hash that tells these weights from others: of names, shapes and numbers at tensors' ends."""
        digest = sha256()
        for name, tensor in sorted(self.open().items()):
            flat = tensor.flatten()
            ends = torch.cat([flat[:SAMPLE], flat[-SAMPLE:]])
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(ends.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _native(self, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            return self.keys.to_native(foreign)
        except CheckpointError as error:
            if self.where is None:
                raise
            raise CheckpointError(f"{self.where}: {error.message}", error.hint) from error
