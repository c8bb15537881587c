"""Guidance on an interval and deep features used again: what they leave as it is, and what they do."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kandinsky
from kandinsky.core.events import Denoising, Finished
from kandinsky.core.metadata import metadata_of, summary
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations.model import Model
from tests.families import mostly_slow
from tests.requests import our_conditions, our_latents
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

FIELDS: dict[str, Any] = {
    "prompt": "a red fox",
    "negative_prompt": "a house",
    "guidance_scale": 4.0,
    "width": 64,
    "height": 64,
    "steps": 10,
    "seed": 3,
}
MIDDLE = (0.2, 0.6)
OFF: list[dict[str, Any]] = [{"guidance_interval": (0.0, 1.0)}, {"reuse": 1}, {"guidance_interval": [0, 1], "reuse": 1}]
ON: list[dict[str, Any]] = [{"guidance_interval": MIDDLE}, {"reuse": 3}, {"guidance_interval": MIDDLE, "reuse": 2}]


@pytest.fixture(scope="module")
def pipe(tiny: Checkpoints) -> Pipeline:
    return tiny.kept_own()


def pixels(pipe: Pipeline, **fields: Any) -> list[bytes]:
    return [image.tobytes() for image in pipe.generate(**(FIELDS | fields)).images]


def times_of(model: Model, steps: int = 10, sampler: str = "ddim") -> list[int]:
    return model.schedule_of(sampler, steps).times(steps)


class Calls:
    """How many rows each call of a U-Net has, and whether the resolutions below its first one ran."""

    def __init__(self, network: Any) -> None:
        self.rows: list[int] = []
        self.deep: list[bool] = []
        self._hooks = [
            network.conv_in.register_forward_hook(self._began),
            network.down[-1].register_forward_hook(self._went_deep),
        ]
        for module in network.down[-1].modules():
            self._hooks.append(module.register_forward_hook(self._went_deep))

    def _began(self, _: Any, told: tuple[Tensor], __: Any) -> None:
        self.rows.append(len(told[0]))
        self.deep.append(False)

    def _went_deep(self, *_: Any) -> None:
        if self.deep:
            self.deep[-1] = True

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def calls(pipe: Pipeline, **fields: Any) -> Calls:
    found = Calls(pipe.model.network)
    our_latents(pipe, **(FIELDS | {"sampler": "ddim"} | fields))
    found.remove()
    return found


@pytest.mark.parametrize("off", OFF)
def test_off_is_off_to_the_bit(pipe: Pipeline, off: dict[str, Any]) -> None:
    assert pixels(pipe, **off) == pixels(pipe)
    assert calls(pipe, **off).rows == calls(pipe).rows == [2] * 10


@pytest.mark.parametrize("on", ON)
def test_on_is_not(pipe: Pipeline, on: dict[str, Any]) -> None:
    assert not torch.allclose(our_latents(pipe, **(FIELDS | on)), our_latents(pipe, **FIELDS), atol=1e-3)


def test_rows_are_half_outside_the_interval(pipe: Pipeline) -> None:
    low, high = MIDDLE
    inside = [low <= t / 1000 <= high for t in times_of(pipe.model)]
    assert 0 < sum(inside) < len(inside)
    assert calls(pipe, guidance_interval=MIDDLE, count=3).rows == [6 if there else 3 for there in inside]


def test_deep_features_are_computed_in_every_third_step(pipe: Pipeline) -> None:
    assert calls(pipe, reuse=3).deep == [step % 3 == 0 for step in range(10)]
    assert calls(pipe, reuse=1000).deep == [step == 0 for step in range(10)]


def test_they_are_computed_anew_where_guidance_begins_and_ends(pipe: Pipeline) -> None:
    found = calls(pipe, guidance_interval=MIDDLE, reuse=3)
    wanted, since = [], 0
    for k, rows in enumerate(found.rows):
        since = 0 if k == 0 or rows != found.rows[k - 1] else since + 1
        wanted.append(since % 3 == 0)
    assert found.rows[0] == found.rows[-1] == 1
    assert found.deep == wanted


@torch.no_grad()
def by_hand(pipe: Pipeline, interval: tuple[float, float]) -> Tensor:
    """DDIM on the whole network, one call for each half of guidance, written out."""
    model, conditions = pipe.model, our_conditions(pipe, **FIELDS)
    process, times = model.schedule.process, times_of(pipe.model)
    x = torch.randn(1, 4, 8, 8, generator=_after_the_prior(pipe))
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        time = torch.full((1,), float(t))
        eps = model.network(x, time, conditions.cond)[:, :4]
        if interval[0] <= t / 1000 <= interval[1]:
            uncond = model.network(x, time, conditions.uncond)[:, :4]
            eps = uncond + FIELDS["guidance_scale"] * (eps - uncond)
        abar, abar_next = process.alpha_bar_at(t), process.alpha_bar_at(t_next)
        x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
        x = abar_next**0.5 * x0 + (1 - abar_next) ** 0.5 * eps
    return x


def _after_the_prior(pipe: Pipeline) -> torch.Generator:
    """The generator of the image, where the prior has left it."""
    generator = torch.Generator().manual_seed(FIELDS["seed"])
    steps = pipe.model.defaults["prior_steps"]
    dim = pipe.model.network.config.image_dim
    for _ in range(steps):
        torch.randn(1, dim, generator=generator)
    return generator


@pytest.mark.parametrize("interval", [MIDDLE, (0.0, 0.5), (0.5, 1.0), (0.49, 0.491)])
def test_an_interval_equals_the_formula(pipe: Pipeline, interval: tuple[float, float]) -> None:
    found = our_latents(pipe, **FIELDS, sampler="ddim", guidance_interval=interval)
    torch.testing.assert_close(found, by_hand(pipe, interval), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("on", mostly_slow(ON, ON[2]))
@pytest.mark.parametrize("sampler", ["heun", "plms", "dpmpp_2m", "ddpm"])
def test_an_image_of_a_batch_is_the_image_alone(pipe: Pipeline, on: dict[str, Any], sampler: str) -> None:
    fields = FIELDS | on | {"sampler": sampler}
    together = our_latents(pipe, **(fields | {"count": 2}))
    (single,) = our_latents(pipe, **(fields | {"seed": FIELDS["seed"] + 1}))
    assert together.isfinite().all()
    assert (together[1] - single).abs().max() < 1e-4 * max(float(single.abs().max()), 1.0)


@pytest.mark.parametrize("on", mostly_slow(ON, ON[2]))
def test_images_that_are_changed(pipe: Pipeline, on: dict[str, Any]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    for start in ({"image": image, "strength": 0.7}, {"image": image, "mask": mask}):
        assert pixels(pipe, **start, **on) != pixels(pipe, **start)


@pytest.mark.parametrize("on", mostly_slow(ON, ON[2]))
def test_weights_that_come_and_go(one_text: OneTextCheckpoints, on: dict[str, Any]) -> None:
    plain, away = one_text.kept(), one_text.ours(offload="parts")
    # Weights that stay are laid out for their processor once a request, and then round differently.
    there, gone = (
        np.frombuffer(b"".join(pixels(pipe, sampler="heun", **on)), np.uint8).astype(int) for pipe in (plain, away)
    )
    assert np.abs(there - gone).max() <= 2
    assert pixels(plain, sampler="heun", **on) != pixels(plain)


@pytest.mark.parametrize("on", mostly_slow(ON, ON[2]))
def test_other_generations(one_text: OneTextCheckpoints, text_image: TextImageCheckpoints, on: dict[str, Any]) -> None:
    for other in (one_text.kept(), text_image.kept()):
        for same in OFF:
            assert pixels(other, **same) == pixels(other)
        assert pixels(other, **on) != pixels(other)
    found = calls(one_text.kept(), sampler=None, guidance_interval=MIDDLE)
    assert sorted(set(found.rows)) == [1, 2]


def test_previews_and_cancelling(pipe: Pipeline) -> None:
    seen = 0
    for event in pipe.stream(**(FIELDS | ON[2])):
        if isinstance(event, Denoising) and event.preview is not None:
            assert event.preview()[0].size == (8, 8)
            seen += 1
        if seen == 6:
            break
    assert seen == 6
    assert pixels(pipe, **ON[2]) == pixels(pipe, **ON[2])


def test_metadata_holds_them(pipe: Pipeline) -> None:
    result = pipe.generate(**(FIELDS | ON[2] | {"prompt": ["a fox", "a cat"]}))
    stored = metadata_of(result, 1)
    again = Request.from_json(stored.request)
    assert (again.guidance_interval, again.reuse) == (MIDDLE, 2)
    assert "CFG interval: 0.2 to 0.6, Reuse: 2" in summary(stored)
    *_, finished = pipe.run(again)
    assert isinstance(finished, Finished)
    assert finished.result.images[0].tobytes() == result.images[1].tobytes()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"guidance_interval": 0.5}, "two numbers, not 0.5"),
    ({"guidance_interval": (0.1, 0.2, 0.3)}, "two numbers"),
    ({"guidance_interval": (0.8, 0.2)}, "from 0.8 to 0.2, which is no interval"),
    ({"guidance_interval": (0.1, 1.5)}, r"guidance_interval 1\.5 is not within 0 to 1"),
    ({"guidance_interval": ("a", 1)}, "must be a number, not 'a'"),
    ({"guidance_interval": (None, 1)}, "two numbers"),
    ({"guidance_interval": MIDDLE, "guidance_scale": 1.0}, r"a guidance_scale of 1\.0 guides nothing"),
    ({"reuse": 0}, "reuse 0 is outside 1 to 1000"),
    ({"reuse": 1.5}, r"reuse must be a whole number, not 1\.5"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_what_cannot_be_is_refused(pipe: Pipeline, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(kandinsky.RequestError, match=message):
        pipe.stream(**(FIELDS | fields))
