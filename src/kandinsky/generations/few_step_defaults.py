"""Defaults of fewer steps than published, with the sampler and timesteps that come nearest to a thousand steps.

Measured by `benchmarks/sampler_curve.py`; a request's `sampler` and `steps` choose otherwise.
"""

from collections.abc import Mapping
from dataclasses import replace

from kandinsky.diffusion.schedule import Schedule

PUBLISHED = ("ddpm", "ddim")
"""The samplers of first order that checkpoints were published with."""
HIGHER_ORDER = ("dpmpp_2m", "dpmpp_2m_sde", "heun", "unipc")
"""Samplers of second order but PLMS, which needs the published timesteps."""
FEW_STEPS: Mapping[str, object] = {"steps": 20, "sampler": "dpmpp_2m"}

PRIOR_DEFAULTS: Mapping[str, object] = {
    "steps": 100,
    "guidance_scale": 4.0,
    "prior_steps": 25,
    "prior_guidance_scale": 4.0,
    "strength": 0.3,
}
"""The published defaults of decoders with a prior. The U-Net's config gives the size, the scheduler's config the
sampler; `FEW_STEPS` replaces some of them by default."""


def few_step_schedules(schedule: Schedule) -> dict[str, Schedule]:
    """The settings of second-order samplers on a checkpoint that was published with a first-order one; none otherwise.

    Their timesteps begin at pure noise. Published ones begin below it, the lower the fewer there are, which no order
    makes up for (Lin et al. 2023, arXiv 2305.08891, section 3.3).
    """
    if schedule.sampler not in PUBLISHED:
        return {}
    return dict.fromkeys(HIGHER_ORDER, replace(schedule, spacing="trailing", variance="fixed_small", eta=None))


def few_step_defaults(schedule: Schedule, own: Mapping[str, object]) -> Mapping[str, object]:
    """Request fields in place of the published ones; none for a checkpoint that has its `own`."""
    return FEW_STEPS if schedule.sampler in PUBLISHED and not own else {}
