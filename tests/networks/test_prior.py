"""The prior: the prepared steps do less and say the same, how it starts, and bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kandinsky.core.errors import RequestError
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from tests.parity.oracles import noise, redraw, relative

CONFIG = PriorConfig(heads=3, head_dim=8, layers=3, embedding_dim=20, text_width=28, tokens=7)


def condition(lengths: list[int], seed: int = 0, dtype: torch.dtype = torch.float32) -> PriorCondition:
    rows = len(lengths)
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    return PriorCondition(noise(rows, 7, 28, seed=seed, dtype=dtype), noise(rows, 20, seed=seed + 1, dtype=dtype), mask)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.lists(st.floats(0, 999), min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_prepared_steps_equal_forward(lengths: list[int], times: list[float], seed: int) -> None:
    prior = redraw(Prior(CONFIG), scale=0.3).double()
    text = condition(lengths, seed, torch.float64)
    x = noise(len(lengths), 20, seed=seed + 2, dtype=torch.float64)
    with torch.no_grad():
        prepared = prior.prepare(text, times)
        for t in [*times, 123.25]:  # the last one was not announced
            whole = prior(x, torch.full((len(lengths),), t, dtype=torch.float64), text)
            assert relative(prepared.step(x, t), whole) < 1e-12


def test_masked_columns_behind_every_text_can_be_left_out() -> None:
    prior = redraw(Prior(CONFIG), scale=0.3).double()
    padded = condition([4, 2], dtype=torch.float64)
    short = PriorCondition(padded.text_hidden[:, :4], padded.text_embedding, padded.text_mask[:, :4])
    x, t = noise(2, 20, dtype=torch.float64), torch.tensor([7.0, 500.0])
    with torch.no_grad():
        assert relative(prior(x, t, short), prior(x, t, padded)) < 1e-12
        assert relative(prior.prepare(short, [7]).step(x, 7), prior.prepare(padded, [7]).step(x, 7)) < 1e-12


def test_a_prepared_step_computes_three_tokens_and_no_time() -> None:
    prior = redraw(Prior(CONFIG))
    lengths: list[int] = []
    times: list[int] = []

    def on_mlp(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        lengths.append(inputs[0].shape[1])

    for block in prior.blocks:
        block.get_submodule("mlp").register_forward_pre_hook(on_mlp)
    prior.time_mlp.register_forward_pre_hook(lambda _, inputs: times.append(len(inputs[0])))
    prepared = prior.prepare(condition([7, 3]), [999, 500, 0])
    assert lengths == [8, 8, 8]
    assert times == [3]
    for t in (999, 500, 0):
        prepared.step(noise(2, 20), t)
    assert lengths[3:] == [3] * 9
    assert times == [3]


def test_padding_is_not_seen() -> None:
    prior = redraw(Prior(CONFIG), scale=0.3)
    text = condition([3, 7])
    other = PriorCondition(text.text_hidden.clone(), text.text_embedding, text.text_mask)
    other.text_hidden[:, 3:] += 5
    x, t = noise(2, 20, seed=9), torch.tensor([500, 500])
    with torch.no_grad():
        first, second = prior(x, t, text), prior(x, t, other)
    assert relative(second[:1], first[:1]) < 1e-6
    assert relative(second[1:], first[1:]) > 1e-3


@pytest.mark.parametrize("part", ["noisy", "t", "text_hidden", "text_embedding", "text_mask"])
def test_every_part_of_the_condition_matters(part: str) -> None:
    prior = redraw(Prior(CONFIG), scale=0.3)
    text = condition([6])
    values = {
        "noisy": noise(1, 20, seed=9),
        "t": torch.tensor([500.0]),
        "text_hidden": text.text_hidden,
        "text_embedding": text.text_embedding,
        "text_mask": text.text_mask,
    }

    def run(given: dict[str, Tensor]) -> Tensor:
        condition = PriorCondition(given["text_hidden"], given["text_embedding"], given["text_mask"])
        answer: Tensor = prior(given["noisy"], given["t"], condition)
        return answer

    changed = ~text.text_mask if part == "text_mask" else values[part] + 1
    with torch.no_grad():
        assert relative(run(values | {part: changed}), run(values)) > 1e-4


def test_normalise_and_denormalise_are_inverse() -> None:
    prior = Prior(CONFIG).double().requires_grad_(False)
    x = noise(3, 20, dtype=torch.float64)
    assert torch.equal(prior.normalise(x), x)
    prior.clip_mean.fill_(0.3)
    prior.clip_std.fill_(2.5)
    assert prior.normalise(x).tolist() == ((x - 0.3) / 2.5).tolist()
    assert relative(prior.denormalise(prior.normalise(x)), x) < 1e-12


def test_every_parameter_but_the_statistics_learns() -> None:
    prior = redraw(Prior(CONFIG), scale=0.1)
    prior(noise(2, 20), torch.tensor([3, 500]), condition([7, 4])).square().sum().backward()
    still = {name for name, p in prior.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"clip_mean", "clip_std"}


def test_training_from_scratch_lowers_the_loss() -> None:
    torch.manual_seed(0)
    prior = Prior(CONFIG)
    text, x0, eps = condition([7, 5, 3, 7]), noise(4, 20, seed=5), noise(4, 20, seed=6)
    t = torch.tensor([900, 900, 900, 900])
    optimiser = torch.optim.AdamW([p for p in prior.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = (prior(0.3 * x0 + 0.95 * eps, t, text) - x0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(float(x0.square().mean()), rel=0.1)
    assert losses[-1] < 0.2 * losses[0]


def test_half_precision_stays_finite() -> None:
    prior = redraw(Prior(CONFIG)).bfloat16()
    text = condition([7, 1], dtype=torch.bfloat16)
    x = noise(2, 20, dtype=torch.bfloat16)
    with torch.no_grad():
        assert prior(x, torch.tensor([999, 999]), text).isfinite().all()
        step = prior.prepare(text, [999]).step(x, 999)
    assert step.dtype == torch.bfloat16
    assert step.isfinite().all()


def test_inputs_that_do_not_fit_are_named() -> None:
    prior = Prior(CONFIG)
    long = PriorCondition(torch.zeros(1, 9, 28), torch.zeros(1, 20), torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(RequestError, match="9 tokens"):
        prior(torch.zeros(1, 20), torch.zeros(1), long)
    with pytest.raises(RequestError, match="9 tokens"):
        prior.prepare(long, [0])
    with pytest.raises(RequestError, match="row 1 is masked"):
        prior.prepare(condition([3, 0]), [0])
