"""The token pipelines of the text encoders' families, built from their vocabularies.

Each pipeline normalises, splits and segments as the transformers library (5.x) has it for the same files.
"""

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from kandinsky.conditioning.sentencepiece_model import CONTROL, UNKNOWN, SentencePieceModel
from kandinsky.core.errors import TokenizerError
from kandinsky.core.native import NativeError, native_code

# A word is letters, one digit, or a run of anything else; English clitics stay apart.
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_pipeline(folder: Path, vocabulary: dict[str, int], special: dict[str, AddedToken]) -> tokenizers.Tokenizer:
    """Byte-level pairs with `</w>` at the end of words (Radford et al. 2021, section 2.4).

    `vocabulary` is what `vocab.json` holds, {} when it is not there. Raises TokenizerError when either file
    is missing, when the vocabulary lacks the marks of beginning and end, and when the files do not agree.
    """
    missing = [file for file in ("vocab.json", "merges.txt") if not (folder / file).is_file()]
    if missing:
        raise TokenizerError(
            f"{folder} lacks {' and '.join(missing)}; looked for tokenizer.json, or vocab.json + merges.txt.",
            "Download the folder again, with its tokenizer files.",
        )
    absent = [t.content for key in ("bos_token", "eos_token") if (t := special[key]).content not in vocabulary]
    if not vocabulary or absent:
        raise TokenizerError(
            f"{folder / 'vocab.json'} ({len(vocabulary)} tokens) lacks {', '.join(absent)}.",
            "It is empty or of another tokenizer.",
        )
    try:
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
        pairs = [(merge[0], merge[1]) for merge in merges if len(merge) == 2]
        if len(pairs) != len(merges):
            raise ValueError("a line is not a pair")
        with native_code():
            backend = tokenizers.Tokenizer(
                models.BPE(
                    vocab=vocabulary,
                    merges=pairs,
                    continuing_subword_prefix="",
                    end_of_word_suffix="</w>",
                    fuse_unk=False,
                    unk_token=special["unk_token"].content,
                )
            )
    except (NativeError, OSError, ValueError) as error:
        raise TokenizerError(
            f"{folder / 'merges.txt'} does not fit vocab.json: {error}.", "Download both files again."
        ) from error
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return backend


def close_clip(backend: tokenizers.Tokenizer, special: dict[str, AddedToken]) -> None:
    """Puts the marks of beginning and end around every text; they must be in the vocabulary by now."""
    eos, bos = special["eos_token"].content, special["bos_token"].content
    ids = backend.get_vocab(with_added_tokens=True)
    backend.post_processor = processors.RobertaProcessing((eos, ids[eos]), (bos, ids[bos]), False, False)


def xlmr_pipeline(path: Path, model: SentencePieceModel, special: dict[str, AddedToken]) -> tokenizers.Tokenizer:
    """The model's pieces shifted by one: four marks where the file has three, and a mask at the end."""
    if len(model.pieces) < 4 or any(kind not in (UNKNOWN, CONTROL) for kind in model.kinds[:3]):
        raise TokenizerError(
            f"{path} does not begin with three marks but with {[p for p, _ in model.pieces[:3]]}.",
            "It is a SentencePiece model of another family.",
        )
    bos, eos = special["bos_token"].content, special["eos_token"].content
    first = [bos, special["pad_token"].content, eos, special["unk_token"].content]
    vocabulary = [(text, 0.0) for text in first] + list(model.pieces[3:])
    vocabulary.append((special["mask_token"].content, 0.0))
    return _unigram(path, vocabulary, 3, model.charsmap, [bos, "$A", eos])


def t5_pipeline(
    path: Path, model: SentencePieceModel, special: dict[str, AddedToken], sentinels: list[str]
) -> tokenizers.Tokenizer:
    """The model's own ids, then its pre-training's sentinels in falling order (Raffel et al. 2020, 3.1.4)."""
    eos = special["eos_token"].content
    unknown = model.named(UNKNOWN)
    if len(unknown) != 1 or eos not in model.named(CONTROL):
        raise TokenizerError(f"{path} has no {eos!r} mark.", "It is a SentencePiece model of another family.")
    vocabulary = [*model.pieces, *((text, 0.0) for text in reversed(sentinels))]
    place = [piece for piece, _ in model.pieces].index(unknown[0])
    return _unigram(path, vocabulary, place, model.charsmap, ["$A", eos])


def _unigram(
    path: Path, vocabulary: list[tuple[str, float]], unknown: int, charsmap: bytes, template: list[str]
) -> tokenizers.Tokenizer:
    """A unigram segmentation (Kudo 2018) of words, after the model's own normalisation table."""
    try:
        with native_code():
            backend = tokenizers.Tokenizer(models.Unigram(vocabulary, unknown, False))
            if charsmap:
                backend.normalizer = normalizers.Precompiled(charsmap)
    except NativeError as error:
        raise TokenizerError(f"{path} cannot be used: {error}.", "The file is damaged; download it again.") from error
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    texts = [piece for piece, _ in vocabulary]
    if absent := [mark for mark in template if mark != "$A" and mark not in texts]:
        raise TokenizerError(f"{path} has no {absent[0][:40]!r} mark.", "It is of another family.")
    marks = [(mark, texts.index(mark)) for mark in template if mark != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=template, pair=None, special_tokens=marks)
    return backend
