"""Names that code for Kandinsky 3 on MindSpore (mindone) uses: change its import line to this package and it runs here.

They are the pipelines of `kandinsky.compat.diffusers` whose networks run on MindSpore: generators are NumPy's, arrays
are MindSpore's, and without `return_dict=True` a call returns a tuple.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from kandinsky.backends import check_backend

check_backend("mindspore")

import mindspore as ms  # noqa: E402

from kandinsky.backends.mindspore.weights import to_array, to_tensor  # noqa: E402
from kandinsky.compat.calls import signed  # noqa: E402
from kandinsky.compat.diffusers.decoder_t5 import OneTextPipeline  # noqa: E402
from kandinsky.compat.diffusers.files import Loading, check_keywords, loading_errors  # noqa: E402
from kandinsky.compat.diffusers.loading import load_component  # noqa: E402
from kandinsky.compat.diffusers.models import (  # noqa: E402
    Kandinsky3UNet,
    T5EncoderModel,
    VQModel,
    part_of,
)
from kandinsky.compat.diffusers.part import Part  # noqa: E402
from kandinsky.compat.diffusers.pipelines import PIPELINES  # noqa: E402
from kandinsky.compat.diffusers.schedulers import schedule_of  # noqa: E402
from kandinsky.conditioning.one_text import OneTextConditioner  # noqa: E402
from kandinsky.core.errors import RequestError, nearest  # noqa: E402
from kandinsky.engine.pipeline import load  # noqa: E402
from kandinsky.generations.k30 import assembled  # noqa: E402
from kandinsky.generations.loading import Placement  # noqa: E402
from kandinsky.generations.model import Model  # noqa: E402

__all__ = ["Kandinsky3Img2ImgPipeline", "Kandinsky3Pipeline"]

OUTPUT_TYPES = {"pil": "pil", "np": "np", "ms": "pt", "latent": "latent"}
"""What calls give, and what it is called in torch."""
KEYWORDS = ("cache_dir", "local_files_only", "mindspore_dtype", "revision", "token", "use_safetensors", "variant")
REFUSED = (
    "delete_adapters enable_lora enable_model_cpu_offload enable_sequential_cpu_offload fuse_lora load_lora_weights "
    "load_textual_inversion save_lora_weights save_pretrained set_adapters to unfuse_lora unload_lora_weights "
    "unload_textual_inversion"
)
"""Methods that act on weights of torch."""
HINT = "Weights on MindSpore stay as they were loaded; kandinsky.compat.diffusers has it."


class Hosted(nn.Module):
    """A network that runs on MindSpore in the place of one of ours; in torch it has no weights but a mark of its
    dtype."""

    def __init__(self, arrays: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.arrays, self.config = arrays, arrays.config
        self.mark = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)

    def forward(self, *arguments: Any) -> Any:
        """What the network answers."""
        return self.arrays(*arguments)

    def __getattr__(self, name: str) -> Any:
        if name in ("prepare", "denoise", "encode", "decode"):
            return getattr(self.arrays, name)
        return super().__getattr__(name)

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """RequestError."""
        raise RequestError("A network on MindSpore has no state dict here.", HINT)

    def _apply(self, *_: Any, **__: Any) -> NoReturn:
        raise RequestError("A network on MindSpore cannot be moved.", "Give mindspore_dtype when it is loaded.")


class OnMindSpore(OneTextPipeline):
    """A pipeline whose networks run on MindSpore."""

    @classmethod
    @loading_errors()
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **keywords: Any) -> Any:
        """Loads a pipeline from a folder or a Hub id, in `mindspore_dtype` (float32 or float16; default: float32 on a
        CPU); components given are used. Raises CheckpointError for what is missing, RequestError for keywords that
        cannot act."""
        for name in ("dtype", "torch_dtype", "device_map"):
            if keywords.get(name) is not None:
                raise RequestError(f"{cls.__name__} cannot act on {name}.", "Give mindspore_dtype.")
        check_keywords(keywords, cls.__name__, (*cls.COMPONENTS, *KEYWORDS))
        given = {name: value for name, value in keywords.items() if name in cls.COMPONENTS}
        settings = Loading.of(keywords)
        folder = settings.model(pretrained_model_name_or_path)
        cls._check_folder(folder)
        dtype = keywords.get("mindspore_dtype")
        loaded = load(
            folder.root, backend="mindspore", dtype=None if dtype is None else str(dtype), variant=settings.variant
        )
        model, reader = loaded.model, loaded.model.conditioner
        assert isinstance(reader, OneTextConditioner)
        networks: dict[str, tuple[type[Part], Any]] = {
            "text_encoder": (T5EncoderModel, reader.encoder),
            "unet": (Kandinsky3UNet, model.network),
            "movq": (VQModel, model.codec),
        }
        parts: dict[str, Any] = {
            name: kind.around(Hosted(arrays, model.dtype), folder.config(name))
            for name, (kind, arrays) in networks.items()
        }
        for name in ("tokenizer", "scheduler"):
            parts[name] = load_component(folder, name, name, settings)
        return cls(**{**parts, **given})

    @classmethod
    def _called_here(cls) -> bool:
        owner = next((base for base in cls.__mro__ if "__call__" in vars(base)), None)
        return owner is not None and owner.__module__.startswith("kandinsky.compat.")

    def _model(self) -> Model:
        """The present components as the core runs them."""
        network: Any = part_of(self.unet, Kandinsky3UNet).native
        codec: Any = part_of(self.movq, VQModel).native
        if not isinstance(network, Hosted) or not isinstance(codec, Hosted):
            raise RequestError(
                f"A {type(self).__name__} was given a network of torch.", "Use that of a pipeline of this package."
            )
        place = Placement(torch.device("cpu"), network.mark.dtype)
        reader = self._reader(network.config.text_dim)
        return assembled(place, network.arrays, codec.arrays, reader, schedule_of(self.scheduler))

    def _call(self, given: dict[str, Any]) -> Any:
        """Images of one request, see `DecoderPipeline`; arrays are MindSpore's."""
        kind = "pil" if given["output_type"] is None else given["output_type"]
        if kind not in OUTPUT_TYPES:
            raise RequestError(f"There is no output_type {kind!r}.", nearest(str(kind), OUTPUT_TYPES))
        told = {name: as_tensors(value) for name, value in given.items()}
        told |= {"output_type": OUTPUT_TYPES[kind], "callback_on_step_end": _callback(given["callback_on_step_end"])}
        extra = told.get("kwargs", {})
        if (legacy := extra.get("callback")) is not None:
            told["kwargs"] = {**extra, "callback": lambda step, t, x: legacy(step, as_arrays(t), as_arrays(x))}
        answer = super()._call(told)
        if kind not in ("ms", "latent"):
            return answer
        if not given["return_dict"]:
            return (as_arrays(answer[0]),)
        answer.images = as_arrays(answer.images)
        return answer

    def encode_prompt(self, *arguments: Any, **keywords: Any) -> Any:
        """See `OneTextPipeline`; takes and gives arrays of MindSpore."""
        given = {name: as_tensors(value) for name, value in keywords.items()}
        return as_arrays(super().encode_prompt(*as_tensors(arguments), **given))


def _callback(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A callback that is told arrays of MindSpore; what it sets or returns acts."""
    if function is None:
        return None

    def told(pipe: object, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        arrays = {name: as_arrays(value) for name, value in tensors.items()}
        returned = function(pipe, step, as_arrays(t), arrays) or {}
        return {name: as_tensors(value) for name, value in {**arrays, **returned}.items()}

    return told


def as_tensors(value: Any) -> Any:
    """Arrays of MindSpore, alone or in lists and tuples, as tensors of torch; anything else is itself."""
    if isinstance(value, ms.Tensor):
        return to_tensor(value)
    if type(value) in (list, tuple):
        return type(value)(as_tensors(one) for one in value)
    return value


def as_arrays(value: Any) -> Any:
    """Tensors of torch, alone or in lists and tuples, as arrays of MindSpore; anything else is itself."""
    if isinstance(value, Tensor):
        return to_array(value)
    if type(value) in (list, tuple):
        return type(value)(as_arrays(one) for one in value)
    return value


def _refused(name: str) -> Callable[..., NoReturn]:
    def method(*_: Any, **__: Any) -> NoReturn:
        raise RequestError(f"{name} does not act on MindSpore.", HINT)

    method.__name__, method.__doc__ = name, f"RequestError: {HINT}"
    return method


def _made(name: str) -> type[OnMindSpore]:
    """The class of that name: the call of diffusers' with `return_dict=False`."""
    theirs: Any = PIPELINES[name]
    parameters = list(signature(theirs.__call__).parameters.values())[1:]
    names = " ".join(f"**{one.name}" if one.kind is Parameter.VAR_KEYWORD else one.name for one in parameters)
    defaults: Mapping[str, object] = {one.name: one.default for one in parameters} | {"return_dict": False}
    call = signed(lambda pipe, given: pipe._call(given), names, defaults, str(theirs.__doc__))
    refused = {method: _refused(method) for method in REFUSED.split()}
    made: dict[str, Any] = {"__doc__": theirs.__doc__, "__module__": __name__, "__call__": call, **refused}
    return type(name, (OnMindSpore,), made)


Kandinsky3Pipeline = _made("Kandinsky3Pipeline")
Kandinsky3Img2ImgPipeline = _made("Kandinsky3Img2ImgPipeline")
