"""The sampler curve: its coupled noise, its distances, and the whole command in small."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import sampler_curve
from benchmarks.brownian import BrownianNoise
from benchmarks.curve_tables import BEGIN, END, rewritten
from kandinsky.core.errors import DataError
from kandinsky.core.rng import PerImageRng, Rng
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import linspaced
from tests.diffusion.worlds import Gaussian
from tests.tiny import Checkpoints

LINEAR = Process.linear(0.00085, 0.012)


def ancestral(name: str, steps: int, x: torch.Tensor, rng: Rng) -> torch.Tensor:
    *_, last = sample(make_sampler(name, LINEAR), Gaussian(LINEAR).denoise, x, linspaced(steps, 1000), rng)
    return last.x


def test_draws_are_standard_normal_and_of_one_path() -> None:
    noise = BrownianNoise(torch.zeros(1, 5_000), LINEAR)
    whole, first, second = noise.between(800, 100), noise.between(800, 400), noise.between(400, 100)
    for drawn in (whole, first, second, noise.between(1, 0), noise.between(3, -1)):
        assert drawn.std().item() == pytest.approx(1.0, abs=0.04)
    # A step's noise is that of its parts, the later ones counting more; the parts know nothing of each other.
    clock = [LINEAR.sigma_at(t) ** -2 for t in (800, 400, 100)]
    shares = [((b - a) / (clock[2] - clock[0])) ** 0.5 for a, b in ((clock[0], clock[1]), (clock[1], clock[2]))]
    torch.testing.assert_close(whole, shares[0] * first + shares[1] * second, rtol=1e-4, atol=1e-4)
    assert torch.corrcoef(torch.cat([first, second]))[0, 1].abs() < 0.06


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral", "dpmpp_2m_sde"])
def test_more_steps_on_one_path_come_nearer(name: str) -> None:
    start = torch.randn(1, 4000, generator=torch.Generator().manual_seed(5))
    noise = BrownianNoise(start, LINEAR)

    def path(steps: int) -> torch.Tensor:
        draws = noise.along(linspaced(steps, 1000))
        return ancestral(name, steps, draws.normal(tuple(start.shape)), draws)

    reference = path(1000)
    far = [(path(steps) - reference).std().item() for steps in (10, 40, 160)]
    assert far[2] < 0.6 * far[1] < 0.36 * far[0]
    other = ancestral(name, 160, start, PerImageRng.from_seeds([7]))
    assert far[2] < 0.2 * (other - reference).std().item()


def test_distance_is_a_share_of_that_of_other_images() -> None:
    reference = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert sampler_curve.distance(reference, reference) == 0
    assert sampler_curve.distance(reference.flip(0), reference) == pytest.approx(1.0)
    assert sampler_curve.distance(reference + torch.tensor([0.5, 0.0]), reference) == pytest.approx(0.1)


@pytest.mark.slow
def test_the_whole_command(tiny: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before\n{BEGIN}\nold\n{END}\nBehind\n", "utf-8")
    flags = ["--model", str(tiny.combined), "--quick", "--images", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["sampler_curve.py", *flags, "--docs", str(page)])
    sampler_curve.main()
    rows = json.loads((tmp_path / "sampler-curve.json").read_text("utf-8"))["rows"]
    assert {row["kind"] for row in rows} == {"sampler", "published", "spacing", "option", "prior"}
    assert {row["name"] for row in rows if row["kind"] == "sampler"} == {
        *sampler_curve.DETERMINISTIC,
        *sampler_curve.RANDOM,
    }
    calls = {(row["name"], row["steps"]): row["calls"] for row in rows if row["kind"] == "sampler"}
    assert (calls["ddim", 4], calls["heun", 2], calls["plms", 4]) == (4, 3, 5)
    options = {row["name"]: row for row in rows if row["kind"] == "option"}
    assert options["none"]["latents"] == 0
    assert options["none"]["work"] == 1
    assert options["reuse=2"]["rows"] == options["none"]["rows"]
    assert options["reuse=5"]["work"] < options["reuse=2"]["work"] < 1
    assert options["guidance_interval=(0.2, 0.8)"]["rows"] < options["none"]["rows"]
    with Image.open(tmp_path / "sampler-curve.png") as image:
        assert image.width > image.height
    text = page.read_text("utf-8")
    assert text.startswith("Before\n")
    assert text.endswith("Behind\n")
    assert "| `dpmpp_2m` |" in text
    assert "old" not in text


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(DataError, match="no marks"):
        rewritten("a page", "tables")
