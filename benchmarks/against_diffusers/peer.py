"""The peer's side: diffusers, by its own pipelines, as its users call them.

It is imported only in the process of this side: the other one measures this library alone.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch

from benchmarks.against_diffusers.libraries import check_installed
from benchmarks.against_diffusers.request import (
    PROMPT,
    SECOND_PROMPT,
    SEED,
    Asked,
    Job,
    Told,
    draw_image,
    embeddings,
    mask,
)
from benchmarks.against_diffusers.spans import Mark
from kandinsky.core.system import compiler

COMBINED = {
    "text2img": "KandinskyV22CombinedPipeline",
    "img2img": "KandinskyV22Img2ImgCombinedPipeline",
    "inpaint": "KandinskyV22InpaintCombinedPipeline",
    "mix": "KandinskyV22CombinedPipeline",
}


def load_pipeline(folder: str, form: str = "text2img", **options: Any) -> Any:
    """The peer's pipeline of a folder, quiet; `options` go to its loader."""
    check_installed()
    diffusers = import_module("diffusers")
    import_module("transformers").utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **options)
    kind = COMBINED[form]
    if type(pipe).__name__ in COMBINED.values() and type(pipe).__name__ != kind:
        pipe = getattr(diffusers, kind)(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Peer:
    """A loaded pipeline of diffusers; with a `dtype` channels-last, and compiled when the job says so."""

    def __init__(self, job: Job) -> None:
        self.asked = job.asked
        # float32 is its default; unnamed, text encoders would stay in the dtype of their files, and not fit.
        options = {"torch_dtype": getattr(torch, job.dtype or "float32")}
        self._pipe = load_pipeline(job.folder, job.asked.form, **options).to(job.device)
        self._notes: list[str] = []
        if job.dtype is not None:
            for network in (self._pipe.unet, self._pipe.movq):
                network.to(memory_format=torch.channels_last)
            self._notes.append("channels-last")
            if job.compiled:
                self._compile(job.device)

    def _compile(self, device: str) -> None:
        if device == "cpu" and compiler() is None:
            self._notes.append("not compiled: there is no C++ compiler")
            return
        self._pipe.unet.compile()
        self._notes.append("compiled")

    @property
    def told(self) -> Told:
        """What it computes in."""
        return Told(str(self._pipe.unet.dtype).removeprefix("torch."), self._notes)

    def run(self, mark: Mark) -> list[np.ndarray[Any, Any]]:
        """Makes the images, (H, W, 3) uint8 each."""
        prior = getattr(self._pipe, "prior_pipe", None)
        with _Marked(self._pipe.scheduler, lambda: mark("decoder")):
            if prior is None:
                return _arrays(self._pipe(**self._arguments()))
            with _Marked(prior.scheduler, lambda: mark("prior")):
                if self.asked.form == "mix":
                    return _arrays(self._mixed(prior))
                return _arrays(self._pipe(**self._arguments()))

    def _arguments(self) -> dict[str, Any]:
        asked = self.asked
        given: dict[str, Any] = {
            "guidance_scale": asked.guidance_scale,
            "num_images_per_prompt": asked.count,
            "height": asked.height,
            "width": asked.width,
            "generator": _generators(asked),
        }
        if asked.steps is not None:
            given["num_inference_steps"] = asked.steps
        if asked.reads in ("prior", "text"):
            given["prompt"] = PROMPT
        if asked.reads == "prior":
            given["prior_num_inference_steps"] = asked.prior_steps
            given["prior_guidance_scale"] = asked.prior_guidance_scale
        if asked.reads == "both":
            given["prompt"] = ""
        if asked.reads in ("embedding", "both"):
            cond, uncond = (self._tensor(values) for values in embeddings(asked))
            given |= {"image_embeds": cond, "negative_image_embeds": uncond}
        if asked.form in ("img2img", "inpaint"):
            given["image"] = draw_image(asked)
        if asked.form == "img2img":
            given["strength"] = asked.strength
        if asked.form == "inpaint":
            given["mask_image"] = mask(asked)
        return given

    def _mixed(self, prior: Any) -> Any:
        """A mix takes two calls there: the prior's interpolation, then the decoder."""
        asked = self.asked
        generators = _generators(asked)
        found = prior.interpolate(
            [PROMPT, SECOND_PROMPT],
            [0.5, 0.5],
            num_images_per_prompt=asked.count,
            num_inference_steps=asked.prior_steps,
            guidance_scale=asked.prior_guidance_scale,
            generator=generators,
        )
        return self._pipe.decoder_pipe(
            image_embeds=found.image_embeds,
            negative_image_embeds=found.negative_image_embeds,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            height=asked.height,
            width=asked.width,
            generator=generators,
        )

    def _tensor(self, values: list[float]) -> torch.Tensor:
        return torch.tensor([values], dtype=self._pipe.unet.dtype, device=self._pipe.device)


def _generators(asked: Asked) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(SEED + i) for i in range(asked.count)]


def _arrays(output: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(image) for image in output.images]


class _Marked:
    """A scheduler that tells of every step, as long as this is entered."""

    def __init__(self, scheduler: Any, tell: Callable[[], None]) -> None:
        self._scheduler, self._tell = scheduler, tell

    def __enter__(self) -> None:
        step = self._scheduler.step

        def told(*args: Any, **kwargs: Any) -> Any:
            made = step(*args, **kwargs)
            self._tell()
            return made

        self._scheduler.step = told

    def __exit__(self, *_: object) -> None:
        # The instance's own attribute goes, and the class's method shows again.
        del self._scheduler.step
