"""This library's side: the public path, `load` and `stream`."""

from typing import TYPE_CHECKING, Any

import numpy as np

import kandinsky
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
from kandinsky.core.events import Denoising, Finished
from kandinsky.engine.devices import choose_device, choose_dtype

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline


class Ours:
    """A loaded pipeline; with a `dtype` images are computed together, else as the library likes."""

    def __init__(self, job: Job) -> None:
        self.asked = job.asked
        options: dict[str, Any] = {"device": job.device}
        if job.dtype is not None:
            options |= {"dtype": job.dtype, "batch_size": job.asked.count}
            # On a CPU compiled steps are slower than those by packed weights.
            options["compile"] = job.compiled and job.device != "cpu"
        elif job.denoiser:
            options["dtype"] = choose_dtype(None, choose_device(job.device), job.denoiser)
        if job.asked.reads in ("embedding", "both"):
            options["prior"] = False
        self._pipe: Pipeline = kandinsky.load(job.folder, **options)

    @property
    def told(self) -> Told:
        """What it computes in."""
        notes = ["compiled"] if self._pipe.settings.get("compile") else []
        return Told(str(self._pipe.model.dtype).removeprefix("torch."), notes)

    def run(self, mark: Mark) -> list[np.ndarray[Any, Any]]:
        """Makes the images, (H, W, 3) uint8 each."""
        for event in self._pipe.stream(_prompt(self.asked), **_fields(self.asked)):
            match event:
                case Denoising(stage=stage):
                    mark(stage)
                case Finished(result=result):
                    return [np.asarray(image) for image in result.images]
        raise RuntimeError("the stream ended without a result")


def _prompt(asked: Asked) -> Any:
    if asked.reads in ("embedding", "both"):
        return kandinsky.Embedding(*embeddings(asked))
    if asked.form == "mix":
        return kandinsky.mix([PROMPT, SECOND_PROMPT], weights=[0.5, 0.5])
    return PROMPT


def _fields(asked: Asked) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "seed": SEED,
        "count": asked.count,
        "width": asked.width,
        "height": asked.height,
        "steps": asked.steps,
        "sampler": asked.sampler,
        "guidance_scale": asked.guidance_scale,
    }
    if asked.reads == "prior":
        fields |= {"prior_steps": asked.prior_steps, "prior_guidance_scale": asked.prior_guidance_scale}
    if asked.form in ("img2img", "inpaint"):
        fields["image"] = draw_image(asked)
    if asked.form == "img2img":
        fields["strength"] = asked.strength
    if asked.form == "inpaint":
        fields["mask"] = mask(asked)
    return fields
