"""Text encoders that learn with what listens to them, on every generation: all weights, or adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import draw_images
from test_finetuning import OBJECTIVES, build, config, exported

import kandinsky
from kandinsky.checkpoints.original import open_checkpoint
from kandinsky.core.errors import ConfigError
from kandinsky.engine.loras import adaptable
from kandinsky.generations import convert
from kandinsky.training import events, run_config
from kandinsky.training.components import write_component
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

PRIOR = {"prior_prior", "prior_text_encoder"}
LEARN = {
    "first": {"unet", "text_encoder", "text_encoder_2"},
    "text_image": {"unet", "text_encoder"} | PRIOR,
    "image": {"unet"} | PRIOR,
    "one_text": {"unet", "text_encoder"},
}
"""What learns of each generation when all that can learns."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("text-encoders") / "images")


@pytest.fixture(scope="session")
def models(
    first_release: Path,
    text_image: TextImageCheckpoints,
    tiny: Checkpoints,
    one_text: OneTextCheckpoints,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, str]]:
    first = tmp_path_factory.mktemp("first") / "model"
    convert(open_checkpoint(first_release), first, "diffusers")
    text_image.ours()
    tiny.ours("text2img")
    one_text.ours()
    return {
        "first": {"name": str(first)},
        "text_image": {"name": str(text_image.root / "decoder"), "prior": str(text_image.root / "prior")},
        "image": {"name": str(tiny.root / "text2img"), "prior": str(tiny.root / "prior")},
        "one_text": {"name": str(one_text.root / "decoder")},
    }


def of(model: dict[str, str], images: Path, out: Path, method: str, objective: Any) -> dict[str, Any]:
    target = "both" if "prior" in model else "decoder"
    values = config(images, out, method, objective={"target": target} | objective, max_steps=2)
    values["data"] = {"folder": str(images), "size": 64}
    return values | {"model": model, "export": {"dtype": "float32"}}


@pytest.mark.parametrize("generation", mostly_slow(LEARN, "first", "text_image"))
def test_all_weights(generation: str, models: dict[str, dict[str, str]], images: Path, tmp_path: Path) -> None:
    model = models[generation]
    # A rate that moves what single precision holds, so that what did not learn is what stayed the same.
    values = of(model, images, tmp_path, "full", {"text_encoders": True})
    found = [event for event in run_config(values) if isinstance(event, events.Exported)]
    places = {"name": str(found[0].path)} | ({"prior": str(found[1].path)} if "prior" in model else {})
    assert [event.use for event in found] == ["--model", "--prior"][: len(found)]
    ours, theirs = (
        kandinsky.load(named["name"], prior=named.get("prior"), device="cpu", dtype="float32").model
        for named in (places, model)
    )
    changed = {
        name: not all(
            torch.equal(value, ours_state[key])
            for key, value in module.state_dict().items()
            if key not in ("clip_mean", "clip_std")
        )
        for name, module in theirs.modules.items()
        for ours_state in [ours.modules[name].state_dict()]
    }
    networks = {id(module): name for name, module in adaptable(theirs).items()}
    learned = {networks[id(theirs.modules[name])] for name, moved in changed.items() if moved}
    assert learned == LEARN[generation]


@pytest.mark.parametrize("generation", mostly_slow(LEARN, "text_image", "one_text"))
def test_adapters(generation: str, models: dict[str, dict[str, str]], images: Path, tmp_path: Path) -> None:
    objective = {"adapter": {"rank": 2, "text_encoders": True}}
    values = of(models[generation], images, tmp_path, "lora", objective)
    result = exported(run_config(values))
    tensors = load_file(result.path)
    assert {name.partition(".")[0] for name in tensors} == LEARN[generation]
    # Adapters begin with `up` at zero: what learned has left it.
    for component in LEARN[generation]:
        moved = [
            value
            for name, value in tensors.items()
            if name.startswith(f"{component}.") and name.endswith("lora_B.weight")
        ]
        assert moved
        assert any(float(value.abs().max()) > 0 for value in moved), component
    named = models[generation]
    pipe = kandinsky.load(named["name"], prior=named.get("prior"), device="cpu", dtype="float32")
    given: dict[str, Any] = {"seed": 1, "steps": 1, "width": 64, "height": 64}
    before = pipe.generate("p0", **given).images[0].tobytes()
    pipe.load_lora(result.path)
    assert pipe.generate("p0", **given).images[0].tobytes() != before


def test_text_encoders_alone(models: dict[str, dict[str, str]], images: Path, tmp_path: Path) -> None:
    objective = {"text_encoders": True, "frozen": ["unet."]}
    _, task = build(of(models["one_text"], images, tmp_path, "full", objective))
    (trainable,) = task.trainables
    learned = {name for name, value in trainable.module.named_parameters() if value.requires_grad}
    assert learned
    assert all(name.startswith("text_encoder.") for name in learned)


def test_diffusers_reads_a_taught_text_encoder(models: dict[str, dict[str, str]], images: Path, tmp_path: Path) -> None:
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    for generation, reference in (("image", CLIPTextModelWithProjection), ("one_text", T5EncoderModel)):
        out = tmp_path / generation
        values = of(models[generation], images, out, "full", {"text_encoders": True})
        result = [event for event in run_config(values) if isinstance(event, events.Exported)][-1]
        folder = write_component(values, out, tmp_path / f"{generation}-out", "text_encoder")
        network = reference.from_pretrained(folder)
        left = reference.from_pretrained(result.path / "text_encoder")
        for name, value in network.state_dict().items():
            assert torch.equal(value, left.state_dict()[name]), name
        base = models[generation].get("prior") or models[generation]["name"]
        assert any(
            not torch.equal(value, network.state_dict()[name])
            for name, value in reference.from_pretrained(Path(base) / "text_encoder").state_dict().items()
        )


def test_one_subject_with_its_text_encoder(images: Path, tmp_path: Path) -> None:
    objective = OBJECTIVES["dreambooth"] | {"whole": True, "target": "prior", "adapter": {"text_encoders": True}}
    result = exported(run_config(config(images, tmp_path, "dreambooth", objective=objective)))
    ours, base = kandinsky.load(result.path, device="cpu").model, kandinsky.load(device="cpu").model
    name = "text_encoder"
    states = [model.modules[name].state_dict() for model in (ours, base)]
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_decoder_that_reads_no_texts(images: Path, tmp_path: Path) -> None:
    for method, objective in (("full", {"text_encoders": True}), ("lora", {"adapter": {"text_encoders": True}})):
        values = config(images, tmp_path / method, method, objective={"target": "decoder", **objective})
        with pytest.raises(ConfigError, match="reads no texts itself"):
            [*run_config(values)]
