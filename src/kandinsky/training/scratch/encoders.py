"""The frozen networks that a new prior or decoder learns with, and the tokenizer of a run from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.conditioning.captions import TextCondition, text_condition
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import ConfigError
from kandinsky.networks.autoencoder import CodebookAutoencoder
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.tokenizer_training import train_tokenizer, write_tokenizer
from kandinsky.training.dataset import Reader
from kandinsky.training.run_folder import Frozen
from kandinsky.training.scratch.clip_model import ClipModel, trimmed
from kandinsky.training.scratch.started_from import RUN_TOKENIZER

LAST_FILE = "special_tokens_map.json"


@dataclass(frozen=True)
class FrozenEncoders:
    """CLIP and, for a decoder, the autoencoder; sides of images are multiples of `multiple`."""

    clip: Frozen[ClipModel]
    movq: Frozen[CodebookAutoencoder] | None
    device: torch.device
    multiple: int = 1

    @property
    def stamp(self) -> str:
        return "|".join(one.stamp for one in (self.clip, self.movq) if one is not None)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, S, S) to `embeddings` (B, P) and, with an autoencoder, `latents` (B, 4, h, w)."""
        pixels = pixels.to(self.device)
        found = {"embeddings": self.clip.module.see(pixels).float()}
        if self.movq is not None:
            found["latents"] = self.movq.module.encode(pixels).float()
        return found

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


@dataclass(frozen=True)
class CaptionTokens:
    """Texts to token ids (B, L) and mask (B, L) bool, L what the text tower reads; made when first called."""

    ctx: TrainContext

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        batch = self.tokenizer.encode(list(texts), self.ctx.networks.clip_text.config.positions)
        return batch.ids, batch.mask

    @property
    def reader(self) -> Reader:
        """The tokenizer, and how many tokens the text tower reads."""
        return self.tokenizer, self.ctx.networks.clip_text.config.positions

    @cached_property
    def folder(self) -> Path:
        """The folder of the tokenizer: the configured one, that of the towers it begins with, or one kept in `out`."""
        if (given := self.ctx.config.tokenizer or self.ctx.run.tokenizer) is not None:
            return given
        folder, text = self.ctx.config.out / RUN_TOKENIZER, self.ctx.networks.clip_text.config
        if not (folder / LAST_FILE).is_file():
            learned = train_tokenizer(self.ctx.data.records().captioner.corpus(), text.vocab_size)
            write_tokenizer(learned, folder, text.positions)
        return folder

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; ConfigError when it has more ids than the text tower."""
        tokenizer, size = load_tokenizer(self.folder), self.ctx.networks.clip_text.config.vocab_size
        if tokenizer.vocabulary_size > size:
            raise ConfigError(
                f"The tokenizer in {self.folder} has {tokenizer.vocabulary_size} ids, "
                f"networks.clip_text.vocab_size is {size}.",
                "Make the text tower's vocabulary at least as large.",
            )
        return tokenizer
