"""The original script's flags: what they ask for, and the files that it left."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import kandinsky
from kandinsky.adapters.tokens import rows_of
from kandinsky.checkpoints.original import open_checkpoint
from kandinsky.compat import train_textual_inversion as script
from kandinsky.core.errors import ConfigError
from kandinsky.generations import convert
from kandinsky.training.config.run import read_config
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint
from tests.tiny_text_image import TextImageCheckpoints


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inversion") / "images"
    folder.mkdir()
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (80, 64), colour).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def cache(text_image: TextImageCheckpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the original files already."""
    text_image.ours()
    root = tmp_path_factory.mktemp("cache")
    decoder, prior = (open_checkpoint(text_image.root / name) for name in ("decoder", "prior"))
    convert(decoder, root / "2_1", "original", prior=prior)
    return root


def flags(images: Path, cache: Path, out: Path, *more: str) -> list[str]:
    needed = ["--data_root", str(images), "--placeholder_token", "sapsan", "--initializer_token", "a"]
    return [*needed, "--cache_root", str(cache), "--output_dir", str(out), "--device", "cpu", *more]


def test_the_defaults_are_those_of_the_script() -> None:
    asked = script.parser().parse_args(flags(Path("a"), Path("b"), Path("c")))
    values = script.configuration(asked, Path("b/2_1"), 5)
    stage = read_config(values).stage[0]
    assert (stage.max_steps, stage.save_every, stage.sample_every, stage.batch) == (5000, 2500, 0, 1)
    assert stage.optimiser.model_dump() == read_config(values).stage[0].optimiser.model_dump()
    assert (stage.optimiser.lr, stage.optimiser.betas, stage.optimiser.weight_decay) == (1e-4, (0.9, 0.999), 0.01)
    assert (stage.objective.route, stage.objective.prior_steps) == ("sampled", 5)
    assert (stage.schedule.kind, stage.clip_norm, stage.ema.decay) == ("constant", None, 0.0)
    assert read_config(values).data.fit == "squeeze"
    cut = script.parser().parse_args(flags(Path("a"), Path("b"), Path("c"), "--center_crop"))
    assert read_config(script.configuration(cut, Path("b/2_1"), 5)).data.fit == "cut"


def test_the_files_of_the_script(images: Path, cache: Path, tmp_path: Path) -> None:
    short = ["--epochs", "2", "--log_embed_frequency", "1", "--train_batch_size", "2", "--img_size", "64"]
    asked = flags(images, cache, tmp_path / "out", *short, "--learning_rate", "0.01")
    assert script.main(asked) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("*.bin")) == [
        "1_epoch_embeds.bin",
        "2_epoch_embeds.bin",
        "learned_embeds.bin",
    ]
    first, second, last = (
        torch.load(out / f"{name}.bin", weights_only=True)
        for name in ("1_epoch_embeds", "2_epoch_embeds", "learned_embeds")
    )
    base = BaseCheckpoint(kandinsky.load(cache / "2_1", device="cpu", dtype="float32"))
    for group, component in (("t1", "text_encoder"), ("t2", "prior_text_encoder")):
        encoder = base.encoders[component]
        begun = rows_of(encoder.network, encoder.tokenizer.word_ids("a"))[0]
        rows = [found[group]["sapsan"] for found in (first, second, last)]
        assert rows[0].shape == begun.shape
        assert not torch.equal(rows[0], begun)
        assert not torch.equal(rows[0], rows[1])
        assert torch.equal(rows[1], rows[2])
    # Both forms are the same word.
    one = kandinsky.load(cache / "2_1", device="cpu", dtype="float32")
    assert one.load_words(out / "learned_embeds.bin") == ["sapsan"]
    assert (out / "sapsan.safetensors").is_file()
    assert script.main(asked) == 1
    assert script.main([*asked, "--resume"]) == 0


def test_images_of_the_word_at_intervals(
    images: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHOWN_STEPS", 1)
    short = ["--epochs", "1", "--log_image_frequency", "1", "--img_size", "64"]
    assert script.main(flags(images, cache, tmp_path / "out", *short)) == 0
    with Image.open(tmp_path / "out" / "images" / "1_epoch_images.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 4 * 64


def test_mistakes(images: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = script.parser().parse_args(flags(images, cache, tmp_path, "--epochs", "0"))
    with pytest.raises(ConfigError, match="--epochs is 0"):
        script.configuration(asked, cache, 3)
    known = flags(images, cache, tmp_path / "out", "--placeholder_token", "b")
    assert script.main(known) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["--data_root", "x"])
