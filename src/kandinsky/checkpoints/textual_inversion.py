"""Learned words in files: rows of each text encoder's token table, by the word that stands for them.

Ours is safetensors, `<component>.<word>` of shape (n, W) with notes in the header. Also read are the original
code's pickles, `{"t1": {word: (W,)}, "t2": {word: (W,)}}` (t1 is the decoder's text encoder, t2 the prior's),
files of one encoder, `{word: (n, W)}`, as diffusers writes them, and those of the AUTOMATIC1111 web UI,
`{"string_to_param": {"*": (n, W)}, "name": word}`.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.lora import holds_change
from kandinsky.checkpoints.untrusted_pickle import read_pickle
from kandinsky.checkpoints.weights import read_tensor_file, write_tensor_file
from kandinsky.core.errors import CheckpointError
from kandinsky.core.files import write_atomically

NOTES = "kandinsky"
ORIGINAL = {"t1": "text_encoder", "t2": "prior_text_encoder"}
WEB_UI = "string_to_param"
MOST_ROWS = 512
"""Of a word; no text encoder reads more tokens."""
COMPONENTS = ("prior_text_encoder", "text_encoder_2", "text_encoder")

Words = dict[str, dict[str, Tensor]]
"""Rows (n, W) by word and component; "" is a component that the file does not name."""


def write_words(path: Path, words: Words, notes: Json | None = None) -> Path:
    """Writes learned words, whole or not at all; raises OutputError when it cannot."""
    tensors = {f"{component}.{word}": rows for word, parts in words.items() for component, rows in parts.items()}
    header = {NOTES: json.dumps(notes, ensure_ascii=False, sort_keys=True)} if notes else {}
    return write_tensor_file(path, tensors, header)


def write_original_words(path: Path, words: Words) -> Path:
    """Writes words of one row as the original code did, `{"t1": {word: (W,)}, "t2": {word: (W,)}}`.

    Raises CheckpointError for what that form cannot say: another encoder, or several rows for a word;
    OutputError when it cannot be written.
    """
    groups = {component: group for group, component in ORIGINAL.items()}
    tables: dict[str, dict[str, Tensor]] = {group: {} for group in ORIGINAL}
    for word, parts in words.items():
        for component, rows in parts.items():
            if component not in groups or len(rows) != 1:
                raise CheckpointError(
                    f"The original format does not hold {len(rows)} rows of {word!r} for {component!r}.",
                    "Write it as safetensors.",
                )
            tables[groups[component]][word] = rows[0].detach().cpu().clone()
    buffer = io.BytesIO()
    torch.save(tables, buffer)
    return write_atomically(path, buffer.getvalue())


def read_words(path: Path) -> Words:
    """Reads learned words in any of the forms; raises CheckpointError when it holds something else."""
    if path.suffix == ".safetensors":
        return words_in(read_tensor_file(path), path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.", "Check the path.")
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}.", "Is it of learned words?")
    return words_in({str(name): value for name, value in content.items()}, path)


def words_in(content: Mapping[str, object], path: str | Path) -> Words:
    """The learned words of a file's content; CheckpointError, which names `path`, when it holds something else."""
    if isinstance(params := content.get(WEB_UI), Mapping):
        found = {str(content.get("name", name)): rows for name, rows in params.items()}
        return {word: {"": _rows(path, word, rows)} for word, rows in found.items()}
    if any(holds_change(name) for name in content):
        raise CheckpointError(f"{path} holds an adapter, no learned words.", "Give it as lora (--lora).")
    words: Words = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and name in ORIGINAL:
            for word, rows in value.items():
                words.setdefault(str(word), {})[ORIGINAL[name]] = _rows(path, str(word), rows)
        else:
            component = next((part for part in COMPONENTS if name.startswith(f"{part}.")), "")
            word = name.removeprefix(f"{component}.") if component else name
            words.setdefault(word, {})[component] = _rows(path, word, value)
    if not words:
        raise CheckpointError(f"{path} holds no learned word.", "It is empty; make it again.")
    return words


def _rows(path: str | Path, word: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.is_floating_point() or not value.numel():
        raise CheckpointError(f"{path} has no rows for {word!r}.", "It is not a file of learned words.")
    rows = value.reshape(-1, value.shape[-1])
    if len(rows) > MOST_ROWS or not rows.isfinite().all():
        wrong = f"{len(rows)} rows" if len(rows) > MOST_ROWS else "numbers that are not finite"
        raise CheckpointError(f"{path} has {wrong} for {word!r}.", "It is damaged, or no file of learned words.")
    return rows
