"""Loading and saving: pipelines and their components, from folders and from a hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import CheckpointError, RequestError
from tests.checkpoints.hub_server import connected, files_of
from tests.compat.comparing import PRIOR_STEPS, SMALL, close, draw_image, folder, seeded
from tests.tiny import Checkpoints

Load = Callable[[str, str], Any]
WHOLE = {**SMALL, "prior_num_inference_steps": PRIOR_STEPS, "output_type": "latent"}


def test_components_of_a_folder_each(tiny: Checkpoints) -> None:
    place = folder(tiny, "prior")
    image_encoder = compat.CLIPVisionModelWithProjection.from_pretrained(place, subfolder="image_encoder")
    text_encoder = compat.CLIPTextModelWithProjection.from_pretrained(place / "text_encoder")
    prior = compat.KandinskyV22PriorPipeline.from_pretrained(
        place, image_encoder=image_encoder.to(torch.float64).to(torch.float32), text_encoder=text_encoder
    )
    assert prior.image_encoder is image_encoder
    words = prior.tokenizer("a fox", padding="max_length", truncation=True, return_tensors="pt")
    theirs = tiny.prior.tokenizer("a fox", padding="max_length", max_length=77, return_tensors="pt")
    assert torch.equal(words.input_ids, theirs.input_ids)
    assert torch.equal(words.attention_mask, theirs.attention_mask)
    pixels = prior.image_processor(draw_image(), return_tensors="pt").pixel_values
    assert close(pixels, tiny.prior.image_processor(draw_image(), return_tensors="pt").pixel_values, 1e-5)
    with torch.no_grad():
        features = text_encoder(words.input_ids)
        expected = tiny.prior.text_encoder(theirs.input_ids)
        assert close(features.text_embeds, expected.text_embeds)
        assert close(features.last_hidden_state, expected.last_hidden_state)
        assert close(image_encoder(pixels).image_embeds, tiny.prior.image_encoder(pixels).image_embeds)
        x = torch.randn(1, 20, generator=seeded())
        arguments = (x, 500, features.text_embeds, features.last_hidden_state, words.attention_mask.bool())
        said = tiny.prior.prior(*arguments).predicted_image_embedding
        assert close(prior.prior(*arguments).predicted_image_embedding, said)
        assert close(prior.prior.post_process_latents(x), tiny.prior.prior.post_process_latents(x))


def test_the_autoencoder_answers_like_the_peer_s(tiny: Checkpoints, ours: Load) -> None:
    mine, theirs = ours("KandinskyV22Pipeline", "text2img").movq, tiny.decoders["text2img"].movq
    pixels = torch.rand(1, 3, 64, 64, generator=seeded()) * 2 - 1
    with torch.no_grad():
        latents = theirs.encode(pixels).latents
        assert close(mine.encode(pixels).latents, latents)
        for force in (True, False):
            expected = theirs.decode(latents, force_not_quantize=force).sample
            assert close(mine.decode(latents, force_not_quantize=force).sample, expected)


def test_the_index_chooses_the_class(tiny: Checkpoints) -> None:
    assert type(compat.DiffusionPipeline.from_pretrained(folder(tiny, "prior"))) is compat.KandinskyV22PriorPipeline
    control = compat.DiffusionPipeline.from_pretrained(folder(tiny, "control"), torch_dtype=torch.float64)
    assert type(control) is compat.KandinskyV22ControlnetPipeline
    assert control.dtype is torch.float64
    with pytest.raises(RequestError, match="AutoPipelineForText2Image has no pipeline for a KandinskyV22Controlnet"):
        compat.AutoPipelineForText2Image.from_pretrained(folder(tiny, "control"))
    with pytest.raises(RequestError, match="not made by its name"):
        compat.AutoPipelineForText2Image()


def test_a_prior_is_found_or_asked_for(tiny: Checkpoints) -> None:
    place = folder(tiny, "text2img")
    with pytest.raises(CheckpointError, match="Give prior="):
        compat.KandinskyV22CombinedPipeline.from_pretrained(place)
    told = compat.KandinskyV22CombinedPipeline.from_pretrained(place, prior=folder(tiny, "prior"))
    parts = {f"prior_{name}": part for name, part in told.prior_pipe.components.items()}
    given = compat.KandinskyV22CombinedPipeline.from_pretrained(place, **parts)
    assert given.prior_prior is told.prior_prior
    with pytest.raises(RequestError, match="has no component 'unett'"):
        compat.KandinskyV22Pipeline.from_pretrained(place, unett=told.unet)
    with pytest.raises(CheckpointError, match="has no prior"):
        compat.KandinskyV22PriorPipeline.from_pretrained(place)


def test_our_own_folder_holds_both_halves(tiny: Checkpoints) -> None:
    pipe = compat.AutoPipelineForText2Image.from_pretrained(tiny.combined)
    (image,) = pipe("a red fox", width=64, height=64, num_inference_steps=2, generator=seeded()).images
    assert image.size == (64, 64)
    halves = compat.KandinskyV22PriorPipeline.from_pretrained(tiny.combined)
    assert halves("a red fox", num_inference_steps=2).image_embeds.shape == (1, 16)


def test_saved_pipelines_are_the_peer_s(tiny: Checkpoints, ours: Load, tmp_path: Path) -> None:
    ours("KandinskyV22PriorPipeline", "prior").save_pretrained(tmp_path / "prior")
    ours("KandinskyV22Pipeline", "text2img").save_pretrained(tmp_path / "decoder")
    prior = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "prior")
    decoder = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "decoder")
    for saved, source in ((prior, tiny.prior), (decoder, tiny.decoders["text2img"])):
        saved.set_progress_bar_config(disable=True)
        assert type(saved) is type(source)
        for name, part in source.components.items():
            if isinstance(part, nn.Module):
                state = getattr(saved, name).state_dict()
                assert all(torch.equal(state[key], value) for key, value in part.state_dict().items())
    expected = tiny.prior("a fox", generator=seeded(), num_inference_steps=2).image_embeds
    assert close(prior("a fox", generator=seeded(), num_inference_steps=2).image_embeds, expected, 1e-5)
    again = compat.DiffusionPipeline.from_pretrained(tmp_path / "decoder")
    assert again.config["unet"] == "UNet2DConditionModel"


def test_hub_ids_fetch_what_is_needed(tiny: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(monkeypatch, tmp_path / "hub") as hub:
        readme = {"README.md": b"---\nprior:\n- painters/tiny-prior\n---\n"}
        hub.publish("painters/tiny", {**files_of(folder(tiny, "text2img")), **readme})
        hub.publish("painters/tiny-prior", files_of(folder(tiny, "prior")))
        unet = compat.UNet2DConditionModel.from_pretrained("painters/tiny", subfolder="unet")
        assert not any(name.startswith("movq/") for name in hub.fetched())
        before = len(hub.fetched())
        scheduler = compat.DDIMScheduler.from_pretrained("painters/tiny", subfolder="scheduler")
        pipe = compat.AutoPipelineForText2Image.from_pretrained("painters/tiny", unet=unet, scheduler=scheduler)
        assert not any(name.startswith("unet/") for name in hub.fetched()[before:])
    assert pipe.unet is unet
    assert len(pipe("a fox", **WHOLE).images) == 1
