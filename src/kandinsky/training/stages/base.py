"""A loaded checkpoint as fine-tuning uses it: its networks, what they are told, and what they learn from."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.conditioning.decoder_texts import TOKENS
from kandinsky.conditioning.one_text import OneTextConditioner, stacked
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.errors import ConfigError
from kandinsky.engine.loras import adaptable
from kandinsky.engine.pipeline import Pipeline
from kandinsky.engine.text_encoders import listeners, text_encoders
from kandinsky.networks.prior import PriorCondition
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.unet3 import UNet3Condition
from kandinsky.tasks.start import region_condition
from kandinsky.training.stages.towers import vision_pixels

KINDS = {"epsilon": "eps", "sample": "x0", "velocity": "v"}
"""What training calls what a checkpoint's network says."""


class Base:
    """A checkpoint whose networks are frozen until somebody lets them learn.

    `prior`, `texts` and `one_text` are those of `Listeners`, `encoders` all text encoders by what files call
    them. Raises RequestError for a kind of model that cannot learn.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe, self.model = pipe, pipe.model
        self.device = self.model.device
        parts = listeners(self.model)
        self.prior, self.texts, self.one_text = parts.prior, parts.texts, parts.one_text
        if self.prior is not None and self.prior.waiting is not None:
            self.prior.waiting.bring()
        self.encoders = text_encoders(self.model)
        for module in self.model.modules.values():
            module.requires_grad_(False)

    def network(self, target: str) -> nn.Module:
        """The U-Net ("decoder") or the diffusion prior; ConfigError when the checkpoint has none."""
        if target == "decoder":
            return cast(nn.Module, self.model.network)
        return self.need_prior().network

    def component(self, target: str) -> str:
        """What files call that network."""
        wanted = self.network(target)
        return next(name for name, network in adaptable(self.model).items() if network is wanted)

    def learners(self, target: str, with_texts: bool = False) -> dict[str, nn.Module]:
        """That network, and with texts the text encoders that it listens to, by what files call them."""
        found = {self.component(target): self.network(target)}
        for component, encoder in self.encoders.items():
            if with_texts and component.startswith(PRIOR_PREFIX) == (target == "prior"):
                found[component] = encoder.network
        return found

    def need_prior(self) -> PriorStage:
        """The prior; ConfigError when the checkpoint has none."""
        if self.prior is None:
            raise ConfigError(
                f"{self.model.name} has no prior here, so none can learn.", "Set target to decoder."
            )
        return self.prior

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, S, S) in [-1, 1] to `latents` and, with a prior, `embeddings`; float32."""
        pixels = pixels.to(self.device)
        found = {"latents": self.model.codec.encode(pixels.to(self.model.dtype)).float()}
        if self.prior is not None:
            side = min(pixels.shape[-2:])
            # The vision tower sees the middle of what is not square, as in the published preprocessing.
            top, left = ((length - side) // 2 for length in pixels.shape[-2:])
            pixels = pixels[..., top : top + side, left : left + side]
            seen = self.prior.see(vision_pixels(pixels, self.prior.vision.config.image_size))
            found["embeddings"] = seen.float()
        return found

    def tell_prior(self, captions: Sequence[str]) -> PriorCondition:
        """What the prior is told about captions; gradients reach whatever learns in the text encoder."""
        stage = self.need_prior()
        tokens = stage.tokenizer.encode(captions, stage.network.config.tokens)
        features = stage.text(tokens.ids.to(self.device))
        return PriorCondition(features.hidden, features.embedding, tokens.mask.to(self.device))

    @property
    def repaints(self) -> bool:
        """Whether the decoder is told of a region to repaint."""
        return self.model.extra_channels > 0

    def drawing(self, height: int, width: int) -> dict[str, Any]:
        """Fields of a request for pictures of that size; a decoder that repaints draws all of a grey one, one
        that follows hints is shown black.
        """
        fields: dict[str, Any] = {"height": height, "width": width}
        if self.model.hints:
            fields["hint"] = Image.new("RGB", (width, height))
        if not self.repaints:
            return fields
        grey, all_of_it = Image.new("RGB", (width, height), "grey"), Image.new("L", (width, height), 255)
        return fields | {"image": grey, "mask": all_of_it}

    @torch.no_grad()
    def tell_region(self, pixels: Tensor | None, latents: Tensor, repaint: Tensor | None) -> Tensor:
        """What the decoder is told of regions (B, 1, S, S), 1 inside; None repaints all of the pictures.

        `pixels` (B, 3, S, S) and their `latents` (B, C, h, w) are those of `encode`.
        """
        if repaint is None:
            scale = self.model.codec.downscale
            repaint = latents.new_ones(len(latents), 1, *(scale * side for side in latents.shape[-2:]))
            pixels = repaint.expand(-1, 3, -1, -1) if pixels is None else pixels
        pixels = None if pixels is None else pixels.to(self.device)
        return region_condition(self.model, pixels, latents, repaint.to(self.device))

    @property
    def reads(self) -> bool:
        """Whether the decoder reads texts itself."""
        return self.texts is not None or self.one_text is not None

    def tell_decoder(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> Any:
        """What the decoder is told about captions and embeddings (B, D); `dropped` (B,) rows hear nothing.

        Nothing is the empty text and the embedding of an all-zero picture, as inference's unconditional half
        is told.
        """
        if self.one_text is not None:
            return self._tell_one_text(self.one_text, captions, dropped)
        image = None
        if embeddings is not None and self.prior is not None:
            empty = self.prior.zero_embedding.to(embeddings)
            image = torch.where(dropped[:, None], empty, embeddings)
        hidden = embedding = second = None
        if self.texts is not None:
            said = ["" if drop else text for text, drop in zip(captions, dropped.tolist(), strict=True)]
            first = self.texts.first
            tokens = first.tokenizer.encode(said, TOKENS)
            hidden, embedding = first.network(tokens.ids.to(self.device), tokens.mask.to(self.device))
            if self.texts.second is not None:
                more = self.texts.second.tokenizer.encode(said, TOKENS)
                second = self.texts.second.network(more.ids.to(self.device), more.mask.to(self.device))
        return UNet2Condition(image, hidden, embedding, second_text_hidden=second)

    def _tell_one_text(
        self, told: OneTextConditioner, captions: Sequence[str], dropped: Tensor
    ) -> UNet3Condition:
        """Each text at its own length, with the masked rows that inference puts behind it."""
        rows = []
        for text, drop in zip(captions, dropped.tolist(), strict=True):
            ids = told.reader.tokens(text)[0][None].to(self.device)
            if drop:
                rows.append(told.nothing(ids.shape[1] + 1))
            else:
                rows.append(told.told(told.reader.network(ids, torch.ones_like(ids))))
        return stacked(rows)

    def check_size(self, *sides: int) -> None:
        """Raises ConfigError for sides of pictures that the decoder cannot draw."""
        for side in sides:
            if side % self.model.multiple:
                raise ConfigError(
                    f"Pictures of {side} pixels do not fit this checkpoint.",
                    f"Choose a multiple of {self.model.multiple}.",
                )
