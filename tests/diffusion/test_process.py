"""The forward process against diffusers' tables and against its own definition."""

import dataclasses
import math
from itertools import pairwise

import diffusers
import pytest
import torch

from kandinsky.core.errors import RequestError
from kandinsky.diffusion.process import Process

LINEAR = Process.linear(0.00085, 0.012)
COSINE = Process.squared_cosine()


def test_tables_equal_diffusers_bit_for_bit() -> None:
    reference = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012)
    assert torch.equal(LINEAR.betas, reference.betas)
    assert torch.equal(LINEAR.alpha_bar, reference.alphas_cumprod)
    reference = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    assert torch.equal(COSINE.betas, reference.betas)
    assert torch.equal(COSINE.alpha_bar, reference.alphas_cumprod)
    assert LINEAR.T == COSINE.T == 1000
    assert Process.squared_cosine(50).T == 50
    assert Process.squared_cosine(50).betas[-1].item() == pytest.approx(0.999)


def test_alpha_bar_at_whole_negative_and_fractional_times() -> None:
    assert LINEAR.alpha_bar_at(0) == LINEAR.alpha_bar[0].item()
    assert LINEAR.alpha_bar_at(999.0) == LINEAR.alpha_bar[999].item()
    assert LINEAR.alpha_bar_at(-1) == LINEAR.alpha_bar_at(-9) == 1.0
    ends_early = dataclasses.replace(LINEAR, final_alpha_bar=LINEAR.alpha_bar_at(0))
    assert ends_early.alpha_bar_at(-1) == LINEAR.alpha_bar[0].item()
    middle = LINEAR.half_log_snr_at(500.5)
    assert middle == pytest.approx((LINEAR.half_log_snr_at(500) + LINEAR.half_log_snr_at(501)) / 2, abs=1e-12)
    values = [COSINE.alpha_bar_at(i / 3) for i in range(3 * 999 + 1)]
    assert all(later < earlier for earlier, later in pairwise(values))
    for bad in (1000, 999.5, math.nan):
        with pytest.raises(RequestError, match="0 to 999"):
            LINEAR.alpha_bar_at(bad)


def test_sigma_and_log_snr_say_the_same() -> None:
    for t in (0, 7.25, 500, 999):
        assert math.exp(-LINEAR.half_log_snr_at(t)) == pytest.approx(LINEAR.sigma_at(t), rel=1e-12)
    assert LINEAR.half_log_snr_at(-1) == math.inf
    assert LINEAR.sigma_at(-1) == 0.0


def test_beta_between_is_the_table_for_neighbours_and_the_quotient_elsewhere() -> None:
    assert LINEAR.beta_between(500, 499) == LINEAR.betas[500].item()
    assert LINEAR.beta_between(500, 480) == pytest.approx(
        1 - math.prod(1 - b for b in LINEAR.betas[481:501].tolist()), rel=1e-5
    )
    assert LINEAR.beta_between(1, -1) == pytest.approx(1 - LINEAR.alpha_bar[1].item(), rel=1e-12)


@pytest.mark.parametrize("process", [LINEAR, COSINE])
def test_add_noise_and_velocity_equal_diffusers(process: Process) -> None:
    kind = "linear" if process is LINEAR else "squaredcos_cap_v2"
    reference = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=kind)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 5, 5, generator=generator)
    times = torch.tensor([3, 500, 999])
    torch.testing.assert_close(process.add_noise(x0, noise, times), reference.add_noise(x0, noise, times))
    torch.testing.assert_close(process.velocity(x0, noise, times), reference.get_velocity(x0, noise, times))
    for row, t in enumerate(times.tolist()):
        one = process.add_noise(x0[row : row + 1], noise[row : row + 1], t)
        torch.testing.assert_close(one, process.add_noise(x0, noise, times)[row : row + 1])
    assert torch.equal(process.add_noise(x0, noise, -1), x0)
    vectors = process.add_noise(x0[:, :, 0, 0], noise[:, :, 0, 0], times)
    assert vectors.shape == (3, 4)
    assert process.add_noise(x0.half(), noise.half(), times).dtype == torch.float16
