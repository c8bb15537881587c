"""Pipelines chosen by the task: the checkpoint says the generation."""

from pathlib import Path
from typing import Any, ClassVar

from kandinsky.compat.diffusers import combined, decoders, text_combined, text_decoders
from kandinsky.compat.diffusers.files import model_folder
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.core.errors import RequestError


class AutoPipeline:
    """A task: `COMBINED` and `DECODERS` are the classes that do it, whole and behind a prior, by
    generation."""

    COMBINED: ClassVar[dict[str, type[DiffusionPipeline]]] = {}
    DECODERS: ClassVar[dict[str, type[DiffusionPipeline]]] = {}

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RequestError(
            f"{type(self).__name__} is not made by its name.", "Use its from_pretrained or from_pipe."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_or_path: str | Path, **options: Any) -> Any:
        """The whole pipeline for this task, prior included; options as `DiffusionPipeline.from_pretrained`
        takes.

        Raises CheckpointError for a checkpoint that is not there, RequestError for one that has no such task.
        """
        folder = model_folder(
            pretrained_model_or_path,
            revision=options.get("revision"),
            variant=options.get("variant"),
            components=(),
        )
        kind = cls.COMBINED[cls._generation(folder.kind)]
        return kind.from_pretrained(pretrained_model_or_path, **options)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **changes: Any) -> Any:
        """A pipeline for this task on the components of another, whole when the other is."""
        table = cls.COMBINED if "prior_prior" in pipeline.components else cls.DECODERS
        return table[cls._generation(type(pipeline).__name__)].from_pipe(pipeline, **changes)

    @classmethod
    def _generation(cls, name: str) -> str:
        for generation, names in _FAMILIES.items():
            if name in names:
                return generation
        raise RequestError(
            f"{cls.__name__} has no pipeline for a {name or 'model without a name'}.",
            "Load it with the class of that name, or give the decoder.",
        )


class AutoPipelineForText2Image(AutoPipeline):
    """Text-to-image."""

    COMBINED: ClassVar[dict[str, type[DiffusionPipeline]]] = {
        "2.1": text_combined.KandinskyCombinedPipeline,
        "2.2": combined.KandinskyV22CombinedPipeline,
    }
    DECODERS: ClassVar[dict[str, type[DiffusionPipeline]]] = {
        "2.1": text_decoders.KandinskyPipeline,
        "2.2": decoders.KandinskyV22Pipeline,
    }


class AutoPipelineForImage2Image(AutoPipeline):
    """Image-to-image."""

    COMBINED: ClassVar[dict[str, type[DiffusionPipeline]]] = {
        "2.1": text_combined.KandinskyImg2ImgCombinedPipeline,
        "2.2": combined.KandinskyV22Img2ImgCombinedPipeline,
    }
    DECODERS: ClassVar[dict[str, type[DiffusionPipeline]]] = {
        "2.1": text_decoders.KandinskyImg2ImgPipeline,
        "2.2": decoders.KandinskyV22Img2ImgPipeline,
    }


class AutoPipelineForInpainting(AutoPipeline):
    """Inpainting."""

    COMBINED: ClassVar[dict[str, type[DiffusionPipeline]]] = {
        "2.1": text_combined.KandinskyInpaintCombinedPipeline,
        "2.2": combined.KandinskyV22InpaintCombinedPipeline,
    }
    DECODERS: ClassVar[dict[str, type[DiffusionPipeline]]] = {
        "2.1": text_decoders.KandinskyInpaintPipeline,
        "2.2": decoders.KandinskyV22InpaintPipeline,
    }


_TASKS = (AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting)
_FAMILIES = {
    generation: {table[generation].__name__ for task in _TASKS for table in (task.COMBINED, task.DECODERS)}
    for generation in AutoPipelineForText2Image.COMBINED
}
