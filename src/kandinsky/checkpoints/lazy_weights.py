"""Weights in their files: loaded whole, or in parts when they are needed."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.weights import load_strict, meta_init
from kandinsky.core.errors import CheckpointError

CPU = torch.device("cpu")
PORTION = 2**26
"""Bytes that are read from files at a time, so that a conversion holds little twice."""
SAMPLE = 1024
"""Numbers at each end of a tensor that the hash of weights includes."""


@dataclass(frozen=True, eq=False)
class LazyWeights:
    """The weights of a network, in files.

    `open` maps all its tensors under the files' names without reading them, `keys` renames them, `build` makes the
    network; `what` and `where` are for messages. With `config_only` there are no files.
    """

    open: Callable[[], Mapping[str, Tensor]]
    keys: KeyMap
    build: Callable[[], nn.Module]
    what: str
    where: Path | None = None
    config_only: bool = False

    def load(self, dtype: torch.dtype | None = None, device: torch.device = CPU) -> nn.Module:
        """The network with its weights; `dtype` None keeps their dtypes. With a dtype, large files are read in
        portions. Raises CheckpointError for weights that do not fit."""
        found = self.open()
        small = sum(tensor.numel() * tensor.element_size() for tensor in found.values()) <= PORTION
        if dtype is None or small or not _is_mapped(found):
            network = load_strict(self.build, self._native(found), dtype, self.what).to(device)
            for parameter in network.parameters():
                parameter.data = _laid_out(parameter.data)
            return network
        del found
        network = self.on_meta(dtype)
        self.load_to(network, network.state_dict(), device, dtype)
        return network

    def load_to(self, network: nn.Module, names: Collection[str], device: torch.device, dtype: torch.dtype) -> None:
        """Gives a network on the meta device its tensors of these names: mapped from the files where dtype and device
        agree, else made in portions, so that little is in memory twice."""
        shapes = network.state_dict()
        # Fused tensors are copies. Read by themselves, they leave nothing of their parts mapped.
        fused = {name: shapes[name] for name in names if self.is_fused(name)}
        rest = {name: shapes[name] for name in names if name not in fused}
        mapped = self.read(rest)
        # One mapping for all: each counts the pages that it shares with others anew.
        if all(_is_placed(tensor, device, dtype) for tensor in mapped.values()):
            network.load_state_dict(mapped, strict=False, assign=True)
            rest = {}
        del mapped
        for portion in (*portions(fused), *portions(rest)):
            found = self.read(portion)
            made = {name: placed(found.pop(name), device, dtype) for name in portion}
            network.load_state_dict(made, strict=False, assign=True)

    def on_meta(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The network on the meta device, checked as by `load`; CheckpointError also for files that can only be read
        whole."""
        if self.config_only:
            network = meta_init(self.build).eval()
            return network if dtype is None else network.to(dtype)
        if not self.is_mapped():
            raise CheckpointError(
                f"The weights of the {self.what} lie in an old form of pickle, which is only read whole.",
                "Convert the model with `kandinsky convert`, or load it without offload and quantize.",
            )
        shapes = {name: tensor.to("meta") for name, tensor in self.open().items()}
        return load_strict(self.build, self._native(shapes), dtype, self.what)

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """The tensors of these native names, mapped from the files where the files hold them alike."""
        foreign = self.open()
        wanted = {theirs for name in names for theirs in self.keys.foreign_names(name) or ()}
        return self._native({name: tensor for name, tensor in foreign.items() if name in wanted})

    def is_mapped(self) -> bool:
        """Whether the files can be read in parts; a pickle of the old form is only read whole."""
        return _is_mapped(self.open())

    def count(self) -> int:
        """The number of parameters in the files."""
        return sum(tensor.numel() for tensor in self.open().values())

    def is_fused(self, name: str) -> bool:
        """Whether a native tensor is made of several in the files."""
        return len(self.keys.foreign_names(name) or ()) > 1

    def identity(self) -> str:
        """A hash of these weights: of names, shapes and numbers at tensors' ends."""
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


def _is_mapped(tensors: Mapping[str, Tensor]) -> bool:
    # What a mapping holds cannot grow; what was read into memory can.
    return not any(tensor.untyped_storage().resizable() for tensor in tensors.values())


def portions(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The names of tensors in groups of about `PORTION` bytes."""
    portion: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        portion.append(name)
        size += tensor.numel() * tensor.element_size()
        if size >= PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor on a device, in `dtype` unless it holds whole numbers."""
    return _laid_out(tensor.to(device, dtype if tensor.is_floating_point() else None))


def _laid_out(weight: Tensor) -> Tensor:
    """A weight in half precision in the order in which a CPU convolves by it; what is mapped stays so."""
    halved = weight.ndim == 4 and weight.dtype in (torch.float16, torch.bfloat16)
    fits = halved and weight.device.type == "cpu" and weight.untyped_storage().resizable()
    return weight.to(memory_format=torch.channels_last) if fits else weight


def _is_placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> bool:
    alike = tensor.dtype == dtype or not tensor.is_floating_point()
    return alike and tensor.device.type == device.type
