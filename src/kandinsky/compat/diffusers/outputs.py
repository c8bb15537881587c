"""The small values that pipelines hand out: configurations and outputs, readable in every way existing code
does."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from torch import Tensor


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


class Output(dict[str, Any]):
    """A network's or pipeline's output: read by key, by attribute and by place, and as keywords (`**output`).

    Iterating and unpacking give the parts, as tuples and code for MindSpore do, and not their names.
    """

    PARTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *values: object, **named: object) -> None:
        super().__init__(zip(self.PARTS, values, strict=False))
        self.update(named)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"A {type(self).__name__} has no {name!r}.") from error

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def to_tuple(self) -> tuple[Any, ...]:
        """The parts, in order."""
        return tuple(self.values())

    def to(self, *where: object, **more: object) -> Self:
        """Moves its tensors as `Tensor.to` does, whole numbers by device alone, and returns itself."""
        for name, value in self.items():
            if isinstance(value, Tensor):
                moved = value.to(*where, **more)  # type: ignore[call-overload]
                self[name] = moved if value.is_floating_point() else value.to(moved.device)
        return self


class ImagePipelineOutput(Output):
    """`images`: a list of PIL images, an array (B, H, W, 3) or a tensor (B, 3, H, W), both in 0..1, or latents."""

    PARTS = ("images",)


class KandinskyPriorPipelineOutput(Output):
    """`image_embeds` and `negative_image_embeds`, (B, D) each, as the decoder wants them."""

    PARTS = ("image_embeds", "negative_image_embeds")


class SchedulerOutput(Output):
    """`prev_sample`: what a step leads to; `pred_original_sample`: the clean sample that was predicted."""

    PARTS = ("prev_sample", "pred_original_sample")


class UNet2DConditionOutput(Output):
    """`sample`: what the network said, (B, C, h, w)."""

    PARTS = ("sample",)


class Kandinsky3UNetOutput(Output):
    """`sample`: what the network said, (B, C, h, w)."""

    PARTS = ("sample",)


class BaseModelOutput(Output):
    """`last_hidden_state`: a text's states (B, L, W)."""

    PARTS = ("last_hidden_state",)


class DecoderOutput(Output):
    """`sample`: decoded images (B, 3, H, W), about -1..1."""

    PARTS = ("sample",)


class VQEncoderOutput(Output):
    """`latents`: encoded images (B, C, h, w)."""

    PARTS = ("latents",)


class PriorTransformerOutput(Output):
    """`predicted_image_embedding` (B, D), in units of the statistics of real ones."""

    PARTS = ("predicted_image_embedding",)


class CLIPTextModelOutput(Output):
    """`text_embeds` (B, D) and `last_hidden_state` (B, L, W)."""

    PARTS = ("text_embeds", "last_hidden_state")


class CLIPVisionModelOutput(Output):
    """`image_embeds` (B, D)."""

    PARTS = ("image_embeds",)


class BatchEncoding(Output):
    """`input_ids` and `attention_mask`, (B, L) each."""

    PARTS = ("input_ids", "attention_mask")


class BatchFeature(Output):
    """`pixel_values`: normalised pixels (B, 3, S, S)."""

    PARTS = ("pixel_values",)
