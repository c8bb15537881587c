"""What peft says of an adapter besides its tensors, checked: strengths, also by patterns of names, and dropout."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kandinsky.core.errors import CheckpointError
from kandinsky.core.validation import shown

HINT = "Correct its settings, or make the adapter again."
MOST_PATTERNS = 64
LONGEST_PATTERN = 200
MOST_REPEATS = 3
_NAME = re.compile(r"\w[\w.]*")
_SLOW = re.compile(r"\)\s*[*+?{]|\(\?|\\[1-9]")
"""What can make a match take for ever: a repeated group, what looks around, and a reference back."""
_REPEAT = re.compile(r"(?<!\\)[*+?{]")


@dataclass(frozen=True)
class LoraSettings:
    """The settings of an adapter: `alpha` of all layers or None, of those by their names' ends, and of those that a
    pattern fits; whether it is divided by the root of the rank (arXiv 2312.03732); the dropout of training."""

    alpha: float | None
    by_name: Mapping[str, float]
    by_pattern: tuple[tuple[re.Pattern[str], float], ...]
    rslora: bool
    dropout: float

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> "LoraSettings":
        """Those that peft states; CheckpointError for one that cannot be. What is null counts as not stated."""
        patterns = {} if stated.get("alpha_pattern") is None else stated["alpha_pattern"]
        if not isinstance(patterns, Mapping):
            raise CheckpointError(f"The adapter has alpha_pattern = {shown(patterns)}, which is not a table.", HINT)
        values = {pattern: _number("alpha_pattern", value) for pattern, value in patterns.items()}
        by_name = {pattern: value for pattern, value in values.items() if _NAME.fullmatch(pattern)}
        others = {pattern: value for pattern, value in values.items() if pattern not in by_name}
        if len(others) > MOST_PATTERNS:
            raise CheckpointError(f"The adapter has {len(others)} patterns, more than {MOST_PATTERNS}.", HINT)
        alpha, dropout = (stated.get(key) for key in ("lora_alpha", "lora_dropout"))
        rslora = stated.get("use_rslora")
        if rslora not in (None, True, False):
            raise CheckpointError(f"The adapter has use_rslora = {shown(rslora)}, which is not true or false.", HINT)
        share = 0.0 if dropout is None else _number("lora_dropout", dropout)
        if not 0 <= share < 1:
            raise CheckpointError(f"The adapter has lora_dropout = {share:g}, expected 0 to below 1.", HINT)
        strength = None if alpha is None else _number("lora_alpha", alpha)
        found = tuple((_pattern(pattern), value) for pattern, value in others.items())
        return cls(strength or None, by_name, found, bool(rslora), share)

    def alpha_of(self, module: str, rank: int) -> float:
        """The alpha of a layer: of its name, of the first pattern that fits the end of it, of all, or the rank."""
        for place in (0, *(match.end() for match in re.finditer(r"\.", module))):
            if module[place:] in self.by_name:
                return self.by_name[module[place:]]
        for pattern, value in self.by_pattern:
            if pattern.fullmatch(module):
                return value
        return float(rank) if self.alpha is None else self.alpha

    def strength(self, rank: int, alpha: float) -> float:
        """The alpha with which `alpha / rank` is what the settings ask for."""
        return alpha * rank**0.5 if self.rslora else alpha


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"The adapter has {key} = {shown(value)}, expected a number.", HINT)
    return float(value)


def _pattern(pattern: str) -> re.Pattern[str]:
    """A pattern that fits the end of a name, as peft has it; CheckpointError for one that is none, or slow."""
    slow = _SLOW.search(pattern) or len(_REPEAT.findall(pattern)) > MOST_REPEATS or len(pattern) > LONGEST_PATTERN
    if slow:
        raise CheckpointError(f"The adapter has the pattern {shown(pattern)}, which may take for ever to match.", HINT)
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"The adapter has the pattern {shown(pattern)}, which is none ({error}).", HINT
        ) from error
