"""What all networks share under the class names of existing code: loading, saving, adapters and their weights."""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.components import Component, config_of
from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.lora import from_tensors
from kandinsky.compat.diffusers.adapters import Adapters, adapter_of_config, behind, read_adapter, save_adapter
from kandinsky.compat.diffusers.attention import AttnAddedKVProcessor2_0, check_processors
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.outputs import (
    Config,
)
from kandinsky.compat.diffusers.surface import NOT_OFFERED, lacking, refuse
from kandinsky.compat.diffusers.weights import (
    check_saving,
    foreign_state,
    load_foreign,
    size_in_bytes,
    write_pickles,
)
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.networks.blocks import RECOMPUTED

WHOLE = "10GB"
"""The most that one file of weights holds unless told otherwise."""
EMA_KEYS = ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"]
"""What diffusers' EMAModel adds to a configuration, which changes no network."""


class Part(nn.Module):
    """A network that is loaded, moved, adapted and saved in the familiar way; `config` is its file's.

    The constructor makes one with new weights of the values of a config.json. Weights have the names of that
    layout in `state_dict` and `load_state_dict`, those of adapters as peft names them.
    """

    FORMAT: ClassVar[Component]
    TIED: ClassVar[Mapping[str, str]] = {}
    """Second names of tensors in a state dict, which files do not have."""
    is_gradient_checkpointing = False
    _processors: ClassVar[Mapping[str, object]] = {}

    def __init__(self, **config: object) -> None:
        sizes = self.FORMAT.read(_sizes(config))
        self._hold(self.FORMAT.build(sizes), {**self.FORMAT.write(sizes), **config})

    def _hold(self, native: nn.Module, config: Mapping[str, object]) -> None:
        nn.Module.__init__(self)
        self.native = native
        self.lora = Adapters()
        self.config = Config(config)
        self.register_load_state_dict_pre_hook(load_foreign)  # type: ignore[no-untyped-call]

    @classmethod
    def around(cls, native: nn.Module, config: Mapping[str, object]) -> Self:
        """The part that holds a network of ours."""
        made = cls.__new__(cls)
        made._hold(native, config)
        return made

    @classmethod
    @loading_errors()
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **keywords: object
    ) -> Self:
        """Loads the component from a folder or Hub id; raises CheckpointError when it is missing or does not fit."""
        check_keywords(keywords, cls.__name__, LOADING)
        settings = Loading.of(keywords)
        folder, name = settings.component(pretrained_model_name_or_path, subfolder)
        variant = settings.weights_of(folder, name)
        if settings.variant not in (None, variant):
            raise CheckpointError(f"{folder.root / name} has no weights of the variant {settings.variant!r}.")
        made = cls.from_folder(folder, name, settings.dtype_of(name), variant)
        settings.put(made)
        return made

    @classmethod
    def from_folder(
        cls, folder: Folder, name: str, dtype: torch.dtype | None = None, variant: str | None = None
    ) -> Self:
        """Loads a component of an opened folder, in float32 unless told otherwise."""
        config = folder.config(name)
        sizes = cls.FORMAT.read(_sizes(folder.config(name, cls.FORMAT.class_name)))
        native = cls.FORMAT.open(folder, variant, name=name, config=sizes).load(dtype or torch.float32)
        return cls.around(native, config)

    @classmethod
    def from_config(cls, config: Mapping[str, object] | str | Path, **changes: Any) -> Any:
        """A network with new weights of a configuration, or of the one in a folder.

        With `return_unused_kwargs` what is no size of the network comes beside it.
        """
        unused = changes.pop("return_unused_kwargs", False)
        if not isinstance(config, Mapping):
            folder, name = Loading().component(config, changes.pop("subfolder", None))
            config = folder.config(name)
        made = cls(**{**_sizes(config), **changes})
        return (made, {name: config[name] for name in EMA_KEYS if name in config}) if unused else made

    def register_to_config(self, **values: object) -> None:
        """Puts values into the configuration, which are saved with it; the network stays as it is."""
        self.config = Config({**self.config.stated, **values})

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = WHOLE,
        **keywords: object,
    ) -> None:
        """Writes the component into a folder, without adapters; raises OutputError when it cannot be written.

        No file of weights holds more than `max_shard_size`. Without `safe_serialization` they are pickles.
        """
        check_saving({**keywords, "save_function": save_function})
        if not is_main_process:
            return
        target, spec = Path(save_directory), self.FORMAT
        limit, config = size_in_bytes(max_shard_size), {**spec.write(config_of(self.native)), **self.config.stated}
        tensors = foreign_state(self, adapters=False)
        if safe_serialization:
            save_component(
                target.parent, target.name, config, tensors, spec.stem, variant=variant, max_shard_bytes=limit
            )
        else:
            write_pickles(
                target, spec.stem if spec.library == "diffusers" else "pytorch_model", tensors, limit, variant
            )
            save_component(target.parent, target.name, config)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The weights by the names in files, in the network's own memory where they lie there as in files."""
        found = {} if destination is None else destination
        found.update({f"{prefix}{name}": tensor for name, tensor in foreign_state(self, keep_vars=keep_vars).items()})
        return found

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def __getattr__(self, name: str) -> Any:
        if name in NOT_OFFERED["networks"]:
            raise lacking("networks", self, name)
        return super().__getattr__(name)

    def num_parameters(self, only_trainable: bool = False, **others: object) -> int:
        """How many numbers its weights hold."""
        refuse("num_parameters", others)
        return sum(one.numel() for one in self.parameters() if one.requires_grad or not only_trainable)

    def add_adapter(self, adapter_config: object, adapter_name: str = "default") -> None:
        """Adds a new adapter by a LoraConfig of peft and freezes all other weights.

        Raises RequestError for settings that cannot act here, ConfigError for modules that are not there.
        """
        adapter = adapter_of_config(self.native, adapter_config)
        self.native.requires_grad_(False)
        self.lora.add(self.native, adapter_name, adapter.train(self.training), adapter_config)

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        adapter_name: str | None = None,
        **keywords: Any,
    ) -> None:
        """Adds an adapter of tensors, a file, a folder or a Hub id; of its names those behind `prefix` count.

        Raises CheckpointError when it does not fit.
        """
        found = read_adapter(pretrained_model_name_or_path_or_dict, hotswap, type(self).__name__, keywords)
        if prefix is not None:
            found = behind(found, prefix)
            if not found.tensors:
                warnings.warn(f"No tensor of the adapter begins with {prefix!r}.", UserWarning, stacklevel=2)
                return
        adapter = from_tensors(self.native, found.tensors, found.settings).to(self.device, self.dtype)
        self.lora.add(self.native, adapter_name or self.lora.new_name, adapter, found.settings)

    def load_attn_procs(
        self, pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor], **keywords: Any
    ) -> None:
        """As `load_lora_adapter`, of tensors with the names of attention processors or of modules, prefixed or not."""
        found = read_adapter(pretrained_model_name_or_path_or_dict, False, type(self).__name__, keywords)
        inside = next((one for one in map(partial(behind, found), ("unet", "prior")) if one.tensors), found)
        self.load_lora_adapter(inside.tensors, None, **keywords)

    def save_lora_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str = "default",
        upcast_before_saving: bool = False,
        safe_serialization: bool = True,
        weight_name: str | None = None,
    ) -> None:
        """Writes an adapter into a folder, as diffusers' `load_lora_adapter(..., prefix=None)` reads it."""
        dtype = torch.float32 if upcast_before_saving else None
        save_adapter(self, Path(save_directory), adapter_name, weight_name, safe_serialization, dtype)

    def set_adapters(self, adapter_names: str | list[str], weights: Any = None) -> None:
        """Lets only these adapters act, as strongly as the weights say."""
        self.lora.choose(self.native, adapter_names, weights)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Lets only these adapters act, each as strongly as before."""
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        self.lora.choose(self.native, names, [self.lora.scales.get(name, 1.0) for name in names])

    def active_adapters(self) -> list[str]:
        """The names of the adapters that act; RequestError when there is none."""
        if not self.lora.scales:
            raise RequestError("No adapter is loaded.", "Load one first.")
        return list(self.lora.active)

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Takes the named adapters off; what is fused of them stays. RequestError for one that is not there."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self.lora.remove(self.native, name)

    def enable_lora(self) -> None:
        """Lets the active adapters act."""
        self.lora.enable(self.native, True)

    def disable_lora(self) -> None:
        """Lets no adapter act."""
        self.lora.enable(self.native, False)

    enable_adapters, disable_adapters = enable_lora, disable_lora

    def fuse_lora(
        self, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: list[str] | None = None
    ) -> None:
        """Adds adapters (those named, or the active ones) to the weights, `lora_scale` times as strongly as they act.

        With `safe_fusing` ValueError where the sum is not finite; then nothing is fused.
        """
        self.lora.fuse(self.native, lora_scale, safe_fusing, adapter_names)

    def unfuse_lora(self) -> None:
        """Undoes `fuse_lora` to the last bit."""
        self.lora.unfuse(self.native)

    def unload_lora(self) -> None:
        """Takes all adapters off; what is fused stays."""
        for name in list(self.lora.scales):
            self.lora.remove(self.native, name)

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: None = None) -> None:
        """From now on blocks are computed again in the backward pass instead of kept: less memory, more time."""
        from kandinsky.training.activation_checkpointing import recompute

        refuse("enable_gradient_checkpointing", {"gradient_checkpointing_func": gradient_checkpointing_func})
        recompute(self.native)
        self.is_gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Blocks are kept for the backward pass again."""
        for block in self.native.modules():
            for name in RECOMPUTED.get(type(block), ()):
                vars(block).pop(name, None)
        self.is_gradient_checkpointing = False

    @property
    def attn_processors(self) -> dict[str, Any]:
        """A processor by the name of each attention; whichever they are, the one fused attention runs."""
        ends = (".to_q.weight", ".to_q.base_layer.weight")
        found = [name.removesuffix(end) for name in self.state_dict() for end in ends if name.endswith(end)]
        names = [f"{name}.processor" for name in found]
        return {name: self._processors.get(name, AttnAddedKVProcessor2_0()) for name in names}

    def set_attn_processor(self, processor: object) -> None:
        """Accepts the published processors; raises RequestError for one that might change the attention.

        Attention here is fused and exact whichever of them is set, so that setting one changes no image.
        """
        self.__dict__["_processors"] = check_processors(processor, list(self.attn_processors))

    def set_default_attn_processor(self) -> None:
        """Sets what was set at first."""
        self.__dict__["_processors"] = {}

    def enable_xformers_memory_efficient_attention(self, *_: object, **__: object) -> None:
        """Accepted: attention is memory-efficient without it."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Accepted: attention is memory-efficient without it."""


def _sizes(config: Mapping[str, object]) -> dict[str, object]:
    """A configuration without what training adds to it."""
    return {name: value for name, value in config.items() if name not in EMA_KEYS}
