"""The classes of the arguments of `load`, checked before anything is asked of one."""

from collections.abc import Mapping
from pathlib import Path

import torch

from kandinsky.core.validation import check_kinds

FLAGS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("variant", "revision", "behaviour", "offload", "quantize", "backend"), (str,)),
    **dict.fromkeys(("model", "prompt_cache"), (str, Path)),
    "prior": (str, Path, bool),
    "device": (str, torch.device),
    "dtype": (str, torch.dtype),
    "batch_size": (int,),
    "lora": (Mapping,),
    "words": (list, tuple),
    "tiling": (bool, str),
    "compile": (bool,),
}


def check_flags(given: Mapping[str, object]) -> None:
    """Raises RequestError for the first argument of `load` that is of none of its classes."""
    check_kinds(given, FLAGS)
    lora, words = given["lora"], given["words"]
    for source, scale in lora.items() if isinstance(lora, Mapping) else ():
        check_kinds({"lora": source, "scale": scale}, {"lora": (str, Path), "scale": (int, float)})
    for source in words if isinstance(words, list | tuple) else ():
        check_kinds({"words": source}, {"words": (str, Path)})
