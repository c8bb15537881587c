"""Every sampler against diffusers' scheduler of the same name: each step of whole paths, with its draws."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers import UnCLIPScheduler
from torch import Tensor

from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import Parametrization, epsilon
from kandinsky.diffusion.parametrization import sample as sample_reading
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import leading, linspaced, tail
from tests.diffusion.worlds import crooked_eps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
LINEAR = Process.linear(0.00085, 0.012)
COSINE = Process.squared_cosine()
SEEDS = [3, 4, 5]
# What is left in float32 is rounding. In float64 diffusers still has float32 coefficients (ROUNDED), unless a
# test lifts them to float64, which leaves the formula alone to compare (EXACT).
ROUNDED = {torch.float32: 5e-6, torch.float64: 5e-7}
EXACT = {torch.float32: 5e-6, torch.float64: 1e-12}

Network = Callable[[Tensor, float], Tensor]


def start(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4, 5, 6)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def network_of(process: Process, variance: bool = False) -> Network:
    def network(x: Tensor, t: float) -> Tensor:
        eps = crooked_eps(x, t, process)
        return torch.cat([eps, torch.tanh(x - 0.3)], dim=1) if variance else eps

    return network


def our_path(
    name: str,
    process: Process,
    network: Network,
    x: Tensor,
    times: list[int],
    *,
    parametrization: Parametrization = epsilon,
    constraint: Constraint | None = None,
    **options: Any,
) -> list[Tensor]:
    denoise = make_denoiser(network, process, parametrization, None, () if constraint is None else (constraint,))
    rng = PerImageRng.from_seeds(SEEDS, x.dtype)
    sampler = make_sampler(name, process, **options)
    return [step.x for step in sample(sampler, denoise, x, times, rng)]


def in_double(reference: Any) -> Any:
    """The same tables, but arithmetic on them in float64, so that only the formula is compared."""
    for table in ("betas", "alphas", "alphas_cumprod", "final_alpha_cumprod"):
        if hasattr(reference, table):
            setattr(reference, table, getattr(reference, table).double())
    return reference


def reference_path(reference: Any, network: Network, x: Tensor, times: list[int], **options: Any) -> list[Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    path = []
    for t in times:
        x = reference.step(network(x, t), t, x, generator=generators, **options).prev_sample
        path.append(x)
    return path


def assert_paths_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@DTYPES
@pytest.mark.parametrize("n", [1, 7, 50])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddpm_fixed_small(dtype: torch.dtype, n: int, clip: float | None) -> None:
    reference = diffusers.DDPMScheduler(
        **BETAS, steps_offset=1, timestep_spacing="leading", clip_sample=clip is not None, clip_sample_range=clip or 1.0
    )
    reference.set_timesteps(n)
    times = leading(n, 1000, 1)
    constraint = None if clip is None else Constraint(kind="static", limit=clip)
    ours = our_path("ddpm", LINEAR, network_of(LINEAR), start(dtype), times, constraint=constraint)
    theirs = reference_path(reference, network_of(LINEAR), start(dtype), times)
    assert_paths_close(ours, theirs, ROUNDED[dtype])


@DTYPES
def test_ddpm_learned_range_with_thresholding(dtype: torch.dtype) -> None:
    reference = diffusers.DDPMScheduler(
        **BETAS,
        clip_sample=False,
        thresholding=True,
        dynamic_thresholding_ratio=0.995,
        sample_max_value=2.0,
        variance_type="learned_range",
        timestep_spacing="leading",
    )
    reference.set_timesteps(20)
    times = leading(20, 1000, 0)
    network = network_of(LINEAR, variance=True)
    # Latents large enough for the threshold to act, which the last line makes sure of.
    x = 3 * start(dtype)
    constraint = Constraint(kind="percentile", ratio=0.995, max=2.0)
    ours = our_path("ddpm", LINEAR, network, x, times, constraint=constraint, variance="learned_range")
    theirs = reference_path(reference, network, x, times)
    assert_paths_close(ours[:-1], theirs[:-1], ROUNDED[dtype])
    # At time 0 diffusers takes beta from the rounded product, ours, like its other scheduler, from the table.
    assert_paths_close(ours[-1:], theirs[-1:], 3e-5)
    unbound = our_path("ddpm", LINEAR, network, x, times, variance="learned_range")
    assert not torch.allclose(unbound[-1], ours[-1], atol=1e-2)


@DTYPES
def test_ddpm_on_the_cosine_schedule_with_clipping(dtype: torch.dtype) -> None:
    reference = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", steps_offset=1, timestep_spacing="leading", clip_sample=True
    )
    reference.set_timesteps(25)
    times = leading(25, 1000, 1)
    constraint = Constraint(kind="static", limit=1.0)
    ours = our_path("ddpm", COSINE, network_of(COSINE), start(dtype), times, constraint=constraint)
    assert_paths_close(ours, reference_path(reference, network_of(COSINE), start(dtype), times), ROUNDED[dtype])


@DTYPES
@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_as_published(dtype: torch.dtype, n: int, eta: float) -> None:
    reference = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    reference.set_timesteps(n)
    if dtype == torch.float64:
        in_double(reference)
    process = dataclasses.replace(LINEAR, final_alpha_bar=LINEAR.alpha_bar_at(0))
    times = leading(n, 1000, 1)
    ours = our_path("ddim", process, network_of(process), start(dtype), times, eta=eta)
    assert_paths_close(ours, reference_path(reference, network_of(process), start(dtype), times, eta=eta), EXACT[dtype])


@pytest.mark.parametrize("rederive", [False, True])
def test_ddim_with_clipping_keeps_or_rederives_eps(rederive: bool) -> None:
    reference = diffusers.DDIMScheduler(**BETAS, clip_sample=True, steps_offset=1)
    reference.set_timesteps(10)
    times = leading(10, 1000, 1)
    constraint = Constraint(kind="static", limit=1.0, rederive_eps=rederive)
    ours = our_path("ddim", LINEAR, network_of(LINEAR), 2 * start(torch.float32), times, constraint=constraint)
    theirs = reference_path(
        reference, network_of(LINEAR), 2 * start(torch.float32), times, use_clipped_model_output=rederive
    )
    assert_paths_close(ours, theirs, 5e-6)


@DTYPES
@pytest.mark.parametrize("n", [2, 5, 25, 1000])
def test_ddpm_is_diffusers_unclip_step(dtype: torch.dtype, n: int) -> None:
    reference = UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0, variance_type="fixed_small_log")
    reference.set_timesteps(n)
    times = linspaced(n, 1000)

    def network(x: Tensor, t: float) -> Tensor:
        return 6.0 * torch.sin(0.1 * x + t / 300.0) + 5.0

    x = start(dtype, (3, 16))
    constraint = Constraint(kind="static", limit=10.0)
    ours = our_path("ddpm", COSINE, network, x, times, parametrization=sample_reading, constraint=constraint)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    theirs = []
    for i, t in enumerate(times):
        prev = times[i + 1] if i + 1 < n else None
        x = reference.step(network(x, t), t, x, generator=generators, prev_timestep=prev).prev_sample
        theirs.append(x)
    assert_paths_close(ours, theirs, ROUNDED[dtype] * (5 if n == 1000 else 1))


def sigma_space_path(reference: Any, network: Network, x: Tensor, **options: Any) -> list[Tensor]:
    """Runs a scheduler that works on x / sqrt(alpha_bar) and scales every state back to x."""
    if len(reference.timesteps) == 0:
        raise AssertionError("set the timesteps first")
    y = x * (reference.sigmas[0] ** 2 + 1) ** 0.5
    path = []
    for i, t in enumerate(reference.timesteps):
        y = reference.step(network(reference.scale_model_input(y, t), float(t)), t, y, **options).prev_sample
        path.append(y / (reference.sigmas[i + 1] ** 2 + 1) ** 0.5)
    return path


@pytest.mark.parametrize("n", [1, 7, 50])
def test_euler(n: int) -> None:
    reference = diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    reference.set_timesteps(n)
    x = start(torch.float32)
    ours = our_path("euler", LINEAR, network_of(LINEAR), x, leading(n, 1000, 1))
    assert_paths_close(ours, sigma_space_path(reference, network_of(LINEAR), x), 5e-6)


@pytest.mark.parametrize("n", [2, 7, 50])
def test_euler_ancestral(n: int) -> None:
    reference = diffusers.EulerAncestralDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    reference.set_timesteps(n)
    x = start(torch.float32)
    ours = our_path("euler_ancestral", LINEAR, network_of(LINEAR), x, leading(n, 1000, 1))
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    assert_paths_close(ours, sigma_space_path(reference, network_of(LINEAR), x, generator=generators), 5e-6)


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_heun(dtype: torch.dtype, n: int) -> None:
    reference = diffusers.HeunDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    reference.set_timesteps(n)
    times = leading(n, 1000, 1)
    x = start(dtype)
    if dtype == torch.float64:
        own = torch.tensor([LINEAR.sigma_at(t) for t in [*times, -1]], dtype=torch.float64)
        reference.sigmas = torch.cat([own[:1], own[1:-1].repeat_interleave(2), own[-1:]])
    ours = our_path("heun", LINEAR, network_of(LINEAR), x, times)
    theirs = sigma_space_path(reference, network_of(LINEAR), x)
    # diffusers takes a step in two calls, the last in one: every second state and the last are ours.
    assert_paths_close(ours, [*theirs[1:-1:2], theirs[-1]], EXACT[dtype])


@pytest.mark.parametrize("process", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("n", [2, 8, 30])
def test_dpmpp_2m(process: Process, n: int) -> None:
    # diffusers' "leading" counts n + 1 intervals, so ours is given its times; both end on a clean image.
    schedule = BETAS if process is LINEAR else {"beta_schedule": "squaredcos_cap_v2"}
    reference = diffusers.DPMSolverMultistepScheduler(
        **schedule, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    reference.set_timesteps(n)
    times = [t for t in reference.timesteps.tolist() if t <= 960]
    reference.set_timesteps(timesteps=times)
    x = start(torch.float32)
    ours = our_path("dpmpp_2m", process, network_of(process), x, times)
    assert_paths_close(ours, reference_path(reference, network_of(process), x, times), 5e-6)


@pytest.mark.parametrize("n", [2, 3, 8, 30])
def test_dpmpp_2m_sde(n: int) -> None:
    reference = diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="sde-dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    reference.set_timesteps(n)
    times = reference.timesteps.tolist()
    x = start(torch.float32)
    ours = our_path("dpmpp_2m_sde", LINEAR, network_of(LINEAR), x, times)
    assert_paths_close(ours, reference_path(reference, network_of(LINEAR), x, times), 5e-6)


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 3, 8, 30])
def test_unipc(dtype: torch.dtype, n: int) -> None:
    reference = diffusers.UniPCMultistepScheduler(**BETAS, solver_order=2, solver_type="bh2")
    reference.set_timesteps(n)
    times = reference.timesteps.tolist()
    if dtype == torch.float64:
        reference.sigmas = torch.tensor([LINEAR.sigma_at(t) for t in [*times, -1]], dtype=torch.float64)
    x = start(dtype)
    ours = our_path("unipc", LINEAR, network_of(LINEAR), x, times)
    theirs = []
    for t in times:
        x = reference.step(network_of(LINEAR)(x, t), t, x).prev_sample
        theirs.append(x)
    assert_paths_close(ours, theirs, EXACT[dtype])


@DTYPES
@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_plms(dtype: torch.dtype, n: int) -> None:
    reference = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    reference.set_timesteps(n)
    if dtype == torch.float64:
        in_double(reference)
    process = dataclasses.replace(LINEAR, final_alpha_bar=LINEAR.alpha_bar_at(0))
    x = start(dtype)
    ours = our_path("plms", process, network_of(process), x, leading(n, 1000, 1))
    theirs = []
    for t in reference.timesteps.tolist():
        x = reference.step(network_of(process)(x, t), t, x).prev_sample
        theirs.append(x)
    # diffusers' first state is its look ahead.
    assert_paths_close(ours, theirs[1:], EXACT[dtype])


def test_a_tail_of_the_times_equals_diffusers_img2img() -> None:
    reference = diffusers.DDPMScheduler(**BETAS, steps_offset=1, timestep_spacing="leading", clip_sample=False)
    reference.set_timesteps(20)
    times = tail(leading(20, 1000, 1), 0.3)
    assert len(times) == 6
    noise = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(9))
    x = LINEAR.add_noise(start(torch.float32), noise, times[0])
    torch.testing.assert_close(x, reference.add_noise(start(torch.float32), noise, torch.tensor(times[:1])))
    ours = our_path("ddpm", LINEAR, network_of(LINEAR), x, times)
    assert_paths_close(ours, reference_path(reference, network_of(LINEAR), x, times), 5e-6)
