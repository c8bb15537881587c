"""The generations' settings with every sampler and any number of steps, on data that are all zero."""

import math

import pytest
import torch
from torch import Tensor

from kandinsky.checkpoints.maps.scheduler import TEXT_IMAGE_SCHEDULES, decoder_schedule_json, schedule_from_json
from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.samplers import SAMPLERS, make_sampler
from kandinsky.diffusion.schedule import Schedule
from kandinsky.generations import k20, k21, k30
from tests.families import mostly_slow

# Those on which the first codes stopped with an error are among them.
STEPS = (1, 2, 3, 9, 27, 36, 37, 104, 333, 501, 1000)
SCHEDULES: dict[str, dict[str, Schedule]] = {
    "first, release": k20.release_schedules(),
    "first, head": k20.head_schedules(),
    "second, original": k21.original_schedules(replace_known_region=False),
    "second": {
        name: k21.published(schedule_from_json(TEXT_IMAGE_SCHEDULES[file]), replace_known_region=False)
        for name, file in (("ddim", "scheduler"), ("ddpm", "ddpm_scheduler"))
    },
    "newest, original": k30.original_schedules(inpaints=False),
    "third": {"ddim": schedule_from_json(decoder_schedule_json(0.00085, 0.012, clip=True))},
}


def all_zero(schedule: Schedule) -> Denoiser:
    """The ideal network of data that are all zero: whatever is there is noise."""

    def denoise(x: Tensor, t: float) -> Prediction:
        abar = schedule.process.alpha_bar_at(t)
        prediction = Prediction(torch.zeros_like(x), x / math.sqrt(1 - abar), torch.full_like(x, 0.5))
        for constraint in schedule.constraints:
            prediction = constraint.apply(prediction, x, abar)
        return prediction

    return denoise


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("name", mostly_slow(SCHEDULES, *list(SCHEDULES)[::2]))
def test_any_number_of_steps(name: str, sampler: str) -> None:
    known = SCHEDULES[name]
    schedule = known.get(sampler, known["ddim"])
    # What is left of unit noise at the end that the schedule has.
    left = math.sqrt(1 - schedule.process.alpha_bar_at(-1)) + math.sqrt(1 - schedule.process.alpha_bar_at(1))
    for steps in STEPS:
        taken = schedule.taken(steps)
        eta = taken.eta if sampler == taken.sampler else None
        made = make_sampler(sampler, taken.process, variance=taken.variance, eta=eta)
        x = torch.ones(1, 1, 1, 1)
        rng = PerImageRng.from_seeds([steps])
        *_, last = sample(made, all_zero(taken), x, taken.times(steps), rng)
        assert torch.isfinite(last.x).all(), steps
        # A single leading time is the lowest one, which takes hardly any noise away.
        assert steps == 1 or last.x.abs().max() <= 6 * left, steps
