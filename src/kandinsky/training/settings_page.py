"""Every setting of training with its default, the methods that read it and what it does, from the classes that read
them.

`python -m kandinsky.training.settings_page` writes the tables of docs/training-settings.md.
"""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kandinsky.training.config.objectives import (
    AdapterConfig,
    ControlConfig,
    DecoderObjective,
    InpaintingConfig,
    PriorObjective,
    ScratchObjective,
    TuningObjective,
)
from kandinsky.training.config.run import (
    BUCKETED,
    FINETUNING,
    METHODS,
    OWN_SENTENCES,
    DataConfig,
    EmaConfig,
    ExportConfig,
    ModelConfig,
    OptimiserConfig,
    ScheduleConfig,
    Stage,
    TrainConfig,
)
from kandinsky.training.config.table import Table
from kandinsky.training.data.images import Augmentation

Row = tuple[str, str, str, str]
"""A setting, its default, the methods that read it, and what it does."""
TABLES: dict[str, type[Table]] = {
    "The file itself": TrainConfig,
    "[data]": DataConfig,
    "[model]": ModelConfig,
    "[export]": ExportConfig,
    "A stage: the top level of a file with one stage, or each [[stage]]": Stage,
    "[optimiser]": OptimiserConfig,
    "[schedule]": ScheduleConfig,
    "[ema]": EmaConfig,
    "[objective.decoder] of fine-tuning": DecoderObjective,
    "[objective.prior] of fine-tuning": PriorObjective,
    "[objective.adapter]": AdapterConfig,
    "[objective.inpainting]": InpaintingConfig,
    "[objective.control]": ControlConfig,
}
SCRATCH = METHODS - FINETUNING
"""Methods that make networks from random weights."""
_CONTROLLED = frozenset(
    kind.model_fields["method"].default for kind in get_args(TuningObjective) if "control" in kind.model_fields
)
READ_BY: dict[tuple[type[Table], str], frozenset[str]] = {
    (TrainConfig, "model"): FINETUNING,
    (TrainConfig, "networks"): SCRATCH,
    (TrainConfig, "tokenizer"): SCRATCH,
    (Stage, "init"): SCRATCH,
    (Stage, "uses"): SCRATCH,
    (ExportConfig, "dtype"): METHODS - {"textual_inversion"},
    (DataConfig, "buckets"): BUCKETED,
    (DataConfig, "hints"): _CONTROLLED,
    **{(ModelConfig, name): FINETUNING for name in ModelConfig.model_fields},
    **{(ExportConfig, name): frozenset({"prior", "decoder"}) for name in ExportConfig.model_fields if name != "dtype"},
    **{
        (DataConfig, name): METHODS - OWN_SENTENCES
        for name in ("recipe", "groups", "keep_wasteful", "captions", "measure_colours", "common")
    },
    (DataConfig, "caption_column"): METHODS - OWN_SENTENCES - {"movq"},
}
"""Settings of the common tables that some methods alone read."""


def page() -> str:
    """The tables, as Markdown."""
    parts = [_table(title, _settings(kind)) for title, kind in TABLES.items()]
    for kind in (*get_args(TuningObjective), *get_args(ScratchObjective)):
        parts.append(_table(f'[objective] of method "{kind.model_fields["method"].default}"', _settings(kind)))
    return "\n\n".join([*parts, _table("[augmentation]", _of_augmentation())]) + "\n"


def _table(title: str, rows: Iterator[Row]) -> str:
    lines = [f"## {title}", "", "| setting | default | methods | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{name}` | {default} | {by} | {says} |" for name, default, by, says in rows)])


def _settings(kind: type[Table]) -> Iterator[Row]:
    for name, field in kind.model_fields.items():
        if not (name == "method" and kind is not Stage):
            yield name, _default(field), _methods(read_by(kind, name)), _escaped(field.description or "")


def read_by(kind: type[Table], name: str) -> frozenset[str]:
    """The methods that read a setting: those whose objective it is part of, else as `READ_BY` says."""
    if (kind, name) in READ_BY:
        return READ_BY[kind, name]
    if kind in TABLES.values() and not kind.__module__.endswith("objectives"):
        return METHODS
    objectives = (*get_args(TuningObjective), *get_args(ScratchObjective))
    return frozenset(
        one.model_fields["method"].default
        for one in objectives
        if one is kind
        or any(kind in (field.annotation, *get_args(field.annotation)) for field in one.model_fields.values())
    )


def _methods(names: frozenset[str]) -> str:
    groups = {METHODS: "all", FINETUNING: "fine-tuning", SCRATCH: "from scratch"}
    if names in groups:
        return groups[names]
    if len(names) > len(METHODS) / 2:
        return "all but " + ", ".join(f"`{name}`" for name in sorted(METHODS - names))
    return ", ".join(f"`{name}`" for name in sorted(names))


def _of_augmentation() -> Iterator[Row]:
    hints = get_type_hints(Augmentation, include_extras=True)
    for field in fields(Augmentation):
        assert get_origin(hints[field.name]) is Annotated
        said = [one.description for one in get_args(hints[field.name])[1:] if isinstance(one, FieldInfo)]
        yield field.name, f"`{field.default}`", "all", _escaped(next((text for text in said if text), ""))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value in ((), {}, "", Path()):
        return ""
    shown = str(value).lower() if isinstance(value, bool) else repr(list(value) if isinstance(value, tuple) else value)
    return f"`{_escaped(shown)}`".replace("'", '"')


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
