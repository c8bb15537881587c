"""Learning to repaint: regions, widened decoders, where losses count, and the checkpoints that come out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import draw_images, step_context
from test_finetuning import OBJECTIVES, build, config, exported

import kandinsky
from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.checkpoints.original import open_checkpoint
from kandinsky.core.errors import ConfigError
from kandinsky.generations import convert
from kandinsky.tasks.start import erode, region_condition
from kandinsky.training import run_config
from kandinsky.training.data.random_masks import random_regions
from kandinsky.training.finetune.base_checkpoint import open_base
from kandinsky.training.finetune.tuning import group_of
from kandinsky.training.finetune.widen_unet import place_weights, widened
from kandinsky.training.objectives.denoising import squared_error
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

INPAINTING: dict[str, Any] = {"inpainting": {"box": 0.5}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("inpainting") / "images")


def test_regions_are_drawn_from_the_generator_alone() -> None:
    def regions(seed: int) -> torch.Tensor:
        return random_regions(40, 48, 64, 0.1, torch.Generator().manual_seed(seed))

    found = regions(0)
    assert found.shape == (40, 1, 48, 64)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(found, regions(0))
    assert not torch.equal(found, regions(1))
    shares = found.mean((1, 2, 3))
    assert bool((shares > 0).all())
    # Some small, some large.
    assert float(shares.min()) < 0.2
    assert float(shares.max()) > 0.5


def test_boxes_are_boxes() -> None:
    for region in random_regions(20, 32, 32, 1.0, torch.Generator().manual_seed(0))[:, 0]:
        rows, columns = region.any(1), region.any(0)
        assert torch.equal(region.bool(), rows[:, None] & columns[None])


def test_sample_grids_are_drawn_by_the_widened_decoder(images: Path, tmp_path: Path) -> None:
    """The pipeline went on running the network that was loaded, which takes no regions."""
    ctx, _ = build(config(images, tmp_path, "full", objective=INPAINTING))
    base = open_base(ctx, ctx.config.stage[0])
    assert base.model.extra_channels == 5
    assert base.pipe.running.network.config == base.model.network.config


def test_a_widened_decoder_says_what_it_said() -> None:
    model = kandinsky.load(device="cpu", dtype="float32").model
    wide = widened(model, "extend")
    assert wide.extra_channels == 5
    assert wide.modules["unet"] is wide.network
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    given = model.conditioner  # the networks alone are compared
    assert given is wide.conditioner
    from kandinsky.networks.unet2 import UNet2Condition

    embedding = torch.randn(1, 256, generator=torch.Generator().manual_seed(1))
    plain = UNet2Condition(embedding)
    extra = replace(plain, extra=torch.randn(1, 5, 16, 16, generator=torch.Generator().manual_seed(2)))
    t = torch.tensor([500])
    with torch.no_grad():
        before = model.network(x, t, plain)  # type: ignore[operator]
        assert torch.allclose(wide.network(x, t, extra), before, atol=1e-5)  # type: ignore[operator]
        anew = widened(model, "new")
        assert not torch.allclose(anew.network(x, t, extra), before, atol=1e-3)  # type: ignore[operator]
    with pytest.raises(ConfigError, match="takes 9 channels"):
        widened(wide, "extend")


def test_what_training_tells_is_what_inference_tells() -> None:
    model = widened(kandinsky.load(device="cpu", dtype="float32").model, "extend")
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    repaint = random_regions(2, 64, 64, 0.1, torch.Generator().manual_seed(1))
    given = region_condition(model, None, latents, repaint)
    known = erode(1 - repaint[..., ::4, ::4])
    assert torch.equal(given, torch.cat([latents * known, known], dim=1))


def test_losses_count_inside_the_mask() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1
    output, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    output[..., 2:, :] = 3
    output[..., :2, :] = 2
    counted = place_weights(mask, output, 0.0)
    assert float(squared_error(output, target, counted)) == pytest.approx(4.0)
    # Half the places count a quarter: (4 + 9 / 4) / (1 + 1 / 4).
    assert float(squared_error(output, target, place_weights(mask, output, 0.25))) == pytest.approx(5.0)
    assert float(squared_error(output, target)) == pytest.approx(6.5)


def test_nothing_is_learned_outside_the_mask(images: Path, tmp_path: Path) -> None:
    objective = {"masked": "alpha", "adapter": {"rank": 1}}
    _, task = build(config(images, tmp_path, "lora", objective=objective))
    batch = task.data.batch([0, 1], torch.Generator().manual_seed(0))
    assert batch.alpha is not None
    assert batch.alpha.shape == (2, 1, 32, 32)
    empty = replace(batch, alpha=torch.zeros_like(batch.alpha))
    loss = task.trainables[0].loss
    with torch.no_grad():
        assert float(loss(step_context(empty)).total) == 0
        assert float(loss(step_context(batch)).total) > 0


def test_a_text_to_image_decoder_becomes_one_for_inpainting(images: Path, tmp_path: Path) -> None:
    objective = INPAINTING | {"masked": "region", "outside": 0.5, "frozen": ["resblocks"]}
    values = config(images, tmp_path, "full", objective=objective, sample_every=3)
    result = exported(run_config(values))
    assert open_folder(result.path).kind == "KandinskyV22InpaintCombinedPipeline"
    pipe = kandinsky.load(result.path, device="cpu")
    assert pipe.model.extra_channels == 5
    base = kandinsky.load(device="cpu")
    ours, theirs = (p.model.modules["unet"] for p in (pipe, base))
    frozen = group_of(theirs, "resblocks")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in frozen} == {
        "norm1",
        "conv1",
        "film",
        "norm2",
        "conv2",
    }
    learned, kept = ours.state_dict(), theirs.state_dict()
    assert all(torch.equal(learned[name], kept[name]) for name in frozen)
    assert not torch.equal(learned["down.1.attentions.0.qkv.weight"], kept["down.1.attentions.0.qkv.weight"])
    image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    drawn = pipe.generate("a disc", image=image, mask=mask, seed=1, steps=2, prior_steps=2).images[0]
    assert np.abs(np.asarray(drawn)[:, 48:].astype(int) - (255, 0, 0)).mean() < 60
    assert list((tmp_path / "full").rglob("*.png"))
    # Such a decoder learns on by itself; adapters of it too.
    values = config(images, tmp_path / "more", "lora", objective={"adapter": {"rank": 1}})
    exported(run_config(values | {"model": {"name": str(result.path)}}))


def test_original_names_of_groups() -> None:
    network = kandinsky.load(device="cpu").model.modules["unet"]
    names = group_of(network, "attention")
    assert {name.split(".")[-2] for name in names} == {"qkv", "out"}
    both = names | group_of(network, "resblocks")
    assert not any("context_kv" in name or "shortcut" in name for name in both)


def test_the_newest_generation_repaints(one_text: OneTextCheckpoints, images: Path, tmp_path: Path) -> None:
    one_text.ours()
    values = config(images, tmp_path, "full", objective=INPAINTING | {"frozen": ["attention", "resblocks"]})
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(one_text.root / "decoder")}
    result = exported(run_config(values))
    pipe = kandinsky.load(result.path, device="cpu", dtype="float32")
    assert (pipe.model.extra_channels, pipe.model.tells_region) == (5, "masked_image")
    image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    given: dict[str, Any] = {"image": image, "mask": mask, "width": 64, "height": 64, "steps": 2}
    assert pipe.generate("a", seed=1, **given).images[0].size == (64, 64)
    values["variants"] = 1
    with pytest.raises(ConfigError, match="variants = 0"):
        [*run_config(values | {"out": str(tmp_path / "kept")})]


def test_earlier_generations_repaint(
    first_release: Path, text_image: TextImageCheckpoints, images: Path, tmp_path: Path
) -> None:
    text_image.ours()
    convert(open_checkpoint(first_release), tmp_path / "first", "diffusers")
    models = {
        "KandinskyTwoTextsPipeline": {"name": str(tmp_path / "first")},
        "KandinskyInpaintPipeline": {"name": str(text_image.root / "decoder"), "prior": str(text_image.root / "prior")},
    }
    for kind, model in models.items():
        values = config(images, tmp_path / kind, "full", objective=INPAINTING | {"frozen": ["resblocks"]})
        values["data"] = {"folder": str(images), "size": 64}
        result = exported(run_config(values | {"model": model, "max_steps": 1}))
        assert open_folder(result.path).kind == kind
        pipe = kandinsky.load(result.path, **_beside(model), device="cpu", dtype="float32")
        assert pipe.model.extra_channels == 5
        image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
        given: dict[str, Any] = {"image": image, "mask": mask, "width": 64, "height": 64, "steps": 1}
        assert pipe.generate("p0", seed=1, **given).images[0].size == (64, 64)


def _beside(model: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name == "prior"}


def test_a_published_inpainting_decoder_learns(tiny: Checkpoints, images: Path, tmp_path: Path) -> None:
    tiny.ours("inpaint")
    values = config(images, tmp_path, "lora", objective={"adapter": {"rank": 1}}, variants=1)
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(tiny.root / "inpaint"), "prior": str(tiny.root / "prior")}
    assert exported(run_config(values)).use == "--lora"


@pytest.mark.parametrize("method", ["dreambooth", "textual_inversion"])
def test_such_a_decoder_draws_sheets_and_its_class(
    method: str, text_image: TextImageCheckpoints, images: Path, tmp_path: Path
) -> None:
    text_image.ours("inpainting")
    objectives: dict[str, dict[str, Any]] = {
        "dreambooth": OBJECTIVES["dreambooth"] | {"target": "decoder"},
        "textual_inversion": {"token": "zwxq", "init_from": "a"},
    }
    values = config(images, tmp_path, method, objective=objectives[method], max_steps=1, sample_every=1)
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = {"name": str(text_image.root / "inpainting"), "prior": str(text_image.root / "prior")}
    exported(run_config(values))
    assert list((tmp_path / method / "samples").glob("*.png"))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("lora", {"objective": INPAINTING}, "Adapters cannot hold"),
        ("full", {"objective": {"target": "prior"} | INPAINTING}, "only the prior learns"),
        ("full", {"objective": {"masked": "region"}}, "repaints none"),
        ("full", {"objective": {"masked": "alpha"}, "variants": 2}, "variants = 0|images themselves"),
    ],
)
def test_mistakes(method: str, changes: dict[str, Any], message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        [*run_config(config(images, tmp_path / "run", method, **changes))]
