"""Each stage on a GPU: in half precision, from images and from encodings, resumed, and finished."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import draw_images, small_config

import kandinsky
from kandinsky.training import events, run_config
from kandinsky.training.checkpoint import newest
from kandinsky.training.context import TrainContext

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    draw_images(folder / "images")
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """All four stages, on which the tests of one stage build."""
    config = small_config(root, out=str(root / "whole"), device="cuda")
    said = list(run_config(config))
    assert said[-1] == events.Exported(root / "whole" / "checkpoint")
    return root / "whole"


def trains(root: Path, out: Path, whole: Path, stage: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Runs one stage two steps, resumes it for two more, and returns its finite running means."""
    uses = {name: str(whole / name) for name in ("movq", "clip")}
    stage = {"batch": 4, "save_every": 2, "log_every": 1, "sample_every": 2, "uses": uses, **stage}
    stage |= {"precision": "bf16", "channels_last": stage["method"] in ("movq", "decoder")}
    for steps in (2, 4):
        config = small_config(root, out=str(out), device="cuda", tokenizer=str(whole / "tokenizer"))
        said = list(run_config(config | {"stage": [{**stage, "max_steps": steps}]}, resume=steps == 4))
        assert isinstance(said[-1], events.Finished)
        assert all(math.isfinite(value) for value in said[-1].losses.values())
    assert next(event.step for event in said if isinstance(event, events.Started)) == 2
    found = newest(out / stage["method"] / "checkpoints").checkpoint
    assert found is not None
    assert all(value.isfinite().all() for file in found.tensors.values() for value in file.values())
    return found.tensors[f"{stage['method']}.ema"]


@pytest.mark.parametrize("objective", [{"crop": 12, "latent_noise": 0.1}, {"adversarial": 0.1}])
def test_the_autoencoder(objective: dict[str, Any], root: Path, tmp_path: Path, whole: Path) -> None:
    trains(root, tmp_path, whole, {"method": "movq", "augmentation": "full", "objective": objective})


@pytest.mark.parametrize(
    "objective",
    [
        {"contrastive": 0.0, "concepts": 1.0, "looks": 0.3, "sketch": 3.0},
        {"lock": "vision", "concepts_text": 0.5, "text_pairs": 0.5, "per_concept": 2},
    ],
)
def test_the_towers(objective: dict[str, Any], root: Path, tmp_path: Path, whole: Path) -> None:
    trains(root, tmp_path, whole, {"method": "clip", "augmentation": "full", "objective": objective})


@pytest.mark.parametrize("variants", [0, 2])
@pytest.mark.parametrize("times", ["uniform", "second_moment"])
def test_the_prior(variants: int, times: str, root: Path, tmp_path: Path, whole: Path) -> None:
    stage = {"method": "prior", "variants": variants, "objective": {"times": times}}
    means = trains(root, tmp_path, whole, stage)
    assert (means["clip_std"] > 0).all()


@pytest.mark.parametrize("variants", [0, 2])
@pytest.mark.parametrize("objective", [{"min_snr": 5.0}, {"target": "v", "times": "second_moment"}])
def test_the_decoder(variants: int, objective: dict[str, Any], root: Path, tmp_path: Path, whole: Path) -> None:
    trains(root, tmp_path, whole, {"method": "decoder", "variants": variants, "objective": objective})


def test_images_live_on_the_gpu_and_the_model_is_usable_without_one(root: Path, whole: Path) -> None:
    from kandinsky.training.config.run import read_config

    ctx = TrainContext(read_config(small_config(root)), torch.device("cuda"))
    assert ctx.data.split(16)[0].plain([0]).is_cuda
    assert not ctx.data.split(16)[0].planes.stored.is_cuda, "images are not all held by the card"
    pipe = kandinsky.load(str(whole / "checkpoint"), device="cpu")
    assert pipe.generate("red circle", seed=0, steps=2, prior_steps=2).images[0].size == (16, 16)
