"""What the towers are asked while they learn, besides fitting each other; no model that is used has these."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.training.config import ClipObjective
from kandinsky.training.data.pictures import PictureSet
from kandinsky.training.data.words import COLOURS
from kandinsky.training.objectives.contrastive import cosine_logits
from kandinsky.training.scratch.clip_model import ClipModel

SKETCH = 16
"""The side of a sketch in pixels."""
_SKETCH_WIDTH = 512
_FIRST_SCALE = 16.0
LOOKS_SCALE = 8.0
"""Logits of style and background are cosines times this."""


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


class LooksHead(nn.Module):
    """Style and background of an embedding: a vector for each, compared by cosine at a fixed scale.

    Whatever follows an embedding sees its direction, by distances in all of it together. A linear map could
    read style off a part too small to matter there; a cosine at a scale that does not grow cannot.
    """

    def __init__(self, width: int, styles: int) -> None:
        super().__init__()
        self.style = nn.Parameter(torch.randn(styles, width) * width**-0.5)
        self.background = nn.Parameter(torch.randn(len(COLOURS), width) * width**-0.5)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, P) to logits of styles (B, K) and backgrounds (B, C), each in [-8, 8]."""
        scale = torch.tensor(math.log(LOOKS_SCALE), device=embeddings.device)
        return cosine_logits(embeddings, self.style, scale), cosine_logits(embeddings, self.background, scale)


class ColoursHead(nn.Module):
    """The colour of the thing that an embedding is of: a vector for each, compared as those of looks are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(COLOURS), width) * width**-0.5)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, P) to logits (B, C), in [-8, 8]."""
        scale = torch.tensor(math.log(LOOKS_SCALE), device=embeddings.device)
        return cosine_logits(embeddings, self.vectors, scale)


class SketchHead(nn.Module):
    """A small copy of the picture read off its embedding, so that the embedding carries layout and colour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, _SKETCH_WIDTH), nn.GELU(), nn.Linear(_SKETCH_WIDTH, 3 * SKETCH * SKETCH)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, P) to pictures (B, 3, 16, 16), about [-1, 1]."""
        sketch: Tensor = self.layers(embeddings)
        return sketch.view(-1, 3, SKETCH, SKETCH)


def sketch_of(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) shrunk to sketches (B, 3, 16, 16) by averaging."""
    return F.adaptive_avg_pool2d(pictures, SKETCH)


class Apprentice(nn.Module):
    """The towers, and the heads that an objective weighs: each None when it does not.

    `teacher` is a linear map from the text embedding to a sentence encoder's space of `teacher_width`.
    """

    def __init__(
        self, towers: ClipModel, objective: ClipObjective, pictures: PictureSet, teacher_width: int | None
    ) -> None:
        super().__init__()
        self.towers = towers
        width = towers.text.config.projection
        named = objective.concepts or objective.concepts_text
        self.concepts = ConceptHead(torch.unique(pictures.concept_ids), width) if named else None
        looked = objective.looks or objective.looks_text
        self.looks = LooksHead(width, len(pictures.folder.styles)) if looked else None
        tinted = objective.colours or objective.colours_text
        self.colours = ColoursHead(width) if tinted else None
        self.sketch = SketchHead(width) if objective.sketch else None
        self.teacher = nn.Linear(width, teacher_width) if teacher_width is not None else None

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The heads that are there, by name."""
        return {name: head for name, head in self.named_children() if name != "towers"}
