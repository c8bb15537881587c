"""Text -> token ids, from whatever tokenizer files a published folder holds.

Three forms are read: `tokenizer.json`, `vocab.json` + `merges.txt`, and a SentencePiece `.model`. All become
one pipeline of the tokenizers library with the ids that transformers (5.x) gives for the same files: the ids
that the text encoders were published with.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken
from torch import Tensor

from kandinsky.conditioning.sentencepiece_model import CONTROL, USER_DEFINED, read_sentencepiece_model
from kandinsky.conditioning.token_pipelines import clip_pipeline, close_clip, t5_pipeline, xlmr_pipeline
from kandinsky.conditioning.tokenizer_files import (
    Json,
    added_token,
    check_description,
    declared_tokens,
    further_tokens,
    named_tokens,
    read_object,
    read_vocabulary,
    sentinels,
)
from kandinsky.core.errors import RequestError, TokenizerError
from kandinsky.core.native import NativeError, is_native, native_code

CONFIG = "tokenizer_config.json"
SHOWN, LONGEST_WORD = 160, 40
"""Characters of a text in a message, and of a word that is not cut in two there."""
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

    @property
    def learned_words(self) -> dict[str, tuple[int, ...]]:
        """The words that were learned, with the ids that the text encoder knows them by."""
        return {str(self.backend.id_to_token(number)): ids for number, ids in self.learned.items()}

    def without(self, words: Collection[str]) -> "Tokenizer":
        """This tokenizer as it was before it learned `words`; their rows stay in the text encoder, unread."""
        state, known = json.loads(self.backend.to_str()), self.learned_words
        state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] not in known]
        bare = replace(self, backend=tokenizers.Tokenizer.from_str(json.dumps(state)), learned={})
        for word, ids in known.items():
            if word not in words:
                bare.learn(word, ids)
        return bare

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

    def spans(self, text: str, length: int | None = None) -> list[tuple[int, int]]:
        """For each token that `encode` reads of a text, from and to which character it is; (0, 0) for marks."""
        length, tail = self._room(length)
        encoding = self._encode([text])[0]
        read = zip(encoding.ids, encoding.offsets, strict=True)
        spans = [span for number, span in read for _ in self.learned.get(number, (number,))]
        return spans if len(spans) <= length else [*spans[: length - tail], *spans[len(spans) - tail :]]

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
        except BaseException as error:
            if not is_native(error):
                raise
            raise RequestError(f"{str([*texts])[:200]} is no Unicode text: {error}.", "Check its encoding.") from error

    @cached_property
    def _frame(self) -> tuple[int, int]:
        """How many tokens the pipeline puts before and after every text."""
        marks = self._encode(["a"])[0].special_tokens_mask
        head = marks.index(0) if 0 in marks else len(marks)
        tail = marks[::-1].index(0) if 0 in marks else 0
        return head, tail


def too_long(text: str, rest: str, limit: int, reader: str) -> str:
    """Says that `reader` takes `limit` tokens, which words of a text it did not read, and what to do.

    A word that was cut in two counts as not read.
    """
    begin = len(text.rstrip()) - len(rest)
    if begin > 0 and not text[begin - 1].isspace() and (space := text.rfind(" ", 0, begin)) > begin - LONGEST_WORD:
        begin = space + 1
    read, unread = text[:begin].strip(), text[begin:].strip()
    if len(unread) > SHOWN:
        unread = f"{unread[:SHOWN].rstrip()} ..."
    if len(read) > SHOWN:
        read = f"... {read[-SHOWN:].lstrip()}"
    return (
        f"The prompt is too long for the {reader}, which reads {limit} tokens: {unread!r} was not read. "
        f"Read was {read!r}. Shorten it, or put what matters first."
    )


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
    source = folder / CONFIG
    added = declared_tokens(config, source)
    by_text = {token.content: token for token in added.values()}
    special = {key: added_token(text, True, source) for key, text in family.special.items()}
    for key, token in named_tokens(config, source).items():
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
    config = read_object(folder / CONFIG)
    if "added_tokens_decoder" not in config:
        config = {**config, **read_object(folder / "special_tokens_map.json")}
        named = {token.content for token in named_tokens(config, folder / CONFIG).values()}
        config["added_tokens_decoder"] = {
            str(number): {"content": text, "normalized": text not in named, "special": text in named}
            for text, number in read_vocabulary(folder / "added_tokens.json").items()
        }
    for key in ("padding_side", "truncation_side"):
        if config.get(key, "right") != "right":
            raise TokenizerError(f"{folder / CONFIG} has {key} {config[key]!r}.", "Only 'right' is supported.")
    return config


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
    extra = further_tokens(config, folder / CONFIG)
    if (whole := folder / "tokenizer.json").is_file():
        check_description(whole)
        try:
            with native_code():
                return tokenizers.Tokenizer.from_file(str(whole)), extra
        except NativeError as error:
            raise TokenizerError(
                f"{whole} cannot be read: {error}.", "The file is damaged; download it again."
            ) from error
    if name == "CLIPTokenizer":
        return clip_pipeline(folder, read_vocabulary(folder / "vocab.json"), special), extra
    stem = next((file for file in MODEL_FILES if (folder / file).is_file()), None)
    if stem is None or name not in FAMILIES:
        raise TokenizerError(
            f"{folder} holds no tokenizer: looked for tokenizer.json, vocab.json with merges.txt, "
            f"{' and '.join(MODEL_FILES)}.",
            "Download the folder again, with its tokenizer files.",
        )
    model = read_sentencepiece_model(folder / stem)
    file = folder / stem
    pieces = [added_token(piece, True, file) for piece in model.named(CONTROL)]
    pieces += [added_token({"content": one, "normalized": False}, False, file) for one in model.named(USER_DEFINED)]
    if name == "XLMRobertaTokenizer":
        return xlmr_pipeline(file, model, special), pieces + extra
    marks = sentinels(config, folder / CONFIG)
    brought = [*pieces, *(added_token(text, True, file) for text in marks), *extra]
    return t5_pipeline(file, model, special, marks), brought
