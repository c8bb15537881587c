"""Training the text and vision towers."""

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kandinsky.training.config import ClipObjective, Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.order import EpochSampler, GroupSampler, Order
from kandinsky.training.data.pictures import Batch, PictureSet
from kandinsky.training.data.words import COLOURS
from kandinsky.training.dataset import augmentation
from kandinsky.training.events import Event
from kandinsky.training.objectives.contrastive import (
    class_loss,
    contrastive_loss,
    distillation_loss,
    matches,
    retrieval_accuracy,
)
from kandinsky.training.run_folder import weights_stamp
from kandinsky.training.scratch.clip_model import ClipModel
from kandinsky.training.scratch.tokens import CaptionTokens
from kandinsky.training.seeds import generator
from kandinsky.training.stages.heads import Apprentice, sketch_of
from kandinsky.training.stages.sources import (
    PictureSource,
    Tokenize,
    captions_again,
    drawn_again,
    encode_once,
    facts_of,
)
from kandinsky.training.task import Losses, StepContext, Task, Trainable
from kandinsky.training.teacher import WIDTH, Teacher, load_teacher

MEASURED = 512
_HEAD_OF = {
    "style": "looks",
    "background": "looks",
    "style_text": "looks_text",
    "background_text": "looks_text",
    "colour": "colours",
    "colour_text": "colours_text",
}


@dataclass(frozen=True)
class Pairs:
    """Pictures with texts: ids and mask (B, L) of the captions when they are read, of second captions of the
    same pictures, and `taught` (B, 512), a sentence encoder's vectors of the captions.

    Each is None when nothing is learned from it. `embeddings` (B, P) are the pictures' own where a tower that
    learns no more has seen them before; `pictures` then has no pixels.
    """

    pictures: Batch
    captions: tuple[Tensor, Tensor] | None
    others: tuple[Tensor, Tensor] | None
    taught: Tensor | None
    embeddings: Tensor | None = None


@dataclass(frozen=True)
class PairSource:
    """Pictures with as many captions each as the objective has a use for."""

    source: PictureSource
    tokenize: Tokenize
    objective: ClipObjective
    teacher: Teacher | None

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Pairs:
        """Augmented pictures, captions tokenised."""
        return self.texts(self.source.batch(indices, generator), generator)

    def texts(self, batch: Batch, generator: torch.Generator, embeddings: Tensor | None = None) -> Pairs:
        """The texts of a batch of pictures, tokenised."""
        captions = self.tokenize(batch.captions) if self.objective.reads else None
        others = None
        if self.objective.text_pairs:
            words = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
            again = captions_again(self.source.pictures, facts_of(batch), words)
            others = self.tokenize([caption.text for caption in again])
        taught = self.teacher(batch.captions) if self.teacher is not None else None
        return Pairs(batch, captions, others, taught, embeddings)


@dataclass(frozen=True)
class SeenPairSource:
    """Pairs whose pictures a finished vision tower saw once, in `variants` augmentations each: only texts
    cost time (Zhai et al. 2022, "LiT", arXiv 2111.07991).

    `tensors` are those of `encode_once`.
    """

    pairs: PairSource
    tensors: dict[str, Tensor]
    variants: int

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Pairs:
        """One variant of each picture, drawn at random, with new captions."""
        pictures = self.pairs.source.pictures
        rows, facts, said = drawn_again(pictures, self.tensors, self.variants, indices, generator)
        batch = Batch(
            pixels=torch.empty(len(rows), 0),
            captions=tuple(caption.text for caption in said),
            languages=tuple(caption.language for caption in said),
            **facts,
            alpha=torch.empty(len(rows), 0),
            indices=torch.tensor(list(indices)),
            mirrored=torch.zeros(len(rows), dtype=torch.bool),
            names_style=torch.tensor([caption.names_style for caption in said]),
            names_background=torch.tensor([caption.names_background for caption in said]),
            names_colour=torch.tensor([caption.names_colour for caption in said]),
        )
        return self.pairs.texts(batch, generator, self.tensors["embeddings"][rows].float())


def clip_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Pairs]]:
    """Both towers, or one of them, against each other and against what their heads are asked."""
    objective = stage.objective_as(ClipObjective)
    towers = ctx.networks.clip()
    ctx.run.start(stage, "clip", towers, "towers.")
    teacher = load_teacher() if objective.teacher is not None else None
    learned, held_out = ctx.data.split(ctx.data.size(stage))
    apprentice = Apprentice(towers, objective, learned, WIDTH if teacher is not None else None)
    for name, head in apprentice.heads.items():
        if ctx.run.start(stage, "clip", head, f"{name}.", optional=True) and objective.lock == "vision":
            # What a finished tower was asked is finished too: the texts come to the pictures' vectors.
            head.requires_grad_(False)
    towers.vision.requires_grad_(objective.sees and objective.lock != "vision")
    towers.text.requires_grad_(objective.reads and objective.lock != "text")
    pairs = PairSource(PictureSource(learned, augmentation(stage)), CaptionTokens(ctx), objective, teacher)
    source = yield from _seen_once(ctx, stage, pairs, towers)

    def compare(turn: StepContext[Pairs]) -> Losses:
        pairs = turn.batch
        parts: dict[str, Tensor] = {}
        image = text = None
        if pairs.embeddings is not None:
            image = pairs.embeddings.to(turn.device)
        elif objective.sees:
            with torch.set_grad_enabled(torch.is_grad_enabled() and objective.lock != "vision"):
                image = towers.see(pairs.pictures.pixels.to(turn.device)).float()
            parts |= picture_losses(apprentice, image, pairs.pictures, objective)
        if pairs.captions is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and objective.lock != "text"):
                text = _embed(towers, pairs.captions, turn.device)
            parts |= text_losses(apprentice, text, pairs, objective)
        if image is not None and text is not None and objective.contrastive:
            fits = batch_matches(pairs.pictures, turn.device)
            parts["contrastive"] = contrastive_loss(text, image, towers.log_scale, fits)
        total = torch.stack([weight_of(name, objective) * value for name, value in parts.items()]).sum()
        return Losses(total, parts)

    def measure(_: torch.Generator) -> dict[str, float]:
        if held_out is None:
            return {}
        if objective.reads:
            return concept_retrieval(towers, held_out, ctx)
        return concept_recognition(apprentice, held_out, ctx.device)

    def order(batch: int, seed: int) -> Order:
        if objective.per_concept == 1:
            return EpochSampler(len(source), batch, seed)
        return GroupSampler(learned.concept_ids.tolist(), objective.per_concept, batch, seed)

    trainable = Trainable("clip", apprentice, compare, stage.optimiser, compiled=(towers.text, towers.vision))
    return Task((trainable,), source, order=order, measure=measure)


def _seen_once(
    ctx: TrainContext, stage: Stage, pairs: PairSource, towers: ClipModel
) -> Generator[Event, None, PairSource | SeenPairSource]:
    """The stage's examples: with `variants`, pictures that the finished vision tower saw once."""
    if stage.variants == 0:
        return pairs
    towers.to(ctx.device).eval()

    @torch.no_grad()
    def see(pixels: Tensor) -> dict[str, Tensor]:
        return {"embeddings": towers.see(pixels.to(ctx.device))}

    tensors = yield from encode_once(
        pairs.source,
        stage.variants,
        see,
        weights_stamp({"image_encoder": towers.vision}),
        ctx.run.cache,
        ctx.seed,
        stage.name,
    )
    return SeenPairSource(pairs, tensors, stage.variants)


def _embed(towers: ClipModel, texts: tuple[Tensor, Tensor], device: torch.device) -> Tensor:
    ids, mask = texts
    return towers.embed(ids.to(device), mask.to(device)).float()


def weight_of(loss: str, objective: ClipObjective) -> float:
    """How much a loss counts: the setting of its own name, or of the head that it comes from."""
    weight: float = getattr(objective, _HEAD_OF.get(loss, loss))
    return weight


def picture_losses(
    apprentice: Apprentice, image: Tensor, pictures: Batch, objective: ClipObjective
) -> dict[str, Tensor]:
    """What the heads say of image embeddings (B, P), as scalar losses by name.

    A picture of two things side by side is no example of either concept.
    """
    parts = {}
    device = image.device
    if apprentice.concepts is not None and objective.concepts:
        classes = concept_classes(apprentice, pictures, device)
        parts["concepts"] = class_loss(apprentice.concepts(image), classes)
    if apprentice.looks is not None and objective.looks:
        style, background = apprentice.looks(image)
        parts["style"] = class_loss(style, pictures.styles.to(device))
        parts["background"] = class_loss(background, pictures.backgrounds.to(device))
    if apprentice.colours is not None and objective.colours:
        parts["colour"] = class_loss(apprentice.colours(image), colour_classes(pictures).to(device))
    if apprentice.sketch is not None:
        small = sketch_of(pictures.pixels.to(device))
        parts["sketch"] = F.mse_loss(apprentice.sketch(image).float(), small)
    return parts


def text_losses(
    apprentice: Apprentice, text: Tensor, pairs: Pairs, objective: ClipObjective
) -> dict[str, Tensor]:
    """What second captions, the heads and a teacher say of text embeddings (B, P), as scalars by name."""
    parts = {}
    device = text.device
    if apprentice.concepts is not None and objective.concepts_text:
        classes = concept_classes(apprentice, pairs.pictures, device)
        parts["concepts_text"] = class_loss(apprentice.concepts(text), classes)
    if apprentice.looks is not None and objective.looks_text:
        seen = pairs.pictures
        style, background = apprentice.looks(text)
        parts["style_text"] = class_loss(style, _named(seen.styles, seen.names_style).to(device))
        named = _named(seen.backgrounds, seen.names_background)
        parts["background_text"] = class_loss(background, named.to(device))
    if apprentice.colours is not None and objective.colours_text:
        told = _named(colour_classes(pairs.pictures), pairs.pictures.names_colour)
        parts["colour_text"] = class_loss(apprentice.colours(text), told.to(device))
    if pairs.others is not None:
        other = _embed(apprentice.towers, pairs.others, device)
        fits = batch_matches(pairs.pictures, device)
        parts["text_pairs"] = contrastive_loss(text, other, apprentice.towers.log_scale, fits)
    if pairs.taught is not None and apprentice.teacher is not None:
        parts["distillation"] = distillation_loss(apprentice.teacher(text), pairs.taught.to(device))
    return parts


def _named(classes: Tensor, names: Tensor) -> Tensor:
    """Classes (B,) that the captions name, -1 where they are silent."""
    return torch.where(names, classes, -1)


def colour_classes(pictures: Batch) -> Tensor:
    """The colour of each thing, (B,), whether its own or given to it; -1 where it has none."""
    return torch.where(pictures.tints >= 0, pictures.tints % len(COLOURS), -1)


def concept_classes(apprentice: Apprentice, pictures: Batch, device: torch.device) -> Tensor:
    """The concept head's class of each picture, (B,), -1 where it has none or shows two things."""
    assert apprentice.concepts is not None
    alone = pictures.beside.to(device) < 0
    return torch.where(alone, apprentice.concepts.classes(pictures.concepts.to(device)), -1)


def batch_matches(pictures: Batch, device: torch.device) -> Tensor:
    """Which caption (row) is true of which picture (column) of a batch, (B, B) bool on `device`."""
    fits = matches(
        pictures.concepts,
        pictures.beside,
        pictures.styles,
        pictures.backgrounds,
        pictures.names_style,
        pictures.names_background,
        pictures.captions,
        pictures.tints,
        pictures.names_colour,
    )
    return fits.to(device)


def concept_retrieval(towers: ClipModel, pictures: PictureSet, ctx: TrainContext) -> dict[str, float]:
    """How often a caption finds a picture of its concept among the held-out ones: shares in [0, 1]."""
    rows = range(min(MEASURED, len(pictures)))
    batch = pictures.batch(rows, generator(ctx.seed, "retrieval"))
    text = towers.read(CaptionTokens(ctx)(batch.captions)[0].to(ctx.device)).embedding
    image = towers.see(batch.pixels.to(ctx.device))
    right = (batch.concepts[:, None] == batch.concepts[None, :]).to(ctx.device)
    return {f"top{top}": retrieval_accuracy(text, image, right, top) for top in (1, 5)}


def concept_recognition(
    apprentice: Apprentice, pictures: PictureSet, device: torch.device
) -> dict[str, float]:
    """How often a held-out picture of a known concept is nearest to its vector: shares in [0, 1]."""
    if apprentice.concepts is None:
        return {}
    classes = apprentice.concepts.classes(pictures.concept_ids.to(device))
    rows = torch.nonzero(classes >= 0).flatten()[:MEASURED]
    if not len(rows):
        return {}
    image = apprentice.towers.see(pictures.plain(rows.cpu()).to(device))
    right = F.one_hot(classes[rows], len(apprentice.concepts.ids)).bool()
    vectors = apprentice.concepts.vectors
    return {f"top{top}": retrieval_accuracy(image, vectors, right, top) for top in (1, 5)}
