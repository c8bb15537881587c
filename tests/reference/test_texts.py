"""The text encoders, CLIP and the prior of the original files against what these computed."""

import pytest
import torch

from kandinsky.checkpoints.maps.clip import (
    ORIGINAL_CLIP_TEXT,
    ORIGINAL_CLIP_VISION,
    infer_clip_text_config,
    infer_clip_vision_config,
)
from kandinsky.checkpoints.maps.mclip import MCLIP, infer_mclip_config
from kandinsky.checkpoints.maps.prior import (
    infer_prior_config,
    original_prior_map,
    with_statistics,
    without_statistics,
)
from kandinsky.checkpoints.maps.t5 import infer_t5_config, t5_map
from kandinsky.checkpoints.weights import load_strict
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.prior import Prior, PriorCondition
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.xlmr import MultilingualClip
from tests.parity.oracles import relative
from tests.reference.recorded import RELEASE, SECOND, comes_back, facts, identical, limit, tensors, weights

PRIOR_RUNS = [run for run in facts(SECOND)["runs"] if run.startswith("clip_emb")]


@pytest.mark.parametrize(
    ("case", "file", "group"), [(RELEASE, "text_encoder1", "text1"), (SECOND, "text_encoder", "text")]
)
@torch.no_grad()
def test_multilingual_encoder(case: str, file: str, group: str) -> None:
    found, config = tensors(case), infer_mclip_config(weights(case, file))
    encoder = load_strict(lambda: MultilingualClip(config), MCLIP.to_native(weights(case, file)), torch.float32)
    hidden, embedding = encoder(found[f"{group}.ids"], found[f"{group}.mask"])
    assert relative(hidden, found[f"{group}.full"]) < limit(case, group)
    assert relative(embedding, found[f"{group}.pooled"]) < limit(case, group)
    assert comes_back(MCLIP, weights(case, file))
    wanted = facts(case)["configuration"]["xlm_roberta"]
    assert (config.heads, config.positions) == (wanted["num_attention_heads"], wanted["max_position_embeddings"])
    assert config.projection == wanted["LinearTransformation_out"]


@torch.no_grad()
def test_second_encoder() -> None:
    found, file = tensors(RELEASE), weights(RELEASE, "text_encoder2")
    config = infer_t5_config(file, "gelu_tanh")
    encoder = load_strict(lambda: T5Encoder(config), t5_map(file).to_native(file), torch.float32)
    hidden = encoder(found["text2.ids"], found["text2.mask"])
    # The original's own rounding is most of the limit, so the rounding of single precision is told apart.
    exact = encoder.double()(found["text2.ids"], found["text2.mask"])
    assert relative(exact, found["text2.full"]) < limit(RELEASE, "text2")
    assert relative(hidden, exact) < limit(RELEASE, "text2")
    assert comes_back(t5_map(file), file)
    wanted = facts(RELEASE)["configuration"]["mt5"]
    assert (config.heads, config.head_dim, config.layers) == (wanted["num_heads"], wanted["d_kv"], wanted["num_layers"])


@torch.no_grad()
def test_clip() -> None:
    found, file, allowed = tensors(SECOND), weights(SECOND, "clip"), limit(SECOND, "clip")
    text_config, vision_config = infer_clip_text_config(file), infer_clip_vision_config(file)
    halves: list[dict[str, torch.Tensor]] = [{}, {}]
    for name, tensor in file.items():
        if name != "logit_scale":
            halves[name.startswith("visual.")][name] = tensor
    natives = [
        keys.to_native(half) for keys, half in zip((ORIGINAL_CLIP_TEXT, ORIGINAL_CLIP_VISION), halves, strict=True)
    ]
    text = load_strict(lambda: ClipText(text_config), natives[0], torch.float32)
    vision = load_strict(lambda: ClipVision(vision_config), natives[1], torch.float32)
    said = text(found["clip.ids"].long())
    assert relative(said.hidden, found["clip.text_seq"]) < allowed
    assert relative(said.embedding, found["clip.text_feat"]) < allowed
    images = torch.cat([found["clip.image"], torch.zeros_like(found["clip.image"]), found["clip.pil_preprocessed"]])
    features = torch.cat([found["clip.image_feat"], found["clip.zero_image_feat"], found["clip.pil_feat"]])
    assert relative(vision(images), features) < allowed
    assert identical(ORIGINAL_CLIP_TEXT.to_foreign(natives[0]), halves[0])
    assert identical(ORIGINAL_CLIP_VISION.to_foreign(natives[1]), halves[1])
    wanted = facts(SECOND)["configuration"]["clip"]
    assert (text_config.heads, vision_config.image_size) == (wanted["transformer_heads"], wanted["image_resolution"])


def _prior() -> Prior:
    file, stats = weights(SECOND, "prior"), weights(SECOND, "clip_stats")
    config = infer_prior_config(file)
    whole = with_statistics(file, (stats["mean"], stats["std"]))
    return load_strict(lambda: Prior(config), original_prior_map(config).to_native(whole), torch.float32)


def _told(rows: list[int]) -> PriorCondition:
    found = tensors(SECOND)
    return PriorCondition(found["clip.text_seq"][rows], found["clip.text_feat"][rows], found["clip.mask"][rows])


@torch.no_grad()
def test_prior() -> None:
    found, prior, allowed = tensors(SECOND), _prior(), limit(SECOND, "prior")
    for call in "01":
        ours = prior(found["prior.x"], found[f"prior.t{call}"], _told([0, 1]))
        assert relative(ours, found[f"prior.out{call}"]) < allowed
    wanted = facts(SECOND)["configuration"]["prior"]
    assert (prior.config.heads, prior.config.layers) == (wanted["xf_heads"], wanted["xf_layers"])
    assert prior.config.tokens == wanted["text_ctx"]


@pytest.mark.parametrize("run", PRIOR_RUNS)
@torch.no_grad()
def test_prior_calls_of_whole_runs(run: str) -> None:
    found, prior = tensors(SECOND), _prior()
    x, t, out = (found[f"{run}.prior_{part}"] for part in ("x", "t", "out"))
    half, empty = x.shape[1] // 2, 2 if run == "clip_emb_neg" else 1
    prepared = prior.prepare(_told([0] * half + [empty] * half), t[:, 0].tolist())
    worst = max(relative(prepared.step(x[k], float(t[k, 0])), out[k]) for k in range(len(x)))
    assert worst < limit(SECOND, "prior")


def test_the_priors_two_files_come_back() -> None:
    file, stats = weights(SECOND, "prior"), weights(SECOND, "clip_stats")
    key_map = original_prior_map(infer_prior_config(file))
    native = key_map.to_native(with_statistics(file, (stats["mean"], stats["std"])))
    assert native["clip_mean"].shape == (1, 64)
    back, (mean, deviation) = without_statistics(key_map.to_foreign(native))
    assert identical(back, file)
    assert identical({"mean": mean, "std": deviation}, stats)


@pytest.mark.parametrize("content", [{}, (torch.ones(3),), (torch.ones(3), 2.0), (torch.ones(1, 3),) * 2, None])
def test_statistics_of_another_form_are_refused(content: object) -> None:
    with pytest.raises(CheckpointError, match="not a pair of vectors"):
        with_statistics({}, content)
