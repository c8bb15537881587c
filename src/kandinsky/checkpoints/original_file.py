"""The files of an original release: where a network lies, its sizes and names, both ways."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from kandinsky.checkpoints.files import Json, make_folder, read_json, write_json
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.original_files import OriginalFiles
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.weights import Tensors, dense, read_tensor_file
from kandinsky.core.errors import CheckpointError, OutputError

C = TypeVar("C")


@dataclass(frozen=True)
class OriginalFile(Generic[C]):
    """The file or folder of a network in an original release.

    `place` is its path, `read` maps its tensors, `infer` reads its sizes off them and the config.json in that folder,
    `keys` are the names in a file with such names. `contents` are the pickles to write, by path, and `describe` the
    config.json of a folder; `names` are names that only these files have, `trim` removes what they lack. `tokenizer` is
    the folder of the network's tokenizer, `pad_id` the id that pads texts.
    """

    place: Callable[[OriginalFolder, str | None], Path]
    infer: Callable[[Tensors, Json], C]
    keys: Callable[[C, Iterable[str]], KeyMap]
    contents: Callable[[OriginalFiles, str, Tensors], Mapping[str, object]]
    read: Callable[[OriginalFolder, Path], Tensors] = lambda _, path: read_tensor_file(path)
    describe: Callable[[C], Json] = lambda _: {}
    names: tuple[str, ...] = ()
    trim: Callable[[C, Tensors], tuple[C, Tensors]] = lambda config, state: (config, state)
    tokenizer: Callable[[OriginalFolder], Path] | None = None
    pad_id: int | None = None

    def save(self, folder: OriginalFolder, variant: str, config: C, state: Tensors) -> Tensors:
        """Writes a network and returns its tensors under the files' names.

        Raises CheckpointError where its sizes could not be read back, and OutputError.
        """
        config, state = self.trim(config, state)
        tensors, json = self.keys(config, self.names).to_foreign(state), self.describe(config)
        found = self.infer(tensors, json)
        if config != found:
            raise CheckpointError(
                f"Original files have no place for {config}: their tensors would be read as {found}.",
                "Only networks of the published kind can be written to them.",
            )
        for name, content in self.contents(folder.files, variant, tensors).items():
            save_pickle(folder.root / name, content)
            if json:
                write_json((folder.root / name).with_name("config.json"), json)
        return tensors


def config_beside(path: Path) -> Json:
    """The config.json in the folder of a network; empty without one, and for a file."""
    return read_json(path / "config.json") if (path / "config.json").is_file() else {}


def save_pickle(path: Path, content: object) -> None:
    """Writes tensors in containers as torch does; OutputError when the disk does not take them."""
    make_folder(path.parent)
    try:
        torch.save(dense(content), path)
    except RuntimeError as error:  # so a full disk is reported
        raise OutputError(f"{path} cannot be written: {error}.", "Is there space left?") from error
