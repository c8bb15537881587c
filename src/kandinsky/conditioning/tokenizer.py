"""Text -> token ids, from whatever tokenizer files a published folder holds.

Three forms are read: `tokenizer.json`, `vocab.json` + `merges.txt`, and a SentencePiece `.model`. All become
one pipeline of the tokenizers library with the ids that transformers (5.x) gives for the same files: the ids
that the text encoders were published with.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken
from torch import Tensor

from kandinsky.conditioning.sentencepiece_model import CONTROL, USER_DEFINED, read_sentencepiece_model
from kandinsky.conditioning.token_pipelines import clip_pipeline, close_clip, t5_pipeline, xlmr_pipeline
from kandinsky.core.errors import RequestError, TokenizerError

Json = dict[str, Any]
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
NO_LIMIT = 100_000
"""A `model_max_length` above this is the published way to say that there is none."""


@dataclass(frozen=True)
class Family:
    """What a tokenizer class stands for when its files do not say otherwise."""

    special: Mapping[str, str]
    max_length: int | None


_CLIP_END = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
_T5_MARKS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_XLMR_MARKS = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", **_T5_MARKS}
FAMILIES = {
    "CLIPTokenizer": Family({"bos_token": "<|startoftext|>", **_CLIP_END}, 77),
    "XLMRobertaTokenizer": Family(_XLMR_MARKS, 512),
    "T5Tokenizer": Family(_T5_MARKS, 512),
    "MT5Tokenizer": Family(_T5_MARKS, 512),
}
MODEL_FILES = {"sentencepiece.bpe.model": "XLMRobertaTokenizer", "spiece.model": "T5Tokenizer"}


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of a batch of texts.

    ids: (B, L) int64; mask: (B, L) bool, False where padded; dropped: for each text the trailing part that
    did not fit, "" when all of it did.
    """

    ids: Tensor
    mask: Tensor
    dropped: list[str]


@dataclass(frozen=True)
class Tokenizer:
    """A pipeline of the tokenizers library, the id to pad with, and the length its model reads.

    `learned` holds, for the pipeline's id of a learned word, the ids that the text encoder knows it by.
    """

    backend: tokenizers.Tokenizer
    pad_id: int
    max_length: int | None
    learned: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def token_count(self, text: str) -> int:
        """How many tokens `text` has before truncation, those that mark its beginning and end included."""
        return sum(len(self.learned.get(number, (number,))) for number in self._encode([text])[0].ids)

    def word_ids(self, text: str) -> list[int]:
        """The ids of a text without those that mark its beginning and end."""
        encoding = self._encode([text])[0]
        marked = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return [number for number, special in marked if not special]

    def check_new(self, word: str) -> None:
        """Raises RequestError for a word that is known already, or that no text could contain as one word."""
        if not word or len(word.split()) != 1 or word != word.strip():
            raise RequestError(f"{word!r} is not one word.", "Use letters without a space.")
        if len(self.word_ids(word)) < 2:
            raise RequestError(f"{word!r} is in the vocabulary already.", "Choose a word that does not exist.")

    def learn(self, word: str, ids: Sequence[int]) -> None:
        """Makes a new word stand for `ids` of the text encoder, wherever it stands alone in a text.

        It is matched as the vocabulary's words are, after lower-casing where that is done. Raises
        RequestError as `check_new` does.
        """
        self.check_new(word)
        self.backend.add_tokens([AddedToken(word, single_word=True, normalized=True)])
        number = self.backend.token_to_id(word)
        assert number is not None
        self.learned[number] = tuple(ids)

    def encode(self, texts: Sequence[str], length: int | None = None) -> TokenBatch:
        """Encodes each text to exactly `length` tokens (default: the model's), cut or padded on the right.

        A text that is too long keeps its closing token last, and what was cut is in `dropped`. Raises
        RequestError for a length without room, for none where the files state none, and for broken text.
        """
        length, tail = self._room(length)
        ids = torch.full((len(texts), length), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(texts), length), dtype=torch.bool)
        dropped = [""] * len(texts)
        for row, (text, encoding) in enumerate(zip(texts, self._encode(texts), strict=True)):
            read = zip(encoding.ids, encoding.offsets, strict=True)
            tokens = [(each, start) for number, (start, _) in read for each in self.learned.get(number, (number,))]
            if len(tokens) > length:
                dropped[row] = text[tokens[length - tail][1] :].strip()
                tokens = tokens[: length - tail] + tokens[len(tokens) - tail :]
            ids[row, : len(tokens)] = torch.tensor([number for number, _ in tokens], dtype=torch.int64)
            mask[row, : len(tokens)] = True
        return TokenBatch(ids, mask, dropped)

    def _room(self, length: int | None) -> tuple[int, int]:
        """The number of tokens of a text, and how many of them follow it."""
        length = self.max_length if length is None else length
        if length is None:
            raise RequestError("This tokenizer's files state no maximum length.", "Give a length.")
        least, tail = sum(self._frame), self._frame[1]
        if length < least:
            raise RequestError(f"A length of {length} tokens leaves no room for a text.", f"Use at least {least + 1}.")
        return length, tail

    def _encode(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        if isinstance(texts, str):
            raise RequestError(f"{texts!r} is one text where a list of texts belongs.", "Write [text].")
        try:
            return list(self.backend.encode_batch(list(texts)))
        except (UnicodeEncodeError, TypeError) as error:
            said = f"{list(texts)!r} cannot be read as Unicode text: {error}."
            raise RequestError(said, "Check its encoding.") from error

    @cached_property
    def _frame(self) -> tuple[int, int]:
        """How many tokens the pipeline puts before and after every text."""
        marks = self.backend.encode("a").special_tokens_mask
        head = marks.index(0) if 0 in marks else len(marks)
        tail = marks[::-1].index(0) if 0 in marks else 0
        return head, tail


def load_tokenizer(folder: Path, class_name: str | None = None) -> Tokenizer:
    """Loads the tokenizer whose files lie in `folder`.

    `class_name` is the class that a model index names for it; the folder's own `tokenizer_config.json` goes
    first. The pieces that mark beginning, end and padding, and the model's length, come from its JSON files.
    Raises TokenizerError when no form is complete, naming what was looked for, and when a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TokenizerError(f"There is no tokenizer folder {folder}.", "Check the path of the checkpoint.")
    config = _config(folder)
    name = _family_name(folder, config, class_name)
    family = FAMILIES.get(name, Family({}, None))
    declared = config["added_tokens_decoder"]
    added = {int(number): _added_token(declared[number], False) for number in sorted(declared, key=int)}
    by_text = {token.content: token for token in added.values()}
    special = {key: _added_token(text, True) for key, text in family.special.items()}
    for key, token in _named(config).items():
        special[key] = by_text.get(token.content, token)
    backend, extra = _backend(folder, name, special, config)
    if backend.get_vocab_size(with_added_tokens=False) == 0:
        raise TokenizerError(f"The vocabulary in {folder} is empty.", "Download the folder again.")
    _add_tokens(folder, backend, added, [*special.values(), *extra])
    if name == "CLIPTokenizer" and backend.post_processor is None:
        close_clip(backend, special)
    padding, truncation = backend.padding or {}, backend.truncation or {}
    backend.no_padding()
    backend.no_truncation()
    pad = special["pad_token"].content if "pad_token" in special else padding.get("pad_token")
    pad_id = None if pad is None else backend.token_to_id(pad)
    if pad_id is None:
        raise TokenizerError(
            f"The tokenizer in {folder} names no padding token.", "Its tokenizer_config.json should have 'pad_token'."
        )
    stated = config.get("model_max_length", config.get("max_len", truncation.get("max_length")))
    if isinstance(stated, int | float) and 0 < stated <= NO_LIMIT:
        return Tokenizer(backend, pad_id, int(stated))
    return Tokenizer(backend, pad_id, family.max_length)


def _family_name(folder: Path, config: Json, class_name: str | None) -> str:
    stated = str(config.get("tokenizer_class") or class_name or "").removesuffix("Fast")
    if stated in FAMILIES or (folder / "tokenizer.json").is_file():
        return stated
    if not stated:
        files = {**MODEL_FILES, "vocab.json": "CLIPTokenizer"}
        return next((family for file, family in files.items() if (folder / file).is_file()), "")
    raise TokenizerError(
        f"{folder} needs a tokenizer of class {stated!r}, which is not one this library knows.",
        f"Known: {', '.join(sorted(FAMILIES))}, or any class with a tokenizer.json.",
    )


def _config(folder: Path) -> Json:
    """`tokenizer_config.json`, completed by the older files where it does not list its added tokens."""
    config = _json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config = {**config, **_json(folder / "special_tokens_map.json")}
        named = {token.content for token in _named(config).values()}
        config["added_tokens_decoder"] = {
            str(number): {"content": text, "normalized": text not in named, "special": text in named}
            for text, number in _json(folder / "added_tokens.json").items()
        }
    for key in ("padding_side", "truncation_side"):
        if config.get(key, "right") != "right":
            raise TokenizerError(
                f"{folder / 'tokenizer_config.json'} has {key} {config[key]!r}.", "Only 'right' is supported."
            )
    return config


def _json(path: Path) -> Json:
    """The object in a file, {} where there is none."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}.", "Download it again.") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds {type(value).__name__}, not an object.", "Download it again.")
    return value


def _named(config: Json) -> dict[str, AddedToken]:
    """The tokens that a configuration names, such as the padding."""
    return {key: _added_token(config[key], True) for key in NAMED if config.get(key)}


def _added_token(value: Any, special: bool) -> AddedToken:
    """A token as a JSON file writes it: its text, or an object with how it matches."""
    given = value if isinstance(value, dict) else {"content": value}
    special = special or bool(given.get("special", False))
    flags = {key: bool(given[key]) for key in ("lstrip", "rstrip", "single_word", "normalized") if key in given}
    return AddedToken(str(given["content"]), special=special, **{"normalized": not special, **flags})


def _add_tokens(
    folder: Path, backend: tokenizers.Tokenizer, added: dict[int, AddedToken], more: list[AddedToken]
) -> None:
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens(list(added.values()))
    for number, token in added.items():
        if (found := backend.token_to_id(token.content)) != number:
            raise TokenizerError(
                f"{folder} gives the token {token.content!r} the id {number}, but it is {found} in the vocabulary.",
                "The tokenizer's files belong to different models.",
            )
    present |= {token.content for token in added.values()}
    backend.add_tokens([token for token in more if token.content not in present])


def _backend(
    folder: Path, name: str, special: dict[str, AddedToken], config: Json
) -> tuple[tokenizers.Tokenizer, list[AddedToken]]:
    """The pipeline of the first complete form in `folder`, and the special tokens that form brings along."""
    stated = [*(config.get("additional_special_tokens") or []), *(config.get("extra_special_tokens") or [])]
    extra = [_added_token(token, True) for token in stated]
    if (folder / "tokenizer.json").is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), extra
        except Exception as error:  # the library raises Exception itself for every fault in the file
            said = f"{folder / 'tokenizer.json'} cannot be read: {error}."
            raise TokenizerError(said, "The file is damaged; download it again.") from error
    if name == "CLIPTokenizer":
        return clip_pipeline(folder, _json(folder / "vocab.json"), special), extra
    stem = next((file for file in MODEL_FILES if (folder / file).is_file()), None)
    if stem is None or name not in FAMILIES:
        raise TokenizerError(
            f"{folder} holds no tokenizer: looked for tokenizer.json, vocab.json with merges.txt, "
            f"{' and '.join(MODEL_FILES)}.",
            "Download the folder again, with its tokenizer files.",
        )
    model = read_sentencepiece_model(folder / stem)
    pieces = [_added_token(piece, True) for piece in model.named(CONTROL)]
    pieces += [_added_token({"content": piece, "normalized": False}, False) for piece in model.named(USER_DEFINED)]
    if name == "XLMRobertaTokenizer":
        return xlmr_pipeline(folder / stem, model, special), pieces + extra
    sentinels = [f"<extra_id_{i}>" for i in range(int(config.get("extra_ids", 100)))]
    marks = [_added_token(text, True) for text in sentinels]
    return t5_pipeline(folder / stem, model, special, sentinels), pieces + marks + extra
