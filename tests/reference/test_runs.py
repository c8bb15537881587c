"""Whole runs of the original code, repeated from its own files by recorded draws."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kandinsky
from kandinsky.compat.kandinsky2.facade import shared
from kandinsky.conditioning.conditions import Batch
from kandinsky.core.images import crop, to_pil
from kandinsky.core.requests import Request
from kandinsky.diffusion.schedule import Schedule
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations import k20, k21
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import denoise, encode
from kandinsky.tasks.resolve import resolve
from tests.parity.oracles import relative
from tests.reference.folders import NEGATIVE, PRIOR_NEGATIVE, PROMPT
from tests.reference.recorded import HEAD, RELEASE, SECOND, facts, levels_agree, limit, tensors
from tests.replay import ReplayRng
from tests.requests import returned

SAMPLERS = {"p_sampler": "ddpm", "ddim_sampler": "ddim", "plms_sampler": "plms"}
BOUNDS = {"clip_denoised": k20.CLIPPING, "none": None}
IMAGES = [
    pytest.param(case, run, id=f"{case}-{run}")
    for case in (RELEASE, HEAD, SECOND)
    for run in facts(case)["runs"]
    if f"{run}.latents" in tensors(case)
]
EMBEDDINGS = [run for run in facts(SECOND)["runs"] if run.startswith("clip_emb")]


class Recorded(ReplayRng):
    """A run's draws; a second trajectory of the prior has those that followed the first one's."""

    def __init__(self, draws: Sequence[Tensor], forked: Sequence[Tensor] = ()) -> None:
        super().__init__(draws)
        self.forked = list(forked)

    def fork(self) -> ReplayRng:
        return ReplayRng(self.forked)


@pytest.fixture(scope="session")
def pipelines(first_release: Path, second_release: Path) -> dict[tuple[str, bool], Pipeline]:
    """By case and whether it is the inpainting U-Net."""
    folders = {RELEASE: first_release, HEAD: first_release, SECOND: second_release}
    behaviours = {RELEASE: None, HEAD: "head-2023", SECOND: None}
    return {
        (case, inpainting): kandinsky.load(
            folders[case],
            variant="inpainting" if inpainting else None,
            behaviour=behaviours[case],
            device="cpu",
            dtype="float32",
        )
        for case in (RELEASE, HEAD, SECOND)
        for inpainting in (False, True)
    }


def batchwise(schedule: Schedule) -> Schedule:
    """The originals measure percentiles on the first image of a batch, for all of it."""
    return replace(schedule, constraints=tuple(map(shared, schedule.constraints)))


def draws_of(case: str, run: str, arguments: dict[str, Any]) -> Recorded:
    """Those draws that act: the first half of each batch, and none whose factor is zero."""
    found, total = tensors(case), sum(part["count"] for part in facts(case)["runs"][run]["draws"])
    draws = [found[f"{run}.draw.{k:02d}"] for k in range(total)]
    batch = arguments.get("batch_size", 1)
    draws = [draw[:batch] for draw in draws]
    prior = [draw for draw in draws if draw.ndim == 2]
    if run.startswith("mix"):  # one embedding is made and repeated
        prior = [draw[:1].expand(batch, -1) for draw in prior]
    rest = [draw for draw in draws if draw.ndim == 4]
    # The last step of every trajectory of the prior ends on a clean embedding.
    steps = 6
    first, second = prior[:steps][:-1], prior[steps:][:-1]
    return Recorded([*first, *rest], second)


def request_of(case: str, run: str) -> Request:
    told, found = facts(case)["runs"][run], tensors(case)
    given = told["arguments"]
    mixed = told["method"] == "mix_images"
    image = found["image_in"].numpy() if "image_in" in told["inputs"] else None
    fields: dict[str, Any] = {
        "prompt": kandinsky.mix([PROMPT, image], given["weights"]) if mixed else PROMPT,
        "seed": 0,
        "steps": given["num_steps"],
        "guidance_scale": given["guidance_scale"],
        "sampler": SAMPLERS[given["sampler"]],
        "height": given.get("h", 64),
        # The originals round sizes up to 64 pixels; these tiny networks would do with 16.
        "width": -(-given.get("w", 64) // 64) * 64,
        "count": given.get("batch_size", 1),
    }
    if "prior_steps" in given:
        fields |= {"prior_steps": int(given["prior_steps"]), "prior_guidance_scale": given["prior_cf_scale"]}
    elif fields["sampler"] == "ddim" and case == RELEASE:
        fields["eta"] = given["ddim_eta"]
    if "negative_prior_prompt" in given:
        fields |= {"prior_negative_prompt": PRIOR_NEGATIVE, "negative_prompt": NEGATIVE}
    if image is not None and not mixed:
        fields["image"] = image
    if told["method"] == "generate_inpainting":
        fields["mask"] = 1 - found["mask_in"].numpy()
    if "strength" in given:
        fields["strength"] = 1 - given["strength"]
    return Request(**fields)


def model_of(pipe: Pipeline, case: str, run: str) -> Model:
    """The loaded model as the originals ran it in batches, with the bound that the run asked for."""
    model, given = pipe.model, facts(case)["runs"][run]["arguments"]
    schedules = dict(model.schedules)
    if given.get("denoised_type") in BOUNDS:
        schedules = k20.release_schedules(BOUNDS[given["denoised_type"]])
    schedules = {name: batchwise(schedule) for name, schedule in schedules.items()}
    return replace(model, schedule=schedules["ddim"], schedules=schedules)


@pytest.mark.parametrize(("case", "run"), IMAGES)
def test_images(case: str, run: str, pipelines: dict[tuple[str, bool], Pipeline]) -> None:
    told = facts(case)["runs"][run]
    inpainting = told["method"] == "generate_inpainting"
    pipe = pipelines[case, inpainting]
    model = model_of(pipe, case, run)
    resolved = resolve(model, request_of(case, run))
    batch = Batch(resolved.rows, draws_of(case, run, told["arguments"]))
    (conditions,) = returned(encode(model, resolved, [batch]))
    *_, last = denoise(model, resolved, batch, conditions)
    found = tensors(case)
    scale = k20.KL_SCALE if case != SECOND else 1.0
    if case == SECOND:
        wanted = found[f"{run}.image_emb"]
        ours = torch.cat([conditions.cond.image_embedding, conditions.uncond.image_embedding])
        assert relative(ours, wanted) < limit(case, run)
    assert relative(last.x / scale, found[f"{run}.latents"]) < limit(case, run)
    image = found[f"{run}.image"].numpy()
    height, width = image.shape[1:3]
    pixels = np.stack(to_pil(crop(model.codec.decode(last.x), width, height)))
    assert levels_agree(case, run, pixels, image)


@pytest.mark.parametrize("run", EMBEDDINGS)
def test_embeddings(run: str, pipelines: dict[tuple[str, bool], Pipeline]) -> None:
    conditioner: Any = pipelines[SECOND, False].model.conditioner
    given, found = facts(SECOND)["runs"][run]["arguments"], tensors(SECOND)
    sections, count = given["prior_steps"], given["batch_size"]
    stage = replace(conditioner.image.stage, schedule=k21.original_prior_schedule(sections))
    uncond = PRIOR_NEGATIVE if "negative_prior_prompt" in given else ""
    texts = [stage.encode_text(text) for text in [uncond] * count + [PROMPT] * count]
    steps = len(stage.schedule.times(1))
    total = sum(part["count"] for part in facts(SECOND)["runs"][run]["draws"])
    draws = ReplayRng([found[f"{run}.draw.{k:02d}"][:count] for k in range(total)])
    prepared = stage.prepare(texts, steps)
    ours = returned(stage.sample(prepared, draws, count, steps, float(given["prior_cf_scale"])))
    assert relative(ours, found[f"{run}.image_emb"]) < limit(SECOND, run)


def test_calls_come_at_the_recorded_times(pipelines: dict[tuple[str, bool], Pipeline]) -> None:
    for case, run in (parameter.values for parameter in IMAGES):
        given = facts(case)["runs"][run]["arguments"]
        schedule = pipelines[case, False].model.schedules.get(SAMPLERS[given["sampler"]])
        schedule = schedule or pipelines[case, False].model.schedule
        strength = 1 - given["strength"] if "strength" in given else 1.0
        times = schedule.beginning(given["num_steps"], strength).times
        calls = [float(t) for t in tensors(case)[f"{run}.unet_t"][:, 0]]
        # PLMS looks ahead once.
        assert times == list(dict.fromkeys(calls))
