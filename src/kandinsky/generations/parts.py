"""What the generations' wiring shares: where a model goes, the prior of published folders, own defaults."""

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.formats import CLIP_TEXT, CLIP_VISION, PRIOR, Format
from kandinsky.checkpoints.maps.scheduler import schedule_from_json
from kandinsky.checkpoints.stored import Stored
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.prior_stage import Accelerate, PriorStage, as_it_is
from kandinsky.conditioning.tokenizer import load_tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.requests import Request
from kandinsky.generations.waiting import WAITS_FROM, WaitingVision
from kandinsky.networks.clip import ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.prior import PriorConfig
from kandinsky.networks.unet2 import UNet2Config

COMBINED_PREFIX = "prior_"
"""What the names of a prior's components begin with in a folder that holds a decoder too."""
OWN_SETTINGS = "kandinsky.json"
"""A file of our own beside the model index: defaults of checkpoints that this library trained."""


@dataclass(frozen=True)
class Placement:
    """Where a model is loaded to, in which dtype it computes, and which variant of the files is read.

    `behaviour` names one of several published ways to run the same weights, None the generation's usual one.
    `parked` networks stay in their files: they come on the meta device. `shelf` is filled with where the
    weights of each network lie. `accelerate` says how the prior runs its steps, see `PriorStage`.
    """

    device: torch.device
    dtype: torch.dtype
    variant: str | None = None
    behaviour: str | None = None
    parked: bool = False
    shelf: dict[nn.Module, Stored] = field(default_factory=dict, compare=False)
    accelerate: Accelerate = as_it_is

    def put(self, stored: Stored) -> Any:
        """A network of files where it belongs; CheckpointError for weights that do not fit."""
        network = stored.parked(self.dtype) if self.parked else stored.load(self.dtype, self.device)
        self.shelf[network] = stored
        return network

    def put_vision(self, stored: Stored) -> tuple[ClipVision, WaitingVision | None]:
        """A vision tower where it belongs, a large one in its files, with what brings it when it is asked."""
        if self.parked or stored.count() < WAITS_FROM or not stored.is_mapped():
            return self.put(stored), None
        network = cast(ClipVision, stored.parked(self.dtype))
        self.shelf[network] = stored
        return network, WaitingVision(network, stored, self.device, self.dtype)

    def move(self, network: nn.Module) -> None:
        """Brings a network that did not come by `put` where it belongs.

        Raises CheckpointError where networks are to stay in their files.
        """
        if network in self.shelf:
            return
        if self.parked:
            raise CheckpointError(
                "The files of this model can only be read whole.",
                "Convert it with `kandinsky convert`, or load it without offload and quantize.",
            )
        network.to(self.device)


def load_prior(folder: Folder, place: Placement, prefix: str = "") -> PriorStage:
    """Loads the prior's parts from a prior folder, or with `prefix` from a combined one.

    Raises CheckpointError for missing or unfit parts.
    """

    def stored(form: Format, name: str, config: Any) -> Stored:
        return form.stored(folder, prefix + name, config, place.variant, name.replace("_", " "))

    prior = PRIOR.config(folder, prefix + "prior")
    text = CLIP_TEXT.config(folder, prefix + "text_encoder")
    vision = CLIP_VISION.config(folder, prefix + "image_encoder")
    preprocess = ClipPreprocess.from_json(folder.config(prefix + "image_processor"))
    check_prior(prior, text, vision, preprocess)
    tokenizer = load_tokenizer(folder.component(prefix + "tokenizer"))
    encoder = place.put(stored(CLIP_TEXT, "text_encoder", text))
    tower, waiting = place.put_vision(stored(CLIP_VISION, "image_encoder", vision))
    return PriorStage(
        tokenizer=tokenizer,
        text=encoder,
        vision=tower,
        waiting=waiting,
        preprocess=preprocess,
        network=place.put(stored(PRIOR, "prior", prior)),
        schedule=schedule_from_json(folder.config(prefix + "scheduler")),
        accelerate=place.accelerate,
    )


def check_prior(
    prior: PriorConfig, text: ClipTextConfig, vision: ClipVisionConfig, preprocess: ClipPreprocess
) -> None:
    """Raises CheckpointError when the parts of a prior are of different models.

    They are read from files of their own, so that a foreign one could lie among them.
    """
    pairs = {
        "the text encoder's hidden states": (text.width, prior.text_width),
        "the text encoder's embedding": (text.projection, prior.embedding_dim),
        "the image encoder's embedding": (vision.projection, prior.embedding_dim),
        "the image processor's picture": (preprocess.size, vision.image_size),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise CheckpointError(
                f"In this prior {what} has size {found}, the other parts want {wanted}.",
                "A part is of another model; download the prior again.",
            )
    if text.positions < prior.tokens:
        raise CheckpointError(
            f"The text encoder reads {text.positions} tokens, the prior wants {prior.tokens}.",
            "A part is of another model; download the prior again.",
        )


def check_fit(stage: PriorStage, image_dim: int) -> None:
    """Raises CheckpointError when a prior makes embeddings of another size than the decoder takes."""
    made = stage.network.config.embedding_dim
    if made != image_dim:
        raise CheckpointError(
            f"The prior makes embeddings of {made} numbers, the decoder takes {image_dim}.",
            "Give the prior that belongs to this decoder.",
        )


def check_channels(where: object, config: UNet2Config, latents: int, known: tuple[int, ...]) -> None:
    """Raises CheckpointError when a U-Net's channels do not fit a codec of `latents` channels.

    `known` are the numbers of input channels that make sense with it.
    """
    if config.in_channels not in known:
        raise CheckpointError(
            f"The U-Net of {where} takes {config.in_channels} channels, its codec makes {latents}.",
            f"Known for such a codec: {', '.join(map(str, known))}.",
        )
    if config.out_channels not in (latents, 2 * latents):
        raise CheckpointError(
            f"The U-Net of {where} gives {config.out_channels} channels, its codec makes {latents}.",
            f"Known for such a codec: {latents}, or {2 * latents} with variances.",
        )


def own_defaults(folder: Folder) -> dict[str, Any]:
    """The request fields that our own file gives; CheckpointError for those that no request could have."""
    path = folder.root / OWN_SETTINGS
    if not path.is_file():
        return {}
    defaults = read_json(path).get("defaults", {})
    try:
        # strength is only understood beside an image; any will do.
        pixel = np.zeros((1, 1, 3), np.uint8) if "strength" in defaults else None
        Request("", image=pixel, **defaults)
    except (RequestError, TypeError) as error:
        raise CheckpointError(
            f"{path} has defaults that cannot be: {error}", "Correct or remove it."
        ) from error
    return dict(defaults)
