"""Attention processors: accepted where existing code sets them, since every attention here is fused already."""

from collections.abc import Mapping
from typing import Any

from kandinsky.core.errors import RequestError, nearest


class AttentionProcessor:
    """A name for the one attention there is (exact, fused, memory-efficient); it holds nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


OFFERED = ("AttnAddedKVProcessor", "AttnAddedKVProcessor2_0", "AttnProcessor", "AttnProcessor2_0")
PROCESSORS: Mapping[str, type[AttentionProcessor]] = {
    name: type(name, (AttentionProcessor,), {"__module__": __name__}) for name in OFFERED
}
globals().update(PROCESSORS)
_OTHERS = (
    "AttentionProcessor Sliced{0}AddedKVProcessor Sliced{0}Processor XFormers{0}AddedKVProcessor XFormers{0}Processor"
)
EQUIVALENT = (*OFFERED, *_OTHERS.format("Attn").split())
"""Published processors that all compute the same attention, by the names of their classes."""


def check_processors(processor: object, names: list[str]) -> dict[str, Any]:
    """A processor for each attention, from one for all or a mapping by `names`.

    Raises RequestError for a mapping that misses some, and for a processor that might change the attention.
    """
    if not isinstance(processor, Mapping):
        processor = dict.fromkeys(names, processor)
    if missing := sorted(set(names) - set(processor)):
        raise RequestError(
            f"{len(missing)} attentions got no processor, {missing[0]} among them.",
            "Give one for all, or one by each name of attn_processors.",
        )
    for one in processor.values():
        if type(one).__name__ not in EQUIVALENT:
            raise RequestError(
                f"A {type(one).__name__} is no attention processor that is known here.",
                nearest(type(one).__name__, EQUIVALENT),
            )
    return dict(processor)
