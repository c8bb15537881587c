"""Augmented images as batches, and what frozen networks made of them once, kept on disk."""

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.training import events
from kandinsky.training.data.images import Augmentation, Batch, ImageSet, words_of
from kandinsky.training.seeds import generator
from kandinsky.training.tensor_cache import keep, read_kept

CHUNK, AT_ONCE = 64, 2**21
"""How many images, and how many pixels, are encoded at once."""

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ImageSource:
    """Batches straight from a set of images."""

    images: ImageSet
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Batch:
        return self.images.batch(indices, generator, self.augmentation)


@dataclass(frozen=True)
class CachedEncodings:
    """`variants` encoded augmentations of each image; row i * variants + k is variant k of image i.

    `tensors` are encodings in half precision and, as integers, the facts of the images.
    """

    images: ImageSet
    tensors: dict[str, Tensor]
    variants: int

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Batch, dict[str, Tensor]]:
        """One variant of each image, drawn at random: new captions, no pixels; its encodings, float32."""
        which = torch.randint(self.variants, (len(indices),), generator=generator)
        places = torch.tensor(list(indices))
        found = {name: value[places * self.variants + which] for name, value in self.tensors.items()}
        facts = {name: value for name, value in found.items() if not value.is_floating_point()}
        said = tuple(self.images.folder.captioner.captions(facts, words_of(generator)))
        none = torch.empty(len(places), 0)
        encodings = {name: value.float() for name, value in found.items() if value.is_floating_point()}
        return Batch(none, said, facts, places, none), encodings


def encode_once(
    source: ImageSource,
    variants: int,
    encode: Callable[[Tensor], dict[str, Tensor]],
    stamp: str,
    folder: Path,
    seed: int,
    stage: str,
) -> Generator[events.Event, None, CachedEncodings]:
    """Encodes `variants` augmentations of every image, or reads them if the same was done before.

    The file's name is a hash of the images, the augmentation and `stamp` (the networks), so a change of any
    makes a new one. Raises OutputError when it cannot be written.
    """
    path = folder / f"{_content_hash(source, variants, stamp, seed)}.safetensors"
    if (kept := read_kept(path)) is not None:
        return CachedEncodings(source.images, kept[0], variants)
    count = len(source)
    columns: dict[str, list[Tensor]] = {}
    height, width = source.images.shape
    rows = max(1, AT_ONCE // (height * width))
    chunk = min(CHUNK, max(1, rows // variants))
    for first in range(0, count, chunk):
        yield events.Preparing(stage, "latents and embeddings", first, count)
        chosen = [index for index in range(first, min(first + chunk, count)) for _ in range(variants)]
        batch = source.batch(chosen, generator(seed, "variants", first))
        found = [encode(pixels) for pixels in torch.split(batch.pixels, rows)]
        for part in (*found, batch.facts):
            for name, value in part.items():
                columns.setdefault(name, []).append(value.half() if value.is_floating_point() else value)
    tensors = {name: torch.cat(parts).cpu().contiguous() for name, parts in columns.items()}
    keep(path, tensors)
    yield events.Preparing(stage, "latents and embeddings", count, count)
    return CachedEncodings(source.images, tensors, variants)


def _content_hash(source: ImageSource, variants: int, stamp: str, seed: int) -> str:
    digest = hashlib.sha256(f"{variants}|{seed}|{source.augmentation}|{stamp}|".encode())
    images = source.images
    # A recipe says what may be mirrored and whether things are recoloured.
    recipe = [type(images.folder.captioner), None if images.painter is None else type(images.painter)]
    digest.update(f"{recipe}|".encode())
    for part in images.planes.chunks():
        digest.update(part.numpy().tobytes())
    for values in (images.concept_ids, images.style_ids, images.mirrorable):
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:32]
