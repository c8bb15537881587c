"""Autoencoders in strips of rows: the same numbers as of the whole image, from less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kandinsky
from kandinsky.codecs import strips
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec, in_strips
from kandinsky.codecs.strips import Strips
from kandinsky.networks.kl import AutoencoderKL, KLConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from tests.parity.oracles import noise, redraw

WIDTHS = (32, 32, 64)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.03}


def movq(tiling: Any = True, dtype: torch.dtype = torch.float32) -> AutoencoderCodec:
    torch.manual_seed(0)
    return AutoencoderCodec(redraw(MoVQ(MoVQConfig(channels=WIDTHS, codebook_size=0)), 1).to(dtype), tiling=tiling)


def kl(tiling: Any = True, dtype: torch.dtype = torch.float32) -> AutoencoderCodec:
    torch.manual_seed(0)
    return AutoencoderCodec(redraw(AutoencoderKL(KLConfig(channels=WIDTHS)), 1).to(dtype), 0.2, tiling)


CODECS = {"movq": movq, "kl": kl}


def difference(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("area", [1, 100, 36 * 5, 2**17])
def test_strips_of_any_height_give_the_whole(kind: str, area: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "AREA", area)
    latents, images = noise(2, 4, 9, 7), noise(2, 3, 36, 28, seed=1).clamp(-1, 1)
    whole, striped = CODECS[kind](False), CODECS[kind](True)
    assert difference(striped.decode(latents), whole.decode(latents)) < 1e-5
    assert difference(striped.encode(images), whole.encode(images)) < 1e-5


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_other_precisions(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "AREA", 100)
    latents, images = noise(1, 4, 6, 5).to(dtype), noise(1, 3, 24, 20, seed=1).to(dtype)
    for make in CODECS.values():
        whole, striped = make(False, dtype), make(True, dtype)
        assert difference(striped.decode(latents), whole.decode(latents)) < TOLERANCE[dtype]
        assert difference(striped.encode(images), whole.encode(images)) < TOLERANCE[dtype]


def test_means_far_from_zero_cost_no_digits() -> None:
    x = 300 + noise(2, 8, 20, 6)
    gathered = Strips(20, groups=4)
    for part in x.split((1, 7, 12), dim=2):
        gathered.add(part)
    flat = x.double().reshape(2, 4, -1)
    mean, variance = gathered.moments()
    assert torch.allclose(mean, flat.mean(2), rtol=1e-6)
    assert torch.allclose(variance, flat.var(2, correction=0), rtol=1e-4)


class Counting(nn.Module):
    """A convolution that keeps the largest input it was given."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, x.shape[2] * x.shape[3])
        made: Tensor = self.own(x)
        return made


def test_no_activation_of_the_full_size_is_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "AREA", 32 * 4)
    codec = movq()
    level = codec.network.decoder.up[-1]
    counting = Counting(level.resnets[0].conv1)
    level.resnets[0].conv1 = counting
    codec.decode(noise(1, 4, 8, 8))
    assert counting.largest == 32 * 6  # four rows and one on either side


@pytest.mark.parametrize(("level", "shortcut"), [(-1, False), (-2, True)])
def test_activations_go_while_the_next_ones_come(level: int, shortcut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "AREA", 32)
    block: Any = movq().network.decoder.up[level].resnets[0]  # type: ignore[union-attr, index]
    assert (block.shortcut is not None) == shortcut
    made: list[Strips] = []
    kept: list[int] = []
    begin, add = Strips.__init__, Strips.add

    def watched(this: Strips, *arguments: Any, **named: Any) -> None:
        begin(this, *arguments, **named)
        made.append(this)

    def counted(this: Strips, rows: Tensor) -> None:
        add(this, rows)
        kept.append(sum(len(one._parts) for one in made))

    monkeypatch.setattr(Strips, "__init__", watched)
    monkeypatch.setattr(Strips, "add", counted)
    x = Strips(32, 32)
    for part in noise(1, block.conv1.in_channels, 32, 32).split(1, dim=2):
        x.add(part)
    strips._resnet(block, x, noise(1, 4, 8, 8))
    # Never more than two activations, and the strips around those that are read.
    assert 2 * 32 <= max(kept) <= 2 * 32 + 3
    assert len(x._parts) <= 1


def test_large_images_alone_are_in_strips_of_themselves() -> None:
    assert not in_strips("auto", 1024 * 1024)
    assert in_strips("auto", 1024 * 1032)
    assert in_strips(True, 64)
    assert not in_strips(False, 2**30)


@pytest.mark.parametrize("kind", CODECS)
def test_a_batch_is_coded_one_by_one(kind: str) -> None:
    latents = noise(3, 4, 4, 5)
    together = CODECS[kind]().decode(latents)
    for index in range(3):
        assert torch.equal(CODECS[kind]().decode(latents[index : index + 1])[0], together[index])


@pytest.mark.parametrize("tiling", [0, "yes", None, 512])
def test_other_settings_are_refused(tiling: Any) -> None:
    with pytest.raises(kandinsky.RequestError, match="tiling is"):
        strips.check_tiling(tiling)
