"""What combined pipelines do: prior and decoder as one pipeline."""

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, ClassVar, Self

from torch import Tensor

from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.compat.diffusers.callbacks import Call
from kandinsky.compat.diffusers.inputs import paired, split, texts
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.prior import PriorPipeline
from kandinsky.core.errors import RequestError

PRIOR_COMPONENTS = tuple(PRIOR_PREFIX + name for name in PriorPipeline.COMPONENTS)
EMBEDDING_DIMENSIONS = 2


class CombinedPipeline(DiffusionPipeline):
    """A prior and a decoder pipeline on the same, present components; a negative prompt acts in both.

    Its `latents` are the prior's (B, D) or, where the decoder begins with noise, the decoder's (B, 4, h, w).
    """

    _load_connected_pipes = True
    PRIOR: ClassVar[type[DiffusionPipeline]]
    DECODER: ClassVar[type[DiffusionPipeline]]

    def __init__(self, **components: object) -> None:
        of_prior = {name.removeprefix(PRIOR_PREFIX): components.get(name) for name in PRIOR_COMPONENTS}
        self.prior_pipe: Any = self.PRIOR(**of_prior)
        self.decoder_pipe: Any = self.DECODER(**{name: components.get(name) for name in self.DECODER.COMPONENTS})
        super().__init__()

    def __getattr__(self, name: str) -> Any:
        if name in self.COMPONENTS and "decoder_pipe" in vars(self):
            half, own = self._half(name)
            return getattr(half, own)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.COMPONENTS:
            half, own = self._half(name)
            setattr(half, own, value)
        elif name == "_guidance_scale":
            raise RequestError(
                "A combined pipeline has two guidance scales.", "Set that of prior_pipe or decoder_pipe."
            )
        else:
            super().__setattr__(name, value)
        if name == "_interrupt":
            self.prior_pipe._interrupt = self.decoder_pipe._interrupt = value
        elif name == "_offload":
            whole: Any = value
            self.prior_pipe._offload = whole and whole.seen_with(PRIOR_PREFIX)
            self.decoder_pipe._offload = whole and whole.seen_with("")

    def _half(self, name: str) -> tuple[DiffusionPipeline, str]:
        """The half that has a component of the whole, and the component's name in it."""
        if name in PRIOR_COMPONENTS:
            return self.prior_pipe, name.removeprefix(PRIOR_PREFIX)
        return self.decoder_pipe, name

    def to(self, *where: Any, **more: Any) -> Self:
        """As `DiffusionPipeline.to`; halves that were offloaded by themselves are so no more."""
        super().to(*where, **more)
        for half in (self.prior_pipe, self.decoder_pipe):
            half.to(*where, **more)
        return self

    def set_progress_bar_config(self, **settings: object) -> None:
        """As `DiffusionPipeline.set_progress_bar_config`, for both halves."""
        for half in (self.prior_pipe, self.decoder_pipe):
            half.set_progress_bar_config(**settings)
        super().set_progress_bar_config(**settings)

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """The decoder's bar."""
        return self.decoder_pipe.progress_bar(iterable, total)

    def _call(self, given: dict[str, Any]) -> Any:
        """Images of the prompts: the prior's half of a call, then the decoder's."""
        wanted = signature(self.DECODER.__call__).parameters
        of_prior, of_decoder = _split_latents(given["latents"], "latents" in wanted)
        told = {name: given[name] for name in ("prompt", "negative_prompt", "num_images_per_prompt", "generator")}
        told |= {
            name.removeprefix(PRIOR_PREFIX): value for name, value in given.items() if name.startswith(PRIOR_PREFIX)
        }
        self._last_call = Call()
        embeds, against = self.prior_pipe(**told, latents=of_prior, return_dict=False)
        asked = {**given, **_rows(given), "latents": of_decoder, "num_images_per_prompt": 1}
        if self.prior_pipe.interrupt:
            asked["num_inference_steps"] = 1
        more = dict(asked.pop("kwargs", {}))
        if "kwargs" in wanted:  # there the decoder takes the older callbacks too
            more |= {name: asked[name] for name in ("callback", "callback_steps") if name in asked}
        more |= {name: value for name, value in asked.items() if name in wanted}
        return self.decoder_pipe(**more, image_embeds=embeds, negative_image_embeds=against)


def combined(decoder: type[DiffusionPipeline], prior: type[DiffusionPipeline]) -> dict[str, Any]:
    """What makes a class the one of both halves."""
    components = (*decoder.COMPONENTS, *PRIOR_COMPONENTS)
    made = made_of(components, CombinedPipeline)
    return {"COMPONENTS": components, "DECODER": decoder, "PRIOR": prior, "__init__": made}


def _rows(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for each prompt or for all of them, as a row an image: texts and images."""
    copies, count = given["num_images_per_prompt"], len(texts(given["prompt"]))
    lists = {name: texts(given[name], name) for name in ("prompt", "negative_prompt") if given[name] is not None}
    lists |= {name: split(given[name]) for name in ("image", "mask_image") if name in given}
    return {name: paired(found, count, name, copies) for name, found in lists.items()}


def _split_latents(latents: Tensor | None, decoder_takes_them: bool) -> tuple[Tensor | None, Tensor | None]:
    """Given latents as (the prior's, the decoder's); RequestError for other shapes, and for the decoder's where it
    begins at an image."""
    if latents is None or latents.ndim == EMBEDDING_DIMENSIONS:
        return latents, None
    if latents.ndim != EMBEDDING_DIMENSIONS + 2:
        raise RequestError(
            f"latents of shape {tuple(latents.shape)} are neither the prior's nor the decoder's.",
            "Give (B, D) or (B, 4, h, w).",
        )
    if not decoder_takes_them:
        raise RequestError(
            f"latents of shape {tuple(latents.shape)} cannot begin a trajectory that begins at an image.",
            "Leave them out, or give the prior's (B, D).",
        )
    return None, latents
