"""What the checkpoint inside the package promises, tried on it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.kandinsky2_2 import KandinskyV22CombinedPipeline
from PIL import Image
from safetensors import safe_open

import kandinsky
from kandinsky.checkpoints.files import OWN_ADAPTERS
from kandinsky.engine.embedded import embedded_folder
from kandinsky.engine.pipeline import Pipeline
from kandinsky.recipes.emoji.captions import background_phrase
from kandinsky.recipes.emoji.vocabulary import COLOURS
from kandinsky.training.scratch.clip_model import vision_pixels
from tests.requests import our_conditions

RED_APPLE = {"en": "a red apple", "ru": "красное яблоко", "de": "ein roter Apfel", "zh": "红苹果"}
OTHERS = ("a house", "a fox", "a blue car", "a pizza", "a tree", "a fish", "the sun", "a red heart", "a star")
CORNER = 4
STYLES = Path(__file__).parent.parent / "data" / "styles"
STYLE_WORDS = ("3D", "flat", "noto", "blob")


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return kandinsky.load(device="cpu")


def embeddings(pipe: Pipeline, prompts: list[str], seed: int = 0) -> torch.Tensor:
    """What the prior makes of prompts, (B, D) of length 1."""
    found = our_conditions(pipe, prompt=prompts, seed=seed).cond.image_embedding
    return torch.nn.functional.normalize(found, dim=1)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def test_it_is_small_and_in_half_precision() -> None:
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 56_000_000
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len([path for path in weights if path.parent.name != OWN_ADAPTERS]) == 5
    for path in weights:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_its_card_and_licences_are_beside_it() -> None:
    folder = embedded_folder()
    card = (folder / "README.md").read_text("utf-8")
    assert "NOTICE" in card
    assert {"MIT", "Apache", "Unicode"} <= set((folder / "NOTICE").read_text("utf-8").replace("-", " ").split())
    numbers = json.loads((folder / "evaluation.json").read_text("utf-8"))
    for value in (
        numbers["trained"]["kid"]["value"],
        numbers["real"]["kid"]["value"],
        numbers["untrained"]["kid"]["value"],
    ):
        assert f"{value:.4f}" in card


@pytest.mark.parametrize("path", sorted((embedded_folder() / OWN_ADAPTERS).glob("*.safetensors")))
def test_own_adapters_draw_in_fewer_steps(path: Path, pipe: Pipeline) -> None:
    """Nearer to the checkpoint's usual images than the checkpoint comes in as few steps."""
    prompts = ["a red apple", "a fox", "a blue car", "a house"]
    usual = pipe.generate(prompts, seed=0)
    adapted = kandinsky.load(device="cpu", lora={path.stem: 1.0}).generate(prompts, seed=0)
    asked = {name: adapted.request[name] for name in ("steps", "guidance_scale")}
    assert asked == {"steps": 4, "guidance_scale": 1.0}
    bare = pipe.generate(prompts, seed=0, **asked)
    far, near = (
        np.mean([np.square(pixels(a) - pixels(b)).mean() for a, b in zip(images, usual.images, strict=True)])
        for images in (bare.images, adapted.images)
    )
    assert near < 0.7 * far


def test_diffusers_draws_the_same_image(pipe: Pipeline) -> None:
    oracle = KandinskyV22CombinedPipeline.from_pretrained(embedded_folder(), torch_dtype=torch.float32)
    oracle.set_progress_bar_config(disable=True)
    oracle.prior_pipe.set_progress_bar_config(disable=True)
    oracle.decoder_pipe.set_progress_bar_config(disable=True)
    theirs = oracle(
        "a red apple",
        prior_num_inference_steps=6,
        prior_guidance_scale=2.0,
        num_inference_steps=10,
        guidance_scale=3.0,
        height=64,
        width=64,
        generator=[torch.Generator().manual_seed(5)],
    ).images[0]
    ours = pipe.generate(
        "a red apple",
        seed=5,
        prior_steps=6,
        prior_guidance_scale=2.0,
        steps=10,
        guidance_scale=3.0,
        width=64,
        height=64,
    ).images[0]
    difference = np.abs(pixels(ours) - pixels(theirs))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.05


def test_four_languages_mean_the_same_apple(pipe: Pipeline) -> None:
    apple = embeddings(pipe, [RED_APPLE["en"]])[0]
    others = embeddings(pipe, list(OTHERS)) @ apple
    for language, prompt in RED_APPLE.items():
        same = embeddings(pipe, [prompt])[0]
        assert float(same @ apple) > float(others.max()), language


def test_a_red_apple_is_red() -> None:
    images = kandinsky.load(device="cpu").generate("a red apple", seed=0, count=4).images
    middle = np.stack([pixels(image)[20:50, 16:48] for image in images]).mean(axis=(0, 1, 2))
    assert middle[0] > middle[1] + 40
    assert middle[0] > middle[2] + 40


@pytest.mark.slow
def test_background_words_act(pipe: Pipeline) -> None:
    """Of twelve colours the one that was asked for, much oftener than by chance; seldom white instead."""
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), dtype=np.float64)
    asked = [colour for colour in names for _ in range(2)]
    prompts = [f"{thing} {background_phrase(colour, 'en')}" for colour in names for thing in ("a house", "a car")]
    found = []
    for image in pipe.generate(prompts, seed=0).images:
        corner = pixels(image)[:CORNER, :CORNER].mean(axis=(0, 1))
        found.append(names[int(np.square(palette - corner).sum(axis=1).argmin())])
    coloured = [got for want, got in zip(asked, found, strict=True) if want != "white"]
    assert sum(map(str.__eq__, asked, found)) >= 0.4 * len(asked), found
    assert coloured.count("white") <= 0.25 * len(coloured), found


def test_style_words_act(pipe: Pipeline) -> None:
    """Of real images of a thing in four styles, the one nearest to the prompt with a style's word is drawn
    in that style, much oftener than by chance (1 in 4)."""
    concepts = (STYLES / "concepts.txt").read_text("utf-8").splitlines()
    sheet = torch.from_numpy(np.array(Image.open(STYLES / "styles.png"))).permute(2, 0, 1).float()
    tiles = sheet.unfold(1, 64, 64).unfold(2, 64, 64).flatten(1, 2).transpose(0, 1) / 127.5 - 1
    with torch.no_grad():
        real = pipe.model.modules["image_encoder"](vision_pixels(tiles, 64))
    real = torch.nn.functional.normalize(real, dim=1).view(len(concepts), len(STYLE_WORDS), -1)
    asked = [f"{concept}, {word}" for concept in concepts for word in STYLE_WORDS]
    meant = embeddings(pipe, asked).view_as(real)
    # Beside what all images of the thing share.
    real, meant = real - real.mean(dim=1, keepdim=True), meant - real.mean(dim=1, keepdim=True)
    near = torch.nn.functional.normalize(meant, dim=2) @ torch.nn.functional.normalize(real, dim=2).mT
    right = near.argmax(dim=2) == torch.arange(len(STYLE_WORDS))
    assert right.float().mean() > 0.5, right.float().mean(dim=0).tolist()


def test_strength_says_how_much_changes(pipe: Pipeline) -> None:
    start = pipe.generate("a house", seed=1).images[0]
    changes = [
        np.abs(pixels(pipe.generate("a tree", image=start, strength=s, seed=2).images[0]) - pixels(start)).mean()
        for s in (0.2, 0.95)
    ]
    assert changes[0] < changes[1]


def test_inpainting_keeps_what_is_known(pipe: Pipeline) -> None:
    start = pipe.generate("a cat", seed=3).images[0]
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:24] = 255
    painted = pipe.generate("a hat", image=start, mask=Image.fromarray(mask), seed=4).images[0]
    change = np.abs(pixels(painted) - pixels(start)).mean(axis=(1, 2))
    assert change[40:].mean() < 12
    assert change[:24].mean() > 2 * change[40:].mean()


def test_it_loads_from_the_folder_by_path_too(pipe: Pipeline, tmp_path: Path) -> None:
    again = kandinsky.load(embedded_folder(), device="cpu")
    first, second = (p.generate("a fox", seed=8, steps=4, prior_steps=4).images[0] for p in (pipe, again))
    assert first.tobytes() == second.tobytes()
