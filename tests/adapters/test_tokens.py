"""Learned words: rows behind a token table, and how texts reach them."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizerFast

import kandinsky
from kandinsky.adapters.tokens import add_rows, rows_of
from kandinsky.checkpoints.textual_inversion import read_words, write_words
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.engine.embedded import embedded_folder
from kandinsky.engine.text_encoders import learn_word, text_encoders

FOLDER = embedded_folder() / "prior_tokenizer"


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.tokens(ids)
        return found


@pytest.fixture
def tokenizer() -> Tokenizer:
    return load_tokenizer(FOLDER)


def test_new_rows_follow_the_table_and_only_they_learn() -> None:
    reader = Reader().requires_grad_(False)
    names, weight = list(reader.state_dict()), reader.tokens.weight.clone()
    first, second = (nn.Parameter(torch.randn(2, 3)) for _ in range(2))
    assert add_rows(reader, first) == (5, 6)
    assert add_rows(reader, second) == (7, 8)
    ids = torch.tensor([[0, 5, 8], [4, 6, 7]])
    found = reader(ids)
    assert torch.equal(found[0], torch.stack([weight[0], first[0], second[1]]))
    assert torch.equal(found[1], torch.stack([weight[4], first[1], second[0]]))
    assert list(reader.state_dict()) == names
    found.sum().backward()
    assert reader.tokens.weight.grad is None
    assert torch.equal(first.grad, torch.ones(2, 3))  # type: ignore[arg-type]
    assert torch.equal(rows_of(reader, [6, 1]), torch.stack([first[1], weight[1]]))
    assert torch.equal(copy.deepcopy(reader)(ids), found)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(RequestError, match=r"\(2, 4\)"):
        add_rows(Reader(), torch.zeros(2, 4))


def test_a_word_becomes_its_ids_where_it_is_a_word(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode(["a red on white", "zwxs"], 12)
    tokenizer.learn("zwx", (9000, 9001, 9002))
    found = tokenizer.encode(["a red zwx on white", "zwxs", "A ZWX, zwx"], 12)
    a_red = plain.ids[0, :3].tolist()
    rest = plain.ids[0, 3 : int(plain.mask[0].sum())].tolist()
    assert found.ids[0][found.mask[0]].tolist() == [*a_red, 9000, 9001, 9002, *rest]
    assert torch.equal(found.ids[1], plain.ids[1])
    assert found.ids[2].tolist().count(9001) == 2
    assert int(tokenizer.encode(["a red zwx on white"], 20).mask.sum()) == int(found.mask[0].sum())


def test_the_dropped_text_begins_at_the_word(tokenizer: Tokenizer) -> None:
    tokenizer.learn("zwx", (9000, 9001, 9002))
    found = tokenizer.encode(["a red zwx on white"], 6)
    assert found.ids[0].tolist()[3:5] == [9000, 9001]
    assert found.dropped == ["zwx on white"]


def test_the_ids_around_a_word_are_those_of_transformers(tokenizer: Tokenizer) -> None:
    reference = CLIPTokenizerFast.from_pretrained(FOLDER)
    reference.add_tokens("zwx")
    new = reference.convert_tokens_to_ids("zwx")
    tokenizer.learn("zwx", (new,))
    for text in ("a zwx", "zwx", "a photo of a zwx, on grass", "Zwx-like things", "two zwx zwx"):
        mine = tokenizer.encode([text], 24)
        assert mine.ids[0][mine.mask[0]].tolist() == reference(text)["input_ids"], text


@pytest.mark.parametrize("word", ["red", "two words", "", " zwx"])
def test_words_that_cannot_be_learned(word: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError):
        tokenizer.learn(word, (9000,))
    assert not tokenizer.learned


def test_a_word_that_does_not_fit_changes_nothing() -> None:
    encoders = text_encoders(kandinsky.load(device="cpu").model)
    with pytest.raises(RequestError, match="another model"):
        learn_word(encoders, "zwx", {"prior_text_encoder": torch.zeros(1, 3)})
    assert not encoders["prior_text_encoder"].tokenizer.learned
    learn_word(encoders, "zwx", {"prior_text_encoder": torch.zeros(1, 256)})


def test_files_of_words(tmp_path: Path) -> None:
    words = {"zwx": {"text_encoder": torch.ones(2, 3), "prior_text_encoder": torch.zeros(1, 4)}}
    file = write_words(tmp_path / "a.safetensors", words, {"model": "x"})
    again = read_words(file)
    assert again.keys() == words.keys()
    assert all(torch.equal(rows, again["zwx"][name]) for name, rows in words["zwx"].items())
    assert write_words(tmp_path / "b.safetensors", words, {"model": "x"}).read_bytes() == file.read_bytes()
    save_file({"zwx": torch.zeros(2, 2, 2)}, tmp_path / "bad.safetensors")
    for path, message in (("bad.safetensors", "no rows for 'zwx'"), ("none.bin", "no file")):
        with pytest.raises(CheckpointError, match=message):
            read_words(tmp_path / path)
    torch.save({"t2": {}}, tmp_path / "empty.bin")
    with pytest.raises(CheckpointError, match="no learned word"):
        read_words(tmp_path / "empty.bin")
