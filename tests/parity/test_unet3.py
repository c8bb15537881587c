"""Our 3.x U-Net against diffusers' Kandinsky3UNet on the same weights."""

from typing import Any

import pytest
import torch
from diffusers import Kandinsky3UNet

from kandinsky.checkpoints.maps.unet3 import unet3_config, unet3_json, unet3_map
from kandinsky.networks.unet3 import UNet3, UNet3Condition
from tests.families import mostly_slow
from tests.parity.oracles import noise, redraw, relative

# diffusers builds attentions by the position of a level among four.
TINY: dict[str, Any] = {
    "block_out_channels": (16, 32, 32, 64),
    "layers_per_block": 2,
    "time_embedding_dim": 32,
    "groups": 4,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "encoder_hid_dim": 20,
}


def _pair(dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Kandinsky3UNet, UNet3]:
    torch.manual_seed(0)
    oracle = redraw(Kandinsky3UNet(**(TINY | changes)), scale=0.1).to(dtype)
    config = unet3_config(oracle.config)
    ours = UNet3(config).to(dtype)
    ours.load_state_dict(unet3_map(config).to_native(oracle.state_dict()))
    return oracle, ours.eval()


def _condition(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = noise(rows, 7, 20, seed=4, dtype=dtype)
    mask = torch.ones(rows, 7, dtype=torch.long)
    for row in range(rows):
        mask[row, 6 - 2 * row :] = 0
    return hidden, mask


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize(("batch", "height", "width"), mostly_slow([(1, 8, 8), (3, 8, 16)], (3, 8, 16)))
@torch.no_grad()
def test_denoises_as_diffusers(
    dtype: torch.dtype, tolerance: float, layers: int, batch: int, height: int, width: int
) -> None:
    oracle, ours = _pair(dtype, layers_per_block=layers)
    x = noise(batch, 4, height, width, dtype=dtype)
    t = torch.tensor([981.0, 1.0, 500.0][:batch])
    hidden, mask = _condition(batch, dtype)
    theirs = oracle(x, t, hidden * mask[..., None], mask).sample
    assert relative(ours(x, t, UNet3Condition(hidden, mask)), theirs) < tolerance


@torch.no_grad()
def test_a_text_masked_as_a_whole_acts_as_in_diffusers() -> None:
    oracle, ours = _pair(torch.float64)
    x, t = noise(2, 4, 8, 8, dtype=torch.float64), torch.tensor([400.0, 400.0])
    hidden, mask = _condition(2, torch.float64)
    hidden[0], mask[0] = 0, 0
    theirs = oracle(x, t, hidden * mask[..., None], mask).sample
    assert relative(ours(x, t, UNet3Condition(hidden, mask)), theirs) < 1e-9


def test_a_round_trip_of_names_is_the_identity() -> None:
    oracle, ours = _pair()
    back = unet3_map(ours.config).to_foreign(ours.state_dict())
    assert back.keys() == oracle.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in oracle.state_dict().items())
    again = Kandinsky3UNet(**{k: v for k, v in unet3_json(ours.config).items() if k != "_class_name"})
    again.load_state_dict(back)
    assert unet3_config(again.config) == ours.config


def test_published_size() -> None:
    with torch.device("meta"):
        oracle = Kandinsky3UNet()
        ours = UNet3(unet3_config(oracle.config))
    assert sum(p.numel() for p in ours.parameters()) == 3_055_348_228
    assert unet3_map(ours.config).to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()
