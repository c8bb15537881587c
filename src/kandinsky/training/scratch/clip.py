"""Training the text and vision towers."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.training.config.objectives import ClipObjective
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.cached_encodings import ImageSource, Tokenize, encode_once
from kandinsky.training.data.caption import Captioner, equal
from kandinsky.training.data.images import Batch, ImageSet, words_of
from kandinsky.training.data.samplers import EpochSampler, GroupSampler, Order
from kandinsky.training.dataset import augmentation, learns_from
from kandinsky.training.events import Event
from kandinsky.training.objectives.contrastive import contrastive_loss, retrieval_accuracy
from kandinsky.training.recipe import AuxiliaryHeads
from kandinsky.training.run_folder import weights_stamp
from kandinsky.training.scratch.clip_model import ClipModel
from kandinsky.training.scratch.encoders import CaptionTokens
from kandinsky.training.seeds import generator
from kandinsky.training.task import Losses, MappedSource, Source, StepContext, Task, Trainable

MEASURED = 512


class ClipWithHeads(nn.Module):
    """CLIP, and the auxiliary heads that learn with it; no model that is used has these."""

    def __init__(self, towers: ClipModel, heads: AuxiliaryHeads | None) -> None:
        super().__init__()
        self.towers, self.heads = towers, heads
        for name, head in (heads.modules if heads is not None else {}).items():
            self.add_module(name, head)


@dataclass(frozen=True)
class Pairs:
    """Images with texts: ids and mask (B, L) of the captions when they are read, and of second captions.

    Each is None when nothing is learned from it. `embeddings` (B, P) are the images' own where a tower that
    learns no more has seen them before; `images` then has no pixels.
    """

    images: Batch
    captions: tuple[Tensor, Tensor] | None
    others: tuple[Tensor, Tensor] | None
    embeddings: Tensor | None = None


@dataclass(frozen=True)
class PairTexts:
    """Adds to images as many captions each, tokenised, as the objective has a use for."""

    captioner: Captioner
    tokenize: Tokenize
    objective: ClipObjective

    def __call__(self, batch: Batch, generator: torch.Generator, embeddings: Tensor | None = None) -> Pairs:
        captions = self.tokenize(batch.captions) if self.objective.reads else None
        others = None
        if self.objective.text_pairs:
            again = self.captioner.captions(batch.facts, words_of(generator))
            others = self.tokenize([caption.text for caption in again])
        return Pairs(batch, captions, others, embeddings)

    def of_encoded(self, encoded: tuple[Batch, dict[str, Tensor]], generator: torch.Generator) -> Pairs:
        """The same for images that come with the embeddings of a finished vision tower."""
        return self(encoded[0], generator, encoded[1]["embeddings"])


def clip_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Pairs]]:
    """Both towers, or one of them, against each other and against what auxiliary heads say."""
    objective = stage.objective_as(ClipObjective)
    towers = ctx.networks.clip()
    ctx.run.start(stage, "clip", towers, "towers.")
    learned, held_out = ctx.data.split(ctx.data.size(stage))
    tokens = CaptionTokens(ctx)
    yield learns_from(stage.name, [learned], [held_out] if held_out else [], [tokens.reader])
    width, recipe = ctx.networks.clip_text.config.projection, ctx.data.recipe
    heads = None if recipe is None else recipe.heads(objective, learned, width)
    model = ClipWithHeads(towers, heads)
    for name, head in (heads.modules if heads is not None else {}).items():
        if ctx.run.start(stage, "clip", head, f"{name}.", optional=True) and objective.lock == "vision":
            # The heads of a finished tower are finished too: texts learn to fit the images' vectors.
            head.requires_grad_(False)
    towers.vision.requires_grad_(objective.sees and objective.lock != "vision")
    towers.text.requires_grad_(objective.reads and objective.lock != "text")
    texts = PairTexts(learned.folder.captioner, tokens, objective)
    towers.log_scale.requires_grad_(bool(objective.contrastive or objective.text_pairs))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"stage {stage.name!r} begins with {stage.init!r}, whose heads are finished: nothing learns.",
            "Weigh a loss of the texts, or lift the lock.",
        )
    source = yield from _pairs(ctx, stage, ImageSource(learned, augmentation(stage)), texts, towers)
    weights = {"contrastive": objective.contrastive, "text_pairs": objective.text_pairs}
    weights |= heads.weights if heads is not None else {}

    def compare(context: StepContext[Pairs]) -> Losses:
        pairs = context.batch
        parts: dict[str, Tensor] = {}
        image = text = None
        fits = learned.folder.captioner.matches(pairs.images.facts, pairs.images.said).to(context.device)
        if pairs.embeddings is not None:
            image = pairs.embeddings.to(context.device)
        elif objective.sees:
            with torch.set_grad_enabled(torch.is_grad_enabled() and objective.lock != "vision"):
                image = towers.see(pairs.images.pixels.to(context.device)).float()
            parts |= heads.image_losses(image, pairs.images) if heads is not None else {}
        if pairs.captions is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and objective.lock != "text"):
                text = _embed(towers, pairs.captions, context.device)
            parts |= heads.text_losses(text, pairs.images) if heads is not None else {}
            if pairs.others is not None:
                other = _embed(towers, pairs.others, context.device)
                parts["text_pairs"] = contrastive_loss(text, other, towers.log_scale, fits)
        if image is not None and text is not None and objective.contrastive:
            parts["contrastive"] = contrastive_loss(text, image, towers.log_scale, fits)
        return Losses(torch.stack([weights[name] * value for name, value in parts.items()]).sum(), parts)

    def measure(_: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        if objective.reads:
            return concept_retrieval(towers, held_out, ctx, texts.tokenize)
        rows = range(min(MEASURED, len(held_out)))
        image = towers.see(held_out.plain(rows).to(ctx.device))
        return {} if heads is None else heads.accuracy(image, held_out.concept_ids[list(rows)])

    def order(batch: int, seed: int) -> Order:
        if objective.per_concept == 1:
            return EpochSampler(len(source), batch, seed)
        return GroupSampler(learned.concept_ids.tolist(), objective.per_concept, batch, seed)

    trainable = Trainable("clip", model, compare, stage.optimiser, compiled=(towers.text, towers.vision))
    return Task((trainable,), source, order=order, measure=measure)


def _pairs(
    ctx: TrainContext, stage: Stage, images: ImageSource, texts: PairTexts, towers: ClipModel
) -> Generator[Event, None, Source[Pairs]]:
    """The stage's examples: with `variants`, of images that the finished vision tower saw once, in several
    augmentations each: only texts cost time (Zhai et al. 2022, "LiT", arXiv 2111.07991).
    """
    if stage.variants == 0:
        return MappedSource(images, texts)
    towers.to(ctx.device).eval()

    @torch.no_grad()
    def see(pixels: Tensor) -> dict[str, Tensor]:
        return {"embeddings": towers.see(pixels.to(ctx.device))}

    stamp = weights_stamp({"image_encoder": towers.vision})
    encoded = yield from encode_once(images, stage.variants, see, stamp, ctx.run.cache, ctx.seed, stage.name)
    return MappedSource(encoded, texts.of_encoded)


def _embed(towers: ClipModel, texts: tuple[Tensor, Tensor], device: torch.device) -> Tensor:
    ids, mask = texts
    return towers.embed(ids.to(device), mask.to(device)).float()


def concept_retrieval(towers: ClipModel, images: ImageSet, ctx: TrainContext, tokenize: Tokenize) -> dict[str, float]:
    """How often a caption finds an image of its concept among the held-out ones: shares in [0, 1]."""
    rows = range(min(MEASURED, len(images)))
    batch = images.batch(rows, generator(ctx.seed, "retrieval"))
    text = towers.read(tokenize(batch.captions)[0].to(ctx.device)).embedding
    image = towers.see(batch.pixels.to(ctx.device))
    right = equal(batch.facts["concepts"]).to(ctx.device)
    return {f"top{top}": retrieval_accuracy(text, image, right, top) for top in (1, 5)}
