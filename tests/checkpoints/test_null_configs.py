"""A null in a config.json means what the key's absence means, in every network."""

from typing import Any

import pytest

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.maps import networks
from kandinsky.checkpoints.maps.scheduler import ONE_TEXT_SCHEDULES, TEXT_IMAGE_SCHEDULES, schedule_from_json
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.networks.kl import KLConfig
from kandinsky.networks.movq import MoVQConfig
from kandinsky.networks.prior import PriorConfig
from kandinsky.networks.t5 import T5Config
from kandinsky.networks.unet2 import UNet2Config
from kandinsky.networks.unet3 import UNet3Config
from kandinsky.networks.xlmr import MultilingualClipConfig

CONFIGS: dict[str, tuple[Component, Any]] = {
    "unet": (networks.UNET, UNet2Config()),
    "unet of 3.0": (networks.UNET3, UNet3Config()),
    "movq": (networks.MOVQ, MoVQConfig()),
    "kl": (networks.KL, KLConfig()),
    "prior": (networks.PRIOR, PriorConfig(heads=2, head_dim=8, layers=1, embedding_dim=20, text_width=20)),
    "text": (networks.CLIP_TEXT, ClipTextConfig(60, 24, 1, 3, 40, 9, 20, "gelu", 58, "eos")),
    "vision": (networks.CLIP_VISION, ClipVisionConfig(24, 1, 3, 40, 32, 8, 20, "quick_gelu")),
    "multilingual": (networks.MULTILINGUAL, MultilingualClipConfig()),
    "t5": (networks.ONE_TEXT, T5Config(60, 24, 1, 3, 8, 40, "gelu_tanh")),
}


def said(read: Any, json: dict[str, Any]) -> Any:
    """What a configuration is read as, or that it is refused."""
    try:
        return read(json)
    except CheckpointError:
        return None


@pytest.mark.parametrize("name", CONFIGS)
def test_networks(name: str) -> None:
    spec, config = CONFIGS[name]
    json = dict(spec.write(config))
    assert spec.read(json) == config
    read = 0
    for key in json:
        missing = said(spec.read, {other: value for other, value in json.items() if other != key})
        assert said(spec.read, {**json, key: None}) == missing, key
        read += missing is not None
    assert read


@pytest.mark.parametrize("json", [*TEXT_IMAGE_SCHEDULES.values(), *ONE_TEXT_SCHEDULES.values()])
def test_schedulers(json: dict[str, Any]) -> None:
    for key in json:
        missing = said(schedule_from_json, {other: value for other, value in json.items() if other != key})
        found = said(schedule_from_json, {**json, key: None})
        assert (found is None) == (missing is None), key
        if found is not None:
            assert found.times(7) == missing.times(7)
            assert (found.process.alpha_bar == missing.process.alpha_bar).all()
            assert (found.constraints, found.variance, found.prediction_type) == (
                missing.constraints,
                missing.variance,
                missing.prediction_type,
            )
