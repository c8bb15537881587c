"""Group norm with what follows it: each part against torch's own layers, and our kernels against them."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.networks import group_norm as norms
from kandinsky.networks.group_norm import group_norm, normed, runs_fused
from tests.parity.peers import noise, relative

GROUPS, CHANNELS = 8, 24
FORMS = ["plain", "film", "modulation"]


def layer() -> nn.GroupNorm:
    norm = nn.GroupNorm(GROUPS, CHANNELS, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(noise(CHANNELS, seed=1))
        norm.bias.copy_(noise(CHANNELS, seed=2))
    return norm


def told(form: str) -> dict[str, Tensor]:
    # A row of a table is a view of something wider.
    film = noise(2, 2 * CHANNELS + 5, seed=3)[:, : 2 * CHANNELS]
    return {
        "plain": {},
        "film": {"film": film},
        "modulation": {"modulation": noise(2, 2 * CHANNELS, 4, 5, seed=4)},
    }[form]


def expected(x: Tensor, norm: nn.GroupNorm, form: str, silu: bool) -> Tensor:
    y = norm(x)
    for name, value in told(form).items():
        if name == "film":
            scale, shift = value.to(x)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        else:
            k = x.shape[2] // value.shape[2]
            scale, shift = value.to(x).repeat_interleave(k, 2).repeat_interleave(k, 3).chunk(2, dim=1)
            y = y * scale + shift
    return y * torch.sigmoid(y) if silu else y


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_the_parts_in_their_order(form: str, silu: bool) -> None:
    x, norm = noise(2, CHANNELS, 8, 10) + 3, layer()
    own = (norm.num_groups, norm.eps, norm.weight, norm.bias)
    torch.testing.assert_close(group_norm(x, *own, **told(form), silu=silu), expected(x, norm, form, silu))


def test_a_layer_without_numbers_of_its_own_and_gradients() -> None:
    x = noise(2, CHANNELS, 3, 5).requires_grad_()
    torch.testing.assert_close(group_norm(x, GROUPS, 1e-3), F.group_norm(x, GROUPS, eps=1e-3))
    normed(layer(), x, silu=True).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_large_pictures_lose_nothing(affine: bool) -> None:
    """torch's own is off by 0.001 here, and by more the larger a picture is."""
    x = (noise(1, CHANNELS, 720, 1280) + 2).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(GROUPS, CHANNELS, eps=1e-3, affine=affine)
    if affine:
        norm = layer()
    made = normed(norm, x)
    assert (made - norm.double()(x.double())).abs().max() < 5e-6
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_kernels_are_for_half_precision_on_cuda() -> None:
    assert not runs_fused(torch.device("cpu"), torch.float16)
    assert not runs_fused(torch.device("cuda"), torch.float32)


def test_kernels_that_fail_or_are_wrong_stay_out_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")

    def kernels(function: Any) -> None:
        module = ModuleType("kernels")
        module.fused_group_norm = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kandinsky.networks.norm_kernels", module)
        norms._works.cache_clear()

    def right(x: Tensor, groups: int, eps: float, weight: Any, bias: Any, *beside: Any) -> Tensor:
        film, modulation, silu, _ = beside
        weight, bias, film, modulation = (
            None if v is None else v.float() for v in (weight, bias, film, modulation)
        )
        y = group_norm(x.float(), groups, eps, weight, bias, film=film, modulation=modulation, silu=silu)
        return y.to(x)

    def fails(*_: Any) -> Tensor:
        raise RuntimeError("no code for this device")

    monkeypatch.setattr(norms, "find_spec", lambda _: object())
    kernels(right)
    assert norms._works(cpu, torch.bfloat16)
    kernels(lambda *given: 1.1 * right(*given))
    with pytest.warns(UserWarning, match="plain layers on cpu.*they give other numbers"):
        assert not norms._works(cpu, torch.bfloat16)
    kernels(fails)
    with pytest.warns(UserWarning, match="RuntimeError: no code for this device"):
        assert not norms._works(cpu, torch.bfloat16)
    monkeypatch.setattr(norms, "find_spec", lambda _: None)
    norms._works.cache_clear()
    assert not norms._works(cpu, torch.bfloat16)
    norms._works.cache_clear()


@pytest.mark.cuda
class TestKernels:
    def test_they_are_in_use(self) -> None:
        assert runs_fused(torch.device("cuda"), torch.float16)

    @pytest.mark.parametrize("silu", [False, True])
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("side", [(8, 10), (20, 25), (132, 165)])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @torch.no_grad()
    def test_as_plain_layers(self, form: str, silu: bool, side: Any, dtype: torch.dtype) -> None:
        norm = layer().to("cuda", dtype)
        x = (
            (2 * noise(2, CHANNELS, *side) + 30)
            .to("cuda", dtype)
            .contiguous(memory_format=torch.channels_last)
        )
        given = {name: value.to("cuda", dtype) for name, value in told(form).items()}
        own = (norm.num_groups, norm.eps, norm.weight, norm.bias)
        made = group_norm(x, *own, **given, silu=silu)
        assert made.dtype == dtype
        assert made.is_contiguous(memory_format=torch.channels_last)
        exact = expected(x.double(), norm.double(), form, silu)
        limit = {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        assert relative(made.double(), exact) < limit

    @pytest.mark.parametrize(("channels", "groups"), [(32, 32), (96, 32), (3072, 32), (320, 2)])
    @torch.no_grad()
    def test_widths(self, channels: int, groups: int) -> None:
        x = noise(1, channels, 7, 9).cuda().half().contiguous(memory_format=torch.channels_last)
        made = group_norm(x, groups, 1e-5)
        assert relative(made.double(), F.group_norm(x.double(), groups, eps=1e-5)) < 1e-3

    def test_they_stand_back_where_gradients_are_recorded(self) -> None:
        x = noise(2, CHANNELS, 4, 4).cuda().half().contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        normed(layer().cuda().half(), x).float().sum().backward()
        assert x.grad is not None
