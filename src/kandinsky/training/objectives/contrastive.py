"""Losses of two towers in one space: contrastive, of concept vectors, and distilled from a sentence encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_SCALE = 100.0
"""Logits are never scaled by more than this (Radford et al. 2021, arXiv 2103.00020, section 2.5)."""


def cosine_logits(first: Tensor, second: Tensor, log_scale: Tensor) -> Tensor:
    """Scaled cosines of all pairs: (B, D) and (N, D), not normalised, to (B, N), never in half precision.

    Times the scale, the rounding of bfloat16 would be as large as the differences that decide.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
        return log_scale.float().exp().clamp(max=LARGEST_SCALE) * (first @ second.T)


def contrastive_loss(first: Tensor, second: Tensor, log_scale: Tensor, positives: Tensor) -> Tensor:
    """The symmetric cross-entropy over a batch in which a row may have several right answers.

    `first`, `second` (B, D), not normalised; `log_scale` scalar; `positives` (B, B) bool or weights >= 0 with a
    positive diagonal: how right column j is as an answer to row i. With an identity matrix it is CLIP's loss (Radford
    et al. 2021, figure 3); several positives as in arXiv 2004.11362, eq. 2 (the mean outside the logarithm).
    """
    logits = cosine_logits(first, second, log_scale)
    positives = positives.float()
    return 0.5 * (_soft_entropy(logits, positives) + _soft_entropy(logits.T, positives.T))


def _soft_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    target = positives / positives.sum(dim=1, keepdim=True)
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of (B, K) logits against classes (B,), rows of class -1 left out; 0 when all are."""
    total = F.cross_entropy(logits.float(), classes, ignore_index=-1, reduction="sum")
    return total / (classes >= 0).sum().clamp(min=1)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of a student's vectors and a teacher's, both (B, D), in [0, 2] (arXiv 2004.09813, section 2)."""
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=1)).mean()


def retrieval_accuracy(queries: Tensor, keys: Tensor, answers: Tensor, top: int) -> float:
    """The share of queries (B, D) that have a right key (N, D) among their `top` nearest by cosine.

    `answers` (B, N) bool says which keys are right.
    """
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
    nearest = similarity.topk(min(top, keys.shape[0]), dim=1).indices
    return float(answers.gather(1, nearest).any(dim=1).float().mean())
