"""The text encoders of a loaded model, and learned words for them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from kandinsky.adapters.tokens import add_rows
from kandinsky.checkpoints.textual_inversion import read_words
from kandinsky.conditioning.conditions import CaptionConditioner, TextEncoder
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.files import local
from kandinsky.engine.loras import adaptable, check_changeable
from kandinsky.generations.model import Model


def captions_of(model: Model) -> CaptionConditioner:
    """The model's conditioner as training uses it; RequestError for a model of another kind."""
    if not isinstance(model.conditioner, CaptionConditioner):
        raise RequestError(f"{model.name} cannot learn.", "Choose another checkpoint.")
    return model.conditioner


def text_encoders(model: Model) -> dict[str, TextEncoder]:
    """The text encoders of a model, by what files call them."""
    captions = captions_of(model)
    found = [*([] if captions.prior is None else [captions.prior.encoder]), *captions.encoders]
    names = {id(network): name for name, network in adaptable(model).items()}
    return {names[id(encoder.network)]: encoder for encoder in found}


def learn_word(encoders: Mapping[str, TextEncoder], word: str, rows: Mapping[str, Tensor]) -> None:
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


def load_words(model: Model, source: str | Path) -> list[str]:
    """Teaches a model the words of a file and returns them.

    A word that was learned by some of its encoders is none for the others, which spell it. Raises
    CheckpointError for a file that is damaged or of another model, RequestError as `learn_word` does.
    """
    check_changeable(model)
    encoders, path = text_encoders(model), local(source)
    assigned: dict[str, dict[str, Tensor]] = {}
    for word, parts in read_words(path).items():
        assigned[word] = {_component(encoders, name, rows, path): rows for name, rows in parts.items()}
    for word, found in assigned.items():
        learn_word(encoders, word, {name: rows.to(model.device, model.dtype) for name, rows in found.items()})
    return list(assigned)


def _component(encoders: Mapping[str, TextEncoder], name: str, rows: Tensor, path: Path) -> str:
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
