"""A folder in diffusers layout: a model index at the root and one folder per component.

Only files are read and written here; the maps and the generations interpret configurations.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kandinsky.checkpoints.files import INDEX, Json, components_of, make_folder, read_json, write_json
from kandinsky.checkpoints.weight_files import STEMS, parse, variants
from kandinsky.checkpoints.weights import read_weights, write_weights
from kandinsky.core.errors import CheckpointError, nearest

CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""A component's configuration goes under one of these names, by what the component is."""


@dataclass(frozen=True)
class Folder:
    """An opened folder: its root, and the model index as it was read.

    With `config_only` its weights are never read, and need not be there.
    """

    root: Path
    model_index: Json
    config_only: bool = False

    @property
    def kind(self) -> str:
        """The class of the whole, as the index names it (`_class_name`), "" when it does not."""
        return str(self.model_index.get("_class_name", ""))

    @property
    def components(self) -> dict[str, str]:
        """The components that are there to load, each with the class that the index names for it."""
        return components_of(self.model_index)

    def component(self, name: str) -> Path:
        """The folder of a component; raises CheckpointError when the index or the disk lacks it."""
        path = self.root / name
        if path.is_dir():
            return path
        if name in self.components:
            raise CheckpointError(
                f"{self.root} lacks the folder {name!r} that its {INDEX} lists.", "Download it again."
            )
        raise CheckpointError(f"{self.root} has no component {name!r}.", nearest(name, self.components))

    def config(self, name: str, expect: str | Iterable[str] = ()) -> dict[str, Any]:
        """A component's configuration.

        `expect` names the classes that will do. Raises CheckpointError when the file is missing or damaged,
        and when it names another class.
        """
        folder = self.component(name)
        path = next((folder / file for file in CONFIGS if (folder / file).is_file()), folder / CONFIGS[0])
        config = read_json(path)
        allowed = (expect,) if isinstance(expect, str) else tuple(expect)
        stated = _class_of(config)
        if allowed and stated and stated not in allowed:
            raise CheckpointError(
                f"{path} is the configuration of a {stated}, not of a {' or '.join(allowed)}.",
                "This is a component of another model; check which folder was meant.",
            )
        return config

    def weights(self, name: str, variant: str | None = None) -> dict[str, Tensor]:
        """A component's tensors under the file's names; raises CheckpointError as `read_weights` does."""
        folder = self.component(name)
        stems = [stem for stem in STEMS if any(parse(p.name, [stem]) for p in folder.iterdir())]
        return read_weights(folder, stems[0] if stems else STEMS[0], variant)

    @property
    def only_variant(self) -> str | None:
        """The variant in which a component's weights are read, since there are no plain ones; else None."""
        for name in self.components:
            folder = self.root / name
            found = variants(path.name for path in folder.iterdir()) if folder.is_dir() else []
            if len(found) == 1 and found[0]:
                return found[0]
        return None

    def prior_reference(self) -> str | None:
        """The model that the README's front matter names as this decoder's prior, None when it names none."""
        readme = self.root / "README.md"
        if not readme.is_file():
            return None
        text = readme.read_text("utf-8-sig", "replace")
        block = re.match(r"\s*---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$", text, re.DOTALL | re.MULTILINE)
        return None if block is None else _prior_in(block[1])


def _prior_in(front_matter: str) -> str | None:
    from huggingface_hub import RepoCard

    try:
        named = RepoCard(f"---\n{front_matter}\n---\n").data.get("prior")
    except Exception:  # whatever the YAML reader raises: many cards are no YAML, and the line is clear
        found = re.search(r"""^prior:[ \t]*(?:\n[ \t]*-[ \t]+|\[[ \t]*)?["']?([^\s"'#,\]]+)""", front_matter, re.M)
        return found and found[1]
    first = named[0] if isinstance(named, list) and named else named
    return first if isinstance(first, str) else None


def open_folder(path: str | Path) -> Folder:
    """Opens a folder in diffusers layout.

    Raises CheckpointError when the folder or its model index is missing or damaged, saying what was found.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise CheckpointError(f"{root} {what}.", "Give a folder in diffusers layout, or a Hub id.")
    if not (root / INDEX).is_file():
        hint = "Give a folder in diffusers layout."
        if (root / "config.json").is_file():
            hint = "It looks like one component; give the folder above it."
        elif originals := sorted(p.name for p in root.iterdir() if p.suffix in (".ckpt", ".pt", ".th")):
            hint = f"It holds {originals[0]}: weights in another layout."
        raise CheckpointError(f"{root} has no {INDEX}.", hint)
    model_index = read_json(root / INDEX)
    if not components_of(model_index):
        raise CheckpointError(f"{root / INDEX} lists no components.", "It is damaged; download it again.")
    return Folder(root, model_index)


def save_component(
    folder: Path,
    name: str,
    config: Json,
    tensors: Mapping[str, Tensor] | None = None,
    stem: str = STEMS[0],
    config_name: str = CONFIGS[0],
    variant: str | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes one component: its configuration and, where it has them, its tensors.

    Raises OutputError when the disk does not take them. The configuration is written last, so that a folder
    that has one is complete.
    """
    target = folder / name
    make_folder(target)
    if tensors is not None:
        write_weights(target, stem, tensors, max_shard_bytes, variant)
    write_json(target / config_name, config)


def write_model_index(
    folder: Path, kind: str, components: Mapping[str, tuple[str | None, str | None]], **extra: object
) -> None:
    """Writes the model index: the class of the whole, and each component's (library, class).

    `extra` goes in as it is. Raises OutputError when it cannot be written.
    """
    listed = {name: list(components[name]) for name in sorted(components)}
    write_json(folder / INDEX, {"_class_name": kind, **extra, **listed})


def _class_of(config: Json) -> str:
    """The class that a configuration says it is of: one library writes a name, the other a list of them."""
    several = config.get("architectures")
    first = several[0] if isinstance(several, list) and several else ""
    return str(config.get("_class_name") or first)
