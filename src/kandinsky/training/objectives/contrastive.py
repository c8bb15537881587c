"""Losses of two towers in one space: contrastive learning and distillation of a sentence encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_SCALE = 100.0
"""Logits are never scaled by more than this (Radford et al. 2021, arXiv 2103.00020, section 2.5)."""


def contrastive_loss(
    first: Tensor, second: Tensor, log_scale: Tensor, positives: Tensor, ignored: Tensor
) -> Tensor:
    """The symmetric cross-entropy over a batch in which a row may have several right answers.

    `first`, `second` (B, D), not normalised; `log_scale` scalar; `positives` (B, B) >= 0 with a positive
    diagonal: the weight of column j as an answer to row i; `ignored` (B, B) bool: pairs that are neither
    right nor wrong. With an identity matrix and nothing ignored it is CLIP's loss (Radford et al. 2021,
    figure 3); several positives as in arXiv 2004.11362, eq. 2 (the mean outside the logarithm).
    """
    first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    logits = log_scale.float().exp().clamp(max=LARGEST_SCALE) * first @ second.T
    logits = logits.masked_fill(ignored, -torch.inf)
    return 0.5 * (_soft_entropy(logits, positives) + _soft_entropy(logits.T, positives.T))


def _soft_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    target = positives / positives.sum(dim=1, keepdim=True)
    # An ignored pair has weight 0 and log-probability -inf; their product must count as 0.
    terms = (target * logits.log_softmax(dim=1)).masked_fill(target == 0, 0.0)
    return -terms.sum(dim=1).mean()


def answers(
    concepts: Tensor, looks: Tensor, captions: tuple[str, ...], concept_weight: float
) -> tuple[Tensor, Tensor]:
    """Which pairs of a batch are right answers, and which must not count as wrong: (B, B) weights and (B,
    B) bool.

    `concepts` (B,) what each row shows, `looks` (B, K) everything else its caption may name (style,
    background). Weight 1: the pair itself, equal captions, the same concept with the same look. The same
    concept with another look has `concept_weight` in [0, 1]: never wrong, and at 0 just not counted, so
    that style words keep a meaning.
    """
    same = concepts[:, None] == concepts[None, :]
    alike = (looks[:, None] == looks[None, :]).all(dim=-1)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    text = torch.tensor([numbers[caption] for caption in captions], device=concepts.device)
    right = (same & alike) | (text[:, None] == text[None, :])
    weights = torch.where(right, 1.0, torch.where(same, concept_weight, 0.0))
    return weights, same & (weights == 0)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of a student's vectors and a teacher's, both (B, D), in [0, 2] (arXiv 2004.09813, section
    2).
    """
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=1)).mean()


def retrieval_accuracy(queries: Tensor, keys: Tensor, answers: Tensor, top: int) -> float:
    """The share of queries (B, D) that have a right key (N, D) among their `top` nearest by cosine.

    `answers` (B, N) bool says which keys are right.
    """
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
    nearest = similarity.topk(min(top, keys.shape[0]), dim=1).indices
    return float(answers.gather(1, nearest).any(dim=1).float().mean())
