"""The original files at their published sizes, and files that are not what they should be."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.clip import (
    ORIGINAL_CLIP_TEXT,
    ORIGINAL_CLIP_VISION,
    infer_clip_text_config,
    infer_clip_vision_config,
)
from kandinsky.checkpoints.maps.kl import infer_kl_config
from kandinsky.checkpoints.maps.movq import infer_movq_config, original_movq_map
from kandinsky.checkpoints.maps.prior import infer_prior_config, original_prior_map, without_statistics
from kandinsky.checkpoints.maps.unet2 import infer_unet2_config, original_unet2_map
from kandinsky.checkpoints.weights import load_strict
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Config
from tests.parity.oracles import redraw

TWO_TEXTS = UNet2Config(condition="two_texts", text_dim=640)
TEXT_IMAGE = UNet2Config(condition="text_image", image_dim=768, image_tokens=10)
PRIOR = PriorConfig(heads=32, head_dim=64, layers=20, embedding_dim=768, text_width=768)
CLIP_TEXT = ClipTextConfig(49408, 768, 12, 12, 3072, 77, 768, "quick_gelu", None, "argmax")
CLIP_VISION = ClipVisionConfig(1024, 24, 16, 4096, 224, 14, 768, "quick_gelu")

NORMS = ("ln_model1", "ln_model2", "ln_model3")

# The numbered blocks of the published U-Nets: (has a 1x1 skip, has attention, ends with another block).
INPUTS = [None] + [(i in (5, 9, 13), i > 4 and i not in (8, 12), False) for i in range(1, 16)]
OUTPUTS = [(True, i < 12, i in (3, 7, 11)) for i in range(16)]


def _meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _block_names() -> set[str]:
    """The U-Nets' published tensors but those of the condition, written out from the table of blocks."""

    def both(*places: str) -> set[str]:
        return {f"{place}.{part}" for place in places for part in ("weight", "bias")}

    def resnet(place: str, skip: bool) -> set[str]:
        layers = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
        return both(*(f"{place}.{layer}" for layer in layers + ["skip_connection"] * skip))

    def attention(place: str) -> set[str]:
        return both(*(f"{place}.{layer}" for layer in ("norm", "qkv", "encoder_kv", "proj_out")))

    names = both("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2")
    names |= resnet("middle_block.0", False) | attention("middle_block.1") | resnet("middle_block.2", False)
    for kind, blocks in (("input_blocks", INPUTS), ("output_blocks", OUTPUTS)):
        for number, block in enumerate(blocks):
            if block is not None:
                skip, attends, second = block
                names |= resnet(f"{kind}.{number}.0", skip)
                names |= attention(f"{kind}.{number}.1") if attends else set()
                names |= resnet(f"{kind}.{number}.2", False) if second else set()
    return names


@pytest.mark.parametrize(
    ("config", "condition", "count"),
    [
        (TWO_TEXTS, {"proj", "proj2", "to_model_dim", "to_model_dim2", *NORMS}, 604),
        (TEXT_IMAGE, {"clip_to_seq", "to_model_dim_n", "proj_n", "ln_model_n", "img_layer"}, 594),
    ],
)
@pytest.mark.parametrize("channels", [4, 9])
def test_published_unets(config: UNet2Config, condition: set[str], count: int, channels: int) -> None:
    config = replace(config, in_channels=channels)
    file = original_unet2_map(config).to_foreign(_meta(lambda: UNet2(config)).state_dict())
    assert len(file) == count
    blocks = _block_names()
    assert blocks <= file.keys()
    assert {name.split(".")[0] for name in file.keys() - blocks} == condition
    assert file["input_blocks.5.1.qkv.weight"].shape == (3 * 768, 768, 1)
    assert file["input_blocks.5.1.encoder_kv.weight"].shape == (2 * 768, 768, 1)
    assert infer_unet2_config(file) == config


def test_published_prior() -> None:
    prior = _meta(lambda: Prior(PRIOR))
    file, statistics = without_statistics(original_prior_map(PRIOR).to_foreign(prior.state_dict()))
    assert len(file) == 256
    assert sum(tensor.numel() for tensor in file.values()) == 1_022_028_544
    assert all(name.startswith("model.") for name in file)
    assert [vector.shape for vector in statistics] == [(768,), (768,)]
    assert infer_prior_config(file) == PRIOR


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(MoVQConfig(), 67_832_495), (MoVQConfig(channels=(256, 512, 512, 1024), codebook_size=0), 270_603_567)],
)
def test_published_movqs(config: MoVQConfig, parameters: int) -> None:
    network = _meta(lambda: MoVQ(config))
    assert _parameters(network) == parameters
    later = config.codebook_size == 0
    file = original_movq_map(config, wrapped=later).to_foreign(network.state_dict())
    assert ("encoder.mid.attn_1.norm.norm_layer.weight" in file) is later
    assert file["decoder.up.3.attn.0.q.weight"].shape == (config.channels[-1], config.channels[-1], 1, 1)
    assert infer_movq_config(file) == config


def test_published_clip() -> None:
    text, vision = _meta(lambda: ClipText(CLIP_TEXT)), _meta(lambda: ClipVision(CLIP_VISION))
    assert (_parameters(text), _parameters(vision)) == (123_650_304, 303_966_208)
    file = ORIGINAL_CLIP_TEXT.to_foreign(text.state_dict())
    file |= ORIGINAL_CLIP_VISION.to_foreign(vision.state_dict())
    assert infer_clip_text_config(file) == CLIP_TEXT
    assert infer_clip_vision_config(file) == CLIP_VISION
    extra = {name: torch.tensor(224) for name in ("input_resolution", "context_length", "vocab_size")}
    of_text = {name: tensor for name, tensor in file.items() if not name.startswith("visual.")}
    assert ORIGINAL_CLIP_TEXT.to_native(of_text | extra).keys() == text.state_dict().keys()


SMALL = UNet2Config(
    channels=(32, 64, 96),
    layers=2,
    head_dim=16,
    context_dim=24,
    condition="text_image",
    image_dim=20,
    image_tokens=3,
    text_hidden_dim=10,
    text_dim=12,
)


def _small() -> dict[str, Tensor]:
    native = redraw(UNet2(SMALL)).state_dict()
    return original_unet2_map(SMALL).to_foreign(native)


def test_any_plan_of_levels_comes_back() -> None:
    file = _small()
    config = infer_unet2_config(file, head_dim=16)
    assert config == SMALL
    back = original_unet2_map(config).to_foreign(_load(file).state_dict())
    assert back.keys() == file.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in file.items())


def test_types_are_kept() -> None:
    file = {name: t.half() if t.ndim > 2 else t for name, t in _small().items()}
    key_map = original_unet2_map(SMALL)
    back = key_map.to_foreign(key_map.to_native(file))
    assert all(back[name].dtype == tensor.dtype for name, tensor in file.items())


def _load(file: Mapping[str, Tensor]) -> UNet2:
    config = infer_unet2_config(file, head_dim=16)
    return load_strict(lambda: UNet2(config), original_unet2_map(config).to_native(file))


def _without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda file: {name: tensor for name, tensor in file.items() if name not in names}


def _without_block_four(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in file.items() if "output_blocks.4." not in name}


def _attention_on_top(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**file, "input_blocks.1.1.norm.weight": torch.ones(32)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("clip_to_seq.weight"), "neither clip_to_seq.weight nor to_model_dim2.weight"),
        (_without("middle_block.1.encoder_kv.weight"), "no tensor middle_block.1.encoder_kv.weight"),
        (_without("output_blocks.2.2.in_layers.0.weight"), "9 output_blocks for 2 levels"),
        (_without_block_four, "no tensors of output_blocks.4"),
        (lambda file: {}, "begins with output_blocks.0"),
        (lambda file: {**file, "proj_n.weight": torch.ones(3)}, r"proj_n.weight has the shape \(3,\)"),
        (_attention_on_top, "names this network does not know: input_blocks.1.1.norm.weight"),
        (_without("out.0.bias"), "1 missing"),
        (lambda file: {**file, "out.0.bias": torch.ones(7)}, "1 of another shape"),
    ],
)
def test_unets_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], words: str
) -> None:
    file = change(_small())
    with pytest.raises(CheckpointError, match=words):
        _load(file)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(CheckpointError, match="Heads of width 20 do not divide"):
        infer_unet2_config(_small(), head_dim=20)


def test_conditions_without_an_original_file_are_refused() -> None:
    with pytest.raises(CheckpointError, match="condition = 'image' has no place in an original file"):
        original_unet2_map(UNet2Config())


@pytest.mark.parametrize(
    ("infer", "tensors", "words"),
    [
        (infer_kl_config, {"encoder.down.0.x": torch.ones(1)}, "no tensor encoder.conv_out.weight"),
        (
            infer_kl_config,
            {"encoder.down.0.x": torch.ones(1), "encoder.conv_out.weight": torch.ones(5, 1, 1, 1)},
            "5 channels",
        ),
        (infer_movq_config, {}, "begins with encoder.down.0"),
        (infer_prior_config, {"model.out_proj.weight": torch.ones(4, 100)}, "do not divide a width of 100"),
        (infer_clip_text_config, {"token_embedding.weight": torch.ones(5)}, "expected 2 axes"),
        (
            infer_clip_vision_config,
            {"visual.conv1.weight": torch.ones(64, 3, 2, 2), "visual.positional_embedding": torch.ones(8, 64)},
            "7 patches, which make no square",
        ),
    ],
)
def test_other_files_are_refused(
    infer: Callable[[dict[str, Tensor]], Any], tensors: dict[str, Tensor], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        infer(tensors)


def test_maps_refuse_names_of_other_networks() -> None:
    maps: list[KeyMap] = [original_unet2_map(SMALL), original_prior_map(PRIOR), original_movq_map(MoVQConfig())]
    for key_map in maps:
        with pytest.raises(CheckpointError, match=r"not know: unknown\.weight"):
            key_map.to_native({"unknown.weight": torch.ones(1)})
