"""Where components lie, and the keywords of `from_pretrained` that say so."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import CONFIGS, Folder, open_folder
from kandinsky.checkpoints.files import INDEX
from kandinsky.checkpoints.hub import resolve
from kandinsky.checkpoints.weight_files import parse, variants
from kandinsky.core.errors import CheckpointError, HubError, RequestError, nearest
from kandinsky.engine.devices import choose_device, choose_dtype
from kandinsky.engine.embedded import EMBEDDED, embedded_folder

_LOADING = (
    "cache_dir device_map dtype force_download local_files_only revision token torch_dtype use_safetensors variant"
)
_IGNORED = (
    "controlnet custom_revision feature_extractor image_encoder mirror offload_buffers provider provider_options "
    "proxies requires_safety_checker resume_download safety_checker sess_options text_encoder_2 tokenizer_2 "
    "transformer trust_remote_code use_auth_token use_onnx vae"
)
LOADING = tuple(_LOADING.split())
"""Keywords that act wherever something is loaded."""
HARMLESS = frozenset({"disable_mmap", "low_cpu_mem_usage", "offload_folder", "offload_state_dict", "max_memory"})
"""Keywords that say how memory is used while diffusers loads; what is loaded is the same."""
IGNORED = frozenset(_IGNORED.split())
"""Keywords that diffusers ignores for Kandinsky; they are warned of here too."""
QUANTIZED = "kandinsky.load(quantize=...) holds weights in fewer bits."
REFUSED: Mapping[str, str] = {
    "custom_pipeline": "Nothing of a repository is executed; use the class itself.",
    "force_download": "Delete the model's folder in the cache; its files are checked against their sums.",
    "from_flax": "Convert the weights to safetensors.",
    "ignore_mismatched_sizes": "Weights must fit their configuration.",
    "load_in_4bit": QUANTIZED,
    "load_in_8bit": QUANTIZED,
    "output_loading_info": "Weights that do not fit raise an error.",
    "parallel_config": "One device draws; kandinsky's jobs use several.",
    "quantization_config": QUANTIZED,
    "return_commit_hash": "The folder's name in the cache is the commit.",
    "return_unused_kwargs": "What a class does not read is left out.",
    "use_flashpack": "Weights are read from safetensors.",
}
"""Keywords that would act in diffusers and cannot here, with what to do instead; None and False are no request."""
Component = str | None


class LoadingError(CheckpointError, OSError, ValueError):
    """What CheckpointError is, caught by code that expects the errors of diffusers."""


def _as_there(kind: type[CheckpointError]) -> type[CheckpointError]:
    """The same error, caught by code that expects the errors of diffusers, too."""
    return type(kind.__name__, (kind, OSError, ValueError), {"__doc__": kind.__doc__, "__module__": kind.__module__})


@contextmanager
def loading_errors() -> Iterator[None]:
    """Raises the errors of checkpoints as ones that are an OSError and a ValueError too."""
    try:
        yield
    except CheckpointError as error:
        if isinstance(error, OSError):
            raise
        raise _as_there(type(error))(error.message, error.hint) from error


@dataclass(frozen=True)
class Loading:
    """The keywords of `from_pretrained` that say which files are read, and where the weights go."""

    dtype: object = None
    device_map: object = None
    variant: str | None = None
    revision: str | None = None
    cache: Path | None = None
    token: str | None = None
    offline: bool = False
    safetensors: bool | None = None

    @classmethod
    def of(cls, keywords: Mapping[str, object]) -> "Loading":
        """The settings among `keywords`; RequestError for a token that is none."""
        given = {name: value for name, value in keywords.items() if name in LOADING and value is not None}
        token, cache = given.get("token"), given.get("cache_dir")
        if token is False:
            raise RequestError("token=False would hide the stored token.", "Unset HF_TOKEN instead.")
        return cls(
            given.get("dtype", given.get("torch_dtype")),
            given.get("device_map"),
            cast(Component, given.get("variant")),
            cast(Component, given.get("revision")),
            None if cache is None else Path(str(cache)).expanduser(),
            token if isinstance(token, str) else None,
            bool(given.get("local_files_only")),
            cast("bool | None", given.get("use_safetensors")),
        )

    def model(self, path: str | Path, components: Iterable[str] | None = None) -> Folder:
        """The opened folder of a model on the disk, of a Hub id, or of the embedded one by its name.

        Raises CheckpointError when it is not there.
        """
        if str(path) == EMBEDDED:
            return open_folder(embedded_folder())
        found = resolve(
            self.cached(path),
            revision=self.revision,
            variant=self.variant,
            components=components,
            token=self.token,
            cache=self.cache,
        )
        return open_folder(found)

    def cached(self, path: str | Path) -> str | Path:
        """A path, or with `local_files_only` the folder of a Hub id in the cache; HubError when it is not there."""
        if not self.offline or Path(path).expanduser().exists():
            return path
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return snapshot_download(str(path), revision=self.revision, cache_dir=self.cache, local_files_only=True)
        except (HFValidationError, LocalEntryNotFoundError) as error:
            raise HubError(f"{path} is not in the cache.", "Leave local_files_only out to download it.") from error

    def component(self, path: str | Path, subfolder: str | None) -> tuple[Folder, str]:
        """The opened folder around a component, and the component's name in it.

        `path` is a model's folder or Hub id with the component's name as `subfolder`, or the component's own
        folder. Raises CheckpointError when it is not there.
        """
        local = Path(path).expanduser()
        if local.is_dir():
            root = local if subfolder is None else local / subfolder
            if not (root / INDEX).is_file() and any((root / name).is_file() for name in CONFIGS):
                return Folder(root.parent, {}), root.name
        folder = self.model(path, None if subfolder is None else (subfolder,))
        return folder, folder.component(subfolder or "").name

    def weights_of(self, folder: Folder, name: str) -> Component:
        """The variant to read of a component: the one asked for where it has that, else the plain one.

        Raises CheckpointError where `use_safetensors` asks for files that are not read.
        """
        files = [found for path in folder.component(name).iterdir() if (found := parse(path.name))]
        safe = any(file.kind == "safetensors" for file in files)
        if files and self.safetensors is not None and self.safetensors != safe:
            there = "safetensors, which are read" if safe else "pickles only"
            raise CheckpointError(
                f"use_safetensors is {self.safetensors}, and {folder.root / name} holds {there}.",
                "Leave use_safetensors out.",
            )
        return self.variant if self.variant in variants(file.file for file in files) else None

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype of a component, float32 unless told otherwise; RequestError for what is none."""
        asked = self.dtype
        if isinstance(asked, Mapping):
            asked = asked.get(name, asked.get("default"))
        return choose_dtype(cast("str | torch.dtype", asked or torch.float32), torch.device("cpu"))

    @property
    def device(self) -> torch.device | None:
        """Where `device_map` puts networks, None for main memory; RequestError for another map."""
        asked = self.device_map
        if isinstance(asked, Mapping) and len(set(asked.values())) == 1:
            asked = next(iter(asked.values()))
        if isinstance(asked, Mapping):
            raise RequestError(f"device_map is {asked!r}.", "One device holds all; give its name.")
        if asked is None or asked in ("auto", "balanced"):
            return None if asked is None else choose_device()
        return choose_device(f"cuda:{asked}" if isinstance(asked, int) else cast(str, asked))

    def put(self, network: nn.Module) -> None:
        """Moves a network to where it was asked to be."""
        if self.device is not None:
            network.to(self.device)


def check_keywords(keywords: Iterable[str] | Mapping[str, object], who: str, known: Collection[str]) -> None:
    """Warns of keywords that diffusers ignores; RequestError for those that cannot act here and for misspelt ones."""
    values = keywords if isinstance(keywords, Mapping) else dict.fromkeys(keywords)
    for name in sorted(set(values) - set(known) | {"force_download"} & set(values)):
        if name in REFUSED:
            if values[name] is not None and values[name] is not False:
                raise RequestError(f"{who} cannot act on {name}={values[name]!r}.", REFUSED[name])
        elif name not in HARMLESS:
            if name not in IGNORED and get_close_matches(name, known, 1, 0.8):
                raise RequestError(f"A {who} has no component {name!r}.", nearest(name, known))
            warnings.warn(f"A {who} takes no {name!r}; it is ignored.", UserWarning, stacklevel=5)
