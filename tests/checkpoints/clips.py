"""CLIP in the other forms in which it is published, made from plain tensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.files import write_json
from kandinsky.checkpoints.maps.clip import CLIP_TEXT, CLIP_VISION, clip_text_json, clip_vision_json
from kandinsky.checkpoints.weights import write_weights
from kandinsky.networks.clip import ClipText, ClipVision


class Tree(nn.Module):
    """A module that holds tensors under dotted names, and computes nothing."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                groups.setdefault(head, {})[rest] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, inner in groups.items():
            self.add_module(head, Tree(inner))

    def forward(self, x: Tensor) -> Tensor:
        return x


def script_of(tensors: Mapping[str, Tensor]) -> torch.jit.ScriptModule:
    """The TorchScript module of those names, with the extra numbers of such a program."""
    more = {"input_resolution": torch.tensor(32), "transformer.resblocks.0.attn_mask": torch.zeros(2, 2)}
    traced: torch.jit.ScriptModule = torch.jit.trace(Tree({**tensors, **more}), torch.zeros(1))
    return traced


def transformers_clip(text: ClipText, vision: ClipVision, scale: Tensor, folder: Path) -> None:
    """A CLIPModel's folder."""
    tensors = CLIP_TEXT.to_foreign(text.state_dict()) | CLIP_VISION.to_foreign(vision.state_dict())
    write_weights(folder, "model", {**tensors, "logit_scale": scale})
    sub = {"text_config": clip_text_json(text.config), "vision_config": clip_vision_json(vision.config)}
    for json in sub.values():
        json["architectures"] = None
    write_json(folder / "config.json", {"projection_dim": text.config.projection, **sub})
