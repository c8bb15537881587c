"""How checkpoints hold networks: one `ComponentSpec` for each kind of network, for both layouts.

The kinds are in `maps/networks.py`; each generation has a table of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.lazy_weights import CPU, LazyWeights
from kandinsky.checkpoints.maps.original_files import OriginalFiles
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.checkpoints.original_file import OriginalFile, config_beside
from kandinsky.checkpoints.weights import Tensors
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)
PRIOR_PREFIX = "prior_"
"""Prefix of a prior's components in a folder that holds a decoder too."""


@dataclass(frozen=True, eq=False)
class LazyNetwork(Generic[C, M]):
    """A network's configuration, and its weights, which are read on demand."""

    config: C
    weights: LazyWeights

    def load(self, dtype: torch.dtype | None = None, device: torch.device = CPU) -> M:
        """The network with its weights, see `LazyWeights.load`."""
        return cast(M, self.weights.load(dtype, device))


@dataclass(frozen=True)
class ComponentSpec(Generic[C, M]):
    """The layout of a kind of network in checkpoints.

    `name` is its component in the diffusers layout, `library` and `class_name` its class in the model index; `build`
    makes it from a configuration of class `sizes`. `read` and `write` translate config.json, `keys` the names of
    tensors, which lie in files called `stem`. `settle` corrects a configuration from the tensors, `strip` removes
    unused tensors, `complete` adds tensors that the layout requires. `tokenizer` is its tokenizer's component;
    `adapted` are the modules, by their names in files, that adapters change by default. `original` is its file in the
    original release.
    """

    name: str
    library: str
    class_name: str
    sizes: type[C]
    build: Callable[[C], M]
    read: Callable[[Json], C]
    write: Callable[[C], Json]
    keys: Callable[[C, Tensors | None], KeyMap]
    stem: str = "diffusion_pytorch_model"
    settle: Callable[[C, Tensors], C] = lambda config, _: config
    strip: Callable[[Tensors], Tensors] = lambda tensors: tensors
    complete: Callable[[C, Tensors], tuple[C, Tensors]] = lambda config, state: (config, state)
    tokenizer: str | None = None
    tokenizer_class: str = ""
    adapted: tuple[str, ...] = ()
    original: OriginalFile[C] | None = None

    def config(self, folder: Folder, name: str | None = None) -> C:
        """The network's configuration; CheckpointError when it is missing or of another network."""
        return self.read(folder.config(name or self.name, self.class_name))

    def open(
        self,
        source: Source,
        variant: str | None = None,
        *,
        name: str | None = None,
        prefix: str = "",
        config: C | None = None,
    ) -> LazyNetwork[C, M]:
        """Opens the network in either layout, in a folder as the component `name` (by default its own) behind `prefix`.
        `config` replaces the configuration in the folder. Raises CheckpointError for missing or damaged configurations
        and weights; the weights of a `config_only` folder are not read."""
        if isinstance(source, OriginalFolder):
            return self._open_original(source, variant)
        component = f"{prefix}{name or self.name}"
        known = self.config(source, component) if config is None else config
        called = (name or self.name).replace("_", " ")
        if source.config_only:
            keys = self.keys(known, None)
            return LazyNetwork(known, LazyWeights(dict, keys, lambda: self.build(known), called, config_only=True))

        def tensors() -> Tensors:
            return self.strip(source.weights(component, variant))

        found = tensors()
        final = self.settle(known, found)
        return LazyNetwork(final, LazyWeights(tensors, self.keys(final, found), lambda: self.build(final), called))

    def _open_original(self, folder: OriginalFolder, variant: str | None) -> LazyNetwork[C, M]:
        file = self._original_file()
        path = file.place(folder, variant)

        def tensors() -> Tensors:
            return file.read(folder, path)

        found = tensors()
        try:
            config = file.infer(found, config_beside(path))
            keys = file.keys(config, found)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", error.hint) from error
        weights = LazyWeights(
            tensors, keys, lambda: self.build(config), f"{self.name.replace('_', ' ')} of {path.name}", path
        )
        return LazyNetwork(config, weights)

    def read_tokenizer(self, source: Source, prefix: str = "") -> Tokenizer:
        """The tokenizer that belongs to a text encoder; CheckpointError or TokenizerError without."""
        folder = self.tokenizer_folder(source, prefix)
        if isinstance(source, Folder):
            return load_tokenizer(folder, None if prefix else source.components.get(folder.name))
        pad_id = self._original_file().pad_id
        if pad_id is None:
            return load_tokenizer(folder)
        return replace(load_tokenizer(folder, self.tokenizer_class), pad_id=pad_id)

    def tokenizer_folder(self, source: Source, prefix: str = "") -> Path:
        """The folder of that tokenizer; CheckpointError or TokenizerError when there is none."""
        if isinstance(source, Folder):
            return source.component(f"{prefix}{self.tokenizer}")
        find = self._original_file().tokenizer
        assert find is not None, f"{self.name} reads no texts"
        return find(source)

    def _original_file(self) -> OriginalFile[C]:
        if self.original is None:
            raise CheckpointError(f"Original files hold no {self.name}.", "Give a folder in diffusers layout.")
        return self.original

    def save_original(self, folder: OriginalFolder, variant: str, network: nn.Module) -> Tensors:
        """Writes the network as the original release holds it, and returns its tensors under those names."""
        return self._original_file().save(folder, variant, config_of(network), network.state_dict())

    def save(
        self,
        root: Path,
        network: nn.Module,
        name: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        stated: Json | None = None,
        variant: str | None = None,
    ) -> None:
        """Writes configuration and weights as a component; `dtype` None keeps dtypes, `stated` are further values of
        config.json. Raises CheckpointError for what the layout cannot hold, and OutputError."""
        config, state = self.complete(config_of(network), network.state_dict())
        tensors = {n: t if dtype is None else t.to(dtype) for n, t in state.items()}
        json = {**self.write(config), **(stated or {})}
        foreign = self.keys(config, None).to_foreign(tensors)
        save_component(root, name or self.name, json, foreign, self.stem, variant=variant)


Component = ComponentSpec[Any, Any]
"""Of any network, as tables hold them."""


def config_of(network: nn.Module) -> Any:
    """The configuration that a network was built of."""
    return network.config


@dataclass(frozen=True)
class CheckpointSpec:
    """The networks and folder classes of a generation.

    `decoders`, `priors` and `combined` are classes in the model index: for text, for inpainting, others; `few_steps` is
    that of a "flash" U-Net. `files` are the original files; `schedules` are the scheduler configurations, by component,
    of folders that are made from those.
    """

    decoder: tuple[Component, ...]
    decoders: tuple[str, ...]
    prior: tuple[Component, ...] = ()
    priors: tuple[str, ...] = ()
    combined: tuple[str, ...] = ()
    few_steps: str | None = None
    files: OriginalFiles | None = None
    schedules: Mapping[str, Json] = field(default_factory=dict)

    @property
    def folders(self) -> tuple[str, ...]:
        """The classes of all its folders."""
        few_steps = () if self.few_steps is None else (self.few_steps,)
        return (*self.decoders, *few_steps, *self.priors, *self.combined)

    def holds(self, source: Source) -> bool:
        """Whether a source is of this generation."""
        if isinstance(source, OriginalFolder):
            return source.files == self.files
        return source.kind in self.folders

    def has_decoder(self, source: Source) -> bool:
        """Whether a source of this generation holds a decoder."""
        return source.has_decoder if isinstance(source, OriginalFolder) else source.kind not in self.priors

    def has_prior(self, source: Source) -> bool:
        """Whether a source of this generation holds a prior."""
        if isinstance(source, OriginalFolder):
            return source.has_prior
        return source.kind in (*self.priors, *self.combined)

    def prefix(self, source: Source) -> str:
        """The prefix of a prior's components in a source."""
        return PRIOR_PREFIX if source.kind in self.combined else ""
