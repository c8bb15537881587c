"""Our MoVQ against diffusers' VQModel on the same weights."""

import pytest
import torch
from diffusers import VQModel

from kandinsky.checkpoints.maps.movq import MOVQ, movq_config, movq_json
from kandinsky.networks.movq import MoVQ
from tests.parity.oracles import MOVQ_PUBLISHED, MOVQ_TINY, noise, redraw, relative


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [pytest.param((1, 3, 32, 32), marks=pytest.mark.slow), (3, 3, 32, 64)])
def test_encodes_and_decodes_as_diffusers(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    oracle = redraw(VQModel(**MOVQ_TINY)).to(dtype)
    ours = MoVQ(movq_config(oracle.config)).to(dtype)
    ours.load_state_dict(MOVQ.to_native(oracle.state_dict()))
    image = noise(*shape, dtype=dtype)
    latents = noise(shape[0], 4, shape[2] // 8, shape[3] // 8, seed=1, dtype=dtype)
    with torch.no_grad():
        assert relative(ours.encode(image), oracle.encode(image).latents) < tolerance
        assert relative(ours.decode(latents), oracle.decode(latents, force_not_quantize=True).sample) < tolerance
        quantized = ours.quantize(latents)
        assert relative(ours.decode(quantized.latents), oracle.decode(latents).sample) < tolerance


def test_a_round_trip_of_names_is_the_identity() -> None:
    oracle = redraw(VQModel(**MOVQ_TINY))
    back = MOVQ.to_foreign(MOVQ.to_native(oracle.state_dict()))
    assert back.keys() == oracle.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in oracle.state_dict().items())
    config = movq_config(oracle.config)
    assert movq_config(movq_json(config)) == config
    assert movq_config(VQModel(**movq_json(config)).config) == config


def test_published_size() -> None:
    with torch.device("meta"):
        oracle = VQModel(**MOVQ_PUBLISHED)
        ours = MoVQ(movq_config(oracle.config))
    assert sum(p.numel() for p in ours.parameters()) == 67_832_495
    assert MOVQ.to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()
