"""Loading and saving: pipelines and their components, from folders and from a hub."""

import shutil
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


def test_the_autoencoder_answers_like_diffusers(tiny: Checkpoints, ours: Load) -> None:
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


def test_saved_pipelines_are_diffusers(tiny: Checkpoints, ours: Load, tmp_path: Path) -> None:
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


def test_dtypes_by_both_names_and_by_component(tiny: Checkpoints) -> None:
    place = folder(tiny, "text2img")
    for name in ("dtype", "torch_dtype"):
        for side in (compat, diffusers):
            pipe = side.KandinskyV22Pipeline.from_pretrained(place, **{name: torch.bfloat16})
            assert (pipe.unet.dtype, pipe.movq.dtype) == (torch.bfloat16, torch.bfloat16)
            part = side.VQModel.from_pretrained(place, subfolder="movq", **{name: torch.bfloat16})
            assert part.dtype is torch.bfloat16
            other = side.KandinskyV22Img2ImgPipeline.from_pipe(pipe, torch_dtype=torch.float64)
            assert other.unet.dtype is torch.float64
            mixed = {"unet": torch.bfloat16, "default": torch.float64}
            pipe = side.KandinskyV22Pipeline.from_pretrained(place, **{name: mixed})
            assert (pipe.unet.dtype, pipe.movq.dtype) == (torch.bfloat16, torch.float64)


def test_keywords_that_diffusers_ignores_are_warned_of(tiny: Checkpoints) -> None:
    place = folder(tiny, "text2img")
    ignored = ("resume_download", "use_auth_token", "proxies", "vae", "feature_extractor", "something_of_mine")
    for kind in (compat.KandinskyV22Pipeline, compat.AutoPipelineForInpainting):
        parts = {"prior": folder(tiny, "prior")} if "Auto" in kind.__name__ else {}
        with pytest.warns(UserWarning, match=f"takes no '{ignored[0]}'") as told:
            kind.from_pretrained(place, **dict.fromkeys(ignored), **parts)
        said = " ".join(str(one.message) for one in told)
        assert [name for name in ignored if f"takes no '{name}'" not in said] == []
    with pytest.warns(UserWarning, match="takes no 'proxies'"):
        compat.UNet2DConditionModel.from_pretrained(place / "unet", proxies={})
    for kind in (compat.KandinskyV22Pipeline, compat.UNet2DConditionModel, compat.DDPMScheduler, compat.CLIPTokenizer):
        with pytest.raises((RequestError, TypeError), match="revison"):
            kind.from_pretrained(place, revison="main")
    pipe = compat.KandinskyV22Pipeline.from_pretrained(place, low_cpu_mem_usage=True, quantization_config=None)
    for kind in (compat.KandinskyV22Img2ImgPipeline, compat.AutoPipelineForImage2Image):
        with pytest.raises(RequestError, match="Did you mean 'scheduler'"):
            kind.from_pipe(pipe, skeduler=pipe.scheduler)
    with pytest.raises(TypeError, match="skeduler"):
        compat.KandinskyV22Pipeline(**pipe.components, skeduler=1)


def test_device_maps_act_or_are_refused(tiny: Checkpoints) -> None:
    place = folder(tiny, "text2img")
    for where in ("cpu", "balanced"):
        for side in (compat, diffusers):
            assert side.KandinskyV22Pipeline.from_pretrained(place, device_map=where).device.type == "cpu"
    assert compat.UNet2DConditionModel.from_pretrained(place / "unet", device_map={"": "cpu"}).device.type == "cpu"
    absent = "cuda" if not torch.cuda.is_available() else "cuda:99"
    for where in ("nonsense", absent):
        with pytest.raises(RequestError):
            compat.KandinskyV22Pipeline.from_pretrained(place, device_map=where)
        with pytest.raises(RequestError):
            compat.VQModel.from_pretrained(place / "movq", device_map=where)
    with pytest.raises(RequestError, match="One device holds all"):
        compat.VQModel.from_pretrained(place / "movq", device_map={"encoder": "cpu", "decoder": 0})


def test_variants_and_kinds_of_files(tiny: Checkpoints, tmp_path: Path, ours: Load) -> None:
    """A variant is read where there is one; as in diffusers none at all is an error, of the kind that code catches."""
    ours("KandinskyV22Pipeline", "text2img").save_pretrained(tmp_path)
    compat.VQModel.from_pretrained(tmp_path / "movq").half().save_pretrained(tmp_path / "movq", variant="fp16")
    for side in (compat, diffusers):
        assert side.KandinskyV22Pipeline.from_pretrained(tmp_path, variant="fp16").unet.dtype is torch.float32
        with pytest.raises(ValueError, match="`variant=no`, but no such modeling files are available"):
            side.KandinskyV22Pipeline.from_pretrained(tmp_path, variant="no")
        with pytest.raises(OSError):
            side.VQModel.from_pretrained(tmp_path / "movq", variant="no")
        with pytest.raises(OSError):
            side.VQModel.from_pretrained(tmp_path / "movq", use_safetensors=False)
    (tmp_path / "movq" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "movq" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    compat.VQModel.from_pretrained(folder(tiny, "text2img") / "movq").save_pretrained(
        tmp_path / "movq", safe_serialization=False
    )
    assert compat.VQModel.from_pretrained(tmp_path / "movq", use_safetensors=False).dtype is torch.float32
    with pytest.raises(OSError, match="use_safetensors is True"):
        compat.KandinskyV22Pipeline.from_pretrained(tmp_path, use_safetensors=True)


def test_a_cache_elsewhere_and_no_network(tiny: Checkpoints, tmp_path: Path) -> None:
    commit = "0" * 40
    for name, place in (("tiny", "text2img"), ("tiny-prior", "prior")):
        home = tmp_path / f"models--painters--{name}"
        shutil.copytree(folder(tiny, place), home / "snapshots" / commit)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)
    readme = tmp_path / "models--painters--tiny" / "snapshots" / commit / "README.md"
    readme.write_text("---\nprior:\n- painters/tiny-prior\n---\n")
    told: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    for side in (compat, diffusers):
        pipe = side.AutoPipelineForText2Image.from_pretrained("painters/tiny", **told)
        assert type(pipe).__name__ == "KandinskyV22CombinedPipeline"
        pipe = side.DiffusionPipeline.from_pretrained("painters/tiny", load_connected_pipeline=True, **told)
        assert type(pipe).__name__ == "KandinskyV22CombinedPipeline"
        assert type(side.DiffusionPipeline.from_pretrained("painters/tiny", **told)).__name__ == "KandinskyV22Pipeline"
        unet = side.UNet2DConditionModel.from_pretrained("painters/tiny", subfolder="unet", **told)
        assert unet.config.encoder_hid_dim == 20
        assert (
            side.DDPMScheduler.from_pretrained("painters/tiny", subfolder="scheduler", **told).config.steps_offset == 1
        )
        with pytest.raises(OSError):
            side.KandinskyV22Pipeline.from_pretrained("painters/other", **told)
    found = compat.DiffusionPipeline.download("painters/tiny", load_connected_pipeline=True, **told)
    assert Path(found) == readme.parent
    assert compat.DiffusionPipeline.download(folder(tiny, "text2img")) == str(folder(tiny, "text2img"))
