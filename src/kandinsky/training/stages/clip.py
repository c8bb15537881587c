"""Training the text and vision towers."""

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kandinsky.training.config import ClipObjective, Stage
from kandinsky.training.data.pictures import Batch, PictureSet
from kandinsky.training.events import Event
from kandinsky.training.objectives.contrastive import (
    answers,
    contrastive_loss,
    distillation_loss,
    retrieval_accuracy,
)
from kandinsky.training.seeds import generator
from kandinsky.training.stages.sources import PictureSource, Tokenize, captions_again, facts_of
from kandinsky.training.stages.towers import Towers
from kandinsky.training.stages.workshop import Workshop, augmentation
from kandinsky.training.task import Losses, Player, Task, Turn
from kandinsky.training.teacher import WIDTH, Teacher, load_teacher

MEASURED = 512


@dataclass(frozen=True)
class Pairs:
    """Pictures with texts:

    `ids` (B, L) of the captions, `other_ids` of second captions of the same pictures, and `taught` (B,
    512), a sentence encoder's vectors of the captions; the last two only when they are learned from.
    """

    pictures: Batch
    ids: Tensor
    other_ids: Tensor | None
    taught: Tensor | None


@dataclass(frozen=True)
class PairSource:
    """Pictures with one or two captions each."""

    source: PictureSource
    tokenize: Tokenize
    twice: bool
    teacher: Teacher | None

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Pairs:
        """Augmented pictures, captions tokenised."""
        batch = self.source.batch(indices, generator)
        others = None
        if self.twice:
            words = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
            others = self.tokenize(captions_again(self.source.pictures, facts_of(batch), words))[0]
        taught = self.teacher(batch.captions) if self.teacher is not None else None
        return Pairs(batch, self.tokenize(batch.captions)[0], others, taught)


class Apprentice(nn.Module):
    """The towers, and a head from the text embedding to a sentence encoder's space while they learn from
    it.
    """

    def __init__(self, towers: Towers, teacher_width: int | None) -> None:
        super().__init__()
        self.towers = towers
        width = towers.text.config.projection
        self.head = nn.Linear(width, teacher_width) if teacher_width is not None else None


def clip_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """Both towers against the contrastive loss over pictures and captions, captions alone, and a teacher."""
    yield from ()
    objective: ClipObjective = stage.objective
    towers = shop.new_towers()
    shop.start(stage, "clip", towers, "towers.")
    teacher = load_teacher() if objective.teacher is not None else None
    apprentice = Apprentice(towers, WIDTH if teacher is not None else None)
    learned, held_out = shop.split(stage)

    source = PairSource(
        PictureSource(learned, augmentation(stage)), shop.ids, objective.text_pairs > 0, teacher
    )

    def compare(turn: Turn) -> Losses:
        batch: Pairs = turn.batch
        text = towers.read(batch.ids.to(turn.device)).embedding
        right, ignored = (part.to(turn.device) for part in batch_answers(batch.pictures, objective))
        parts = {}
        total = torch.zeros((), device=turn.device)
        if objective.contrastive:
            image = towers.see(batch.pictures.pixels.to(turn.device))
            parts["contrastive"] = contrastive_loss(image, text, towers.log_scale, right, ignored)
            total = total + objective.contrastive * parts["contrastive"]
        if batch.other_ids is not None:
            other = towers.read(batch.other_ids.to(turn.device)).embedding
            parts["text_pairs"] = contrastive_loss(text, other, towers.log_scale, right, ignored)
            total = total + objective.text_pairs * parts["text_pairs"]
        if batch.taught is not None and apprentice.head is not None:
            parts["distillation"] = distillation_loss(apprentice.head(text), batch.taught.to(turn.device))
            total = total + objective.distillation * parts["distillation"]
        return Losses(total, parts)

    def measure(_: torch.Generator) -> dict[str, float]:
        return {} if held_out is None else concept_retrieval(towers, held_out, shop)

    parts = (towers.text, towers.vision)
    player = Player("clip", apprentice, compare, stage.optimiser, compiled=parts)
    return Task((player,), source, measure=measure)


def batch_answers(batch: Batch, objective: ClipObjective) -> tuple[Tensor, Tensor]:
    """Right and uncounted pairs of a batch, as `objectives.contrastive.answers` says."""
    looks = torch.stack([batch.styles, batch.backgrounds, batch.beside], dim=1)
    return answers(batch.concepts, looks, batch.captions, objective.concept_positive)


def concept_retrieval(towers: Towers, pictures: PictureSet, shop: Workshop) -> dict[str, float]:
    """How often a caption finds a picture of its concept among the held-out ones: shares in [0, 1]."""
    rows = range(min(MEASURED, len(pictures)))
    batch = pictures.batch(rows, generator(shop.config.seed, "retrieval"))
    text = towers.read(shop.ids(batch.captions)[0].to(shop.device)).embedding
    image = towers.see(batch.pixels.to(shop.device))
    right = (batch.concepts[:, None] == batch.concepts[None, :]).to(shop.device)
    return {f"top{top}": retrieval_accuracy(text, image, right, top) for top in (1, 5)}
