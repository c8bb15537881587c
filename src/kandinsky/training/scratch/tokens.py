"""The tokenizer of a run from scratch: a given one, or one trained on the captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import ConfigError
from kandinsky.training.context import TrainContext
from kandinsky.training.data.tokenizer_training import train_tokenizer, write_tokenizer

LAST_FILE = "special_tokens_map.json"


@dataclass(frozen=True)
class CaptionTokens:
    """Texts to token ids (B, L) and mask (B, L) bool, L what the text tower reads; made when first called."""

    ctx: TrainContext

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        batch = self.tokenizer.encode(list(texts), self.ctx.networks.clip_text.config.positions)
        return batch.ids, batch.mask

    @cached_property
    def folder(self) -> Path:
        """The folder of the tokenizer: the configured one, or one that is kept in `out`."""
        if self.ctx.config.tokenizer is not None:
            return self.ctx.config.tokenizer
        folder, text = self.ctx.config.out / "tokenizer", self.ctx.networks.clip_text.config
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
