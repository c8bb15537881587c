"""The U-Nets of the original files against every recorded call of them."""

import pytest
import torch

from kandinsky.checkpoints.maps.unet2 import infer_unet2_config, original_unet2_map
from kandinsky.networks.unet2 import UNet2Config
from tests.parity.oracles import relative
from tests.reference.recorded import (
    HEAD,
    RELEASE,
    SECOND,
    comes_back,
    condition,
    facts,
    limit,
    tensors,
    unet,
    unet_file,
)

RUNS = [
    pytest.param(case, run, id=f"{case}-{run}")
    for case in (RELEASE, HEAD, SECOND)
    for run in facts(case)["runs"]
    if f"{run}.unet_x" in tensors(case)
]


@pytest.mark.parametrize("call", ["0", "1"])
@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("case", [RELEASE, SECOND])
@torch.no_grad()
def test_single_calls(case: str, inpainting: bool, call: str) -> None:
    found, more = tensors(case), {}
    group = "unet_inpaint" if inpainting else "unet"
    if inpainting:
        mask = found["unet_inpaint.mask"]
        more["extra"] = torch.cat([found["unet_inpaint.image"] * mask, mask], dim=1)
    if case == SECOND:
        more["image_embedding"] = found["unet.image_emb"]
    ours = unet(case, inpainting)(found["unet.x"], found[f"unet.t{call}"], condition(case, [0, 1], **more))
    assert relative(ours, found[f"{group}.out{call}"]) < limit(case, group)


@pytest.mark.parametrize(("case", "run"), RUNS)
@torch.no_grad()
def test_calls_of_whole_runs(case: str, run: str) -> None:
    found, more = tensors(case), {}
    x, t, out = (found[f"{run}.unet_{part}"] for part in ("x", "t", "out"))
    half = x.shape[1] // 2
    rows = [1] * (2 * half) if run.startswith("mix") else [0] * half + [1] * half
    inpainting = f"{run}.latent_mask" in found
    if inpainting:
        mask = found[f"{run}.latent_mask"]
        more["extra"] = torch.cat([found[f"{run}.init_latents"] * mask * mask, mask], dim=1)
    if case == SECOND:
        more["image_embedding"] = found[f"{run}.image_emb"]
    prepared = unet(case, inpainting).prepare(condition(case, rows, **more), [float(t[0, 0])])
    worst = max(relative(prepared.step(x[step], float(t[step, 0])), out[step]) for step in (0, len(x) // 2, len(x) - 1))
    allowed = limit(RELEASE if case == HEAD else case, "unet_inpaint" if inpainting else "unet")
    assert worst < allowed


@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("case", [RELEASE, SECOND])
def test_sizes_are_read_off_the_file_and_the_file_comes_back(case: str, inpainting: bool) -> None:
    file, wanted = unet_file(case, inpainting), facts(case)["configuration"]["unet"]
    mult = [int(m) for m in wanted["channel_mult"].split(",")]
    config = infer_unet2_config(file)
    common = {
        "in_channels": 9 if inpainting else 4,
        "out_channels": wanted["out_channels"],
        "channels": tuple(wanted["num_channels"] * m for m in mult),
        "layers": wanted["num_res_blocks"],
        "head_dim": wanted["num_head_channels"],
        "context_dim": wanted["model_dim"],
        "text_hidden_dim": wanted["text_encoder_in_dim1"],
        "text_dim": wanted["text_encoder_in_dim2"],
    }
    if case == SECOND:
        expected = UNet2Config(
            condition="text_image",
            image_dim=wanted["image_encoder_in_dim"],
            image_tokens=wanted["num_image_embs"],
            **common,
        )
    else:
        second = facts(case)["configuration"]["mt5"]["d_model"]
        expected = UNet2Config(condition="two_texts", second_text_dim=second, **common)
    assert config == expected
    assert comes_back(original_unet2_map(config), file)
