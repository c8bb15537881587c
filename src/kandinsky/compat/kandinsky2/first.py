"""Kandinsky 2.0 by the original code's names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from PIL.Image import Image

from kandinsky.compat.kandinsky2.inputs import SIDE, change_of, repainted, sampler_name, sized
from kandinsky.compat.kandinsky2.noise import OriginalNoise
from kandinsky.compat.kandinsky2.running import Facade
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.images import round_up
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


class Kandinsky2(Facade):
    """Kandinsky 2.0; every method returns a list of PIL pictures.

    `image_size` is what input pictures are resized to; `behaviour` is which state of the original code is
    followed. `ddim_eta` acts in that of the release only.
    """

    image_size = 512
    behaviour = RELEASE

    def generate_text2img(
        self,
        prompt: str,
        num_steps: int = 100,
        batch_size: int = 1,
        guidance_scale: float = 7,
        progress: bool = True,
        dynamic_threshold_v: float = 99.5,
        denoised_type: str = "dynamic_threshold",
        h: int = 512,
        w: int = 512,
        sampler: str = "ddim_sampler",
        ddim_eta: float = 0.05,
    ) -> list[Image]:
        """Pictures of a prompt, of exactly w x h."""
        fields = self._fields(num_steps, guidance_scale, sampler, ddim_eta)
        fields |= {"count": batch_size, "width": round_up(w, SIDE), "height": round_up(h, SIDE)}
        made = self._pictures(prompt, fields, denoised_type, dynamic_threshold_v, progress, plain=0)
        return [picture.crop((0, 0, w, h)) for picture in made]

    def generate_img2img(
        self,
        prompt: str,
        pil_img: Any,
        strength: float = 0.7,
        num_steps: int = 100,
        guidance_scale: float = 7,
        progress: bool = True,
        dynamic_threshold_v: float = 99.5,
        denoised_type: str = "dynamic_threshold",
        sampler: str = "ddim_sampler",
        ddim_eta: float = 0.05,
    ) -> list[Image]:
        """A picture that keeps the more of `pil_img` the higher `strength` in 0 to 1 is."""
        size = self.image_size
        fields = self._fields(num_steps, guidance_scale, sampler, ddim_eta)
        fields |= {"image": sized(pil_img, size, size), "strength": change_of(strength)}
        fields |= {"width": size, "height": size}
        return self._pictures(prompt, fields, denoised_type, dynamic_threshold_v, progress, plain=2)

    def generate_inpainting(
        self,
        prompt: str,
        pil_img: Any,
        img_mask: Any,
        num_steps: int = 100,
        guidance_scale: float = 7,
        progress: bool = True,
        dynamic_threshold_v: float = 99.5,
        denoised_type: str = "dynamic_threshold",
        sampler: str = "ddim_sampler",
        ddim_eta: float = 0.05,
    ) -> list[Image]:
        """A picture in which `pil_img` is kept where `img_mask` is 1 and repainted elsewhere."""
        size = self.image_size
        fields = self._fields(num_steps, guidance_scale, sampler, ddim_eta)
        fields |= {"image": sized(pil_img, size, size), "mask": repainted(img_mask, size, size)}
        fields |= {"width": size, "height": size}
        return self._pictures(prompt, fields, denoised_type, dynamic_threshold_v, progress, plain=1)

    def _fields(self, steps: int, guidance_scale: float, sampler: str, eta: float) -> dict[str, Any]:
        name = sampler_name(sampler)
        fields: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": name}
        # The last state of the original code lost its eta on the way to the sampler; that state is followed.
        acts = name == "ddim" and self.behaviour == RELEASE
        return fields | {"eta": eta} if acts else fields

    def _pictures(
        self,
        prompt: str,
        fields: Mapping[str, Any],
        denoised_type: str,
        percent: float,
        progress: bool,
        plain: int,
    ) -> list[Image]:
        schedules = self._schedules(denoised_type, percent)
        model = replace(self.pipe.model, schedule=schedules["ddim"], schedules=schedules)
        return self._run(model, prompt, fields, OriginalNoise(self.noise, plain=plain), progress)

    def _schedules(self, denoised_type: str, percent: float) -> Mapping[str, Schedule]:
        if denoised_type not in BOUNDS:
            raise RequestError(
                f"There is no denoised_type {denoised_type!r}.", nearest(denoised_type, BOUNDS)
            )
        if not 0 < percent <= 100:
            raise RequestError(f"dynamic_threshold_v is {percent}.", "Give a percentage, such as 99.5.")
        pins_known = self.pipe.model.extra_channels == 0
        return self._bound(BEHAVIOURS[self.behaviour](BOUNDS[denoised_type](percent), pins_known))
