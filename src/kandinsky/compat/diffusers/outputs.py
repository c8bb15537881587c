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

    def handed(self, return_dict: bool) -> Any:
        """Itself, or the tuple of its parts."""
        return self if return_dict else self.to_tuple()

    def to(self, *where: object, **more: object) -> Self:
        """Moves its tensors as `Tensor.to` does, whole numbers by device alone, and returns itself."""
        for name, value in self.items():
            if isinstance(value, Tensor):
                moved = value.to(*where, **more)  # type: ignore[call-overload]
                self[name] = moved if value.is_floating_point() else value.to(moved.device)
        return self


def _output(name: str, parts: str, does: str) -> type[Output]:
    return type(name, (Output,), {"PARTS": tuple(parts.split()), "__doc__": does, "__module__": __name__})


_IMAGES = "A list of PIL images, an array (B, H, W, 3) or a tensor (B, 3, H, W), both in 0..1, or latents."
ImagePipelineOutput = _output("ImagePipelineOutput", "images", _IMAGES)
KandinskyPriorPipelineOutput = _output(
    "KandinskyPriorPipelineOutput", "image_embeds negative_image_embeds", "(B, D) each, as the decoder wants them."
)
SchedulerOutput = _output(
    "SchedulerOutput", "prev_sample pred_original_sample", "What a step leads to, and the clean sample predicted."
)
UNet2DConditionOutput = _output("UNet2DConditionOutput", "sample", "What the network said, (B, C, h, w).")
Kandinsky3UNetOutput = _output("Kandinsky3UNetOutput", "sample", "What the network said, (B, C, h, w).")
BaseModelOutput = _output("BaseModelOutput", "last_hidden_state", "A text's states (B, L, W).")
DecoderOutput = _output("DecoderOutput", "sample", "Decoded images (B, 3, H, W), about -1..1.")
VQEncoderOutput = _output("VQEncoderOutput", "latents", "Encoded images (B, C, h, w).")
PriorTransformerOutput = _output(
    "PriorTransformerOutput", "predicted_image_embedding", "(B, D), in units of the statistics of real ones."
)
CLIPTextModelOutput = _output("CLIPTextModelOutput", "text_embeds last_hidden_state", "(B, D) and (B, L, W).")
CLIPVisionModelOutput = _output("CLIPVisionModelOutput", "image_embeds", "(B, D).")
BatchEncoding = _output("BatchEncoding", "input_ids attention_mask", "(B, L) each.")
BatchFeature = _output("BatchFeature", "pixel_values", "Normalised pixels (B, 3, S, S).")
