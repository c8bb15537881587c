"""Conditions from captions as training has them: batches of which some rows get the empty condition."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.conditioning.decoder_texts import TOKENS, DecoderTexts
from kandinsky.conditioning.one_text import OneTextConditioner, stacked
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.networks.prior import PriorCondition
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.unet3 import UNet3Condition


def prior_condition(stage: PriorStage, captions: Sequence[str], device: torch.device) -> PriorCondition:
    """A prior's condition; gradients reach whatever learns in the text encoder."""
    tokens = stage.tokenizer.encode(captions, stage.network.config.tokens)
    features = stage.text(tokens.ids.to(device))
    return PriorCondition(features.hidden, features.embedding, tokens.mask.to(device))


@dataclass(frozen=True)
class CaptionConditioner:
    """Makes a decoder's condition with its prior and its text encoders, those that there are."""

    prior: PriorStage | None
    texts: DecoderTexts | None
    one_text: OneTextConditioner | None
    device: torch.device

    def __call__(
        self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor
    ) -> UNet2Condition | UNet3Condition:
        """The condition for captions and embeddings (B, D); rows `dropped` (B,) get the empty one.

        That is the empty text and the embedding of an all-zero image, as in inference's unconditional half.
        """
        texts = ["" if drop else text for text, drop in zip(captions, dropped.tolist(), strict=True)]
        if self.one_text is not None:
            return self._one_text(self.one_text, captions, dropped)
        image = hidden = embedding = second = None
        if embeddings is not None and self.prior is not None:
            empty = self.prior.zero_embedding.to(embeddings)
            image = torch.where(dropped[:, None], empty, embeddings)
        if self.texts is not None:
            first = self.texts.first
            tokens = first.tokenizer.encode(texts, TOKENS)
            hidden, embedding = first.network(tokens.ids.to(self.device), tokens.mask.to(self.device))
            if self.texts.second is not None:
                more = self.texts.second.tokenizer.encode(texts, TOKENS)
                second = self.texts.second.network(more.ids.to(self.device), more.mask.to(self.device))
        return UNet2Condition(image, hidden, embedding, second_text_hidden=second)

    def _one_text(self, conditioner: OneTextConditioner, captions: Sequence[str], dropped: Tensor) -> UNet3Condition:
        """Each text at its own length, with the masked rows that inference puts behind it."""
        rows = []
        for text, drop in zip(captions, dropped.tolist(), strict=True):
            ids = conditioner.reader.tokens(text)[0][None].to(self.device)
            if drop:
                rows.append(conditioner.nothing(ids.shape[1] + 1))
            else:
                rows.append(conditioner.told(conditioner.reader.network(ids, torch.ones_like(ids))))
        return stacked(rows)
