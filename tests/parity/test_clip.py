"""Our CLIP towers against transformers' on the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from kandinsky.checkpoints.maps.clip import (
    CLIP_TEXT,
    CLIP_VISION,
    clip_text_config,
    clip_text_json,
    clip_vision_config,
    clip_vision_json,
)
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from tests.parity.oracles import noise, redraw, relative

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
TEXT_TINY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 9,
    "projection_dim": 20,
    "bos_token_id": 57,
    "pad_token_id": 0,
    "eos_token_id": 58,
}
VISION_TINY: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
    "projection_dim": 20,
}


def saved(oracle: Any, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    oracle.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def ids(rows: int, length: int = 9) -> torch.Tensor:
    """Rows that end (58) at different places, padded; the last holds a learned token above the end (59)."""
    table = torch.randint(1, 57, (rows, length), generator=torch.Generator().manual_seed(3))
    table[:, 0] = 57
    for row in range(rows):
        table[row, length - 2 - row :] = 0
        table[row, length - 2 - row] = 58
    table[-1, 1] = 59
    return table


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("eos", [2, 58])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("rows", [1, 3])
def test_text_tower(dtype: torch.dtype, tolerance: float, eos: int, activation: str, rows: int, tmp_path: Path) -> None:
    options = TEXT_TINY | {"eos_token_id": eos, "hidden_act": activation}
    oracle = redraw(CLIPTextModelWithProjection(CLIPTextConfig(**options)), scale=0.2)
    options, tensors = saved(oracle, tmp_path)
    ours = ClipText(clip_text_config(options))
    ours.load_state_dict(CLIP_TEXT.to_native(tensors))
    oracle, ours, tokens = oracle.to(dtype), ours.to(dtype), ids(rows)
    with torch.no_grad():
        theirs, mine = oracle(tokens), ours(tokens)
    assert relative(mine.hidden, theirs.last_hidden_state) < tolerance
    assert relative(mine.embedding, theirs.text_embeds) < tolerance


def test_both_ways_of_pooling_differ_on_learned_tokens() -> None:
    shape = {"vocab_size": 60, "width": 24, "layers": 1, "heads": 3, "mlp_width": 40, "positions": 9}
    kinds: list[Any] = [{"eos_id": None, "pool": "argmax"}, {"eos_id": 58, "pool": "eos"}]
    towers = [ClipText(ClipTextConfig(**shape, projection=20, activation="gelu", **kind)) for kind in kinds]
    towers[1].load_state_dict(towers[0].state_dict())
    first, second = (tower(ids(2)).embedding for tower in towers)
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("rows", [1, 3])
def test_vision_tower(dtype: torch.dtype, tolerance: float, activation: str, rows: int, tmp_path: Path) -> None:
    options = VISION_TINY | {"hidden_act": activation}
    oracle = redraw(CLIPVisionModelWithProjection(CLIPVisionConfig(**options)), scale=0.2)
    options, tensors = saved(oracle, tmp_path)
    ours = ClipVision(clip_vision_config(options))
    ours.load_state_dict(CLIP_VISION.to_native(tensors))
    oracle, ours, pixels = oracle.to(dtype), ours.to(dtype), noise(rows, 3, 12, 12, dtype=dtype)
    with torch.no_grad():
        assert relative(ours(pixels), oracle(pixels).image_embeds) < tolerance


def written(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], oracle: Any) -> Any:
    """transformers built from the folder that we write, with every name accounted for."""
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    loaded, info = oracle.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return loaded.eval()


@pytest.mark.parametrize("kind", [{"eos_id": None, "pool": "argmax"}, {"eos_id": 58, "pool": "eos"}])
def test_transformers_reads_our_text_tower(kind: Any, tmp_path: Path) -> None:
    config = ClipTextConfig(60, 24, 2, 3, 40, 9, 20, "quick_gelu", **kind)
    ours = redraw(ClipText(config), scale=0.2)
    assert clip_text_config(clip_text_json(config)) == config
    foreign = CLIP_TEXT.to_foreign(ours.state_dict())
    oracle = written(tmp_path, clip_text_json(config), foreign, CLIPTextModelWithProjection)
    with torch.no_grad():
        assert relative(ours(ids(3)).embedding, oracle(ids(3)).text_embeds) < 1e-5
    back = CLIP_TEXT.to_native(foreign)
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())


def test_transformers_reads_our_vision_tower(tmp_path: Path) -> None:
    config = ClipVisionConfig(24, 2, 3, 40, 12, 4, 20, "gelu")
    ours = redraw(ClipVision(config), scale=0.2)
    assert clip_vision_config(clip_vision_json(config)) == config
    foreign = CLIP_VISION.to_foreign(ours.state_dict())
    oracle = written(tmp_path, clip_vision_json(config), foreign, CLIPVisionModelWithProjection)
    with torch.no_grad():
        pixels = noise(2, 3, 12, 12)
        assert relative(ours(pixels), oracle(pixels).image_embeds) < 1e-5
    back = CLIP_VISION.to_native(foreign)
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())


def test_transformers_builds_both_towers_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    text = ClipTextConfig(60, 24, 2, 3, 40, 9, 20, "quick_gelu", 58, "eos")
    vision = ClipVisionConfig(24, 2, 3, 40, 12, 4, 20, "gelu")
    with torch.device("meta"):
        CLIPTextModelWithProjection(CLIPTextConfig(**clip_text_json(text)))
        CLIPVisionModelWithProjection(CLIPVisionConfig(**clip_vision_json(vision)))
    assert not caplog.records


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


BIG_G: dict[str, Any] = {"hidden_act": "gelu", "projection_dim": 1280}
LARGE: dict[str, Any] = {"hidden_act": "quick_gelu", "projection_dim": 768}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (
            BIG_G
            | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20},
            694_659_840,
        ),
        (
            LARGE | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
            123_650_304,
        ),
    ],
)
def test_published_text_sizes(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        oracle = CLIPTextModelWithProjection(CLIPTextConfig(**options, eos_token_id=2))
        config = clip_text_config(oracle.config.to_dict())
        ours = ClipText(config)
    assert config.pool == "argmax"
    assert size(ours) == size(oracle) == count
    assert CLIP_TEXT.to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (
            BIG_G
            | {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16},
            1_844_907_264,
        ),
        (
            LARGE
            | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
            303_966_208,
        ),
    ],
)
def test_published_vision_sizes(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        oracle = CLIPVisionModelWithProjection(CLIPVisionConfig(**options, patch_size=14, image_size=224))
        ours = ClipVision(clip_vision_config(oracle.config.to_dict()))
    assert size(ours) == size(oracle) == count
    assert CLIP_VISION.to_foreign(ours.state_dict()).keys() == oracle.state_dict().keys()


def test_an_empty_config_means_transformers_defaults() -> None:
    text, vision = CLIPTextConfig().to_dict(), CLIPVisionConfig().to_dict()
    assert clip_text_config({}) == clip_text_config(text)
    assert clip_vision_config({}) == clip_vision_config(vision)


def test_position_ids_of_older_files_are_left_out() -> None:
    tower = ClipText(ClipTextConfig(60, 24, 1, 3, 40, 9, 20, "gelu", 58, "eos"))
    foreign = CLIP_TEXT.to_foreign(tower.state_dict())
    foreign["text_model.embeddings.position_ids"] = torch.arange(9)[None]
    assert CLIP_TEXT.to_native(foreign).keys() == tower.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "relu"}, "relu"),
        ({"architectures": ["CLIPTextModel"]}, "CLIPTextModel"),
        ({"model_type": "clip"}, "clip"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps = 'small'"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_size": "24"}, "'24'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"eos_token_id": [58, 59]}, "[58, 59]"),
    ],
)
def test_a_text_config_we_cannot_follow_is_refused(change: dict[str, Any], named: str) -> None:
    good = clip_text_json(ClipTextConfig(60, 24, 1, 3, 40, 9, 20, "gelu", 58, "eos"))
    with pytest.raises(CheckpointError) as caught:
        clip_text_config(good | change)
    assert named in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_channels": 1}, "num_channels = 1"),
        ({"patch_size": 16}, "16"),
        ({"image_size": [12, 16]}, "[12, 16]"),
        ({"architectures": ["CLIPTextModelWithProjection"]}, "CLIPTextModelWithProjection"),
    ],
)
def test_a_vision_config_we_cannot_follow_is_refused(change: dict[str, Any], named: str) -> None:
    good = clip_vision_json(ClipVisionConfig(24, 1, 3, 40, 12, 4, 20, "gelu"))
    with pytest.raises(CheckpointError) as caught:
        clip_vision_config(good | change)
    assert named in str(caught.value)
    assert caught.value.hint


def test_an_end_token_that_readers_would_misread_is_not_written() -> None:
    with pytest.raises(CheckpointError, match="2"):
        clip_text_json(ClipTextConfig(60, 24, 1, 3, 40, 9, 20, "gelu", 2, "eos"))
