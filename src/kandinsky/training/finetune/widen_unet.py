"""Decoders with channels for regions or hints, and weights of places in the loss."""

from dataclasses import replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.generations.model import Model, Network

FirstLayer = Literal["extend", "new"]


@torch.no_grad()
def widened(model: Model, first_layer: FirstLayer) -> Model:
    """A model whose network also takes a mask and the known latents; its other weights are the same.

    With "extend" the first layer sees nothing of the new channels yet, so the network says what it said;
    with "new" that layer is drawn anew, as in the original code. Raises ConfigError for a network that has
    other channels behind the latents already.
    """
    old = cast(nn.Module, model.network)
    latents = model.codec.channels
    config: Any = old.config
    if config.in_channels != latents:
        raise ConfigError(
            f"The decoder takes {config.in_channels} channels, of which {latents} are latents.",
            "Leave objective.inpainting out, or begin with an ordinary decoder.",
        )
    return _regrown(model, replace(config, in_channels=2 * latents + 1), first_layer)


def with_controlnet(model: Model, first_layer: FirstLayer) -> Model:
    """A model whose network also takes a hint image, as the published ones do; otherwise as `widened`.

    With "extend" the network overlooks hints at first, and says what it said (compare the zero convolutions
    of Zhang et al. 2023, arXiv 2302.05543, section 3.1). Raises ConfigError for a network that takes
    anything but an image embedding.
    """
    config, latents = cast(Any, model.network.config), model.codec.channels
    if getattr(config, "condition", None) != "image" or config.in_channels != latents:
        raise ConfigError(
            f"The decoder of {model.name} cannot take hints: that needs one that takes an image embedding "
            "and nothing else.",
            "Leave objective.control out, or begin with an ordinary decoder that a prior leads.",
        )
    config = replace(config, in_channels=2 * latents, condition="image_hint")
    return replace(_regrown(model, config, first_layer), hints=True)


def _regrown(model: Model, config: object, first_layer: FirstLayer) -> Model:
    """The model with a network of another configuration, and all weights that the old one has for it."""
    old = cast(nn.Module, model.network)
    network = type(old)(config)
    network.to(next(old.parameters()))
    state = network.state_dict()
    for name, value in old.state_dict().items():
        if name == "conv_in.weight" and first_layer == "extend":
            state[name].zero_()[:, : value.shape[1]].copy_(value)
        elif name != "conv_in.weight":
            state[name].copy_(value)
    modules = {name: network if module is old else module for name, module in model.modules.items()}
    return replace(model, network=cast(Network, network), modules=modules)


def place_weights(mask: Tensor, like: Tensor, outside: float) -> Tensor:
    """The weight of each place of latents `like`, (B, 1, h, w): 1 inside a mask, `outside` elsewhere.

    `mask` is (B, 1, H, W) in [0, 1]; the mean over an image is 1 where anything counts.
    """
    inside = F.interpolate(mask.to(like), size=like.shape[-2:], mode="area")
    counted = outside + (1 - outside) * inside
    return counted / counted.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
