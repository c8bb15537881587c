"""Gradient checkpointing: the same gradients from fewer saved numbers."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Condition, UNet3Config
from kandinsky.training.activation_checkpointing import recompute
from tests.parity.oracles import noise, redraw

Case = tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]


def of_the_prior(network: nn.Module) -> Tensor:
    given = PriorCondition(noise(2, 6, 16), noise(2, 16), torch.ones(2, 6, dtype=torch.bool))
    output: Tensor = network(noise(2, 16, seed=1), torch.tensor([3, 700]), given)
    return output


def of_prior_steps(network: nn.Module) -> Tensor:
    given = PriorCondition(noise(2, 6, 16), noise(2, 16), torch.ones(2, 6, dtype=torch.bool))
    x = noise(2, 16, seed=1)
    prepared = network.prepare(given, [900.0, 400.0])  # type: ignore[operator]
    for t in (900.0, 400.0):
        x = prepared.step(x, t)
    output: Tensor = x
    return output


def of_unet2(network: nn.Module) -> Tensor:
    output: Tensor = network(noise(2, 4, 8, 8), torch.tensor([3, 700]), UNet2Condition(noise(2, 16, seed=1)))
    return output


def of_unet3(network: nn.Module) -> Tensor:
    given = UNet3Condition(noise(2, 5, 20, seed=1), torch.ones(2, 5))
    output: Tensor = network(noise(2, 4, 8, 8), torch.tensor([3, 700]), given)
    return output


def prior() -> nn.Module:
    return redraw(Prior(PriorConfig(heads=2, head_dim=8, layers=4, embedding_dim=16, text_width=16, tokens=6)), 0)


def unet2() -> nn.Module:
    sizes: dict[str, Any] = {"channels": (16, 32), "layers": 2, "head_dim": 16, "context_dim": 16, "groups": 8}
    return redraw(UNet2(UNet2Config(**sizes, image_dim=16, image_tokens=4)), 0)


def unet3() -> nn.Module:
    sizes: dict[str, Any] = {"channels": (16, 32), "layers": 2, "time_dim": 32, "head_dim": 8, "groups": 4}
    return redraw(UNet3(UNet3Config(**sizes, context_dim=24, text_dim=20)), 0)


CASES: dict[str, Case] = {
    "prior": (prior, of_the_prior),
    "prior in steps": (prior, of_prior_steps),
    "unet2": (unet2, of_unet2),
    "unet3": (unet3, of_unet3),
}


def gradients(network: nn.Module, run: Callable[[nn.Module], Tensor]) -> tuple[dict[str, Tensor], int]:
    """The gradients of all weights, and how many numbers were kept for them between forward and backward."""
    weights = {value.untyped_storage().data_ptr() for value in network.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = run(network).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return found, sum(kept.values())


@pytest.mark.parametrize("case", list(CASES))
def test_the_same_gradients_from_less(case: str) -> None:
    make, run = CASES[case]
    torch.manual_seed(0)
    plain = make()
    network = copy.deepcopy(plain)
    wanted, much = gradients(plain, run)
    recompute(network)
    recompute(network)
    found, little = gradients(network, run)
    assert found.keys() == wanted.keys()
    assert len(found) > 20
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert little < 0.6 * much
    with torch.no_grad():
        assert torch.equal(run(network), run(plain))


def test_a_network_without_blocks() -> None:
    with pytest.raises(ConfigError, match="no blocks"):
        recompute(nn.Linear(2, 2))


def test_runs_learn_the_same(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from small import draw_images
    from test_finetuning import config, exported

    from kandinsky.training import run_config

    images = draw_images(tmp_path / "images")
    objective = {"target": "both", "adapter": {"rank": 1, "dropout": 0.5}}
    files = []
    for on in (False, True):
        values = config(images, tmp_path / str(on), "lora", objective=objective)
        result = exported(run_config(values | {"gradient_checkpointing": on}))
        files.append(load_file(result.path))
    assert all(torch.equal(files[1][name], value) for name, value in files[0].items())
