"""The trained vocabulary is CLIP's in form: transformers and our loader read it alike, and it comes out the
same twice.
"""

import json
from pathlib import Path

import pytest

from kandinsky.conditioning.tokenizer import load_tokenizer
from kandinsky.core.errors import ConfigError
from kandinsky.recipes.emoji.recipe import grammar_of, read_emoji
from kandinsky.training.data.tokenizer_training import END, START, TrainedTokenizer, train_tokenizer, write_tokenizer
from tests.training_data.folders import emoji_folder

TEXTS = (
    "Red Apple",
    "красное яблоко на синем фоне",
    "红苹果，蓝色背景",
    "लाल सेब",
    "تفاح أحمر",
    "  odd \t spacing\n",
    "it's 3D, isn't it?! 🍎",
    "",
    "ÅNGSTRÖM é é",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = read_emoji(emoji_folder(tmp_path_factory.mktemp("data") / "set"))
    return list(grammar_of(folder).corpus(rounds=2))


@pytest.fixture(scope="module")
def trained(corpus: list[str]) -> TrainedTokenizer:
    return train_tokenizer(corpus, 700)


def test_form(trained: TrainedTokenizer, tmp_path: Path) -> None:
    assert trained.vocabulary[END] == len(trained.vocabulary) - 1 == max(trained.vocabulary.values())
    assert trained.vocabulary[START] == len(trained.vocabulary) - 2
    assert sorted(trained.vocabulary.values()) == list(range(700))
    assert len(trained.merges) == 700 - 514
    folder = write_tokenizer(trained, tmp_path / "tokenizer", max_length=32)
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 32
    assert not [file for file in folder.iterdir() if file.suffix not in (".json", ".txt")]


def test_two_trainings_agree(corpus: list[str], trained: TrainedTokenizer) -> None:
    assert train_tokenizer(iter(corpus), 700) == trained


def test_frequent_words_are_one_token(trained: TrainedTokenizer) -> None:
    assert "apple</w>" in trained.vocabulary


def test_both_readers_give_the_same_ids(trained: TrainedTokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_tokenizer(trained, tmp_path / "tokenizer", max_length=32)
    oracle = transformers.CLIPTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    assert (oracle.model_max_length, oracle.eos_token_id, oracle.pad_token) == (32, 699, END)
    wanted = oracle(list(TEXTS), padding="max_length", max_length=32, truncation=True)["input_ids"]
    assert ours.encode(list(TEXTS), 32).ids.tolist() == wanted
    plain = oracle("red apple")["input_ids"]
    assert (plain[0], plain[-1]) == (698, 699)
    assert oracle.decode(plain[1:-1]) == "red apple"


def test_small_corpora_and_sizes() -> None:
    few = train_tokenizer(["ab ab"], 600)
    assert few.vocabulary[END] == len(few.vocabulary) - 1 < 599
    with pytest.raises(ConfigError, match="514"):
        train_tokenizer(["ab"], 514)


def test_corpus_holds_every_label_and_repeats(tmp_path: Path) -> None:
    grammar = grammar_of(read_emoji(emoji_folder(tmp_path / "set")))
    texts = list(grammar.corpus(rounds=1))
    assert texts == list(grammar.corpus(rounds=1))
    for concept in grammar.concepts:
        for words in concept.words.values():
            assert words.label in texts
