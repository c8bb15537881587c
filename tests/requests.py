"""Requests run by hand, for tests that look at what a stream never shows: conditions and latents."""

from collections.abc import Generator
from typing import Any, TypeVar

import torch

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.tasks.generate import denoise, encode
from kandinsky.tasks.resolve import Resolved, resolve

T = TypeVar("T")


def returned(run: Generator[Any, None, T]) -> T:
    """Runs a generator to its end and gives what it returns."""
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return stop.value


def batches_of(pipe: Pipeline, batch: int | None, fields: dict[str, Any]) -> tuple[Resolved, list[Batch]]:
    resolved = resolve(pipe.model, Request(**fields))
    rows = resolved.rows
    size = batch or len(rows)
    parts = [rows[k : k + size] for k in range(0, len(rows), size)]
    return resolved, [Batch(part, pipe._rng([row.seed for row in part])) for part in parts]


def our_conditions(pipe: Pipeline, **fields: Any) -> Conditions:
    """The conditions of a request, all images in one batch."""
    resolved, batches = batches_of(pipe, None, fields)
    (conditions,) = returned(encode(pipe.model, resolved, batches))
    return conditions


def our_latents(pipe: Pipeline, batch: int | None = None, **fields: Any) -> torch.Tensor:
    """The latents of a request, in batches of that many images (all of them unless given)."""
    resolved, batches = batches_of(pipe, batch, fields)
    conditions = returned(encode(pipe.model, resolved, batches))
    parts = []
    for part, condition in zip(batches, conditions, strict=True):
        *_, last = denoise(pipe.model, resolved, part, condition)
        parts.append(last.x)
    return torch.cat(parts)
