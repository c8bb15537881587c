"""Mean and covariance of features, gathered in parts, and the distance of two of them (FID)."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.core.files import write_atomically

LARGEST = 2**28
"""Bytes of one part of a file of moments; those of Inception's 2048 features have 33 million."""
FAULTS = (
    *(
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        SyntaxError,
        SystemError,
    ),
    *(TypeError, ValueError, BadZipFile, TokenError, struct.error, zlib.error),
)
"""What reading a damaged archive of arrays raises."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of `count` features the mean (D,) and `scatter` (D, D), the sum of outer products about it; float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Those of features (N, D); DataError for another shape, for none, or for values that are not finite."""
        if features.ndim != 2 or len(features) == 0:
            raise DataError(f"Features of shape {tuple(features.shape)} have no moments.", "Give (N, D), N from 1.")
        x = features.double()
        if not x.isfinite().all():
            raise DataError("Some features are not finite numbers.", "Look at the images and the network.")
        mean = x.mean(dim=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both sets together (Chan, Golub and LeVeque 1979, equation 2.1)."""
        check_widths(self.mean, other.mean)
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        between = torch.outer(gap, gap) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D); DataError for a single image."""
        if self.count < 2:
            raise DataError("One image has no covariance.", "Give at least two.")
        return self.scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """FID (Heusel 2017, equation 6): `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)`; biased upwards for small sets.

    The trace of the root comes from symmetric eigenproblems: `tr (A B)^1/2 = tr (A^1/2 B A^1/2)^1/2`, which is
    real and needs no general matrix root. Raises DataError for different widths or a set of one image.
    """
    check_widths(first.mean, second.mean)
    a, b = first.covariance, second.covariance
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    # Roots of eigenvalues that are zero but for rounding may bring equal sets a little below 0.
    return max(0.0, float((first.mean - second.mean).square().sum() + a.trace() + b.trace() - 2 * shared))


def check_widths(first: Tensor, second: Tensor) -> None:
    """DataError where two features are of different networks."""
    if first.shape[-1] != second.shape[-1]:
        raise DataError(
            f"Features {first.shape[-1]} and {second.shape[-1]} wide cannot be compared.", "Use one network for both."
        )


def save_moments(path: str | Path, moments: Moments, about: str = "") -> Path:
    """Writes moments as .npz: `mu` and `sigma` as other tools name them, `count`, and what they are `about`."""
    buffer = io.BytesIO()
    sigma = moments.covariance.numpy()
    np.savez(buffer, mu=moments.mean.numpy(), sigma=sigma, count=np.int64(moments.count), about=np.str_(about))
    return write_atomically(path, buffer.getvalue())


def load_moments(path: str | Path) -> tuple[Moments, str]:
    """What `save_moments` wrote, or a file of another tool with `mu` and `sigma`; and what it is about.

    Such a file does not say how many images it is of: its count is 0, and nothing can be added to it. Raises
    DataError for a file that holds no moments.
    """
    try:
        with ZipFile(path) as archive:
            if any(record.file_size > LARGEST for record in archive.infolist()):
                raise ValueError(f"a part is longer than {LARGEST} bytes")
        with np.load(path, allow_pickle=False) as stored:
            mu, sigma = (torch.from_numpy(np.asarray(stored[name], np.float64)) for name in ("mu", "sigma"))
            count = int(stored["count"]) if "count" in stored else 0
            about = str(stored["about"]) if "about" in stored else ""
    except FAULTS as error:
        raise DataError(
            f"{path} holds no statistics ({type(error).__name__}).", "Write one with --save-stats."
        ) from error
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (mu.isfinite().all() and sigma.isfinite().all()):
        raise DataError(f"{path} holds no statistics: shapes {tuple(mu.shape)}, {tuple(sigma.shape)}.", "Make it anew.")
    return StoredMoments(count, mu, sigma * max(1, count - 1), sigma), about


@dataclass(frozen=True, eq=False)
class StoredMoments(Moments):
    """Moments from a file, whose covariance is known even where the count is not."""

    stored: Tensor

    @property
    def covariance(self) -> Tensor:
        """The covariance (D, D) as it was stored."""
        return self.stored
