"""Where the stages' batches come from: pictures with their texts, or what frozen networks made of them
once.
"""

import hashlib
import os
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kandinsky.core.errors import OutputError
from kandinsky.training import events
from kandinsky.training.data.captions import Caption, Tint
from kandinsky.training.data.pictures import Augmentation, Batch, PictureSet
from kandinsky.training.data.words import COLOURS
from kandinsky.training.seeds import generator

CHUNK, AT_ONCE = 64, 2**21
"""How many pictures, and how many pixels, are encoded at once."""
FACTS = ("concepts", "styles", "backgrounds", "beside", "tints")

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PictureSource:
    """Batches straight from a picture set."""

    pictures: PictureSet
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Batch:
        """Augmented pictures with captions."""
        return self.pictures.batch(indices, generator, self.augmentation)


@dataclass(frozen=True)
class Captioned:
    """Rows for the prior and the decoder: texts as `ids` and `mask` (B, L), and pictures in one of two forms.

    `pixels` (B, 3, S, S) in [-1, 1], or what frozen networks made of them: `embeddings` (B, P) and, when
    there is an autoencoder, `latents` (B, 4, h, w).
    """

    ids: Tensor
    mask: Tensor
    pixels: Tensor | None = None
    embeddings: Tensor | None = None
    latents: Tensor | None = None


@dataclass(frozen=True)
class CaptionedSource:
    """Pictures and the ids of their captions."""

    source: PictureSource
    tokenize: Tokenize

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Captioned:
        """Augmented pictures, captions tokenised."""
        batch = self.source.batch(indices, generator)
        return Captioned(*self.tokenize(batch.captions), pixels=batch.pixels)


@dataclass(frozen=True)
class EncodedSource:
    """Encoded variants of each picture, `variants` rows each; captions are drawn anew for every batch."""

    pictures: PictureSet
    tensors: dict[str, Tensor]
    variants: int
    tokenize: Tokenize

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Captioned:
        """One variant of each picture, drawn at random."""
        rows, _, said = drawn_again(self.pictures, self.tensors, self.variants, indices, generator)
        ids, mask = self.tokenize([caption.text for caption in said])
        latents = self.tensors["latents"][rows].float() if "latents" in self.tensors else None
        return Captioned(ids, mask, embeddings=self.tensors["embeddings"][rows].float(), latents=latents)


def drawn_again(
    pictures: PictureSet,
    tensors: dict[str, Tensor],
    variants: int,
    indices: Sequence[int],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor], list[Caption]]:
    """One variant of each picture of `encode_once`: its rows (B,), its facts (B,) each, and new captions."""
    which = torch.randint(variants, (len(indices),), generator=generator)
    rows = torch.tensor(list(indices)) * variants + which
    words = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    facts = {name: tensors[name][rows] for name in FACTS}
    return rows, facts, captions_again(pictures, facts, words)


def captions_again(pictures: PictureSet, facts: dict[str, Tensor], words: random.Random) -> list[Caption]:
    """Captions for pictures whose `concepts`, `styles`, `backgrounds`, `beside`, `tints` (B,) are known."""
    colours = [*COLOURS, ""]
    columns = (facts[name].tolist() for name in FACTS)
    return [
        pictures.grammar.caption(
            concept,
            words,
            style=pictures.folder.styles[style],
            background=colours[colour],
            beside=other if other >= 0 else None,
            tint=Tint.of(tint),
        )
        for concept, style, colour, other, tint in zip(*columns, strict=True)
    ]


def facts_of(batch: Batch) -> dict[str, Tensor]:
    """What is known of a batch's pictures, each (B,), under the names of `FACTS`."""
    return dict(
        zip(FACTS, (batch.concepts, batch.styles, batch.backgrounds, batch.beside, batch.tints), strict=True)
    )


def encode_once(
    source: PictureSource,
    variants: int,
    encode: Callable[[Tensor], dict[str, Tensor]],
    stamp: str,
    folder: Path,
    seed: int,
    stage: str,
) -> Generator[events.Event, None, dict[str, Tensor]]:
    """Encodes `variants` augmentations of every picture, or reads them if the same was done before.

    Row i * variants + k is variant k of picture i. The file's name is a hash of the pictures, the
    augmentation and `stamp` (the networks), so a change of any makes a new one. Raises OutputError when it
    cannot be written.
    """
    path = folder / f"{_content_hash(source, variants, stamp, seed)}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError:
            path.unlink()
    count = len(source)
    columns: dict[str, list[Tensor]] = {}
    height, width = source.pictures.shape
    rows = max(1, AT_ONCE // (height * width))
    chunk = min(CHUNK, max(1, rows // variants))
    for first in range(0, count, chunk):
        yield events.Preparing(stage, "latents and embeddings", first, count)
        chosen = [index for index in range(first, min(first + chunk, count)) for _ in range(variants)]
        batch = source.batch(chosen, generator(seed, "variants", first))
        found = [encode(pixels) for pixels in torch.split(batch.pixels, rows)]
        for part in (*found, facts_of(batch)):
            for name, value in part.items():
                columns.setdefault(name, []).append(value.half() if value.is_floating_point() else value)
    tensors = {name: torch.cat(parts).cpu().contiguous() for name, parts in columns.items()}
    _write(path, tensors)
    yield events.Preparing(stage, "latents and embeddings", count, count)
    return tensors


def _content_hash(source: PictureSource, variants: int, stamp: str, seed: int) -> str:
    digest = hashlib.sha256(f"{variants}|{seed}|{source.augmentation}|{stamp}|".encode())
    digest.update(source.pictures.pixels.cpu().numpy().tobytes())
    for ids in (source.pictures.concept_ids, source.pictures.style_ids):
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()[:32]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # of a run that was killed here
            left.unlink()
        save_file(tensors, aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({error}).", "Free some disk space.") from error
