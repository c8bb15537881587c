"""The one schema of a training run, read from TOML; unknown keys are refused with the nearest right one.

A run is a list of stages over one data set and one set of networks. A file with a top-level `method` and no
`[[stage]]` is a run of a single stage.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

from pydantic import Field, model_validator

from kandinsky.core.errors import ConfigError, nearest
from kandinsky.core.texts import decode_text
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, parse_toml, read_bytes
from kandinsky.core.validation import shown
from kandinsky.engine.embedded import EMBEDDED
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
from kandinsky.training.config.table import Table, check_keys, validated

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

FOUND = "found"
"""What a run adds to its settings: what it learns from."""

Kind = TypeVar("Kind", bound=Table)


class OptimiserConfig(Table):
    """What changes the weights: AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), Adafactor (Shazeer & Stern 2018,
    arXiv 1804.04235), AdamW in 8 bits, or Prodigy (arXiv 2306.06101).
    """

    kind: Literal["adamw", "adafactor", "adamw8bit", "prodigy"] = Field(
        default="adamw",
        description='"adamw"; "adafactor" with far smaller state; "adamw8bit" (package bitsandbytes); '
        '"prodigy" (package prodigyopt), which finds its own rate',
    )
    lr: float = Field(
        default=3e-4,
        gt=0,
        description="learning rate; 1 for prodigy, and relative to the size of each weight for adafactor",
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.99), description="decay of the means of gradients and of their squares"
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="weight decay of matrices; norms, biases and vectors are not decayed"
    )
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the mean of squares")


class ScheduleConfig(Table):
    """How the learning rate goes."""

    kind: Literal["constant", "cosine", "linear"] = Field(
        default="cosine", description="constant, or falling along a cosine or a line"
    )
    warmup: int = Field(default=100, ge=0, description="steps in which the rate rises from zero")
    floor: float = Field(default=0.0, ge=0, le=1, description="the final rate, as a share of the full one")


class EmaConfig(Table):
    """The running mean of the weights."""

    decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, which is what is exported; 0 turns it off",
    )


class Stage(Table):
    """One trainable, one objective, one network, and how long.

    A falling learning rate reaches its floor with the steps when they are limited, else with the minutes.
    """

    method: str = Field(description="what learns, and from what")
    name: str = Field(default="", description="name of its folder; the method without it")
    init: str | None = Field(
        default=None, description="a stage, a folder of another run's, or a checkpoint, whose weights it begins with"
    )
    uses: dict[str, str] = Field(
        default_factory=dict,
        description="which stage, folder or checkpoint gives each frozen network; the last stage before without it",
    )
    size: int | None = Field(default=None, ge=8, description="side of its images, in place of `data.size`")
    batch: int = Field(default=32, ge=1, description="batch size")
    accumulate: int = Field(default=1, ge=1, description="batches per step (gradient accumulation)")
    max_steps: int | None = Field(default=None, ge=1, description="ends the stage after so many steps")
    epochs: int | None = Field(default=None, ge=1, description="ends the stage after each image was seen so often")
    max_minutes: float | None = Field(default=None, gt=0, description="ends the stage after so many minutes")
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest norm of a gradient")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description='networks compute in that; what learns stays in float32, and "fp16" scales the loss and '
        "leaves out steps in which that overflows",
    )
    channels_last: bool = Field(default=False, description="use the channels-last memory format")
    compile: bool = Field(default=False, description="run networks through torch.compile")
    gradient_checkpointing: bool = Field(
        default=False, description="keep inputs of blocks only and run them again: less memory, more time"
    )
    spread: bool = Field(
        default=False, description="processes keep parts of networks that learn as a whole instead of copies (FSDP)"
    )
    augmentation: str | dict[str, float] = Field(
        default="colour", description='"none", "colour", "light", "full", or a table: what may happen to an image'
    )
    variants: int = Field(
        default=0,
        ge=0,
        description="augmentations of each image that are encoded once and kept; 0 encodes in every step",
    )
    save_every: int = Field(default=1000, ge=1, description="steps between checkpoints")
    keep: int = Field(default=2, ge=1, description="number of checkpoints to keep")
    sample_every: int = Field(
        default=0, ge=0, description="steps between sample sheets and measures; 0 leaves them out"
    )
    log_every: int = Field(default=10, ge=1, description="steps between lines of losses")
    optimiser: OptimiserConfig = Field(default=OptimiserConfig(), description="what changes the weights")
    schedule: ScheduleConfig = Field(default=ScheduleConfig(), description="the learning rate schedule")
    ema: EmaConfig = Field(default=EmaConfig(), description="the moving average of weights")
    objective: Objective = Field(description="what is minimised, by method")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        """Names the stage, and tags its objective with the method."""
        if not isinstance(values, Mapping) or "method" not in values:
            return values
        method = values["method"]
        if not isinstance(method, str) or method not in METHODS:
            raise ConfigError(f"there is no method {shown(method)}.", nearest(str(method), METHODS))
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

    def on(self, examples: int, batches: int | None = None, processes: int = 1) -> "Stage":
        """This stage on so many examples, which `processes` share: `epochs` are counted in steps.

        `batches` is how many an epoch has where not all are full.
        """
        if self.epochs is None:
            return self
        epochs = Fraction(examples, self.batch) if batches is None else Fraction(batches)
        steps = math.ceil(self.epochs * epochs / (self.accumulate * processes))
        return self.model_copy(update={"max_steps": min(steps, self.max_steps or steps), "epochs": None})


class DataConfig(Table):
    """Where the images are and which of them are learned from; the test split never is.

    Shards and datasets are unpacked once, into `core.system.cache_folder`.
    """

    folder: Path = Field(default=Path(), description="images with captions, shards, parquet, or a table")
    dataset: str | None = Field(default=None, description="a Hugging Face dataset in its place: a Hub id or a folder")
    split: str = Field(default="train", description='what is learned from; "test" never is')
    image_column: str | None = Field(default=None, description="column of image files, where it has another name")
    caption_column: str | None = Field(default=None, description="column of the captions, likewise")
    size: int = Field(
        default=64, ge=8, description="side of images in pixels; the checkpoint's own when fine-tuning, without it"
    )
    recipe: str | None = Field(
        default=None, description="one of `kandinsky.recipes`, which reads the folder and says what images show"
    )
    groups: tuple[str, ...] = Field(default=("core",), description="of a recipe: groups of images to learn from")
    styles: tuple[str, ...] | None = Field(
        default=None, description="styles, as the metadata name them, to learn from; all without it"
    )
    keep_wasteful: bool = Field(default=False, description="of a recipe: images that it leaves out otherwise")
    cache: Path | None = Field(
        default=None, description="where decoded images are kept; the platform's folder for caches without it"
    )
    fit: Fit = Field(
        default="cut", description='how images come to one shape: "cut" to the middle, or both sides scaled ("squeeze")'
    )
    buckets: int | None = Field(
        default=None,
        ge=8,
        description="keep about their shapes: sides are multiples of it, `size` squared pixels in all, and a "
        "batch is of one shape",
    )
    hints: Path | None = Field(
        default=None, description="a folder with a hint for each image, under its name; in place of a column `hint`"
    )
    captions: dict[str, object] = Field(
        default_factory=dict, description="of a recipe: the probabilities of its grammar"
    )
    measure_colours: bool = Field(
        default=False, description="of a recipe: things may be called by their colours and given others"
    )
    common: int = Field(default=1, ge=1, description="of a recipe: how often images of the commonest things are seen")
    held_out: int = Field(default=0, ge=0, description="images that are measured on and not learned from")

    @model_validator(mode="after")
    def _learnable(self) -> Self:
        if self.split.partition("[")[0].strip().lower() in ("test", "testing"):
            raise ConfigError(
                f"data.split is {self.split!r}, which is never learned from.", 'Leave it out, or write split = "train".'
            )
        return self

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
    """How the finished checkpoint is written; settings that are None are those of the published models."""

    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        default=None, description="of the weights that are written; float16 for models, float32 for LoRA without it"
    )
    steps: int | None = Field(
        default=None, ge=1, description="the default number of steps of a model trained from scratch"
    )
    guidance_scale: float | None = Field(default=None, ge=0, description="the default guidance scale")
    prior_steps: int | None = Field(default=None, ge=1, description="the default number of prior steps")
    prior_guidance_scale: float | None = Field(default=None, ge=0, description="the same for the prior")
    sampler: str | None = Field(default=None, description="the default sampler")
    strength: float | None = Field(default=None, gt=0, le=1, description="the default strength")


class ModelConfig(Table):
    """The checkpoint that fine-tuning begins with: the arguments of `kandinsky.load`."""

    name: str | None = Field(
        default=None,
        description="the checkpoint to fine-tune: a folder or a Hub id; the embedded one without it",
    )
    prior: str | None = Field(default=None, description="its prior, where it is not found automatically")
    variant: str | None = Field(default=None, description="weight files, such as fp16")
    revision: str | None = Field(default=None, description="a branch, tag or commit of the Hub")
    behaviour: str | None = Field(default=None, description="which published way to run it")
    lora: dict[str, float] = Field(default_factory=dict, description="adapters that act meanwhile, with their scales")
    words: tuple[str, ...] = Field(
        default=(), description="files of learned words, or names of earlier stages that learn one"
    )


class TrainConfig(Table):
    """A whole run: data, networks, its stages, and the checkpoint it ends in."""

    out: Path = Field(description="where checkpoints, losses and samples go")
    data: DataConfig = Field(description="the training data")
    model: ModelConfig = Field(default=ModelConfig(), description="the checkpoint to fine-tune")
    stage: tuple[Stage, ...] = Field(
        min_length=1, description="the stages, one after the other; one may stand at the top level"
    )
    networks: dict[str, dict[str, object]] = Field(
        default_factory=dict, description="sizes of networks from scratch, by name"
    )
    export: ExportConfig = Field(default=ExportConfig(), description="how a finished model is written")
    tokenizer: Path | None = Field(
        default=None,
        description="a folder with the tokenizer of a model from scratch; without it that of its texts, or a new one",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of everything random")
    device: str = Field(default="auto", description='"auto", "cpu" or "cuda"')
    threads: int | None = Field(default=None, ge=1, description="number of CPU threads")

    @model_validator(mode="before")
    @classmethod
    def _single(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        if "method" not in values or "stage" in values:
            check_keys(values, cls.model_fields, of_stages=Stage.model_fields)
            return values
        check_keys(values, {**cls.model_fields, **Stage.model_fields})
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
            if stage.init not in (None, EMBEDDED, *seen) and not Path(str(stage.init)).is_dir():
                raise ConfigError(
                    f"stage {stage.name!r} starts from {stage.init!r}, which is not an earlier stage or folder.",
                    f"Earlier: {', '.join(seen) or 'none'}.",
                )
            seen.append(stage.name)
        self._check_used()
        return self

    def _check_used(self) -> None:
        """Raises ConfigError for settings that no stage reads."""
        methods = {stage.method for stage in self.stage}
        scratch = methods - FINETUNING
        unused = {
            "networks": bool(self.networks) and not scratch,
            "tokenizer": self.tokenizer is not None and not scratch,
            "model": self.model != ModelConfig() and scratch == methods,
        }
        requests = self.export.model_copy(update={"dtype": None})
        unused["export"] = requests != ExportConfig() and not {"prior", "decoder"} & scratch
        unused["export.dtype"] = self.export.dtype is not None and methods == {"textual_inversion"}
        for name, is_unused in unused.items():
            if is_unused:
                named = ", ".join(dict.fromkeys(stage.method for stage in self.stage))
                raise ConfigError(f"{name} is set, which {named} does not read.", "Leave it out.")


def read_config(
    source: Path | str | Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> TrainConfig:
    """Reads a run from a TOML file or a mapping; `overrides` replace top-level keys, tables key by key.

    Relative paths in a file count from the working directory. Raises ConfigError when the file is missing
    or no TOML, or for the first wrong or unknown setting.
    """
    values = dict(source) if isinstance(source, Mapping) else _read_toml(Path(source))
    # What a run has left may be run again; what it found is found anew.
    values.pop(FOUND, None)
    for key, value in (overrides or {}).items():
        old = values.get(key)
        values[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return validated(TrainConfig, values, "")


def read_settings(run: Path) -> TrainConfig | None:
    """The settings that a run left in its folder `out`; None where there are none, ConfigError for others."""
    left = read_left(run)
    return None if left is None else left[0]


def read_left(run: Path) -> tuple[TrainConfig, dict[str, object]] | None:
    """The settings that a run left, and what it found to learn from: by stage, and the hash of the data as `data`."""
    try:
        values = parse_json(read_bytes(run / SETTINGS))
    except OSError:
        return None
    except UnsoundTextError as error:
        raise ConfigError(f"{run / SETTINGS} is not JSON: {error}.", "Give another run.") from error
    found = values.pop(FOUND, {}) if isinstance(values, dict) else {}
    return validated(TrainConfig, values, str(run / SETTINGS)), found


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return parse_toml(decode_text(read_bytes(path), str(path), ConfigError).encode())
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path} cannot be read ({reason}).", "Give the path of a TOML file.") from error
    except UnsoundTextError as error:
        raise ConfigError(f"{path} is not TOML: {error}.", "Correct the line it names.") from error
