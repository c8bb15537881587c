"""Pipelines chosen by the task: the checkpoint says the generation."""

from pathlib import Path
from typing import Any, ClassVar

from kandinsky.compat.diffusers import pipelines
from kandinsky.compat.diffusers.files import Loading, loading_errors
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.core.errors import RequestError

_CLASSES: dict[str, dict[str, tuple[type[DiffusionPipeline], type[DiffusionPipeline]]]] = {
    "2.1": {
        "text to image": (pipelines.KandinskyCombinedPipeline, pipelines.KandinskyPipeline),
        "image to image": (pipelines.KandinskyImg2ImgCombinedPipeline, pipelines.KandinskyImg2ImgPipeline),
        "inpainting": (pipelines.KandinskyInpaintCombinedPipeline, pipelines.KandinskyInpaintPipeline),
    },
    "2.2": {
        "text to image": (pipelines.KandinskyV22CombinedPipeline, pipelines.KandinskyV22Pipeline),
        "image to image": (pipelines.KandinskyV22Img2ImgCombinedPipeline, pipelines.KandinskyV22Img2ImgPipeline),
        "inpainting": (pipelines.KandinskyV22InpaintCombinedPipeline, pipelines.KandinskyV22InpaintPipeline),
    },
    "3": {
        "text to image": (pipelines.Kandinsky3Pipeline,) * 2,
        "image to image": (pipelines.Kandinsky3Img2ImgPipeline,) * 2,
    },
}
"""By generation and task: the class that does it whole, and the one that does it behind a prior."""


class AutoPipeline:
    """A task; the checkpoint says which class does it."""

    TASK: ClassVar[str]

    def __init__(self, *_: object, **__: object) -> None:
        raise RequestError(f"{type(self).__name__} is not made by its name.", "Use its from_pretrained or from_pipe.")

    @classmethod
    def from_pretrained(cls, pretrained_model_or_path: str | Path, **options: Any) -> Any:
        """The whole pipeline for this task, prior included; options as `DiffusionPipeline.from_pretrained`
        takes.

        Raises CheckpointError for a checkpoint that is not there, RequestError for one that has no such task.
        """
        with loading_errors():
            whole, _ = cls._classes(Loading.of(options).model(pretrained_model_or_path, ()).kind)
        return whole.from_pretrained(pretrained_model_or_path, **options)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **changes: object) -> Any:
        """A pipeline for this task on the components of another, whole when the other is."""
        whole, decoder = cls._classes(type(pipeline).__name__)
        kind = whole if "prior_prior" in pipeline.components else decoder
        return kind.from_pipe(pipeline, **changes)

    @classmethod
    def _classes(cls, name: str) -> tuple[type[DiffusionPipeline], type[DiffusionPipeline]]:
        """The classes that do the task in the generation of the class `name`."""
        for tasks in _CLASSES.values():
            known = {kind.__name__ for pair in tasks.values() for kind in pair}
            if name in known and cls.TASK in tasks:
                return tasks[cls.TASK]
        raise RequestError(
            f"{cls.__name__} has no pipeline for a {name or 'model without a name'}.",
            "Load it with the class of that name, or give the decoder.",
        )


class AutoPipelineForText2Image(AutoPipeline):
    """Text-to-image."""

    TASK = "text to image"


class AutoPipelineForImage2Image(AutoPipeline):
    """Image-to-image."""

    TASK = "image to image"


class AutoPipelineForInpainting(AutoPipeline):
    """Inpainting."""

    TASK = "inpainting"
