"""The first latents of a trajectory: from noise, from an image, or from a region of one."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kandinsky.conditioning.conditions import Batch
from kandinsky.core.images import Picture, mask_array, pixels_of, round_up
from kandinsky.core.rng import Rng
from kandinsky.diffusion.constraints import Paste
from kandinsky.diffusion.loop import Project
from kandinsky.generations.model import Model
from kandinsky.tasks.resolve import Resolved


@dataclass(frozen=True, eq=False)
class Start:
    """`x` (B, C, h, w) noised for times[0], `extra` channels for the network, and how the known is kept.

    `project` puts the known region into latents, noised as they are, `paste` into predictions of clean ones.
    """

    x: Tensor
    times: list[int]
    extra: Tensor | None = None
    project: Project | None = None
    paste: Paste | None = None


def start(model: Model, resolved: Resolved, batch: Batch) -> Start:
    """The start that the request asks for: from noise, from its image, or from its image outside the mask."""
    if resolved.request.image is None:
        return from_noise(model, resolved, batch)
    if not resolved.request.repaints:
        return from_image(model, resolved, batch)
    return from_region(model, resolved, batch)


def from_noise(model: Model, resolved: Resolved, batch: Batch) -> Start:
    """Text-to-image: pure noise."""
    scale = model.codec.downscale
    height, width = (round_up(side, model.multiple) // scale for side in (resolved.height, resolved.width))
    x = _noise(model, (len(batch.rows), model.codec.channels, height, width), batch.rng)
    return Start(_noised_noise(model, resolved, x, batch.rng), resolved.begin.times)


def from_image(model: Model, resolved: Resolved, batch: Batch) -> Start:
    """Image-to-image: a noised image, and the last of the times.

    Source: SDEdit (Meng et al. 2022, arXiv 2108.01073), section 3.
    """
    latents = _encoded(model, _pixels(model, resolved, batch), batch.rng)
    noise = _noise(model, tuple(latents.shape), batch.rng)
    begin = resolved.begin
    return Start(begin.process.add_noise(latents, noise, begin.t), begin.times)


def from_region(model: Model, resolved: Resolved, batch: Batch) -> Start:
    """Inpainting: the known region is put back where the schedule says, after every step or in predictions.

    An inpainting network also sees it in extra channels, an ordinary one is only pinned. Where not all times
    are done, it starts from the noised image instead of noise.
    """
    pixels, repaint = _pixels(model, resolved, batch), _repainted(model, resolved, batch)
    latents = _encoded(model, pixels, batch.rng)
    noise = _noise(model, tuple(latents.shape), batch.rng)
    known = _known(model, repaint).to(latents)
    process = resolved.begin.process
    if resolved.strength < 1:
        x = process.add_noise(latents, noise, resolved.begin.t)
    else:
        x = _noised_noise(model, resolved, noise, batch.rng)

    def paste(x0: Tensor) -> Tensor:
        return known * latents + (1 - known) * x0

    def project(x: Tensor, t_next: float) -> Tensor:
        wanted = latents if t_next < 0 else process.add_noise(latents, noise, t_next)
        return known * wanted + (1 - known) * x

    extra = region_condition(model, pixels, latents, repaint, batch.rng) if model.extra_channels else None
    return Start(x, resolved.begin.times, extra, project if resolved.schedule.replace_known_region else None, paste)


def region_condition(
    model: Model, pixels: Tensor | None, latents: Tensor, repaint: Tensor, rng: Rng | None = None
) -> Tensor:
    """The extra input channels (B, C + 1, h, w) of an inpainting network, behind the latents.

    `pixels` (B, 3, H, W) are needed where the network sees a masked image, their `latents` (B, C, h, w)
    where it sees masked latents; `repaint` (B, 1, H, W) is 1 inside. `rng` is for codecs that draw.
    """
    if model.tells_region == "masked_latents":
        known = _known(model, repaint).to(latents)
        return torch.cat([latents * known, known], dim=1).to(model.dtype)
    assert pixels is not None
    # What is repainted in part is hidden as a whole, and the network gets how much of it is kept.
    shown = _encoded(model, torch.where(repaint > 0, 0.0, pixels), rng)
    return torch.cat([_kept(repaint, model.codec.downscale).to(shown), shown], dim=1).to(model.dtype)


def batch_hint(model: Model, resolved: Resolved, batch: Batch) -> Tensor:
    """The hint images of a batch as `hint_condition` makes them."""
    hints = [row.hint for row in batch.rows if row.hint is not None]
    pixels = pixels_of(hints, resolved.width, resolved.height, model.multiple)
    return hint_condition(model, (pixels + 1) / 2)


def hint_condition(model: Model, hint: Tensor) -> Tensor:
    """Hint images (B, 3, H, W) in [0, 1], of the size to be drawn, as the network takes them.

    It looks at as many pixels for each latent as the published ones do, whatever the codec's scale is.
    """
    hint = hint.to(model.device)
    scale = model.network.config.hint_downscale / model.codec.downscale
    if scale != 1:
        hint = F.interpolate(hint.float(), scale_factor=scale, mode="bilinear", antialias=scale < 1)
    return hint.to(model.dtype)


def _noise(model: Model, shape: tuple[int, ...], rng: Rng) -> Tensor:
    return rng.normal(shape).to(model.device, model.working_dtype)


def _pixels(model: Model, resolved: Resolved, batch: Batch) -> Tensor:
    """The images (B, 3, H, W) in [-1, 1]."""
    images = [row.image for row in batch.rows if row.image is not None]
    return pixels_of(images, resolved.width, resolved.height, model.multiple)


def _encoded(model: Model, pixels: Tensor, rng: Rng | None) -> Tensor:
    return model.codec.encode(pixels.to(model.device, model.working_dtype), rng)


def _noised_noise(model: Model, resolved: Resolved, noise: Tensor, rng: Rng) -> Tensor:
    """The first latents of a trajectory from noise: the noise, noised once more where the schedule says so."""
    if not resolved.schedule.noises_noise:
        return noise
    again = _noise(model, tuple(noise.shape), rng)
    return resolved.begin.process.add_noise(noise, again, resolved.begin.t)


def _repainted(model: Model, resolved: Resolved, batch: Batch) -> Tensor:
    """Masks (1 = repaint) at the pixels' size, (B, 1, H, W)."""
    return torch.stack([_mask(model, resolved, row.mask) for row in batch.rows if row.mask is not None])


def _mask(model: Model, resolved: Resolved, mask: Picture) -> Tensor:
    if mask.numbers is not None:
        return mask.numbers
    return torch.from_numpy(mask_array(mask, resolved.width, resolved.height, model.multiple))[None]


def _known(model: Model, repaint: Tensor) -> Tensor:
    """The eroded mask of the known region, (B, 1, h, w) at latent size."""
    return erode(_kept(repaint, model.codec.downscale))


def _kept(repaint: Tensor, scale: int) -> Tensor:
    """Masks of the known region, (B, 1, h, w) at latent size, 1 = known."""
    size = (repaint.shape[-2] // scale, repaint.shape[-1] // scale)
    return F.interpolate(1.0 - repaint, size=size, mode="nearest")


def erode(known: Tensor) -> Tensor:
    """Keeps a latent only where it and six of its neighbours are known (B, 1, h, w); outside counts as known.

    The six are those above, below, left, right, upper left and lower right: the published inpainting networks
    were trained on masks made this way.
    """
    height, width = known.shape[-2:]
    padded = F.pad(known, (1, 1, 1, 1), value=1.0)
    result = known
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1)):
        neighbour = padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        result = torch.minimum(result, neighbour)
    return result
