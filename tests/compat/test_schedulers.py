"""Schedulers used by themselves: what they hold and each of their steps, against the peer's."""

from typing import Any

import diffusers
import pytest
import torch

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import RequestError
from tests.compat.comparing import close, drawn, seeded

PUBLISHED: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1}
LEARNED: dict[str, Any] = {"variance_type": "learned_range"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", PUBLISHED),
    "ddpm by default": ("DDPMScheduler", {}),
    "ddpm with learned variances": (
        "DDPMScheduler",
        {**PUBLISHED, **LEARNED, "thresholding": True, "sample_max_value": 2.0, "steps_offset": 0},
    ),
    "ddpm of velocities": ("DDPMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {**PUBLISHED, "set_alpha_to_one": False}),
    "ddim by default": ("DDIMScheduler", {}),
    "unclip": ("UnCLIPScheduler", {"prediction_type": "sample", "clip_sample_range": 10.0}),
    "unclip with learned variances": ("UnCLIPScheduler", LEARNED),
}


def both(name: str) -> tuple[Any, Any]:
    kind, settings = CASES[name]
    return getattr(compat, kind)(**settings), getattr(diffusers, kind)(**settings)


@pytest.mark.parametrize("generators", ["one", "list"])
@pytest.mark.parametrize("name", CASES)
def test_steps(name: str, generators: str) -> None:
    mine, theirs = both(name)
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(5)
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    channels = 8 if CASES[name][1].get("variance_type") == "learned_range" else 4
    x, rng, other = torch.randn(2, 4, 3, 5, generator=seeded()), drawn(generators, 2), drawn(generators, 2)
    known = theirs.timesteps.tolist()
    for index, t in enumerate(theirs.timesteps):
        said = torch.randn(2, channels, 3, 5, generator=seeded(index))
        more: dict[str, Any] = {}
        if name.startswith("unclip") and index < len(known) - 1:
            more["prev_timestep"] = known[index + 1]
        expected = theirs.step(said, t, x, generator=other, **more)
        found = mine.step(said, t, x, generator=rng, **more)
        # To the neighbouring time the peer's classes round beta in two ways, of which ours have one.
        assert close(found.prev_sample, expected.prev_sample, 3e-4 if t == 0 else 1e-4)
        assert close(found.pred_original_sample, expected.pred_original_sample)
        x = expected.prev_sample
    parts = mine.step(said, t, x, return_dict=False)
    assert close(parts[1], theirs.step(said, t, x, return_dict=False)[1])


@pytest.mark.parametrize("name", CASES)
def test_what_a_scheduler_holds(name: str) -> None:
    mine, theirs = both(name)
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    assert mine.init_noise_sigma == theirs.init_noise_sigma == 1.0
    x, noise, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([700, 3])
    assert torch.equal(mine.scale_model_input(x, 5), x)
    assert close(mine.add_noise(x, noise, t), theirs.add_noise(x, noise, t), 1e-6)
    assert close(mine.alphas_cumprod, theirs.alphas_cumprod, 1e-6)
    for key, value in CASES[name][1].items():
        assert mine.config[key] == getattr(mine.config, key) == theirs.config[key] == value
    assert len(mine) == 1000
    if hasattr(theirs, "get_velocity"):
        assert close(mine.get_velocity(x, noise, t), theirs.get_velocity(x, noise, t), 1e-6)


@pytest.mark.parametrize(
    "options",
    [{"eta": 0.7}, {"eta": 1.0, "variance_noise": torch.ones(2, 4, 3, 3)}, {"use_clipped_model_output": True}],
)
def test_options_of_ddim(options: dict[str, Any]) -> None:
    mine, theirs = both("ddim by default")
    mine.set_timesteps(7)
    theirs.set_timesteps(7)
    x, said = torch.randn(2, 4, 3, 3, generator=seeded()), torch.randn(2, 4, 3, 3, generator=seeded(1))
    for t in theirs.timesteps:
        more = {} if "variance_noise" in options else {"generator": seeded(2)}
        expected = theirs.step(said, t, x, **options, **more).prev_sample
        more = {} if "variance_noise" in options else {"generator": seeded(2)}
        found = mine.step(said, t, x, **options, **more).prev_sample
        assert close(found, expected, 1e-5)


def test_a_loop_by_hand_is_the_pipeline_s(ours: Any) -> None:
    """The documented way to write a pipeline oneself: scheduler, U-Net and autoencoder as parts."""
    pipe = ours("KandinskyV22Pipeline", "text2img")
    embeds = torch.randn(2, 20, generator=seeded(3))
    fields = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 3.0}
    rng = seeded(4)
    wanted = pipe(embeds[:1], embeds[1:], generator=rng, output_type="latent", **fields).images
    rng = seeded(4)
    latents = torch.randn(1, 4, 8, 8, generator=rng)
    pipe.scheduler.set_timesteps(3)
    condition = {"image_embeds": torch.cat([embeds[1:], embeds[:1]])}
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            sample = pipe.scheduler.scale_model_input(torch.cat([latents] * 2), t)
            said = pipe.unet(sample, t, None, added_cond_kwargs=condition).sample[:, :4]
            uncond, cond = said.chunk(2)
            latents = pipe.scheduler.step(uncond + 3.0 * (cond - uncond), t, latents, generator=rng).prev_sample
    assert close(latents, wanted)


def test_halves_stay_halves() -> None:
    """They are computed in float32, where the peer loses what the coefficients of late times tell."""
    mine, _ = both("ddim")
    mine.set_timesteps(5)
    x, said = (torch.randn(1, 4, 3, 3, generator=seeded(seed)).half() for seed in (0, 1))
    found = mine.step(said, 1, x).prev_sample
    assert found.dtype is torch.float16
    assert torch.equal(found, mine.step(said.float(), 1, x.float()).prev_sample.half())


def test_what_cannot_be_is_told() -> None:
    mine, _ = both("ddim")
    x = torch.randn(1, 4, 3, 3)
    with pytest.raises(RequestError, match="Call set_timesteps first"):
        mine.step(x, 999, x)
    mine.set_timesteps(5)
    with pytest.raises(RequestError, match="Time 998 is not one of this trajectory's 5"):
        mine.step(x, 998, x)
    with pytest.raises(RequestError, match=r"eta 1\.5 is outside"):
        mine.step(x, 1, x, eta=1.5)
    with pytest.raises(RequestError, match="3 generators were given for 1 images"):
        both("ddpm")[0].step(x, 1, x, generator=drawn("list", 3))
