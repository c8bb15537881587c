"""Steps and sampler of published checkpoints: fewer by default, the published ones when asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kandinsky
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations.few_step_defaults import HIGHER_ORDER, PRIOR_DEFAULTS
from tests.requests import our_latents
from tests.tiny import Checkpoints, write_tiny
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

PUBLISHED = {"2.1": "ddim", "2.2": "ddpm"}
FIELDS: dict[str, Any] = {"prompt": "fox", "seed": 1, "width": 64, "height": 64, "prior_steps": 2}


def load(root: Path, **options: Any) -> Pipeline:
    return kandinsky.load(root, device="cpu", dtype="float32", **options)


@pytest.fixture(params=list(PUBLISHED))
def published(
    request: pytest.FixtureRequest, tiny: Checkpoints, text_image: TextImageCheckpoints
) -> tuple[Pipeline, str]:
    """A folder as published, and its sampler."""
    if request.param == "2.2":
        tiny.ours("text2img")
        return load(tiny.root / "text2img", prior=tiny.root / "prior"), PUBLISHED["2.2"]
    text_image.ours()
    return load(text_image.root / "decoder", prior=text_image.root / "prior"), PUBLISHED["2.1"]


def test_twenty_steps_of_second_order_from_pure_noise(published: tuple[Pipeline, str]) -> None:
    pipe, sampler = published
    result = pipe.generate(**FIELDS)
    assert (result.request["sampler"], result.request["steps"]) == ("dpmpp_2m", 20)
    times = pipe.model.schedule_of("dpmpp_2m", 20).times(20)
    assert (times[0], len(times)) == (999, 20)
    assert pipe.model.schedule.sampler == sampler


def test_what_was_published_can_be_asked_for(published: tuple[Pipeline, str]) -> None:
    """To the bit what the checkpoint's own scheduler gives, whose times are left as they are."""
    pipe, sampler = published
    assert PRIOR_DEFAULTS["steps"] == 100
    asked = our_latents(pipe, **FIELDS, sampler=sampler, steps=3)
    pipe.model = replace(pipe.model, schedules={sampler: pipe.model.schedule})
    assert our_latents(pipe, **FIELDS, sampler=sampler, steps=3).equal(asked)
    assert pipe.model.schedule_of(sampler, 100).times(100)[0] == 991


def test_a_checkpoint_with_settings_of_its_own_keeps_them(tiny: Checkpoints, tmp_path: Path) -> None:
    own = load(write_tiny(tmp_path, defaults={"steps": 7, "sampler": "ddpm"}))
    assert (own.model.defaults["steps"], own.model.defaults["sampler"]) == (7, "ddpm")
    assert "sampler" not in tiny.own().model.defaults


def test_a_scheduler_of_second_order_keeps_its_times(tmp_path: Path) -> None:
    pipe = load(write_tiny(tmp_path, defaults={"sampler": "dpmpp_2m"}))
    assert not pipe.model.schedules
    assert pipe.model.schedule_of("dpmpp_2m").times(10) == pipe.model.schedule.times(10)


def test_the_newest_generation_is_run_as_published(one_text: OneTextCheckpoints) -> None:
    pipe = one_text.ours()
    assert pipe.model.defaults["steps"] == 25
    assert not set(HIGHER_ORDER) & set(pipe.model.schedules)
