"""What a pipeline is besides its loading: components as attributes, and the calls that run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kandinsky.compat.diffusers.callbacks import Call
from kandinsky.compat.diffusers.inputs import scaled
from kandinsky.compat.diffusers.surface import lacking
from kandinsky.core.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

_LATENTS = "Give latents, generator, image and strength to the call, or write a class with a __call__ of its own."
_OFFLOAD = "Call enable_model_cpu_offload, or use kandinsky.load(offload=...)."
NOT_READ = {
    "check_inputs": _LATENTS,
    "get_timesteps": _LATENTS,
    "numpy_to_pil": 'Ask for output_type="np".',
    "prepare_extra_step_kwargs": _LATENTS,
    "prepare_latents": _LATENTS,
    "_encode_prompt": "Give embeddings to the call, or change tensors in callback_on_step_end.",
    "_process_embeds": "Give embeddings to the call, or change tensors in callback_on_step_end.",
    "encode_prompt": "Give embeddings to the call, or change tensors in callback_on_step_end.",
    "movq_scale_factor": "It follows from the MoVQ: set movq.",
    "do_classifier_free_guidance": "Set _guidance_scale in a callback.",
    "guidance_scale": "Set _guidance_scale in a callback.",
    "num_timesteps": "Give num_inference_steps to the call.",
    "_exclude_from_cpu_offload": _OFFLOAD,
    "maybe_free_model_hooks": _OFFLOAD,
    "model_cpu_offload_seq": _OFFLOAD,
}
"""What diffusers' pipelines read or call on themselves and ours do not, and what to do instead of replacing it."""


def _of_call(name: str, does: str, check: Callable[[Any], object]) -> Any:
    """A value of the call that runs in this thread or ran last; one that is set passes `check`."""

    def read(pipe: "BasePipeline") -> Any:
        return getattr(pipe._call_now, name)

    def write(pipe: "BasePipeline", value: object) -> None:
        check(value)
        mine = pipe._calls.get(get_ident())
        for call in [mine] if mine else [pipe._last_call, *pipe._calls.values()]:
            setattr(call, name, value)

    return property(read, write, doc=does)


class BasePipeline:
    """Components by name, as attributes that can be replaced at any time and then act, and the state of calls.

    `COMPONENTS` are their names; those of a class with an `__init__` of its own are its parameters. Replacing what
    no call reads, on an object or in a subclass, raises RequestError.
    """

    COMPONENTS: ClassVar[tuple[str, ...]] = ()
    _callback_tensor_inputs: ClassVar[list[str]] = []
    __call__: Any

    def __init_subclass__(cls) -> None:
        made = vars(cls)
        if cls._called_here() and (replaced := sorted(NOT_READ.keys() & made)):
            raise RequestError(
                f"{cls.__name__} replaces {replaced[0]}, which the __call__ that it inherits does not read.",
                f"{NOT_READ[replaced[0]]} Pipelines that override diffusers' own steps stay with diffusers.",
            )
        if "__init__" in made and "COMPONENTS" not in made:
            parameters = signature(cls).parameters.values()
            cls.COMPONENTS = tuple(one.name for one in parameters if one.kind is not one.VAR_KEYWORD)

    def __init__(self, **components: object) -> None:
        self._progress_bar_config: dict[str, object] = {}
        self._calls: dict[int, Call] = {}
        self._last_call = Call()
        self.register_modules(**components)

    @classmethod
    def _called_here(cls) -> bool:
        """Whether its `__call__` is one of this package."""
        owner = next((base for base in cls.__mro__ if "__call__" in vars(base)), None)
        return owner is not None and owner.__module__.startswith(str(__package__))

    def __setattr__(self, name: str, value: object) -> None:
        if name in NOT_READ and self._called_here():
            raise RequestError(f"Setting {name} of a {type(self).__name__} cannot act.", NOT_READ[name])
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # Not a property, since a class of the user's may set it.
        if name == "movq_scale_factor" and "movq" in self.COMPONENTS:
            return 2 ** (len(self.movq.config.block_out_channels) - 1)
        raise lacking("pipelines", self, name)

    def register_modules(self, **components: object) -> None:
        """Sets components by their names, also those of a class that names none."""
        for name, component in components.items():
            if name not in self.COMPONENTS:
                vars(self)["COMPONENTS"] = (*self.COMPONENTS, name)
            setattr(self, name, component)

    @contextmanager
    def _calling(self, guidance_scale: float, offset: float = 0.0) -> Iterator[Call]:
        """The state of a call in this thread, which callbacks read and set by way of the pipeline."""
        thread, call = get_ident(), Call(guidance_scale, offset)
        outer = self._calls.get(thread)
        self._calls[thread] = call
        try:
            yield call
        finally:
            self._last_call = self._calls.pop(thread)
            if outer is not None:
                self._calls[thread] = outer

    @property
    def _call_now(self) -> Call:
        """The call that runs in this thread, or that ran last."""
        return self._calls.get(get_ident(), self._last_call)

    _guidance_scale = _of_call("guidance_scale", "As `guidance_scale`; setting it acts from the next step on.", scaled)
    guidance_scale = property(lambda self: self._guidance_scale, doc="That of the call that runs or ran last.")
    do_classifier_free_guidance = property(
        lambda self: self._call_now.scale > 1, doc="Whether that call is guided at present."
    )
    _num_timesteps = _of_call("num_timesteps", "As `num_timesteps`.", int)
    num_timesteps = property(lambda self: self._num_timesteps, doc="How many steps that call takes.")
    _interrupt = _of_call(
        "interrupt", "Whether the call ends after its present step; may be set from any thread.", bool
    )
    interrupt = property(lambda self: self._interrupt, doc="Whether the call was told to end early.")

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """A bar of tqdm over `iterable` or of `total` steps, by default on terminals only."""
        from huggingface_hub.utils.tqdm import tqdm

        if iterable is None and total is None:
            raise RequestError("A progress bar was given neither an iterable nor a total.", "Give one of them.")
        settings = {"disable": None, "total": total, **self._progress_bar_config}
        return tqdm(iterable, **settings)  # type: ignore[no-untyped-call]

    def set_progress_bar_config(self, **settings: object) -> None:
        """Settings that tqdm takes for `progress_bar`, such as `disable=True`."""
        self._progress_bar_config = settings

    @staticmethod
    def numpy_to_pil(images: "np.ndarray[Any, Any]") -> "list[Image]":
        """Arrays (B, H, W, C) or (H, W, C) of 0..1 as PIL images."""
        from PIL.Image import fromarray

        several = (images[None] if images.ndim == 3 else images) * 255
        return [
            fromarray(np.squeeze(one, -1) if one.shape[-1] == 1 else one) for one in several.round().astype("uint8")
        ]
