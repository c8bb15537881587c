"""What the 3.x U-Net promises beyond diffusers: prepared steps, its own length for each text, null rows."""

from dataclasses import replace

import pytest
import torch

from kandinsky.core.errors import ConfigError
from kandinsky.networks.unet3 import MaskedRows, UNet3, UNet3Condition, UNet3Config
from tests.parity.oracles import noise, redraw, relative

TINY = UNet3Config(
    channels=(16, 32), layers=2, time_dim=32, head_dim=8, context_dim=24, text_dim=20, groups=4, null_embedding=True
)
CONVENTIONS: tuple[MaskedRows, ...] = ("zero_states", "zero_context")


def _network(config: UNet3Config = TINY) -> UNet3:
    torch.manual_seed(0)
    return redraw(UNet3(config), scale=0.2).double()


def _text(tokens: int, length: int, seed: int = 1, **values: object) -> UNet3Condition:
    hidden = noise(1, length, 20, seed=seed, dtype=torch.float64)
    mask = (torch.arange(length) < tokens).long()[None]
    return replace(UNet3Condition(hidden, mask), **values)


def _latents(rows: int, channels: int = 4) -> torch.Tensor:
    return noise(rows, channels, 4, 6, seed=9, dtype=torch.float64)


def _run(network: UNet3, x: torch.Tensor, condition: UNet3Condition, t: float = 321.0) -> torch.Tensor:
    return network(x, torch.full((len(x),), t), condition)


@pytest.mark.parametrize("rows", CONVENTIONS)
@torch.no_grad()
def test_prepared_steps_equal_the_whole_network(rows: MaskedRows) -> None:
    network = _network(replace(TINY, in_channels=9))
    extra = noise(1, 5, 4, 6, seed=5, dtype=torch.float64)
    null = _text(5, 5, seed=2, masked_rows=rows, null=torch.tensor([True]), extra=extra)
    condition = null.joined(_text(3, 7, masked_rows=rows, extra=extra))
    prepared = network.prepare(condition, [979, 479])
    for t in (979, 479, 250.5):
        assert (
            relative(prepared.step(_latents(2), t), network(_latents(2), torch.full((2,), float(t)), condition)) < 1e-12
        )


@torch.no_grad()
def test_announced_steps_do_without_what_only_preparing_reads() -> None:
    network, condition = _network(), _text(3, 7)
    wanted = _run(network, _latents(1), condition, 979.0)
    prepared = network.prepare(condition, [979])
    for module in network.request_modules():
        module.to("meta")
    assert relative(prepared.step(_latents(1), 979), wanted) < 1e-12
    left = {name for name, p in network.named_parameters() if not p.is_meta}
    assert not any("film" in name or "context_kv" in name for name in left)


@pytest.mark.parametrize("rows", CONVENTIONS)
@torch.no_grad()
def test_an_image_does_not_depend_on_the_other_texts_of_its_batch(rows: MaskedRows) -> None:
    network = _network()
    texts = [_text(n, n + 1, seed=n, masked_rows=rows) for n in (2, 6, 4)]
    texts.append(_text(3, 3, seed=7, masked_rows=rows, null=torch.tensor([True])))
    single = torch.cat([_run(network, _latents(4)[k : k + 1], text) for k, text in enumerate(texts)])
    joined = texts[0].joined(texts[1]).joined(texts[2]).joined(texts[3])
    assert relative(_run(network, _latents(4), joined), single) < 1e-12


@torch.no_grad()
def test_states_of_masked_tokens_do_not_matter_but_the_convention_does() -> None:
    network, text = _network(), _text(3, 5)
    other = replace(text, hidden=torch.where(text.mask.bool()[..., None], text.hidden, 100.0))
    outputs = []
    for rows in CONVENTIONS:
        outputs.append(_run(network, _latents(1), replace(text, masked_rows=rows)))
        assert torch.equal(_run(network, _latents(1), replace(other, masked_rows=rows)), outputs[-1])
    assert relative(*outputs) > 1e-3


@pytest.mark.parametrize("rows", CONVENTIONS)
@torch.no_grad()
def test_the_context_is_the_projection_with_masked_rows_by_convention(rows: MaskedRows) -> None:
    network, text = _network(), _text(2, 4, masked_rows=rows)
    context, visible, _ = network.read(text)
    layers = network.projection
    tokens = layers.norm(layers.linear(text.hidden))
    filling = torch.zeros_like(tokens) if rows == "zero_context" else layers.norm.bias.expand_as(tokens)
    assert torch.equal(context, torch.where(text.mask.bool()[..., None], tokens, filling))
    assert visible[0, 0, 0].tolist() == [True, True, False, False]


@torch.no_grad()
def test_a_null_row_reads_the_null_embedding_only() -> None:
    network = _network()
    text = _text(2, 4, null=torch.tensor([True]), masked_rows="zero_context")
    context, visible, _ = network.read(text)
    assert network.null_embedding is not None
    assert torch.equal(context[0, 0], network.null_embedding)
    assert not context[0, 1:].any()
    assert visible[0, 0, 0].tolist() == [True, False, False, False]
    other = _text(3, 5, seed=8, null=torch.tensor([True]), masked_rows="zero_context")
    assert relative(_run(network, _latents(1), other), _run(network, _latents(1), text)) < 1e-12


def test_a_null_row_needs_a_null_embedding() -> None:
    network = _network(replace(TINY, null_embedding=False))
    with pytest.raises(ConfigError, match="no null embedding"):
        _run(network, _latents(1), _text(2, 4, null=torch.tensor([True])))
    _run(network, _latents(1), _text(2, 4, null=torch.tensor([False])))


def test_conditions_of_two_conventions_do_not_join() -> None:
    with pytest.raises(ConfigError, match="zero_context"):
        _text(2, 4).joined(_text(2, 4, masked_rows="zero_context"))


@torch.no_grad()
def test_a_network_starts_deaf() -> None:
    network = _network()
    network.initialise()
    assert torch.equal(_run(network, _latents(1), _text(2, 4), 1.0), _run(network, _latents(1), _text(2, 4), 900.0))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_stays_close(precision: torch.dtype) -> None:
    network, text = _network(), _text(3, 5)
    wanted = _run(network, _latents(1), text)
    halved = network.to(precision)
    given = replace(text, hidden=text.hidden.to(precision))
    output = halved.prepare(given, [321]).step(_latents(1).to(precision), 321)
    assert output.dtype == precision
    assert relative(output.double(), wanted) < 0.1


@pytest.mark.parametrize(
    ("change", "word"), [({"layers": 1}, "layers"), ({"groups": 12}, "12 groups"), ({"head_dim": 7}, "width 7")]
)
def test_sizes_that_do_not_go_together_are_refused(change: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        replace(TINY, **change)


def test_more_than_a_third_of_the_published_network_is_read_once() -> None:
    with torch.device("meta"):
        network = UNet3(UNet3Config())
    once = sum(p.numel() for module in network.request_modules() for p in module.parameters())
    assert once > sum(p.numel() for p in network.parameters()) / 3
    films = [norm.film for norm in network._norms]
    assert sum(p.numel() for film in films for p in film.parameters()) == 809_175_168
