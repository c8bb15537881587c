"""The towers' stages: what the heads ask, which tower runs and which stays, and how batches are made."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CPU, build, draw_images, small_config, step_context

from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.recipes.emoji.heads import ConceptHead, SketchHead, sketch_of
from kandinsky.training import events, run_config
from kandinsky.training.checkpoint import newest
from kandinsky.training.config.objectives import ClipObjective
from kandinsky.training.config.run import read_config
from kandinsky.training.data.caption import Caption
from kandinsky.training.data.samplers import GroupSampler
from kandinsky.training.scratch import encoders

VISION = {"contrastive": 0.0, "concepts": 1.0, "looks": 0.3, "sketch": 3.0}
TEXT = {"lock": "vision", "contrastive": 1.0, "concepts_text": 0.5, "per_concept": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    draw_images(folder / "images")
    return folder


def two_stages(root: Path, out: Path, steps: int = 3, **changes: Any) -> dict[str, Any]:
    stage = {"method": "clip", "batch": 4, "max_steps": steps, "save_every": 2, "log_every": 1}
    stages = [
        {**stage, "name": "vision", "sample_every": steps, "objective": VISION},
        {**stage, "name": "text", "init": "vision", "sample_every": steps, "objective": TEXT} | changes,
    ]
    return emoji_config(root, out=str(out), stage=stages)


def emoji_config(root: Path, **changes: Any) -> dict[str, Any]:
    """The small configuration, read by the recipe that brings auxiliary heads."""
    config = small_config(root, **changes)
    return {**config, "data": {**config["data"], "recipe": "emoji"}}


def means(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder / "checkpoints").checkpoint
    assert found is not None
    return found.tensors["clip.ema"]


def test_concept_logits_are_scaled_cosines_and_know_their_concepts() -> None:
    head = ConceptHead(torch.tensor([2, 5, 9]), 8)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    expected = 16 * F.cosine_similarity(x[:, None], head.vectors[None], dim=2)
    torch.testing.assert_close(head(x), expected)
    assert head.classes(torch.tensor([5, 2, 3, 9, 10, 0])).tolist() == [1, 0, -1, 2, -1, -1]


def test_a_sketch_is_the_image_at_a_quarter_of_its_size() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sketch_of(images), F.avg_pool2d(images, 4))
    assert SketchHead(8)(torch.zeros(2, 8)).shape == sketch_of(torch.zeros(2, 3, 128, 128)).shape


def test_the_loss_is_the_weighted_sum_of_what_each_head_says(root: Path, tmp_path: Path) -> None:
    weights = {"concepts": 2.0, "looks": 0.5, "sketch": 3.0, "concepts_text": 0.25, "contrastive": 1.5}
    weights |= {"looks_text": 0.75}
    stage = {"method": "clip", "batch": 4, "max_steps": 1, "objective": weights}
    _, task = build(emoji_config(root, out=str(tmp_path / "run"), stage=[stage]), "clip")
    pairs = task.data.batch([0, 4, 8, 1], torch.Generator().manual_seed(0))
    named = torch.tensor([True, False, True, False])
    said = tuple(
        Caption(text, names=frozenset({"styles"} if n else ()))
        for text, n in zip(pairs.images.captions, named, strict=True)
    )
    pairs = replace(pairs, images=replace(pairs.images, said=said))
    apprentice: Any = task.trainables[0].module
    losses = task.trainables[0].loss(step_context(pairs))
    parts = losses.parts
    image = apprentice.towers.see(pairs.images.pixels)
    text = apprentice.towers.read(pairs.captions[0]).embedding
    classes = apprentice.concepts.classes(pairs.images.facts["concepts"])
    assert (classes >= 0).all()
    torch.testing.assert_close(parts["concepts"], F.cross_entropy(apprentice.concepts(image), classes))
    torch.testing.assert_close(parts["concepts_text"], F.cross_entropy(apprentice.concepts(text), classes))
    vectors = apprentice.looks.background
    colours = 8 * F.cosine_similarity(image[:, None], vectors[None], dim=2)
    torch.testing.assert_close(parts["background"], F.cross_entropy(colours, pairs.images.facts["backgrounds"]))
    styles = 8 * F.cosine_similarity(text[:, None], apprentice.looks.style[None], dim=2)
    named_styles = F.cross_entropy(styles[named], pairs.images.facts["styles"][named])
    torch.testing.assert_close(parts["style_text"], named_styles)
    small = F.mse_loss(apprentice.sketch(image), pairs.images.pixels)
    torch.testing.assert_close(parts["sketch"], small)
    logits = F.normalize(text, dim=1) @ F.normalize(image, dim=1).T / 0.07
    rows = torch.arange(4)
    clip = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    torch.testing.assert_close(parts["contrastive"], clip)
    assert len(parts) == 8
    heads = {"style": "looks", "background": "looks"}
    heads |= {"style_text": "looks_text", "background_text": "looks_text"}
    expected = sum(weights[heads.get(name, name)] * value for name, value in parts.items())
    torch.testing.assert_close(losses.total, torch.as_tensor(expected))


def test_two_things_in_an_image_are_an_example_of_neither(root: Path, tmp_path: Path) -> None:
    stage = {"method": "clip", "batch": 4, "max_steps": 1, "objective": VISION}
    stage["augmentation"] = {"pair": 1.0}
    _, task = build(emoji_config(root, out=str(tmp_path / "run"), stage=[stage]), "clip")
    pairs = task.data.batch(range(9), torch.Generator().manual_seed(0))
    apprentice: Any = task.trainables[0].module
    alone = pairs.images.facts["beside"] < 0
    assert 0 < alone.sum() < 9
    classes = apprentice.heads.classes(pairs.images, CPU)
    assert torch.equal(classes < 0, ~alone)
    logits = apprentice.concepts(apprentice.towers.see(pairs.images.pixels))
    expected = F.cross_entropy(logits[alone], classes[alone])
    torch.testing.assert_close(task.trainables[0].loss(step_context(pairs)).parts["concepts"], expected)


def test_without_texts_the_text_tower_neither_runs_nor_learns(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_stages(root, tmp_path / "run")
    config["stage"] = config["stage"][:1]

    def refuse(*_: Any) -> None:
        raise AssertionError("a text was read")

    monkeypatch.setattr("kandinsky.training.scratch.clip_model.ClipModel.read", refuse)
    monkeypatch.setattr("kandinsky.training.scratch.encoders.CaptionTokens.__call__", refuse)
    said = list(run_config(config))
    (started,) = [event for event in said if isinstance(event, events.Started)]
    ctx, task = build({**config, "out": str(tmp_path / "other")}, "vision")
    assert sum(p.numel() for p in ctx.networks.clip().text.parameters()) > 0
    learned = sum(p.numel() for p in task.trainables[0].module.parameters() if p.requires_grad)
    assert started.parameters == learned
    assert not any(p.requires_grad for p in task.trainables[0].module.towers.text.parameters())  # type: ignore[union-attr]
    measured = [event.values for event in said if isinstance(event, events.Measured)]
    assert all(values.keys() <= {"top1", "top5"} for values in measured)


def test_a_locked_tower_and_its_heads_stay_while_the_texts_learn(root: Path, tmp_path: Path) -> None:
    list(run_config(two_stages(root, tmp_path / "run")))
    first, second = means(tmp_path / "run" / "vision"), means(tmp_path / "run" / "text")
    assert any(name.startswith("sketch.") for name in first)
    assert not any(name.startswith("sketch.") for name in second)
    for name, value in second.items():
        stays = name.startswith(("towers.vision.", "concepts."))
        assert torch.equal(value, first[name]) == stays, name


def test_a_stage_may_start_from_another_run(root: Path, tmp_path: Path) -> None:
    list(run_config(two_stages(root, tmp_path / "run")))
    config = two_stages(root, tmp_path / "other", init=str(tmp_path / "run" / "vision"))
    config |= {"stage": config["stage"][1:], "tokenizer": str(tmp_path / "run" / "tokenizer")}
    list(run_config(config))
    ours, theirs = means(tmp_path / "other" / "text"), means(tmp_path / "run" / "text")
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_heads_may_learn_what_a_finished_tower_sees(root: Path, tmp_path: Path) -> None:
    """Heads of a tower that came without any; those of a finished tower are finished."""
    config = two_stages(root, tmp_path / "run")
    vision, text = config["stage"]
    heads = {**vision, "name": "heads", "init": "vision"}
    vision["objective"] = {"contrastive": 0.0, "looks": 1.0}
    heads["objective"] = {"lock": "vision", "contrastive": 0.0, "concepts": 1.0}
    config["stage"] = [vision, heads, {**text, "init": "heads"}]
    list(run_config(config))
    first, second, third = (means(tmp_path / "run" / name) for name in ("vision", "heads", "text"))
    towers = [name for name in second if name.startswith("towers.")]
    assert all(torch.equal(first[name], second[name]) for name in towers)
    assert torch.equal(second["concepts.vectors"], third["concepts.vectors"])
    config["stage"].append({**heads, "name": "again", "init": "heads"})
    with pytest.raises(ConfigError, match="'again' begins with 'heads', whose heads are finished"):
        list(run_config(config, resume=True))


def test_texts_may_be_locked_too(root: Path, tmp_path: Path) -> None:
    changes = {"objective": {"lock": "text"}}
    list(run_config(two_stages(root, tmp_path / "run", **changes)))
    first, second = means(tmp_path / "run" / "vision"), means(tmp_path / "run" / "text")
    for name, value in second.items():
        assert torch.equal(value, first[name]) == name.startswith("towers.text."), name


@pytest.mark.parametrize("at", [9, 14])
def test_an_abandoned_stage_of_pairs_resumes_to_the_same_weights(at: int, root: Path, tmp_path: Path) -> None:
    whole = two_stages(root, tmp_path / "whole")
    list(run_config(whole))
    run = run_config(two_stages(root, tmp_path / "run"))
    for _ in range(at):
        next(run)
    run.close()  # type: ignore[attr-defined]
    list(run_config(two_stages(root, tmp_path / "run"), resume=True))
    ours, theirs = means(tmp_path / "run" / "text"), means(tmp_path / "whole" / "text")
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_vision_first_and_texts_against_it_find_the_right_images(root: Path, tmp_path: Path) -> None:
    config = two_stages(root, tmp_path / "run", steps=120)
    config["data"]["held_out"] = 0
    for stage in config["stage"]:
        stage |= {"batch": 12, "save_every": 500, "sample_every": 0, "augmentation": "none"}
        stage |= {"optimiser": {"lr": 1e-2}, "schedule": {"kind": "constant", "warmup": 10}}
        stage |= {"ema": {"decay": 0.9}}
    said = [event for event in run_config(config) if isinstance(event, events.Finished)]
    assert said[0].losses["concepts"] < 0.3 * math.log(12)
    assert said[1].losses["contrastive"] < 0.5 * math.log(12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 3), st.integers(0, 9), st.data())
def test_groups_come_together_and_continue_anywhere(
    groups: list[int], each: int, steps: int, data: st.DataObject
) -> None:
    batch = each * data.draw(st.integers(1, 4))
    whole = GroupSampler(groups, each, batch, 3)
    seen = [whole.next() for _ in range(steps + 3)]
    part = GroupSampler(groups, each, batch, 3)
    for _ in range(steps):
        part.next()
    resumed = GroupSampler(groups, each, batch, 3)
    resumed.restore(part.state())
    assert [resumed.next() for _ in range(3)] == seen[steps:]
    flat = [index for indices in seen for index in indices]
    sets = [flat[first : first + each] for first in range(0, len(flat), each)]
    order = []
    for members in sets:
        (group,) = {groups[index] for index in members}
        order.append(group)
        assert len(set(members)) == min(each, groups.count(group))
    count = len(set(groups))
    for first in range(0, len(order) - count + 1, count):
        assert Counter(order[first : first + count]) == Counter(set(groups))


def test_an_order_of_other_examples_is_refused() -> None:
    state = GroupSampler([0, 0, 1], 2, 2, 0).state()
    with pytest.raises(CheckpointError, match="started on 3 examples, now there are 4"):
        GroupSampler([0, 0, 1, 1], 2, 2, 0).restore(state)
    with pytest.raises(CheckpointError, match="started on 3 examples"):
        GroupSampler([0, 0, 1], 2, 2, 0).restore({"epoch": 0, "position": 0, "count": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"contrastive": 0}}, "no tower learns anything"),
        ({"objective": {"lock": "text", "contrastive": 0, "concepts_text": 1}}, "no tower learns anything"),
        ({"objective": {"lock": "vision", "contrastive": 0}}, "no tower learns anything"),
        ({"objective": {"per_concept": 3}}, "a batch of 4 is not made of 3 images a concept"),
        ({"objective": {"lock": "both"}}, "objective.lock"),
    ],
)
def test_objectives_that_cannot_be_are_refused(changes: dict[str, Any], message: str, root: Path) -> None:
    stage = {"method": "clip", "batch": 4, "max_steps": 1, **changes}
    with pytest.raises(ConfigError, match=message):
        read_config(small_config(root, stage=[stage]))


def test_what_an_objective_needs() -> None:
    assert ClipObjective().reads
    assert ClipObjective().sees
    vision = ClipObjective(**VISION)
    assert (vision.reads, vision.sees) == (False, True)
    assert not ClipObjective(contrastive=0, text_pairs=1).sees


def test_a_finished_vision_tower_sees_each_variant_once(root: Path, tmp_path: Path) -> None:
    config = two_stages(root, tmp_path / "run", variants=3)
    list(run_config({**config, "stage": config["stage"][:1]}))
    ctx, task = build(config, "text")
    apprentice: Any = task.trainables[0].module
    seen: list[int] = []
    apprentice.towers.vision.register_forward_hook(lambda *_: seen.append(1))
    pairs = task.data.batch([0, 1, 5, 5], torch.Generator().manual_seed(0))
    losses = task.trainables[0].loss(step_context(pairs))
    assert not seen
    assert not pairs.images.pixels.numel()
    assert set(losses.parts) == {"contrastive", "concepts_text"}
    learned, _ = ctx.data.split(ctx.data.size(ctx.config.stage[1]))
    white = torch.nonzero(task.data.source.tensors["backgrounds"] == 0).flatten()
    assert len(white)
    with torch.no_grad():
        plain = apprentice.towers.see(learned.plain(white // 3))
    torch.testing.assert_close(task.data.source.tensors["embeddings"][white].float(), plain, atol=2e-3, rtol=0)
    losses.total.backward()
    assert all(value.grad is None for value in apprentice.towers.vision.parameters())
    assert any(value.grad is not None for value in apprentice.towers.text.parameters())


def test_measuring_loads_no_tokenizer_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def counted(folder: Path) -> Tokenizer:
        loaded.append(folder)
        return load_tokenizer(folder)

    monkeypatch.setattr(encoders, "load_tokenizer", counted)
    _, task = build(small_config(root, out=str(tmp_path / "run")), "clip")
    assert task.measure is not None
    with torch.no_grad():
        for _ in range(3):
            task.measure(torch.Generator())
    assert len(loaded) == 1
