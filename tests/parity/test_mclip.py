"""Our multilingual text encoder against diffusers' MultilingualCLIP and transformers' XLM-R."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from safetensors.torch import load_file

from kandinsky.checkpoints.maps.mclip import MCLIP, infer_mclip_config, mclip_config, mclip_json
from kandinsky.checkpoints.weights import load_strict
from kandinsky.core.errors import CheckpointError, ConfigError, RequestError
from kandinsky.networks.xlmr import MultilingualClip, MultilingualClipConfig
from tests.parity.oracles import redraw, relative

TINY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 14,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "transformerDimSize": 24,
    "imageDimSize": 20,
}


def _oracle(dtype: torch.dtype = torch.float32, **changes: Any) -> MultilingualCLIP:
    torch.manual_seed(0)
    return redraw(MultilingualCLIP(MCLIPConfig(**{**TINY, **changes})), scale=0.2).to(dtype)


def _ours(oracle: MultilingualCLIP, dtype: torch.dtype = torch.float32) -> MultilingualClip:
    config = mclip_config(oracle.config.to_dict())
    return load_strict(lambda: MultilingualClip(config), MCLIP.to_native(oracle.state_dict()), dtype)


def _texts(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens with 0, 3, 6, ... places of padding behind them."""
    ids = torch.randint(4, 60, (rows, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    for row in range(rows):
        ids[row, length - 3 * row :] = 1
        mask[row, length - 3 * row :] = 0
    return ids, mask


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("rows", "length"), [(1, 12), (3, 12), (2, 5)])
@torch.no_grad()
def test_reads_texts_as_diffusers(dtype: torch.dtype, tolerance: float, rows: int, length: int) -> None:
    oracle = _oracle(dtype)
    ids, mask = _texts(rows, length)
    embedding, hidden = oracle(ids, mask)
    ours, our_embedding = _ours(oracle, dtype)(ids, mask)
    assert ours.shape == (rows, length, 24)
    assert relative(ours, hidden) < tolerance
    assert relative(our_embedding, embedding) < tolerance
    alone = oracle.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
    assert relative(ours, alone) < tolerance


@pytest.mark.parametrize("eps", [1e-12, 0.1])
@torch.no_grad()
def test_the_epsilon_of_the_file_is_honoured(eps: float) -> None:
    oracle = _oracle(layer_norm_eps=eps)
    ids, mask = _texts(2, 12)
    _, hidden = oracle(ids, mask)
    ours = _ours(oracle)
    assert relative(ours(ids, mask)[0], hidden) < 1e-5
    assert mclip_json(ours.config)["layer_norm_eps"] == eps
    assert (relative(_ours(_oracle())(ids, mask)[0], hidden) > 1e-3) == (eps == 0.1)


@torch.no_grad()
def test_a_text_does_not_depend_on_its_padding() -> None:
    ours = _ours(_oracle())
    ids, mask = _texts(2, 12)
    hidden, embedding = ours(ids, mask)
    short, shorter = ours(ids[1:, :9], mask[1:, :9])
    assert relative(short, hidden[1:, :9]) < 1e-6
    assert relative(shorter, embedding[1:]) < 1e-6


@torch.no_grad()
def test_a_row_without_tokens_is_finite() -> None:
    ours = _ours(_oracle())
    hidden, embedding = ours(torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    assert torch.isfinite(hidden).all()
    assert relative(embedding, ours.projection.bias[None]) < 1e-6


def test_a_saved_folder_there_and_back(tmp_path: Path) -> None:
    oracle = _oracle()
    oracle.save_pretrained(tmp_path)
    file = load_file(tmp_path / "model.safetensors")
    config = mclip_config(oracle.config.to_dict())
    assert infer_mclip_config(file, heads=3) == config
    back = MCLIP.to_foreign(MCLIP.to_native(file))
    assert back.keys() == file.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in file.items())
    again = MultilingualCLIP(MCLIPConfig.from_dict(mclip_json(config)))
    assert again.load_state_dict(back, strict=True).missing_keys == []
    assert mclip_config(mclip_json(config)) == config


def test_files_with_stored_numbers_and_without_pooler() -> None:
    state = _oracle().state_dict()
    older = {**state, "transformer.embeddings.position_ids": torch.arange(14)[None]}
    assert MCLIP.to_native(older).keys() == MCLIP.to_native(state).keys()
    bare = {name: tensor for name, tensor in state.items() if "pooler" not in name}
    config = infer_mclip_config(bare, heads=3)
    assert not config.pooler
    encoder = load_strict(lambda: MultilingualClip(config), MCLIP.to_native(bare))
    assert MCLIP.to_foreign(encoder.state_dict()).keys() == bare.keys()


def test_published_size() -> None:
    with torch.device("meta"):
        oracle = MultilingualCLIP(MCLIPConfig.from_dict(mclip_json(MultilingualClipConfig())))
        ours = MultilingualClip(MultilingualClipConfig())
    assert sum(p.numel() for p in ours.parameters()) == 560_677_632
    foreign = MCLIP.to_foreign(ours.state_dict())
    theirs = oracle.state_dict()
    assert foreign.keys() == theirs.keys()
    assert all(foreign[name].shape == tensor.shape for name, tensor in theirs.items())
    assert infer_mclip_config(foreign) == MultilingualClipConfig()


def test_texts_beyond_the_position_table_are_refused() -> None:
    ours = _ours(_oracle())
    fits = torch.full((1, 12), 7)
    assert ours(fits, torch.ones_like(fits))[0].shape == (1, 12, 24)
    with pytest.raises(RequestError, match=r"13 tokens are more than the 12"):
        ours(torch.full((1, 13), 7), torch.ones(1, 13))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type_vocab_size": 2}, "type_vocab_size = 2"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"transformerDimensions": 25}, "transformerDimensions = 25"),
        ({"architectures": ["BertModel"]}, "architectures"),
        ({"num_attention_heads": 5}, "5 heads do not divide a width of 24"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"pad_token_id": -1}, "pad_token_id = -1"),
    ],
)
def test_other_configurations_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        mclip_config(_oracle().config.to_dict() | change)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="7 heads do not divide"):
        MultilingualClipConfig(width=24, heads=7)
