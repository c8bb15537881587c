"""Configurations of the U-Net and the MoVQ, both ways, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel, VQModel

from kandinsky.checkpoints.maps.config_fields import real, whole, wholes
from kandinsky.checkpoints.maps.movq import movq_config, movq_json
from kandinsky.checkpoints.maps.unet2 import unet2_config, unet2_json
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.movq import MoVQConfig
from kandinsky.networks.unet2 import UNet2Config
from tests.parity.oracles import MOVQ_TINY, UNET_TINY

UNETS = {
    "image": UNet2Config((4), 8, (32, 64), 1, 16, 24, 8, "image", 20),
    "inpaint": UNet2Config(in_channels=9),
    "hint": UNet2Config(in_channels=8, condition="image_hint"),
    "text": UNet2Config(condition="text_image", image_dim=768, image_tokens=10, text_dim=768),
}
MOVQS = [MoVQConfig(), MoVQConfig((32, 64), 1, codebook_size=7, codebook_dim=3, latent_channels=5, groups=16)]


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_there_and_back(name: str) -> None:
    config = UNETS[name]
    written = json.loads(json.dumps(unet2_json(config, 8)))
    assert unet2_config(written) == config
    assert written["sample_size"] == 8


@pytest.mark.parametrize("config", MOVQS)
def test_a_movq_there_and_back(config: MoVQConfig) -> None:
    assert movq_config(json.loads(json.dumps(movq_json(config)))) == config


def test_what_diffusers_saves(tmp_path: Path) -> None:
    UNet2DConditionModel(**UNET_TINY).save_config(tmp_path / "unet")
    VQModel(**MOVQ_TINY).save_config(tmp_path / "movq")
    unet = json.loads((tmp_path / "unet" / "config.json").read_text())
    assert unet2_config(unet).channels == UNET_TINY["block_out_channels"]
    movq = json.loads((tmp_path / "movq" / "config.json").read_text())
    assert movq_config(movq).codebook_size == MOVQ_TINY["num_vq_embeddings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "VQModel"}, "is of a VQModel, expected a UNet2DConditionModel"),
        ({"addition_embed_type": "text"}, "addition_embed_type = 'text'"),
        ({"addition_embed_type": None}, "addition_embed_type = None"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type = 'text_proj'"),
        ({"encoder_hid_dim": None}, "encoder_hid_dim = None"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "down_block_types"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type"),
        ({"norm_eps": 1e-6}, "norm_eps"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos"),
        ({"conv_in_kernel": 1}, "conv_in_kernel = 1"),
        ({"num_attention_heads": 8}, "num_attention_heads = 8"),
        ({"block_out_channels": "wide"}, "block_out_channels = 'wide'"),
        ({"block_out_channels": [32, 64, 96, -1]}, "list of positive whole numbers"),
        ({"layers_per_block": [1, 2]}, r"layers_per_block = \[1, 2\]"),
        ({"cross_attention_dim": 0}, "cross_attention_dim = 0"),
        ({"attention_head_dim": 7}, "Heads of width 7"),
        ({"norm_num_groups": 5}, "5 groups do not divide"),
    ],
)
def test_unets_that_ours_is_not(change: dict[str, Any], words: str) -> None:
    config = {"_class_name": "UNet2DConditionModel", **UNET_TINY} | change
    with pytest.raises(CheckpointError, match=words):
        unet2_config(config)


def test_a_unet_without_its_embedding_size() -> None:
    config = {key: value for key, value in UNET_TINY.items() if key != "encoder_hid_dim"}
    with pytest.raises(CheckpointError, match="encoder_hid_dim = 0"):
        unet2_config(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKL"),
        ({"norm_type": "group"}, "norm_type = 'group'"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 4}, "up_block_types"),
        ({"out_channels": 4}, "out_channels = 4"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": [32, 32, 32, 48]}, "32 groups do not divide 48 channels"),
        ({"vq_embed_dim": "4"}, "vq_embed_dim = '4'"),
        ({"num_vq_embeddings": True}, "num_vq_embeddings = True"),
    ],
)
def test_movqs_that_ours_is_not(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        movq_config(MOVQ_TINY | change)


@pytest.mark.parametrize("name", UNETS)
def test_other_numbers_of_image_tokens_are_not_dropped_silently(name: str) -> None:
    other = dataclasses.replace(UNETS[name], image_tokens=4)
    with pytest.raises(CheckpointError, match="image_tokens = 4 cannot be written"):
        unet2_json(other)


def test_widths_that_the_format_cannot_say() -> None:
    with pytest.raises(CheckpointError, match="image_dim = 640"):
        unet2_json(dataclasses.replace(UNETS["text"], image_dim=640))


def test_single_values() -> None:
    assert whole({}, "n", 3) == 3
    assert whole({"n": 0}, "n", 3, least=0) == 0
    assert wholes({"n": [1, 2]}, "n", ()) == (1, 2)
    assert real({"x": 1}, "x", 0.5, 0, 2) == 1.0
    assert real({"x": None}, "x", 0.5, 0, 2) == 0.5
    for bad in (True, "1", 3, float("nan")):
        with pytest.raises(CheckpointError, match="from 0 to 2"):
            real({"x": bad}, "x", 0.5, 0, 2)
