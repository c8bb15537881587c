"""Tokenizers and image preprocessing as components: called in the familiar way, saved with the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from tokenizers import decoders

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.files import make_folder
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.outputs import BatchEncoding, BatchFeature, Output
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import RequestError
from kandinsky.core.files import write_atomically
from kandinsky.core.images import open_image

PROCESSOR_FILE = "preprocessor_config.json"
BatchT = TypeVar("BatchT", bound=Output)


class Loadable:
    """What is read from a folder as a whole, without weights."""

    @classmethod
    def from_folder(cls, folder: Folder, name: str) -> Self:
        """Reads it as a component of an opened folder."""
        raise NotImplementedError

    @classmethod
    @loading_errors()
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **keywords: object
    ) -> Self:
        """Reads it from a folder or a Hub id."""
        check_keywords(keywords, cls.__name__, LOADING)
        return cls.from_folder(*Loading.of(keywords).component(pretrained_model_name_or_path, subfolder))


class CLIPTokenizer(Loadable):
    """A tokenizer read from `folder`, of every `kind` that the published folders hold."""

    def __init__(self, native: Tokenizer, folder: Path, kind: str = "CLIPTokenizer") -> None:
        self.native = native
        self.folder = folder
        self.kind = kind

    @classmethod
    def from_folder(cls, folder: Folder, name: str) -> Self:
        """The tokenizer of a component of an opened folder; raises TokenizerError when files are missing."""
        path = folder.component(name)
        kind = folder.components.get(name)
        return cls(load_tokenizer(path, kind), path, kind or cls.__name__)

    @property
    def model_max_length(self) -> int:
        """How many tokens its model reads."""
        return self.native.max_length or 77

    @property
    def pad_token_id(self) -> int:
        """The id that fills up."""
        return self.native.pad_id

    def __len__(self) -> int:
        return self.native.vocabulary_size

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = "max_length",
        truncation: bool | None = None,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_attention_mask: bool = True,
        return_tensors: str | None = "pt",
    ) -> Output:
        """Texts to ids and mask (B, L), L being `max_length` (default: the model's), or with `padding` "longest" the
        longest text's.

        Texts are cut to `max_length` unless `truncation` is False or not given beside "longest". Raises RequestError
        for other settings.
        """
        longest = padding in (True, "longest")
        if not (longest or padding == "max_length") or not add_special_tokens:
            raise RequestError(
                f"padding={padding!r}, add_special_tokens={add_special_tokens!r} is not offered.",
                'Use "max_length" or "longest", with special tokens.',
            )
        texts = [text] if isinstance(text, str) else list(text)
        room = max_length or self.model_max_length
        needed = max(map(self.native.token_count, texts))
        cut = not longest if truncation is None else truncation
        length = min(needed, room) if longest and cut else needed if longest or (needed > room and not cut) else room
        tokens = self.native.encode(texts, length)
        found = BatchEncoding(tokens.ids, tokens.mask.long())
        if not return_attention_mask:
            del found["attention_mask"]
        return as_tensors(found, return_tensors)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids (L,)."""
        backend = self.native.backend
        backend.decoder = backend.decoder or decoders.ByteLevel()
        text: str = backend.decode(torch.as_tensor(token_ids).tolist(), skip_special_tokens)
        return text.replace("</w>", " ").strip()

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of ids (B, L)."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    def save_pretrained(self, path: str | Path) -> None:
        """Copies the tokenizer's files into a folder; raises OutputError when it cannot be written."""
        make_folder(Path(path))
        for file in sorted(self.folder.iterdir()):
            if file.is_file():
                write_atomically(Path(path) / file.name, file.read_bytes())


class XLMRobertaTokenizerFast(CLIPTokenizer):
    """The multilingual text encoder's tokenizer."""


class T5Tokenizer(CLIPTokenizer):
    """The tokenizer of the text encoder whose states a U-Net listens to."""


TOKENIZERS = (CLIPTokenizer, XLMRobertaTokenizerFast, T5Tokenizer)


class CLIPImageProcessor(Loadable):
    """What CLIP's vision tower wants done to images."""

    def __init__(self, native: ClipPreprocess | None = None) -> None:
        self.native = native or ClipPreprocess()

    @classmethod
    def from_folder(cls, folder: Folder, name: str) -> Self:
        """The preprocessing of a component of an opened folder."""
        return cls(ClipPreprocess.from_json(folder.config(name)))

    def __call__(self, images: Any, return_tensors: str | None = "pt") -> Output:
        """One image or a list of them to normalised pixels."""
        several = images if isinstance(images, list | tuple) else [images]
        return as_tensors(BatchFeature(self.native([open_image(image) for image in several])), return_tensors)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes preprocessor_config.json into a folder; raises OutputError when it cannot be written."""
        save_component(Path(path).parent, Path(path).name, self.native.to_json(), config_name=PROCESSOR_FILE)


def as_tensors(batch: BatchT, kind: str | None) -> BatchT:
    """The batch in tensors ("pt", and None) or arrays ("np"); RequestError for others."""
    if kind not in (None, "pt", "np"):
        raise RequestError(f"return_tensors={kind!r} is not offered.", 'Use "pt" or "np".')
    if kind == "np":
        batch.update({name: value.numpy() for name, value in batch.items()})
    return batch
