"""Runs autoencoders in strips of rows: the output of the whole image from a fraction of its memory.

Plain tiles differ from the whole, since its norms and its attention see all of it. Here each norm has its
statistics of the whole image, gathered while its input is made; convolutions read the rows around their
strip; and what attends is at the size of the latents, where the image stays whole. Nothing is computed
twice but those rows, and an activation goes while the next one is made of it.
"""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import RequestError
from kandinsky.networks.autoencoder import Decoder, Downsample, Encoder, Level, Norm, Resnet, Upsample
from kandinsky.networks.group_norm import factors

AREA = 2**17
"""Positions of a strip, width times rows. Fewer cost more rows twice, more cost memory."""

Rows: TypeAlias = Callable[[int, int], Tensor]
"""(first, end) -> the rows of something, (B, C, end - first, W)."""


Tiling: TypeAlias = bool | Literal["auto"]
"""Whether images are coded in strips; "auto": those of more than 1024 x 1024 pixels."""


def check_tiling(tiling: object) -> Tiling:
    """Returns a valid setting; RequestError for anything else."""
    if tiling == "auto" or isinstance(tiling, bool):
        return tiling
    raise RequestError(f"tiling is {tiling!r}.", "Use True, False or 'auto'.")


def one_by_one(code: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Codes the images of a batch one after the other, for the memory of one."""
    return torch.cat([code(row) for row in torch.split(batch, 1)])


class Strips:
    """An activation (B, C, height, W) that is made, read and let go of from its first row to its last.

    It knows the mean and the variance of each of `groups` groups of its channels, once it is complete.
    """

    def __init__(self, height: int, groups: int = 1) -> None:
        self.height, self.groups = height, groups
        self._parts: list[tuple[int, Tensor]] = []
        self._statistics: list[tuple[int, Tensor, Tensor]] = []

    @classmethod
    def of(cls, whole: Tensor) -> "Strips":
        """A whole activation (B, C, H, W) as one strip, without statistics."""
        made = cls(whole.shape[2])
        made._parts.append((0, whole))
        return made

    def add(self, rows: Tensor) -> None:
        """Puts rows (B, C, h, W) below those that are there."""
        first = self._parts[-1][0] + self._parts[-1][1].shape[2] if self._parts else 0
        self._parts.append((first, rows))
        self._measure(rows)

    def _measure(self, rows: Tensor) -> None:
        """Keeps the size, the mean and the sum of squared distances of each group, in double precision."""
        groups = rows.view(len(rows), self.groups, -1, *rows.shape[2:])
        groups = groups if groups.dtype == torch.float64 else groups.float()
        # torch.var_mean does the same in one pass, and takes several times as long.
        mean = groups.mean(dim=(2, 3, 4), keepdim=True)
        squares = torch.linalg.vector_norm(groups - mean, dim=(2, 3, 4)).double().square()
        self._statistics.append((groups[0, 0].numel(), mean.flatten(1).double(), squares))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the groups, each (B, groups) in double precision, merged from those of the strips.

        Source: Chan, Golub and LeVeque 1979.
        """
        total = sum(count for count, _, _ in self._statistics)
        mean = torch.stack([part * (count / total) for count, part, _ in self._statistics]).sum(0)
        spread = [squares + count * (part - mean).square() for count, part, squares in self._statistics]
        return mean, torch.stack(spread).sum(0) / total

    def rows(self, first: int, end: int) -> Tensor:
        """Rows `first` to `end`, which must be there."""
        found = [
            part[:, :, max(first - start, 0) : end - start]
            for start, part in self._parts
            if start < end and start + part.shape[2] > first
        ]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def drop(self, end: int) -> None:
        """Frees the strips that end at row `end` or above."""
        self._parts = [(start, part) for start, part in self._parts if start + part.shape[2] > end]

    def whole(self) -> Tensor:
        """All rows."""
        return self.rows(0, self.height)


def decode(decoder: Decoder, x: Tensor, latents: Tensor | None) -> Tensor:
    """As the decoder's own on x (B, C, h, w), with the `latents` that modulate its norms, if any do."""
    whole: Tensor = decoder.conv_in(x)
    first, *others = decoder.up
    assert isinstance(first, Level)
    whole = first.blocks(decoder.mid(whole, latents), latents)
    strips = _upsampled(first, Strips.of(whole))
    del whole
    for level in others:
        assert isinstance(level, Level)
        strips = _upsampled(level, _residual(level, strips, latents))
    return _last(decoder.norm_out, decoder.conv_out, strips, latents)


def encode(encoder: Encoder, images: Tensor) -> Tensor:
    """As the encoder's own on images (B, 3, H, W)."""
    *levels, last = encoder.down
    pixels, strips = Strips.of(images), Strips(images.shape[2], _groups_of(encoder.norm_out))
    for a, b in _strips(images.shape[2], images.shape[3]):
        strips.add(_convolved(encoder.conv_in, pixels.rows, a, b, pixels.height))
    for level in levels:
        assert isinstance(level, Level)
        strips = _downsampled(level, _residual(level, strips, None))
    x = encoder.mid(last(strips.whole(), None), None)
    made: Tensor = encoder.conv_out(F.silu(encoder.norm_out(x, None)))
    return made


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Where strips of an image begin and end."""
    rows = max(1, AREA // width)
    return ((a, min(a + rows, height)) for a in range(0, height, rows))


def _width(strips: Strips) -> int:
    return strips.rows(strips.height - 1, strips.height).shape[3]


def _groups_of(norm: Norm) -> int:
    return norm.norm.num_groups


def _residual(level: Level, x: Strips, latents: Tensor | None) -> Strips:
    """The residual blocks of a level; those with attention are at the latents' size, and stay whole."""
    for block in level.resnets:
        assert isinstance(block, Resnet)
        x = _resnet(block, x, latents)
    return x


def _resnet(block: Resnet, x: Strips, latents: Tensor | None) -> Strips:
    height, width = x.height, _width(x)
    h = Strips(height, _groups_of(block.norm2))
    shortcut = x if block.shortcut is None else Strips(height)
    first = _activated(block.norm1, x, latents)
    for a, b in _strips(height, width):
        h.add(_convolved(block.conv1, first, a, b, height))
        if block.shortcut is not None:
            shortcut.add(block.shortcut(x.rows(a, b)))
            x.drop(b - 1)
    made, second = Strips(height, _groups_of(block.norm1)), _activated(block.norm2, h, latents)
    for a, b in _strips(height, width):
        made.add(_convolved(block.conv2, second, a, b, height).add_(shortcut.rows(a, b)))
        h.drop(b - 1)
        shortcut.drop(b)
    return made


def _upsampled(level: Level, x: Strips) -> Strips:
    if level.resample is None:
        return x
    assert isinstance(level.resample, Upsample)
    made = Strips(2 * x.height, _groups_of(level.resnets[-1].norm1))  # type: ignore[arg-type]
    for a, b in _strips(x.height, 4 * _width(x)):
        above, below = int(a > 0), int(b < x.height)
        rows = level.resample(x.rows(a - above, b + below))
        made.add(rows[:, :, 2 * above : rows.shape[2] - 2 * below])
        x.drop(b - 1)
    return made


def _downsampled(level: Level, x: Strips) -> Strips:
    assert isinstance(level.resample, Downsample)
    height, width = x.height // 2, _width(x) // 2
    made = Strips(height, _groups_of(level.resnets[-1].norm1))  # type: ignore[arg-type]
    for a, b in _strips(height, width):
        # A row and a column of zeros end the image: only the last strip has that row.
        rows = F.pad(x.rows(2 * a, min(2 * b + 1, x.height)), (0, 1, 0, int(b == height)))
        made.add(level.resample.conv(rows))
        x.drop(2 * b)
    return made


def _last(norm: Norm, conv: nn.Conv2d, x: Strips, latents: Tensor | None) -> Tensor:
    read, made = _activated(norm, x, latents), []
    for a, b in _strips(x.height, _width(x)):
        made.append(_convolved(conv, read, a, b, x.height))
        x.drop(b - 1)
    return torch.cat(made, dim=2)


def _convolved(conv: nn.Conv2d, rows: Rows, a: int, b: int, height: int) -> Tensor:
    """Rows `a` to `b` of a convolution of kernel 3 and padding 1 of what `rows` gives, of that height."""
    above, below = int(a > 0), int(b < height)
    made: Tensor = conv(rows(a - above, b + below))
    return made[:, :, above : made.shape[2] - below]


def _activated(norm: Norm, x: Strips, latents: Tensor | None) -> Rows:
    """Rows of the norm of `x`, which is complete, through SiLU."""
    mean, variance = x.moments()
    weight, bias = norm.norm.weight, norm.norm.bias
    exact = weight.dtype if weight.dtype == torch.float64 else torch.float32
    each = len(weight) // x.groups
    scale, shift = (part.to(exact) for part in factors(mean, variance, each, norm.norm.eps, weight, bias))

    def rows(first: int, end: int) -> Tensor:
        found = x.rows(first, end)
        y = torch.addcmul(shift, found.to(exact), scale).to(found.dtype)
        if norm.modulation is not None:
            assert latents is not None
            y = torch.addcmul(*_modulation(norm.modulation, latents, first, end, x.height), y)
        return F.silu(y, inplace=True)

    return rows


def _modulation(conv: nn.Conv2d, latents: Tensor, first: int, end: int, height: int) -> tuple[Tensor, Tensor]:
    """Rows of the shift and the scale that a norm gets from the latents."""
    times = height // latents.shape[2]
    start = first // times
    made = F.interpolate(conv(latents[:, :, start : -(-end // times)]), scale_factor=times, mode="nearest")
    scale, shift = made[:, :, first - start * times : end - start * times].chunk(2, dim=1)
    return shift, scale
