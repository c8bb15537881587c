"""Networks as components of a folder in diffusers layout: configuration, names and file of each kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.diffusers_folder import Folder, save_component
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps import clip, kl, mclip, movq, prior, t5, unet2, unet3
from kandinsky.checkpoints.maps.original_files import KL_SCALE
from kandinsky.checkpoints.stored import Stored
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.kl import AutoencoderKL
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.prior import Prior
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet2 import UNet2
from kandinsky.networks.unet3 import UNet3
from kandinsky.networks.xlmr import MultilingualClip, MultilingualClipConfig

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """How a kind of network lies in a component.

    `library` and `name` are its class in the model index; `read` and `write` translate its configuration,
    `keys` its names. `settle` corrects a configuration by what only the tensors tell.
    """

    library: str
    name: str
    read: Callable[[Mapping[str, Any]], Any]
    build: Callable[[Any], nn.Module]
    keys: Callable[[Any, Tensors | None], KeyMap]
    write: Callable[[Any], dict[str, Any]]
    stem: str = "diffusion_pytorch_model"
    settle: Callable[[Any, Tensors], Any] = lambda config, _: config
    strip: Callable[[Tensors], Tensors] = lambda tensors: tensors

    def config(self, folder: Folder, component: str) -> Any:
        """The network's configuration; CheckpointError when it is missing or of another network."""
        return self.read(folder.config(component, self.name))

    def load(
        self,
        folder: Folder,
        component: str,
        config: Any,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
    ) -> nn.Module:
        """The network with its weights, in their own dtypes where `dtype` is None.

        Raises CheckpointError for missing, damaged or unfit weights.
        """
        return self.stored(folder, component, config, variant).load(dtype)

    def stored(
        self,
        folder: Folder,
        component: str,
        config: Any,
        variant: str | None = None,
        what: str | None = None,
    ) -> Stored:
        """The network where it lies; `what` it is called in messages, by default as the component.

        Raises CheckpointError for missing or damaged weights, which those of an outlined folder never are.
        """
        if folder.outlined:
            keys = self.keys(config, None)
            return Stored(dict, keys, lambda: self.build(config), what or component, outlined=True)

        def tensors() -> Tensors:
            return self.strip(folder.weights(component, variant))

        found = tensors()
        final = self.settle(config, found)
        keys = self.keys(final, found)
        return Stored(tensors, keys, lambda: self.build(final), what or component.replace("_", " "))

    def save(self, root: Path, component: str, module: nn.Module) -> None:
        """Writes configuration and weights, dtypes kept; CheckpointError for what the layout cannot say."""
        config: Any = module.config
        tensors = self.keys(config, None).to_foreign(module.state_dict())
        save_component(root, component, self.write(config), tensors, self.stem)


def _with_pooler(config: MultilingualClipConfig, tensors: Tensors) -> MultilingualClipConfig:
    return replace(config, pooler="transformer.pooler.dense.weight" in tensors)


UNET = Format(
    "diffusers",
    unet2.CLASS,
    unet2.unet2_config,
    UNet2,
    lambda config, _: unet2.UNET2[config.condition],
    unet2.unet2_json,
)
UNET3 = Format(
    "diffusers",
    unet3.CLASS,
    unet3.unet3_config,
    UNet3,
    lambda config, _: unet3.unet3_map(config),
    unet3.unet3_json,
)
MOVQ = Format("diffusers", "VQModel", movq.movq_config, MoVQ, lambda *_: movq.MOVQ, movq.movq_json)
KL = Format(
    "diffusers",
    kl.CLASS,
    kl.kl_config,
    AutoencoderKL,
    lambda *_: kl.KL,
    lambda config: kl.kl_json(config, KL_SCALE),
)
PRIOR = Format("diffusers", prior.CLASS, prior.prior_config, Prior, lambda *_: prior.PRIOR, prior.prior_json)
CLIP_TEXT = Format(
    "transformers",
    clip.TEXT_CLASS,
    clip.clip_text_config,
    ClipText,
    lambda *_: clip.CLIP_TEXT,
    clip.clip_text_json,
    "model",
)
CLIP_VISION = Format(
    "transformers",
    clip.VISION_CLASS,
    clip.clip_vision_config,
    ClipVision,
    lambda *_: clip.CLIP_VISION,
    clip.clip_vision_json,
    "model",
)
MULTILINGUAL = Format(
    "kandinsky",
    mclip.CLASS,
    mclip.mclip_config,
    MultilingualClip,
    lambda *_: mclip.MCLIP,
    mclip.mclip_json,
    "model",
    _with_pooler,
)


def _t5(model_type: t5.ModelType) -> Format:
    return Format(
        "transformers",
        t5.CLASSES[model_type],
        t5.t5_config,
        T5Encoder,
        lambda _, tensors: t5.t5_map() if tensors is None else t5.t5_map(tensors),
        lambda config: t5.t5_json(config, model_type),
        "model",
        strip=t5.without_decoder,
    )


SECOND_TEXT, ONE_TEXT = _t5("mt5"), _t5("t5")
