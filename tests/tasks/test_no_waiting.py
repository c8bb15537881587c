"""What a step of the loop must not do: wait for the device, and compute again what the request fixes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.parametrization import epsilon
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import SAMPLERS, make_sampler
from kandinsky.diffusion.times import linspaced
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from tests.parity.oracles import noise, redraw

# Each reads numbers back, for which the host has to wait.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item")
CONFIG = UNet2Config(channels=(32, 64), layers=1, head_dim=32, image_dim=24, context_dim=16)


class Recorded(TorchDispatchMode):
    """The names of all operators that ran.

    Left out is how `torch.quantile` of some versions compares its own ratio with 0 and 1: it does so on the
    CPU alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name != "equal" or not _is_flag(args[0]):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def _is_flag(x: Tensor) -> bool:
    """Whether it is one truth value on the CPU."""
    return x.dtype == torch.bool and x.ndim == 0 and x.device.type == "cpu"


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_no_step_of_any_sampler_waits_for_the_device(name: str) -> None:
    network, process = redraw(UNet2(CONFIG)), Process.linear(0.00085, 0.012)
    times = linspaced(6, 1000)
    with torch.no_grad():
        prepared = network.prepare(UNet2Condition(noise(2, 24)), times)
    constraints = [Constraint("static"), Constraint("percentile", max=2.0, rederive_eps=True)]
    denoise = make_denoiser(prepared.step, process, epsilon, 4.0, constraints)
    steps = sample(make_sampler(name, process), denoise, noise(1, 4, 8, 8), times, PerImageRng.from_seeds([0]))
    next(steps)
    with Recorded() as seen:
        for _ in steps:
            pass
    assert len(seen.names) > 100
    assert not [name for name in seen.names if name in WAITS]


def test_steps_leave_out_what_the_request_fixes() -> None:
    """Counted in products of matrices: none of the condition's, of times or of scale and shift."""
    network = redraw(UNet2(CONFIG))
    ran: list[str] = []
    names = {id(module): name for name, module in network.named_modules()}
    once = {id(module) for part in network.request_modules() for module in part.modules()}
    for module in network.modules():
        if id(module) in once:
            module.register_forward_hook(lambda m, *_: ran.append(names[id(m)]))
    with torch.no_grad():
        prepared = network.prepare(UNet2Condition(noise(2, 24)), [900, 500, 100])
        assert ran.count("time_mlp") == 1  # all times at once
        assert all(ran.count(name) == 1 for name in set(ran))
        ran.clear()
        found: Tensor = prepared.step(noise(2, 4, 8, 8), 500)
        assert not ran
        prepared.step(noise(2, 4, 8, 8), 501)  # was not announced
    assert found.shape == (2, CONFIG.out_channels, 8, 8)
    assert ran.count("time_mlp") == 1
    assert not [name for name in ran if "context_kv" in name or "conditioning" in name]
