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
    """Weights of the autoencoder's losses, see `objectives.autoencoder`."""

    method: Literal["movq"] = "movq"
    l1: float = Field(default=1.0, ge=0, description="weight of the absolute error of pixels")
    l2: float = Field(default=0.0, ge=0, description="weight of the squared error of pixels")
    perceptual: float = Field(default=1.0, ge=0, description="weight of the distance of features")
    features: Literal["structure", "lpips"] = Field(
        default="structure",
        description='what that distance is measured in: "structure" needs no weights, "lpips" needs the two files',
    )
    lpips_trunk: Literal["alexnet", "vgg16"] = Field(default="vgg16", description="the network of LPIPS")
    lpips_trunk_file: Path | None = Field(default=None, description="its weights")
    lpips_heads_file: Path | None = Field(default=None, description="the weights of its heads")
    codebook: float = Field(default=1.0, ge=0, description="weight that pulls the codebook to the latents")
    commitment: float = Field(default=0.25, ge=0, description="weight that pulls the latents to the codebook")
    latent_weight: float = Field(
        default=0.01,
        ge=0,
        description="weight that pulls latents to mean 0 and deviation 1, as diffusion takes them unscaled",
    )
    latent_noise: float = Field(default=0.0, ge=0, description="deviation of noise on the latents before decoding")
    standardise: bool = Field(
        default=True, description="make them exactly that when the stage ends, without a change of what is decoded"
    )
    continuous: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of rows decoded without quantising, which is how diffusion uses the codec",
    )
    crop: int | None = Field(default=None, ge=8, description="learn from random windows of that side")
    adversarial: float = Field(default=0.0, ge=0, description="weight of the critic's judgement")
    adversarial_from: int = Field(default=0, ge=0, description="the first adversarial step")
    discriminator_width: int = Field(default=64, ge=8, description="channels of the critic's first layer")
    discriminator_lr: float | None = Field(
        default=None, gt=0, description="the critic's learning rate, the stage's without it"
    )


class ClipObjective(Table):
    """Weights of the losses of the text tower and the vision tower, and how their batches are made.

    A tower that no loss needs is not run.
    """

    method: Literal["clip"] = "clip"
    contrastive: float = Field(default=1.0, ge=0, description="weight of captions against images")
    text_pairs: float = Field(default=0.0, ge=0, description="weight of two captions of an image against each other")
    concepts: float = Field(
        default=0.0,
        ge=0,
        description="weight of the image embedding against a learned vector for each concept (of a recipe, as "
        "all that follow)",
    )
    concepts_text: float = Field(default=0.0, ge=0, description="the same for the text embedding")
    looks: float = Field(
        default=0.0, ge=0, description="image embedding against a vector for each style and background"
    )
    looks_text: float = Field(
        default=0.0, ge=0, description="the same for the text embedding, where the caption names them"
    )
    colours: float = Field(default=0.0, ge=0, description="image embedding against the colour of the thing")
    colours_text: float = Field(default=0.0, ge=0, description="the same for the text embedding")
    sketch: float = Field(
        default=0.0,
        ge=0,
        description="weight of a small copy of the image read off its embedding, so that it carries layout and colour",
    )
    distillation: float = Field(
        default=0.0, ge=0, description="weight of the text embedding against that of the `teacher`"
    )
    teacher: Literal["usem3"] | None = Field(default=None, description="a sentence encoder")
    lock: Literal["vision", "text"] | None = Field(
        default=None,
        description="freezes a tower that is finished while the other learns to fit it (Zhai et al. 2022, "
        "arXiv 2111.07991)",
    )
    per_concept: int = Field(
        default=1,
        ge=1,
        description="images of each concept in a batch, so that only style and background tell some apart; 1 "
        "takes them as they come",
    )

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
        # On a locked vision tower heads may learn what it sees, before texts learn to fit them.
        of_heads = self.lock == "vision" and not self.blind
        if not (self.reads and self.lock != "text") and not (self.sees and self.lock != "vision") and not of_heads:
            raise ConfigError("no tower learns anything from these weights.", "Raise a weight, or lift the lock.")
        return self


class Robust(Table):
    """How an error counts."""

    loss: Literal["mse", "huber"] = Field(
        default="mse",
        description='"mse" counts an error e by its square, "huber" by 2c (sqrt(e^2 + c^2) - c), which grows '
        "only linearly beyond c (Charbonnier et al. 1997)",
    )
    huber_c: float = Field(default=0.1, gt=0, description="the c of the Huber loss")


class PriorObjective(Robust):
    """The prior's loss."""

    condition_dropout: float = Field(default=0.1, ge=0, le=1, description="share of examples with an empty prompt")
    times: Times = Field(
        default="uniform", description='"uniform" times, or "second_moment": more of those with large losses'
    )


class DecoderObjective(Robust):
    """The decoder's losses."""

    target: Literal["eps", "x0", "v"] = Field(default="eps", description="what a decoder from scratch predicts")
    vlb: float = Field(default=1.0, ge=0, description="weight of the bound for the learned variance")
    min_snr: float | None = Field(
        default=None, gt=0, description="min-SNR gamma: cap of the loss weights (Hang et al. 2023, arXiv 2303.09556)"
    )
    offset_noise: float = Field(
        default=0.0,
        ge=0,
        description="deviation of noise that is the same in all places of a channel: images darker and "
        "lighter than the middle can be learned",
    )
    times: Times = Field(
        default="uniform", description='"uniform" times, or "second_moment": more of those with large losses'
    )
    condition_dropout: float = Field(
        default=0.1, ge=0, le=1, description="share of examples with the embedding of an empty image, for guidance"
    )


class PriorFromScratch(PriorObjective):
    """The objective of a prior that begins with random weights."""

    method: Literal["prior"] = "prior"


class DecoderFromScratch(DecoderObjective):
    """The objective of a decoder that begins with random weights."""

    method: Literal["decoder"] = "decoder"


class AdapterConfig(Table):
    """The shape of low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: float | None = Field(default=None, gt=0, description="scale times the rank; the rank without it")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of the inputs while training")
    dora: bool = Field(default=False, description="train the lengths of rows too (DoRA, arXiv 2402.09353)")
    layers: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="layers to adapt by component (`unet`, `prior_prior`, ...), as files call them; the "
        "projections of attention without it",
    )
    text_encoders: bool = Field(default=False, description="adapt the text encoder of each target too")


class InpaintingConfig(Table):
    """The decoder learns to repaint regions, drawn at random; one without channels for regions gets them."""

    box: float = Field(default=0.1, ge=0, le=1, description="share of regions that are boxes, else blobs and frames")
    first_layer: FirstLayer = Field(
        default="extend",
        description='"extend" begins by overlooking the new channels, "new" begins that layer anew, as the '
        "original code",
    )


class ControlConfig(Table):
    """The decoder learns to follow hint images, see `core.edges`; one that never did gets the layers for it."""

    hints: Literal["given", "edges"] = Field(
        default="given",
        description='"given" by the data (`data.hints`, or a column `hint`), or the "edges" of the images themselves',
    )
    first_layer: FirstLayer = Field(
        default="extend", description='"extend" begins by overlooking hints, "new" begins that layer anew'
    )


class Tuned(Table):
    """Which network of the checkpoint learns, and the losses of each.

    The decoder predicts what the checkpoint's decoder does; raises ConfigError where `decoder.target` is set.
    """

    target: Literal["decoder", "prior", "both"] = Field(
        default="decoder", description="which network of the checkpoint to train"
    )
    decoder: DecoderObjective = Field(default=DecoderObjective(), description="the decoder's loss")
    prior: PriorObjective = Field(default=PriorObjective(), description="the prior's loss")
    inpainting: InpaintingConfig | None = Field(
        default=None, description="train the decoder to repaint regions; an inpainting decoder always is"
    )
    control: ControlConfig | None = Field(
        default=None, description="train the decoder to follow hints; a ControlNet decoder always is"
    )
    masked: Literal["no", "region", "alpha"] = Field(
        default="no",
        description='where the decoder\'s losses count: "region" inside the region, "alpha" where an image is opaque',
    )
    outside: float = Field(default=0.0, ge=0, le=1, description="weight of the loss elsewhere")
    prompts: tuple[str, ...] = Field(
        default=(),
        description="preview prompts of the sample sheets; captions of the first images without it, and where the "
        "decoder takes regions or hints",
    )

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
        return ("decoder", "prior") if self.target == "both" else (self.target or "decoder",)

    @property
    def with_texts(self) -> bool:
        """Whether the text encoders of those networks learn too."""
        return False


class LoraObjective(Tuned):
    """Low-rank adapters learn, the checkpoint stays as it is."""

    method: Literal["lora"] = "lora"
    target: Literal["decoder", "prior", "both"] | None = Field(
        default=None,
        description='what to train; "both" where the decoder reads no captions but a prior does, else "decoder"',
    )  # type: ignore[assignment]
    adapter: AdapterConfig = Field(default=AdapterConfig(), description="the shape of adapters")

    @property
    def with_texts(self) -> bool:
        return self.adapter.text_encoders


class FullObjective(Tuned):
    """All weights learn but frozen ones."""

    method: Literal["full"] = "full"
    frozen: tuple[str, ...] = Field(
        default=(),
        description='weights that do not learn: parts of their names in files; "resblocks" and "attention" are groups',
    )
    text_encoders: bool = Field(default=False, description="train the targets' text encoders too")

    @property
    def with_texts(self) -> bool:
        return self.text_encoders


class DreamBoothObjective(Tuned):
    """One subject learns a name, and its class stays as varied as it was (arXiv 2208.12242)."""

    method: Literal["dreambooth"] = "dreambooth"
    target: Literal["decoder", "prior", "both"] = Field(default="both", description="which network to train")
    prompt: str = Field(default="", description='the subject\'s name, such as "a zwx toy"')
    class_prompt: str = Field(default="", description='its class, such as "a toy"')
    class_images: int = Field(
        default=64, ge=0, description="images of the class that the checkpoint draws before; 0 leaves them out"
    )
    class_weight: float = Field(default=1.0, ge=0, description="how much their loss counts (their eq. 2)")
    class_steps: int | None = Field(default=None, ge=1, description="steps of the requests that draw them")
    class_prior_guidance_scale: float | None = Field(
        default=None,
        ge=1,
        description="guidance of those requests: what is guided again when it is asked for is best drawn with little",
    )
    whole: bool = Field(default=False, description="all weights learn, without it adapters")
    adapter: AdapterConfig = Field(default=AdapterConfig(), description="the shape of adapters")

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
    """A new word learns what images show (Gal et al. 2022, arXiv 2208.01618); no network changes."""

    method: Literal["textual_inversion"] = "textual_inversion"
    token: str = Field(description="the new word")
    init_from: str = Field(description="a known word whose rows it begins with")
    vectors: int = Field(default=1, ge=1, le=32, description="rows that stand for it")
    property: Literal["object", "style"] = Field(
        default="object", description='whether the sentences speak of an "object" or a "style"'
    )
    route: Literal["direct", "sampled"] = Field(
        default="direct",
        description='"direct" asks the prior for the image\'s embedding, and a decoder that reads texts for '
        'its noise; "sampled" the decoder for its noise under what the prior draws',
    )
    prior_steps: int = Field(
        default=5, ge=1, description="steps of the prior of that route, all of which the gradient follows"
    )
    prior_guidance_scale: float = Field(default=4.0, ge=0, description="its guidance")
    templates: tuple[str, ...] = Field(
        default=(), description="the sentences, {} standing for the word; the usual ones without it"
    )
    shown: tuple[str, ...] = Field(
        default=(), description="what sample sheets draw; the first four sentences without it"
    )
    shown_steps: int = Field(default=10, ge=1, description="in so many steps")
    times: Times = Field(
        default="uniform", description='"uniform" times, or "second_moment": more of those with large losses'
    )

    @model_validator(mode="after")
    def _speak(self) -> Self:
        if set(self.token) & set("/\\"):
            raise ConfigError(f"objective.token is {self.token!r}, and names a file.", "Leave / and \\ out of it.")
        for name, sentences in (("templates", self.templates), ("shown", self.shown)):
            for sentence in sentences:
                if sentence.count("{}") != 1:
                    raise ConfigError(f"objective.{name}: {sentence!r} has no place {{}}.", "Write {} once.")
        return self


class DistillObjective(Robust):
    """The decoder learns to draw in a few steps, unguided, what it draws in more steps guided.

    Consistency with one step is latent consistency distillation.
    """

    method: Literal["distill"] = "distill"
    steps: int = Field(default=4, ge=1, description="of the student")
    solver_steps: int = Field(default=16, ge=2, description="of the teacher, a multiple")
    solver: Literal["dpmpp_2m", "ddim", "euler", "heun", "unipc"] = Field(
        default="dpmpp_2m", description="the teacher's sampler"
    )
    guidance_scale: float | None = Field(
        default=None, ge=0, description="the teacher's; the checkpoint's usual one without it"
    )
    route: Literal["trajectories", "consistency"] = Field(
        default="trajectories",
        description='"trajectories" learns segments of what the teacher drew before; "consistency" to say '
        "before a step of the teacher what it says after",
    )
    trajectories: int = Field(default=1024, ge=1, description="images that the teacher draws before")
    chunk: int = Field(default=32, ge=1, description="so many at a time")
    from_text: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="share of them that begin with captions, as requests do; the others with the images",
    )
    loss: Literal["mse", "huber"] = Field(default="huber", description="as of `decoder.loss`")
    whole: bool = Field(default=False, description="all weights learn, without it adapters")
    adapter: AdapterConfig = Field(default=AdapterConfig(), description="the shape of adapters")

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
