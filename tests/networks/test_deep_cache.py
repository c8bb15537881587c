"""Deep features that are kept over steps: against the network taken apart by hand, and against all of it."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Condition, UNet3Config
from tests.parity.oracles import noise, redraw, relative

TIMES = [900, 700, 500, 300, 100]
SECOND = UNet2Config(
    channels=(16, 24, 32), layers=2, head_dim=8, context_dim=16, groups=8, image_dim=12, image_tokens=4
)
THIRD = UNet3Config(channels=(16, 32, 32), layers=2, time_dim=32, head_dim=8, context_dim=24, text_dim=20, groups=4)


@dataclass
class World:
    """A random network, its condition, and its resolutions below the first."""

    network: Any
    condition: Any
    lower: list[Any]


def _second() -> World:
    torch.manual_seed(0)
    network = redraw(UNet2(SECOND), scale=0.2).double()
    lower = [*list(network.down)[1:], network.mid, *list(network.up)[:-1]]
    return World(network, UNet2Condition(noise(2, 12, dtype=torch.float64)), lower)


def _third() -> World:
    torch.manual_seed(0)
    network = redraw(UNet3(THIRD), scale=0.2).double()
    hidden = noise(2, 5, 20, dtype=torch.float64)
    condition = UNet3Condition(hidden, torch.ones(2, 5, dtype=torch.long))
    return World(network, condition, [*list(network.down)[1:], *list(network.up)[:-1]])


WORLDS = pytest.mark.parametrize("make", [_second, _third], ids=["2.x", "3.x"])


def _latents(step: int) -> Tensor:
    return noise(2, 4, 8, 8, seed=step, dtype=torch.float64)


@WORLDS
@torch.no_grad()
def test_features_of_every_time_change_nothing(make: Any) -> None:
    world = make()
    plain = world.network.prepare(world.condition, TIMES)
    kept = world.network.prepare(world.condition, TIMES, deep_at=TIMES)
    for k, t in enumerate(TIMES):
        assert torch.equal(plain.step(_latents(k), t), kept.step(_latents(k), t))


def _recorded(world: World) -> list[Any]:
    """Every call of a resolution below the first."""
    calls: list[Any] = []
    for module in world.lower:
        for block in [m for m in module.modules() if type(m).__name__ in ("Resnet", "Triple")]:
            block.register_forward_hook(lambda block, *_: calls.append(block))
    return calls


@WORLDS
@torch.no_grad()
def test_lower_resolutions_run_at_the_given_times_only(make: Any) -> None:
    world = make()
    calls = _recorded(world)
    kept = world.network.prepare(world.condition, TIMES, deep_at=[900, 500])
    ran = []
    for k, t in enumerate(TIMES):
        before = len(calls)
        kept.step(_latents(k), t)
        ran.append(len(calls) > before)
    assert ran == [True, False, True, False, False]


@torch.no_grad()
def test_a_step_with_kept_features_is_the_one_of_the_paper_on_2x() -> None:
    """Written out: what the first resolution's way up begins with is of an earlier step, all else is new."""
    world = _second()
    network, kept = world.network, world.network.prepare(world.condition, TIMES, deep_at=[900])
    entered: list[Tensor] = []
    network.up[-1].resnets[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    kept.step(_latents(0), 900)
    skip = SECOND.channels[0]
    deep = entered[0][:, :-skip]
    found = kept.step(_latents(1), 700)

    films = network.prepare(world.condition, TIMES).inputs(_latents(1), 700)[1].films
    h = network.conv_in(_latents(1))
    skips = [h]
    for block in network.down[0].resnets:
        h = block(h, films[block.index])
        skips.append(h)
    h = deep
    for block, skip in zip(network.up[-1].resnets, reversed(skips), strict=True):
        h = block(torch.cat([h, skip], 1), films[block.index])
    wanted = network.conv_out(torch.nn.functional.silu(network.norm_out(h)))
    assert relative(found, wanted) < 1e-12
    whole = network.prepare(world.condition, TIMES).step(_latents(1), 700)
    assert not torch.allclose(found, whole, rtol=1e-3)


@torch.no_grad()
def test_a_step_with_kept_features_is_the_one_of_the_paper_on_3x() -> None:
    world = _third()
    network, kept = world.network, world.network.prepare(world.condition, TIMES, deep_at=[900])
    entered: list[Tensor] = []
    network.up[-1].triples[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    kept.step(_latents(0), 900)
    deep = entered[0].chunk(2, dim=1)[0]
    found = kept.step(_latents(1), 700)

    x, fixed = network.prepare(world.condition, TIMES).inputs(_latents(1), 700)
    skip = network.down[0].down(network.conv_in(x), fixed)
    h = network.up[-1].up(torch.cat([deep, skip], 1), fixed)
    wanted = network.conv_out(torch.nn.functional.silu(network.norm_out(h)))
    assert relative(found, wanted) < 1e-12
    whole = network.prepare(world.condition, TIMES).step(_latents(1), 700)
    assert not torch.allclose(found, whole, rtol=1e-3)


def test_one_resolution_has_nothing_to_keep() -> None:
    network = UNet2(replace(SECOND, channels=(16,)))
    with pytest.raises(ConfigError, match="no deep features"):
        network.prepare(UNet2Condition(torch.zeros(1, 12)), TIMES, deep_at=TIMES)
