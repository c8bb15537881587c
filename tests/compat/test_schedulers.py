"""Schedulers used by themselves: what they hold and each of their steps, against diffusers'."""

import inspect
from typing import Any

import diffusers
import numpy as np
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
        # To the neighbouring time diffusers' classes round beta in two ways, of which ours have one.
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
    """They are computed in float32, where diffusers loses what the coefficients of late times tell."""
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
    walking = compat.UniPCMultistepScheduler()
    walking.set_timesteps(5)
    with pytest.raises(RequestError, match="Time 998 is not one of this trajectory's 5"):
        walking.step(x, 998, x)
    with pytest.raises(RequestError, match=r"eta 1\.5 is outside"):
        mine.step(x, 1, x, eta=1.5)
    with pytest.raises(RequestError, match="2 generators were given for 3 images"):
        both("ddpm")[0].step(x.expand(3, -1, -1, -1), 1, x.expand(3, -1, -1, -1), generator=drawn("list", 2))


LATENT: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
WALKS: list[tuple[str, dict[str, Any]]] = [
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"solver_order": 1, **LATENT}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **LATENT}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1, **LATENT}),
    ("DPMSolverMultistepScheduler", {"variance_type": "fixed_small", "lambda_min_clipped": -float("inf")}),
    ("UniPCMultistepScheduler", {"flow_shift": 3.0, **LATENT}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1, **LATENT}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "prediction_type": "sample"}),
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading", **LATENT}),
    ("DDIMScheduler", {"beta_schedule": "scaled_linear", **LATENT}),
    ("DDIMScheduler", {"trained_betas": np.linspace(0.001, 0.01, 1000), "set_alpha_to_one": False}),
    ("DDPMScheduler", {"trained_betas": [0.001 + 0.00001 * i for i in range(1000)]}),
]


@pytest.mark.parametrize("steps", [4, 7, 20])
@pytest.mark.parametrize(("kind", "settings"), WALKS)
def test_whole_walks(kind: str, settings: dict[str, Any], steps: int) -> None:
    """What the network is shown at each step, and what comes out."""
    ended = []
    for side in (compat, diffusers):
        scheduler = getattr(side, kind)(**settings)
        scheduler.set_timesteps(steps)
        x = torch.randn(2, 4, 3, 3, generator=seeded()) * scheduler.init_noise_sigma
        seen, draws = [], {} if kind.startswith("UniPC") else {"generator": seeded(5)}
        for index, t in enumerate(scheduler.timesteps):
            seen.append(scheduler.scale_model_input(x, t))
            x = scheduler.step(torch.tanh(seen[-1] * 0.7 + index * 0.1), t, x, **draws).prev_sample
        ended.append((scheduler.timesteps.tolist(), torch.stack(seen), x))
    assert ended[0][0] == pytest.approx(ended[1][0])
    assert close(ended[0][1], ended[1][1])
    assert close(ended[0][2], ended[1][2])


@pytest.mark.parametrize("t", [998, 499, 100, 3])
def test_times_off_the_trajectory(t: int) -> None:
    """As inversions and own loops use them: a step goes as far as the steps of the trajectory do."""
    ended = []
    for side in both("ddim"):
        side.set_timesteps(5)
        x, said = torch.randn(2, 4, 3, 3, generator=seeded()), torch.randn(2, 4, 3, 3, generator=seeded(1))
        ended.append(side.step(said, t, x).prev_sample)
    assert close(ended[0], ended[1])


def test_settings_that_are_registered_act() -> None:
    ended = []
    for side in both("ddpm"):
        side.register_to_config(prediction_type="v_prediction", note=5)
        side.set_timesteps(5)
        x, said = torch.randn(2, 4, 3, 3, generator=seeded()), torch.randn(2, 4, 3, 3, generator=seeded(1))
        ended.append(side.step(said, side.timesteps[1], x, generator=seeded(2)).prev_sample)
        assert side.config.note == 5
        with pytest.warns(FutureWarning, match="note"):
            assert side.note == 5
        assert int(side.previous_timestep(side.timesteps[1])) == int(side.timesteps[2])
    assert close(ended[0], ended[1])


@pytest.mark.parametrize("method", ["step", "add_noise", "set_timesteps", "scale_model_input"])
@pytest.mark.parametrize("how", ["in a subclass", "on the object"])
def test_methods_that_nothing_calls_are_refused(ours: Any, method: str, how: str) -> None:
    def own(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError

    pipe = ours("KandinskyV22Pipeline", "text2img")
    scheduler = pipe.scheduler
    if how == "in a subclass":
        pipe.scheduler = type("Mine", (type(scheduler),), {method: own}).from_config(scheduler.config)
    else:
        pipe.scheduler = type(scheduler).from_config(scheduler.config)
        setattr(pipe.scheduler, method, own)
    try:
        with pytest.raises(RequestError, match=f"replaces {method}, which pipelines here do not call"):
            pipe(*torch.randn(2, 1, 20), height=64, width=64, num_inference_steps=2)
    finally:
        pipe.scheduler = scheduler


def test_times_that_are_given() -> None:
    mine, theirs = both("ddpm")
    for side in (mine, theirs):
        side.set_timesteps(timesteps=[900, 500, 20])
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    x, said = torch.randn(1, 4, 3, 3, generator=seeded()), torch.randn(1, 4, 3, 3, generator=seeded(1))
    for t in mine.timesteps:
        found, wanted = (side.step(said, t, x, generator=seeded(2)).prev_sample for side in (mine, theirs))
        assert close(found, wanted, 3e-4)
    for given in ({"timesteps": [5, 20]}, {"timesteps": [1000]}, {}, {"num_inference_steps": 3, "timesteps": [5]}):
        with pytest.raises(RequestError, match=r"timesteps are|A trajectory has"):
            mine.set_timesteps(**given)


@pytest.mark.parametrize("name", [name for name in compat.__all__ if name.endswith("Scheduler")])
def test_parameters_are_diffusers(name: str, tmp_path: Any) -> None:
    ours, theirs = getattr(compat, name), getattr(diffusers, name)
    wanted = {p.name: p.default for p in inspect.signature(theirs.__init__).parameters.values() if p.name != "self"}
    differs = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    assert list(ours.PARAMETERS.items()) == [(key, differs.get(key, value)) for key, value in wanted.items()]
    mine, there = ours(500), theirs(500)
    assert len(mine) == there.config.num_train_timesteps == 500
    assert close(mine.betas, there.betas, 1e-6)
    assert close(mine.alphas, there.alphas, 1e-6)
    mine.save_config(tmp_path)
    assert theirs.from_pretrained(tmp_path).config.num_train_timesteps == 500
    assert ours.load_config(tmp_path)["num_train_timesteps"] == 500
    assert theirs.from_pretrained(tmp_path).config.get("skip_prk_steps", True)

    class Mine(ours):  # type: ignore[misc]
        """What users make of it."""

    assert Mine(prediction_type="sample").schedule.prediction_type == "sample"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas = True is not offered"),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order = 3 is not offered"),
    ("DPMSolverMultistepScheduler", {"lower_order_final": False}, "lower_order_final = False is not offered"),
    ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}, "variance_type = 'learned_range'"),
    ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "disable_corrector"),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True"),
    ("DDPMScheduler", {"variance_type": "fixed_large"}, "variance_type = 'fixed_large'"),
    ("DDPMScheduler", {"beta_end": 2.0}, "beta_end = 2.0"),
    ("DDPMScheduler", {"trained_betas": [0.1]}, "trained_betas of 1 times"),
    ("DDPMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
    ("PNDMScheduler", {"skip_prk_steps": False}, "skip_prk_steps = False"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type = 'continuous'"),
]


@pytest.mark.parametrize(("kind", "settings", "words"), REFUSED)
def test_refusals_speak_of_the_keyword(kind: str, settings: dict[str, Any], words: str) -> None:
    for make in (getattr(compat, kind), lambda **more: getattr(compat, kind).from_config({}, **more)):
        with pytest.raises(RequestError, match=words) as told:
            make(**settings)
        assert str(told.value).startswith(f"{kind}: ")
        assert "scheduler_config.json" not in str(told.value)


def test_misspelt_settings_are_errors() -> None:
    for side in (compat, diffusers):
        with pytest.raises(TypeError, match="tymestep_spacing"):
            side.DDIMScheduler(tymestep_spacing="trailing")
    with pytest.raises(RequestError, match="Did you mean 'timestep_spacing'"):
        compat.DDIMScheduler.from_config({}, tymestep_spacing="trailing")
    with pytest.warns(UserWarning, match="sigma_data"):
        compat.DDIMScheduler.from_config({"use_karras_sigmas": True}, sigma_data=1)
