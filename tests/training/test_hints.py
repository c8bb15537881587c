"""Learning to follow hint images: given ones, edges, and the checkpoints and adapters that come out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from small import draw_images
from test_finetuning import OBJECTIVES, build, config, exported

import kandinsky
from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.cli.main import run
from kandinsky.core.errors import ConfigError, DataError, KandinskyError
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.tasks.start import hint_condition
from kandinsky.training import run_config
from kandinsky.training.data.folder import read_folder
from kandinsky.training.data.hints import edge_hints, with_hints
from kandinsky.training.data.images import Augmentation, open_images
from kandinsky.training.finetune.widen_unet import with_controlnet
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints

EDGES: dict[str, Any] = {"control": {"hints": "edges"}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("hints") / "images")


@pytest.fixture(scope="module")
def hints(images: Path) -> Path:
    """The alpha of each image, under its name."""
    folder = images.parent / "hints"
    folder.mkdir()
    for path in images.glob("*.png"):
        Image.open(path).getchannel("A").save(folder / path.with_suffix(".bmp").name)
    return folder


def of(model: Path, prior: Path) -> dict[str, str]:
    return {"name": str(model), "prior": str(prior)}


def test_hints_are_placed_as_their_images_are(images: Path, hints: Path) -> None:
    folder = with_hints(read_folder(images), hints)
    found = open_images(folder, 32)
    assert found.hints is not None
    moving = Augmentation(mirror=1.0, move=1.0, pair=0.3, white=1.0)
    batch = found.batch(range(12), torch.Generator().manual_seed(0), moving)
    assert batch.hints is not None
    assert batch.hints.shape == (12, 3, 32, 32)
    # The hint of each image is its alpha, so that wherever it was put they stay the same.
    assert torch.allclose(batch.hints, batch.alpha.expand(-1, 3, -1, -1), atol=1e-5)
    assert not torch.equal(batch.hints, found.batch(range(12), torch.Generator(), Augmentation()).hints)
    half = found.where(torch.arange(12) < 6)
    assert half.hints is not None
    rows = torch.arange(6)
    assert torch.equal(half.hints[rows], found.hints[rows])


def test_a_hint_is_padded_or_cut_as_its_image_is(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "hints").mkdir()
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8), (30, 1)))
    clear = Image.merge("RGBA", [ramp, ramp, ramp, Image.new("L", ramp.size, 255)])
    clear.putpixel((0, 0), (0, 0, 0, 0))
    for name, image in (("cut", ramp), ("padded", clear)):
        image.save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "images" / f"{name}.txt").write_text(name)
        ramp.save(tmp_path / "hints" / f"{name}.png")
    found = open_images(with_hints(read_folder(tmp_path / "images"), tmp_path / "hints"), 30)
    assert found.hints is not None
    cut, padded = found.hints[torch.tensor([0, 1])][:, 0]
    assert torch.equal(cut, found.planes[torch.tensor([0])][0, 0])
    assert int(padded[0].max()) == 0
    assert int(padded[15].max()) > int(cut.max())


def test_hints_of_metadata(images: Path, hints: Path, tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}-bar.png", "caption": "a bar", "hint": f"{n}-bar.bmp"} for n in (0, 1)]
    for row in rows:
        shutil.copy(images / row["file_name"], tmp_path)
        shutil.copy(hints / row["hint"], tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert open_images(tmp_path, 32).hints is not None
    (tmp_path / "metadata.jsonl").unlink()
    lines = ["file_name,caption,conditioning_image", *(",".join(row.values()) for row in rows)]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert open_images(tmp_path, 32).hints is not None
    (tmp_path / "metadata.csv").write_text("\n".join([*lines[:2], "1-bar.png,a bar,"]))
    with pytest.raises(DataError, match=r"'1-bar.png' has no hint"):
        open_images(tmp_path, 32)
    Image.new("L", (40, 32)).save(tmp_path / "1-bar.bmp")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="other proportions"):
        open_images(tmp_path, 32)


def test_training_sees_the_edges_that_a_user_makes(images: Path) -> None:
    plain = open_images(images, 32).plain([0])
    shown = Image.fromarray(((plain[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    ours = edge_hints(plain)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(kandinsky.edges(shown)), ours * 255)


def test_a_decoder_that_is_shown_hints_says_what_it_said() -> None:
    model = kandinsky.load(device="cpu", dtype="float32").model
    shown = with_controlnet(model, "extend")
    assert shown.hints
    assert shown.extra_channels == 0
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = UNet2Condition(torch.randn(1, 256, generator=torch.Generator().manual_seed(1)))
    # The embedded codec has 4 pixels a latent; the network looks at 8.
    hint = hint_condition(shown, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    assert hint.shape == (1, 3, 128, 128)
    t = torch.tensor([500])
    with torch.no_grad():
        before = model.network(x, t, plain)  # type: ignore[operator]
        after = shown.network(x, t, replace(plain, hint=hint))  # type: ignore[operator]
        assert torch.allclose(after, before, atol=1e-5)
        anew = with_controlnet(model, "new").network(x, t, replace(plain, hint=hint))  # type: ignore[operator]
        assert not torch.allclose(anew, before, atol=1e-3)
    with pytest.raises(ConfigError, match="cannot take hints"):
        with_controlnet(shown, "extend")


def test_a_decoder_learns_to_follow_edges(images: Path, tmp_path: Path) -> None:
    values = config(images, tmp_path, "full", objective=EDGES, sample_every=3)
    result = exported(run_config(values))
    pipe = kandinsky.load(result.path, device="cpu")
    assert pipe.model.hints
    (sheet,) = (tmp_path / "full" / "samples").glob("*.png")
    assert Image.open(sheet).size == (4 * 32 + 3 * 2, 2 * 32 + 2)
    photo = Image.open(images / "0-circle.png")
    given: dict[str, Any] = {"seed": 1, "steps": 2, "prior_steps": 2}
    drawn = [
        np.asarray(pipe.generate("a disc", hint=hint, **given).images[0])
        for hint in (kandinsky.edges(photo, 64, 64), Image.new("RGB", (64, 64)))
    ]
    assert not np.array_equal(*drawn)
    # Such a decoder learns on by itself; adapters of it too.
    values = config(images, tmp_path / "more", "lora", objective=EDGES | {"adapter": {"rank": 1}})
    assert exported(run_config(values | {"model": {"name": str(result.path)}})).use == "--lora"


def test_diffusers_reads_such_a_decoder(tiny: Checkpoints, images: Path, hints: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    tiny.ours("text2img")
    values = config(images, tmp_path, "full", objective={"control": {}, "frozen": ["resblocks"]})
    values["data"] = {"folder": str(images), "size": 64, "hints": str(hints)}
    values |= {"model": of(tiny.root / "text2img", tiny.root / "prior"), "export": {"dtype": "float32"}}
    result = exported(run_config(values))
    assert open_folder(result.path).kind == "KandinskyV22ControlnetPipeline"
    reference = UNet2DConditionModel.from_pretrained(result.path / "unet")
    ours = kandinsky.load(result.path, prior=tiny.root / "prior", device="cpu", dtype="float32").model
    draws = torch.Generator().manual_seed(0)
    x, hint = torch.randn(2, 4, 8, 8, generator=draws), torch.rand(2, 3, 64, 64, generator=draws)
    embedding = torch.randn(2, ours.network.config.image_dim, generator=draws)
    given = {"image_embeds": embedding, "hint": hint}
    with torch.no_grad():
        theirs = reference(x, 7, encoder_hidden_states=None, added_cond_kwargs=given).sample
        said = ours.network(x, torch.tensor([7, 7]), UNet2Condition(embedding, hint=hint))  # type: ignore[operator]
    assert torch.allclose(said, theirs, atol=1e-4)


@pytest.mark.parametrize("method", mostly_slow(["lora", "full"], "full"))
def test_a_published_control_decoder_learns(
    method: str, tiny: Checkpoints, images: Path, hints: Path, tmp_path: Path
) -> None:
    tiny.ours("control")
    objectives: dict[str, dict[str, Any]] = {"lora": {"adapter": {"rank": 1}}, "full": {}}
    values = config(images, tmp_path, method, objective=objectives[method], sample_every=3)
    values["data"] = {"folder": str(images), "size": 64, "hints": str(hints), "held_out": 2}
    values["model"] = of(tiny.root / "control", tiny.root / "prior")
    result = exported(run_config(values))
    pipe = kandinsky.load(
        result.path if method == "full" else tiny.root / "control",
        prior=tiny.root / "prior",
        device="cpu",
        dtype="float32",
        lora={} if method == "full" else {str(result.path): 1.0},
    )
    hint = ImageOps.invert(Image.new("RGB", (64, 64)))
    given: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "prior_steps": 1}
    assert pipe.generate("p0", hint=hint, seed=1, **given).images[0].size == (64, 64)


def test_the_hint_reaches_the_loss(tiny: Checkpoints, images: Path, hints: Path, tmp_path: Path) -> None:
    from small import step_context

    tiny.ours("control")
    values = config(images, tmp_path, "full", objective={})
    values["data"] = {"folder": str(images), "size": 64, "hints": str(hints)}
    values["model"] = of(tiny.root / "control", tiny.root / "prior")
    _, task = build(values)
    batch = task.data.batch([0, 1], torch.Generator().manual_seed(0))
    (trainable,) = task.trainables
    loss = trainable.loss(step_context(batch))
    with torch.no_grad():
        other = trainable.loss(step_context(replace(batch, hints=1 - batch.hints)))
    assert float(other.total) != float(loss.total.detach())
    loss.total.backward()
    learned = dict(trainable.module.named_parameters())["hint.convs.0.weight"].grad
    assert learned is not None
    assert float(learned.abs().sum()) > 0


def test_words_of_such_a_checkpoint(tiny: Checkpoints, images: Path, tmp_path: Path) -> None:
    tiny.ours("control")
    objective = {"token": "zwxq", "init_from": "a"}
    values = config(images, tmp_path, "textual_inversion", objective=objective, sample_every=3)
    values["data"] = {"folder": str(images), "size": 64}
    values["model"] = of(tiny.root / "control", tiny.root / "prior")
    assert exported(run_config(values)).use == "--words"


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("lora", {"objective": EDGES}, "Adapters cannot hold .* for hints"),
        ("full", {"objective": {"target": "prior"} | EDGES}, "objective.control is of the decoder"),
        ("full", {"objective": EDGES | {"inpainting": {}}}, "learns one of them"),
        ("full", {"objective": {"control": {}}}, "the data has none"),
        ("full", {"objective": EDGES, "variants": 2}, "variants = 0|images themselves"),
        ("full", {"objective": {"control": {}}, "data": {"hints": "nowhere"}}, "no folder 'nowhere'"),
        ("dreambooth", {"objective": OBJECTIVES["dreambooth"] | {"whole": True} | EDGES}, "follows hint"),
    ],
)
def test_mistakes(method: str, changes: dict[str, Any], message: str, images: Path, tmp_path: Path) -> None:
    values = config(images, tmp_path / "run", method)
    changes = {**changes, "data": {**values["data"], **changes.get("data", {})}}
    with pytest.raises(KandinskyError, match=message):
        [*run_config(values | changes)]


def test_other_generations_take_no_hints(one_text: OneTextCheckpoints, images: Path, tmp_path: Path) -> None:
    one_text.ours()
    values = config(images, tmp_path, "full", objective=EDGES)
    values["model"] = {"name": str(one_text.root / "decoder")}
    with pytest.raises(ConfigError, match="cannot take hints"):
        [*run_config(values)]
    (tmp_path / "some").mkdir()
    with pytest.raises(DataError, match="has no hint in"):
        with_hints(read_folder(images), tmp_path / "some")


def test_the_flag_of_the_command(images: Path, hints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(images), "--size", "32", "--steps", "1", "--device", "cpu", "-q", "--threads", "1"]
    for name, given in (("edges", "edges"), ("folder", str(hints))):
        with pytest.raises(SystemExit) as ended:
            run(["train", "--method", "full", *flags, "--hints", given, "--out", name])
        assert ended.value.code == 0
        assert open_folder(tmp_path / name / "checkpoint").config("unet")["addition_embed_type"] == "image_hint"
