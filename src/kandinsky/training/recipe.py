"""The interface of a recipe: how its data are read and captioned, and auxiliary heads of CLIP."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.training.config.objectives import ClipObjective
from kandinsky.training.config.run import DataConfig
from kandinsky.training.data.folder import Folder
from kandinsky.training.data.images import Batch, ImageSet


class AuxiliaryHeads(Protocol):
    """Heads that embeddings are trained with, besides the contrastive loss."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The heads, by the names that their tensors begin with."""

    @property
    def weights(self) -> Mapping[str, float]:
        """How much each of their losses counts."""

    def image_losses(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Losses of image embeddings (B, P): scalars by name."""

    def text_losses(self, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Losses of the embeddings (B, P) of a batch's captions: scalars by name."""

    def accuracy(self, image: Tensor, concepts: Tensor) -> dict[str, float]:
        """How often image embeddings (B, P) are recognised as their concepts (B,): shares by name."""


class Recipe(Protocol):
    """Reads a data set that is more than images with a caption each."""

    def check(self, data: DataConfig) -> None:
        """Raises ConfigError for settings that it could not read any folder with."""

    def read(self, root: Path, data: DataConfig) -> Folder:
        """Reads a folder, and leaves out what the settings do not want; DataError, ConfigError."""

    def heads(self, objective: ClipObjective, images: ImageSet, width: int) -> AuxiliaryHeads:
        """The heads that an objective weighs, for embeddings of a width."""


def load_recipe(name: str) -> Recipe:
    """The recipe of a name in `kandinsky.recipes`, which is imported for it; ConfigError for another name."""
    path = f"kandinsky.recipes.{name}"
    missing = ConfigError(f"data.recipe: there is no recipe {name!r}.", 'There is "emoji".')
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        # What a recipe itself fails to import is another matter.
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise missing from error
    if "RECIPE" not in vars(module):
        raise missing
    recipe: Recipe = module.RECIPE
    return recipe
