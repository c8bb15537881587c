"""The text encoders of a loaded model, and learned words for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kandinsky.adapters.tokens import add_rows, table_of
from kandinsky.checkpoints.textual_inversion import read_words
from kandinsky.conditioning.decoder_texts import DecoderTexts, TwoTextsConditioner
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.one_text import OneTextConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.text_image import TextImageConditioner
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.engine.loras import adaptable
from kandinsky.generations.model import Model


@dataclass(frozen=True, eq=False)
class Encoder:
    """A text encoder and the tokenizer that makes its ids."""

    tokenizer: Tokenizer
    network: nn.Module

    @property
    def width(self) -> int:
        """How wide its token table is."""
        return int(table_of(self.network).embedding_dim)


@dataclass(frozen=True, eq=False)
class Listeners:
    """What stands between a model's prompts and its decoder, each None where the model has no such part.

    `prior` makes image embeddings, `texts` are encoders of hidden states and embeddings, `one_text` is the
    encoder of decoders that read each text at its own length.
    """

    prior: PriorStage | None = None
    texts: DecoderTexts | None = None
    one_text: OneTextConditioner | None = None


def listeners(model: Model) -> Listeners:
    """The parts behind a model's conditioner; RequestError for a model of another kind."""
    match model.conditioner:
        case ImagePromptConditioner(stage=stage):
            return Listeners(stage)
        case TextImageConditioner(image=image, texts=texts):
            return Listeners(image.stage, texts)
        case TwoTextsConditioner(texts=texts):
            return Listeners(texts=texts)
        case OneTextConditioner() as one_text:
            return Listeners(one_text=one_text)
    raise RequestError(f"{model.name} cannot learn.", "Choose another checkpoint.")


def text_encoders(model: Model) -> dict[str, Encoder]:
    """The text encoders of a model, by what files call them."""
    parts = listeners(model)
    prior, texts, one_text = parts.prior, parts.texts, parts.one_text
    found = [] if prior is None else [Encoder(prior.tokenizer, prior.text)]
    if one_text is not None:
        found.append(Encoder(one_text.reader.tokenizer, model.modules["text_encoder"]))
    if texts is not None:
        found.append(Encoder(texts.first.tokenizer, texts.first.network))
        if texts.second is not None:
            found.append(Encoder(texts.second.tokenizer, texts.second.network))
    names = {id(network): name for name, network in adaptable(model).items()}
    return {names[id(encoder.network)]: encoder for encoder in found}


def learn_word(encoders: Mapping[str, Encoder], word: str, rows: Mapping[str, Tensor]) -> None:
    """Teaches encoders a word that stands for rows (n, W) in each; gradients reach them.

    Raises RequestError for a word that one of them knows, and for rows of another width; then no encoder has
    learned anything.
    """
    for component, new in rows.items():
        encoder = encoders[component]
        encoder.tokenizer.check_new(word)
        if new.ndim != 2 or new.shape[1] != encoder.width:
            raise RequestError(
                f"The rows of {word!r} are {tuple(new.shape)}, the text encoder's {encoder.width} wide.",
                "They were learned with another model.",
            )
    for component, new in rows.items():
        encoder = encoders[component]
        encoder.tokenizer.learn(word, add_rows(encoder.network, new))


def load_words(model: Model, path: Path) -> list[str]:
    """Teaches a model the words of a file and returns them.

    A word that was learned by some of its encoders is none for the others, which spell it. Raises
    CheckpointError for a file that is damaged or of another model, RequestError as `learn_word` does.
    """
    encoders = text_encoders(model)
    assigned: dict[str, dict[str, Tensor]] = {}
    for word, parts in read_words(path).items():
        assigned[word] = {_component(encoders, name, rows, path): rows for name, rows in parts.items()}
    for word, found in assigned.items():
        learn_word(encoders, word, {name: rows.to(model.device, model.dtype) for name, rows in found.items()})
    return list(assigned)


def _component(encoders: Mapping[str, Encoder], name: str, rows: Tensor, path: Path) -> str:
    if name in encoders:
        return name
    fitting = [part for part, encoder in encoders.items() if encoder.width == rows.shape[1]]
    if name or len(fitting) != 1:
        raise CheckpointError(
            f"{path} has rows {rows.shape[1]} wide for an encoder {name or 'without a name'}; this model has "
            "none such.",
            f"It has: {', '.join(f'{part} ({e.width})' for part, e in encoders.items())}.",
        )
    return fitting[0]
