"""Both sides in this process, on the tiny models: the same weights, requests and images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.against_diffusers import peer as peer_side
from benchmarks.against_diffusers.child import Worker
from benchmarks.against_diffusers.counting import counter
from benchmarks.against_diffusers.ours import Ours
from benchmarks.against_diffusers.peer import Peer
from benchmarks.against_diffusers.random_models import draw, make_model
from benchmarks.against_diffusers.request import Job
from benchmarks.against_diffusers.run import Plan
from benchmarks.against_diffusers.workloads import EMBEDDED, Workload
from kandinsky.engine import devices
from kandinsky.engine.embedded import embedded_folder
from tests.benchmarks.test_published import COUNTS
from tests.families import mostly_slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def chosen(name: str) -> Workload:
    return next(Plan(workloads=(name,), quick=True).chosen())


def images(name: str, side: str, models: Path, dtype: str | None = None) -> tuple[np.ndarray, dict[str, float]]:
    workload = chosen(name)
    folder = embedded_folder() if workload.model == EMBEDDED else models / workload.model
    if workload.model != EMBEDDED:
        make_model(models, workload.model, tiny=True)
    worker = Worker(0, "cpu")
    told = worker.load(Job(side, str(folder), workload.asked, workload.span, dtype).to_json())  # type: ignore[arg-type]
    assert dtype in (None, told["dtype"])
    found = worker.run(str(models / "images.npy"), count=True)
    assert found["seconds"] > 0
    return np.load(models / "images.npy").astype(int), found


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["step-2.1", "step-2.2", "step-3.0-half", "prior-2.2", "movq-512", "memory-2.2", "text2img-8", "img2img-1"],
        "step-3.0-half",
        "prior-2.2",
        "movq-512",
        "img2img-1",
    ),
)
def test_both_sides_draw_the_same(name: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In bfloat16, which some processors would have us choose, images of random weights differ by more.
    monkeypatch.setattr(devices, "_has_fast_bfloat16", lambda: False)
    ours, counted = images(name, "ours", models)
    peer, theirs = images(name, "peer", models)
    count = chosen(name).asked.count
    assert ours.shape == peer.shape == (count, 64, 64, 3)
    assert ours.std() > 1
    # Weights of any size make latents of any size, of which rounding shows more.
    assert np.abs(ours - peer).mean() < 2  # half precision rounds by the processor: 1.2 on one
    # Nothing is computed on our side that the peer could do without.
    assert 0 < counted["operations"] <= theirs["operations"]


def test_what_the_peer_cannot_do_is_ours_alone(models: Path) -> None:
    assert images("inpaint-1", "ours", models)[0].shape == (1, 64, 64, 3)
    plan = Plan(workloads=("inpaint-1",), quick=True)
    assert next(plan.pairings(chosen("inpaint-1"))) == ("default", ["ours"])


def test_best_sides_compute_in_the_dtype_asked_for(models: Path) -> None:
    for side in ("ours", "peer"):
        assert images("movq-512", side, models, "bfloat16")[0].shape == (1, 64, 64, 3)


def test_a_part_computes_in_the_dtype_of_the_whole(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_fast_bfloat16", lambda: True)
    make_model(models, "movq", tiny=True)
    for name in ("movq-512", "prior-2.2"):
        assert chosen(name).denoiser == COUNTS["unet-2.2", "unet"]
    job = Job("ours", str(models / "movq"), chosen("movq-512").asked, "decode")
    assert Ours(job).told.dtype == "float32"
    assert Ours(replace(job, denoiser=COUNTS["unet-2.2", "unet"])).told.dtype == "bfloat16"


def test_without_a_compiler_the_peer_says_so(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_side, "compiler", lambda: None)
    make_model(models, "movq", tiny=True)
    job = Job("peer", str(models / "movq"), chosen("movq-512").asked, "decode", "float32", compiled=True)
    assert Peer(job).told.notes == ["channels-last", "not compiled: there is no C++ compiler"]


def test_the_same_name_is_the_same_numbers(models: Path, tmp_path: Path) -> None:
    first, second = (draw("down.weight", torch.Size([64, 32, 3, 3])) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw("up.weight", first.shape))
    assert float(first.std()) == pytest.approx((32 * 9) ** -0.5, rel=0.05)
    assert float(draw("norm.weight", torch.Size([4096])).mean()) == pytest.approx(1, abs=0.01)
    counts = make_model(tmp_path, "movq", tiny=True)
    index = tmp_path / "movq" / "model_index.json"
    index.unlink()
    assert make_model(tmp_path, "movq", tiny=True) == counts
    assert not index.exists(), "a complete folder was written again"


def test_operations_by_hand() -> None:
    x, q = torch.randn(2, 8, 16, 16), torch.randn(1, 2, 10, 8)
    kernel, matrix = torch.randn(4, 8, 3, 3), torch.randn(5, 16)
    with torch.no_grad(), counter() as found:
        torch.nn.functional.conv2d(x, kernel, padding=1)
        torch.nn.functional.linear(x, matrix)
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    convolution, product = 2 * 2 * 4 * 8 * 9 * 256, 2 * 2 * 8 * 16 * 16 * 5
    assert found.get_total_flops() == convolution + product + 2 * 2 * 2 * 10 * 10 * 8


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_operations_by_packed_weights() -> None:
    x, kernel, matrix = torch.randn(2, 8, 16, 16), torch.randn(4, 8, 3, 3), torch.randn(5, 16)
    shape = ((1, 1), (1, 1), (1, 1), 1)
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), *shape)
    laid = torch.ops.mkldnn._reorder_linear_weight(matrix)
    with torch.no_grad(), counter() as found:
        torch.ops.mkldnn._convolution_pointwise(x, packed, None, *shape, "none", [], "")
        torch.ops.mkldnn._linear_pointwise(x, laid, None, "none", [], "")
    assert found.get_total_flops() == 2 * 2 * 4 * 8 * 9 * 256 + 2 * 2 * 8 * 16 * 16 * 5
