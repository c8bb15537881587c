"""Tables of a configuration: immutable, checked, and refusing keys that nobody reads."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from kandinsky.core.errors import ConfigError, nearest
from kandinsky.core.validation import shown

T = TypeVar("T")


class Table(BaseModel):
    """A table of the file: immutable, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: object) -> object:
        if isinstance(values, Mapping):
            check_keys(values, cls.model_fields)
        return values


ELSEWHERE = {
    "learning_rate": "optimiser.lr",
    "lr": "optimiser.lr",
    "optimizer": "optimiser",
    "optimizer_type": "optimiser.kind",
    "lr_scheduler": "schedule.kind",
    "lr_warmup_steps": "schedule.warmup",
    "rank": "objective.adapter.rank",
    "lora_rank": "objective.adapter.rank",
    "network_dim": "objective.adapter.rank",
    "network_alpha": "objective.adapter.alpha",
    "batch_size": "batch",
    "train_batch_size": "batch",
    "gradient_accumulation": "accumulate",
    "gradient_accumulation_steps": "accumulate",
    "max_train_steps": "max_steps",
    "num_train_epochs": "epochs",
    "mixed_precision": "precision",
    "max_grad_norm": "clip_norm",
    "checkpointing_steps": "save_every",
    "resolution": "data.size",
    "train_data_dir": "data.folder",
    "dataset_name": "data.dataset",
    "output_dir": "out",
    "pretrained_model_name_or_path": "model.name",
    "instance_prompt": "objective.prompt",
    "class_prompt": "objective.class_prompt",
    "placeholder_token": "objective.token",
    "initializer_token": "objective.init_from",
}
"""Settings of other trainers (diffusers' and kohya's scripts), and ours."""


def check_keys(values: Iterable[object], known: Iterable[str], where: str = "", of_stages: Iterable[str] = ()) -> None:
    """Raises ConfigError for the first key that is none of `known`, with the nearest one; `of_stages` are settings that
    stand in a stage."""
    names, inside = list(known), list(of_stages)
    for key in values:
        if key not in names:
            ours = ELSEWHERE.get(str(key))
            hint = nearest(str(key), [*names, *inside]) if ours is None else f"It is called {ours} here."
            if key in inside:
                hint = "It is a setting of a stage: write it below [[stage]]."
            raise ConfigError(f"{where}there is no setting {key!r}.", hint)


def network_config(kind: type[T], values: Mapping[str, object], name: str) -> T:
    """Makes a network's frozen configuration from a table; ConfigError for unknown or wrong keys."""
    return dataclass_of(kind, values, f"networks.{name}")


def dataclass_of(kind: type[T], values: Mapping[str, object], where: str) -> T:
    """Makes a dataclass from the table at `where`; ConfigError for unknown or wrong keys."""
    check_keys(values, [field.name for field in fields(kind)], f"{where}: ")  # type: ignore[arg-type]
    return validated(kind, dict(values), where)


def validated(kind: type[T], values: object, where: str) -> T:
    """Validates `values` as a table of `kind`; ConfigError names the place of the first mistake."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
    loc = list(first["loc"])
    if "objective" in loc:  # Pydantic puts the tag of a union, which no file has, after the name of its field.
        tag = loc.index("objective") + 1
        del loc[tag : tag + 1]
    place = ".".join([where] * bool(where) + [str(part) for part in loc])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        raise ConfigError(f"{place}: {cause.message}" if place else cause.message, cause.hint)
    given = "" if first["type"] == "missing" else f" (got {shown(first['input'])})"
    raise ConfigError(f"{place}: {first['msg'].lower()}{given}.", "Correct this setting.")
