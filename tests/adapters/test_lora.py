"""Low-rank adapters on the embedded networks: exact on and off, exact scales, merging, stacking, errors."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kandinsky.adapters.lora import (
    AdaptedLinear,
    Adapter,
    LowRank,
    Place,
    adapter_of,
    applied_to,
    attach,
    detach,
    merge,
    set_scale,
    unmerge,
)
from kandinsky.checkpoints.lora import choose_places, from_tensors, modules_of, read_lora, write_lora
from kandinsky.core.errors import CheckpointError, ConfigError, RequestError
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from tests.parity.oracles import noise, redraw, relative


@pytest.fixture
def prior() -> Prior:
    torch.manual_seed(0)
    return redraw(Prior(PriorConfig(2, 8, 2, 12, 12, 5)))


def say(prior: Prior, dtype: torch.dtype = torch.float32) -> Tensor:
    condition = PriorCondition(
        noise(2, 5, 12, seed=1, dtype=dtype), noise(2, 12, seed=2, dtype=dtype), torch.ones(2, 5).bool()
    )
    with torch.no_grad():
        found: Tensor = prior(noise(2, 12, seed=3, dtype=dtype), torch.tensor([7, 900]), condition)
    return found


def adapter(prior: Prior, seed: int = 1, targets: list[str] | None = None, **options: Any) -> Adapter:
    fresh = Adapter.new(prior, choose_places(prior, targets), 2, **options)
    return redraw(fresh, seed, 0.2)


def test_a_fresh_adapter_changes_nothing_and_learns(prior: Prior) -> None:
    before = say(prior)
    fresh = Adapter.new(prior, choose_places(prior), 4)
    attach(prior, fresh, "a")
    assert torch.equal(say(prior), before)
    condition = PriorCondition(noise(2, 5, 12), noise(2, 12), torch.ones(2, 5).bool())
    prior(noise(2, 12), torch.tensor([7, 900]), condition).square().sum().backward()
    ups = [change.up.grad for _, change in fresh.items()]
    assert all(grad is not None and grad.abs().max() > 0 for grad in ups)


@pytest.mark.parametrize("dora", [False, True])
def test_scale_zero_and_taking_off_are_exact(prior: Prior, dora: bool) -> None:
    before, names, modules = say(prior), list(prior.state_dict()), dict(prior.named_modules())
    attach(prior, adapter(prior, dora=dora), "a")
    assert not torch.equal(say(prior), before)
    assert list(prior.state_dict()) == names
    set_scale(prior, "a", 0.0)
    assert torch.equal(say(prior), before)
    set_scale(prior, "a", 1.0)
    detach(prior, "a")
    assert torch.equal(say(prior), before)
    assert all(dict(prior.named_modules())[name] is module for name, module in modules.items())


@pytest.mark.parametrize("dora", [False, True])
def test_merging_is_equal_and_unmerging_exact(prior: Prior, dora: bool) -> None:
    weights = {name: value.clone() for name, value in prior.state_dict().items()}
    for name, scale in (("a", 0.8), ("b", -0.3)):
        attach(prior, adapter(prior, ord(name), dora=dora), name, scale)
    applied = say(prior)
    merge(prior)
    merge(prior)
    assert relative(say(prior), applied) < 1e-5
    assert not torch.equal(
        prior.state_dict()["blocks.0.attention.qkv.weight"], weights["blocks.0.attention.qkv.weight"]
    )
    unmerge(prior)
    assert all(torch.equal(value, weights[name]) for name, value in prior.state_dict().items())
    assert torch.equal(say(prior), applied)


def test_what_changes_unmerges_first(prior: Prior) -> None:
    before = say(prior)
    attach(prior, adapter(prior), "a")
    applied = say(prior)
    merge(prior)
    set_scale(prior, "a", 0.0)
    assert torch.equal(say(prior), before)
    set_scale(prior, "a", 1.0)
    merge(prior)
    attach(prior, adapter(prior, 5), "b", 0.0)
    assert torch.equal(say(prior), applied)
    assert applied_to(prior) == {"a": 1.0, "b": 0.0}
    detach(prior)
    assert torch.equal(say(prior), before)


@torch.no_grad()
def test_stacked_adapters_add_up() -> None:
    """On one linear layer the sum is exact mathematics; a part that is not adapted stays as it is."""
    layer = nn.Sequential(nn.Linear(4, 6)).double()
    x, plain = noise(3, 4, dtype=torch.float64), layer(noise(3, 4, dtype=torch.float64))
    middle = LowRank(noise(2, 4, seed=1), noise(2, 2, seed=2), alpha=4.0).double()
    whole = LowRank(noise(1, 4, seed=3), noise(6, 1, seed=4), alpha=1.0).double()
    attach(layer, Adapter({Place("0", 1, 3): middle}), "middle", 0.5)
    attach(layer, Adapter({Place("0"): whole}), "whole")
    change = torch.zeros(3, 6, dtype=torch.float64)
    change[:, 2:4] = 0.5 * 4 / 2 * x @ middle.down.T @ middle.up.T
    change += x @ whole.down.T @ whole.up.T
    assert relative(layer(x), plain + change) < 1e-12
    assert adapter_of(layer, "middle").places == (Place("0", 1, 3),)


def test_dropout_acts_in_training_only(prior: Prior) -> None:
    dropped = adapter(prior, dropout=0.5).train()
    attach(prior, dropped, "a")
    assert not torch.equal(say(prior), say(prior))
    dropped.eval()
    assert torch.equal(say(prior), say(prior))


def test_a_copy_of_a_network_has_a_copy_of_its_adapter(prior: Prior) -> None:
    attach(prior, adapter(prior), "a")
    twin = copy.deepcopy(prior)
    applied = say(prior)
    detach(prior)
    assert torch.equal(say(twin), applied)
    assert isinstance(twin.blocks[0].attention.qkv, AdaptedLinear)


def test_files_keep_everything(prior: Prior, tmp_path: Path) -> None:
    made = redraw(Adapter.new(prior, choose_places(prior, ["to_q", "proj"]), 3, 7.0, 0.1, dora=True), 3, 0.2)
    file = write_lora(tmp_path / "a" / "x.safetensors", {"prior_prior": (prior, made)}, {"base": "имя"})
    found = read_lora(file)
    bare = {name.removeprefix("prior_prior."): tensor for name, tensor in found.tensors.items()}
    settings = {key.removeprefix("prior_prior."): value for key, value in found.settings.items()}
    again = from_tensors(prior, bare, settings)
    assert found.notes == {"base": "имя"}
    assert again.places == made.places
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())
    assert {(change.alpha, change.dropout) for _, change in again.items()} == {(7.0, 0.1)}


def test_every_part_of_a_fused_layer_has_its_name(prior: Prior) -> None:
    names = modules_of(prior)
    assert names["transformer_blocks.1.attn1.to_v"] == Place("blocks.1.attention.qkv", 2, 3)
    assert choose_places(prior, ["proj_in", "1.attn1.to_k"]) == [
        Place("noisy_in"),
        Place("blocks.1.attention.qkv", 1, 3),
    ]


def test_errors_name_what_is_wrong(prior: Prior) -> None:
    before = say(prior)
    with pytest.raises(ConfigError, match="'to_x'"):
        choose_places(prior, ["to_q", "to_x"])
    with pytest.raises(ConfigError, match="rank 0"):
        Adapter.new(prior, choose_places(prior), 0)
    with pytest.raises(ConfigError, match="Linear takes no adapters"):
        modules_of(nn.Linear(2, 2))
    attach(prior, adapter(prior), "a")
    with pytest.raises(RequestError, match="'a' is loaded already"):
        attach(prior, adapter(prior), "a")
    with pytest.raises(RequestError, match="No adapter 'b'"):
        set_scale(prior, "b", 1.0)
    detach(prior)
    wider = Adapter({Place("out"): LowRank(torch.zeros(1, 16), torch.zeros(9, 1), 1.0)})
    with pytest.raises(RequestError, match="another size"):
        attach(prior, wider, "w")
    with pytest.raises(RequestError, match=r"blocks\.9"):
        attach(prior, Adapter({Place("blocks.9.mlp.up"): LowRank(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)}), "w")
    assert torch.equal(say(prior), before)
    assert not applied_to(prior)


def test_files_of_other_models_are_refused(prior: Prior, tmp_path: Path) -> None:
    one, two = torch.zeros(1, 16), torch.zeros(16, 1)
    with pytest.raises(CheckpointError, match=r"does not have: down_blocks\.0"):
        from_tensors(prior, {"down_blocks.0.lora_A.weight": one, "down_blocks.0.lora_B.weight": two}, {})
    with pytest.raises(CheckpointError, match="half"):
        from_tensors(prior, {"proj_in.lora_A.weight": one}, {})
    with pytest.raises(CheckpointError, match="shapes"):
        from_tensors(prior, {"proj_in.lora_A.weight": one, "proj_in.lora_B.weight": one}, {})
    with pytest.raises(CheckpointError, match="lora_unet_down is not a tensor"):
        from_tensors(prior, {"lora_unet_down": one}, {})
    with pytest.raises(CheckpointError, match="holds no adapter files"):
        read_lora(tmp_path)


def test_a_half_precision_layer_stays_one_under_autocast() -> None:
    """What comes out is of the type that the bare layer gives: norms behind it take no other."""
    network = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)).bfloat16()
    place = Place("0")
    attach(network, Adapter.new(network, [place], 2), "a")
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(2, 4)).dtype == torch.bfloat16
