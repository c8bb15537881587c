"""A loaded checkpoint as fine-tuning uses it: its networks, their conditions, and what they learn from."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.conditioning.conditions import DiffusionPrior
from kandinsky.core.errors import ConfigError
from kandinsky.engine.loras import adaptable
from kandinsky.engine.pipeline import Pipeline, open_sources
from kandinsky.engine.text_encoders import captions_of, text_encoders
from kandinsky.generations import Model, Source
from kandinsky.tasks.start import hint_condition, region_condition
from kandinsky.training.config.objectives import Tuned
from kandinsky.training.config.run import ModelConfig, Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.dataset import Reader
from kandinsky.training.examples import Examples
from kandinsky.training.finetune.widen_unet import widened, with_controlnet
from kandinsky.training.run_folder import weights_stamp
from kandinsky.training.scratch.clip_model import vision_pixels
from kandinsky.training.seeds import seed_globals

Fields = dict[str, Any]
"""Keyword arguments of `Pipeline.generate`."""
HALVES = {"bf16": "bfloat16", "fp16": "float16"}


class BaseCheckpoint:
    """A checkpoint whose networks are frozen until somebody lets them learn.

    `captions` makes conditions of captions, with its `prior` if it has one; `encoders` are all text encoders by
    what files call them. Raises RequestError for a kind of model that cannot learn.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe, self.model = pipe, pipe.model
        self.device = self.model.device
        self.captions = captions_of(self.model)
        self.prior = self.captions.prior
        if self.prior is not None:
            self.prior.load_vision()
        self.encoders = text_encoders(self.model)
        for module in self.model.modules.values():
            module.requires_grad_(False)

    @cached_property
    def stamp(self) -> str:
        made_by = ("movq", "vae", "image_encoder")
        return weights_stamp({name: self.model.modules[name] for name in made_by if name in self.model.modules})

    @property
    def multiple(self) -> int:
        return self.model.multiple

    @property
    def size(self) -> int:
        """The side of the images that it draws by default."""
        return int(self.model.defaults["width"])

    @property
    def inpaints(self) -> bool:
        """Whether the decoder takes a region to repaint."""
        return self.model.extra_channels > 0

    @property
    def reads(self) -> bool:
        """Whether the decoder reads texts itself."""
        return bool(self.captions.encoders)

    def network(self, target: str) -> nn.Module:
        """The U-Net ("decoder") or the diffusion prior; ConfigError when the checkpoint has none."""
        if target == "decoder":
            return cast(nn.Module, self.model.network)
        return cast(nn.Module, self.need_prior().network)

    def component(self, target: str) -> str:
        """What files call that network."""
        wanted = self.network(target)
        return next(name for name, network in adaptable(self.model).items() if network is wanted)

    def learners(self, target: str, with_texts: bool = False) -> dict[str, nn.Module]:
        """That network, and with texts the text encoders that feed it, by what files call them."""
        found = {self.component(target): self.network(target)}
        for component, encoder in self.encoders.items():
            if with_texts and component.startswith(PRIOR_PREFIX) == (target == "prior"):
                found[component] = encoder.network
        return found

    def readers(self, targets: Sequence[str]) -> list[Reader]:
        """What reads the captions that networks learn from, and how many tokens of them; nothing where none does."""
        found: list[Reader] = []
        if "prior" in targets:
            prior = self.need_prior()
            found.append((prior.encoder.tokenizer, prior.network.config.tokens))
        if "decoder" in targets:
            found += [(encoder.tokenizer, self.captions.caption_tokens) for encoder in self.captions.encoders]
        return found

    @property
    def all_readers(self) -> list[Reader]:
        """What reads captions, whichever network learns."""
        return self.readers(("decoder",) if self.prior is None else ("decoder", "prior"))

    def need_prior(self) -> DiffusionPrior:
        """The prior; ConfigError when the checkpoint has none."""
        if self.prior is None:
            raise ConfigError(f"{self.model.name} has no prior here, so none can learn.", "Set target to decoder.")
        return self.prior

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to `latents` and, with a prior, `embeddings`; float32."""
        pixels = pixels.to(self.device)
        found = {"latents": self.model.codec.encode(pixels.to(self.model.dtype)).float()}
        if self.prior is not None:
            side = min(pixels.shape[-2:])
            # The vision tower sees the middle of what is not square, as in the published preprocessing.
            top, left = ((length - side) // 2 for length in pixels.shape[-2:])
            pixels = pixels[..., top : top + side, left : left + side]
            seen = self.prior.see(vision_pixels(pixels, self.prior.image_size))
            found["embeddings"] = seen.float()
        return found

    def predict_prior(self, x: Tensor, t: Tensor, captions: Sequence[str]) -> Tensor:
        """What the prior predicts for embeddings (B, D) at times (B,)."""
        stage = self.need_prior()
        return stage.network(x, t, stage.caption_condition(captions))

    def decoder_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> Any:
        """The decoder's condition for captions and embeddings, see `CaptionConditioner`."""
        return self.captions.caption_condition(captions, embeddings, dropped)

    def batch_condition(self, batch: Examples, encoded: dict[str, Tensor], dropped: Tensor) -> object:
        """The decoder's condition for a batch, its regions or hints included."""
        cond = self.decoder_condition(batch.captions, encoded.get("embeddings"), dropped)
        if self.inpaints:
            region = self.region_condition(batch.pixels, encoded["latents"], batch.repaint)
            cond = replace(cond, extra=region)
        if self.model.hints:
            assert batch.hints is not None
            cond = replace(cond, hint=hint_condition(self.model, batch.hints))
        return cond

    @torch.no_grad()
    def region_condition(self, pixels: Tensor | None, latents: Tensor, repaint: Tensor | None) -> Tensor:
        """The extra channels for regions (B, 1, H, W), 1 inside; None repaints all of the images.

        `pixels` (B, 3, H, W) and their `latents` (B, C, h, w) are those of `encode`.
        """
        if repaint is None:
            scale = self.model.codec.downscale
            repaint = latents.new_ones(len(latents), 1, *(scale * side for side in latents.shape[-2:]))
            pixels = repaint.expand(-1, 3, -1, -1) if pixels is None else pixels
        pixels = None if pixels is None else pixels.to(self.device)
        return region_condition(self.model, pixels, latents, repaint.to(self.device))

    def request_fields(self, height: int, width: int) -> Fields:
        """Fields of a request for images of that size: with a grey image to repaint, or a black hint."""
        fields: Fields = {"height": height, "width": width}
        if self.model.hints:
            fields["hint"] = Image.new("RGB", (width, height))
        if self.inpaints:
            fields["image"] = Image.new("RGB", (width, height), "grey")
            fields["mask"] = Image.new("L", (width, height), 255)
        return fields


def open_base(ctx: TrainContext, stage: Stage) -> BaseCheckpoint:
    """Loads the checkpoint that a stage begins with, anew for each: one must not see another's changes.

    Its networks are in float32 where they learn as a whole; else they only need the stage's precision. It has
    the layers for regions or hints that it lacks and the stage asks for.
    """
    half = stage.precision != "fp32" and not stage.whole
    fields = ctx.config.model.model_dump(exclude={"name"}) | {"words": ctx.words(stage)}
    dtype = HALVES[stage.precision] if half else "float32"
    pipe = ctx.opens(ctx.config.model.name, **fields, device=ctx.device, dtype=dtype)
    grown = _grown(stage, pipe.model, ctx.seed)
    if grown is not pipe.model:
        # A new one: what it runs is the network that was grown, and not the one that was loaded.
        pipe = Pipeline(grown, pipe.model_id, pipe.settings, pipe.batch_size)
    return BaseCheckpoint(pipe)


def base_sources(model: ModelConfig) -> tuple[Source, Source | None]:
    """The folders of the checkpoint that fine-tuning begins with: the decoder's and the prior's."""
    return open_sources(model.name, model.prior, model.variant, model.revision)


def _grown(stage: Stage, model: Model, seed: int) -> Model:
    objective = stage.objective
    if not isinstance(objective, Tuned):
        return model
    inpaints = objective.inpainting if not model.extra_channels else None
    control = objective.control if not model.hints else None
    if inpaints is None and control is None:
        return model
    if not stage.whole:
        extra, does = ("regions", "repaints") if inpaints is not None else ("hints", "follows hints")
        raise ConfigError(
            f"Adapters cannot hold the channels that a decoder needs for {extra}.",
            f'Set method = "full", or begin with a decoder that {does}.',
        )
    seed_globals(seed)
    if inpaints is not None:
        return widened(model, inpaints.first_layer)
    assert control is not None
    return with_controlnet(model, control.first_layer)
