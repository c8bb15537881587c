"""What all pipelines share: they are made of components, loaded, moved, offloaded and saved by the same
words."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

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
from kandinsky.compat.diffusers.surface import accepted
from kandinsky.compat.diffusers.tokenizers import CLIPTokenizer
from kandinsky.compat.diffusers.weights import check_saving
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.engine.devices import DTYPES, choose_device

LOG = logging.getLogger("diffusers.pipelines.pipeline_utils")
"""Code that watches what diffusers loads reads it here."""


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
        for name, part in parts.items():
            LOG.info("Loaded %s as %s from %s.", name, type(part).__name__, places[name][0].root)
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

    maybe_free_model_hooks = accepted("what is offloaded is back in main memory after every call.")

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

    enable_xformers_memory_efficient_attention = accepted("attention is memory-efficient without it.", "attention_op")
    disable_xformers_memory_efficient_attention = accepted("attention stays memory-efficient.")
    enable_attention_slicing = accepted("fused attention never holds a whole attention matrix.", "slice_size")
    disable_attention_slicing = accepted("nothing was sliced.")
    load_lora_weights, save_lora_weights = loras.load_lora_weights, classmethod(loras.save_lora_weights)
    set_adapters, delete_adapters = loras.set_adapters, loras.delete_adapters
    get_active_adapters, get_list_adapters = loras.get_active_adapters, loras.get_list_adapters
    fuse_lora, unfuse_lora, fused_loras = loras.fuse_lora, loras.unfuse_lora, property(loras.fused_loras)
    num_fused_loras = property(lambda self: len(self.fused_loras))
    enable_lora = loras.on_parts("enable_lora", "Lets the active adapters act.")
    disable_lora = loras.on_parts("disable_lora", "Lets no adapter act.")
    unload_lora_weights = loras.on_parts("unload_lora", "Takes all adapters off; what is fused stays.")
    load_textual_inversion, unload_textual_inversion = loras.load_textual_inversion, loras.unload_textual_inversion

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
