"""Kandinsky 2.0 by the original code's names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from PIL.Image import Image

from kandinsky.compat.calls import generating
from kandinsky.compat.kandinsky2.facade import Facade
from kandinsky.compat.kandinsky2.inputs import inputs_of, sampler_name
from kandinsky.compat.originals import OriginalNoise
from kandinsky.core.errors import RequestError, nearest
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.schedule import Schedule
from kandinsky.generations.k20 import BEHAVIOURS, CLIPPING

BOUNDS: dict[str, Callable[[float], Constraint | None]] = {
    "dynamic_threshold": lambda percent: Constraint("percentile", ratio=percent / 100, max=float("inf")),
    "clip_denoised": lambda _: CLIPPING,
    "none": lambda _: None,
}
"""What predictions are bound by, from `denoised_type` and `dynamic_threshold_v`."""
RELEASE = next(iter(BEHAVIOURS))
"""The behaviour that the published examples were made with."""


DEFAULTS: dict[str, object] = {
    "batch_size": 1,
    "ddim_eta": 0.05,
    "denoised_type": "dynamic_threshold",
    "dynamic_threshold_v": 99.5,
    "guidance_scale": 7,
    "h": 512,
    "num_steps": 100,
    "progress": True,
    "sampler": "ddim_sampler",
    "strength": 0.7,
    "w": 512,
}
"""What a parameter is unless it is given; all others are required."""

made = generating(DEFAULTS)


class Kandinsky2(Facade):
    """Kandinsky 2.0; every method returns a list of PIL images.

    `image_size` is what input images are resized to; `behaviour` is which state of the original code is
    followed. `ddim_eta` acts in that of the release only.
    """

    image_size = 512
    behaviour = RELEASE

    generate_text2img = made(
        "prompt num_steps batch_size guidance_scale progress dynamic_threshold_v denoised_type h w sampler ddim_eta",
        "Images of a prompt, of exactly w x h.",
        "generate_text2img",
    )
    generate_img2img = made(
        "prompt pil_img strength num_steps guidance_scale progress dynamic_threshold_v denoised_type sampler ddim_eta",
        "An image that keeps the more of `pil_img` the higher `strength` in 0 to 1 is.",
        "generate_img2img",
    )
    generate_inpainting = made(
        "prompt pil_img img_mask num_steps guidance_scale progress dynamic_threshold_v denoised_type sampler ddim_eta",
        "An image in which `pil_img` is kept where `img_mask` is 1 and repainted elsewhere.",
        "generate_inpainting",
    )

    def _generate(self, given: dict[str, Any]) -> list[Image]:
        """The images of any of the three tasks, told apart by the inputs they have."""
        given = {"w": self.image_size, "h": self.image_size, "batch_size": 1, **given}
        fields: dict[str, Any] = {"count": given["batch_size"], **inputs_of(given, given["w"], given["h"])}
        # The last state of the original code lost its eta on the way to the sampler; that state is followed.
        if sampler_name(given["sampler"]) == "ddim" and self.behaviour == RELEASE:
            fields["eta"] = given["ddim_eta"]
        # What an input image draws before anything is doubled: its encoding, and then its noise.
        plain = len(fields.keys() & {"image", "strength"})
        schedules = self._schedules(given["denoised_type"], given["dynamic_threshold_v"])
        model = replace(self.model, schedule=schedules["ddim"], schedules=schedules)
        noise = OriginalNoise(self.noise, 0, axes=2, doubled=True, plain=plain)
        return self._images(model, given["prompt"], given, fields, noise, given["progress"])

    def _schedules(self, denoised_type: str, percent: float) -> Mapping[str, Schedule]:
        if denoised_type not in BOUNDS:
            raise RequestError(f"There is no denoised_type {denoised_type!r}.", nearest(denoised_type, BOUNDS))
        if not 0 < percent <= 100:
            raise RequestError(f"dynamic_threshold_v is {percent}.", "Give a percentage, such as 99.5.")
        replace_known_region = self.model.extra_channels == 0
        return self._bound(BEHAVIOURS[self.behaviour](BOUNDS[denoised_type](percent), replace_known_region))
