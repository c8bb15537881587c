"""Bad checkpoints and bad requests: one clear error each, and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import kandinsky
from kandinsky.core.errors import CheckpointError, KandinskyError, RequestError
from tests.tiny import DECODERS, WIDTH, Checkpoints

IMAGE = np.zeros((16, 16, 3), np.uint8)
Damage = Callable[[Path], Any]


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lie(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + data[8:])


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    save_file(tensors, path)


UNET, MOVQ = "unet/diffusion_pytorch_model.safetensors", "movq/diffusion_pytorch_model.safetensors"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated": (lambda p: (p / UNET).write_bytes((p / UNET).read_bytes()[:-100]), "It was cut off"),
    "empty": (lambda p: (p / UNET).write_bytes(b""), "has only 0 bytes"),
    "lying header": (lambda p: lie(p / MOVQ), r"announces a header of \d+ bytes"),
    "text": (lambda p: (p / UNET).write_text("version https://git-lfs"), "begins with the text 'version '"),
    "no weights": (lambda p: (p / UNET).unlink(), "holds no weights named 'diffusion_pytorch_model'"),
    "a tensor less": (lambda p: drop_tensor(p / UNET), r"1 missing \(conv_in\.bias\)"),
    "weights of another": (lambda p: shutil.copy(p / MOVQ, p / UNET), "tensors have names this network does not know"),
    "no tokenizer file": (
        lambda p: [f.unlink() for f in (p / "prior_tokenizer").iterdir() if f.name.startswith("vocab")],
        r"vocab\.json",
    ),
    "no tokenizer": (lambda p: shutil.rmtree(p / "prior_tokenizer"), "lacks the folder 'prior_tokenizer'"),
    "no movq": (lambda p: shutil.rmtree(p / "movq"), "lacks the folder 'movq'"),
    "no config": (lambda p: (p / "movq" / "config.json").unlink(), r"config\.json is missing"),
    "broken config": (lambda p: (p / "unet" / "config.json").write_text("{"), "cannot be read"),
    "config of another": (
        lambda p: shutil.copy(p / "movq" / "config.json", p / "unet" / "config.json"),
        "configuration of a VQModel, not of a UNet2DConditionModel",
    ),
    "config of a text model": (
        lambda p: shutil.copy(p / "prior_text_encoder" / "config.json", p / "prior_image_encoder" / "config.json"),
        "of a CLIPTextModelWithProjection",
    ),
    "another width": (lambda p: change_json(p / "unet" / "config.json", cross_attention_dim=24), "of another shape"),
    "another scheduler": (
        lambda p: change_json(p / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler"),
        "LCMScheduler",
    ),
    "channels": (
        lambda p: change_json(p / "unet" / "config.json", in_channels=7),
        "takes 7 channels, its codec makes 4",
    ),
    "variances": (lambda p: change_json(p / "unet" / "config.json", out_channels=5), "gives 5 channels"),
    "image size": (
        lambda p: change_json(p / "prior_image_processor" / "preprocessor_config.json", size=48, crop_size=48),
        "the image processor's image has size 48, the other parts want 32",
    ),
    "embedding size": (
        lambda p: change_json(p / "prior_image_encoder" / "config.json", projection_dim=8),
        "the image encoder's embedding has size 8",
    ),
    "unknown default": (
        lambda p: change_json(p / "kandinsky.json", defaults={"stepps": 3}),
        r"kandinsky\.json has defaults that cannot be.*Did you mean 'steps'",
    ),
    "bad default": (lambda p: change_json(p / "kandinsky.json", defaults={"strength": 7}), "strength 7 is not above 0"),
    "no defaults": (lambda p: change_json(p / "kandinsky.json", defaults=[1]), "defaults that cannot be"),
    "another model": (
        lambda p: change_json(p / "model_index.json", _class_name="StableDiffusionPipeline"),
        "holds a StableDiffusionPipeline, which is not a known decoder",
    ),
    "a text decoder": (
        lambda p: change_json(p / "unet" / "config.json", addition_embed_type="text"),
        "addition_embed_type = 'text'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(name: str, tiny: Checkpoints, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    folder = tmp_path / "model"
    shutil.copytree(tiny.combined, folder)
    damage(folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(CheckpointError, match=words):
        kandinsky.load(folder, device="cpu")
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_what_is_no_model(tiny: Checkpoints, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("a red fox")
    with pytest.raises(KandinskyError, match="is a file"):
        kandinsky.load(text)
    with pytest.raises(KandinskyError, match="nowhere"):
        kandinsky.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="It looks like one component"):
        kandinsky.load(tiny.combined / "unet")


def test_decoders_and_priors(tiny: Checkpoints, tmp_path: Path) -> None:
    assert tiny.prior
    assert tiny.decoders
    decoder, prior = tiny.root / "text2img", tiny.root / "prior"
    with pytest.raises(CheckpointError, match="a decoder without a prior, and its README names none"):
        kandinsky.load(decoder)
    with pytest.raises(CheckpointError, match=r"holds a prior \(KandinskyV22PriorPipeline\), not a decoder"):
        kandinsky.load(prior)
    with pytest.raises(CheckpointError, match=r"KandinskyV22Pipeline, not a prior"):
        kandinsky.load(decoder, prior=decoder)
    with pytest.raises(CheckpointError, match=f"embeddings of {WIDTH} numbers, the decoder takes 20"):
        kandinsky.load(decoder, prior=tiny.combined)
    named = tmp_path / "named"
    shutil.copytree(decoder, named)
    (named / "README.md").write_text(f"---\nprior:\n- {prior}\n---\n")
    assert "prior" in kandinsky.load(named, device="cpu").model.modules


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2"])
def test_batch_sizes(batch_size: Any, tiny: Checkpoints) -> None:
    with pytest.raises(RequestError, match=r"batch_size (is|cannot be)"):
        kandinsky.load(tiny.combined, batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "words"), [({"device": "abacus"}, "abacus"), ({"dtype": "float33"}, "Did you mean 'float32'")]
)
def test_devices_and_dtypes(options: dict[str, Any], words: str, tiny: Checkpoints) -> None:
    with pytest.raises(RequestError, match=words):
        kandinsky.load(tiny.combined, **options)


REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no mask": ("inpaint", {}, "inpainting checkpoint, and it needs an image with a mask"),
    "image only": ("inpaint", {"image": IMAGE}, "needs an image with a mask"),
    "no hint": ("control", {}, "needs a hint image"),
    "hint": ("text2img", {"hint": IMAGE}, "does not take a hint"),
    "sampler": ("text2img", {"sampler": "dppm"}, "Did you mean 'ddpm'"),
    "eta": ("text2img", {"eta": 0.3}, r"eta 0\.3 cannot act in sampler 'ddpm'"),
    "embedding": ("text2img", {"prompt": kandinsky.Embedding([0.0] * 3)}, "which takes 20"),
    "steps": ("text2img", {"steps": 1001}, "steps 1001 is outside"),
    "strength": ("text2img", {"strength": 1.5, "image": IMAGE}, r"strength 1\.5 is not"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_the_checkpoint_cannot_do(name: str, tiny: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, fields, words = REQUESTS[name]
    pipe = tiny.kept(kind)
    for module in pipe.model.modules.values():
        monkeypatch.setattr(module, "forward", None)  # no work is done before the error
    with pytest.raises(RequestError, match=words):
        pipe.stream(**({"prompt": "a fox"} | fields))


def test_more_steps_than_the_process_has(tiny: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.combined, folder)
    change_json(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=20)
    pipe = kandinsky.load(folder, device="cpu")
    with pytest.raises(RequestError, match="21 steps cannot be taken from 20 times"):
        pipe.stream("a fox", steps=21)


def test_every_decoder_has_its_request(tiny: Checkpoints) -> None:
    mask = np.ones((16, 16), np.uint8)
    wanted = {"text2img": {}, "inpaint": {"image": IMAGE, "mask": mask}, "control": {"hint": IMAGE}}
    assert wanted.keys() == DECODERS.keys()
    for kind, fields in wanted.items():
        (image,) = tiny.kept(kind).generate("a", seed=1, steps=1, prior_steps=1, **fields).images
        assert image.size == (64, 64)
