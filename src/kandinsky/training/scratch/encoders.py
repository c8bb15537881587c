"""The frozen networks that a new prior or decoder learns with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.conditioning.captions import TextCondition, text_condition
from kandinsky.core.errors import ConfigError
from kandinsky.networks.autoencoder import CodebookAutoencoder
from kandinsky.training.config import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.run_folder import Frozen
from kandinsky.training.scratch.clip_model import ClipModel, trimmed


@dataclass(frozen=True)
class FrozenEncoders:
    """CLIP and, for a decoder, the autoencoder; sides of images are multiples of `multiple`."""

    clip: Frozen[ClipModel]
    movq: Frozen[CodebookAutoencoder] | None
    device: torch.device
    multiple: int = 1

    @property
    def stamp(self) -> str:
        """Changes with their weights."""
        return "|".join(one.stamp for one in (self.clip, self.movq) if one is not None)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, S, S) to `embeddings` (B, P) and, with an autoencoder, `latents` (B, 4, h, w)."""
        pixels = pixels.to(self.device)
        found = {"embeddings": self.clip.module.see(pixels).float()}
        if self.movq is not None:
            found["latents"] = self.movq.module.encode(pixels).float()
        return found

    def check_size(self, *sides: int) -> None:
        """Raises ConfigError for sides of images that the networks cannot take."""
        for side in sides:
            if side % self.multiple:
                raise ConfigError(
                    f"Images of {side} pixels do not fit these networks.",
                    f"Choose a multiple of {self.multiple} pixels.",
                )

    @torch.no_grad()
    def prior_condition(self, ids: Tensor, mask: Tensor) -> TextCondition:
        """The prior's condition for texts (B, L)."""
        ids, mask = trimmed(ids, mask)
        features = self.clip.module.read(ids)
        return text_condition(features.hidden, features.embedding, mask)


def frozen_clip(ctx: TrainContext, stage: Stage) -> Frozen[ClipModel]:
    """The text and vision towers that a stage works with."""
    return ctx.run.frozen(stage, "clip", ctx.networks.clip(), ctx.device, "towers.")


def frozen_movq(ctx: TrainContext, stage: Stage) -> Frozen[CodebookAutoencoder]:
    """The autoencoder that a stage works with."""
    return ctx.run.frozen(stage, "movq", ctx.networks.movq(), ctx.device)
