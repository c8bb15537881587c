"""Two optimisation steps of the original textual inversion: losses, gradients of both rows, new rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kandinsky
from kandinsky.adapters.tokens import add_rows, rows_of
from kandinsky.conditioning.decoder_texts import DecoderTexts, TextsConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.tokenizer import TokenBatch
from kandinsky.training.config.objectives import TextualInversionObjective
from kandinsky.training.config.run import OptimiserConfig
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint
from kandinsky.training.finetune.textual_inversion import DecoderErrors, LearnedWord, draw_embeddings
from kandinsky.training.optim import make_optimiser, trained
from tests.parity.oracles import relative
from tests.reference.recorded import tensors
from tests.replay import ReplayRng

CASE = "kandinsky21_textual_inversion"
LIMIT = {0: 3e-5, 1: 5e-5}
"""Ten times what rounding alone changed in the original."""
TEXT = "the recorded text"
SETTINGS = TextualInversionObjective(token="sapsan", init_from="train", route="sampled")
OPTIMISER = OptimiserConfig(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)


@dataclass(frozen=True)
class Recorded:
    """A tokenizer that knows the recorded ids of one text and of the empty one."""

    ids: Tensor
    mask: Tensor

    def encode(self, texts: Sequence[str], length: int | None = None) -> TokenBatch:
        rows = [0 if text == TEXT else 1 for text in texts]
        return TokenBatch(self.ids[rows].long(), self.mask[rows].bool(), [""] * len(texts))


def recorded_base(folder: Path) -> BaseCheckpoint:
    return BaseCheckpoint(kandinsky.load(folder, device="cpu", dtype="float32"))


def listen(base: BaseCheckpoint, step: int) -> None:
    """Makes the text encoders read the step's recorded ids."""
    found = tensors(CASE)
    captions = base.captions
    assert isinstance(base.prior, PriorStage)
    assert isinstance(captions, TextsConditioner)
    clip = Recorded(found[f"step{step}.clip_ids"], found[f"step{step}.clip_mask"])
    text = Recorded(found[f"step{step}.xlmr_ids"], found[f"step{step}.xlmr_mask"])
    base.prior = replace(base.prior, tokenizer=clip)  # type: ignore[arg-type]
    texts = DecoderTexts(replace(captions.texts.first, tokenizer=text))  # type: ignore[arg-type]
    base.captions = replace(captions, texts=texts)


def test_two_steps_of_the_original(second_release: Path) -> None:
    found = tensors(CASE)
    base = recorded_base(second_release)
    names = {"text_encoder": 0, "prior_text_encoder": 1}
    encoders = {name: base.encoders[name].network for name in names}
    tables = {name: network.get_submodule("tokens").weight.clone() for name, network in encoders.items()}
    first = found["initializer_ids"].tolist()
    word = LearnedWord({name: rows_of(encoders[name], [first[k]]) for name, k in names.items()})
    for name, k in names.items():
        assert add_rows(encoders[name], word.rows[name]) == (int(found["placeholder_ids"][k]),)
    optimiser = make_optimiser(trained(word), OPTIMISER)
    decoder = DecoderErrors.of(base)
    rows = {"xlmr": word.rows["text_encoder"], "clip": word.rows["prior_text_encoder"]}
    for step in (0, 1):
        listen(base, step)
        latents = base.encode(found["image"])["latents"]
        assert relative(latents, found[f"step{step}.latents"]) < LIMIT[step]
        # The original draws for both halves of a guided batch and uses the first.
        draws = [found[f"step{step}.draw.{k:02d}"][:1] for k in range(1, 7)]
        embedding = draw_embeddings(base, [TEXT], SETTINGS, ReplayRng(draws))
        noise, t = found[f"step{step}.draw.00"], found[f"step{step}.timestep"]
        assert relative(embedding.detach(), found[f"step{step}.image_emb"]) < LIMIT[step]
        loss = decoder.errors([TEXT], embedding, latents, t, noise).mean()
        assert float(loss.detach()) == pytest.approx(float(found[f"step{step}.loss"]), rel=LIMIT[step])
        loss.backward()
        for name, row in rows.items():
            assert row.grad is not None
            assert relative(row.grad[0], found[f"step{step}.grad_{name}_row"]) < LIMIT[step]
        optimiser.step()
        optimiser.zero_grad()
        for name, row in rows.items():
            assert relative(row.detach()[0], found[f"step{step}.new_{name}_row"]) < LIMIT[step]
    for name, network in encoders.items():
        assert torch.equal(network.get_submodule("tokens").weight, tables[name])
