"""Steps recorded as CUDA graphs: the same numbers, the caller's own tensors, and weights that move.

Without a GPU, what is recorded is made again by calling it: all but CUDA's own part is tested so.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kandinsky.engine.acceleration import cuda_graphs
from kandinsky.engine.acceleration.cuda_graphs import FEWEST_STEPS, CudaGraphRunner, replayed
from kandinsky.engine.acceleration.networks import accelerated
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Condition, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Condition, UNet3Config
from tests.parity.oracles import noise, redraw

SECOND = UNet2Config(channels=(32, 64), layers=1, head_dim=32, context_dim=16, image_dim=12, image_tokens=2)
THIRD = UNet3Config(channels=(32, 64), layers=2, time_dim=32, head_dim=16, context_dim=24, text_dim=20, groups=4)
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
        made = accelerated(network.prepare(condition, TIMES), len(TIMES))  # type: ignore[operator]
    return made, network, lambda seed: on(noise(*shape, seed=seed))


def run_of(made: Any) -> Any:
    return made.run


class Recorder:
    """In place of `record`: keeps count, and reads weights where they lay when it was called."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.count = 0
        self.wrong = wrong

    def __call__(self, run: Any, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.count += 1
        output = torch.full_like(run(*inputs), torch.nan)

        def replay() -> None:
            with torch.no_grad():
                output.copy_(run(*inputs) + self.wrong)

        return replay, output


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cuda_graphs, "record", made)
    return made


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 3).requires_grad_(False)


@torch.no_grad()
def test_from_the_second_call_on_the_record_is_played(recorder: Recorder) -> None:
    network = layer()
    calls = CudaGraphRunner(network.forward, network)
    inputs = [noise(2, 3, seed=seed) for seed in range(5)]
    outputs = [calls(x) for x in inputs]
    assert recorder.count == 1
    assert all(torch.equal(y, network(x)) for x, y in zip(inputs, outputs, strict=True))


@torch.no_grad()
def test_other_shapes_and_weights_that_moved_are_recorded_anew(recorder: Recorder) -> None:
    network = layer()
    calls, x = CudaGraphRunner(network.forward, network), noise(2, 3)
    for _ in range(3):
        calls(x)
    assert torch.equal(calls(noise(5, 3)), network(noise(5, 3)))
    assert recorder.count == 2
    network.weight = nn.Parameter(noise(3, 3, seed=7), requires_grad=False)
    assert torch.equal(calls(noise(5, 3)), network(noise(5, 3)))
    assert recorder.count == 3


def test_gradients_and_watched_operations(recorder: Recorder) -> None:
    network = layer()
    calls = CudaGraphRunner(network.forward, network)
    x = noise(2, 3).requires_grad_()
    for _ in range(3):
        calls(x).sum().backward()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for _ in range(4):
            calls(x)
    assert counter.get_total_flops() == 4 * 2 * 2 * 3 * 3
    assert recorder.count == 0


@torch.no_grad()
def test_a_record_that_is_wrong_is_not_played(recorder: Recorder) -> None:
    recorder.wrong = 1.0
    network = layer()
    calls, x = CudaGraphRunner(network.forward, network), noise(2, 3)
    calls(x)
    with pytest.warns(UserWarning, match=r"not recorded as a CUDA graph.*gives other numbers\."):
        assert torch.equal(calls(x), network(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(calls(x), network(x))
    assert recorder.count == 1


@torch.no_grad()
def test_every_network_is_proven_at_its_first_record(recorder: Recorder) -> None:
    """The first of a process was, and what it showed was believed of all others."""
    proven, x = layer(), noise(2, 3)
    for _ in range(2):
        calls = CudaGraphRunner(proven.forward, proven)
        assert all(torch.equal(calls(x), proven(x)) for _ in range(3))
    recorder.wrong = 1.0
    other = layer()
    calls = CudaGraphRunner(other.forward, other)
    calls(x)
    with pytest.warns(UserWarning, match="gives other numbers"):
        assert torch.equal(calls(x), other(x))


@torch.no_grad()
def test_a_network_is_proven_once_for_each_shape(recorder: Recorder) -> None:
    network = layer()
    plain: list[torch.Size] = []
    network.register_forward_hook(lambda _, inputs, __: plain.append(inputs[0].shape))
    for rows, wanted in ((2, 4), (2, 3), (5, 4)):
        plain.clear()
        calls = CudaGraphRunner(network.__call__, network)
        for seed in range(2):
            calls(noise(rows, 3, seed=seed))
        # As it is, and for the record; replaying; and where it is proven both, with other numbers.
        assert len(plain) == wanted + (wanted == 4)


@torch.no_grad()
def test_a_record_that_keeps_its_first_input_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(run: Any, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], Tensor]:
        return lambda: None, run(*inputs).clone()

    monkeypatch.setattr(cuda_graphs, "record", stale)
    network = layer()
    calls, x = CudaGraphRunner(network.forward, network), noise(2, 3)
    calls(x)
    with pytest.warns(UserWarning, match="gives other numbers"):
        assert torch.equal(calls(x), network(x))


@torch.no_grad()
def test_a_record_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("operation not permitted\nwhen capturing")

    monkeypatch.setattr(cuda_graphs, "record", fails)
    network = layer()
    calls, x = CudaGraphRunner(network.forward, network), noise(2, 3)
    calls(x)
    with pytest.warns(UserWarning, match="take longer: operation not permitted\\."):
        assert torch.equal(calls(x), network(x))


@pytest.mark.cuda
class TestOnCuda:
    @pytest.fixture(autouse=True)
    def no_warnings(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            yield

    @torch.no_grad()
    def test_the_same_numbers(self, prepared: Any) -> None:
        made, _, x = prepared
        calls = run_of(made)
        assert isinstance(calls, CudaGraphRunner)
        for seed, t in enumerate([*TIMES, 333.5]):
            found = made.step(x(seed), t)
            recorded, calls._called = calls._recorded, False
            assert (recorded is not None) == (seed > 0)
            assert torch.equal(found, made.step(x(seed), t)), t

    @torch.no_grad()
    def test_outputs_stay_what_they_are(self, prepared: Any) -> None:
        made, _, x = prepared
        outputs = [made.step(x(seed), t) for seed, t in enumerate(TIMES)]
        copies = [output.clone() for output in outputs]
        made.step(x(99), TIMES[0])
        assert all(torch.equal(a, b) for a, b in zip(outputs, copies, strict=True))

    @torch.no_grad()
    def test_weights_that_moved(self, prepared: Any) -> None:
        made, network, x = prepared
        expected = [made.step(x(3), t) for t in TIMES]
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
        # Where they were, there is something else.
        filler = [torch.full_like(parameter, 9.0) for parameter in network.parameters()]
        again = [made.step(x(3), t) for t in TIMES]
        assert filler
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))

    def test_what_is_not_recorded(self) -> None:
        network = nn.Linear(3, 3).cuda()
        run = network.forward
        assert replayed(run, network, FEWEST_STEPS - 1) == run
        assert isinstance(replayed(run, network, FEWEST_STEPS), CudaGraphRunner)
        hook = network.register_forward_hook(lambda *_: None)
        assert replayed(run, network, FEWEST_STEPS) == run
        hook.remove()
        assert replayed(run, nn.Sequential(network, nn.Linear(3, 3)), FEWEST_STEPS) == run
