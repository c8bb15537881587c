"""The folder that we write for trained networks: we read it back, and diffusers draws the same from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import KandinskyV22CombinedPipeline
from diffusers.pipelines.kandinsky2_2 import KandinskyV22Img2ImgCombinedPipeline
from PIL import Image

import kandinsky
from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.generations import Placement, k22
from kandinsky.generations.few_step_defaults import PRIOR_DEFAULTS
from kandinsky.networks.unet2 import UNet2, UNet2Config
from tests.families import mostly_slow
from tests.requests import our_conditions
from tests.tiny import DEFAULTS, WIDTH, Checkpoints, networks, write_tiny

DIFFUSERS: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 4, "prior_num_inference_steps": 3}
PROMPTS = ["a red fox", "a blue cat"]


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def pipeline_of(folder: Path, kind: Any = KandinskyV22CombinedPipeline) -> Any:
    pipeline = kind.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.prior_pipe.set_progress_bar_config(disable=True)
    pipeline.decoder_pipe.set_progress_bar_config(disable=True)
    return pipeline


def differences(ours: list[Image.Image], theirs: list[Image.Image]) -> np.ndarray:
    return np.stack(
        [np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)) for a, b in zip(ours, theirs, strict=True)]
    )


def test_what_is_written_is_read(tiny: Checkpoints) -> None:
    pipe, written = tiny.kept_own(), networks()
    names = {"unet": "unet", "movq": "movq", "prior": "prior", "text": "text_encoder", "vision": "image_encoder"}
    for name, module in written.items():
        loaded = pipe.model.modules[names[name]]
        assert loaded.config == module.config
        state = loaded.state_dict()
        assert state.keys() == module.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
        assert not loaded.training
    assert pipe.model.defaults == {**PRIOR_DEFAULTS, **DEFAULTS, "width": 64, "height": 64}
    assert pipe.model.schedule.sampler == "ddpm"


def test_half_precision_is_what_is_written_by_default(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "half", dtype=torch.float16)
    pipe = kandinsky.load(folder, device="cpu")
    written = networks()["unet"].state_dict()
    state = pipe.model.modules["unet"].state_dict()
    assert all(torch.equal(state[key], value.half().float()) for key, value in written.items())
    whole = sum(path.stat().st_size for path in write_tiny(tmp_path / "whole").rglob("*.safetensors"))
    half = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert half < 0.6 * whole


def test_diffusers_draws_the_same_image(tiny: Checkpoints) -> None:
    theirs = pipeline_of(tiny.combined)(PROMPTS, generator=generators(3, 2), **DIFFUSERS).images
    ours = tiny.kept_own(batch_size=2).generate(PROMPTS, seed=3).images
    off = differences(ours, theirs)
    assert off.max() <= 2
    assert (off > 0).mean() < 0.05


def test_diffusers_steers_away_from_the_same_embedding(tiny: Checkpoints) -> None:
    """diffusers draws other noise for negative prompts than for prompts, so the embeddings are made first."""
    pipeline, pipe = pipeline_of(tiny.combined), tiny.kept_own()
    options = {"num_inference_steps": 3, "guidance_scale": 1.0}
    fox, house = (
        pipeline.prior_pipe(text, generator=generators(3, 1), **options).image_embeds
        for text in ("a red fox", "a house")
    )
    negative = our_conditions(pipe, prompt="a red fox", negative_prompt="a house", prior_guidance_scale=1.0, seed=3)
    assert torch.allclose(negative.cond.image_embedding, fox, atol=1e-4)
    assert torch.allclose(negative.uncond.image_embedding, house, atol=1e-4)
    theirs = pipeline.decoder_pipe(
        fox, house, generator=generators(9, 1), height=64, width=64, num_inference_steps=4
    ).images
    ours = pipe.generate(kandinsky.Embedding(fox, house), seed=9).images
    assert differences(ours, theirs).max() <= 2


def test_diffusers_edits_the_same_image(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
    pipeline = pipeline_of(tiny.combined, KandinskyV22Img2ImgCombinedPipeline)
    theirs = pipeline("a red fox", image, strength=0.5, generator=generators(4, 1), **DIFFUSERS).images
    ours = pipe.generate("a red fox", image=image, strength=0.5, seed=4).images
    assert differences(ours, theirs).max() <= 2


@pytest.mark.parametrize("sampler", mostly_slow(["ddpm", "ddim", "dpmpp_2m"], "dpmpp_2m"))
def test_the_scheduler_is_that_of_the_default_sampler(sampler: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", defaults=DEFAULTS | {"sampler": sampler})
    pipe = kandinsky.load(folder, device="cpu")
    assert pipe.model.schedule.sampler == sampler
    theirs = pipeline_of(folder)(PROMPTS[0], generator=generators(5, 1), **DIFFUSERS).images
    assert differences(pipe.generate(PROMPTS[0], seed=5).images, theirs).max() <= 2


def test_samplers_that_diffusers_cannot_run_stay_ours(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", defaults=DEFAULTS | {"sampler": "unipc"})
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == "DDPMScheduler"
    pipe = kandinsky.load(folder, device="cpu")
    assert pipe.generate("a fox", seed=1).request["sampler"] == "unipc"
    assert pipeline_of(folder)("a fox", generator=generators(1, 1), **DIFFUSERS).images


def test_image_tokens_that_the_layout_cannot_say_are_refused(tmp_path: Path) -> None:
    unet = UNet2(UNet2Config(4, 8, (16, 16, 32, 32), 1, 8, 16, 8, "image", WIDTH, image_tokens=4))
    with pytest.raises(CheckpointError, match="image_tokens = 4"):
        write_tiny(tmp_path / "model", unet=unet)
    assert not (tmp_path / "model" / "model_index.json").exists()


def test_a_folder_that_is_not_finished_is_no_model(tiny: Checkpoints, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    (folder / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match="no model_index"):
        kandinsky.load(folder)


def test_a_combined_folder_serves_as_a_prior(tiny: Checkpoints) -> None:
    pipe = kandinsky.load(tiny.combined, prior=tiny.combined, device="cpu", batch_size=1)
    assert pipe.settings["prior"] == str(tiny.combined)
    ours, theirs = (p.generate("a fox", seed=1).images[0].tobytes() for p in (pipe, tiny.kept_own()))
    assert ours == theirs


def test_prior_false_loads_only_the_decoder(tiny: Checkpoints) -> None:
    pipe = kandinsky.load(tiny.combined, prior=False, device="cpu")
    assert pipe.settings["prior"] is False
    with pytest.raises(RequestError, match="without its prior"):
        pipe.generate("a fox")


def test_text_decoders_are_of_another_generation(tiny: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.combined, folder)
    path = folder / "unet" / "config.json"
    change = {"addition_embed_type": "text_image", "encoder_hid_dim_type": "text_image_proj"}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match="conditioned on text_image, not on image"):
        k22.load(open_folder(folder), None, Placement(torch.device("cpu"), torch.float32))
