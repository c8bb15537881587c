"""Our Gaussian autoencoder against diffusers' AutoencoderKL on the same weights."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as Oracle

from kandinsky.checkpoints.maps.kl import KL, infer_kl_config, kl_config, kl_json, original_kl_map
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.kl import AutoencoderKL, KLConfig
from tests.parity.oracles import noise, redraw, relative

PUBLISHED = KLConfig()
TINY = KLConfig(channels=(32, 32, 64), layers=1)


def _pair(config: KLConfig, dtype: torch.dtype) -> tuple[Oracle, AutoencoderKL]:
    torch.manual_seed(0)
    oracle = redraw(Oracle.from_config(kl_json(config, 0.0512))).to(dtype)
    ours = AutoencoderKL(kl_config(oracle.config)).to(dtype)
    ours.load_state_dict(KL.to_native(oracle.state_dict()))
    return oracle, ours.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 16, 32)])
@torch.no_grad()
def test_encodes_and_decodes_as_diffusers(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    oracle, ours = _pair(TINY, dtype)
    image = noise(*shape, dtype=dtype)
    mean, log_variance = ours.encode(image)
    theirs = oracle.encode(image).latent_dist
    assert mean.shape == (shape[0], 4, shape[2] // 4, shape[3] // 4)
    assert relative(mean, theirs.mean) < tolerance
    assert relative(log_variance, theirs.logvar) < tolerance
    latents = noise(*mean.shape, seed=1, dtype=dtype)
    assert relative(ours.decode(latents), oracle.decode(latents).sample) < tolerance


@torch.no_grad()
def test_the_log_variance_is_clamped() -> None:
    oracle, ours = _pair(TINY, torch.float32)
    for network in (oracle, ours):
        network.quant_conv.weight.mul_(1e4)
    image = noise(1, 3, 16, 16)
    log_variance = ours.encode(image)[1]
    assert (float(log_variance.min()), float(log_variance.max())) == (-30, 20)
    assert relative(log_variance, oracle.encode(image).latent_dist.logvar) < 1e-4


def test_a_round_trip_of_names_is_the_identity() -> None:
    oracle, ours = _pair(TINY, torch.float32)
    back = KL.to_foreign(ours.state_dict())
    assert back.keys() == oracle.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in oracle.state_dict().items())
    assert kl_config(kl_json(TINY, 1.0)) == TINY
    assert kl_json(TINY, 0.0512)["scaling_factor"] == 0.0512


def test_published_size() -> None:
    with torch.device("meta"):
        oracle = Oracle.from_config(kl_json(PUBLISHED, 0.0512))
        ours = AutoencoderKL(PUBLISHED)
    assert sum(p.numel() for p in ours.parameters()) == 83_653_863
    assert KL.to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()
    assert infer_kl_config(original_kl_map(PUBLISHED).to_foreign(ours.state_dict())) == PUBLISHED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types"),
        ({"use_quant_conv": False}, "use_quant_conv = False"),
        ({"_class_name": "VQModel"}, "is of a VQModel"),
        ({"out_channels": 4}, "out_channels = 4"),
    ],
)
def test_other_configurations_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        kl_config(kl_json(TINY, 1.0) | change)
