"""Training a byte-level BPE in CLIP's form on captions (Sennrich 2016; Radford 2021, section 2.4)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from kandinsky.core.errors import ConfigError
from kandinsky.core.files import write_atomically

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_FIXED = 2 * 256 + 2


@dataclass(frozen=True)
class TrainedTokenizer:
    """A vocabulary (token to id, the end token highest) and its merges in the order they were learned."""

    vocabulary: dict[str, int]
    merges: tuple[tuple[str, str], ...]


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 8192) -> TrainedTokenizer:
    """Learns merges on lower-cased `texts`; the same texts always give the same vocabulary.

    Ids: 256 bytes, 256 bytes that end a word, the merges, the start token, the end token. Any text can be
    encoded. A small corpus may give fewer merges than requested; the vocabulary is then smaller.

    Raises ConfigError when `vocabulary_size` leaves no room for a merge.
    """
    if vocabulary_size <= _FIXED:
        raise ConfigError(f"A vocabulary of {vocabulary_size} has no room for merges.", f"Choose more than {_FIXED}.")
    alphabet = _alphabet()
    base = [*alphabet, *(byte + WORD_END for byte in alphabet)]
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # Listed as special, the base tokens get fixed ids: the learner breaks ties by id, and would otherwise
    # hand them out in the order of a randomly seeded hash table.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 2, special_tokens=base, end_of_word_suffix=WORD_END, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    merges = tuple((first, second) for first, second in learned)
    tokens = list(dict.fromkeys([*base, *(first + second for first, second in merges), START, END]))
    return TrainedTokenizer({token: i for i, token in enumerate(tokens)}, merges)


def _alphabet() -> list[str]:
    # CLIP's order: the printable bytes as themselves, then the others moved above 255.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def write_tokenizer(tokenizer: TrainedTokenizer, folder: str | Path, max_length: int = 32) -> Path:
    """Writes `vocab.json`, `merges.txt`, `tokenizer_config.json` and `special_tokens_map.json`, each atomically.

    The end token also pads and stands for the unknown, as in CLIP. Returns the folder. Raises OutputError when it
    cannot be written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = {
        "add_prefix_space": False,
        "bos_token": START,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": max_length,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }
    special = {name: config[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    merges = "\n".join(["#version: 0.2", *(f"{first} {second}" for first, second in tokenizer.merges)]) + "\n"
    files = {
        "vocab.json": json.dumps(tokenizer.vocabulary, ensure_ascii=False),
        "merges.txt": merges,
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
    }
    for name, text in files.items():
        write_atomically(target / name, text.encode())
    return target
