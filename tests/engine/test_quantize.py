"""Weights in few bits: how far they are off, what they take, and what is said without the library."""

import sys

import pytest
import torch
from torch import nn

import kandinsky
from kandinsky.core.errors import RequestError
from kandinsky.engine.quantize import narrowed, quantize
from kandinsky.engine.weight_residency import WeightResidency
from kandinsky.networks.t5 import T5Config, T5Encoder
from kandinsky.networks.unet3 import UNet3, UNet3Condition
from tests.engine.test_offload import SMALL
from tests.families import mostly_slow
from tests.parity.oracles import redraw, relative
from tests.tiny_one_text import OneTextCheckpoints

ERROR = {"int8": (0.02, 0.05), "int4": (0.25, 0.6)}
"""Relative, of a text's states and of one prediction, by tiny random networks: they have few numbers to
average errors over, and nothing that was learned to withstand them."""


def test_without_the_library(one_text: OneTextCheckpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum.quanto", None)
    with pytest.raises(RequestError, match=r"optimum-quanto.*kandinsky-diffusion\[quantize\]"):
        one_text.ours(quantize="int8")


def test_unknown_widths(one_text: OneTextCheckpoints) -> None:
    with pytest.raises(RequestError, match=r"quantized to 'int2'.*int8"):
        one_text.ours(quantize="int2")
    with pytest.raises(RequestError, match="no memory policy"):
        kandinsky.load(offload="nowhere")


@pytest.mark.parametrize("width", mostly_slow(["int8", "int4"], "int4"))
def test_the_error_of_quantized_weights(one_text: OneTextCheckpoints, width: str) -> None:
    pytest.importorskip("optimum.quanto")
    plain, narrow = one_text.kept(), one_text.ours(quantize=width)
    x, states = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(1, 5, 20)
    told = []
    for pipe in (plain, narrow):
        unet = pipe.model.network
        assert isinstance(unet, UNet3)
        with torch.no_grad():
            told.append(unet(x, torch.tensor([500.0]), UNet3Condition(states, torch.ones(1, 5))))
    error = relative(told[1], told[0])
    print(f"U-Net, {width}: {error:.4f}")
    assert 1e-4 < error < ERROR[width][1]
    assert type(unet.conv_in) is nn.Conv2d
    assert narrow.model.modules["movq"].state_dict().keys() == plain.model.modules["movq"].state_dict().keys()
    with pytest.raises(RequestError, match=f"cannot be merged into weights with {width}"):
        narrow.merge_loras()
    assert narrow.generate("a red fox", **SMALL).request == plain.generate("a red fox", **SMALL).request
    assert narrow.settings["quantize"] == width


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_the_error_of_a_quantized_text_encoder(width: str) -> None:
    pytest.importorskip("optimum.quanto")
    torch.manual_seed(0)
    encoder = redraw(T5Encoder(T5Config(300, 128, 4, 4, 32, 256, "silu")), scale=0.03)
    ids = torch.tensor([[5, 9, 200, 37, 1]])
    with torch.no_grad():
        states = encoder(ids, torch.ones_like(ids))
        quantize(encoder, width, WeightResidency({}, torch.device("cpu"), torch.float32))
        error = relative(encoder(ids, torch.ones_like(ids)), states)
    print(f"text encoder, {width}: {error:.4f}")
    assert 1e-4 < error < ERROR[width][0]


@pytest.mark.parametrize(("width", "share"), [("int8", 0.30), ("int4", 0.19)])
def test_quantized_weights_take_less(width: str, share: float) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    torch.manual_seed(0)
    layer = nn.Linear(512, 512)
    x = torch.randn(4, 512)
    narrow = narrowed(quanto, layer, width)
    with torch.no_grad():
        error = relative(narrow(x), layer(x))
    print(f"{width}: {error:.4f}")
    assert 1e-4 < error < {"int8": 0.01, "int4": 0.12}[width]
    weight = narrow.weight
    names, _ = weight.__tensor_flatten__()

    def size(tensor: torch.Tensor) -> int:
        if hasattr(tensor, "__tensor_flatten__"):
            return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return tensor.numel() * tensor.element_size()

    assert names
    assert size(weight) < share * layer.weight.numel() * layer.weight.element_size()
