"""Opened checkpoints in either layout, and where the parts of original releases lie."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kandinsky.checkpoints.diffusers_folder import Folder, open_folder
from kandinsky.checkpoints.files import INDEX
from kandinsky.checkpoints.hub import list_files, resolve, resolve_files
from kandinsky.checkpoints.hub_download import Progress
from kandinsky.checkpoints.maps.original_files import RELEASES, OriginalFiles
from kandinsky.checkpoints.original_hub import (
    CLIP_REPOSITORY,
    CLIP_TOWERS,
    CLIP_VOCABULARY,
    DECODER,
    HALVES,
    PRIOR,
    plan_encoder,
)
from kandinsky.core.errors import CheckpointError, TokenizerError
from kandinsky.core.files import is_there, local


@dataclass(frozen=True)
class OriginalFolder:
    """An opened folder of original files; `clip` and `text_encoder` are folders of transformers elsewhere, for parts
    that it lacks."""

    root: Path
    files: OriginalFiles
    clip: Path | None = None
    text_encoder: Path | None = None

    @property
    def kind(self) -> str:
        """The release of its files."""
        return self.files.kind

    @property
    def has_decoder(self) -> bool:
        """Whether a U-Net is there."""
        return any((self.root / name).is_file() for name in self.files.unets.values())

    @property
    def has_prior(self) -> bool:
        """Whether a prior is there."""
        return self.files.prior is not None and (self.root / self.files.prior).is_file()

    def chosen(self, variant: str | None = None) -> str:
        """The variant of the U-Net that is read: "inpainting", "flash", or "" for the first; see
        `OriginalFiles.unet_of`."""
        return self.files.unet_of(variant, lambda name: (self.root / name).is_file())

    @property
    def encoder(self) -> Path | None:
        """The folder of the text encoder and its tokenizer, None when there is none."""
        names = (self.files.text_encoder, self.files.published_text_encoder)
        folders = [self.root / name for name in names if name is not None]
        folders += [] if self.text_encoder is None else [self.text_encoder]
        return next((one for one in folders if one.is_dir()), None)

    @property
    def lacking_encoder(self) -> str | None:
        """The repository in which the text encoder is that its decoder lacks, None where it lacks none."""
        return self.files.published_text_encoder if self.has_decoder and self.encoder is None else None

    @property
    def lacking_clip(self) -> tuple[str, ...]:
        """The files of CLIP, in the layout of transformers, without which its prior cannot read."""
        if not self.has_prior:
            return ()
        names = () if self.towers is not None else CLIP_TOWERS
        return names if self.vocabulary is not None else (*names, *CLIP_VOCABULARY)

    @property
    def towers(self) -> Path | None:
        """The file or the folder of CLIP's towers, None when there is none."""
        file, folder = (self.root / (name or "") for name in (self.files.clip, self.files.clip_folder))
        if file.is_file():
            return file
        folders = [folder] if self.clip is None else [folder, self.clip]
        return next((one for one in folders if (one / "config.json").is_file()), None)

    @property
    def vocabulary(self) -> Path | None:
        """The folder of CLIP's vocabulary, None when there is none."""
        folders = [self.root / name for name in self.files.vocabularies]
        folders += [] if self.clip is None else [self.clip]
        known = ("vocab.json", "tokenizer.json")
        return next((one for one in folders if any((one / name).is_file() for name in known)), None)

    def file(self, name: str | None) -> Path:
        """The path of one of the release's files; CheckpointError when it is missing."""
        path = self.root / (name or "")
        if name is None or not path.is_file():
            raise CheckpointError(f"{self.root} lacks the file {name}.", "Download it into the same folder.")
        return path

    def unet_file(self, variant: str | None = None) -> Path:
        """The path of the U-Net that is read; CheckpointError when it is missing or unknown."""
        return self.file(self.files.unets[self.chosen(variant)])

    def encoder_folder(self) -> Path:
        """The folder of the text encoder and its tokenizer; CheckpointError when there is none."""
        if self.encoder is not None:
            return self.encoder
        elsewhere = self.files.published_text_encoder
        raise CheckpointError(
            f"{self.root} lacks the folder {self.files.text_encoder!r} of the text encoder.",
            "Download it into the same folder" + (f", or {elsewhere} into a folder {elsewhere}." if elsewhere else "."),
        )

    def second_encoder_folder(self) -> Path:
        """The folder of the second text encoder and its tokenizer; CheckpointError when there is none."""
        name = self.files.second_text_encoder
        if name is None or not (self.root / name).is_dir():
            raise CheckpointError(f"{self.root} lacks the folder {name!r}.", "Download it into the same folder.")
        return self.root / name

    def clip_towers(self) -> Path:
        """The file or the folder of CLIP's towers; CheckpointError when there is none."""
        if self.towers is not None:
            return self.towers
        raise CheckpointError(
            f"{self.root} lacks CLIP: neither {self.files.clip} nor {self.files.clip_folder}/config.json is there.",
            "Put one of them into the same folder, or give prior= a folder in diffusers layout.",
        )

    def clip_vocabulary(self) -> Path:
        """The folder of CLIP's vocabulary; TokenizerError, naming where it was looked for, without one."""
        if self.vocabulary is not None:
            return self.vocabulary
        raise TokenizerError(
            f"{self.root} lacks CLIP's vocabulary: looked for vocab.json with merges.txt, or tokenizer.json, "
            f"in {' and '.join(self.files.vocabularies)}.",
            "Copy them from any CLIP folder, or give prior= a folder in diffusers layout.",
        )


Source = Folder | OriginalFolder
"""An opened checkpoint, in either layout."""


def open_original(path: str | Path) -> OriginalFolder | None:
    """Opens a folder of original files; None when it is none, CheckpointError when it holds files of two releases."""
    root = Path(path)
    if not (found := _releases_in(root)) and (above := _releases_in(root.absolute().parent)):
        # The folder within a release that holds its files: they are named from the one above.
        root = root.absolute().parent
        found = [files for files in above if files.unet.startswith(f"{Path(path).absolute().name}/")]
    if len(found) > 1:
        raise CheckpointError(f"{root} holds files of {len(found)} releases.", "Give each release a folder of its own.")
    return OriginalFolder(root, found[0]) if found else None


def _releases_in(root: Path) -> list[OriginalFiles]:
    """The releases of which a network is there."""
    return [
        files
        for files in RELEASES
        if any(name and (root / name).is_file() for name in (*files.unets.values(), files.prior))
    ]


def open_checkpoint(path: str | Path) -> Source:
    """Opens a folder in either layout; CheckpointError when it is in none."""
    original = None if (Path(path) / INDEX).is_file() else open_original(path)
    return original or open_folder(path)


def open_model(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    halves: Iterable[str] = HALVES,
    weights: bool = True,
    on_progress: Progress | None = None,
) -> Source:
    """Opens a model; of original files only the `halves` are downloaded, see `resolve`.

    Without `weights` only the small files of a model in diffusers layout are downloaded. A release on the Hub
    also gets CLIP or its text encoder from where that was published. Raises CheckpointError for a folder that is no
    model, and HubError.
    """
    wanted = tuple(halves)
    path = resolve(model, revision=revision, variant=variant, halves=wanted, weights=weights, on_progress=on_progress)
    opened = open_checkpoint(path)
    if isinstance(opened, Folder) and not weights:
        return replace(opened, config_only=True)
    if is_there(local(model)) or not isinstance(opened, OriginalFolder):
        return opened
    if PRIOR in wanted and opened.lacking_clip:
        clip = resolve_files(CLIP_REPOSITORY, opened.lacking_clip, on_progress=on_progress)
        opened = replace(opened, clip=clip)
    if DECODER in wanted and (elsewhere := opened.lacking_encoder):
        files = plan_encoder(list_files(elsewhere), elsewhere)
        encoder = resolve_files(elsewhere, files, on_progress=on_progress)
        opened = replace(opened, text_encoder=encoder)
    return opened
