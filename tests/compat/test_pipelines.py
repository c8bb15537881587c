"""Loading, combining, replacing and moving: whatever is set on a pipeline acts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from kandinsky.compat import diffusers as compat
from kandinsky.compat.diffusers import offload
from kandinsky.core.errors import CheckpointError, RequestError
from tests.compat.comparing import PRIOR_STEPS, SMALL, close, draw_image, drawn, embeds, folder, hole, oracle, seeded
from tests.families import mostly_slow
from tests.tiny import Checkpoints

Load = Callable[[str, str], Any]
LATENT = {**SMALL, "output_type": "latent"}
WHOLE = {**SMALL, "prior_num_inference_steps": PRIOR_STEPS, "output_type": "latent"}


@contextmanager
def naming_its_prior(tiny: Checkpoints, name: str) -> Iterator[Path]:
    """A decoder folder whose README says where its prior is, as the published ones do."""
    place = folder(tiny, name)
    readme = place / "README.md"
    readme.write_text(f"---\nlicense: apache-2.0\nprior:\n  - {tiny.root / 'prior'}\n---\n")
    yield place
    readme.unlink()


@pytest.fixture(scope="module")
def combined(tiny: Checkpoints) -> Any:
    with naming_its_prior(tiny, "text2img") as place:
        return compat.AutoPipelineForText2Image.from_pretrained(place)


def theirs_combined(tiny: Checkpoints, name: str, kind: str) -> Any:
    prior = {f"prior_{key}": value for key, value in tiny.prior.components.items()}
    made = getattr(diffusers, name)(**tiny.decoders[kind].components, **prior)
    made.set_progress_bar_config(disable=True)
    made.prior_pipe.set_progress_bar_config(disable=True)
    made.decoder_pipe.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("negative", [None, ["ugly", "grey"]])
@pytest.mark.parametrize("copies", [1, 2])
def test_combined_text_to_image(tiny: Checkpoints, combined: Any, negative: list[str] | None, copies: int) -> None:
    fields: dict[str, Any] = {**WHOLE, "negative_prompt": negative, "num_images_per_prompt": copies}
    theirs = theirs_combined(tiny, "KandinskyV22CombinedPipeline", "text2img")
    expected = theirs(["a fox", "a cat"], generator=seeded(), **fields).images
    assert close(combined(["a fox", "a cat"], generator=seeded(), **fields).images, expected)


def test_combined_with_a_generator_per_image(tiny: Checkpoints, combined: Any) -> None:
    theirs = theirs_combined(tiny, "KandinskyV22CombinedPipeline", "text2img")
    expected = theirs(["a fox", "a cat"], generator=drawn("list", 2), **WHOLE).images
    assert close(combined(["a fox", "a cat"], generator=drawn("list", 2), **WHOLE).images, expected)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("negative", [None, "ugly"])
def test_combined_image_to_image(tiny: Checkpoints, combined: Any, negative: str | None, rows: int) -> None:
    ours = compat.AutoPipelineForImage2Image.from_pipe(combined)
    assert type(ours) is compat.KandinskyV22Img2ImgCombinedPipeline
    fields: dict[str, Any] = {**WHOLE, "width": 64, "num_inference_steps": 6, "strength": 0.5}
    theirs = theirs_combined(tiny, "KandinskyV22Img2ImgCombinedPipeline", "text2img")
    fields["negative_prompt"] = negative and [negative] * rows
    arguments = ["a fox", "a cat", "a"][:rows], [draw_image(64, 64, seed=seed) for seed in range(rows)]
    expected = theirs(*arguments, generator=seeded(), **fields).images
    assert close(ours(*arguments, generator=seeded(), **fields).images, expected)


def test_combined_images_are_paired_with_their_prompts(combined: Any) -> None:
    ours = compat.AutoPipelineForImage2Image.from_pipe(combined)
    images = [draw_image(64, 64), draw_image(64, 64, seed=1)]
    fields: dict[str, Any] = {**WHOLE, "width": 64, "num_inference_steps": 6, "num_images_per_prompt": 2}
    together = ours(["a fox", "a cat"], images, generator=drawn("list", 4), **fields).images
    fields["num_images_per_prompt"] = 1
    for i, generator in enumerate(drawn("list", 4)):
        alone = ours(["a fox", "a cat"][i // 2], images[i // 2], generator=generator, **fields).images
        assert close(together[i : i + 1], alone, 1e-5)


@pytest.mark.parametrize("negative", [None, "ugly"])
def test_combined_inpainting(tiny: Checkpoints, negative: str | None) -> None:
    with naming_its_prior(tiny, "inpaint") as place:
        ours = compat.AutoPipelineForInpainting.from_pretrained(place)
    assert type(ours) is compat.KandinskyV22InpaintCombinedPipeline
    theirs = theirs_combined(tiny, "KandinskyV22InpaintCombinedPipeline", "inpaint")
    fields: dict[str, Any] = {**WHOLE, "negative_prompt": negative}
    expected = theirs("a hat", draw_image(), hole(), generator=seeded(), **fields).images
    assert close(ours("a hat", draw_image(), hole(), generator=seeded(), **fields).images, expected)
    two = ours("a hat", draw_image(), hole(), num_images_per_prompt=2, generator=seeded(), **WHOLE).images
    assert len(two) == 2


def test_combined_latents_go_where_they_fit(tiny: Checkpoints, combined: Any) -> None:
    latents = torch.randn(1, 4, 8, 16, generator=seeded(2))
    positive, negative = combined.prior_pipe("a fox", generator=seeded(), num_inference_steps=PRIOR_STEPS)
    wanted = combined.decoder_pipe(positive, negative, latents=latents, generator=seeded(1), **LATENT).images
    combined.scheduler = compat.DDIMScheduler.from_config(combined.scheduler.config)
    plain = combined("a fox", latents=latents, generator=seeded(), **WHOLE).images
    combined.scheduler = compat.DDPMScheduler.from_config(combined.scheduler.config)
    assert plain.shape == wanted.shape
    embedded = torch.randn(1, 20, generator=seeded(2))
    theirs = theirs_combined(tiny, "KandinskyV22CombinedPipeline", "text2img")
    expected = theirs("a fox", latents=embedded, generator=seeded(), **WHOLE).images
    assert close(combined("a fox", latents=embedded, generator=seeded(), **WHOLE).images, expected)
    with pytest.raises(RequestError, match="neither the prior's nor the decoder's"):
        combined("a fox", latents=latents[0])


def test_combined_callbacks_of_both_halves(combined: Any) -> None:
    told: list[str] = []

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        told.append(f"{type(pipe).__name__} {tensors['latents'].ndim}")
        return tensors

    combined("a fox", prior_callback_on_step_end=tell, callback_on_step_end=tell, callback=lambda *_: None, **WHOLE)
    assert told == ["KandinskyV22PriorPipeline 2"] * PRIOR_STEPS + ["KandinskyV22Pipeline 4"] * 4


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"])
def test_another_scheduler_acts(tiny: Checkpoints, combined: Any, name: str) -> None:
    theirs = diffusers.KandinskyV22Pipeline(**tiny.decoders["text2img"].components)
    theirs.set_progress_bar_config(disable=True)
    stored = diffusers.DDPMScheduler.from_pretrained(folder(tiny, "text2img"), subfolder="scheduler")
    theirs.scheduler = getattr(diffusers, name).from_config(stored.config, clip_sample=False)
    expected = theirs(*embeds(2), generator=seeded(), **LATENT).images
    before = combined.scheduler
    try:
        combined.scheduler = getattr(compat, name).from_config(combined.scheduler.config, clip_sample=False)
        assert combined.decoder_pipe.scheduler is combined.scheduler
        found = combined.decoder_pipe(*embeds(2), generator=seeded(), **LATENT).images
    finally:
        combined.scheduler = before
    assert close(found, expected)


def test_a_scheduler_with_learned_variances(tiny: Checkpoints, ours: Load) -> None:
    changes: dict[str, Any] = {"variance_type": "learned_range", "thresholding": True, "sample_max_value": 2.0}
    changes["steps_offset"] = 0  # as published: later ends would keep the noise of the last step
    theirs = diffusers.KandinskyV22Pipeline(**tiny.decoders["text2img"].components)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.DDPMScheduler.from_config(theirs.scheduler.config, **changes)
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    mine.scheduler = compat.DDPMScheduler.from_config(mine.scheduler.config, **changes)
    expected = theirs(*embeds(1), generator=seeded(), **LATENT).images
    assert close(mine(*embeds(1), generator=seeded(), **LATENT).images, expected)
    mine.scheduler = compat.DDIMScheduler.from_config(mine.scheduler.config)
    assert mine(*embeds(1), generator=seeded(), **LATENT).images.shape == expected.shape


@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_schedulers_that_fail_in_diffusers(ours: Load, name: str) -> None:
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    plain = mine(*embeds(1), generator=seeded(), **LATENT).images
    mine.scheduler = getattr(compat, name).from_config(mine.scheduler.config)
    found = mine(*embeds(1), generator=seeded(), **LATENT).images
    assert found.isfinite().all()
    assert not close(found, plain, 1e-3)


def test_ancestral_sampling_has_two_names(ours: Load) -> None:
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    plain = mine(*embeds(1), generator=seeded(), **LATENT).images
    mine.scheduler = compat.EulerAncestralDiscreteScheduler.from_config(mine.scheduler.config)
    assert close(mine(*embeds(1), generator=seeded(), **LATENT).images, plain)


def test_schedulers_by_themselves(tiny: Checkpoints, tmp_path: Path) -> None:
    loaded = compat.DDPMScheduler.from_pretrained(folder(tiny, "text2img"), subfolder="scheduler")
    theirs = tiny.decoders["text2img"].scheduler
    assert loaded.config.beta_end == loaded.config["beta_end"] == theirs.config.beta_end
    theirs.set_timesteps(7)
    loaded.set_timesteps(7)
    assert torch.equal(loaded.timesteps, theirs.timesteps)
    x, noise = torch.randn(2, 4, 8, 8, generator=seeded()), torch.randn(2, 4, 8, 8, generator=seeded(1))
    t = torch.tensor([900, 20])
    assert close(loaded.add_noise(x, noise, t), theirs.add_noise(x, noise, t), 1e-6)
    assert close(loaded.alphas_cumprod, theirs.alphas_cumprod, 1e-6)
    loaded.save_pretrained(tmp_path / "scheduler")
    again = diffusers.DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    assert again.config.beta_start == theirs.config.beta_start
    assert len(loaded) == 1000
    switched = compat.HeunDiscreteScheduler.from_config(loaded.config)
    assert switched.config.clip_sample is False
    with pytest.raises(AttributeError, match="no_such_setting"):
        loaded.config.no_such_setting
    with pytest.raises(CheckpointError, match="use_karras_sigmas"):
        compat.EulerDiscreteScheduler.from_config(loaded.config, use_karras_sigmas=True)


class Counting(nn.Module):
    """A user's own module around the U-Net, as torch.compile would put one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module
        self.calls = 0

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls += 1
        return self._orig_mod(*arguments, **keywords) * 0.5


def test_another_unet_acts_in_both_halves(combined: Any, ours: Load) -> None:
    mine = compat.KandinskyV22CombinedPipeline(**combined.components)
    plain = mine("a fox", generator=seeded(), **WHOLE).images
    mine.unet = Counting(mine.unet)
    found = mine("a fox", generator=seeded(), **WHOLE).images
    assert mine.unet.calls == 4
    assert not close(found, plain, 1e-2)
    hooked: list[int] = []
    handle = combined.unet.register_forward_hook(lambda *_: hooked.append(1))
    combined("a fox", generator=seeded(), **WHOLE)
    handle.remove()
    assert len(hooked) == 4


@pytest.mark.parametrize("in_place", mostly_slow([True, False], False))
def test_a_compiled_unet_gives_the_same_images(tiny: Checkpoints, ours: Load, in_place: bool) -> None:
    """One graph serves all steps, whether the module is compiled in place or wrapped."""
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    plain = mine(*embeds(1), generator=seeded(), **LATENT).images
    mine.unet = compat.UNet2DConditionModel.from_pretrained(folder(tiny, "text2img"), subfolder="unet")
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    if in_place:
        mine.unet.compile(backend=backend, fullgraph=True)
    else:
        mine.unet = torch.compile(mine.unet, backend=backend, fullgraph=True)
    assert close(mine(*embeds(1), generator=seeded(), **LATENT).images, plain)
    assert len(graphs) == 1


def test_the_unet_answers_like_diffusers(tiny: Checkpoints, ours: Load) -> None:
    mine, theirs = ours("KandinskyV22Pipeline", "text2img").unet, tiny.decoders["text2img"].unet
    x, positive = torch.randn(2, 4, 8, 8, generator=seeded()), embeds(2)[0]
    arguments: dict[str, Any] = {"encoder_hidden_states": None, "added_cond_kwargs": {"image_embeds": positive}}
    with torch.no_grad():
        expected = theirs(x, torch.tensor(500), **arguments).sample
        assert close(mine(x, torch.tensor(500), **arguments).sample, expected)
        assert close(mine(sample=x, timestep=500, return_dict=False, **arguments)[0], expected)
    assert mine.config.in_channels == 4
    assert mine.dtype is torch.float32


def test_attention_processors_are_accepted(ours: Load) -> None:
    mine = compat.KandinskyV22Pipeline.from_pipe(ours("KandinskyV22Pipeline", "text2img"))
    plain = mine(*embeds(1), generator=seeded(), **LATENT).images
    for processor in (compat.AttnAddedKVProcessor(), compat.AttnAddedKVProcessor2_0()):
        mine.unet.set_attn_processor(processor)
        assert set(mine.unet.attn_processors.values()) == {processor}
        assert torch.equal(mine(*embeds(1), generator=seeded(), **LATENT).images, plain)
    several = {name: compat.AttnProcessor() for name in mine.unet.attn_processors}
    mine.unet.set_attn_processor(several)
    assert mine.unet.attn_processors == several
    with pytest.raises(RequestError, match="got no processor"):
        mine.unet.set_attn_processor(dict(list(several.items())[1:]))
    with pytest.raises(RequestError, match=r"LoRAProcessor.*Known"):
        mine.unet.set_attn_processor(type("LoRAProcessor", (), {})())
    mine.unet.set_default_attn_processor()
    mine.enable_xformers_memory_efficient_attention()
    mine.enable_attention_slicing()
    mine.set_progress_bar_config(disable=True)


def test_moving(tiny: Checkpoints) -> None:
    pipe = compat.KandinskyV22Pipeline.from_pretrained(folder(tiny, "text2img"), torch_dtype=torch.float16)
    assert pipe.dtype is torch.float16
    assert pipe.to("cpu", torch.float64) is pipe
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float64)
    found = pipe(*embeds(1), generator=seeded(), **LATENT).images
    assert found.dtype is torch.float64
    with pytest.raises(RequestError, match=r"torch\.int8"):
        pipe.to(torch.int8)
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match="'cuda'"):
            pipe.to("cuda")
    pipe.enable_model_cpu_offload()
    pipe.enable_sequential_cpu_offload()
    if not torch.cuda.is_available():
        assert torch.equal(pipe(*embeds(1), generator=seeded(), **LATENT).images, found)
    pipe.remove_all_hooks()


def test_offloading_brings_modules_and_takes_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second name of the processor stands for an accelerator: what goes there is seen."""
    moved: list[tuple[str, str]] = []
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    names = {id(module): name for name, module in net.named_modules()}

    def to(module: nn.Module, device: Any = None, **_: Any) -> nn.Module:
        moved.append((names[id(module)], str(device)))
        return module

    monkeypatch.setattr(nn.Module, "to", to)
    there = torch.device("cpu", 0)
    with offload.whole({"prior_net": net}, there).seen_with("prior_").loaded(["net"]):
        assert moved == [("", "cpu:0")]
    assert moved == [("", "cpu:0"), ("", "cpu")]
    moved.clear()
    layers = offload.layered({"net": net}, there)
    net(torch.ones(1, 2))
    assert moved == [("0", "cpu:0"), ("0", "cpu"), ("1.0", "cpu:0"), ("1.0", "cpu")]
    layers.remove()
    net(torch.ones(1, 2))
    assert len(moved) == 4


def test_offloaded_pipelines_give_the_same_images(combined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second name of the processor as the accelerator, all but the moving itself happens."""
    plain = combined("a fox", generator=seeded(), **WHOLE).images
    monkeypatch.setattr("kandinsky.compat.diffusers.pipeline.choose_device", lambda _: torch.device("cpu"))
    for make in (offload.whole, offload.layered):
        mine = compat.KandinskyV22CombinedPipeline.from_pipe(combined)
        mine._offload = make(mine._modules, torch.device("cpu", 0))
        assert close(mine("a fox", generator=seeded(), **WHOLE).images, plain, 1e-5)
        mine.remove_all_hooks()
        assert mine._offload is None


def test_images_and_grids(tmp_path: Path) -> None:
    image = draw_image(16, 8)
    image.save(tmp_path / "one.png")
    assert compat.load_image(str(tmp_path / "one.png")).size == (16, 8)
    assert compat.load_image(image.convert("RGBA")).mode == "RGB"
    assert compat.load_image(image, convert_method=lambda found: found.convert("L")).mode == "L"
    grid = compat.make_image_grid([image, draw_image(16, 8, 1), image, image], rows=2, cols=2)
    assert grid.size == (32, 16)
    assert grid.crop((16, 0, 32, 8)).tobytes() == draw_image(16, 8, 1).tobytes()
    assert compat.make_image_grid([image], 1, 1, resize=4).size == (4, 4)
    with pytest.raises(RequestError, match="3 images do not fill 2 x 2"):
        compat.make_image_grid([image] * 3, 2, 2)
    with pytest.raises(RequestError, match="There is no image"):
        compat.load_image(str(tmp_path / "none.png"))


def test_diffusers_pipelines_are_not_needed_to_follow_one(ours: Load, tiny: Checkpoints) -> None:
    """Stages may be mixed: embeddings of diffusers' prior, images of our decoder."""
    theirs = oracle(diffusers.KandinskyV22PriorPipeline, tiny.prior)
    output = theirs("a fox", generator=seeded(), num_inference_steps=PRIOR_STEPS)
    assert ours("KandinskyV22Pipeline", "text2img")(**output, **LATENT).images.shape == (1, 4, 8, 16)
