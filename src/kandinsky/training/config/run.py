"""The one schema of a training run, read from TOML; unknown keys are refused with the nearest right one.

A run is a list of stages over one data set and one set of networks. A file with a top-level `method` and no
`[[stage]]` is a run of a single stage.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

from pydantic import Field, model_validator

from kandinsky.core.errors import ConfigError, nearest
from kandinsky.training.config.objectives import (
    ClipObjective,
    DistillObjective,
    DreamBoothObjective,
    FullObjective,
    Objective,
    ScratchObjective,
    Target,
    Tuned,
    TuningObjective,
)
from kandinsky.training.config.table import Table, validated

Fit = Literal["cut", "squeeze"]
"""How an image of another shape comes to its own: the longer side is cut, or both are scaled apart."""


def _methods(objectives: object) -> frozenset[str]:
    """The methods of a union of objectives."""
    return frozenset(kind.model_fields["method"].default for kind in get_args(objectives))


FINETUNING = _methods(TuningObjective)
"""Methods that begin with a whole checkpoint."""
METHODS = _methods(ScratchObjective) | FINETUNING
BUCKETED = FINETUNING - {"distill"}
"""Methods that learn from images of several shapes."""
OWN_SENTENCES = frozenset({"dreambooth", "textual_inversion"})
"""Methods that say of each image what their objective says, and read no captions."""
SETTINGS = "config.json"
"""The file in which a run leaves its settings, as flags changed them, next to what it makes."""

Kind = TypeVar("Kind", bound=Table)


class OptimiserConfig(Table):
    """What changes the weights; norms, biases and vectors are never decayed.

    "adamw" (Loshchilov & Hutter 2019, arXiv 1711.05101); "adafactor" (Shazeer & Stern 2018, arXiv 1804.04235), whose
    state is far smaller and whose rate is relative to the size of each weight; "adamw8bit", of the package
    bitsandbytes; "prodigy" (arXiv 2306.06101), of the package prodigyopt, which finds its own rate: `lr` is then 1.
    """

    kind: Literal["adamw", "adafactor", "adamw8bit", "prodigy"] = "adamw"
    lr: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.01, ge=0)
    eps: float = Field(default=1e-8, gt=0)


class ScheduleConfig(Table):
    """How the learning rate goes: `warmup` steps up from zero, then constant, or down to `floor` times the rate."""

    kind: Literal["constant", "cosine", "linear"] = "cosine"
    warmup: int = Field(default=100, ge=0)
    floor: float = Field(default=0.0, ge=0, le=1)


class EmaConfig(Table):
    """The running mean of the weights that is used afterwards; `decay` 0 follows the weights themselves."""

    decay: float = Field(default=0.999, ge=0, lt=1)


class Stage(Table):
    """One trainable, one objective, one network, and how long.

    `max_steps`, `epochs` (how often each example is seen) and `max_minutes` end it, whichever comes first; a falling
    learning rate reaches its floor with the steps when they are limited, else with the minutes. `init` names an earlier
    stage (or a folder of another run's stage) whose weights it starts from; `uses` says which stage gives each frozen
    network, the last one before it when nothing is said, or a folder of another run's stage. In half precision weights
    that learn stay in float32; "fp16" scales the loss so that small gradients are not lost, and leaves out steps in
    which that overflows. `variants` is how many augmentations of an image are kept in the cache of latents and
    embeddings; 0 computes them anew for every batch. `augmentation` is one of `data.images.AUGMENTATIONS` or a table.
    `gradient_checkpointing` saves memory for activations and costs time, see `activation_checkpointing.recompute`. With
    `spread` several processes keep parts of the networks that learn as a whole, and of what is kept beside their
    weights, instead of copies (FSDP).
    """

    method: str
    name: str = ""
    init: str | None = None
    uses: dict[str, str] = Field(default_factory=dict)
    size: int | None = Field(default=None, ge=8)
    batch: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    spread: bool = False
    augmentation: str | dict[str, float] = "colour"
    variants: int = Field(default=0, ge=0)
    save_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    sample_every: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, ge=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    objective: Objective

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        """Names the stage, and tags its objective with the method."""
        if not isinstance(values, Mapping) or "method" not in values:
            return values
        method = values["method"]
        if method not in METHODS:
            raise ConfigError(f"there is no method {method!r}.", nearest(str(method), METHODS))
        objective = values.get("objective") or {}
        if isinstance(objective, Mapping):
            objective = {"method": method, **objective}
        return {**values, "name": values.get("name") or method, "objective": objective}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.max_steps is None and self.max_minutes is None and self.epochs is None:
            raise ConfigError(f"stage {self.name!r} never ends.", "Set max_steps, epochs or max_minutes.")
        if self.objective.method != self.method:
            raise ConfigError(
                f"objective.method is {self.objective.method!r}, of a stage of method {self.method!r}.", "Leave it out."
            )
        if self.method in FINETUNING and (self.init is not None or self.uses):
            raise ConfigError(
                f"stage {self.name!r} fine-tunes a checkpoint and begins with no stage.",
                "Name the checkpoint in [model], and leave init and uses out.",
            )
        if isinstance(self.objective, ClipObjective) and self.variants and not self.objective.blind:
            raise ConfigError(
                f"stage {self.name!r} keeps {self.variants} variants, but needs more than their embeddings.",
                'Set variants = 0, or lock = "vision" without the weights of concepts, looks and sketch.',
            )
        if isinstance(self.objective, ClipObjective) and self.batch % self.objective.per_concept:
            raise ConfigError(
                f"a batch of {self.batch} is not made of {self.objective.per_concept} images a concept.",
                "Choose a multiple for `batch`.",
            )
        return self

    def objective_as(self, kind: type[Kind]) -> Kind:
        """The objective, of the kind that the stage's method has."""
        if not isinstance(self.objective, kind):
            raise TypeError(f"a stage of method {self.method!r} has no {kind.__name__}")
        return self.objective

    @property
    def targets(self) -> tuple[Target, ...]:
        """The networks of a checkpoint that learn; none when a stage has no checkpoint or teaches a word."""
        return self.objective.targets if isinstance(self.objective, Tuned | DistillObjective) else ()

    @property
    def whole(self) -> bool:
        """Whether networks of a checkpoint learn with all weights, not adapters or a word."""
        if isinstance(self.objective, DreamBoothObjective | DistillObjective):
            return self.objective.whole
        return isinstance(self.objective, FullObjective)

    def on(self, examples: int) -> "Stage":
        """This stage on so many examples: `epochs` are counted in steps."""
        if self.epochs is None:
            return self
        steps = -(-self.epochs * examples // (self.batch * self.accumulate))
        return self.model_copy(update={"max_steps": min(steps, self.max_steps or steps), "epochs": None})


class DataConfig(Table):
    """Where the images are and which of them are learned from; the test split never is.

    `fit` is how images come to one shape, `cache` where decoded ones are kept, `styles` which of the
    metadata's are learned from. `held_out` images are kept from training and measured on instead.

    The folder may be of shards (`.tar`, WebDataset); a Hugging Face `dataset` (a Hub id or a folder, its
    `split`, and columns where they are not called as usual) takes its place. Both are unpacked once, into
    `core.system.cache_folder`.

    With `buckets` images keep about their shapes, of `size` squared pixels in all and sides that are
    multiples of it; a batch is of one shape. For fine-tuning a checkpoint on images.

    `hints` is a folder with a hint image for each image, under the same name (whatever the ending); it
    takes the place of a column `hint` of the metadata.

    `recipe` names one of `kandinsky.recipes`, which reads the folder and says what images show. Of it alone
    are `groups` and `keep_wasteful`, which images it leaves out, the probabilities `captions` of its grammar,
    `common`, how often images of the commonest things are seen, and `measure_colours`, whether things may be
    called by their colours and given others.
    """

    folder: Path = Path()
    dataset: str | None = None
    split: str = "train"
    image_column: str | None = None
    caption_column: str | None = None
    size: int = Field(default=64, ge=8)
    recipe: str | None = None
    groups: tuple[str, ...] = ("core",)
    styles: tuple[str, ...] | None = None
    keep_wasteful: bool = False
    cache: Path | None = None
    fit: Fit = "cut"
    buckets: int | None = Field(default=None, ge=8)
    hints: Path | None = None
    captions: dict[str, object] = Field(default_factory=dict)
    measure_colours: bool = False
    common: int = Field(default=1, ge=1)
    held_out: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # The settings that a run leaves name every default.
        folder = "folder" in self.model_fields_set and (self.dataset is None or self.folder != Path())
        if folder == (self.dataset is not None):
            raise ConfigError("data.folder and data.dataset: one of them is needed.", "Set folder or dataset.")
        usual = {"groups": ("core",), "keep_wasteful": False, "captions": {}, "common": 1}
        usual |= {"measure_colours": False}
        names = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.recipe is None and names:
            raise ConfigError(
                f"data.{names[0]} is for a recipe, and none is named.", 'Set data.recipe, such as "emoji".'
            )
        return self


class ExportConfig(Table):
    """How the finished checkpoint is written: the dtype of its weights, and the defaults of requests.

    Settings that are None are those of the published models.
    """

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    prior_steps: int | None = Field(default=None, ge=1)
    prior_guidance_scale: float | None = Field(default=None, ge=0)
    sampler: str | None = None
    strength: float | None = Field(default=None, gt=0, le=1)


class ModelConfig(Table):
    """The checkpoint that fine-tuning begins with: the arguments of `kandinsky.load`.

    `name` is a folder or a Hub id, None the embedded checkpoint. `lora` are adapters that act meanwhile, with
    their scales.
    """

    name: str | None = None
    prior: str | None = None
    variant: str | None = None
    revision: str | None = None
    behaviour: str | None = None
    lora: dict[str, float] = Field(default_factory=dict)


class TrainConfig(Table):
    """A whole run: data, networks (by name, checked against each network's own configuration), its stages,
    and the checkpoint it ends in.

    `model` is where fine-tuning begins; training from scratch begins with nothing.
    """

    out: Path
    data: DataConfig
    model: ModelConfig = ModelConfig()
    stage: tuple[Stage, ...] = Field(min_length=1)
    networks: dict[str, dict[str, object]] = Field(default_factory=dict)
    export: ExportConfig = ExportConfig()
    tokenizer: Path | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _single(cls, values: object) -> object:
        if not isinstance(values, Mapping) or "method" not in values or "stage" in values:
            return values
        stage = {key: value for key, value in values.items() if key in Stage.model_fields}
        return {**{key: value for key, value in values.items() if key not in stage}, "stage": [stage]}

    @model_validator(mode="after")
    def _stages(self) -> Self:
        seen: list[str] = []
        for stage in self.stage:
            if self.data.buckets is not None and stage.method not in BUCKETED:
                raise ConfigError(f"stage {stage.name!r} learns from images of one shape.", "Leave data.buckets out.")
            if self.data.recipe is not None and stage.method in OWN_SENTENCES:
                raise ConfigError(
                    f"stage {stage.name!r} brings its own sentences and learns from images without a recipe.",
                    "Leave data.recipe out, and what is set for it.",
                )
            weighs = stage.objective
            if isinstance(weighs, ClipObjective) and weighs.of_heads and self.data.recipe is None:
                raise ConfigError(
                    f"stage {stage.name!r} weighs {weighs.of_heads}, which a head of a recipe learns from.",
                    'Set data.recipe, such as "emoji", or leave it out.',
                )
            if stage.name in seen:
                raise ConfigError(f"two stages are called {stage.name!r}.", "Give each its own `name`.")
            if stage.init is not None and stage.init not in seen and not Path(stage.init).is_dir():
                raise ConfigError(
                    f"stage {stage.name!r} starts from {stage.init!r}, which is no earlier stage or folder.",
                    f"Earlier: {', '.join(seen) or 'none'}.",
                )
            seen.append(stage.name)
        return self


def read_config(
    source: Path | str | Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> TrainConfig:
    """Reads a run from a TOML file or a mapping; `overrides` replace top-level keys, tables key by key.

    Relative paths in a file count from the working directory. Raises ConfigError when the file is missing
    or no TOML, or for the first wrong or unknown setting.
    """
    values = dict(source) if isinstance(source, Mapping) else _read_toml(Path(source))
    for key, value in (overrides or {}).items():
        old = values.get(key)
        values[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return validated(TrainConfig, values, "")


def read_settings(run: Path) -> TrainConfig | None:
    """The settings that a run left in its folder `out`; None where there are none, ConfigError for others."""
    try:
        text = (run / SETTINGS).read_text(encoding="utf-8")
        return validated(TrainConfig, json.loads(text), str(run / SETTINGS))
    except OSError:
        return None
    except ValueError as error:
        raise ConfigError(f"{run / SETTINGS} is no JSON: {error}.", "Give another run.") from error


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", "Give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}.", "Correct the line it names.") from error
