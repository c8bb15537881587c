"""Networks in their files, loaded at once or in portions: the same numbers either way."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kandinsky.checkpoints import lazy_weights
from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.maps import networks
from kandinsky.networks.prior import Prior, PriorConfig
from tests.parity.oracles import redraw

CONFIG = PriorConfig(2, 8, 2, 16, 16, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_portions_as_at_once(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = redraw(Prior(CONFIG))
    networks.PRIOR.save(tmp_path, network)
    lying = networks.PRIOR.open(Folder(tmp_path, {}), config=CONFIG).weights
    opened: list[int] = []

    def tensors() -> Mapping[str, Tensor]:
        opened.append(1)
        return lying.open()

    counted = replace(lying, open=tensors)
    whole = counted.load(dtype).state_dict()
    assert len(opened) == 1, "a small network is opened once"
    monkeypatch.setattr(lazy_weights, "PORTION", 1000)
    parts = counted.load(dtype).state_dict()
    assert len(opened) > 5
    for name, tensor in network.state_dict().items():
        assert whole[name].dtype == parts[name].dtype == dtype
        assert torch.equal(whole[name], tensor.to(dtype))
        assert torch.equal(parts[name], tensor.to(dtype))
