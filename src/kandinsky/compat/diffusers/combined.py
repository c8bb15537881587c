"""What combined pipelines do: prior and decoder as one pipeline."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor

from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.compat.diffusers.inputs import paired, repeated, spread, texts
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.compat.diffusers.prior import PriorPipeline
from kandinsky.core.errors import RequestError

PRIOR_COMPONENTS = tuple(PRIOR_PREFIX + name for name in PriorPipeline.COMPONENTS)
EMBEDDING_DIMENSIONS = 2


class CombinedPipeline(DiffusionPipeline):
    """A prior and a decoder pipeline on the same, present components; a negative prompt acts in both.

    Its `latents` are the prior's (B, D) or, where the decoder begins with noise, the decoder's (B, 4, h, w).
    """

    PRIOR: ClassVar[type[DiffusionPipeline]]
    DECODER: ClassVar[type[DiffusionPipeline]]

    @property
    def prior_pipe(self) -> Any:
        """The prior's half."""
        return self._half("_prior", self.PRIOR, PRIOR_PREFIX)

    @property
    def decoder_pipe(self) -> Any:
        """The decoder's half."""
        return self._half("_decoder", self.DECODER, "")

    def _half(self, slot: str, kind: type[DiffusionPipeline], prefix: str) -> DiffusionPipeline:
        """A half that lives as long as the whole, so that it may keep what it computed, brought up to
        date."""
        parts = {name: getattr(self, prefix + name) for name in kind.COMPONENTS}
        half = self._halves.setdefault(slot, kind(**parts))
        for name, part in parts.items():
            setattr(half, name, part)
        half._progress = self._progress
        half._offload = None if self._offload is None else self._offload.seen_with(prefix)
        return half

    @property
    def _halves(self) -> dict[str, DiffusionPipeline]:
        found: dict[str, DiffusionPipeline] = self.__dict__.setdefault("_known_halves", {})
        return found

    def _call(self, given: dict[str, Any]) -> Any:
        """Images of the prompts: the prior's half of a call, then the decoder's."""
        wanted = signature(self.DECODER.__call__).parameters
        of_prior, of_decoder = _split_latents(given["latents"], "latents" in wanted)
        told = {name: given[name] for name in ("prompt", "negative_prompt", "num_images_per_prompt", "generator")}
        told |= {
            name.removeprefix(PRIOR_PREFIX): value for name, value in given.items() if name.startswith(PRIOR_PREFIX)
        }
        embeds, against = self.prior_pipe(**told, latents=of_prior, return_dict=False)
        asked = {**given, **_rows(given, len(embeds)), "latents": of_decoder, "num_images_per_prompt": 1}
        more = dict(asked.pop("kwargs", {}))
        if "kwargs" in wanted:  # there the decoder takes the older callbacks too
            more |= {name: asked[name] for name in ("callback", "callback_steps") if name in asked}
        more |= {name: value for name, value in asked.items() if name in wanted}
        return self.decoder_pipe(**more, image_embeds=embeds, negative_image_embeds=against)


def _rows(given: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """What is given for each prompt or for all of them, as a row an image: texts and images."""
    copies, prompts = given["num_images_per_prompt"], texts(given["prompt"])
    made: dict[str, Any] = {"prompt": repeated(prompts, copies)}
    if given["negative_prompt"] is not None:
        negatives = texts(given["negative_prompt"], "negative_prompt")
        made["negative_prompt"] = repeated(paired(negatives, len(prompts), "negative_prompt"), copies)
    images = [name for name in ("image", "mask_image") if name in given]
    return made | {name: spread(given[name], rows, copies) for name in images}


def _split_latents(latents: Tensor | None, decoder_takes_them: bool) -> tuple[Tensor | None, Tensor | None]:
    """Given latents as (the prior's, the decoder's): embeddings (B, D) are the prior's, images' the
    decoder's.

    Raises RequestError for other shapes, and for the decoder's where it begins at an image.
    """
    if latents is None:
        return None, None
    if latents.ndim == EMBEDDING_DIMENSIONS:
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
