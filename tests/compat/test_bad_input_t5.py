"""What cannot be, on every road to the newest generation: one clear error of this library each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kandinsky
from kandinsky.checkpoints.original import open_checkpoint
from kandinsky.cli.main import run
from kandinsky.compat import diffusers as compat
from kandinsky.compat import kandinsky3
from kandinsky.core.errors import CheckpointError, KandinskyError, RequestError, TokenizerError
from kandinsky.generations import convert
from tests.compat.comparing import draw_image, hole
from tests.tiny_one_text import OneTextCheckpoints

Call = Callable[..., Any]
SMALL: dict[str, Any] = {"prompt": "p1", "width": 64, "height": 64, "steps": 1}
ORIGINAL_NAMES = {"prompt": "text", "count": "images_num"}
ORACLES_NAMES = {"steps": "num_inference_steps", "count": "num_images_per_prompt"}
IMAGES = {
    "transparent": Image.new("RGBA", (64, 64), (200, 30, 30, 128)),
    "grey": Image.new("L", (64, 64), 90),
    "16 bits": Image.fromarray(np.full((64, 64), 40_000, np.uint16)),
    "palette": Image.new("P", (64, 64), 3),
}


def named(call: Call, names: dict[str, str], without: tuple[str, ...] = ()) -> Call:
    """`call` with the fields of `SMALL` and those given, by other names."""

    def called(**fields: Any) -> Any:
        return call(**{names.get(k, k): v for k, v in (SMALL | fields).items() if k not in without})

    return called


@pytest.fixture(scope="module")
def roads(one_text: OneTextCheckpoints, third_release: Path, third_first_release: Path) -> dict[str, Call]:
    """Requests by the words of `generate`, by what makes images of them."""
    folder = one_text.ours()
    pipes = {
        "folder": folder,
        "original 3.1": kandinsky.load(third_release, device="cpu"),
        "original 3.0": kandinsky.load(third_first_release, device="cpu"),
        "flash": kandinsky.load(third_release, variant="flash", device="cpu"),
        "inpainting": kandinsky.load(third_release, variant="inpainting", device="cpu"),
    }
    oracles = compat.Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder")
    changing = compat.Kandinsky3Img2ImgPipeline.from_pipe(oracles)
    here: dict[str, Any] = {"cache_dir": third_release}
    painting = kandinsky3.get_inpainting_pipeline("cpu", **here)
    return {name: named(pipe.generate, {}) for name, pipe in pipes.items()} | {
        "names of the original": named(kandinsky3.get_T2I_pipeline("cpu", **here), ORIGINAL_NAMES),
        "names of its Flash": named(kandinsky3.get_T2I_Flash_pipeline("cpu", **here), ORIGINAL_NAMES),
        "names of its inpainting": named(painting, ORIGINAL_NAMES, ("width", "height")),
        "names of diffusers": named(oracles, ORACLES_NAMES),
        "names of its image-to-image": named(changing, ORACLES_NAMES, ("width", "height")),
    }


TEXT_ROADS = ("folder", "original 3.1", "original 3.0", "flash", "names of the original", "names of diffusers")
# By these names steps and scales of a network of few steps do nothing, as in the code that they are from.
ALL_TEXT_ROADS = (*TEXT_ROADS, "names of its Flash")
NATIVE = ("folder", "original 3.1", "original 3.0", "flash", "inpainting")
PAINTING = ("folder", "original 3.1", "original 3.0", "flash", "inpainting", "names of its inpainting")
CHANGING = ("folder", "original 3.1", "original 3.0", "flash", "names of its image-to-image")
REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "no prompts": (ALL_TEXT_ROADS, {"prompt": []}, "prompt|Give one text"),
    "a prompt that is none": (TEXT_ROADS, {"prompt": None}, "prompt is None|Give one text|There is no prompt"),
    "no width": (ALL_TEXT_ROADS, {"width": 0}, "width 0 is outside"),
    "a huge height": (ALL_TEXT_ROADS, {"height": 10**6}, "height 1000000 is outside"),
    "half a pixel": (ALL_TEXT_ROADS, {"width": 64.5}, r"width.*64\.5"),
    "steps": (TEXT_ROADS, {"steps": 1001}, "1001"),
    "no step": (TEXT_ROADS, {"steps": 0}, "steps 0 is outside"),
    "no image": (ALL_TEXT_ROADS, {"count": 0}, "(count|num_images_per_prompt) (is )?0"),
    "a scale of nothing": (TEXT_ROADS, {"guidance_scale": float("nan")}, "guidance_scale"),
    "a sampler": (NATIVE, {"sampler": "dppm"}, "Did you mean 'ddpm'"),
    "eta": (NATIVE, {"eta": 1.5}, r"eta 1\.5 is not"),
    "much strength": (CHANGING, {"image": draw_image(64, 64), "strength": 1.5}, r"strength 1\.5"),
    "no strength": (CHANGING, {"image": draw_image(64, 64), "strength": 0}, "strength 0"),
    "no file": (CHANGING, {"image": "none.png", "strength": 0.5}, r"There is no image none\.png"),
    "a number": (CHANGING, {"image": 3, "strength": 0.5}, "is not an image"),
    "an empty mask": (
        PAINTING,
        {"image": draw_image(64, 64), "mask": np.zeros((64, 64), np.float32)},
        "marks nothing to repaint",
    ),
    "a mask of another size": (
        NATIVE,
        {"image": draw_image(64, 64), "mask": np.ones((32, 64), np.float32)},
        "is 64 x 32, its image is 64 x 64",
    ),
    "a mask in colours": (
        ("names of its inpainting",),  # elsewhere it is read as grey
        {"image": draw_image(64, 64), "mask": np.ones((64, 64, 3), np.float32)},
        "is not a mask",
    ),
}
CASES = [(name, road) for name, (roads, _, _) in REFUSED.items() for road in roads]


@pytest.mark.parametrize(("name", "road"), CASES)
def test_requests(name: str, road: str, roads: dict[str, Call]) -> None:
    _, fields, words = REFUSED[name]
    if road == "inpainting" and "image" not in fields:
        fields = fields | {"image": draw_image(64, 64), "mask": hole(64, 64)}
    with pytest.raises(RequestError, match=words):
        roads[road](**fields)


def test_a_text_named_as_an_image(roads: dict[str, Call], tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("a red fox")
    for road in CHANGING:
        with pytest.raises(RequestError, match=r"notes\.png"):
            roads[road](image=tmp_path / "notes.png", strength=0.5)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("road", [*CHANGING, "inpainting", "names of its inpainting"])
def test_images_of_every_mode(kind: str, road: str, roads: dict[str, Call]) -> None:
    fields = {"mask": hole(64, 64)} if "inpainting" in road else {"strength": 1.0}
    made = roads[road](image=IMAGES[kind], **fields)
    (image,) = made if isinstance(made, list) else made.images
    assert (image.size, image.mode) == ((64, 64), "RGB")


Damage = Callable[[Path], Any]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no weights": (lambda p: shutil.rmtree(p / "movq"), "lacks the folder 'movq'"),
    "weights cut off": (lambda p: cut(p / "unet" / "diffusion_pytorch_model.safetensors"), "It was cut off"),
    "text in place of weights": (
        lambda p: (p / "movq" / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs"),
        "begins with the text",
    ),
    "no tokenizer": (lambda p: shutil.rmtree(p / "tokenizer"), "lacks the folder 'tokenizer'"),
    "no tokenizer files": (
        lambda p: [file.unlink() for file in (p / "tokenizer").iterdir() if "config" not in file.name],
        "holds no tokenizer|needs a tokenizer",
    ),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(name: str, one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    """The same error natively and by every familiar name."""
    assert one_text.oracle
    damage, words = DAMAGES[name]
    place = shutil.copytree(one_text.root / "decoder", tmp_path / "model")
    damage(place)
    for load in (
        lambda: kandinsky.load(place, device="cpu"),
        lambda: compat.Kandinsky3Pipeline.from_pretrained(place),
        lambda: compat.AutoPipelineForImage2Image.from_pretrained(place),
    ):
        with pytest.raises((CheckpointError, TokenizerError), match=words):
            load()


ORIGINALS: dict[str, tuple[Damage, str]] = {
    "weights cut off": (lambda p: cut(p / "kandinsky3.pt"), "cannot be read as weights"),
    "text in place of weights": (lambda p: (p / "movq.pt").write_text("version https://git-lfs"), r"movq\.pt"),
    "of another kind": (lambda p: shutil.copy(p / "movq.pt", p / "kandinsky3.pt"), r"kandinsky3\.pt"),
    "no tokenizer": (
        lambda p: [file.unlink() for file in p.rglob("*") if "tokenizer" in file.name or "spiece" in file.name],
        "tokenizer",
    ),
    "no projection": (lambda p: (p / "flan_ul2_encoder" / "projection.pt").unlink(), r"projection\.pt"),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_damaged_original_files(name: str, third_release: Path, tmp_path: Path) -> None:
    damage, words = ORIGINALS[name]
    place = shutil.copytree(third_release, tmp_path / "model")
    damage(place / "weights")
    for load in (
        lambda: kandinsky.load(place, device="cpu"),
        lambda: kandinsky3.get_T2I_pipeline("cpu", cache_dir=place),
    ):
        with pytest.raises(KandinskyError, match=words):
            load()


def test_inpainting_folders(third_release: Path, one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    """diffusers has no inpainting, so that its names refuse such a checkpoint, and any asks for one."""
    convert(open_checkpoint(third_release), tmp_path / "folder", "diffusers", variant="inpainting")
    pipe = compat.Kandinsky3Pipeline.from_pretrained(tmp_path / "folder")
    with pytest.raises(RequestError, match="of an inpainting checkpoint"):
        pipe("p1", width=64, height=64, num_inference_steps=1)
    with pytest.raises(KandinskyError, match="needs an image with a mask"):
        kandinsky.load(tmp_path / "folder", device="cpu").generate("p1", width=64, height=64)
    assert one_text.oracle
    with pytest.raises(KandinskyError, match="AutoPipelineForInpainting"):
        compat.AutoPipelineForInpainting.from_pretrained(one_text.root / "decoder")


def test_folders_of_few_steps(third_release: Path, tmp_path: Path) -> None:
    """diffusers has none, and would draw noise with them."""
    convert(open_checkpoint(third_release), tmp_path / "folder", "diffusers", variant="flash")
    for load in (
        compat.Kandinsky3Pipeline.from_pretrained,
        compat.Kandinsky3Img2ImgPipeline.from_pretrained,
        compat.AutoPipelineForText2Image.from_pretrained,
        compat.DiffusionPipeline.from_pretrained,
    ):
        with pytest.raises(KandinskyError, match="Kandinsky3FlashPipeline"):
            load(tmp_path / "folder")


def test_an_output_that_cannot_be_written(
    third_release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags = ["--model", str(third_release), "--device", "cpu", "--width", "64", "--height", "64"]
    with pytest.raises(SystemExit) as ended:
        run(["generate", "p1", *flags, "--steps", "1", "-o", str(tmp_path / "file" / "fox.png")])
    assert ended.value.code == 1
    assert "There is no folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
