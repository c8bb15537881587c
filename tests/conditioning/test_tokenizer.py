"""Token ids equal transformers' on 1,000 strings in 16 languages, for every form a published folder holds."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers

from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import RequestError, TokenizerError

LINES = [
    line
    for line in (Path(__file__).parents[1] / "data" / "sentences.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
ODD = [
    "",
    " ",
    "\t\n ",
    "  two   spaces  ",
    "tab\there\r\nnewline",
    "no\u00a0break\u2003em\u3000ideographic\u200bzero\ufeffmark",
    "e\u0301 \u1100\u1161 ﬁ Å ① ½ ｆｕｌｌ",
    "🦊 fox 🍎apple👩‍👩‍👧‍👦🏳️‍🌈 3️⃣",
    "İSTANBUL ẞ ǅ ΣΑΣ",
    "don't WE'LL I'Ve 'tis",
    "x" * 400,
    "red apple, " * 80,
    "красное яблоко " * 60,
    "!",
    "wow! so! many!!! marks!?",
    "a<|endoftext|>b <|startoftext|> c <|ENDOFTEXT|>",
    "one </s> two <s> three <pad> four <unk> five  <mask> six <extra_id_0>seven",
    "\u0000\u0001\u007f control \ufffd",
    "𝔘𝔫𝔦 𠀀𠮷 ᚠ ꙮ",
    "123 4567 8.9e-10 №7 ½",
]


def thousand_strings() -> list[str]:
    draw = random.Random(5)
    spaces = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "", ", ", " - ", "…"]
    marks = ["🍎", "🦊", "🎨", "❤️", "!", "??", "(", ")", "#1", "\u200d", "™"]
    texts = [*ODD, *LINES]
    while len(texts) < 1000:
        words = " ".join(draw.sample(LINES, draw.randint(1, 4))).split(" ")
        draw.shuffle(words)
        text = "".join(
            word + draw.choice(spaces[:1] * 8 + spaces) + (draw.choice(marks) if draw.random() < 0.1 else "")
            for word in words[: draw.randint(1, 40)]
        )
        texts.append(draw.choice([text, text, text.upper(), text.title(), " " + text]))
    return texts


TEXTS = thousand_strings()


def train_clip(folder: Path) -> None:
    """A small vocabulary in the published two files, trained on the sentences."""
    trained = tokenizers.Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1400, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(LINES, trainer)
    model = json.loads(trained.to_str())["model"]
    # "!" has the id 0 in the published vocabulary; every letter is there with and without its end of word.
    pieces = list(dict.fromkeys(["!", *letters, *(c + "</w>" for c in letters), *model["vocab"]]))
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    write(folder, "vocab.json", {piece: number for number, piece in enumerate(pieces)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")


def train_sentencepiece(path: Path, kind: str, **ids: int) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3),
        model_writer=model,
        model_type=kind,
        vocab_size=900,
        character_coverage=0.9995,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **ids,
    )
    path.write_bytes(model.getvalue())


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), "utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    train_clip(root)
    for kind in ("unigram", "bpe"):
        train_sentencepiece(root / f"xlmr-{kind}.model", kind, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
        train_sentencepiece(root / f"t5-{kind}.model", kind, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return root


CLIP_TOKEN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}


def clip_folder(trained: Path, folder: Path, pad: str) -> Path:
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((trained / name).read_bytes())
    # As published: objects in the older of the two files, marked `normalized`, and the padding as plain text.
    write(folder, "tokenizer_config.json", {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    write(
        folder,
        "special_tokens_map.json",
        {
            "bos_token": {"content": "<|startoftext|>", **CLIP_TOKEN},
            "eos_token": {"content": "<|endoftext|>", **CLIP_TOKEN},
            "unk_token": {"content": "<|endoftext|>", **CLIP_TOKEN},
            "pad_token": pad,
        },
    )
    return folder


def xlmr_folder(trained: Path, folder: Path, kind: str) -> Path:
    (folder / "sentencepiece.bpe.model").write_bytes((trained / f"xlmr-{kind}.model").read_bytes())
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True}
    write(folder, "tokenizer_config.json", {"model_max_length": 512, "mask_token": mask})
    return folder


def t5_folder(trained: Path, folder: Path, kind: str) -> Path:
    (folder / "spiece.model").write_bytes((trained / f"t5-{kind}.model").read_bytes())
    sentinels = [f"<extra_id_{i}>" for i in range(100)]
    config = {"model_max_length": 512, "extra_ids": 100, "additional_special_tokens": sentinels}
    write(folder, "tokenizer_config.json", config)
    return folder


def saved(make: Callable[[Path, Path], Path], oracle: type) -> Callable[[Path, Path], Path]:
    """The same tokenizer as transformers itself saves it: one tokenizer.json."""

    def build(trained: Path, folder: Path) -> Path:
        first, second = folder / "first", folder / "second"
        first.mkdir()
        oracle.from_pretrained(make(trained, first)).save_pretrained(second)
        assert (second / "tokenizer.json").is_file()
        return second

    return build


CLIP, CLIP_FAST = transformers.CLIPTokenizer, transformers.CLIPTokenizerFast
XLMR, T5 = transformers.XLMRobertaTokenizer, transformers.T5Tokenizer
FORMS: dict[str, tuple[Callable[[Path, Path], Path], type]] = {
    "clip": (lambda t, f: clip_folder(t, f, "<|endoftext|>"), CLIP),
    "clip-fast": (lambda t, f: clip_folder(t, f, "<|endoftext|>"), CLIP_FAST),
    "clip-pad-exclamation": (lambda t, f: clip_folder(t, f, "!"), CLIP),
    "xlmr-unigram": (lambda t, f: xlmr_folder(t, f, "unigram"), XLMR),
    "xlmr-bpe": (lambda t, f: xlmr_folder(t, f, "bpe"), XLMR),
    "t5-unigram": (lambda t, f: t5_folder(t, f, "unigram"), T5),
    "t5-bpe": (lambda t, f: t5_folder(t, f, "bpe"), T5),
}
FORMS |= {f"{name}-json": (saved(make, oracle), oracle) for name, (make, oracle) in FORMS.items()}


@pytest.fixture(scope="module", params=list(FORMS))
def pair(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory):
    make, oracle = FORMS[request.param]
    folder = make(trained, tmp_path_factory.mktemp(request.param))
    return load_tokenizer(folder), oracle.from_pretrained(folder)


@pytest.mark.parametrize("length", [None, 16])
def test_ids_and_mask_equal_transformers(pair, length: int | None) -> None:
    ours, theirs = pair
    assert len(TEXTS) == 1000
    got = ours.encode(TEXTS, length)
    want = theirs(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    wrong = [t for t, a, b in zip(TEXTS, got.ids, want["input_ids"], strict=True) if not a.equal(b)]
    assert wrong == []
    assert got.mask.equal(want["attention_mask"].bool())
    assert ours.vocabulary_size == len(theirs)
    assert ours.max_length == theirs.model_max_length
    assert ours.pad_id == theirs.pad_token_id


def test_the_vocabulary_is_really_used(pair) -> None:
    ours, theirs = pair
    got = ours.encode(LINES, 128)
    ids = got.ids[got.mask]
    closing = len(LINES) if theirs.unk_token_id == theirs.eos_token_id else 0
    assert int((ids == theirs.unk_token_id).sum()) - closing < 0.1 * len(ids)
    assert len(ids.unique()) > 300


def token_count(tokenizer: Tokenizer, text: str) -> int:
    """How many tokens a text has, those that mark its beginning and end included."""
    return int(tokenizer.encode([text], 512).mask.sum())


def test_what_is_dropped_is_the_rest_of_the_text(pair) -> None:
    ours, _ = pair
    texts = ["a red apple on a white plate " * 4, "лиса бежит по снегу " * 4, "short", ""]
    got = ours.encode(texts, 12)
    assert got.dropped[2:] == ["", ""]
    for text, rest, row in zip(texts[:2], got.dropped[:2], got.ids[:2], strict=True):
        assert rest
        assert text.rstrip().endswith(rest)
        kept = text.rstrip()[: -len(rest)]
        # The cut may fall inside a word, whose pieces are others when its halves stand alone.
        assert ours.encode([kept]).ids[0, :6].equal(row[:6])
        assert token_count(ours, kept) - 12 in (-1, 0, 1)
        whole, tail = (ours.encode([t], 200) for t in (text, rest))
        assert whole.ids[whole.mask][-8:].equal(tail.ids[tail.mask][-8:])
        assert row[-1] == ours.encode(["a"], 12).ids[0][token_count(ours, "a") - 1]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60), length=st.integers(4, 24))
def test_any_text_fills_exactly_the_length_asked_for(text: str, length: int) -> None:
    ours = SOLE["tokenizer"]
    got = ours.encode([text], length)
    count = token_count(ours, text)
    assert got.ids.shape == got.mask.shape == (1, length)
    assert int(got.mask.sum()) == min(count, length)
    assert got.ids[0][~got.mask[0]].tolist() == [ours.pad_id] * max(0, length - count)
    assert text.rstrip().endswith(got.dropped[0])


SOLE: dict[str, Tokenizer] = {}


@pytest.fixture(scope="module", autouse=True)
def sole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    SOLE["tokenizer"] = load_tokenizer(clip_folder(trained, tmp_path_factory.mktemp("sole"), "!"))


def test_declared_tokens_keep_their_ids(trained: Path, tmp_path: Path) -> None:
    folder = clip_folder(trained, tmp_path, "!")
    size = load_tokenizer(folder).vocabulary_size
    added = {str(size): {"content": "<sapsan>", "special": False, "normalized": False, **STRIP}}
    write(folder, "tokenizer_config.json", {"model_max_length": 77, "added_tokens_decoder": added})
    ours = load_tokenizer(folder)
    theirs = CLIP.from_pretrained(folder)
    text = ["a photo of <sapsan> in the snow"]
    assert ours.encode(text).ids[0].tolist() == theirs(text, padding="max_length")["input_ids"][0]
    assert size in ours.encode(text).ids[0]
    added = {str(size + 5): added[str(size)]}
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": added})
    with pytest.raises(TokenizerError, match="<sapsan>"):
        load_tokenizer(folder)


STRIP = {"lstrip": False, "rstrip": False, "single_word": False}


def test_a_later_file_of_added_tokens_is_read(trained: Path, tmp_path: Path) -> None:
    folder = clip_folder(trained, tmp_path, "<|endoftext|>")
    size = load_tokenizer(folder).vocabulary_size
    write(folder, "added_tokens.json", {"sapsan": size})
    ours, theirs = load_tokenizer(folder), CLIP.from_pretrained(folder)
    text = ["a sapsan in the snow, SAPSAN"]
    assert ours.encode(text).ids[0].tolist() == theirs(text, padding="max_length")["input_ids"][0]
    assert size in ours.encode(text).ids[0]


def test_a_generic_tokenizer_json_is_read_as_it_is(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"[pad]": 0, "red": 1, "fox": 2, "?": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken("[pad]", special=True)])
    backend.enable_padding(pad_id=0, pad_token="[pad]", length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.encode(["red cat fox"], 5).ids.tolist() == [[1, 3, 2, 0, 0]]
    assert ours.encode(["red cat fox"], 2).dropped == ["fox"]
    with pytest.raises(RequestError, match="maximum length"):
        ours.encode(["red"])


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_one_of_two_files_missing(trained: Path, tmp_path: Path, missing: str) -> None:
    (clip_folder(trained, tmp_path, "!") / missing).unlink()
    with pytest.raises(TokenizerError, match=missing):
        load_tokenizer(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*vocab\.json.*sentencepiece\.bpe\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="no tokenizer folder"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model"])
@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_damaged_sentencepiece_models(trained: Path, tmp_path: Path, name: str, damage: str) -> None:
    good = (trained / "t5-unigram.model").read_bytes()
    contents = {"text": b"this is not a model, only words", "cut": good[: len(good) // 2 - 1], "empty": b""}
    (tmp_path / name).write_bytes(contents[damage])
    with pytest.raises(TokenizerError, match=name):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_of_another_family(trained: Path, tmp_path: Path) -> None:
    train_sentencepiece(tmp_path / "sentencepiece.bpe.model", "unigram", unk_id=0, bos_id=-1, eos_id=-1)
    with pytest.raises(TokenizerError, match="three marks"):
        load_tokenizer(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").rename(tmp_path / "spiece.model")
    with pytest.raises(TokenizerError, match="'</s>'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", "{}"),
        ("vocab.json", "[1, 2"),
        ("vocab.json", "[]"),
        ("merges.txt", "#version: 0.2\nqq zz\n"),
        ("merges.txt", "a b c\n"),
        ("tokenizer_config.json", "not json"),
        ("tokenizer_config.json", '{"padding_side": "left"}'),
        ("tokenizer_config.json", '{"tokenizer_class": "GPT2Tokenizer"}'),
        ("tokenizer.json", "{}"),
    ],
)
def test_damaged_files(trained: Path, tmp_path: Path, file: str, content: str) -> None:
    (clip_folder(trained, tmp_path, "!") / file).write_text(content, "utf-8")
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert Path(file).stem in str(caught.value) or "GPT2Tokenizer" in str(caught.value)


def test_an_empty_vocabulary_is_an_error(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="empty"):
        load_tokenizer(tmp_path)


def test_bad_requests() -> None:
    ours = SOLE["tokenizer"]
    with pytest.raises(RequestError, match="length of 1"):
        ours.encode(["a"], 1)
    with pytest.raises(RequestError, match="list of texts"):
        ours.encode("a red fox")
    with pytest.raises(RequestError, match="Unicode"):
        ours.encode(["half a pair \ud83e"])
    assert ours.encode([]).ids.shape == (0, 77)
