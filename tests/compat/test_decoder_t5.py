"""The pipelines of the newest generation, whose decoder reads texts alone, against diffusers'."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Kandinsky3UNet as OraclesUNet

from kandinsky.compat import diffusers as compat
from kandinsky.compat.diffusers.noise import rng_of
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.events import Finished
from kandinsky.core.requests import Request
from tests.compat.comparing import close, draw_image, drawn, seeded
from tests.tiny_one_text import OneTextCheckpoints

SMALL: dict[str, Any] = {"height": 64, "width": 128, "num_inference_steps": 3, "output_type": "latent"}
CHANGE: dict[str, Any] = {"strength": 0.5, "num_inference_steps": 6, "output_type": "latent"}
PROMPTS = ["a red fox", "a big cat"]


@pytest.fixture(scope="module")
def ours(one_text: OneTextCheckpoints) -> Any:
    assert one_text.oracle
    return compat.AutoPipelineForText2Image.from_pretrained(one_text.root / "decoder")


@pytest.fixture(scope="module")
def changing(ours: Any) -> Any:
    return compat.AutoPipelineForImage2Image.from_pipe(ours)


@pytest.mark.parametrize("generators", ["one", "list"])
@pytest.mark.parametrize("negative", [None, ["an old ox", "a low dog"]])
def test_text_to_image(one_text: OneTextCheckpoints, ours: Any, generators: str, negative: Any) -> None:
    fields = {**SMALL, "negative_prompt": negative}
    expected = one_text.oracle(PROMPTS, generator=drawn(generators, 2), **fields).images
    assert close(ours(PROMPTS, generator=drawn(generators, 2), **fields).images, expected)
    (same,) = ours(PROMPTS, generator=drawn(generators, 2), return_dict=False, **fields)
    assert torch.equal(same, ours(PROMPTS, generator=drawn(generators, 2), **fields).images)


def test_several_images_of_one_prompt(one_text: OneTextCheckpoints, ours: Any) -> None:
    fields = {**SMALL, "num_images_per_prompt": 2, "guidance_scale": 2.0}
    expected = one_text.oracle("a fox", generator=seeded(), **fields).images
    assert close(ours("a fox", generator=seeded(), **fields).images, expected)


def test_several_images_of_several_prompts(ours: Any) -> None:
    """diffusers pairs the texts of some with the masks of others."""
    fields = {**SMALL, "num_inference_steps": 1}
    together = ours(["fox", "a big cat"], num_images_per_prompt=2, generator=drawn("list", 4), **fields).images
    for i, generator in enumerate(drawn("list", 4)):
        alone = ours(["fox", "a big cat"][i // 2], generator=generator, **fields).images
        assert close(together[i : i + 1], alone)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_outputs(one_text: OneTextCheckpoints, ours: Any, kind: str) -> None:
    fields = {**SMALL, "height": 70, "num_inference_steps": 1, "output_type": kind}
    found = ours("fox", generator=seeded(), **fields).images
    # diffusers rounds sizes up, and leaves tensors as the decoder gives them.
    (expected,) = one_text.oracle("fox", generator=seeded(), **(fields | {"output_type": "np"})).images
    pixels = np.asarray(found[0], dtype=np.float32) / 255 if kind == "pil" else found[0]
    pixels = pixels.permute(1, 2, 0).numpy() if kind == "pt" else pixels
    assert pixels.shape == (70, 128, 3)
    assert np.abs(pixels - expected[:70]).max() < (0.006 if kind == "pil" else 1e-4)


@pytest.mark.parametrize("negative", [None, "a low dog"])
def test_image_to_image(one_text: OneTextCheckpoints, changing: Any, negative: str | None) -> None:
    assert type(changing) is compat.Kandinsky3Img2ImgPipeline
    fields = {**CHANGE, "negative_prompt": negative}
    expected = one_text.changer("a big cat", draw_image(), generator=seeded(4), **fields).images
    assert close(changing("a big cat", draw_image(), generator=seeded(4), **fields).images, expected)
    tensor = torch.from_numpy(np.asarray(draw_image()).copy()).permute(2, 0, 1)[None] / 255
    assert close(changing("a big cat", tensor, generator=seeded(4), **fields).images, expected)


def test_any_image_size_and_mode(changing: Any) -> None:
    """diffusers refuses all of these."""
    fields = {**CHANGE, "output_type": "pil"}
    for image in (draw_image(70, 50), draw_image(64, 64).convert("RGBA"), np.zeros((64, 72, 3), np.uint8)):
        (made,) = changing("fox", image, **fields).images
        assert made.size == (image.size if not isinstance(image, np.ndarray) else (72, 64))
    (made,) = changing("fox", draw_image(64, 64), **(fields | {"strength": 0.01})).images
    assert made.size == (64, 64)


def test_states_instead_of_texts(one_text: OneTextCheckpoints, ours: Any) -> None:
    embeds, negative, mask, against = ours.encode_prompt("a red fox", True, 1, None, "an old ox")
    theirs, _, their_mask, _ = one_text.oracle.encode_prompt("a red fox", True, 1, "cpu", _cut_context=True)
    assert close(embeds, theirs)
    assert torch.equal(mask, their_mask)
    expected = ours("a red fox", negative_prompt="an old ox", generator=seeded(), **SMALL).images
    given = {"prompt_embeds": embeds, "attention_mask": mask}
    both = {**given, "negative_prompt_embeds": negative, "negative_attention_mask": against}
    assert close(ours(generator=seeded(), **both, **SMALL).images, expected)
    assert close(ours(generator=seeded(), negative_prompt="an old ox", **given, **SMALL).images, expected)
    alone = one_text.oracle(generator=seeded(), **given, **SMALL).images
    assert close(ours(generator=seeded(), **given, **SMALL).images, alone)
    twice = ours(generator=drawn("list", 2, 0), num_images_per_prompt=2, **both, **SMALL).images
    assert close(twice[:1], expected)


def test_states_without_what_reads_texts(one_text: OneTextCheckpoints, ours: Any, tmp_path: Path) -> None:
    """Texts are read and images drawn in turn, so that the networks need not be in memory together."""
    root = one_text.root / "decoder"
    reading = compat.Kandinsky3Pipeline.from_pretrained(root, unet=None, movq=None)
    embeds, negative, mask, against = reading.encode_prompt("a red fox", True, 2, None, "an old ox")
    drawing = compat.Kandinsky3Pipeline.from_pretrained(root, tokenizer=None, text_encoder=None)
    given = {"prompt_embeds": embeds, "attention_mask": mask}
    both = {**given, "negative_prompt_embeds": negative, "negative_attention_mask": against}
    for states, texts in ((both, {"negative_prompt": "an old ox"}), (given, {})):
        fields: dict[str, Any] = {**SMALL, "num_inference_steps": 1}
        expected = ours("a red fox", num_images_per_prompt=2, generator=drawn("list", 2), **texts, **fields).images
        assert torch.equal(drawing(generator=drawn("list", 2), **states, **fields).images, expected)
    changing = compat.Kandinsky3Img2ImgPipeline.from_pipe(drawing)
    assert changing(image=draw_image(), **both, **CHANGE).images.shape == (2, 4, 8, 16)
    for fields in ({"prompt": "a fox"}, {**given, "negative_prompt": "an ox"}):
        with pytest.raises(RequestError, match="has no tokenizer to read a text with"):
            drawing(**fields, **SMALL)
    half = compat.Kandinsky3Pipeline.from_pretrained(root, text_encoder=None)
    with pytest.raises(RequestError, match="has no text_encoder to read a text with"):
        half("a fox", **SMALL)
    with pytest.raises(CheckpointError, match="A NoneType was given"):
        reading(**both, **SMALL)
    drawing.save_pretrained(tmp_path / "saved")
    again = compat.Kandinsky3Pipeline.from_pretrained(tmp_path / "saved")
    assert again.tokenizer is again.text_encoder is None
    assert torch.equal(
        again(generator=seeded(), **both, **SMALL).images, drawing(generator=seeded(), **both, **SMALL).images
    )
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["tokenizer"] == index["text_encoder"] == [None, None]


def test_small_scales_act(ours: Any) -> None:
    """In diffusers a scale up to 1 is the same as none."""
    fields = {**SMALL, "num_inference_steps": 1}
    none, half = (ours("fox", generator=seeded(), guidance_scale=w, **fields).images for w in (0.0, 0.5))
    assert not close(half, none, 1e-4)


def test_callbacks_change_what_the_network_is_told(one_text: OneTextCheckpoints, ours: Any) -> None:
    def change(pipe: Any, index: int, t: Any, told: dict[str, Any]) -> dict[str, Any]:
        assert {name: tensor.shape[0] for name, tensor in told.items()} == {
            "latents": 1,
            "prompt_embeds": 2,
            "attention_mask": 2,
        }
        return {"prompt_embeds": told["prompt_embeds"] * 0.5, "latents": told["latents"] * 0.9}

    fields = {
        **SMALL,
        "callback_on_step_end": change,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "attention_mask"],
    }
    expected = one_text.oracle("a red fox", generator=seeded(), **fields).images
    assert close(ours("a red fox", generator=seeded(), **fields).images, expected)


def test_another_scheduler(one_text: OneTextCheckpoints, ours: Any) -> None:
    from diffusers import DDIMScheduler

    swapped = compat.Kandinsky3Pipeline.from_pipe(ours)
    swapped.scheduler = compat.DDIMScheduler.from_config(ours.scheduler.config)
    oracle = type(one_text.oracle)(
        **one_text.oracle.components | {"scheduler": DDIMScheduler.from_config(one_text.oracle.scheduler.config)}
    )
    oracle.set_progress_bar_config(disable=True)
    expected = oracle("fox", generator=seeded(), **SMALL).images
    assert close(swapped("fox", generator=seeded(), **SMALL).images, expected)


def test_numpy_generators(ours: Any) -> None:
    """As code for MindSpore passes them: doubles of the whole batch, cast."""

    def noise() -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(43))

    source = noise()
    first = torch.from_numpy(source.standard_normal((1, 4, 8, 16))).float()
    expected = ours("fox", latents=first, generator=source, **SMALL).images
    assert torch.equal(ours("fox", generator=noise(), **SMALL).images, expected)
    listed = ours(["fox", "fox"], generator=[noise(), noise()], **SMALL).images
    assert close(listed[:1], expected)
    assert close(listed[1:], expected)
    assert close(ours("fox", generator=[noise(), noise()], **SMALL).images, expected)
    with pytest.raises(RequestError, match="2 generators were given for 3 images"):
        ours(["fox"] * 3, generator=[noise(), noise()], **SMALL)


def test_numpys_generator_draws_doubles_for_the_whole_batch() -> None:
    same = np.random.Generator(np.random.PCG64(43))
    rng = rng_of(np.random.Generator(np.random.PCG64(43)), 2, torch.float32, torch.device("cpu"))
    first = rng.normal((2, 4, 3))
    assert first.dtype == torch.float32
    assert torch.equal(first, torch.from_numpy(same.standard_normal((2, 4, 3)).astype(np.float32)))
    again = rng.fork()
    assert torch.equal(again.normal((2, 4, 3)), first)
    assert torch.equal(rng.normal((1, 2)), torch.from_numpy(same.standard_normal((1, 2))).float())
    assert rng.select([0]) is rng


def test_numpy_generators_without_diffusers_names(one_text: OneTextCheckpoints, ours: Any) -> None:
    """Our own path takes them as a source of noise, and gives the same images."""

    def noise() -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(43))

    pipe, source = one_text.ours(batch_size=2), noise()
    request = Request("fox", count=2, width=128, height=64, steps=3)
    *_, last = pipe.run(request, rng=lambda seeds: rng_of(source, len(seeds), torch.float32, torch.device("cpu")))
    assert isinstance(last, Finished)
    expected = ours("fox", num_images_per_prompt=2, generator=noise(), **(SMALL | {"output_type": "pil"})).images
    for image, wanted in zip(last.result.images, expected, strict=True):
        assert np.abs(np.asarray(image, int) - np.asarray(wanted, int)).max() <= 1


@torch.no_grad()
def test_parts(one_text: OneTextCheckpoints, ours: Any, tmp_path: Path) -> None:
    """A U-Net loaded alone, called as diffusers' is, saved, and put into a pipeline."""
    unet = compat.Kandinsky3UNet.from_pretrained(one_text.root / "decoder", subfolder="unet")
    x, hidden = torch.randn(2, 4, 8, 8, generator=seeded()), torch.randn(2, 5, 20, generator=seeded(1))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    hidden = hidden * mask[..., None]
    expected = one_text.oracle.unet(x, 400, hidden, mask).sample
    assert close(unet(x, 400, hidden, mask).sample, expected)
    assert close(unet(x, torch.tensor([400, 400]), hidden, mask, return_dict=False)[0], expected)
    # diffusers crashes without a mask.
    assert close(unet(x, 400, hidden).sample[1:], expected[1:])
    with pytest.raises(RequestError, match="Give encoder_hidden_states"):
        unet(x, 400)
    unet.save_pretrained(tmp_path / "unet")
    again = OraclesUNet.from_pretrained(tmp_path / "unet")
    assert close(again(x, 400, hidden, mask).sample, expected)
    pipe = compat.Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder", unet=unet)
    assert pipe.unet is unet
    ids = pipe.tokenizer("a fox", max_length=16)
    states = pipe.text_encoder(ids.input_ids, ids.attention_mask)
    oracles = one_text.oracle.text_encoder(ids.input_ids, ids.attention_mask).last_hidden_state
    assert close(states[0][:, :6], oracles[:, :6])


def test_saved_and_loaded_again(one_text: OneTextCheckpoints, ours: Any, tmp_path: Path) -> None:
    ours.save_pretrained(tmp_path / "saved")
    again = compat.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert type(again) is compat.Kandinsky3Pipeline
    expected = ours("fox", generator=seeded(), **SMALL).images
    assert torch.equal(again("fox", generator=seeded(), **SMALL).images, expected)
    oracle = type(one_text.oracle).from_pretrained(tmp_path / "saved")
    oracle.set_progress_bar_config(disable=True)
    assert close(oracle("fox", generator=seeded(), **SMALL).images, expected)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "Give prompt or prompt_embeds"),
    "both": (
        {"prompt": "a", "prompt_embeds": torch.zeros(1, 2, 20), "attention_mask": torch.ones(1, 2)},
        "Both prompt and prompt_embeds",
    ),
    "no mask": ({"prompt_embeds": torch.zeros(1, 2, 20)}, "Give attention_mask too"),
    "another mask": (
        {"prompt_embeds": torch.zeros(1, 2, 20), "attention_mask": torch.ones(1, 3)},
        r"attention_mask of shape \(1, 3\) does not fit",
    ),
    "states of another width": (
        {"prompt_embeds": torch.zeros(1, 2, 7), "attention_mask": torch.ones(1, 2)},
        "States of 7 numbers were given, the U-Net reads 20",
    ),
    "states of one row": (
        {"prompt_embeds": torch.zeros(2, 20), "attention_mask": torch.ones(2, 20)},
        r"Give those of shape \(B, L, W\)",
    ),
    "a mask that is a list": (
        {"prompt_embeds": torch.zeros(1, 2, 20), "attention_mask": [[1, 1]]},
        "prompt_embeds or attention_mask are no tensors",
    ),
    "rows of negatives": (
        {
            "prompt": ["a", "b"],
            "negative_prompt_embeds": torch.zeros(3, 2, 20),
            "negative_attention_mask": torch.ones(3, 2),
        },
        "negative_prompt_embeds of 3 rows were given for 2 prompts",
    ),
    "a number as prompt": ({"prompt": 3}, "prompt is '3'"),
    "a number as generator": ({"prompt": "a", "generator": 3}, "A int is no generator"),
    "numbers as generators": ({"prompt": "a", "generator": [3]}, "A int is no generator"),
    "negatives": ({"prompt": ["a", "b", "c"], "negative_prompt": ["d", "e"]}, "2 values of negative_prompt"),
    "steps": ({"prompt": "a", "num_inference_steps": 0}, "steps 0 is outside"),
    "size": ({"prompt": "a", "height": 4}, "height 4 is outside"),
    "output": ({"prompt": "a", "output_type": "jpg"}, "no output_type 'jpg'"),
    "callback": ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["image_embeds"]}, "'image_embeds'"),
    "latents": ({"prompt": "a", "latents": torch.zeros(1, 4, 3, 3)}, "latents of shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(ours: Any, name: str) -> None:
    fields, words = REFUSED[name]
    with pytest.raises(RequestError, match=words):
        ours(**(SMALL | fields))


def test_what_else_is_refused(ours: Any, changing: Any) -> None:
    with pytest.raises(RequestError, match="There is no image"):
        changing("fox", **CHANGE)
    with pytest.raises(RequestError, match=r"strength 1\.5"):
        changing("fox", draw_image(), **(CHANGE | {"strength": 1.5}))
    with pytest.raises(RequestError, match="AutoPipelineForInpainting has no pipeline"):
        compat.AutoPipelineForInpainting.from_pipe(ours)
