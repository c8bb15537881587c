"""Prompts for decoders that attend to the states of one text encoder, of each text at its own length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.conditioning.conditions import (
    Batch,
    CaptionConditioner,
    Conditions,
    Encoded,
    SingleEncoder,
    TextEncoder,
    TextNetwork,
)
from kandinsky.conditioning.decoder_texts import check_texts
from kandinsky.conditioning.tokenizer import Tokenizer, too_long
from kandinsky.conditioning.weighted_texts import token_weights, weighted_states
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Encoding, Warned
from kandinsky.core.prompt_weights import WeightedText, parse_weights
from kandinsky.core.requests import Request
from kandinsky.networks.unet3 import MaskedRows, UNet3Condition

TOKENS = 128
"""The most tokens of a text that are read, its end mark among them."""


@dataclass(frozen=True, eq=False)
class StatesReader:
    """A text encoder with its tokenizer; it reads on `device`, None for where the weights of a `T5Encoder` are."""

    tokenizer: Tokenizer
    network: TextNetwork
    device: torch.device | None = None

    def tokens(self, text: str) -> tuple[Tensor, str]:
        """The ids (L,) of a text without padding, and the end of the text that did not fit."""
        found = self.tokenizer.encode([text], TOKENS)
        return found.ids[0][found.mask[0]], found.dropped[0]

    def fitted(self, text: str, length: int | None) -> Tensor:
        """The ids (L,) of a text; with a length they are cut to it in front of the end mark, or padded."""
        ids, _ = self.tokens(text)
        if length is None:
            return ids
        if len(ids) > length:
            return torch.cat([ids[: length - 1], ids[-1:]])
        return torch.cat([ids, ids.new_full((length - len(ids),), self.tokenizer.pad_id)])

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden states (1, L, W) of ids (L,), with a mask (L,) those without tokens where it is 0."""
        rows = ids[None].to(self.device or next(cast(nn.Module, self.network).parameters()).device)
        states: Tensor = self.network(rows, torch.ones_like(rows) if mask is None else mask[None].to(rows))
        return states

    def read_weighted(self, weighted: WeightedText, length: int | None) -> Tensor:
        """The hidden states (1, L, W) of a text with weights that act on them; `length` as in `fitted`."""
        states = self.read(self.fitted(weighted.text, length))
        if weighted.is_plain:
            return states
        # What stands behind the empty text's end is padding, and is masked as in training.
        empty = self.tokenizer.encode([""], states.shape[1])
        weights = token_weights(self.tokenizer.spans(weighted.text, states.shape[1]), weighted)
        return weighted_states(states, self.read(empty.ids[0], empty.mask[0]), weights)


@dataclass(frozen=True, eq=False)
class OneTextConditioner(CaptionConditioner, SingleEncoder):
    """The text of each prompt, and against it the negative prompt or nothing.

    `masked_rows` is how the network's publishers fill masked rows; with `learned_null` "nothing" is the
    network's own null embedding, else it is a masked text. `unguided` is for networks that know no such
    half.
    """

    reader: StatesReader
    device: torch.device
    dtype: torch.dtype
    masked_rows: MaskedRows = "zero_states"
    learned_null: bool = False
    unguided: bool = False

    @property
    def encoder(self) -> TextNetwork:
        return self.reader.network

    def with_encoder(self, encoder: TextNetwork, device: torch.device) -> "OneTextConditioner":
        return replace(self, reader=replace(self.reader, network=encoder, device=device))

    @property
    def prior(self) -> None:
        """See `CaptionConditioner`: there is none."""

    @property
    def encoders(self) -> Sequence[TextEncoder]:
        return [TextEncoder(self.reader.tokenizer, cast(nn.Module, self.reader.network))]

    @property
    def caption_tokens(self) -> int:
        """See `CaptionConditioner`."""
        return TOKENS

    def caption_condition(self, captions: Sequence[str], embeddings: Tensor | None, dropped: Tensor) -> UNet3Condition:
        """See `CaptionConditioner`; each text at its own length, with the masked rows that inference puts behind it."""
        rows = []
        for text, drop in zip(captions, dropped.tolist(), strict=True):
            ids = self.reader.tokens(text)[0][None].to(self.device)
            if drop:
                rows.append(self.nothing(ids.shape[1] + 1))
            else:
                rows.append(self.as_condition(self.reader.network(ids, torch.ones_like(ids))))
        return stacked(rows)

    def check(self, request: Request, guided: bool) -> None:
        """See `Conditioner`: prompts are texts; nothing is steered away from without guidance."""
        check_texts(request)
        if not self.unguided:
            return
        if guided:
            raise RequestError(
                f"guidance_scale {request.guidance_scale} cannot act: this checkpoint works without it.",
                "Leave guidance_scale out.",
            )
        if request.negative_prompt is not None:
            raise RequestError(
                "A negative prompt cannot act: this checkpoint works without guidance.", "Leave negative_prompt out."
            )

    def encode(self, batches: Sequence[Batch], prior_steps: int, guided: bool) -> Encoded:
        """See `Conditioner`; nothing is drawn. Each text is read alone and once."""
        yield Encoding("text")
        pairs = [[(str(row.prompt), row.negative_prompt) for row in batch.rows] for batch in batches]
        has_weights = batches[0].rows[0].prompt_weights
        found: dict[tuple[str, int | None], UNet3Condition] = {}
        for text, negative in dict.fromkeys(pair for batch in pairs for pair in batch):
            for key in self.keys(text, negative if guided else None):
                if key not in found:
                    said = parse_weights(key[0]) if has_weights else WeightedText(key[0], ())
                    found[key] = self.as_condition(self.reader.read_weighted(said, key[1]))
                    if dropped := self.reader.tokens(said.text)[1]:
                        yield Warned(too_long(said.text, dropped, TOKENS, "decoder"), key[0])

        def uncond(text: str, negative: str | None) -> UNet3Condition:
            _, *negatives = self.keys(text, negative)
            return found[negatives[0]] if negatives else self.nothing(found[text, None].hidden.shape[1])

        return [
            Conditions(
                stacked(found[text, None] for text, _ in batch),
                stacked(uncond(*pair) for pair in batch) if guided else None,
            )
            for batch in pairs
        ]

    def keys(self, text: str, negative: str | None) -> list[tuple[str, int | None]]:
        """What is read for a prompt and its negative one: texts, and the number of tokens to fit each to."""
        return [(text, None)] if negative is None else [(text, None), (negative, None)]

    def as_condition(self, states: Tensor) -> UNet3Condition:
        """The condition of a text's states (1, L, W): these and, if there is room, a masked row."""
        states = states.to(self.device, self.dtype)
        count = states.shape[1]
        length = min(count + 1, TOKENS)
        hidden = torch.cat([states, states.new_zeros(1, length - count, states.shape[2])], dim=1)
        mask = torch.arange(length, device=self.device)[None] < count
        return UNet3Condition(hidden, mask, masked_rows=self.masked_rows)

    def nothing(self, length: int) -> UNet3Condition:
        """The unconditional condition against a prompt of `length` rows where there is no negative prompt.

        The published null embedding is one of as many rows as the prompt has, and its mean depends on them;
        the rows of a masked text are all the same, and one will do.
        """
        length = length if self.learned_null else 1
        width = self.reader.network.config.width
        return UNet3Condition(
            torch.zeros(1, length, width, device=self.device, dtype=self.dtype),
            torch.zeros(1, length, device=self.device, dtype=torch.bool),
            masked_rows=self.masked_rows,
            null=torch.tensor([self.learned_null], device=self.device),
        )


def stacked(conditions: Iterable[UNet3Condition]) -> UNet3Condition:
    """One condition with the rows of all."""
    return reduce(UNet3Condition.joined, conditions)
