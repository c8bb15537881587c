"""Fewer steps than were published: the sampler, the times and the count that come as near to a thousand.

Measured by `benchmarks/sampler_curve.py`; what was published can be asked for by `sampler` and `steps`.
"""

from collections.abc import Mapping
from dataclasses import replace

from kandinsky.diffusion.schedule import Schedule

PUBLISHED = ("ddpm", "ddim")
"""The samplers of first order that checkpoints were published with."""
HIGHER_ORDER = ("dpmpp_2m", "dpmpp_2m_sde", "heun", "unipc")
"""Those of second order; the multistep method of noises wants times as they were published."""
FEW_STEPS: Mapping[str, object] = {"steps": 20, "sampler": "dpmpp_2m"}

PRIOR_DEFAULTS: Mapping[str, object] = {
    "steps": 100,
    "guidance_scale": 4.0,
    "prior_steps": 25,
    "prior_guidance_scale": 4.0,
    "strength": 0.3,
}
"""What decoders with a prior were published with. The size comes from the U-Net's config, the sampler from
the scheduler's, and `FEW_STEPS` instead of some of it where nothing else is asked for."""


def few_step_schedules(schedule: Schedule) -> dict[str, Schedule]:
    """The settings of samplers of second order on a checkpoint published with one of first order; none else.

    Their times begin at pure noise. Published ones begin below it, the lower the fewer there are, which no
    order makes good for (Lin et al. 2023, arXiv 2305.08891, section 3.3).
    """
    if schedule.sampler not in PUBLISHED:
        return {}
    return dict.fromkeys(HIGHER_ORDER, replace(schedule, spacing="trailing", variance="fixed_small", eta=None))


def few_step_defaults(schedule: Schedule, own: Mapping[str, object]) -> Mapping[str, object]:
    """Request fields in place of the published ones; none for a checkpoint that has its `own`."""
    return FEW_STEPS if schedule.sampler in PUBLISHED and not own else {}
