"""The JSON files of a tokenizer, checked before the tokenizers library sees them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from kandinsky.core.errors import TokenizerError
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, read_bytes

Json = dict[str, Any]
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LARGEST_ID = 2**24
"""Ids of tokens are below; the largest vocabulary of this family has 250,100."""
LONGEST_TOKEN = 1000
MOST_SENTINELS = 1000
LONGEST_PADDING = 2**20
HINT = "Download it again."


def read_object(path: Path) -> Json:
    """The object in a file, {} where there is none."""
    if not path.exists():
        return {}
    try:
        value = parse_json(read_bytes(path))
    except (OSError, UnsoundTextError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}.", HINT) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds {type(value).__name__}, not an object.", HINT)
    return value


def read_vocabulary(path: Path) -> dict[str, int]:
    """The ids by token of a `vocab.json` or `added_tokens.json`, {} where there is none."""
    found = read_object(path)
    _check_ids(path, found)
    return found


def check_description(path: Path) -> None:
    """Raises TokenizerError for a `tokenizer.json` with numbers that would take the library's memory."""
    found = read_object(path)
    padding, truncation, model = (found.get(key) or {} for key in ("padding", "truncation", "model"))
    added = found.get("added_tokens") or []
    if not all(isinstance(one, dict) for one in (padding, truncation, model)) or not isinstance(added, list):
        raise TokenizerError(f"{path} has a part of a wrong kind.", HINT)
    strategy = padding.get("strategy")
    numbers = {
        "a padding": strategy.get("Fixed", 1) if isinstance(strategy, dict) else 1,
        "a multiple to pad to": 1 if padding.get("pad_to_multiple_of") is None else padding["pad_to_multiple_of"],
        "a truncation": truncation.get("max_length", 1),
    }
    for what, number in numbers.items():
        if not _is_whole(number, 1, LONGEST_PADDING):
            raise TokenizerError(f"{path} has {what} of {str(number)[:40]}.", HINT)
    for one in added:
        if not isinstance(one, dict) or not _is_whole(one.get("id"), 0, LARGEST_ID):
            raise TokenizerError(f"{path} has an added token without a sound id.", HINT)
    if isinstance(vocabulary := model.get("vocab"), dict):
        _check_ids(path, vocabulary)


def _check_ids(path: Path, vocabulary: Mapping[str, object]) -> None:
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < LARGEST_ID:
            raise TokenizerError(f"{path} gives the token {token[:40]!r} no sound id.", HINT)


def named_tokens(config: Json, path: Path) -> dict[str, AddedToken]:
    """The tokens that a configuration names, such as the padding."""
    return {key: added_token(config[key], True, path) for key in NAMED if config.get(key)}


def declared_tokens(config: Json, path: Path) -> dict[int, AddedToken]:
    """The added tokens of a configuration by their ids, in order."""
    declared = config.get("added_tokens_decoder") or {}
    if not isinstance(declared, dict):
        raise TokenizerError(f"{path} has added_tokens_decoder of a wrong kind.", HINT)
    numbers = {}
    for key in declared:
        if not (key.isascii() and key.isdigit() and len(key) < 9 and int(key) < LARGEST_ID):
            raise TokenizerError(f"{path} gives an added token the id {key[:40]!r}.", HINT)
        numbers[int(key)] = key
    return {number: added_token(declared[numbers[number]], False, path) for number in sorted(numbers)}


def further_tokens(config: Json, path: Path) -> list[AddedToken]:
    """The special tokens that a configuration lists without a name."""
    stated: list[object] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = config.get(key) or []
        if isinstance(listed, dict):  # names of one's own for them, as transformers writes since version 5
            listed = list(listed.values())
        if not isinstance(listed, list):
            raise TokenizerError(f"{path} has {key} of a wrong kind.", HINT)
        stated += listed
    return [added_token(token, True, path) for token in stated]


def sentinels(config: Json, path: Path) -> list[str]:
    """The sentinels of a T5 tokenizer, by default a hundred."""
    count = config.get("extra_ids", 100)
    if not _is_whole(count, 0, MOST_SENTINELS):
        raise TokenizerError(f"{path} has extra_ids = {str(count)[:40]}.", f"Expected 0 to {MOST_SENTINELS}.")
    return [f"<extra_id_{i}>" for i in range(count)]


def added_token(value: object, special: bool, path: Path) -> AddedToken:
    """A token as a JSON file writes it: its text, or an object with how it matches."""
    given = value if isinstance(value, dict) else {"content": value}
    content = given.get("content")
    if not isinstance(content, str) or not 0 < len(content) <= LONGEST_TOKEN:
        raise TokenizerError(f"{path} has a token {str(content)[:40]!r}, which is no text.", HINT)
    special = special or bool(given.get("special", False))
    flags = {key: bool(given[key]) for key in ("lstrip", "rstrip", "single_word", "normalized") if key in given}
    return AddedToken(content, special=special, **{"normalized": not special, **flags})


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
