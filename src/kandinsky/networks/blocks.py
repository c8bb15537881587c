"""Blocks of networks: which are run again for gradients, and which weights belong together."""

from torch import nn

from kandinsky.networks import layers, unet2, unet3_blocks
from kandinsky.networks.clip import ClipTextFeatures

RECOMPUTED: dict[type[nn.Module], tuple[str, ...]] = {
    layers.Block: ("forward", "extend"),
    unet2.Resnet: ("forward",),
    unet2.Attention: ("forward",),
    unet3_blocks.Resnet: ("forward",),
    unet3_blocks.Attention: ("forward",),
}
"""Blocks that activation checkpointing runs again as one, and by which names they are called."""

WEIGHT_GROUPS: dict[str, tuple[tuple[type[nn.Module], ...], frozenset[str]]] = {
    "resblocks": (
        (unet2.Resnet, unet3_blocks.Resnet),
        frozenset({"norm1", "conv1", "film", "norm2", "conv2", "convolutions"}),
    ),
    "attention": (
        (unet2.Attention, unet3_blocks.SelfAttention, unet3_blocks.CrossAttention, layers.Attention),
        frozenset({"qkv", "q", "out"}),
    ),
}
"""Weights as the original training code groups them: blocks, and the names of their children.

Of residual blocks the shortcut is in no group, of attention the keys and values of the context.
"""

OUTPUTS: tuple[type, ...] = (ClipTextFeatures,)
"""Dataclasses of tensors that networks return."""
