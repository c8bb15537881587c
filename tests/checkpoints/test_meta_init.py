"""Networks without numbers: what they are, and what making one must not bring along."""

import subprocess
import sys

import torch

from kandinsky.checkpoints.weights import meta_init
from kandinsky.networks.clip import ClipText, ClipTextConfig
from kandinsky.networks.prior import Prior, PriorConfig

TEXT = ClipTextConfig(40, 16, 1, 2, 32, 8, 16, "gelu", 39, "eos")


def test_a_hollow_network_has_the_shapes_of_a_real_one_and_no_memory() -> None:
    for build in (lambda: ClipText(TEXT), lambda: Prior(PriorConfig(2, 8, 1, 16, 16, 8))):
        empty, real = meta_init(build).state_dict(), build().state_dict()
        assert {name: tensor.shape for name, tensor in empty.items()} == {
            name: tensor.shape for name, tensor in real.items()
        }
        assert all(tensor.is_meta for tensor in empty.values())


def test_initial_values_are_left_out_inside_only() -> None:
    before = torch.random.get_rng_state()
    meta_init(lambda: torch.nn.Linear(4, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float(torch.nn.init.ones_(torch.zeros(3)).sum()) == 3.0


def test_loading_brings_no_compiler() -> None:
    # Seconds at every start: drawing on the meta device would import torch's compiler, and that sympy.
    program = "import sys, kandinsky; kandinsky.load(); print(*sorted({'sympy', 'torch._dynamo'} & {*sys.modules}))"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == []
