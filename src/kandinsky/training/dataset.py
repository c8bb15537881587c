"""The images that a run learns from, at the size that a stage wants, and those held out."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch

from kandinsky.core.errors import ConfigError, nearest
from kandinsky.training.config.run import DataConfig, Stage, TrainConfig
from kandinsky.training.config.table import dataclass_of
from kandinsky.training.data.buckets import bucketed
from kandinsky.training.data.caption import Captioner
from kandinsky.training.data.folder import Folder, read_bare_folder, read_folder
from kandinsky.training.data.hints import with_hints
from kandinsky.training.data.images import AUGMENTATIONS, Augmentation, ImageSet, open_images
from kandinsky.training.data.webdataset import unpack_dataset, unpack_shards
from kandinsky.training.recipe import Recipe, load_recipe
from kandinsky.training.seeds import generator


@dataclass(frozen=True)
class Dataset:
    """The training split of a configuration's images, on a device; the test split is never opened."""

    config: DataConfig
    seed: int
    device: torch.device

    @cached_property
    def folder(self) -> Path:
        """Where the images lie as files: the folder, or where shards and datasets are unpacked."""
        data = self.config
        if data.dataset is not None:
            return unpack_dataset(data.dataset, data.split, data.image_column, data.caption_column)
        return unpack_shards(data.folder) or data.folder

    def stamp(self) -> str:
        """A hash of the names and contents of the images, captions and hints that a run learns from."""
        digest = hashlib.sha256()
        for root in (self.folder, self.config.hints):
            if root is None:
                continue
            files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
            for path in files:
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def size(self, stage: Stage, usual: int | None = None) -> int:
        """The side of a stage's images; unless said, a checkpoint is fine-tuned at its `usual` size."""
        said = "size" in self.config.model_fields_set
        return stage.size or (None if said else usual) or self.config.size

    @cached_property
    def recipe(self) -> Recipe | None:
        return None if self.config.recipe is None else load_recipe(self.config.recipe)

    def records(self, captioner: Captioner | None = None) -> Folder:
        """The images' files with their captions, or what a `captioner` says, for which they need none."""
        if captioner is not None:
            folder = read_bare_folder(self.folder, captioner)
        elif self.recipe is not None:
            folder = self.recipe.read(self.folder, self.config)
        else:
            folder = read_folder(self.folder)
        hints = self.config.hints
        return folder if hints is None else with_hints(folder, hints)

    def split(self, size: int, captioner: Captioner | None = None) -> tuple[ImageSet, ImageSet | None]:
        """The images to learn from, and those held out (None when there are none)."""
        (learned,), held_out = self._held_out([self._open(self.records(captioner), size)])
        return learned, next(iter(held_out), None)

    def shapes(self, size: int, captioner: Captioner | None = None) -> tuple[list[ImageSet], list[ImageSet]]:
        """As `split`, each in sets of one shape; see `data.buckets`."""
        folder = self.records(captioner)
        if self.config.buckets is None:
            return self._held_out([self._open(folder, size)])
        # A bucket of nothing but test images would be empty.
        trained = replace(folder, records=tuple(one for one in folder.records if one.split == "train"))
        groups = bucketed(trained, size, self.config.buckets)
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
    for stage in config.stage:
        if augmentation(stage).recolour and not data.measure_colours:
            raise ConfigError(
                f"stage {stage.name!r}: augmentation.recolour needs a recipe that measures colours.",
                "Set data.measure_colours, or leave it out.",
            )
