"""Tokenizers and image preprocessing as components: called in the familiar way, saved with the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.files import make_folder
from kandinsky.compat.diffusers.files import LOADING, Loading, check_keywords, loading_errors
from kandinsky.compat.diffusers.outputs import Output
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.files import write_atomically
from kandinsky.core.images import open_image

PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(eq=False)
class BatchEncoding(Output):
    """`input_ids` and `attention_mask`, (B, L) each."""

    input_ids: Tensor
    attention_mask: Tensor


@dataclass(eq=False)
class BatchFeature(Output):
    """`pixel_values`: normalised pixels (B, 3, S, S)."""

    pixel_values: Tensor


class CLIPTokenizer:
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

    @classmethod
    @loading_errors()
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **keywords: object
    ) -> Self:
        """Reads a tokenizer from a folder or a Hub id."""
        check_keywords(keywords, cls.__name__, LOADING)
        return cls.from_folder(*Loading.of(keywords).component(pretrained_model_name_or_path, subfolder))

    @property
    def model_max_length(self) -> int:
        """How many tokens its model reads."""
        return self.native.max_length or 77

    def __call__(self, text: str | Sequence[str], *, max_length: int | None = None, **ignored: object) -> BatchEncoding:
        """Texts to ids and mask (B, L), cut or padded to `max_length` (default: the model's)."""
        texts = [text] if isinstance(text, str) else list(text)
        tokens = self.native.encode(texts, max_length or self.model_max_length)
        return BatchEncoding(tokens.ids, tokens.mask.long())

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


class CLIPImageProcessor:
    """What CLIP's vision tower wants done to images."""

    def __init__(self, native: ClipPreprocess | None = None) -> None:
        self.native = native or ClipPreprocess()

    @classmethod
    def from_folder(cls, folder: Folder, name: str) -> Self:
        """The preprocessing of a component of an opened folder."""
        return cls(ClipPreprocess.from_json(folder.config(name)))

    @classmethod
    @loading_errors()
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, **keywords: object
    ) -> Self:
        """Reads preprocessor_config.json from a folder or a Hub id."""
        check_keywords(keywords, cls.__name__, LOADING)
        return cls.from_folder(*Loading.of(keywords).component(pretrained_model_name_or_path, subfolder))

    def __call__(self, images: Any, return_tensors: str = "pt", **ignored: Any) -> BatchFeature:
        """One image or a list of them to normalised pixels."""
        several = images if isinstance(images, list | tuple) else [images]
        return BatchFeature(self.native([open_image(image) for image in several]))

    def save_pretrained(self, path: str | Path) -> None:
        """Writes preprocessor_config.json into a folder; raises OutputError when it cannot be written."""
        save_component(Path(path).parent, Path(path).name, self.native.to_json(), config_name=PROCESSOR_FILE)
