"""Our diffusion prior against diffusers' PriorTransformer on the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PriorTransformer
from safetensors.torch import load_file

from kandinsky.checkpoints.maps.prior import PRIOR, prior_config, prior_json
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from tests.parity.oracles import noise, redraw, relative

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
TINY: dict[str, Any] = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_layers": 3,
    "embedding_dim": 20,
    "num_embeddings": 7,
}


def inputs(rows: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, PriorCondition]:
    """A noisy embedding and a text whose rows are padded differently; the first row has no padding."""
    mask = torch.ones(rows, 7, dtype=torch.bool)
    for row in range(rows):
        mask[row, 7 - 2 * row :] = False
    text = PriorCondition(noise(rows, 7, 20, seed=1, dtype=dtype), noise(rows, 20, seed=2, dtype=dtype), mask)
    return noise(rows, 20, seed=3, dtype=dtype), text


def pair(folder: Path, dtype: torch.dtype) -> tuple[PriorTransformer, Prior]:
    oracle = redraw(PriorTransformer(**TINY), scale=0.2)
    oracle.save_pretrained(folder)
    options = json.loads((folder / "config.json").read_text())
    ours = Prior(prior_config(options))
    ours.load_state_dict(PRIOR.to_native(load_file(folder / "diffusion_pytorch_model.safetensors")))
    return oracle.to(dtype), ours.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("rows", [1, 3])
def test_forward_and_prepared_steps(dtype: torch.dtype, tolerance: float, rows: int, tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, dtype)
    x, text = inputs(rows, dtype)
    times = [999, 500, 42, 0]
    with torch.no_grad():
        prepared = ours.prepare(text, times)
        for t in times:
            theirs = oracle(x, t, text.text_embedding, text.text_hidden, text.text_mask).predicted_image_embedding
            assert relative(ours(x, torch.full((rows,), t), text), theirs) < tolerance
            assert relative(prepared.step(x, t), theirs) < tolerance


def test_each_row_has_its_own_time(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, torch.float32)
    x, text = inputs(3)
    t = torch.tensor([3, 999, 250])
    with torch.no_grad():
        theirs = oracle(x, t, text.text_embedding, text.text_hidden, text.text_mask).predicted_image_embedding
        assert relative(ours(x, t, text), theirs) < 1e-5


def test_a_fully_masked_text_still_equals_diffusers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, torch.float32)
    x, text = inputs(2)
    text.text_mask[1] = False
    with torch.no_grad():
        theirs = oracle(x, 7, text.text_embedding, text.text_hidden, text.text_mask).predicted_image_embedding
        assert relative(ours(x, torch.tensor([7, 7]), text), theirs) < 1e-5


def test_denormalise_as_diffusers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, torch.float64)
    x, _ = inputs(3, torch.float64)
    with torch.no_grad():
        assert torch.equal(ours.denormalise(x), oracle.post_process_latents(x))
        assert relative(ours.normalise(ours.denormalise(x)), x) < 1e-12


def test_diffusers_reads_our_prior(tmp_path: Path) -> None:
    config = PriorConfig(heads=2, head_dim=12, layers=2, embedding_dim=20, text_width=20, tokens=7)
    ours = redraw(Prior(config), scale=0.2)
    assert prior_config(prior_json(config)) == config
    (tmp_path / "config.json").write_text(json.dumps(prior_json(config)))
    foreign = PRIOR.to_foreign(ours.state_dict())
    torch.save(foreign, tmp_path / "diffusion_pytorch_model.bin")
    oracle, info = PriorTransformer.from_pretrained(
        tmp_path, use_safetensors=False, low_cpu_mem_usage=False, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    x, text = inputs(3)
    with torch.no_grad():
        theirs = oracle(x, 321, text.text_embedding, text.text_hidden, text.text_mask).predicted_image_embedding
        assert relative(ours(x, torch.full((3,), 321), text), theirs) < 1e-5
    back = PRIOR.to_native(foreign)
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(("embedding_dim", "count"), [(1280, 1_026_225_920), (768, 1_022_030_080)])
def test_published_sizes(embedding_dim: int, count: int) -> None:
    with torch.device("meta"):
        oracle = PriorTransformer(embedding_dim=embedding_dim)
        ours = Prior(prior_config(oracle.config))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in oracle.parameters()) == count
    assert PRIOR.to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()


def test_an_empty_config_means_diffusers_defaults() -> None:
    with torch.device("meta"):
        assert prior_config({}) == prior_config(PriorTransformer().config)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"norm_in_type": "layer"}, "norm_in_type = 'layer'"),
        ({"added_emb_type": "text"}, "added_emb_type = 'text'"),
        ({"encoder_hid_proj_type": "text"}, "encoder_hid_proj_type"),
        ({"embedding_proj_norm_type": "layer"}, "embedding_proj_norm_type"),
        ({"additional_embeddings": 3}, "additional_embeddings = 3"),
        ({"clip_embed_dim": 99}, "clip_embed_dim = 99"),
        ({"embedding_proj_dim": 99}, "embedding_proj_dim = 99"),
        ({"time_embed_dim": 99}, "time_embed_dim = 99"),
        ({"num_layers": 2.5}, "num_layers = 2.5"),
        ({"num_layer": 2}, "num_layer."),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    ],
)
def test_a_config_we_cannot_follow_is_refused(change: dict[str, Any], named: str) -> None:
    good = prior_json(PriorConfig(heads=2, head_dim=12, layers=2, embedding_dim=20, text_width=20))
    with pytest.raises(CheckpointError) as caught:
        prior_config(good | change)
    assert named in str(caught.value)
    assert caught.value.hint


def test_widths_that_the_format_cannot_say_are_not_written() -> None:
    with pytest.raises(CheckpointError, match="text_width = 32"):
        prior_json(PriorConfig(heads=2, head_dim=12, layers=2, embedding_dim=20, text_width=32))
