"""From one layout to the other and back: the same tensors, whole folders or nothing."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import kandinsky
from kandinsky.checkpoints import convert as module
from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.checkpoints.original import open_checkpoint
from kandinsky.checkpoints.weights import read_tensor_file, read_weights
from kandinsky.cli.main import run
from kandinsky.core.errors import CheckpointError, OutputError, RequestError
from kandinsky.generations import convert
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.reference.folders import PROMPT, write_first, write_second
from tests.reference.recorded import RELEASE, weights
from tests.requests import our_latents
from tests.tiny import Checkpoints, as_published
from tests.tiny_text_image import TextImageCheckpoints

FIELDS: dict[str, Any] = {"seed": 3, "steps": 2, "width": 64, "height": 64}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == tensor.dtype and torch.equal(one[name], tensor) for name, tensor in other.items()
    )


def save_again(content: Any, path: Path) -> None:
    """Replaces a file, but does not write into it: its tensors are mapped."""
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The first release, its U-Nets and encoders in the dtypes of the record."""
    root = write_first(tmp_path / "first")
    torch.save(weights(RELEASE, "text_encoder1"), root / "text_encoder1" / "pytorch_model.bin")
    return root


def original_files(root: Path) -> dict[str, dict[str, Tensor]]:
    paths = [path for path in root.rglob("*") if path.suffix in (".pt", ".ckpt", ".bin")]
    return {str(path.relative_to(root)): read_tensor_file(path) for path in paths}


@pytest.mark.parametrize("inpainting", mostly_slow([False, True], False))
def test_the_first_release_there_and_back(first: Path, tmp_path: Path, inpainting: bool) -> None:
    variant = "inpainting" if inpainting else None
    folder, back = tmp_path / "folder", tmp_path / "back"
    files = convert(open_checkpoint(first), folder, "diffusers", variant=variant)
    assert folder / "model_index.json" in files
    convert(open_checkpoint(folder), back, "original")
    wanted, found = original_files(first), original_files(back)
    del wanted["Kandinsky-2-0.pt" if inpainting else "Kandinsky-2-0-inpainting.pt"]
    assert wanted.keys() == found.keys()
    assert all(same(found[name], file) for name, file in wanted.items())
    if not inpainting:
        ours = our_latents(kandinsky.load(folder, device="cpu", dtype="float32"), prompt=PROMPT, **FIELDS)
        theirs = our_latents(kandinsky.load(first, device="cpu", dtype="float32"), prompt=PROMPT, **FIELDS)
        assert relative(ours, theirs) < 1e-4  # memory that lies otherwise may round otherwise


def _components(root: Path) -> dict[str, dict[str, Tensor]]:
    folder = open_folder(root)
    found = {}
    for name in folder.components:
        if list((root / name).glob("*.safetensors")):
            found[name] = folder.weights(name)
    return found


def test_the_second_release_there_and_back(text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    assert text_image.prior
    assert text_image.decoder
    decoder, prior = text_image.root / "decoder", text_image.root / "prior"
    original, combined = tmp_path / "original", tmp_path / "combined"
    convert(open_checkpoint(decoder), original, "original", prior=open_checkpoint(prior))
    names = {"decoder_fp16.ckpt", "movq_final.ckpt", "prior_fp16.ckpt", "ViT-L-14_stats.th", "ViT-L-14.pt"}
    assert names <= {path.name for path in original.iterdir()}
    convert(open_checkpoint(original), combined, "diffusers")
    wanted = _components(decoder)
    wanted |= {f"prior_{name}": tensors for name, tensors in _components(prior).items()}
    found = _components(combined)
    assert wanted.keys() == found.keys()
    assert all(same(found[name], tensors) for name, tensors in wanted.items())
    again = tmp_path / "again"
    convert(open_checkpoint(combined), again, "original")
    one, other = original_files(original), original_files(again)
    assert one.keys() == other.keys()
    assert all(same(other[name], tensors) for name, tensors in one.items())
    statistics = [torch.load(root / "ViT-L-14_stats.th") for root in (original, again)]
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))
    loaded = as_published(kandinsky.load(combined, device="cpu", dtype="float32"))
    ours = our_latents(loaded, prompt="fox", prior_steps=2, **FIELDS)
    plain = our_latents(text_image.kept(), prompt="fox", prior_steps=2, **FIELDS)
    assert relative(ours, plain) < 1e-4


def test_diffusers_reads_what_was_converted(text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    """Each half by itself, from original files that diffusers never wrote."""
    from diffusers import KandinskyCombinedPipeline, KandinskyInpaintPipeline

    assert text_image.prior
    assert text_image.inpainting
    original, folder = tmp_path / "original", tmp_path / "folder"
    convert(open_checkpoint(text_image.root / "inpainting"), original, "original")
    assert (original / "inpainting_fp16.ckpt").is_file()
    convert(open_checkpoint(original), folder, "diffusers")
    pipeline = KandinskyInpaintPipeline.from_pretrained(folder)
    assert same(pipeline.unet.state_dict(), text_image.inpainting.unet.state_dict())
    assert text_image.decoder
    whole, combined = tmp_path / "whole", tmp_path / "combined"
    decoder, prior = (open_checkpoint(text_image.root / name) for name in ("decoder", "prior"))
    convert(decoder, whole, "original", prior=prior)
    convert(open_checkpoint(whole), combined, "diffusers")
    both = KandinskyCombinedPipeline.from_pretrained(combined)
    assert same(both.prior_prior.state_dict(), text_image.prior.prior.state_dict())
    assert same(both.text_encoder.state_dict(), text_image.decoder.text_encoder.state_dict())
    assert both.scheduler.config.set_alpha_to_one is False


def test_clip_in_any_form(tmp_path: Path) -> None:
    """Plain tensors, a TorchScript archive, or a folder of transformers next to the other files."""
    from kandinsky.checkpoints.maps.clip import logit_scale
    from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION
    from kandinsky.checkpoints.original import OriginalFolder
    from tests.checkpoints.clips import script_of, transformers_clip

    root = write_second(tmp_path / "second")
    opened = open_checkpoint(root)
    assert isinstance(opened, OriginalFolder)

    def read_clip() -> tuple[Any, Any, Tensor]:
        return CLIP_TEXT.open(opened).load(), CLIP_VISION.open(opened).load(), logit_scale(opened)

    plain = read_clip()
    file = read_tensor_file(root / "ViT-L-14.pt")
    script_of(file).save(root / "scripted")  # not onto the file, for its tensors are mapped
    (root / "scripted").replace(root / "ViT-L-14.pt")
    scripted = read_clip()
    (root / "ViT-L-14.pt").unlink()
    transformers_clip(*plain, root / "clip")
    foldered = read_clip()
    for other in (scripted, foldered):
        for tower, wanted in zip(other[:2], plain[:2], strict=True):
            assert same(tower.state_dict(), wanted.state_dict())
            assert tower.config == wanted.config
        assert torch.equal(other[2], plain[2])
    shutil.rmtree(root / "clip")
    with pytest.raises(CheckpointError, match=r"lacks CLIP: neither ViT-L-14.pt nor clip/config.json"):
        read_clip()


def test_another_release_has_no_other_layout(tiny: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="which has no other layout"):
        convert(open_checkpoint(tiny.combined), tmp_path / "new", "original")
    with pytest.raises(RequestError, match="Did you mean 'diffusers'"):
        convert(open_checkpoint(tiny.combined), tmp_path / "new", "difusers")
    with pytest.raises(CheckpointError, match="is in the layout 'diffusers' already"):
        convert(open_checkpoint(tiny.combined), tmp_path / "new", "diffusers")
    assert not list(tmp_path.iterdir())


def test_networks_that_files_cannot_tell(text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    """A head of another width than 64 leaves no trace in a tensor."""
    assert text_image.decoder
    folder = tmp_path / "decoder"
    shutil.copytree(text_image.root / "decoder", folder)
    path = folder / "unet" / "config.json"
    path.write_text(path.read_text().replace('"attention_head_dim": 64', '"attention_head_dim": 32'))
    with pytest.raises(CheckpointError, match="Original files have no place for UNet2Config"):
        convert(open_checkpoint(folder), tmp_path / "new", "original")
    assert [path.name for path in tmp_path.iterdir()] == ["decoder"]


def test_halves_that_do_not_belong_together(first: Path, text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    assert text_image.decoder
    assert text_image.prior
    decoder, prior = (open_checkpoint(text_image.root / name) for name in ("decoder", "prior"))
    with pytest.raises(CheckpointError, match="both have movq, text_encoder, unet"):
        convert(decoder, tmp_path / "new", "original", prior=decoder)
    folder = tmp_path / "folder"
    convert(open_checkpoint(first), folder, "diffusers")
    with pytest.raises(CheckpointError, match="of different releases"):
        convert(open_checkpoint(folder), tmp_path / "new", "original", prior=prior)
    assert not (tmp_path / "new").exists()


def test_a_folder_appears_whole_or_not_at_all(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "target" / "folder"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_model_index", full)
        with pytest.raises(OutputError, match="No space left"):
            convert(open_checkpoint(first), target, "diffusers")
    assert not list(target.parent.iterdir())
    target.mkdir()
    convert(open_checkpoint(first), target, "diffusers")
    with pytest.raises(OutputError, match="exists already"):
        convert(open_checkpoint(first), target, "diffusers")


def test_a_file_with_a_tensor_less(first: Path, tmp_path: Path) -> None:
    file = read_tensor_file(first / "Kandinsky-2-0.pt")
    del file["out.0.bias"]
    save_again(file, first / "Kandinsky-2-0.pt")
    with pytest.raises(CheckpointError, match=r"1 missing \(norm_out\.bias\)"):
        convert(open_checkpoint(first), tmp_path / "new", "diffusers")
    assert not (tmp_path / "new").exists()


def test_training_leftovers_are_left_out(first: Path, tmp_path: Path) -> None:
    path = first / "vae.ckpt"
    tensors = read_tensor_file(path)
    save_again({"state_dict": {**tensors, "loss.logvar": torch.zeros(())}}, path)
    convert(open_checkpoint(first), tmp_path / "folder", "diffusers")
    convert(open_checkpoint(tmp_path / "folder"), tmp_path / "back", "original")
    assert same(read_tensor_file(tmp_path / "back" / "vae.ckpt"), tensors)


def test_the_command(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "folder"
    with pytest.raises(SystemExit) as ended:
        run(["convert", str(first), str(target), "--to", "diffusers"])
    assert ended.value.code == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert target / "unet" / "diffusion_pytorch_model.safetensors" in written
    assert all(path.is_file() for path in written)
    with pytest.raises(SystemExit) as ended:
        run(["convert", str(first), str(target), "--to", "diffusers"])
    assert ended.value.code == 1
    assert "exists already" in capsys.readouterr().err


def test_a_noted_temperature_that_is_none(text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    assert text_image.prior
    folder = tmp_path / "prior"
    shutil.copytree(text_image.root / "prior", folder)
    (folder / "kandinsky.json").write_text('{"clip_logit_scale": "hot"}')
    with pytest.raises(CheckpointError, match="clip_logit_scale = 'hot'"):
        convert(open_checkpoint(folder), tmp_path / "new", "original")


def test_weights_in_shards_and_halves_are_read(first: Path, tmp_path: Path) -> None:
    """Text encoders as safetensors do as well as pickles."""
    folder = first / "text_encoder2"
    tensors = read_weights(folder, "pytorch_model")
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    convert(open_checkpoint(first), tmp_path / "folder", "diffusers")
    found = load_file(tmp_path / "folder" / "text_encoder_2" / "model.safetensors")
    assert torch.equal(found["shared.weight"], tensors["shared.weight"])
