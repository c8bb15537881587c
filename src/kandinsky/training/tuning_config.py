"""What each way of fine-tuning learns and minimises, as tables."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kandinsky.core.errors import ConfigError
from kandinsky.training.objectives_config import DecoderObjective, PriorObjective
from kandinsky.training.tables import Table

Target = Literal["decoder", "prior"]


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

    A decoder that was never told of regions gets the channels for it: with `first_layer` "extend" it begins
    by overlooking them, with "new" that layer begins anew, as in the original code.
    """

    box: float = Field(default=0.1, ge=0, le=1)
    first_layer: Literal["extend", "new"] = "extend"


class ControlConfig(Table):
    """The decoder learns to follow hint pictures.

    `hints` "given" are those of the data (`data.hints`, or a column `hint`), "edges" are the edges of the
    pictures themselves, see `core.edges`. A decoder that never followed hints gets the layers for it:
    `first_layer` as in `InpaintingConfig`.
    """

    hints: Literal["given", "edges"] = "given"
    first_layer: Literal["extend", "new"] = "extend"


class Tuned(Table):
    """Which network of the checkpoint learns, and the losses of each, see `DecoderObjective`.

    `inpainting` makes the decoder learn to repaint, `control` to follow hint pictures; decoders for that
    always do. With `masked` "region" the decoder's losses count inside the region only, with "alpha" only
    where a picture is opaque, and `outside` elsewhere. The decoder says what the checkpoint's decoder says;
    raises ConfigError where `decoder.target` is set. `prompts` are what sample sheets draw, captions of the
    first pictures without them, and where the decoder is told of regions or hints.
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
    def _of_the_decoder(self) -> Self:
        told = {"inpainting": self.inpainting is not None, "control": self.control is not None}
        given = [name for name, is_given in (told | {"masked": self.masked != "no"}).items() if is_given]
        if self.target == "prior" and given:
            raise ConfigError(
                f"objective.{given[0]} is of the decoder, but only the prior learns.",
                'Set target = "decoder" or "both".',
            )
        if all(told.values()):
            raise ConfigError(
                "objective.inpainting and objective.control: a decoder learns one of them.", "Leave one out."
            )
        return self

    @model_validator(mode="after")
    def _as_made(self) -> Self:
        # The settings that a run leaves name every default.
        if self.decoder.target != DecoderObjective().target:
            raise ConfigError(
                f"objective.decoder.target is {self.decoder.target!r}, but the checkpoint says what it is.",
                "Leave it out.",
            )
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """The networks that learn."""
        return ("decoder", "prior") if self.target == "both" else (self.target,)

    @property
    def with_texts(self) -> bool:
        """Whether the text encoders that those networks listen to learn too."""
        return False


class LoraObjective(Tuned):
    """Low-rank adapters learn, the checkpoint stays as it is."""

    adapter: AdapterConfig = AdapterConfig()

    @property
    def with_texts(self) -> bool:
        return self.adapter.text_encoders


class FullObjective(Tuned):
    """All weights learn but those whose name in files, such as `unet.conv_in.weight`, contains one of
    `frozen`.

    "resblocks" and "attention" stand for the groups that the original code froze. With `text_encoders` those
    that the targets listen to learn too: all that the decoder reads texts with, and the prior's.
    """

    frozen: tuple[str, ...] = ()
    text_encoders: bool = False

    @property
    def with_texts(self) -> bool:
        return self.text_encoders


class DreamBoothObjective(Tuned):
    """One subject learns a name, and its class stays as varied as it was (arXiv 2208.12242).

    `prompt` names the subject ("a zwx toy"), `class_prompt` its class ("a toy"). `class_pictures` pictures of
    the class are drawn by the checkpoint itself before, and their loss counts `class_weight` (their eq. 2);
    0 of either leaves that out. `class_steps` and `class_prior_guidance_scale` are of the requests that draw
    them: what is guided once more when it is asked for is best drawn with little guidance. With `whole` all
    weights learn, without it adapters; those of text encoders too with `adapter.text_encoders`.
    """

    target: Literal["decoder", "prior", "both"] = "both"
    prompt: str = ""
    class_prompt: str = ""
    class_pictures: int = Field(default=64, ge=0)
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
        """Whether pictures of the class are learned from beside those of the subject."""
        return self.class_pictures > 0 and self.class_weight > 0

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.prompt.strip():
            raise ConfigError("objective.prompt is not set.", 'Name the subject, such as "a zwx toy".')
        if self.preserves and not self.class_prompt.strip():
            raise ConfigError(
                "objective.class_prompt is not set.",
                'Name the class, such as "a toy", or set class_pictures = 0.',
            )
        return self


class TextualInversionObjective(Table):
    """A new word learns what pictures show (Gal et al. 2022, arXiv 2208.01618); no network changes.

    `token` is the word, `init_from` a known one whose rows it begins with. `vectors` rows stand for it. With
    `property` "style" the sentences speak of a style. `route` "direct" asks the prior for the picture's
    embedding, and a decoder that reads texts for its noise under that embedding; "sampled" asks the decoder
    for its noise under the embedding that the prior draws in `prior_steps` steps, and follows the gradient
    through all of them. `templates` are the sentences, `{}` standing for the word; the usual ones without it.
    `shown` are those that sample sheets draw in `shown_steps` steps, the first four templates without it.
    """

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
    times: Literal["uniform", "second_moment"] = "uniform"

    @model_validator(mode="after")
    def _speak(self) -> Self:
        for name in ("templates", "shown"):
            for sentence in getattr(self, name):
                if sentence.count("{}") != 1:
                    raise ConfigError(f"objective.{name}: {sentence!r} has no place {{}}.", "Write {} once.")
        return self
