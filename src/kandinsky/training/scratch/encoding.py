"""What the prior and the decoder are trained on: embeddings and latents, encoded once or for every batch."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.networks.movq import MoVQ
from kandinsky.training.config import Stage
from kandinsky.training.data.pictures import PictureSet
from kandinsky.training.events import Event
from kandinsky.training.scratch.clip_model import Towers
from kandinsky.training.stages.sources import (
    Captioned,
    CaptionedSource,
    EncodedSource,
    PictureSource,
    encode_once,
)
from kandinsky.training.stages.workshop import Frozen, Workshop, augmentation
from kandinsky.training.task import Source


@dataclass(frozen=True)
class Encoders:
    """The frozen networks that turn pictures into what diffusion learns; a prior needs no autoencoder."""

    towers: Frozen[Towers]
    movq: Frozen[MoVQ] | None
    device: torch.device

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, S, S) to `embeddings` (B, P) and, with a codec, `latents` (B, 4, h, w)."""
        pixels = pixels.to(self.device)
        found = {"embeddings": self.towers.module.see(pixels)}
        if self.movq is not None:
            found["latents"] = self.movq.module.encode(pixels)
        return found

    def of(self, batch: Captioned) -> dict[str, Tensor]:
        """The encodings of a batch on the device, float32, whether it brings them or is encoded now."""
        if batch.pixels is not None:
            return {name: value.float() for name, value in self.encode(batch.pixels).items()}
        found = {"embeddings": batch.embeddings, "latents": batch.latents}
        return {name: value.to(self.device) for name, value in found.items() if value is not None}


def encoded_source(
    shop: Workshop, stage: Stage, pictures: PictureSet, encoders: Encoders
) -> Generator[Event, None, Source]:
    """The stage's examples: from the cache when it keeps variants, from the pictures otherwise."""
    source = PictureSource(pictures, augmentation(stage))
    if stage.variants == 0:
        return CaptionedSource(source, shop.ids)
    stamps = [encoders.towers.stamp] + ([encoders.movq.stamp] if encoders.movq else [])
    folder, stamp = shop.config.out / "cache", "|".join(stamps)
    tensors = yield from encode_once(
        source, stage.variants, encoders.encode, stamp, folder, shop.config.seed, stage.name
    )
    return EncodedSource(pictures, tensors, stage.variants, shop.ids)
