"""Files in the originals' naming, turned into the diffusers layout, are diffusers' networks."""

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, VQModel

from kandinsky.checkpoints.maps.movq import MOVQ, infer_movq_config, movq_json, original_movq_map
from kandinsky.checkpoints.maps.prior import (
    PRIOR,
    infer_prior_config,
    original_prior_map,
    prior_json,
    with_statistics,
    without_statistics,
)
from kandinsky.checkpoints.maps.unet2 import UNET2, infer_unet2_config, original_unet2_map, unet2_json
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from tests.parity.oracles import noise, redraw, relative

UNET = UNet2Config(
    channels=(32, 64, 64),
    layers=2,
    head_dim=16,
    context_dim=24,
    condition="text_image",
    image_dim=24,
    image_tokens=10,
    text_hidden_dim=20,
    text_dim=24,
)


@torch.no_grad()
def test_unet() -> None:
    torch.manual_seed(0)
    ours = redraw(UNet2(UNET))
    file = original_unet2_map(UNET).to_foreign(ours.state_dict())
    config = infer_unet2_config(file, head_dim=16)
    oracle = UNet2DConditionModel.from_config(unet2_json(config)).eval()
    oracle.load_state_dict(UNET2["text_image"].to_foreign(original_unet2_map(config).to_native(file)))
    x, t = noise(2, 4, 8, 8), torch.tensor([900.0, 3.0])
    told = UNet2Condition(noise(2, 24, seed=1), noise(2, 7, 20, seed=2), noise(2, 24, seed=3))
    added = {"image_embeds": told.image_embedding, "text_embeds": told.text_embedding}
    theirs = oracle(x, t, encoder_hidden_states=told.text_hidden, added_cond_kwargs=added).sample
    assert relative(ours(x, t, told), theirs) < 1e-5


@torch.no_grad()
def test_prior() -> None:
    torch.manual_seed(0)
    ours = redraw(Prior(PriorConfig(heads=3, head_dim=8, layers=2, embedding_dim=12, text_width=12, tokens=9)))
    whole = original_prior_map(ours.config).to_foreign(ours.state_dict())
    file = with_statistics(*without_statistics(whole))
    config = infer_prior_config(file, head_dim=8)
    oracle = PriorTransformer.from_config(prior_json(config)).eval()
    oracle.load_state_dict(PRIOR.to_foreign(original_prior_map(config).to_native(file)))
    x, mask = noise(2, 12), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    told = PriorCondition(noise(2, 9, 12, seed=1), noise(2, 12, seed=2), mask)
    theirs = oracle(x, 7, told.text_embedding, told.text_hidden, told.text_mask).predicted_image_embedding
    assert relative(ours(x, torch.tensor([7]), told), theirs) < 1e-5
    assert torch.equal(oracle.clip_std, ours.clip_std)


@torch.no_grad()
def test_movq() -> None:
    torch.manual_seed(0)
    ours = redraw(MoVQ(MoVQConfig(channels=(32, 32, 64), layers=1, codebook_size=16)))
    file = original_movq_map(ours.config).to_foreign(ours.state_dict())
    config = infer_movq_config(file)
    oracle = VQModel.from_config(movq_json(config)).eval()
    oracle.load_state_dict(MOVQ.to_foreign(original_movq_map(config).to_native(file)))
    image, latents = noise(1, 3, 16, 24), noise(1, 4, 4, 6, seed=1)
    assert relative(ours.encode(image), oracle.encode(image).latents) < 1e-5
    assert relative(ours.decode(latents), oracle.decode(latents, force_not_quantize=True).sample) < 1e-5
