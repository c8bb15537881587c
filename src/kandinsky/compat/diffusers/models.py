"""Networks under the class names of existing code; each holds one of ours as `native`."""

from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.maps import networks
from kandinsky.compat.diffusers import outputs
from kandinsky.compat.diffusers.part import Part
from kandinsky.compat.diffusers.surface import check_replaced, refuse
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
        return outputs.UNet2DConditionOutput(network(sample, _times(timestep, sample), condition)).handed(return_dict)


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
        condition = UNet3Condition(encoder_hidden_states, mask)
        return outputs.Kandinsky3UNetOutput(network(sample, _times(timestep, sample), condition)).handed(return_dict)


class VQModel(Part):
    """The autoencoder."""

    FORMAT: ClassVar[Component] = networks.MOVQ

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        """Images (B, 3, H, W) in -1..1 as they come back from quantised latents."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Images (B, 3, H, W) in -1..1 to unquantised latents."""
        return outputs.VQEncoderOutput(cast(MoVQ, self.native).encode(x)).handed(return_dict)

    def decode(self, h: Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape: None = None) -> Any:
        """Latents (B, C, h, w) to images, about -1..1; quantised first unless `force_not_quantize`."""
        refuse("decode", {"shape": shape})
        network = cast(MoVQ, self.native)
        latents = h if force_not_quantize else network.quantize(h).latents
        return outputs.DecoderOutput(network.decode(latents)).handed(return_dict)


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
        embedding = self.native(hidden_states, _times(timestep, hidden_states), condition)
        return outputs.PriorTransformerOutput(embedding).handed(return_dict)

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
        return outputs.CLIPTextModelOutput(features.embedding, features.hidden).handed(return_dict)

    @staticmethod
    def as_native(answer: Any) -> Any:
        """See `Part.as_native`."""
        return SimpleNamespace(embedding=answer.text_embeds, hidden=answer.last_hidden_state)


class CLIPVisionModelWithProjection(Part):
    """CLIP's vision tower."""

    FORMAT: ClassVar[Component] = networks.CLIP_VISION

    def forward(self, pixel_values: Tensor, return_dict: bool = True, **others: object) -> Any:
        """Normalised pixels (B, 3, S, S) to image embeddings."""
        refuse("forward", others)
        return outputs.CLIPVisionModelOutput(self.native(pixel_values)).handed(return_dict)

    @staticmethod
    def as_native(answer: Any) -> Any:
        """See `Part.as_native`."""
        return answer.image_embeds


class MultilingualCLIP(Part):
    """The multilingual text encoder."""

    FORMAT: ClassVar[Component] = networks.MULTILINGUAL

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L) to the texts' embeddings (B, D) and hidden states (B, L, W)."""
        hidden, embedding = self.native(input_ids, attention_mask.bool())
        return embedding, hidden

    @staticmethod
    def as_native(answer: Any) -> Any:
        """See `Part.as_native`."""
        return answer[1], answer[0]


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
        return outputs.BaseModelOutput(self.native(input_ids, mask)).handed(return_dict)

    @staticmethod
    def as_native(answer: Any) -> Any:
        """See `Part.as_native`."""
        return answer[0]


def _times(timestep: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(timestep, device=x.device).expand(len(x))


PARTS: Mapping[str, type[Part]] = {kind.FORMAT.class_name: kind for kind in Part.__subclasses__()}
_CALLED = ("forward", "encode", "decode")
_METHODS = {kind: [vars(kind).get(name) for name in _CALLED] for kind in PARTS.values()}
"""The methods that compute, of components as this package made them."""


class Called(nn.Module):
    """A component in the place of the network of ours inside it, so that what was done to the component acts."""

    def __init__(self, component: Any, part: Part) -> None:
        super().__init__()
        self.component, self._part = component, (part,)

    def __getattr__(self, name: str) -> Any:
        with suppress(AttributeError):
            return super().__getattr__(name)
        return getattr(vars(self)["_part"][0].native, name)

    def forward(self, *arguments: Tensor) -> Any:
        """What the network of ours would say."""
        return self._part[0].as_native(self.component(*arguments))

    def encode(self, x: Tensor) -> Any:
        """Images to unquantised latents."""
        return self.component.encode(x)[0]

    def decode(self, z: Tensor) -> Any:
        """Latents to images."""
        return self.component.decode(z, force_not_quantize=True)[0]


def is_plain(component: object, kind: type[Part]) -> bool:
    """Whether a component is one of ours that nobody wrapped, hooked or gave other methods; it may be compiled."""
    part = component.__dict__.get("_modules", {}).get("_orig_mod", component)
    if not isinstance(part, kind) or any(name in vars(part) for name in _CALLED):
        return False
    hooked = (part, component) if isinstance(component, nn.Module) else (part,)
    return [getattr(type(part), name, None) for name in _CALLED] == _METHODS[kind] and not any(
        module._forward_hooks or module._forward_pre_hooks for module in hooked
    )


def runner_of(component: object, kind: type[Part]) -> Any:
    """Our network inside a component, or one that calls the component where somebody wrapped, hooked or compiled it.

    CheckpointError when it is no such thing.
    """
    part = part_of(component, kind)
    return part.native if component is part and is_plain(part, kind) else Called(component, part)


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
        raise _foreign(component, kind)
    return part


def native_of(component: object, kind: type[object]) -> Any:
    """What of ours is inside a tokenizer or an image processor; CheckpointError when it is no such thing.

    Raises RequestError for one with another `__call__`, which nothing here would call.
    """
    native = getattr(original_of(component), "native", None)
    if not isinstance(native, kind):
        raise _foreign(component, kind)
    check_replaced(component, ("__call__",), "Pass what it makes to the call: embeddings, or texts that are changed.")
    return native


def _foreign(component: object, kind: type[object]) -> CheckpointError:
    return CheckpointError(
        f"A {type(component).__name__} was given where a {kind.__name__} is needed.",
        "Load it with the class of the same name from this package.",
    )
