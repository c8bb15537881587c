"""What all pipelines share: they are made of components, loaded, moved, offloaded and saved by the same
words."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.diffusers_folder import Folder, write_model_index
from kandinsky.compat.calls import signed
from kandinsky.compat.diffusers import loras, offload
from kandinsky.compat.diffusers.base import BasePipeline
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.loading import (
    OWN_KEYWORDS,
    absent,
    check_variant,
    load_component,
    own_name,
    prior_folder,
    prior_name,
)
from kandinsky.compat.diffusers.models import original_of
from kandinsky.compat.diffusers.outputs import Config
from kandinsky.compat.diffusers.part import WHOLE, Part
from kandinsky.compat.diffusers.schedulers import SchedulerMixin
from kandinsky.compat.diffusers.tokenizers import CLIPTokenizer
from kandinsky.compat.diffusers.weights import check_saving
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.engine.devices import DTYPES, choose_device


class DiffusionPipeline(BasePipeline):
    """A pipeline; `prior_*` of its components come from the prior's folder where the decoder's own has none."""

    _optional_components: ClassVar[list[str]] = []
    _load_connected_pipes: ClassVar[bool] = False

    def __init__(self, **components: object) -> None:
        super().__init__(**components)
        self._offload: offload.Offload | None = None

    @classmethod
    @loading_errors()
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **keywords: object) -> Any:
        """Loads a pipeline from a folder or a Hub id, in float32 unless told otherwise; components given are used.

        On `DiffusionPipeline` itself the folder's index says which class is made, with `load_connected_pipeline`
        the one that holds the prior too. `prior` is the folder or Hub id of the prior for the combined ones;
        without it the decoder's README says which. `dtype` (`torch_dtype`) is one for all, or a mapping by
        component with a "default". Raises CheckpointError for what is missing.
        """
        settings = Loading.of(keywords)
        index = settings.model(pretrained_model_name_or_path, ())
        kind = cls if cls.COMPONENTS else _class_of(index, bool(keywords.get("load_connected_pipeline")))
        check_keywords(keywords, kind.__name__, (*kind.COMPONENTS, *LOADING, *OWN_KEYWORDS))
        kind._check_folder(index)
        given = {name: value for name, value in keywords.items() if name in kind.COMPONENTS}
        own = {name: own_name(index, kind.COMPONENTS, name) for name in kind.COMPONENTS if name not in given}
        here = {name: place for name, place in own.items() if place in index.components}
        folder = settings.model(pretrained_model_name_or_path, here.values())
        places = {name: (folder, place) for name, place in here.items()}
        if missing := [name for name in own if name not in here and name not in absent(index)]:
            source = prior_folder(folder, keywords.get("prior"), missing, replace(settings, revision=None))
            places |= {name: (source, prior_name(source, name)) for name in missing}
        check_variant(settings, places.values())
        parts = {name: load_component(place, own, name, settings) for name, (place, own) in places.items()}
        made = kind(**{name: {**parts, **given}.get(name) for name in kind.COMPONENTS})
        return made if settings.device is None else made.to(settings.device)

    @classmethod
    def _check_folder(cls, folder: Folder) -> None:
        """Raises CheckpointError for a folder that pipelines of this class cannot draw from."""

    @classmethod
    @loading_errors()
    def download(cls, pretrained_model_name: str | Path, **keywords: object) -> str:
        """The folder of a model, fetched into the cache where it is not there; a connected prior's is fetched too.

        Raises CheckpointError for what cannot be had.
        """
        settings = Loading.of(keywords)
        index = settings.model(pretrained_model_name, ())
        check_keywords(keywords, cls.__name__, (*index.components, *LOADING, *OWN_KEYWORDS))
        folder = settings.model(pretrained_model_name, [name for name in index.components if name not in keywords])
        prior = keywords.get("prior") or folder.prior_reference()
        if keywords.get("load_connected_pipeline") and prior is not None:
            replace(settings, revision=None).model(str(prior))
        return str(folder.root)

    @classmethod
    def from_pipe(cls, pipeline: "DiffusionPipeline", **changes: object) -> Any:
        """A pipeline of this class on the components of another; `changes` replace some of them.

        `dtype` (`torch_dtype`) is what all networks compute in from then on. Raises RequestError for a change of
        no component.
        """
        dtypes: list[Any] = [changes.pop(name, None) for name in ("dtype", "torch_dtype")]
        if unknown := sorted(set(changes) - set(cls.COMPONENTS)):
            raise RequestError(
                f"A {cls.__name__} has no component {unknown[0]!r}.", nearest(unknown[0], cls.COMPONENTS)
            )
        parts = {**pipeline.components, **changes}
        if missing := [name for name in cls.COMPONENTS if name not in parts]:
            raise RequestError(
                f"A {type(pipeline).__name__} has no {missing[0]}, which a {cls.__name__} needs.",
                f"Give {missing[0]}=.",
            )
        made = cls(**{name: parts[name] for name in cls.COMPONENTS})
        dtype = next((one for one in dtypes if one is not None), None)
        return made if dtype is None else made.to(dtype=dtype)

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **keywords: object,
    ) -> None:
        """Writes all components and the index into a folder in diffusers layout; raises OutputError.

        `max_shard_size` is the most that one file of weights holds, in bytes or as "5GB". A component that is
        None is written as such. RequestError for what is not done here, such as `push_to_hub`.
        """
        check_saving(keywords)
        root = Path(save_directory)
        index: dict[str, tuple[str | None, str | None]] = {}
        for name, component in self.components.items():
            saved = original_of(component)
            index[name] = (None, None)
            if isinstance(saved, Part):
                saved.save_pretrained(
                    root / name,
                    safe_serialization=safe_serialization,
                    variant=variant,
                    max_shard_size=max_shard_size or WHOLE,
                )
                index[name] = (saved.FORMAT.library, type(saved).__name__)
            elif saved is not None:
                saved.save_pretrained(root / name)
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
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        **keywords: object,
    ) -> None:
        """Adds an adapter of tensors, a file, a folder or a Hub id, the only one that acts from then on.

        Raises CheckpointError when it does not fit.
        """
        loras.load_lora(self, pretrained_model_name_or_path_or_dict, adapter_name, keywords)

    @classmethod
    def save_lora_weights(
        cls,
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
        if is_main_process:
            loras.save_layers(Path(save_directory), layers, settings, weight_name, safe_serialization)

    def unload_lora_weights(self) -> None:
        """Takes all adapters off; what is fused stays. Without that, images are bit for bit those without."""
        for part in loras.parts_of(self).values():
            part.unload_lora()

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Takes the named adapters off; raises RequestError for one that is not there."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            loras.parts_with(self, name)
        for part in loras.parts_of(self).values():
            part.delete_adapters([name for name in names if name in part.lora.scales])

    def set_adapters(self, adapter_names: str | list[str], adapter_weights: Any = None) -> None:
        """Lets only these adapters act, as strongly as the weights say."""
        loras.set_adapters(self, adapter_names, adapter_weights)

    def get_active_adapters(self) -> list[str]:
        """The names of the adapters that act."""
        return list(dict.fromkeys(name for part in loras.parts_of(self).values() for name in part.lora.active))

    def get_list_adapters(self) -> dict[str, list[str]]:
        """The names of all adapters, by component."""
        return {name: list(part.lora.scales) for name, part in loras.parts_of(self).items() if part.lora.scales}

    def enable_lora(self) -> None:
        """Lets the active adapters act."""
        for part in loras.parts_of(self).values():
            part.enable_lora()

    def disable_lora(self) -> None:
        """Lets no adapter act."""
        for part in loras.parts_of(self).values():
            part.disable_lora()

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Adds adapters (those named, or the active ones) to the weights, `lora_scale` times as strongly as they act.

        Raises RequestError for a component that takes none and for a name that is not loaded.
        """
        for name in adapter_names or ():
            loras.parts_with(self, name)
        for part in loras.parts_of(self, components or None).values():
            names = None if adapter_names is None else [name for name in adapter_names if name in part.lora.scales]
            part.fuse_lora(lora_scale, safe_fusing, names)

    def unfuse_lora(self, components: list[str] | None = None) -> None:
        """Undoes `fuse_lora` to the last bit."""
        for part in loras.parts_of(self, components or None).values():
            part.unfuse_lora()

    @property
    def fused_loras(self) -> set[str]:
        """The names of the adapters that are fused."""
        return {name for part in loras.parts_of(self).values() for name in part.lora.fused}

    @property
    def num_fused_loras(self) -> int:
        """How many adapters are fused."""
        return len(self.fused_loras)

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: loras.WordSource | Sequence[loras.WordSource],
        token: str | Sequence[str] | None = None,
        **keywords: object,
    ) -> None:
        """Teaches the text encoders learned words, under other names where `token` says so.

        They come from files, folders, Hub ids, mappings of words to tensors, tensors, or several of these.
        """
        loras.load_words(self, pretrained_model_name_or_path, token, keywords)

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


def _class_of(folder: Folder, connected: bool) -> type[DiffusionPipeline]:
    from kandinsky.compat.diffusers.pipelines import PIPELINES

    if folder.kind not in PIPELINES:
        raise CheckpointError(
            f"{folder.root} holds a {folder.kind or 'model without a name'}.", nearest(folder.kind, PIPELINES)
        )
    whole = folder.kind.removesuffix("Pipeline") + "CombinedPipeline"
    return PIPELINES[whole if connected and whole in PIPELINES else folder.kind]
