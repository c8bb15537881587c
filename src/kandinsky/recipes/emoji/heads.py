"""Auxiliary heads of CLIP: used in training only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.recipes.emoji.captions import tints_of
from kandinsky.recipes.emoji.sentence_teacher import WIDTH, Teacher, load_teacher
from kandinsky.recipes.emoji.vocabulary import COLOURS
from kandinsky.training.config.objectives import ClipObjective
from kandinsky.training.data.images import Batch, ImageSet
from kandinsky.training.objectives.contrastive import class_loss, cosine_logits, distillation_loss, retrieval_accuracy

SKETCH = 16
"""The side of a sketch in pixels."""
_SKETCH_WIDTH = 512
_FIRST_SCALE = 16.0
STYLE_SCALE = 8.0
"""Logits of style and background are cosines times this."""
FACTS = {"style": "styles", "background": "backgrounds", "colour": "tints"}
"""The fact of a batch that each loss is about."""


class ConceptHead(nn.Module):
    """A vector for each concept, compared by cosine with a learned scale (Wang et al. 2017, arXiv 1704.06369,
    section 3.3).

    `ids` (K,) int64, sorted: the concepts that have a vector; rows of `vectors` (K, P) belong to them.
    """

    def __init__(self, ids: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("ids", ids.clone())
        self.ids: Tensor
        self.vectors = nn.Parameter(torch.randn(len(ids), width) * width**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, P) to logits (B, K)."""
        return cosine_logits(embeddings, self.vectors, self.log_scale)

    def classes(self, concepts: Tensor) -> Tensor:
        """Concept ids (B,) to rows of the vectors, -1 for a concept that has none."""
        rows = torch.searchsorted(self.ids, concepts).clamp(max=len(self.ids) - 1)
        return torch.where(self.ids[rows] == concepts, rows, -1)


class CosineHead(nn.Module):
    """Vectors for each class of each fact, by name, compared with an embedding by cosine at a fixed scale.

    Whatever follows an embedding sees its direction, by distances in all of it together. A linear map could
    read a fact off a part too small to matter there; a cosine at a scale that does not grow cannot.
    """

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        for name, count in classes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(count, width) * width**-0.5))

    def forward(self, embeddings: Tensor) -> dict[str, Tensor]:
        """Embeddings (B, P) to logits (B, K) of each fact, in [-8, 8]."""
        scale = torch.tensor(math.log(STYLE_SCALE), device=embeddings.device)
        return {name: cosine_logits(embeddings, vectors, scale) for name, vectors in self.named_parameters()}


class SketchHead(nn.Module):
    """A small copy of the image read off its embedding, so that the embedding carries layout and colour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, _SKETCH_WIDTH), nn.GELU(), nn.Linear(_SKETCH_WIDTH, 3 * SKETCH * SKETCH)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, P) to images (B, 3, 16, 16), about [-1, 1]."""
        sketch: Tensor = self.layers(embeddings)
        return sketch.view(-1, 3, SKETCH, SKETCH)


def sketch_of(images: Tensor) -> Tensor:
    """Images (B, 3, S, S) shrunk to sketches (B, 3, 16, 16) by averaging."""
    return F.adaptive_avg_pool2d(images, SKETCH)


@dataclass(frozen=True)
class EmojiHeads:
    """The heads that an objective weighs; those that it does not are None.

    `student` is a linear map from the text embedding to the space of the sentence encoder `teacher`.
    """

    objective: ClipObjective
    concepts: ConceptHead | None
    looks: CosineHead | None
    colours: CosineHead | None
    sketch: SketchHead | None
    student: nn.Linear | None
    teacher: Teacher | None

    @classmethod
    def of(cls, objective: ClipObjective, images: ImageSet, width: int) -> "EmojiHeads":
        """Untrained heads for embeddings of a width; DataError when the sentence encoder is not installed."""
        named, looked = objective.concepts or objective.concepts_text, objective.looks or objective.looks_text
        teacher = load_teacher() if objective.teacher is not None else None
        return cls(
            objective,
            ConceptHead(torch.unique(images.concept_ids), width) if named else None,
            CosineHead(width, {"style": len(images.folder.styles), "background": len(COLOURS)}) if looked else None,
            CosineHead(width, {"vectors": len(COLOURS)}) if objective.colours or objective.colours_text else None,
            SketchHead(width) if objective.sketch else None,
            nn.Linear(width, WIDTH) if teacher is not None else None,
            teacher,
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        heads = {
            "concepts": self.concepts,
            "looks": self.looks,
            "colours": self.colours,
            "sketch": self.sketch,
            "teacher": self.student,
        }
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def weights(self) -> Mapping[str, float]:
        weighs = self.objective
        return {
            "concepts": weighs.concepts,
            "style": weighs.looks,
            "background": weighs.looks,
            "colour": weighs.colours,
            "sketch": weighs.sketch,
            "concepts_text": weighs.concepts_text,
            "style_text": weighs.looks_text,
            "background_text": weighs.looks_text,
            "colour_text": weighs.colours_text,
            "distillation": weighs.distillation,
        }

    def image_losses(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = self._class_losses(image, batch, "")
        if self.sketch is not None:
            parts["sketch"] = F.mse_loss(self.sketch(image).float(), sketch_of(batch.pixels.to(image.device)))
        return parts

    def text_losses(self, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = self._class_losses(text, batch, "_text")
        if self.student is not None and self.teacher is not None:
            parts["distillation"] = distillation_loss(self.student(text), self.teacher(batch.captions).to(text.device))
        return parts

    def _class_losses(self, embeddings: Tensor, batch: Batch, suffix: str) -> dict[str, Tensor]:
        """The losses of heads that classify; those of a text count the facts that it names."""
        weights, logits = self.weights, dict[str, Tensor]()
        if self.concepts is not None and weights[f"concepts{suffix}"]:
            logits["concepts"] = self.concepts(embeddings)
        if self.looks is not None and weights[f"style{suffix}"]:
            logits |= self.looks(embeddings)
        if self.colours is not None and weights[f"colour{suffix}"]:
            logits["colour"] = self.colours(embeddings)["vectors"]
        parts = {}
        for name, values in logits.items():
            if name == "concepts":
                classes = self.classes(batch, values.device)
            else:
                fact = FACTS[name]
                classes = colour_classes(batch) if fact == "tints" else batch.facts[fact]
                classes = torch.where(batch.names(fact), classes, -1) if suffix else classes
            parts[f"{name}{suffix}"] = class_loss(values, classes.to(values.device))
        return parts

    def accuracy(self, image: Tensor, concepts: Tensor) -> dict[str, float]:
        if self.concepts is None:
            return {}
        classes = self.concepts.classes(concepts.to(image.device))
        known = classes >= 0
        if not bool(known.any()):
            return {}
        right = F.one_hot(classes[known], len(self.concepts.ids)).bool()
        vectors = self.concepts.vectors
        return {f"top{top}": retrieval_accuracy(image[known], vectors, right, top) for top in (1, 5)}

    def classes(self, batch: Batch, device: torch.device) -> Tensor:
        """The concept head's class of each image, (B,), -1 where it has none or shows two things."""
        assert self.concepts is not None
        single = batch.facts["beside"].to(device) < 0
        return torch.where(single, self.concepts.classes(batch.facts["concepts"].to(device)), -1)


def colour_classes(batch: Batch) -> Tensor:
    """The colour of each thing, (B,), whether its own or given to it; -1 where it has none."""
    tints = tints_of(batch.facts)
    return torch.where(tints >= 0, tints % len(COLOURS), -1)
