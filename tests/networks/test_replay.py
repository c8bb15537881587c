"""Steps recorded as CUDA graphs: the same numbers, the caller's own tensors, and weights that move."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from kandinsky.networks.replay import FEWEST_STEPS, Replay, replayed
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Condition, UNet3Config
from tests.parity.peers import noise, redraw

SECOND = UNet2Config(channels=(32, 64), layers=1, head_dim=32, context_dim=16, image_dim=12, image_tokens=2)
THIRD = UNet3Config(
    channels=(32, 64), layers=2, time_dim=32, head_dim=16, context_dim=24, text_dim=20, groups=4
)
TIMES = [900, 800, 700, 600, 500, 400]


def test_off_cuda_calls_are_made_as_they_are() -> None:
    network = nn.Linear(3, 3)
    assert replayed(network.forward, network, 100) == network.forward


@pytest.fixture(params=["2.x", "3.x", "prior"])
def prepared(request: pytest.FixtureRequest) -> Any:
    """A network on a GPU closed over a condition, the network itself, and a maker of its inputs."""
    torch.manual_seed(0)
    on = partial(torch.Tensor.to, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        match request.param:
            case "2.x":
                network: nn.Module = redraw(UNet2(SECOND), scale=0.2)
                condition: Any = UNet2Condition(on(noise(2, 12)))
            case "3.x":
                network = redraw(UNet3(THIRD), scale=0.2)
                condition = UNet3Condition(on(noise(2, 5, 20)), torch.ones(2, 5, device="cuda"))
            case _:
                network = redraw(Prior(PriorConfig(2, 16, 2, 12, 20, 7)), scale=0.2)
                mask = torch.ones(2, 7, dtype=torch.bool, device="cuda")
                condition = PriorCondition(on(noise(2, 7, 20)), on(noise(2, 12)), mask)
        network = network.to("cuda", torch.float16).requires_grad_(False).eval()
        shape = (2, 12) if request.param == "prior" else (2, 4, 8, 8)
        made = network.prepare(condition, TIMES)  # type: ignore[operator]
    return made, network, lambda seed: on(noise(*shape, seed=seed))


def run_of(made: Any) -> Replay:
    found = getattr(made, "run", None) or made._run
    assert isinstance(found, Replay)
    return found


@pytest.mark.cuda
class TestOnCuda:
    @torch.no_grad()
    def test_the_same_numbers(self, prepared: Any) -> None:
        made, _, x = prepared
        run = run_of(made)
        for seed, t in enumerate([*TIMES, 333.5]):
            found = made.step(x(seed), t)
            replay, run._calls = run._calls, 0
            # The first call of all is made as it is.
            plain = made.step(x(seed), t)
            run._calls = replay
            assert torch.equal(found, plain), t

    @torch.no_grad()
    def test_outputs_stay_what_they_are(self, prepared: Any) -> None:
        made, _, x = prepared
        outputs = [made.step(x(seed), t) for seed, t in enumerate(TIMES)]
        copies = [output.clone() for output in outputs]
        made.step(x(99), TIMES[0])
        assert all(torch.equal(a, b) for a, b in zip(outputs, copies, strict=True))
        assert len({output.data_ptr() for output in outputs}) == len(outputs)

    @torch.no_grad()
    def test_weights_that_moved(self, prepared: Any) -> None:
        made, network, x = prepared
        expected = [made.step(x(3), t) for t in TIMES]
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
        filler = [torch.full_like(parameter, 9.0) for parameter in network.parameters()]
        again = [made.step(x(3), t) for t in TIMES]
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
        assert len(filler) > 0

    @torch.no_grad()
    def test_other_shapes(self, prepared: Any) -> None:
        made, _, x = prepared
        if x(0).ndim == 2:
            pytest.skip("A prior's input has one shape.")
        for _ in range(3):
            made.step(x(0), TIMES[0])
        wide = noise(2, 4, 8, 16, seed=5).to("cuda", torch.float16)
        found = made.step(wide, TIMES[1])
        run_of(made)._calls = 0
        assert torch.equal(found, made.step(wide, TIMES[1]))

    def test_where_gradients_are_recorded(self, prepared: Any) -> None:
        made, _, x = prepared
        given = x(0).requires_grad_()
        for t in TIMES[:3]:
            made.step(given, t).float().sum().backward()
        assert run_of(made)._graph is None

    def test_what_is_not_recorded(self) -> None:
        network = nn.Linear(3, 3).cuda()

        def run(x: Tensor) -> Tensor:
            return network(x)  # type: ignore[no-any-return]

        assert replayed(run, network, FEWEST_STEPS - 1) is run
        assert isinstance(replayed(run, network, FEWEST_STEPS), Replay)
        hook = network.register_forward_hook(lambda *_: None)
        assert replayed(run, network, FEWEST_STEPS) is run
        hook.remove()
        assert replayed(run, nn.Sequential(network, nn.Linear(3, 3)), FEWEST_STEPS) is run
