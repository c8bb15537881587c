"""`kandinsky evaluate`: a folder against real images, and the protocol of papers on a small COCO."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kandinsky.cli import evaluate as command
from kandinsky.cli.main import run
from kandinsky.evaluation import coco
from tests.evaluation.test_measure import averages, fill


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages in place of Inception, whose package need not be installed."""
    monkeypatch.setattr(command, "load_inception", lambda device: averages)


def evaluate(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["evaluate", *map(str, arguments)])
    assert (ended.value.code or 0) == code


@pytest.mark.usefixtures("small_network")
def test_a_folder_against_real_images_and_their_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("drawn"), 30, 0, shift=30)
    fill(Path("real"), 40, 1)
    evaluate("drawn", "--reference", "real", "--metrics", "fid,kid,precision,recall", "--out", "report.json")
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["fid", "kid", "precision", "recall"]
    report = json.loads(Path("report.json").read_text())
    assert (report["count"], report["reference_count"], report["sizes"]) == (30, 40, {"20x16": 30})
    assert report["resize"] == "clean"
    evaluate("real", "--save-stats", "real.npz")
    evaluate("drawn", "--reference", "real.npz", "--metrics", "fid", "--out", "again.json")
    again = json.loads(Path("again.json").read_text())
    assert again["metrics"]["fid"] == pytest.approx(report["metrics"]["fid"], rel=1e-9)
    evaluate("drawn", "--reference", "real.npz", "--metrics", "fid", "--resize", "tensorflow", code=1)
    assert "real.npz was made with" in capsys.readouterr().err


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drawn"], "nothing to measure"),
        (["drawn", "--metrics", "fid"], "fid compares with real images"),
        (["drawn", "--metrics", "fdi"], "Did you mean 'fid'"),
        (["drawn", "--reference", "gone"], "no folder gone"),
        (["drawn", "--reference", "drawn", "--metrics", "clip"], "no metric compares with it"),
        (["gone", "--reference", "drawn"], "no folder gone"),
        (["one", "--reference", "drawn", "--metrics", "fid"], "One image has no covariance"),
        (["drawn", "--reference", "broken", "--metrics", "fid"], "broken/000.png cannot be measured"),
        (["drawn", "--reference", "drawn", "--guidance-scale", "3"], "--guidance-scale goes with --protocol"),
        (["drawn", "--reference", "drawn", "--model", "emoji"], "--model goes with --protocol"),
        (["drawn", "--reference", "drawn", "--out", "gone/r.json"], "no folder gone"),
        (["--reference", "drawn"], "no images to measure"),
        (["drawn", "--metrics", "inception"], "has no classes"),
        (["--protocol", "coco30k", "--out", "o"], "needs the captions and the images"),
        (["--protocol", "coco30k"], "needs a folder"),
        (["drawn", "--protocol", "coco30k", "--out", "o"], "IMAGES does not go with --protocol"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("drawn"), 3, 0)
    fill(Path("one"), 1, 0)
    fill(Path("broken"), 1, 0)
    Path("broken/000.png").write_bytes(b"none")
    evaluate(*arguments, code=1)
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith("error")]) == 1
    assert not Path("o").exists()


class Whole(torch.nn.Module):
    """Stands for the file of StyleGAN's metrics: called by the same names."""

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        found = torch.nn.functional.adaptive_avg_pool2d(img.float(), 2).flatten(1)
        if return_features:
            return found
        assert no_output_bias
        return (found / 50).softmax(dim=1)


def test_a_whole_network_gives_an_inception_score(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("drawn"), 12, 0)
    torch.jit.script(Whole()).save("whole.pt")
    evaluate("drawn", "--metrics", "inception", "--inception", "whole.pt", "--out", "r.json")
    report = json.loads(Path("r.json").read_text())
    assert report["network"].startswith("whole.pt (")
    assert 1 <= report["metrics"]["inception"]["value"] <= 12
    torch.jit.script(torch.nn.Linear(2, 2)).save("other.pt")
    for name, said in (("other.pt", "not return_features"), ("drawn/000.png", "not a TorchScript")):
        evaluate("drawn", "--metrics", "inception", "--inception", name, code=1)
        assert said in capsys.readouterr().err


def small_coco(count: int = 8) -> None:
    """A file of captions and its images, in the form of COCO's."""
    fill(Path("val"), count, 3, size=(64, 48))
    images = [{"id": i, "file_name": f"{i:03d}.png"} for i in range(count)]
    captions = [
        {"id": 1000 - i, "image_id": i // 2, "caption": f" a {name}\n" if name else " "}
        for i, name in enumerate(["fox", "house", "tree", "cat", "car", "dog", "", "heart"])
    ]
    Path("captions.json").write_text(json.dumps({"images": images, "annotations": captions}))


def test_captions_are_drawn_by_a_rule_that_can_be_repeated() -> None:
    small_coco()
    captions = coco.read_captions("captions.json")
    assert [one.id for one in captions] == [993, 995, 996, 997, 998, 999, 1000]
    assert captions[0] == coco.Caption(993, "a heart", "003.png")
    first, again, other = coco.sample(captions, 4), coco.sample(captions, 4), coco.sample(captions, 4, seed=1)
    assert first == again != other
    assert first.digest != other.digest
    assert len({one.id for one in first.captions}) == 4
    everything = coco.real_images("val", captions, first, "all")
    matched = coco.real_images("val", captions, first, "matched")
    assert [one.path.name for one in everything] == ["000.png", "001.png", "002.png", "003.png"]
    assert {one.path.name for one in matched} == {one.file for one in first.captions}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a file of COCO captions"),
        ('{"images": [], "annotations": [{"id": 1, "image_id": 2, "caption": "a"}]}', "not a file of COCO captions"),
        ('{"images": [], "annotations": []}', "holds no caption"),
        ("{", "not a file of COCO captions"),
    ],
)
def test_files_that_are_no_captions(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("captions.json").write_text(text)
    evaluate("--protocol", "coco30k", "--coco-captions", "captions.json", "--coco-images", "val", "--out", "o", code=1)
    assert said in capsys.readouterr().err


@pytest.fixture
def quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are drawn in this process."""
    import kandinsky
    from kandinsky.jobs import store, supervisor
    from kandinsky.jobs.worker import Worker

    pipe = kandinsky.load(device="cpu")

    def here(options: Any, on_message: Any) -> None:
        db = store.open_store(options[0].path)
        Worker(pipe, db, "w", options[0], lambda kind, data=b"", **said: on_message({"kind": kind, **said}, data)).run()
        db.close()

    monkeypatch.setattr(supervisor, "run", here)


@pytest.mark.usefixtures("small_network", "quick_batches")
def test_the_protocol_writes_what_a_stranger_needs(capsys: pytest.CaptureFixture[str]) -> None:
    small_coco()
    arguments = ["--protocol", "coco30k", "--coco-captions", "captions.json", "--coco-images", "val", "--out", "o"]
    quick = ["--steps", 1, "--prior-steps", 1, "--limit", 5, "--sweep", "guidance_scale=1,4", "--device", "cpu"]
    evaluate(*arguments, *quick, "--coco-rule", "matched")
    said = capsys.readouterr().out
    report = json.loads(Path("o/report.json").read_text())
    assert [run["guidance_scale"] for run in report["runs"]] == [1, 4]
    assert all(run["images"] == 5 and run["FID"] > 0 for run in report["runs"])
    assert f"FID {report['runs'][0]['FID']:.4g}" in said
    protocol = report["protocol"]
    chosen = coco.sample(coco.read_captions("captions.json"), 5)
    assert chosen.digest in protocol["captions"]
    assert (protocol["steps"], protocol["sampler"], protocol["drawn at"]) == (1, "dpmpp_2m", "64x64")
    assert "torch" in protocol["versions"]
    assert "compares with no table" in report["notes"][0]
    assert len(report["published"]) == len(coco.published()) + 1
    assert [row[0] for row in report["published"] if row[2] == "this run"] == ["emoji (5 captions: no comparison)"]
    rows = [json.loads(line) for line in Path("o/captions.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [one.text for one in chosen.captions]
    text, page = Path("o/report.md").read_text(), Path("o/report.html").read_text()
    for name in ("eDiff-I", "Kandinsky 2.0", chosen.digest):
        assert name in text
        assert name in page
    assert page.count("<circle") == 2
    assert "FID over CLIP score for each guidance_scale" in page
    before = Path("o/report.json").read_bytes()
    images = {path: path.stat().st_mtime_ns for path in Path("o").rglob("*.png")}
    evaluate(*arguments, *quick, "--coco-rule", "matched")
    assert Path("o/report.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in images} == images


@pytest.mark.parametrize("sweep", ["guidance_scale", "guidance_scale=", "guidance_scale=a", "prompt=1", "steps=1,1"])
def test_sweeps_that_are_none(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    small_coco()
    arguments = ["--protocol", "coco30k", "--coco-captions", "captions.json", "--coco-images", "val", "--out", "o"]
    evaluate(*arguments, "--sweep", sweep, code=1)
    assert f"--sweep {sweep!r} is not a list of values" in capsys.readouterr().err
