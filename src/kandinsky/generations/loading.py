"""Shared parts of the generations' wiring: placement, the prior, checks, defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn

from kandinsky.checkpoints.components import CheckpointSpec, LazyNetwork
from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.files import OWN_SETTINGS, read_json
from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.checkpoints.maps.config_fields import whole
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION, PRIOR
from kandinsky.checkpoints.maps.original_files import INPAINTING
from kandinsky.checkpoints.maps.scheduler import schedule_from_json
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.prior_stage import Accelerate, PriorStage, unaccelerated
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.requests import Request
from kandinsky.diffusion.schedule import Schedule
from kandinsky.generations.few_step_defaults import PRIOR_DEFAULTS, few_step_defaults
from kandinsky.generations.lazy_vision import WAITS_FROM, LazyVisionTower
from kandinsky.generations.model import Model
from kandinsky.networks.clip import ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.prior import PriorConfig
from kandinsky.networks.unet2 import UNet2Config

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Placement:
    """The device, dtype and file variant that a model is loaded with.

    `behaviour` names one of several published ways to run the same weights, None the usual one. `on_meta` networks stay
    in their files, on the meta device. `weight_sources` collects where each network's weights are stored. `accelerate`
    wraps the prior's steps, see `PriorStage`.
    """

    device: torch.device
    dtype: torch.dtype
    variant: str | None = None
    behaviour: str | None = None
    on_meta: bool = False
    weight_sources: dict[nn.Module, LazyWeights] = field(default_factory=dict, compare=False)
    accelerate: Accelerate = unaccelerated

    def put(self, lazy: LazyNetwork[C, M]) -> M:
        """Loads a network; CheckpointError for weights that do not fit."""
        weights = lazy.weights
        network = weights.on_meta(self.dtype) if self.on_meta else weights.load(self.dtype, self.device)
        self.weight_sources[network] = weights
        return cast(M, network)

    def put_vision(self, lazy: LazyNetwork[ClipVisionConfig, ClipVision]) -> tuple[ClipVision, LazyVisionTower | None]:
        """Loads a vision tower; a large one stays in its files and comes with its lazy loader."""
        weights = lazy.weights
        if self.on_meta or weights.count() < WAITS_FROM or not weights.is_mapped():
            return self.put(lazy), None
        network = cast(ClipVision, weights.on_meta(self.dtype))
        self.weight_sources[network] = weights
        return network, LazyVisionTower(network, weights, self.device, self.dtype)


StageLoader = Callable[[], PriorStage]


@dataclass(frozen=True)
class Generation:
    """A generation: its checkpoints' content, and how they become a model.

    `load` wires a decoder to the prior that its second argument loads; `prior_schedule` is the prior's in the original
    code. `behaviours` are the names of several ways to run the same weights; `in_folders` is whether folders in
    diffusers layout have them too.
    """

    spec: CheckpointSpec
    load: Callable[[Source, StageLoader | None, Placement], Model]
    prior_schedule: Callable[[], Schedule] | None = None
    behaviours: tuple[str, ...] = ()
    in_folders: bool = False

    def has_behaviours(self, source: Source) -> bool:
        """Whether a source has a choice of behaviours."""
        return self.in_folders or isinstance(source, OriginalFolder)

    def load_prior(self, source: Source, place: Placement) -> PriorStage:
        """Loads the prior of a source; CheckpointError for missing or unfit parts."""
        # That variant is one of original decoders.
        variant = None if place.variant == INPAINTING else place.variant
        prefix = self.spec.prefix(source)
        text = CLIP_TEXT.open(source, variant, prefix=prefix)
        vision = CLIP_VISION.open(source, variant, prefix=prefix)
        prior = PRIOR.open(source, variant, prefix=prefix)
        if isinstance(source, OriginalFolder):
            assert self.prior_schedule is not None
            preprocess, schedule = ClipPreprocess(vision.config.image_size), self.prior_schedule()
        else:
            preprocess = ClipPreprocess.from_json(source.config(prefix + "image_processor"))
            schedule = schedule_from_json(source.config(prefix + "scheduler"))
        _check_prior(prior.config, text.config, vision.config, preprocess)
        tokenizer = CLIP_TEXT.read_tokenizer(source, prefix)
        encoder = place.put(text)
        tower, waiting = place.put_vision(vision)
        return PriorStage(
            tokenizer=tokenizer,
            text=encoder,
            vision=tower,
            lazy_vision=waiting,
            preprocess=preprocess,
            network=place.put(prior),
            schedule=schedule,
            accelerate=place.accelerate,
        )


def _check_prior(
    prior: PriorConfig, text: ClipTextConfig, vision: ClipVisionConfig, preprocess: ClipPreprocess
) -> None:
    """Raises CheckpointError when the parts of a prior, which lie in files of their own, do not fit."""
    check_sizes(
        "In this prior",
        {
            "the text encoder's hidden states": (text.width, prior.text_width),
            "the text encoder's embedding": (text.projection, prior.embedding_dim),
            "the image encoder's embedding": (vision.projection, prior.embedding_dim),
            "the image processor's image": (preprocess.size, vision.image_size),
        },
        "the other parts want",
    )
    if text.positions < prior.tokens:
        raise CheckpointError(
            f"The text encoder reads {text.positions} tokens, the prior wants {prior.tokens}.",
            "A part is of another model; download the prior again.",
        )


def check_sizes(where: str, pairs: Mapping[str, tuple[int, int]], wants: str = "the U-Net takes") -> None:
    """Raises CheckpointError for a part whose size is not the one that others want, (found, wanted)."""
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise CheckpointError(
                f"{where} {what} has size {found}, {wants} {wanted}.", "A part is of another model; download it again."
            )


def check_fit(stage: PriorStage | None, image_dim: int) -> None:
    """Raises CheckpointError when a prior makes embeddings of another size than the decoder takes."""
    made = image_dim if stage is None else stage.network.config.embedding_dim
    if made != image_dim:
        raise CheckpointError(
            f"The prior makes embeddings of {made} numbers, the decoder takes {image_dim}.",
            "Give the prior that belongs to this decoder.",
        )


def check_unet2(where: object, config: UNet2Config, latents: int, conditions: tuple[str, ...]) -> None:
    """Raises CheckpointError for a U-Net of another condition, or whose channels do not fit the `latents` of its codec:
    these, and those of a hint or of a known region."""
    if config.condition not in conditions:
        raise CheckpointError(
            f"{where} holds a decoder conditioned on {config.condition}, not on {' or '.join(conditions)}.",
            "It is not of this generation.",
        )
    known = (2 * latents,) if config.condition == "image_hint" else (latents, 2 * latents + 1)
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


def own_defaults(folder: Folder) -> dict[str, object]:
    """The request fields in our own settings file; CheckpointError for invalid ones."""
    path = folder.root / OWN_SETTINGS
    if not path.is_file():
        return {}
    defaults = read_json(path).get("defaults", {})
    try:
        # strength needs an image; any will do.
        pixel = np.zeros((1, 1, 3), np.uint8) if "strength" in defaults else None
        Request("", image=pixel, **defaults)
    except (RequestError, TypeError) as error:
        raise CheckpointError(f"{path} has defaults that cannot be: {error}", "Correct or remove it.") from error
    return dict(defaults)


def folder_defaults(folder: Folder, schedule: Schedule, unet: str, downscale: int) -> dict[str, object]:
    """The request fields of a decoder with a prior: published ones, few steps, then its own. `downscale` is pixels per
    latent; the U-Net's config.json holds the usual size in latents."""
    size = whole(folder.config(unet), "sample_size", 64) * downscale
    own = own_defaults(folder)
    return {**PRIOR_DEFAULTS, **few_step_defaults(schedule, own), "width": size, "height": size, **own}
