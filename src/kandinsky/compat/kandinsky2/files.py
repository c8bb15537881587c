"""The original files of a release in the folder that existing code names, downloaded when they are
missing."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from kandinsky.checkpoints.files import make_folder
from kandinsky.checkpoints.hub import resolve_files
from kandinsky.checkpoints.maps.original_files import TEXT_IMAGE, TWO_TEXTS, Layout
from kandinsky.core.errors import OutputError

_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json")
_MULTILINGUAL = ("config.json", "pytorch_model.bin", "sentencepiece.bpe.model", "tokenizer.json", *_TOKENIZER)
_SECOND = ("config.json", "pytorch_model.bin", "spiece.model", *_TOKENIZER)
_CLIP = ("config.json", "model.safetensors", "vocab.json", "merges.txt", *_TOKENIZER)
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
RELEASES: dict[str, tuple[str, str, Layout]] = {
    "2.0": ("2_0", "ai-forever/Kandinsky_2.0", TWO_TEXTS),
    "2.1": ("2_1", "ai-forever/Kandinsky_2.1", TEXT_IMAGE),
}
"""By version: the folder inside a cache, the repository, and how its files are called."""


def original_folder(version: str, inpainting: bool, cache_dir: str | Path, token: str | None = None) -> Path:
    """The folder with a release's files, those that are missing fetched from the hub; raises HubError."""
    name, repository, layout = RELEASES[version]
    root = Path(cache_dir).expanduser() / name
    wanted = [layout.inpainting if inpainting else layout.unet, layout.codec]
    wanted += [f"{layout.text_encoder}/{file}" for file in _MULTILINGUAL]
    if layout.second_text_encoder is not None:
        wanted += [f"{layout.second_text_encoder}/{file}" for file in _SECOND]
    wanted += [file for file in (layout.prior, layout.statistics) if file is not None]
    _complete(root, wanted, repository, "", token)
    if layout.clip_folder is not None and not _has_clip(root, layout):
        _complete(
            root,
            [f"{layout.clip_folder}/{file}" for file in _CLIP],
            CLIP_REPOSITORY,
            layout.clip_folder,
            token,
        )
    return root


def _has_clip(root: Path, layout: Layout) -> bool:
    return layout.clip is not None and (root / layout.clip).is_file()


def _complete(root: Path, wanted: list[str], repository: str, inside: str, token: str | None) -> None:
    """Links the missing ones of `wanted` into `root`; in their repository they lie without the folder
    `inside`."""
    # Tokenizers are read from one of several files, of which older folders need not have all.
    there = [file for file in wanted if (root / file).is_file()]
    missing = [file for file in wanted if file not in there and not _dispensable(root, file)]
    if not missing:
        return
    names = [file.removeprefix(f"{inside}/") if inside else file for file in missing]
    source = resolve_files(repository, names, token=token)
    for file, name in zip(missing, names, strict=True):
        _place(source / name, root / file)


def _dispensable(root: Path, file: str) -> bool:
    """Whether a tokenizer's file can be done without: it is not weights, and there is a tokenizer beside
    it."""
    folder = (root / file).parent
    tokenizers = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model", "vocab.json")
    small = not file.endswith((".bin", ".safetensors", ".ckpt", ".pt", ".th"))
    return small and folder != root and any((folder / name).is_file() for name in tokenizers)


def _place(source: Path, target: Path) -> None:
    """Makes `target` the file that `source` is: by a link, or a copy where there are none."""
    make_folder(target.parent)
    with suppress(OSError, NotImplementedError):
        target.symlink_to(source.resolve())
        return
    partial = target.with_name(f"{target.name}.part")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{target} cannot be written ({error.strerror}).", "Choose another cache_dir."
        ) from error
