"""The small values that pipelines hand out: configurations and outputs, readable in every way existing code
does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any


class Config(dict[str, Any]):
    """A configuration, read as `config["key"]` and as `config.key`.

    `stated` are the keys that a file or a caller gave; all others are defaults of the class, which
    another class need not share.
    """

    def __init__(self, stated: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> None:
        super().__init__({**(defaults or {}), **stated})
        self.stated = dict(stated)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"this configuration has no {name!r}") from error


class Output:
    """The outputs' ways of being read: by attribute, by key, by place, unpacked, and as keywords
    (`**output`)."""

    def keys(self) -> list[str]:
        """The names of the parts."""
        return [item.name for item in fields(self)]  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """The parts, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.keys())

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)


@dataclass(eq=False)
class ImagePipelineOutput(Output):
    """`images`: a list of PIL images, an array (B, H, W, 3) or a tensor (B, 3, H, W), both in 0..1, or
    latents."""

    images: object


@dataclass(eq=False)
class KandinskyPriorPipelineOutput(Output):
    """`image_embeds` and `negative_image_embeds`, (B, D) each, as the decoder wants them."""

    image_embeds: object
    negative_image_embeds: object


@dataclass(eq=False)
class SchedulerOutput(Output):
    """`prev_sample`: what a step leads to; `pred_original_sample`: the clean sample that was predicted."""

    prev_sample: object
    pred_original_sample: object


@dataclass(eq=False)
class UNet2DConditionOutput(Output):
    """`sample`: what the network said, (B, C, h, w)."""

    sample: object


@dataclass(eq=False)
class Kandinsky3UNetOutput(Output):
    """`sample`: what the network said, (B, C, h, w)."""

    sample: object


@dataclass(eq=False)
class BaseModelOutput(Output):
    """`last_hidden_state`: a text's states (B, L, W)."""

    last_hidden_state: object


@dataclass(eq=False)
class DecoderOutput(Output):
    """`sample`: decoded images (B, 3, H, W), about -1..1."""

    sample: object


@dataclass(eq=False)
class VQEncoderOutput(Output):
    """`latents`: encoded images (B, C, h, w)."""

    latents: object


@dataclass(eq=False)
class PriorTransformerOutput(Output):
    """`predicted_image_embedding` (B, D), in units of the statistics of real ones."""

    predicted_image_embedding: object


@dataclass(eq=False)
class CLIPTextModelOutput(Output):
    """`text_embeds` (B, D) and `last_hidden_state` (B, L, W)."""

    text_embeds: object
    last_hidden_state: object


@dataclass(eq=False)
class CLIPVisionModelOutput(Output):
    """`image_embeds` (B, D)."""

    image_embeds: object
