"""Adapters (LoRA) of a job: which act while it is drawn, and how strongly."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from kandinsky.checkpoints.files import OWN_ADAPTERS
from kandinsky.engine.embedded import EMBEDDED, embedded_folder

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline


def own_adapters(model: str | None) -> list[str]:
    """The names of the adapters that lie in the folder of a model; none where it is no folder."""
    folder = embedded_folder() if model in (None, EMBEDDED) else Path(str(model))
    return sorted(path.stem for path in (folder / OWN_ADAPTERS).glob("*.safetensors"))


def adapt(pipe: "Pipeline", wanted: Mapping[str, float]) -> None:
    """Makes the adapters `wanted`, by name, act at their scales, and no others; own ones are loaded at need.

    Raises CheckpointError for one that cannot be read.
    """
    for name, scale in pipe.loras.items():
        if scale != wanted.get(name, 0.0):
            pipe.set_lora_scale(name, wanted.get(name, 0.0))
    for name, scale in wanted.items():
        if name not in pipe.loras and scale:
            pipe.load_lora(name, scale)


def lora_of(job: JsonValue, usual: Mapping[str, float]) -> Mapping[str, float]:
    """The adapters of a job by name; the usual ones where it asks for none."""
    asked = job.get("lora") if isinstance(job, dict) else None
    return {name: float(str(scale)) for name, scale in asked.items()} if isinstance(asked, dict) else usual
