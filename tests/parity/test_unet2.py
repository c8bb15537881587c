"""Our 2.x U-Net against diffusers' UNet2DConditionModel on the same weights."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from kandinsky.checkpoints.maps.unet2 import UNET2, unet2_config, unet2_json
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from tests.families import mostly_slow
from tests.parity.oracles import UNET_PUBLISHED, UNET_TINY, noise, redraw, relative

IMAGE: dict[str, Any] = {}
INPAINT: dict[str, Any] = {"in_channels": 9}
HINT: dict[str, Any] = {"in_channels": 8, "addition_embed_type": "image_hint"}
TEXT: dict[str, Any] = {"addition_embed_type": "text_image", "encoder_hid_dim_type": "text_image_proj"}
# diffusers' text_image projections take the image embedding to be as wide as the context
TEXT_TINY = TEXT | {"encoder_hid_dim": 40}
TEXT_PUBLISHED = TEXT | {"encoder_hid_dim": 1024}


def _pair(variant: dict[str, Any], dtype: torch.dtype) -> tuple[UNet2DConditionModel, UNet2]:
    oracle = redraw(UNet2DConditionModel(**(UNET_TINY | variant))).to(dtype)
    config = unet2_config(oracle.config)
    ours = UNet2(config).to(dtype)
    ours.load_state_dict(UNET2[config.condition].to_native(oracle.state_dict()))
    return oracle, ours.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("variant", [IMAGE, INPAINT, HINT, TEXT_TINY], ids=["image", "inpaint", "hint", "text"])
@pytest.mark.parametrize(("batch", "height", "width"), mostly_slow([(1, 8, 8), (3, 8, 16)], (3, 8, 16)))
def test_denoises_as_diffusers(
    variant: dict[str, Any], dtype: torch.dtype, tolerance: float, batch: int, height: int, width: int
) -> None:
    oracle, ours = _pair(variant, dtype)
    config = ours.config
    x = noise(batch, 4, height, width, dtype=dtype)
    t = torch.tensor([981.0, 1.0, 500.0][:batch])
    embedding = noise(batch, config.image_dim, seed=1, dtype=dtype)
    added, sample, hidden = {"image_embeds": embedding}, x, None
    condition = UNet2Condition(embedding)
    if variant is INPAINT:
        extra = noise(batch, 5, height, width, seed=2, dtype=dtype)
        sample, condition = torch.cat([x, extra], 1), UNet2Condition(embedding, extra=extra)
    elif variant is HINT:
        added["hint"] = noise(batch, 3, 8 * height, 8 * width, seed=3, dtype=dtype)
        condition = UNet2Condition(embedding, hint=added["hint"])
    elif variant is TEXT_TINY:
        hidden = noise(batch, 7, 40, seed=4, dtype=dtype)
        added["text_embeds"] = noise(batch, config.image_dim, seed=5, dtype=dtype)
        condition = UNet2Condition(embedding, hidden, added["text_embeds"])
    with torch.no_grad():
        theirs = oracle(sample, t, encoder_hidden_states=hidden, added_cond_kwargs=added).sample
        assert relative(ours(x, t, condition), theirs) < tolerance


def test_prepared_steps_equal_the_whole_network() -> None:
    _, ours = _pair(HINT, torch.float64)
    condition = UNet2Condition(noise(2, 20, dtype=torch.float64), hint=noise(2, 3, 64, 64, dtype=torch.float64))
    x = noise(2, 4, 8, 8, seed=6, dtype=torch.float64)
    with torch.no_grad():
        prepared = ours.prepare(condition, [981, 500])
        for t in (981, 500, 250.5):
            whole = ours(x, torch.full((2,), float(t)), condition)
            assert relative(prepared.step(x, t), whole) < 1e-12


@pytest.mark.parametrize("variant", [IMAGE, INPAINT, HINT, TEXT_TINY], ids=["image", "inpaint", "hint", "text"])
def test_a_round_trip_of_names_is_the_identity(variant: dict[str, Any]) -> None:
    oracle, ours = _pair(variant, torch.float32)
    back = UNET2[ours.config.condition].to_foreign(ours.state_dict())
    assert back.keys() == oracle.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in oracle.state_dict().items())
    again = UNet2DConditionModel(**unet2_json(ours.config, oracle.config.sample_size))
    again.load_state_dict(back)
    assert unet2_config(again.config) == ours.config


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        (IMAGE, 1_253_057_288),
        (INPAINT, 1_253_074_568),
        (HINT, 1_253_429_212),
        (TEXT_PUBLISHED, 1_228_661_768),
        (TEXT_PUBLISHED | INPAINT, 1_228_679_048),
    ],
    ids=["image", "inpaint", "hint", "text", "text-inpaint"],
)
def test_published_sizes(variant: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        oracle = UNet2DConditionModel(**(UNET_PUBLISHED | variant))
        ours = UNet2(unet2_config(oracle.config))
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert UNET2[ours.config.condition].to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()
