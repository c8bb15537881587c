"""What all pipelines share: they are made of components, loaded, moved, offloaded and saved by the same
words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.checkpoints.diffusers_folder import Folder, write_model_index
from kandinsky.compat.calls import signed
from kandinsky.compat.diffusers import loras, offload
from kandinsky.compat.diffusers.base import BasePipeline
from kandinsky.compat.diffusers.files import model_folder
from kandinsky.compat.diffusers.models import PARTS, Part, original_of
from kandinsky.compat.diffusers.outputs import Config
from kandinsky.compat.diffusers.schedulers import SchedulerMixin, load_scheduler
from kandinsky.compat.diffusers.tokenizers import CLIPImageProcessor, CLIPTokenizer
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.engine import loras as adapters
from kandinsky.engine.devices import DTYPES, choose_device, choose_dtype


class DiffusionPipeline(BasePipeline):
    """A pipeline; `prior_*` of its components come from the prior's folder where the decoder's own has none."""

    def __init__(self, **components: object) -> None:
        super().__init__(**components)
        self._offload: offload.Offload | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: str | torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        use_safetensors: bool | None = None,
        prior: str | Path | None = None,
        **components: object,
    ) -> Any:
        """Loads a pipeline from a folder or a Hub id, in float32 unless told otherwise; components given
        are used.

        On `DiffusionPipeline` itself the folder's index says which class is made. `prior` is the folder
        or Hub id of the prior for the combined ones; without it the decoder's README says which. Raises
        CheckpointError for what is missing.
        """
        told = {"revision": revision, "variant": variant}
        index = model_folder(pretrained_model_name_or_path, **told, components=())
        kind = cls if cls.COMPONENTS else _class_of(index)
        given = {name: value for name, value in components.items() if name in kind.COMPONENTS}
        _refuse_unknown(set(components) - set(given), kind)
        dtype = torch.float32 if torch_dtype is None else choose_dtype(torch_dtype, torch.device("cpu"))
        own = {name: _own_name(index, kind, name) for name in kind.COMPONENTS if name not in given}
        here = {name: place for name, place in own.items() if place in index.components}
        folder = model_folder(pretrained_model_name_or_path, **told, components=here.values())
        places = {name: (folder, place) for name, place in here.items()}
        missing = [name for name in own if name not in here]
        if missing:
            source = _prior_folder(folder, prior, missing, variant)
            places |= {name: (source, _prior_name(source, name)) for name in missing}
        parts = {name: load_component(place, own, name, dtype, variant) for name, (place, own) in places.items()}
        return kind(**{name: {**parts, **given}[name] for name in kind.COMPONENTS})

    @classmethod
    def from_pipe(cls, pipeline: "DiffusionPipeline", **changes: object) -> Any:
        """A pipeline of this class on the components of another; `changes` replace some of them."""
        parts = {**pipeline.components, **changes}
        if missing := [name for name in cls.COMPONENTS if name not in parts]:
            raise RequestError(
                f"A {type(pipeline).__name__} has no {missing[0]}, which a {cls.__name__} needs.",
                f"Give {missing[0]}=.",
            )
        return cls(**{name: parts[name] for name in cls.COMPONENTS})

    def save_pretrained(self, save_directory: str | Path, variant: str | None = None, **ignored: Any) -> None:
        """Writes all components and the index into a folder in diffusers layout; raises OutputError.

        RequestError for a pipeline without some of them.
        """
        if missing := [name for name, component in self.components.items() if component is None]:
            raise RequestError(f"There is no {missing[0]} to save.", "Save a pipeline that has all components.")
        root = Path(save_directory)
        index = {}
        for name, component in self.components.items():
            saved = original_of(component)
            if isinstance(saved, Part):
                saved.save_pretrained(root / name, variant=variant)
            else:
                saved.save_pretrained(root / name)
            if isinstance(saved, Part):
                index[name] = (saved.FORMAT.library, type(saved).__name__)
            else:
                library = "diffusers" if isinstance(saved, SchedulerMixin) else "transformers"
                kind = saved.kind if isinstance(saved, CLIPTokenizer) else type(saved).__name__
                index[name] = (library, kind)
        write_model_index(root, type(self).__name__, index)

    @property
    def components(self) -> dict[str, Any]:
        """The components by name, as a pipeline of another class takes them (`Other(**pipe.components)`)."""
        return {name: getattr(self, name) for name in self.COMPONENTS}

    @property
    def config(self) -> Config:
        """The class of each component, by name."""
        classes = {name: type(original_of(part)).__name__ for name, part in self.components.items()}
        return Config({"_class_name": type(self).__name__, **classes})

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        if self._offload is not None:
            return self._offload.device
        return next(next(iter(self._modules.values())).parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What its networks compute in."""
        return next(next(iter(self._modules.values())).parameters()).dtype

    def to(self, *arguments: Any, device: Any = None, dtype: torch.dtype | None = None, **ignored: Any) -> Self:
        """Moves all networks to a device, a dtype, or both; raises RequestError for a device that is not
        there."""
        for argument in arguments:
            if isinstance(argument, torch.dtype):
                dtype = argument
            else:
                device = argument
        place = None if device is None else choose_device(device)
        if dtype is not None and dtype not in DTYPES.values():
            raise RequestError(f"{dtype} is no dtype to compute in.", f"Known: {', '.join(DTYPES)}.")
        if place is not None and self._offload is not None:
            self._offload.remove()
            self._offload = None
        for module in self._modules.values():
            module.to(device=place, dtype=dtype)
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: object = None) -> None:
        """Keeps the networks in main memory and each on the accelerator only while it works.

        Without an accelerator nothing moves.
        """
        self._offload_by(offload.whole, gpu_id, device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: object = None) -> None:
        """As `enable_model_cpu_offload`, but layer by layer: least memory, and much slower."""
        self._offload_by(offload.layered, gpu_id, device)

    def _offload_by(self, make: Any, gpu_id: int | None, device: Any) -> None:
        place = choose_device(device)
        if gpu_id is not None and place.type == "cuda":
            place = choose_device(f"cuda:{gpu_id}")
        self.to("cpu")
        if place.type != "cpu":
            self._offload = make(self._modules, place)

    def maybe_free_model_hooks(self) -> None:
        """Accepted: what is offloaded is back in main memory after every call."""

    def remove_all_hooks(self) -> None:
        """Ends offloading; the networks stay in main memory."""
        if self._offload is not None:
            self.to("cpu")

    @contextmanager
    def _ready(self, *names: str) -> Iterator[None]:
        """The named components are where they compute, until the block ends."""
        if self._offload is None:
            yield
            return
        with self._offload.loaded([name for name in names if name in self._modules]):
            yield

    def enable_xformers_memory_efficient_attention(self, *_: object, **__: object) -> None:
        """Accepted: attention is fused and memory-efficient without it."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Accepted: attention stays fused."""

    def enable_attention_slicing(self, slice_size: object = "auto") -> None:
        """Accepted: fused attention never holds a whole attention matrix, so there is nothing to slice."""

    def disable_attention_slicing(self) -> None:
        """Accepted: nothing was sliced."""

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path,
        adapter_name: str | None = None,
        weight_name: str | None = None,
        **ignored: object,
    ) -> None:
        """Adds an adapter from a file, a folder or a Hub id; raises CheckpointError when it does not fit."""
        loras.load_lora(self, pretrained_model_name_or_path_or_dict, weight_name, adapter_name)

    def unload_lora_weights(self) -> None:
        """Takes all adapters off; images are then bit for bit those without."""
        adapters.unload_lora(loras.networks_of(self))

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Takes the named adapters off; raises RequestError for one that is not there."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            adapters.unload_lora(loras.networks_of(self), name)

    def set_adapters(self, adapter_names: str | list[str], adapter_weights: float | list[float] | None = None) -> None:
        """Lets only these adapters act, as strongly as the weights say."""
        loras.set_adapters(self, adapter_names, adapter_weights)

    def get_active_adapters(self) -> list[str]:
        """The names of the adapters that act."""
        return [name for name, scale in adapters.applied(loras.networks_of(self)).items() if scale]

    def fuse_lora(self, **ignored: object) -> None:
        """Adds the adapters to the weights, as strongly as they act now."""
        adapters.merge(loras.networks_of(self))

    def unfuse_lora(self, **ignored: object) -> None:
        """Undoes `fuse_lora` to the last bit."""
        adapters.unmerge(loras.networks_of(self))

    def load_textual_inversion(
        self, pretrained_model_name_or_path: str | Path, weight_name: str | None = None, **ignored: object
    ) -> None:
        """Teaches the text encoders the learned words of a file, a folder or a Hub id."""
        loras.load_words(self, pretrained_model_name_or_path, weight_name)

    @property
    def _execution_device(self) -> torch.device:
        return self.device


def made_of(components: tuple[str, ...], base: type[DiffusionPipeline] = DiffusionPipeline) -> Any:
    """The `__init__` of a pipeline of these components, each of which must be given."""
    return signed(
        lambda pipe, given: base.__init__(pipe, **given),
        " ".join(components),
        {},
        "A pipeline of the given components.",
        "__init__",
    )


def load_component(folder: Folder, name: str, role: str, dtype: torch.dtype, variant: str | None) -> Any:
    """Component `name` of a folder, by the class that the folder names for it; `role` is its name in a
    pipeline.

    Raises CheckpointError for a class that is not known here.
    """
    if role.endswith("scheduler"):
        return load_scheduler(folder, name)
    if role.endswith("tokenizer"):
        return CLIPTokenizer.from_folder(folder, name)
    if role.endswith("image_processor"):
        return CLIPImageProcessor.from_folder(folder, name)
    kind = folder.components.get(name, "")
    if kind not in PARTS:
        raise CheckpointError(f"{folder.root / name} is a {kind or 'component without a class'}.", nearest(kind, PARTS))
    return PARTS[kind].from_folder(folder, name, dtype, variant)


def _class_of(folder: Folder) -> type[DiffusionPipeline]:
    from kandinsky.compat.diffusers.pipelines import PIPELINES

    if folder.kind not in PIPELINES:
        raise CheckpointError(
            f"{folder.root} holds a {folder.kind or 'model without a name'}.", nearest(folder.kind, PIPELINES)
        )
    return PIPELINES[folder.kind]


def _own_name(folder: Folder, kind: type[DiffusionPipeline], name: str) -> str:
    """The folder of a component: in a model of both halves the prior's are told apart by a prefix."""
    whole = f"{PRIOR_PREFIX}prior" in folder.components
    return PRIOR_PREFIX + name if whole and "prior" in kind.COMPONENTS else name


def _prior_name(source: Folder, name: str) -> str:
    """The folder of a prior's component where the prior lies apart, alone or in a model of both halves."""
    alone = name.removeprefix(PRIOR_PREFIX)
    return name if f"{PRIOR_PREFIX}prior" in source.components else alone


_IGNORED = (
    "cache_dir",
    "custom_pipeline",
    "device_map",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "requires_safety_checker",
    "safety_checker",
    "token",
)


def _refuse_unknown(names: set[str], kind: type[DiffusionPipeline]) -> None:
    if unknown := sorted(names - set(_IGNORED)):
        raise RequestError(f"A {kind.__name__} has no component {unknown[0]!r}.", nearest(unknown[0], kind.COMPONENTS))


def _prior_folder(folder: Folder, prior: str | Path | None, missing: list[str], variant: str | None) -> Folder:
    """The folder with the components that the decoder's lacks."""
    if others := [name for name in missing if not name.startswith(PRIOR_PREFIX)]:
        raise CheckpointError(
            f"{folder.root} has no {others[0]}.", f"It holds a {folder.kind}; is it the model that you meant?"
        )
    named = prior or folder.prior_reference()
    if named is None:
        raise CheckpointError(
            f"{folder.root} is a decoder without a prior, and its README names none.",
            f"Give prior= a folder or a Hub id, or {missing[0]}= and the other components of one.",
        )
    components = [name.removeprefix(PRIOR_PREFIX) for name in missing]
    return model_folder(named, variant=variant, components=None if Path(named).exists() else components)
