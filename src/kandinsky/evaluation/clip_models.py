"""CLIP models to score with: that of a Kandinsky prior, or one of open_clip where that is installed."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kandinsky.conditioning.conditions import CaptionConditioner
from kandinsky.core.errors import DataError, RequestError
from kandinsky.evaluation.clip_score import Clip

if TYPE_CHECKING:
    from PIL.Image import Image

    from kandinsky.engine.pipeline import Pipeline

OPEN_CLIP = "open_clip:"
TOWERS = ("text_encoder", "image_encoder")


def load_clip(name: str, device: str | None = None) -> Clip:
    """A CLIP model by `name`: a checkpoint as `kandinsky.load` takes it, or "open_clip:MODEL/PRETRAINED".

    Its name in the report holds a hash of the weights, so that nobody takes one for another. Raises DataError
    for a checkpoint without CLIP towers, RequestError where open_clip is not installed.
    """
    if name.startswith(OPEN_CLIP):
        return _open_clip(name.removeprefix(OPEN_CLIP), device)
    import kandinsky

    return clip_of(kandinsky.load(name, device=device), name)


def clip_of(pipe: "Pipeline", name: str) -> Clip:
    """The towers of a loaded checkpoint's prior."""
    conditioner = pipe.model.conditioner
    prior = conditioner.prior if isinstance(conditioner, CaptionConditioner) else None
    if prior is None:
        raise DataError(f"{name} has no CLIP towers.", "Name one with a prior, or open_clip:MODEL/PRETRAINED.")
    prior.load_vision()
    towers = [prior.modules[name] for name in TOWERS]
    return Clip(prior.embed_images, prior.embed_texts, f"{name} ({weights_hash(*towers)})")


def weights_hash(*networks: nn.Module) -> str:
    """The first 12 digits of the sha256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for network in networks:
        for key, value in sorted(network.state_dict().items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _open_clip(name: str, device: str | None) -> Clip:
    try:
        import open_clip  # type: ignore[import-not-found]
    except ImportError as error:
        raise RequestError("open_clip is not installed.", "Run: pip install open_clip_torch") from error
    model_name, _, pretrained = name.partition("/")
    on = device or "cpu"
    model, _, preprocess = open_clip.create_model_and_transforms(model_name, pretrained=pretrained or None, device=on)
    tokenizer: Any = open_clip.get_tokenizer(model_name)
    model.eval()

    def see(images: "Sequence[Image]") -> Tensor:
        found: Tensor = model.encode_image(torch.stack([preprocess(image) for image in images]).to(on))
        return found

    def read(texts: Sequence[str]) -> Tensor:
        found: Tensor = model.encode_text(tokenizer(list(texts)).to(on))
        return found

    return Clip(see, read, f"{OPEN_CLIP}{name} ({weights_hash(model)})")
