"""Packed weights: the same numbers, for requests of several steps only, and nothing else changed."""

import platform

import pytest
import torch
from torch import nn

from kandinsky.adapters.lora import Adapter, Place, attach
from kandinsky.engine.acceleration import onednn_weights
from kandinsky.engine.acceleration.networks import accelerated
from kandinsky.engine.acceleration.onednn_weights import FEWEST_STEPS, PackedLayer, prepacked
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Condition, UNet3Config
from tests.parity.oracles import noise, redraw, relative

TIMES = [float(t) for t in range(900, 900 - 100 * FEWEST_STEPS, -100)]
ONLY_X86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="packs on x86-64 only")


def unet2() -> UNet2:
    return redraw(UNet2(UNet2Config(channels=(32, 64), layers=1, head_dim=32, image_dim=24, context_dim=16)))


def unet3() -> UNet3:
    config = UNet3Config(channels=(64, 64), layers=2, time_dim=32, head_dim=32, context_dim=24, text_dim=20, groups=8)
    return redraw(UNet3(config))


def packed_in(network: nn.Module) -> int:
    return sum(isinstance(module, PackedLayer) for module in network.modules())


@ONLY_X86
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_u_nets_are_packed_and_say_the_same(dtype: torch.dtype) -> None:
    network = unet2().to(dtype)
    condition = UNet2Condition(noise(2, 24, dtype=dtype))
    x = noise(2, 4, 8, 8, seed=1, dtype=dtype)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        prepared = accelerated(network.prepare(condition, TIMES), len(TIMES))
        whole = network(x, torch.full((2,), TIMES[2]), condition)
        found = prepared.step(x, TIMES[2])
    if dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert packed_in(prepared.network) > 10
    assert relative(found.float(), whole.float()) < (1e-5 if dtype == torch.float32 else 2e-2)
    assert packed_in(network) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@ONLY_X86
def test_the_other_u_net_and_the_prior_are_packed() -> None:
    network, x = unet3(), noise(2, 4, 8, 8)
    condition = UNet3Condition(noise(2, 5, 20, seed=1), torch.ones(2, 5))
    config = PriorConfig(heads=2, head_dim=8, layers=2, embedding_dim=12, text_width=20, tokens=5)
    prior, told = (redraw(Prior(config)), PriorCondition(noise(2, 5, 20), noise(2, 12), torch.ones(2, 5).bool()))
    with torch.no_grad():
        prepared = accelerated(network.prepare(condition, TIMES), len(TIMES))
        of_prior = accelerated(prior.prepare(told, TIMES), len(TIMES))
        whole = network(x, torch.full((2,), TIMES[0]), condition)
        assert packed_in(prepared.network) > 10
        assert relative(prepared.step(x, TIMES[0]), whole) < 1e-5
        embedding = prior(noise(2, 12, seed=3), torch.full((2,), TIMES[0]), told)
        assert packed_in(of_prior.network) > 5
        assert relative(of_prior.step(noise(2, 12, seed=3), TIMES[0]), embedding) < 1e-5


def test_few_steps_and_what_cannot_be_packed_stay_plain() -> None:
    network = unet2()
    assert prepacked(network, FEWEST_STEPS - 1) is network
    wide = unet2().double()
    assert prepacked(wide, 100) is wide
    away = unet2().to("meta")
    assert prepacked(away, 100) is away
    assert prepacked(network, 100, [network]) is network


@ONLY_X86
def test_nothing_is_packed_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    network = unet2()
    needed = sum(4 * parameter.numel() for parameter in network.parameters())
    free = {"bytes": 2 * needed}
    monkeypatch.setattr(onednn_weights, "free_main_memory", lambda: free["bytes"])
    assert prepacked(network, 100) is not network
    free["bytes"] -= 1
    assert prepacked(network, 100) is network


@ONLY_X86
def test_adapted_layers_keep_their_adapters() -> None:
    network = unet2()
    path = "mid.attention.out"
    attach(network, redraw(Adapter.new(network, [Place(path)], rank=2), scale=0.5), "style")
    twin = prepacked(network, 100)
    assert twin.get_submodule(path) is network.get_submodule(path)
    assert isinstance(twin.get_submodule("mid.attention.qkv"), PackedLayer)


@ONLY_X86
@pytest.mark.parametrize("innermost", [False, True])
def test_convolutions_of_one_pixel_are_products(innermost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions: list[nn.Conv2d] = []
    own = onednn_weights._convolution
    monkeypatch.setattr(onednn_weights, "_convolution", lambda layer: convolutions.append(layer) or own(layer))
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 10, 1), nn.Conv2d(10, 4, 1, bias=False), nn.Conv2d(4, 4, 1, stride=2))
    twin = prepacked(plain, 100)
    assert packed_in(twin) == 3
    assert convolutions == [plain[2]]
    x = noise(2, 6, 5, 3)
    with torch.no_grad():
        found = twin(x.contiguous(memory_format=torch.channels_last) if innermost else x)
        assert relative(found, plain(x)) < 1e-6


@ONLY_X86
@torch.no_grad()
def test_convolutions_are_packed_for_the_size_of_their_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order for any size takes sixty times as long for 768 channels at 8 x 8 in bfloat16."""
    sizes = []
    order = torch._C._nn.mkldnn_reorder_conv2d_weight

    def watched(weight: torch.Tensor, *told: object) -> torch.Tensor:
        sizes.append(told[-1])
        return order(weight, *told)

    monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", watched)
    layer = nn.Conv2d(8, 16, 3, padding=1)
    laid_out = prepacked(nn.Sequential(layer), FEWEST_STEPS)
    assert sizes == []
    for rows, side in ((2, 8), (2, 8), (1, 12), (2, 8)):
        x = noise(rows, 8, side, side)
        assert relative(laid_out(x), layer(x)) < 1e-5
    assert sizes == [[2, 8, 8, 8], [1, 8, 12, 12], [2, 8, 8, 8]]


@ONLY_X86
def test_gradients_go_through_the_plain_layers() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 5))
    twin = prepacked(plain, 100)
    x = noise(2, 3, 4, 4).requires_grad_()
    twin(x).sum().backward()
    theirs = noise(2, 3, 4, 4).requires_grad_()
    plain(theirs).sum().backward()
    assert x.grad is not None
    assert theirs.grad is not None
    assert torch.equal(x.grad, theirs.grad)
