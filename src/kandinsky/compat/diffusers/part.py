"""What all networks share under the class names of existing code: loading, saving, adapters and their weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from kandinsky.checkpoints.components import Component, config_of
from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.compat.diffusers import adapters
from kandinsky.compat.diffusers.attention import PROCESSORS, check_processors
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.outputs import Config
from kandinsky.compat.diffusers.surface import NOT_OFFERED, accepted, lacking, refuse
from kandinsky.compat.diffusers.weights import (
    check_saving,
    foreign_state,
    load_foreign,
    size_in_bytes,
    write_pickles,
)
from kandinsky.core.errors import CheckpointError
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
        self.lora = adapters.Adapters()
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

    @staticmethod
    def as_native(answer: Any) -> Any:
        """What the network of ours says, of what `forward` returned."""
        return answer[0]

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

    add_adapter, load_lora_adapter = adapters.add_adapter, adapters.load_lora_adapter
    load_attn_procs, save_lora_adapter = adapters.load_attn_procs, adapters.save_lora_adapter
    set_adapters, set_adapter = adapters.set_adapters, adapters.set_adapter
    active_adapters, delete_adapters = adapters.active_adapters, adapters.delete_adapters
    enable_lora = enable_adapters = adapters.enable_lora
    disable_lora = disable_adapters = adapters.disable_lora
    fuse_lora, unfuse_lora, unload_lora = adapters.fuse_lora, adapters.unfuse_lora, adapters.unload_lora

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
        return {name: self._processors.get(name, PROCESSORS["AttnAddedKVProcessor2_0"]()) for name in names}

    def set_attn_processor(self, processor: object) -> None:
        """Accepts the published processors; raises RequestError for one that might change the attention.

        Attention here is fused and exact whichever of them is set, so that setting one changes no image.
        """
        self.__dict__["_processors"] = check_processors(processor, list(self.attn_processors))

    def set_default_attn_processor(self) -> None:
        """Sets what was set at first."""
        self.__dict__["_processors"] = {}

    enable_xformers_memory_efficient_attention = accepted("attention is memory-efficient without it.", "attention_op")
    disable_xformers_memory_efficient_attention = accepted("attention stays memory-efficient.")


def _sizes(config: Mapping[str, object]) -> dict[str, object]:
    """A configuration without what training adds to it."""
    return {name: value for name, value in config.items() if name not in EMA_KEYS}
