"""Networks under the class names of existing code; each holds one of ours as `native`."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.maps import networks
from kandinsky.compat.diffusers.outputs import (
    BaseModelOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
    DecoderOutput,
    Kandinsky3UNetOutput,
    PriorTransformerOutput,
    UNet2DConditionOutput,
    VQEncoderOutput,
)
from kandinsky.compat.diffusers.part import Part
from kandinsky.compat.diffusers.surface import refuse
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.prepared import Fixed
from kandinsky.networks.prior import Prior, PriorCondition, PriorFixed
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from kandinsky.networks.unet3 import UNet3, UNet3Condition

PartT = TypeVar("PartT", bound="Part")


class UNet2DConditionModel(Part):
    """The decoder's U-Net."""

    FORMAT: ClassVar[Component] = networks.UNET

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float = 0.0,
        encoder_hidden_states: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = True,
        prepared: Fixed | None = None,
        **others: object,
    ) -> Any:
        """One prediction.

        `sample` (B, C, h, w) with all its channels, `timestep` one or (B,), and the conditions by diffusers'
        names: `image_embeds`, `hint`, `text_embeds`, and the text's hidden states as `encoder_hidden_states`.
        With `prepared`, what our own loop has computed before, the answer is the plain tensor (B, C', h, w).
        """
        refuse("forward", others)
        network = cast(UNet2, self.native)
        if prepared is not None:
            return network.denoise(sample, prepared)
        given = added_cond_kwargs or {}
        condition = UNet2Condition(
            given.get("image_embeds"), encoder_hidden_states, given.get("text_embeds"), given.get("hint")
        )
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        predicted = network(sample, times, condition)
        return UNet2DConditionOutput(predicted) if return_dict else (predicted,)


class Kandinsky3UNet(Part):
    """The U-Net that listens to the states of a text."""

    FORMAT: ClassVar[Component] = networks.UNET3

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float = 0.0,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        prepared: Fixed | None = None,
    ) -> Any:
        """One prediction.

        `sample` (B, C, h, w), `timestep` one or (B,), a text's states (B, L, W) and, unless all of them are
        real, their mask (B, L). With `prepared`, what our own loop has computed before, the answer is the
        plain tensor (B, C', h, w).
        """
        network = cast(UNet3, self.native)
        if prepared is not None:
            return network.denoise(sample, prepared)
        if encoder_hidden_states is None:
            raise RequestError("A text's states are missing.", "Give encoder_hidden_states.")
        mask = encoder_attention_mask
        mask = encoder_hidden_states.new_ones(encoder_hidden_states.shape[:2]) if mask is None else mask
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        predicted = network(sample, times, UNet3Condition(encoder_hidden_states, mask))
        return Kandinsky3UNetOutput(predicted) if return_dict else (predicted,)


class VQModel(Part):
    """The autoencoder."""

    FORMAT: ClassVar[Component] = networks.MOVQ

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        """Images (B, 3, H, W) in -1..1 as they come back from quantised latents."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Images (B, 3, H, W) in -1..1 to unquantised latents."""
        latents = cast(MoVQ, self.native).encode(x)
        return VQEncoderOutput(latents) if return_dict else (latents,)

    def decode(self, h: Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape: None = None) -> Any:
        """Latents (B, C, h, w) to images, about -1..1; quantised first unless `force_not_quantize`."""
        refuse("decode", {"shape": shape})
        network = cast(MoVQ, self.native)
        latents = h if force_not_quantize else network.quantize(h).latents
        images = network.decode(latents)
        return DecoderOutput(images) if return_dict else (images,)


class PriorTransformer(Part):
    """The diffusion prior's network."""

    FORMAT: ClassVar[Component] = networks.PRIOR

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float = 0.0,
        proj_embedding: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool = True,
        prepared: PriorFixed | None = None,
    ) -> Any:
        """The clean image embedding (B, D) behind a noisy one, both in normalised units.

        With `prepared`, what our own loop has computed before, the answer is the plain tensor.
        """
        if prepared is not None:
            return cast(Prior, self.native).denoise(hidden_states, prepared)
        if proj_embedding is None or encoder_hidden_states is None:
            raise RequestError("This prior was not told its text.", "Give proj_embedding and encoder_hidden_states.")
        mask = encoder_hidden_states.new_ones(encoder_hidden_states.shape[:2], dtype=torch.bool)
        mask = mask if attention_mask is None else attention_mask
        condition = PriorCondition(encoder_hidden_states, proj_embedding, mask)
        times = torch.as_tensor(timestep, device=hidden_states.device).expand(len(hidden_states))
        embedding = self.native(hidden_states, times, condition)
        return PriorTransformerOutput(embedding) if return_dict else (embedding,)

    @property
    def clip_mean(self) -> Tensor:
        """The mean of image embeddings, (1, D)."""
        return cast(Prior, self.native).clip_mean

    @property
    def clip_std(self) -> Tensor:
        """The standard deviation of image embeddings, (1, D)."""
        return cast(Prior, self.native).clip_std

    def post_process_latents(self, prior_latents: Tensor) -> Tensor:
        """The image embedding (B, D) of a normalised one."""
        return cast(Prior, self.native).denormalise(prior_latents)


class CLIPTextModelWithProjection(Part):
    """CLIP's text tower."""

    FORMAT: ClassVar[Component] = networks.CLIP_TEXT

    def forward(self, input_ids: Tensor, return_dict: bool = True, **others: object) -> Any:
        """Token ids (B, L) to the texts' embeddings and hidden states."""
        refuse("forward", others)
        features = self.native(input_ids)
        found = CLIPTextModelOutput(features.embedding, features.hidden)
        return found if return_dict else found.to_tuple()


class CLIPVisionModelWithProjection(Part):
    """CLIP's vision tower."""

    FORMAT: ClassVar[Component] = networks.CLIP_VISION

    def forward(self, pixel_values: Tensor, return_dict: bool = True, **others: object) -> Any:
        """Normalised pixels (B, 3, S, S) to image embeddings."""
        refuse("forward", others)
        found = CLIPVisionModelOutput(self.native(pixel_values))
        return found if return_dict else found.to_tuple()


class MultilingualCLIP(Part):
    """The multilingual text encoder."""

    FORMAT: ClassVar[Component] = networks.MULTILINGUAL

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L) to the texts' embeddings (B, D) and hidden states (B, L, W)."""
        hidden, embedding = self.native(input_ids, attention_mask.bool())
        return embedding, hidden


class T5EncoderModel(Part):
    """The text encoder whose states a U-Net listens to."""

    FORMAT: ClassVar[Component] = networks.ONE_TEXT
    TIED: ClassVar[Mapping[str, str]] = {"encoder.embed_tokens.weight": "shared.weight"}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, return_dict: bool = True, **others: object
    ) -> Any:
        """Token ids and mask (B, L) to the texts' hidden states (B, L, W)."""
        refuse("forward", others)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        found = BaseModelOutput(self.native(input_ids, mask))
        return found if return_dict else found.to_tuple()


PARTS: dict[str, type[Part]] = {
    kind.FORMAT.class_name: kind
    for kind in (
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
        Kandinsky3UNet,
        MultilingualCLIP,
        PriorTransformer,
        T5EncoderModel,
        UNet2DConditionModel,
        VQModel,
    )
}


def original_of(module: Any) -> Any:
    """The part inside a compiled or wrapped one; anything else is itself."""
    if isinstance(module, Part) or module is None:
        return module
    with suppress(AttributeError):
        return module._orig_mod
    inner = module.modules() if isinstance(module, nn.Module) else getattr(module, "__dict__", {}).values()
    return next((part for part in inner if isinstance(part, Part)), module)


def part_of(component: object, kind: type[PartT]) -> PartT:
    """The part of one kind inside a component; CheckpointError when it is no such thing.

    Components of diffusers have the same names, and are told here.
    """
    part = original_of(component)
    if not isinstance(part, kind):
        raise CheckpointError(
            f"A {type(component).__name__} was given where a {kind.__name__} is needed.",
            "Load it with the class of the same name from this package.",
        )
    return part


def native_of(part: object, kind: type[object]) -> Any:
    """What of ours is inside a component (a network, a tokenizer); CheckpointError when it is no such thing.

    Components of diffusers have the same names, and are told here.
    """
    native = getattr(original_of(part), "native", None)
    if not isinstance(native, kind):
        raise CheckpointError(
            f"A {type(part).__name__} was given where a {kind.__name__} is needed.",
            "Load it with the class of the same name from this package.",
        )
    return native
