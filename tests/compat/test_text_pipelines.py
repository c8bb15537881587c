"""The pipelines of the earlier generation, whose decoder reads texts too, against diffusers'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import CheckpointError, RequestError
from tests.compat.comparing import close, draw_image, drawn, hole, oracle, seeded
from tests.families import mostly_slow
from tests.tiny_text_image import WIDTH, TextImageCheckpoints

STEPS = {"num_inference_steps": 3}
SMALL: dict[str, Any] = {"height": 64, "width": 128, "num_inference_steps": 4}
WHOLE: dict[str, Any] = {**SMALL, "prior_num_inference_steps": 3}


def embeds(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randn(2 * rows, WIDTH, generator=seeded(3))
    return both[:rows], both[rows:]


def told_latents(pipe: Any, *arguments: Any, **fields: Any) -> torch.Tensor:
    """The last latents that a pipeline tells a callback: diffusers does not return them here."""
    told: list[torch.Tensor] = []
    pipe(*arguments, callback=lambda i, t, latents: told.append(latents), output_type="np", **fields)
    return told[-1]


@pytest.fixture(scope="module")
def ours(text_image: TextImageCheckpoints) -> Callable[..., Any]:
    """Our pipelines by class name, on diffusers' folders."""
    assert text_image.prior
    assert text_image.decoder
    assert text_image.inpainting
    loaded: dict[str, Any] = {}

    def load(name: str, **options: Any) -> Any:
        if name not in loaded:
            place = "prior" if "Prior" in name else "inpainting" if "Inpaint" in name else "decoder"
            extra = {"prior": text_image.root / "prior"} if "Combined" in name else {}
            loaded[name] = getattr(compat, name).from_pretrained(text_image.root / place, **extra)
        return loaded[name]

    return load


def theirs_combined(text_image: TextImageCheckpoints, name: str, kind: str = "decoder") -> Any:
    prior = {f"prior_{key}": value for key, value in text_image.prior.components.items()}
    made = getattr(diffusers, name)(**getattr(text_image, kind).components, **prior)
    for pipe in (made, made.prior_pipe, made.decoder_pipe):
        pipe.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("generators", ["one", "list"])
@pytest.mark.parametrize("negative", [None, ["ugly", "grey"]])
def test_prior(
    text_image: TextImageCheckpoints, ours: Callable[..., Any], generators: str, negative: list[str] | None
) -> None:
    rows = 2 if negative is None else 4
    fields: dict[str, Any] = {**STEPS, "negative_prompt": negative, "guidance_scale": 3.0}
    expected = text_image.prior(["a red fox", "кот"], generator=drawn(generators, rows), **fields)
    found = ours("KandinskyPriorPipeline")(["a red fox", "кот"], generator=drawn(generators, rows), **fields)
    assert close(found.image_embeds, expected.image_embeds)
    assert close(found.negative_image_embeds, expected.negative_image_embeds)


def test_interpolation(text_image: TextImageCheckpoints, ours: Callable[..., Any]) -> None:
    items = ["a cat", draw_image(40, 56)]
    expected = text_image.prior.interpolate(items, [0.3, 0.7], generator=seeded(9), **STEPS)
    found = ours("KandinskyPriorPipeline").interpolate(items, [0.3, 0.7], generator=seeded(9), **STEPS)
    assert close(found.image_embeds, expected.image_embeds)
    assert close(found.negative_image_embeds, expected.negative_image_embeds)
    several = ours("KandinskyPriorPipeline").interpolate(items, [0.3, 0.7], 2, generator=seeded(9), **STEPS)
    assert several.image_embeds.shape == several.negative_image_embeds.shape == (2, WIDTH)


@pytest.mark.parametrize(
    ("rows", "copies", "generators"),
    mostly_slow(
        [(*row, kind) for row in ((1, 1), (3, 1), (2, 2)) for kind in ("one", "list")], (3, 1, "one"), (2, 2, "list")
    ),
)
def test_text_to_image(
    text_image: TextImageCheckpoints, ours: Callable[..., Any], generators: str, rows: int, copies: int
) -> None:
    prompts = ["a red fox", "зелёный дом", "a"][:rows]
    fields: dict[str, Any] = {**SMALL, "num_images_per_prompt": copies, "guidance_scale": 3.0}
    fields["negative_prompt"] = ["ugly", "grey", "dull"][:rows]
    arguments = (prompts, *embeds(rows))
    count = rows * copies
    expected = told_latents(text_image.decoder, *arguments, generator=drawn(generators, count), **fields)
    found = told_latents(ours("KandinskyPipeline"), *arguments, generator=drawn(generators, count), **fields)
    assert close(found, expected)


def test_output_types_and_latents(text_image: TextImageCheckpoints, ours: Callable[..., Any]) -> None:
    latents = torch.randn(1, 4, 8, 16, generator=seeded(2))
    arguments = ("a fox", *embeds(1))
    expected = told_latents(text_image.decoder, *arguments, latents=latents, **SMALL)
    pipe = ours("KandinskyPipeline")
    returned = pipe(*arguments, latents=latents, output_type="latent", **SMALL).images
    assert close(returned, expected)
    array = pipe(*arguments, latents=latents, output_type="np", **SMALL).images
    tensor = pipe(*arguments, latents=latents, output_type="pt", **SMALL).images
    assert array.shape == (1, 64, 128, 3)
    np.testing.assert_allclose(tensor.permute(0, 2, 3, 1).numpy(), array, atol=1e-6)


@pytest.mark.parametrize(
    ("strength", "rows", "generators"),
    mostly_slow(
        [(*row, kind) for row in ((0.3, 1), (0.6, 3), (1.0, 2)) for kind in ("one", "list")],
        (0.6, 3, "one"),
        (1.0, 2, "list"),
    ),
)
def test_image_to_image(
    text_image: TextImageCheckpoints, ours: Callable[..., Any], generators: str, strength: float, rows: int
) -> None:
    theirs = oracle(diffusers.KandinskyImg2ImgPipeline, text_image.decoder)
    fields: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 6, "strength": strength}
    fields["negative_prompt"] = ["ugly", "grey", ""][:rows]
    images = [draw_image(64, 64), draw_image(80, 56, seed=1), draw_image(64, 64, seed=2)][:rows]
    arguments = (["a fox", "a cat", "a"][:rows], images, *embeds(rows))
    expected = told_latents(theirs, *arguments, generator=drawn(generators, rows), **fields)
    found = told_latents(ours("KandinskyImg2ImgPipeline"), *arguments, generator=drawn(generators, rows), **fields)
    assert close(found, expected)


@pytest.mark.parametrize(
    ("copies", "against", "generators"),
    mostly_slow(
        [(*row, kind) for row in ((1, None), (3, "ugly")) for kind in ("one", "list")],
        (1, None, "one"),
        (3, "ugly", "list"),
    ),
)
def test_inpainting(
    text_image: TextImageCheckpoints, ours: Callable[..., Any], generators: str, copies: int, against: str | None
) -> None:
    fields: dict[str, Any] = {**SMALL, "num_images_per_prompt": copies, "negative_prompt": against}
    positive, negative = embeds(1)
    arguments = ("a hat", draw_image(), hole(), positive, negative)
    expected = told_latents(text_image.inpainting, *arguments, generator=drawn(generators, copies), **fields)
    arguments = ("a hat", draw_image(), hole(), positive, negative)
    found = told_latents(ours("KandinskyInpaintPipeline"), *arguments, generator=drawn(generators, copies), **fields)
    assert close(found, expected)


@pytest.mark.parametrize("kind", ["one", "list"])
def test_combined_text_to_image(text_image: TextImageCheckpoints, ours: Callable[..., Any], kind: str) -> None:
    theirs = theirs_combined(text_image, "KandinskyCombinedPipeline")
    expected = told_latents(theirs, ["a fox", "a cat"], generator=drawn(kind, 2), **WHOLE)
    pipe = ours("KandinskyCombinedPipeline")
    assert close(told_latents(pipe, ["a fox", "a cat"], generator=drawn(kind, 2), **WHOLE), expected)


def test_combined_image_to_image(text_image: TextImageCheckpoints, ours: Callable[..., Any]) -> None:
    theirs = theirs_combined(text_image, "KandinskyImg2ImgCombinedPipeline")
    fields = {**WHOLE, "width": 64, "num_inference_steps": 6, "strength": 0.6}
    expected = told_latents(theirs, "a fox", draw_image(64, 64), generator=seeded(), **fields)
    pipe = ours("KandinskyImg2ImgCombinedPipeline")
    assert close(told_latents(pipe, "a fox", draw_image(64, 64), generator=seeded(), **fields), expected)
    assert len(pipe("a fox", draw_image(64, 64), num_images_per_prompt=2, **fields).images) == 2


def test_combined_inpainting(text_image: TextImageCheckpoints, ours: Callable[..., Any]) -> None:
    theirs = theirs_combined(text_image, "KandinskyInpaintCombinedPipeline", "inpainting")
    expected = told_latents(theirs, "a hat", draw_image(), hole(), generator=seeded(), **WHOLE)
    pipe = ours("KandinskyInpaintCombinedPipeline")
    assert close(told_latents(pipe, "a hat", draw_image(), hole(), generator=seeded(), **WHOLE), expected)


def test_copies_of_several_prompts_are_paired(ours: Callable[..., Any]) -> None:
    """diffusers mixes the texts of one prompt with the embeddings of another here."""
    pipe = ours("KandinskyCombinedPipeline")
    fields = {**WHOLE, "output_type": "latent"}
    prompts = ["a fox", "a cat"]
    together = pipe(prompts, num_images_per_prompt=2, generator=drawn("list", 4), **fields).images
    for i, generator in enumerate(drawn("list", 4)):
        alone = pipe(prompts[i // 2], generator=generator, **fields).images
        assert close(together[i : i + 1], alone)


def test_a_negative_prompt_reaches_the_decoder_too(ours: Callable[..., Any]) -> None:
    pipe = ours("KandinskyCombinedPipeline")
    options = {"num_inference_steps": 3, "generator": seeded(), "return_dict": False}
    positive, negative = pipe.prior_pipe("a fox", negative_prompt="ugly", **options)
    torch.manual_seed(0)
    fields = {**SMALL, "output_type": "latent"}
    wanted = pipe.decoder_pipe("a fox", positive, negative, negative_prompt="ugly", **fields).images
    torch.manual_seed(0)
    without = pipe.decoder_pipe("a fox", positive, negative, **fields).images
    assert not close(without, wanted, 1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe.prior_pipe), "__call__", lambda *_, **__: (positive, negative))
        torch.manual_seed(0)
        assert torch.equal(pipe("a fox", negative_prompt="ugly", **fields).images, wanted)


def test_unguided_batches(ours: Callable[..., Any]) -> None:
    positive, _ = embeds(2)
    fields = {**SMALL, "guidance_scale": 1.0, "num_images_per_prompt": 2}
    assert len(ours("KandinskyPipeline")(["a", "b"], positive, None, **fields).images) == 4


def test_small_strengths_and_other_sizes(ours: Callable[..., Any]) -> None:
    pipe, (positive, negative) = ours("KandinskyImg2ImgPipeline"), embeds(1)
    latents = []
    for strength in (0.001, 0.05):
        found = pipe(
            "a", draw_image(), positive, negative, strength=strength, generator=seeded(), output_type="latent", **SMALL
        )
        latents.append(found.images)
    with torch.no_grad():
        wide = torch.from_numpy(np.asarray(draw_image()).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        clean = pipe.movq.encode(wide).latents
    assert latents[0].shape == clean.shape
    assert torch.corrcoef(torch.stack([latents[0].flatten(), clean.flatten()]))[0, 1] > 0.9
    (odd,) = pipe("a", draw_image(), positive, negative, height=72, width=100, **STEPS).images
    assert odd.size == (100, 72)


def test_another_scheduler_acts(text_image: TextImageCheckpoints, ours: Callable[..., Any]) -> None:
    changes: dict[str, Any] = {
        "variance_type": "learned_range",
        "thresholding": True,
        "sample_max_value": 2.0,
        "steps_offset": 0,  # as in the published file for this scheduler
    }
    stored = diffusers.DDIMScheduler.from_pretrained(text_image.root / "decoder", subfolder="scheduler")
    theirs = oracle(diffusers.KandinskyPipeline, text_image.decoder)
    theirs.scheduler = diffusers.DDPMScheduler.from_config(stored.config, **changes)
    mine = compat.KandinskyPipeline(**ours("KandinskyPipeline").components)
    mine.scheduler = compat.DDPMScheduler.from_config(mine.scheduler.config, **changes)
    arguments = ("a fox", *embeds(1))
    expected = told_latents(theirs, *arguments, generator=seeded(), **SMALL)
    assert close(told_latents(mine, *arguments, generator=seeded(), **SMALL), expected)


def test_what_does_not_fit_is_told(ours: Callable[..., Any], text_image: TextImageCheckpoints) -> None:
    positive, negative = embeds(2)
    with pytest.raises(RequestError, match="2 values of embeddings were given for 3 prompts"):
        ours("KandinskyPipeline")(["a", "b", "c"], positive, negative)
    with pytest.warns(UserWarning, match="too long for the decoder"):
        ours("KandinskyPipeline")("a fox " * 60, positive[:1], negative[:1], **SMALL)
    with pytest.raises(CheckpointError, match="has no movq"):
        compat.KandinskyPipeline.from_pretrained(text_image.root / "prior", unet=None)


def test_saved_pipelines_are_diffusers(
    text_image: TextImageCheckpoints, ours: Callable[..., Any], tmp_path: Path
) -> None:
    ours("KandinskyPipeline").save_pretrained(tmp_path)
    saved = diffusers.KandinskyPipeline.from_pretrained(tmp_path)
    for name in ("unet", "movq", "text_encoder"):
        state = getattr(saved, name).state_dict()
        source: nn.Module = getattr(text_image.decoder, name)
        assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())
    again = compat.AutoPipelineForText2Image.from_pretrained(tmp_path, prior=text_image.root / "prior")
    assert type(again) is compat.KandinskyCombinedPipeline
    words = ours("KandinskyPipeline").tokenizer("a fox", max_length=77)
    assert torch.equal(again.tokenizer("a fox", max_length=77).input_ids, words.input_ids)
    with torch.no_grad():
        embedding, hidden = again.text_encoder(words.input_ids, words.attention_mask)
        expected = text_image.decoder.text_encoder(words.input_ids, words.attention_mask)
    assert close(embedding, expected[0])
    assert close(hidden, expected[1])
