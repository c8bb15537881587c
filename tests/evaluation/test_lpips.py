"""The perceptual distance: its formula written another way, its gradients, and files that must not be
trusted.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kandinsky.checkpoints.lpips_weights import installed_file, load_perceptual, read_array_pickle
from kandinsky.core.errors import CheckpointError, DataError

CONVOLUTIONS = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
"""AlexNet: width, channels in, kernel."""


def alexnet_tree(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    tree: dict[str, Any] = {"AlexNet_0": {}}
    for i, (width, before, side) in enumerate(CONVOLUTIONS):
        kernel = rng.normal(0, (2 / (before * side * side)) ** 0.5, (side, side, before, width))
        bias = rng.normal(0, 0.1, width)
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel.astype("f4"), "bias": bias.astype("f4")}
        head = rng.uniform(0, 1, (1, 1, width, 1)).astype("f4")
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head}}
    return tree


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(alexnet_tree(), protocol=4))
    return path


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "alex.pth"
    kernels = {f"lin{i}.model.1.weight": torch.ones(1, width, 1, 1) for i, (width, *_) in enumerate(CONVOLUTIONS)}
    torch.save(kernels, path)
    return path


def waves(phase: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return torch.stack([torch.sin(x / 5 + phase), torch.cos(y / 7 + phase), torch.sin((x + y) / 9)])[None]


def by_hand(tree: dict[str, Any], first: Tensor, second: Tensor) -> float:
    """Equation 1 of the paper for AlexNet, layer by layer in double precision, from the arrays as they
    lie.
    """
    total = 0.0
    pair = torch.cat((first, second)).double()
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    x = (pair - shift) / torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))):
        layer = tree["AlexNet_0"][f"Conv_{i}"]
        kernel = torch.from_numpy(layer["kernel"]).double().permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, torch.from_numpy(layer["bias"]).double(), stride, padding).relu()
        unit = x / x.norm(dim=1, keepdim=True).clamp_min(1e-10)
        weights = torch.from_numpy(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).double().flatten()
        total += float(((unit[0] - unit[1]).square() * weights[:, None, None]).sum(dim=0).mean())
        if i < 2:
            x = functional.max_pool2d(x, 3, 2)
    return total


def test_equals_the_formula(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kandinsky.checkpoints.lpips_weights._installed_heads", lambda _: None)
    network = load_perceptual("alexnet", trunk_file=trunk)
    found = network(waves(0.0), waves(1.0))
    assert found.shape == (1,)
    assert float(found) == pytest.approx(by_hand(alexnet_tree(), waves(0.0), waves(1.0)), rel=1e-4)
    assert float(network(waves(0.5), waves(0.5))) == 0.0


def test_heads_of_their_own_file(trunk: Path, heads: Path) -> None:
    tree = alexnet_tree()
    for i, (width, *_) in enumerate(CONVOLUTIONS):
        tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] = np.ones((1, 1, width, 1), dtype="f4")
    network = load_perceptual("alexnet", trunk_file=trunk, heads_file=heads)
    wanted = by_hand(tree, waves(0.0), waves(2.0))
    assert float(network(waves(0.0), waves(2.0))) == pytest.approx(wanted, rel=1e-4)


def test_gradients_reach_the_images_only(trunk: Path, heads: Path) -> None:
    network = load_perceptual("alexnet", trunk_file=trunk, heads_file=heads)
    image = waves(0.3).requires_grad_()
    network(image, waves(0.0)).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    # A step against the gradient brings the images nearer.
    with torch.no_grad():
        step = image - 0.05 * image.grad / image.grad.norm() * 10
        assert float(network(step, waves(0.0))) < float(network(image, waves(0.0)))


def test_gradient_is_finite_where_features_are_zero(trunk: Path, heads: Path) -> None:
    network = load_perceptual("alexnet", trunk_file=trunk, heads_file=heads)
    for stage in network.stages:
        for layer in stage.children():
            if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
                layer.bias.fill_(-1e6)
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    network(image, waves(0.0)).sum().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


class Danger:
    """Runs a command when unpickled freely."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "pwned"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "bad.ckpt"
    file.write_bytes(pickle.dumps({"AlexNet_0": Danger(marker)}))
    with pytest.raises(CheckpointError, match="which weights do not need"):
        read_array_pickle(file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"a": np.zeros(3, dtype="f8")}, protocol=4), "'f8'"),
        (pickle.dumps({"a": np.array([{}], dtype=object)}, protocol=4), "'O8'"),
        (pickle.dumps({"a": "text"}, protocol=4), "holds str at 'a'"),
        (pickle.dumps({"a": np.zeros(3, dtype="f4")}, protocol=4)[:-20], "not a pickle"),
        (b"", "not a pickle"),
        (b"no pickle at all", "not a pickle"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "odd.ckpt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_array_pickle(file)


def test_arrays_come_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tree: dict[str, Any] = {
        "a": {"b": rng.normal(size=(2, 3, 4)).astype("f4")},
        "c": np.asfortranarray(rng.normal(size=(3, 2)), "f4"),
    }
    file = tmp_path / "tree.ckpt"
    file.write_bytes(pickle.dumps(tree, protocol=3))
    found = read_array_pickle(file)
    assert set(found) == {"a/b", "c"}
    assert np.array_equal(found["a/b"], tree["a"]["b"])
    assert np.array_equal(found["c"], tree["c"])


def test_missing_and_unfit_files_are_named(tmp_path: Path, trunk: Path, heads: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.ckpt"):
        load_perceptual("alexnet", trunk_file=tmp_path / "gone.ckpt")
    with pytest.raises(CheckpointError, match="no vgg16 trunk"):
        load_perceptual("vgg16", trunk_file=trunk, heads_file=heads)
    with pytest.raises(DataError, match=r"'alex'.*Did you mean 'alexnet'"):
        load_perceptual("alex", trunk_file=trunk)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"'no-such-package-here' is not installed.*pip install"):
        installed_file("no-such-package-here", "x", "nothing")
    with pytest.raises(DataError, match=r"'pytest' holds no 'weights\.bin'"):
        installed_file("pytest", "weights.bin", "nothing")
    assert installed_file("pytest", "pytest/__init__.py", "itself").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("trunk_name", "published"), [("alexnet", 0.1450510174), ("vgg16", 0.3346134126)])
def test_published_weights_give_the_published_distance(trunk_name: Any, published: float) -> None:
    """The numbers are what the package lpips 0.1.4 computes from the same trunk and heads for the same
    waves.
    """
    try:
        network = load_perceptual(trunk_name)
    except DataError as error:
        pytest.skip(str(error))
    assert float(network(waves(0.0), waves(1.0))) == pytest.approx(published, rel=1e-4)
