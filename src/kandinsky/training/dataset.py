"""The images that a run learns from, at the size that a stage wants, and those held out."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch

from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import ConfigError, DataError, nearest
from kandinsky.training.config.run import DataConfig, Stage, TrainConfig
from kandinsky.training.config.table import dataclass_of
from kandinsky.training.data.buckets import bucketed
from kandinsky.training.data.caption import Captioner, Templates, WrittenCaptions
from kandinsky.training.data.folder import Columns, Folder, counted, read_bare_folder, read_folder, split_called
from kandinsky.training.data.hints import with_hints
from kandinsky.training.data.images import AUGMENTATIONS, Augmentation, ImageSet, open_images
from kandinsky.training.data.listing import list_folder
from kandinsky.training.data.webdataset import is_dataset, unpack_dataset, unpack_shards
from kandinsky.training.events import LearnsFrom
from kandinsky.training.recipe import Recipe, load_recipe
from kandinsky.training.seeds import generator


@dataclass(frozen=True)
class Dataset:
    """The training split of a configuration's images, on a device; the test split is never opened."""

    config: DataConfig
    seed: int
    device: torch.device
    out: Path | None = None

    @property
    def _columns(self) -> Columns:
        return Columns(self.config.image_column, self.config.caption_column)

    @cached_property
    def root(self) -> Path:
        """Where the images lie as files, or their table: the folder, or where shards and datasets are unpacked."""
        data, folder = self.config, self.config.folder
        if data.dataset is not None:
            return unpack_dataset(data.dataset, data.split, self._columns, optional=True)
        if not folder.is_dir():
            return self._of_shards(folder)
        if is_dataset(folder):
            return unpack_dataset(str(folder), data.split, self._columns, optional=True)
        listing = list_folder(folder, self.out)
        if listing.images or listing.tables:
            return folder
        if listing.parquet:
            return unpack_dataset(str(folder), data.split, self._columns, optional=True)
        return self._of_shards(folder)

    def _of_shards(self, folder: Path) -> Path:
        """Where the shards in a folder are unpacked; the folder itself where it has none."""
        found = unpack_shards(folder, optional=True)
        if found is not None and self._columns != Columns():
            raise ConfigError(
                "data.image_column and data.caption_column: shards have no columns.",
                "Leave them out: a caption is a .txt, or caption in a .json.",
            )
        return found or folder

    def stamp(self) -> str:
        """A hash of the names and contents of the images, captions and hints that a run learns from."""
        digest = hashlib.sha256(f"{self.config.split}|{self._columns}".encode())
        for root in (self.root, self.config.hints):
            if root is None:
                continue
            if root.is_file():
                files = [root, *(root.parent / one.file_name for one in read_bare_folder(root).records)]
            else:
                listing = list_folder(root, self.out)
                files = sorted([*listing.images, *listing.texts])
            for path in files:
                digest.update(os.fsencode(os.path.relpath(path, root)))
                try:
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError as error:  # such as a link to nowhere
                    reason = error.strerror or error
                    raise DataError(f"{path} cannot be read ({reason}).", "Mend it, or take it away.") from error
        return digest.hexdigest()

    def size(self, stage: Stage, usual: int | None = None) -> int:
        """The side of a stage's images; unless said, a checkpoint is fine-tuned at its `usual` size."""
        said = "size" in self.config.model_fields_set
        return stage.size or (None if said else usual) or self.config.size

    @cached_property
    def recipe(self) -> Recipe | None:
        return None if self.config.recipe is None else load_recipe(self.config.recipe)

    def records(self, captioner: Captioner | None = None, *, optional: bool = False) -> Folder:
        """The files of the images to learn from, with their captions, or with what a `captioner` says.

        With a captioner they need none, and where captions are `optional` those without one say nothing. Raises
        DataError where none is of the split, ConfigError for an unknown split.
        """
        root = self.root
        if captioner is not None:
            folder = read_bare_folder(root, captioner, self.out)
        elif self.recipe is not None:
            folder = self.recipe.read(root, self.config)
        else:
            columns = self._columns if root == self.config.folder else Columns()
            folder = read_folder(root, columns, optional=optional, out=self.out)
        hints = self.config.hints
        folder = self._of_split(folder, root == self.config.folder)
        return folder if hints is None else with_hints(folder, hints)

    def _of_split(self, folder: Folder, own: bool) -> Folder:
        """The records of the split; those of others are counted as left out."""
        split = split_called(self.config.split) if own else "train"
        there = Counter(record.split for record in folder.records)
        if split is None:
            raise ConfigError(
                f"data.split is {self.config.split!r}, which no folder has.", f"There: {', '.join(sorted(there))}."
            )
        if not there[split]:
            raise DataError(
                f"No image of split {split!r} is in {str(folder.root)!r}.",
                f"It holds {counted({f'of split {name}': count for name, count in there.items()})}; "
                "images of split test are never learned from.",
            )
        kept = tuple(replace(one, split="train") for one in folder.records if one.split == split)
        left = {f"of split {name}": count for name, count in there.items() if name != split}
        folder = replace(folder, records=kept, left_out={**folder.left_out, **left})
        return _with_own_captions(folder) if left else folder

    def split(
        self, size: int, captioner: Captioner | None = None, *, optional: bool = False
    ) -> tuple[ImageSet, ImageSet | None]:
        """The images to learn from, and those held out (None when there are none)."""
        (learned,), held_out = self._held_out([self._open(self.records(captioner, optional=optional), size)])
        return learned, next(iter(held_out), None)

    def shapes(
        self, size: int, captioner: Captioner | None = None, *, optional: bool = False
    ) -> tuple[list[ImageSet], list[ImageSet]]:
        """As `split`, each in sets of one shape; see `data.buckets`."""
        folder = self.records(captioner, optional=optional)
        if self.config.buckets is None:
            return self._held_out([self._open(folder, size)])
        groups = bucketed(folder, size, self.config.buckets)
        return self._held_out([self._open(group, shape) for shape, group in groups.items()])

    def _open(self, folder: Folder, size: int | tuple[int, int]) -> ImageSet:
        data = self.config
        images = open_images(folder, size, styles=data.styles, cache=data.cache, fit=data.fit)
        return images.to(self.device)

    def _held_out(self, sets: list[ImageSet]) -> tuple[list[ImageSet], list[ImageSet]]:
        count, total = self.config.held_out, sum(len(images) for images in sets)
        if count == 0:
            return sets, []
        if count >= total:
            raise ConfigError(f"data.held_out is {count}, but there are only {total} images.", "Hold out fewer.")
        chosen = torch.randperm(total, generator=generator(self.seed, "held out"))[:count]
        before = [0, *accumulate(len(images.folder.records) for images in sets)]
        files = torch.cat([images.files + first for images, first in zip(sets, before, strict=False)])
        # An image that is seen several times an epoch is held out as a whole.
        kept = ~torch.isin(files, files[chosen])
        parts = list(zip(sets, torch.split(kept, [len(one) for one in sets]), strict=True))
        learned = [images.where(mask) for images, mask in parts if bool(mask.any())]
        return learned, [images.where(~mask) for images, mask in parts if not bool(mask.all())]


def _with_own_captions(folder: Folder) -> Folder:
    """The folder without the captions of other records, from which a tokenizer would be learned too."""
    if not isinstance(folder.captioner, WrittenCaptions):
        return folder
    ids = {concept: place for place, concept in enumerate(sorted({one.concept for one in folder.records}))}
    captioner = WrittenCaptions(tuple(folder.captioner.written[concept] for concept in ids))
    records = tuple(replace(one, concept=ids[one.concept]) for one in folder.records)
    return replace(folder, records=records, captioner=captioner)


Reader = tuple[Tokenizer, int]
"""What reads captions, and how many tokens of them."""


def learns_from(
    stage: str,
    learned: Sequence[ImageSet],
    held_out: Sequence[ImageSet] = (),
    readers: Sequence[Reader] | None = None,
    note: str = "",
) -> LearnsFrom:
    """What a stage found, to be told before it begins; `readers` are those of its captions, None where none reads."""
    folder = learned[0].folder
    left_out = dict(folder.left_out)
    captions, texts, sentences = 0, list[str](), 0
    match folder.captioner if readers is not None else None:
        case None:
            pass
        case WrittenCaptions():
            texts = [one.folder.captioner.written[n].text for one in learned for n in one.concept_ids.tolist()]  # type: ignore[attr-defined]
            captions = sum(map(bool, texts))
        case Templates(sentences=of_all):
            texts, sentences = [*of_all], len(of_all)
        case _:  # a recipe, which says it in many ways
            captions = sum(map(len, learned))
    of_styles = len(folder.records) - sum(len({*one.files.tolist()}) for one in (*learned, *held_out))
    if len({one.shape for one in learned}) == 1 and of_styles > 0:
        left_out["of other styles"] = of_styles
    shapes = {f"{one.shape[1]}x{one.shape[0]}": len(one) for one in learned} if len(learned) > 1 else {}
    long = [text for text in set(texts) if any(reads.token_count(text) > most for reads, most in readers or ())]
    return LearnsFrom(
        stage,
        sum(map(len, learned)),
        captions,
        sum(map(len, held_out)),
        {reason: count for reason, count in left_out.items() if count},
        shapes,
        sum(map(set(long).__contains__, texts)),
        note,
        sentences,
    )


def augmentation(stage: Stage) -> Augmentation:
    """The augmentation that a stage names or spells out; ConfigError for an unknown one."""
    if isinstance(stage.augmentation, dict):
        return dataclass_of(Augmentation, stage.augmentation, "augmentation")
    if stage.augmentation not in AUGMENTATIONS:
        raise ConfigError(
            f"There is no augmentation {stage.augmentation!r}.", nearest(stage.augmentation, AUGMENTATIONS)
        )
    return AUGMENTATIONS[stage.augmentation]


def check_data(config: TrainConfig) -> None:
    """Raises ConfigError for a recipe, captions of it or an augmentation that no stage could learn with."""
    data = config.data
    if data.recipe is not None:
        load_recipe(data.recipe).check(data)
        for name in ("image_column", "caption_column"):
            if data.dataset is None and getattr(data, name) is not None:
                raise ConfigError(f"data.{name} is for a folder without a recipe.", "Leave one of them out.")
    for stage in config.stage:
        if augmentation(stage).recolour and not data.measure_colours:
            raise ConfigError(
                f"stage {stage.name!r}: augmentation.recolour needs a recipe that measures colours.",
                "Set data.measure_colours, or leave it out.",
            )
