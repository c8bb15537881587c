"""Ratios pair by pair, tables, JSON and the image, on numbers that were not measured."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from benchmarks.against_diffusers import cli, libraries
from benchmarks.against_diffusers.chart import draw_chart
from benchmarks.against_diffusers.compare import Measured, Row, difference
from benchmarks.against_diffusers.report import markdown, to_json
from benchmarks.against_diffusers.request import Asked, Job
from benchmarks.against_diffusers.run import SIDES, Plan, Results
from benchmarks.against_diffusers.workloads import WORKLOADS
from kandinsky.core.errors import ConfigError, RequestError
from tests.docs.pages import REPOSITORY, blocks, commands

MACHINE = {"device": "a machine", "threads": 2, "versions": {"torch": "2"}, "free": 1}


def sides(ours: list[float], peer: list[float], *peaks: int) -> dict[str, Measured]:
    return {
        name: Measured("float32", [], 0.5, seconds, [peak] * len(seconds), [], 4e9)
        for name, seconds, peak in zip(("ours", "peer"), (ours, peer), peaks, strict=True)
    }


@pytest.fixture
def results() -> Results:
    rows = [
        Row(WORKLOADS["step-2.2"], "float32", sides([2, 4, 2], [4, 6, 3], 2**30, 2**31), (0.25, 3), {"float32": 4e9}),
        Row(WORKLOADS["memory-2.2"], "default", sides([9, 9], [9, 9], 2**30, 2**30)),
        Row(WORKLOADS["movq-768"], "bfloat16", {"peer": sides([1], [1], 1, 1)["peer"]}),
    ]
    return Results(MACHINE, Plan(), rows, [("prior-2.2, default", "it needs 9 GiB")])


def test_ratios_are_taken_pair_by_pair(results: Results) -> None:
    step, memory, alone = results.rows
    assert step.ratios == [2.0, 1.5, 1.5]
    assert (step.ratio, step.bar) == (1.5, 1.1)
    assert memory.ratios == [1.0, 1.0], "peaks are what counts there"
    assert alone.ratio is None
    memory.sides["ours"].device_peaks = memory.sides["peer"].device_peaks = [2**20, 2**21]
    memory.sides["peer"].device_peaks = [2**22, 2**22]
    assert memory.ratios == [4.0, 2.0], "of a GPU its own memory counts"
    assert memory.sides["ours"].peak == 2**21
    assert step.share("ours") == pytest.approx(0.5)
    assert memory.share("ours") is alone.share("ours") is None


def test_the_table_tells_all_of_it(results: Results) -> None:
    table = markdown(results).splitlines()
    assert "a machine, 2 threads; torch 2. Matrix products in the same run: float32 4 GFLOP/s." in table
    (line,) = [line for line in table if line.startswith("| step-2.2")]
    assert line == (
        "| step-2.2 | float32 | 2.00 s float32 | 4.00 s float32 | 1.50x | 1.50 .. 2.00 "
        "| 1024 MiB | 2048 MiB | 50% | 25% | 0.25 / 3 |"
    )
    assert any(line.startswith("| memory-2.2 ") and "| 1.00x | 1.00 .. 1.00 |" in line for line in table)
    assert "- prior-2.2, default: it needs 9 GiB" in table
    kept = json.loads(json.dumps(to_json(results)))
    assert (kept["rows"][0]["ratios"], kept["rows"][0]["bar"]) == ([2.0, 1.5, 1.5], 1.1)
    assert kept["rows"][0]["sides"]["peer"]["seconds"] == [4, 6, 3]


def test_the_image_has_a_bar_for_each_comparison(results: Results) -> None:
    with Image.open(io.BytesIO(draw_chart(results))) as image:
        pixels = np.asarray(image.convert("RGB"))
    green = (pixels == (0x2F, 0x7D, 0x5B)).all(axis=-1)
    assert green.sum() > 1000
    empty = Results(MACHINE, Plan())
    with Image.open(io.BytesIO(draw_chart(empty))) as image:
        assert image.size[0] == pixels.shape[1]


def test_differences_are_in_levels(tmp_path: Path) -> None:
    a, b = np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3), np.uint8)
    b[0, 0, 0] = 255
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    assert difference(tmp_path / "a.npy", tmp_path / "b.npy") == (255 / 4, 255)


def test_plans_that_cannot_be() -> None:
    with pytest.raises(RequestError, match=r"step-2\.3.*Did you mean 'step-2\.2'"):
        Plan(("step-2.3",))
    with pytest.raises(RequestError, match="theirs"):
        Plan(sides=("theirs",))
    with pytest.raises(RequestError, match="0 runs"):
        Plan(runs=0)


def test_pairings_follow_the_sides() -> None:
    step, cold = WORKLOADS["step-2.2"], WORKLOADS["cold-start"]
    both = ["ours", "peer"]
    pairings = [("default", both), ("float32", both), ("bfloat16", both)]
    assert list(Plan().pairings(step)) == pairings
    assert list(Plan().pairings(cold)) == pairings[:1]
    assert list(Plan().pairings(WORKLOADS["text2img-2.2"])) == pairings[:1]
    assert [name for name, _ in Plan(device="cuda").pairings(step)] == ["default", "float16"]
    assert list(Plan(sides=("ours-best",), dtypes=("bfloat16",)).pairings(step)) == [("bfloat16", ["ours"])]


def test_steps_of_the_prior_can_be_fewer() -> None:
    prior, step = Plan(("prior-2.2", "step-2.2"), prior_steps=3).chosen()
    assert (prior.asked.prior_steps, step.asked.prior_steps) == (3, 1)


def test_the_embedded_checkpoint_is_asked_for_what_it_is_made_for() -> None:
    import kandinsky

    (cold,) = Plan(("cold-start",)).chosen()
    own = kandinsky.load(device="cpu").model.defaults
    for name in ("width", "height", "steps", "guidance_scale", "prior_steps", "prior_guidance_scale"):
        assert getattr(cold.asked, name) == own[name], name


def test_the_page_names_every_workload_and_side() -> None:
    text = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [name for name in (*WORKLOADS, *SIDES) if f"`{name}`" not in text] == []


def test_the_page_names_every_flag_and_its_commands_are_understood() -> None:
    page = REPOSITORY / "docs" / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    command = typer.main.get_command(cli.app)
    flags = [flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")]
    assert [flag for flag in flags if f"`{flag}`" not in text] == []
    written = [words for block in blocks(page) for words in commands(block) if words[0] == "python"]
    assert len(written) > 3
    for words in written:
        assert words[:3] == ["python", "-m", "benchmarks.against_diffusers"]
        command.make_context(words[2], words[3:])


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["against_diffusers", "step-2.3", "--side", "ours"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "step-2.2" in capsys.readouterr().err


def test_jobs_pass_through_json() -> None:
    job = Job("peer", "folder", Asked(form="mix", count=2), "step", "float32", threads=2)
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_missing_peer_names_the_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "diffusers" else object())
    with pytest.raises(ConfigError, match=r"diffusers.*benchmarks/requirements\.txt"):
        cli.bench(Plan(), None, quiet=True)


@pytest.mark.parity  # the process that it starts needs diffusers
def test_results_are_written(
    results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(plan: Plan, say: Callable[[str], None], keep: Callable[[Results], None]) -> Results:
        keep(results)
        return results

    monkeypatch.setattr(cli, "run", run)
    cli.bench(Plan(), tmp_path / "new", quiet=True)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(cli.NAMES)
    assert capsys.readouterr().out == (tmp_path / "new" / "bench.md").read_text(encoding="utf-8")
