"""The emoji recipe: reads its folders, with captions of the grammar, and brings heads for CLIP."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji.captions import CaptionGrammar, CaptionMix
from kandinsky.recipes.emoji.concepts import TABLE, Concept, Words, read_concepts, wanted_groups, wasteful
from kandinsky.recipes.emoji.heads import EmojiHeads
from kandinsky.recipes.emoji.recolour import kept_palette
from kandinsky.recipes.emoji.vocabulary import LANGUAGES, plain_nouns
from kandinsky.training.config.objectives import ClipObjective
from kandinsky.training.config.run import DataConfig
from kandinsky.training.config.table import check_keys, dataclass_of
from kandinsky.training.data.caption import WrittenCaptions
from kandinsky.training.data.folder import Folder, folder_of, read_folder
from kandinsky.training.data.images import ImageSet, open_images
from kandinsky.training.data.listing import METADATA


class EmojiRecipe:
    """Concepts with words in many languages; the grammar names styles and backgrounds."""

    def check(self, data: DataConfig) -> None:
        _mix(data)

    def read(self, root: Path, data: DataConfig) -> Folder:
        return read_emoji(
            root,
            data.groups,
            keep_wasteful=data.keep_wasteful,
            mix=_mix(data),
            measure_colours=data.measure_colours,
            common=data.common,
        )

    def heads(self, objective: ClipObjective, images: ImageSet, width: int) -> EmojiHeads:
        return EmojiHeads.of(objective, images, width)


RECIPE = EmojiRecipe()


def _mix(data: DataConfig) -> CaptionMix | None:
    if not data.captions:
        return None
    mix = dataclass_of(CaptionMix, data.captions, "data.captions")
    check_keys(mix.languages, LANGUAGES, "data.captions.languages: ")
    return mix


def read_emoji(
    root: str | Path,
    groups: Sequence[str] = ("core",),
    *,
    keep_wasteful: bool = False,
    mix: CaptionMix | None = None,
    measure_colours: bool = False,
    common: int = 1,
) -> Folder:
    """Reads a folder with a table of concepts; in any other, each caption is a concept and stays as written.

    `groups` are names of `GROUPS`, of the folder's own groups, or "all"; folders without groups ignore it.
    With `measure_colours` things have colours and may take others. Images of things that have a plain word of
    their own (`plain_nouns`) are seen `common` times in an epoch.
    Raises DataError for a wrong folder and when nothing is left, ConfigError for an unknown group.
    """
    path = Path(root)
    if (path / TABLE).is_file() and (path / METADATA).is_file():
        records, concepts = read_concepts(path / METADATA)
        folder = folder_of(path, records, CaptionGrammar(concepts, mix))
    else:
        folder = read_folder(path)
        assert isinstance(folder.captioner, WrittenCaptions)
        concepts = tuple(
            Concept(said.text, said.text, words={said.language: Words(said.text)}, verbatim=True)
            for said in folder.captioner.written
        )
    wanted = wanted_groups(concepts, groups)
    left = {
        number: common if concept.key in plain_nouns() else 1
        for number, concept in enumerate(concepts)
        if (wanted is None or concept.group in wanted) and (keep_wasteful or not wasteful(concept))
    }
    kept = tuple(replace(one, times=left[one.concept]) for one in folder.records if one.concept in left)
    if not kept:
        raise DataError(
            f"No image of groups {', '.join(groups)} is in {str(path)!r}.",
            f"It holds {len(folder.records)} images in all.",
        )
    grammar = CaptionGrammar(concepts, mix, folder.styles)
    left_out = {**folder.left_out, "of other groups": len(folder.records) - len(kept)}
    painter = kept_palette if measure_colours else None
    return replace(folder, records=kept, captioner=grammar, painter=painter, left_out=left_out)


def open_emoji(
    root: str | Path,
    size: int,
    *,
    split: str = "train",
    groups: Sequence[str] = ("core",),
    keep_wasteful: bool = False,
    styles: Sequence[str] | None = None,
) -> ImageSet:
    """Opens the images of an emoji folder; see `read_emoji` and `open_images`."""
    folder = read_emoji(root, groups, keep_wasteful=keep_wasteful)
    return open_images(folder, size, split=split, styles=styles)


def concept_of(images: ImageSet, index: int) -> Concept:
    """What image `index` of an emoji folder shows."""
    return grammar_of(images.folder).concepts[int(images.concept_ids[index])]


def grammar_of(folder: Folder) -> CaptionGrammar:
    """The grammar of a folder that this recipe read."""
    assert isinstance(folder.captioner, CaptionGrammar)
    return folder.captioner
