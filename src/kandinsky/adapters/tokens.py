"""Learned words: rows behind a token table, for textual inversion (Gal et al. 2022, arXiv 2208.01618)."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import RequestError

TABLE = "tokens"
"""The name of the token table in every text encoder."""


class ExtendedTable(nn.Embedding):
    """A token table with learned rows for the ids from `num_embeddings` on, held outside its weight, which keeps its
    name."""

    def __init__(self, base: nn.Embedding) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({k: v for k, v in base.__dict__.items() if k not in self.__dict__})
        self.weight = base.weight
        self.learned: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        first = self.num_embeddings
        if not self.learned:
            return super().forward(ids)
        rows = torch.cat([rows.to(self.weight) for rows in self.learned])
        known = F.embedding(ids.clamp(max=first - 1), self.weight, self.padding_idx)
        learned = F.embedding((ids - first).clamp(min=0), rows)
        return torch.where((ids >= first)[..., None], learned, known)


def table_of(encoder: nn.Module) -> nn.Embedding:
    """The token table of a text encoder."""
    return cast(nn.Embedding, encoder.get_submodule(TABLE))


def add_rows(encoder: nn.Module, rows: Tensor) -> tuple[int, ...]:
    """Adds the rows (n, W) of a new word, which may still be learned, and returns their ids; RequestError for another
    width."""
    table = table_of(encoder)
    if rows.ndim != 2 or rows.shape[1] != table.embedding_dim:
        raise RequestError(
            f"A learned word of shape {tuple(rows.shape)} does not fit a text encoder that is "
            f"{table.embedding_dim} wide.",
            "It was learned with another model.",
        )
    if not isinstance(table, ExtendedTable):
        table = ExtendedTable(table)
        setattr(encoder, TABLE, table)
    first = table.num_embeddings + sum(len(known) for known in table.learned)
    table.learned.append(rows)
    return tuple(range(first, first + len(rows)))


def rows_of(encoder: nn.Module, ids: Sequence[int]) -> Tensor:
    """Copies of the rows (n, W) of words that an encoder knows, in float32."""
    table = table_of(encoder)
    with torch.no_grad():
        found: Tensor = table(torch.tensor(list(ids), device=table.weight.device))
    return found.float().clone()
