"""The prior pipelines against diffusers': same folder, same draws, same embeddings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import KandinskyV22PriorEmb2EmbPipeline, KandinskyV22PriorPipeline
from torch import nn

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import RequestError
from tests.compat.comparing import PRIOR_STEPS, close, draw_image, drawn, folder, oracle, seeded
from tests.tiny import Checkpoints

Load = Callable[[str, str], Any]
STEPS = {"num_inference_steps": PRIOR_STEPS}


@pytest.fixture
def prior(ours: Load) -> Any:
    return ours("KandinskyV22PriorPipeline", "prior")


@pytest.mark.parametrize("generators", ["one", "list"])
@pytest.mark.parametrize("copies", [1, 2])
def test_embeddings_draw_for_draw(tiny: Checkpoints, prior: Any, generators: str, copies: int) -> None:
    prompts = ["a red fox", "кот"]
    fields = {**STEPS, "num_images_per_prompt": copies, "guidance_scale": 3.0}
    count = len(prompts) * copies
    theirs = tiny.prior(prompts, generator=drawn(generators, count), **fields)
    found = prior(prompts, generator=drawn(generators, count), **fields)
    assert close(found.image_embeds, theirs.image_embeds)
    assert close(found.negative_image_embeds, theirs.negative_image_embeds)


@pytest.mark.parametrize("scale", [0.0, 1.0, 6.0])
def test_guidance_and_negative_prompts(tiny: Checkpoints, prior: Any, scale: float) -> None:
    fields = {**STEPS, "negative_prompt": ["ugly", "grey"], "num_images_per_prompt": 2, "guidance_scale": scale}
    theirs = tiny.prior(["a fox", "a cat"], generator=seeded(2), **fields)
    found = prior(["a fox", "a cat"], generator=seeded(2), **fields)
    assert close(found.image_embeds, theirs.image_embeds)
    assert close(found.negative_image_embeds, theirs.negative_image_embeds)


def test_a_generator_for_every_row_draws_as_diffusers_does(tiny: Checkpoints, prior: Any) -> None:
    fields = {**STEPS, "negative_prompt": ["ugly", "grey"]}
    theirs = tiny.prior(["a fox", "a cat"], generator=drawn("list", 4), **fields)
    found = prior(["a fox", "a cat"], generator=drawn("list", 4), **fields)
    assert close(found.image_embeds, theirs.image_embeds)
    assert close(found.negative_image_embeds, theirs.negative_image_embeds)


def test_a_generator_for_every_image_keeps_its_draws_under_negative_prompts(prior: Any) -> None:
    fields = {**STEPS, "generator": drawn("list", 2), "guidance_scale": 1.0}
    plain = prior(["a fox", "a cat"], **fields)
    fields["generator"] = drawn("list", 2)
    against = prior(["a fox", "a cat"], negative_prompt="ugly", **fields)
    assert close(against.image_embeds, plain.image_embeds, 1e-6)
    assert not close(against.negative_image_embeds, plain.negative_image_embeds, 1e-2)


def test_an_empty_negative_prompt_is_none(prior: Any) -> None:
    plain = prior("a fox", generator=seeded(), **STEPS)
    empty = prior("a fox", negative_prompt="", generator=seeded(), **STEPS)
    assert torch.equal(plain.image_embeds, empty.image_embeds)
    assert torch.equal(plain.negative_image_embeds, empty.negative_image_embeds)


def test_one_negative_prompt_serves_all(prior: Any) -> None:
    one = prior(("a fox", "a cat"), negative_prompt="ugly", generator=seeded(), **STEPS)
    each = prior(["a fox", "a cat"], negative_prompt=["ugly"] * 2, generator=seeded(), **STEPS)
    assert torch.equal(one.image_embeds, each.image_embeds)


def test_given_latents(tiny: Checkpoints, prior: Any) -> None:
    latents = torch.randn(2, 20, generator=seeded(8))
    fields = {**STEPS, "generator": seeded(1), "latents": latents}
    theirs = tiny.prior(["a fox", "a cat"], **fields)
    fields["generator"] = seeded(1)
    assert close(prior(["a fox", "a cat"], **fields).image_embeds, theirs.image_embeds)
    with pytest.raises(RequestError, match="latents of shape"):
        prior("a fox", latents=latents, **STEPS)


def test_without_a_generator_torch_itself_draws(tiny: Checkpoints, prior: Any) -> None:
    torch.manual_seed(4)
    theirs = tiny.prior("a fox", **STEPS)
    torch.manual_seed(4)
    assert close(prior("a fox", **STEPS).image_embeds, theirs.image_embeds)


def test_outputs_are_read_in_every_way(prior: Any) -> None:
    output = prior("a fox", generator=seeded(), **STEPS)
    first, second = output
    assert output[0] is first is output["image_embeds"] is output.image_embeds is output.to_tuple()[0]
    assert dict(**output)["negative_image_embeds"] is second
    assert len(output) == 2
    with pytest.raises(KeyError):
        output["images"]
    pair = prior("a fox", generator=seeded(), return_dict=False, output_type="np", **STEPS)
    assert isinstance(pair, tuple)
    assert isinstance(pair[0], np.ndarray)
    np.testing.assert_array_equal(pair[0], first.numpy())


def test_callbacks_change_what_comes_next(tiny: Checkpoints, prior: Any) -> None:
    seen: list[Any] = []

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((index, int(t), sorted(tensors), tuple(tensors["text_mask"].shape)))
        return {"latents": tensors["latents"] * 0.9}

    fields = {**STEPS, "callback_on_step_end": tell}
    fields["callback_on_step_end_tensor_inputs"] = ["latents", "text_mask"]
    theirs = tiny.prior("a fox", generator=seeded(6), **fields)
    told, seen = seen, []
    found = prior("a fox", generator=seeded(6), **fields)
    assert close(found.image_embeds, theirs.image_embeds)
    assert seen == told
    assert len(seen) == PRIOR_STEPS
    with pytest.raises(RequestError, match=r"'latent'.*Did you mean 'latents'"):
        prior("a fox", callback_on_step_end_tensor_inputs=["latent"], **STEPS)


def test_interpolation_and_the_draws_after_it(tiny: Checkpoints, prior: Any) -> None:
    items: list[Any] = ["a cat", draw_image(40, 56), "a dog", torch.randn(1, 3, 28, 28, generator=seeded(3))]
    theirs, mine = seeded(9), seeded(9)
    expected = tiny.prior.interpolate(items, [0.3, 0.2, 0.4, 0.1], generator=theirs, **STEPS)
    found = prior.interpolate(items, [0.3, 0.2, 0.4, 0.1], generator=mine, **STEPS)
    assert close(found.image_embeds, expected.image_embeds)
    assert close(found.negative_image_embeds, expected.negative_image_embeds)
    assert torch.equal(torch.randn(3, generator=mine), torch.randn(3, generator=theirs))


@pytest.mark.parametrize("negatives", [{"negative_prompt": "ugly"}, {"negative_prior_prompt": "grey"}])
def test_interpolation_against_negative_prompts(tiny: Checkpoints, prior: Any, negatives: dict[str, str]) -> None:
    fields: dict[str, Any] = {**STEPS, **negatives, "num_images_per_prompt": 2}
    expected = tiny.prior.interpolate(["a cat", "a dog"], [0.4, 0.6], generator=seeded(9), **fields)
    found = prior.interpolate(["a cat", "a dog"], [0.4, 0.6], generator=seeded(9), **fields)
    assert close(found.image_embeds, expected.image_embeds)
    assert close(found.negative_image_embeds, expected.negative_image_embeds)


def test_interpolation_says_what_does_not_fit(prior: Any) -> None:
    with pytest.raises(RequestError, match="2 items are mixed with 1 weights"):
        prior.interpolate(["a", "b"], [1.0])
    with pytest.raises(RequestError, match="is not an image"):
        prior.interpolate([3.5], [1.0])


@pytest.mark.parametrize("strength", [0.4, 0.9])
def test_from_an_embedding(tiny: Checkpoints, ours: Load, strength: float) -> None:
    """diffusers does not bring the embedding into the prior's own space, so it is given one from there."""
    theirs, mine = (
        oracle(KandinskyV22PriorEmb2EmbPipeline, tiny.prior),
        ours("KandinskyV22PriorEmb2EmbPipeline", "prior"),
    )
    image = draw_image(56, 40)
    raw = tiny.prior._encode_image if hasattr(tiny.prior, "_encode_image") else None
    assert raw is None  # the plain prior has no such method, so diffusers' processor and tower are used by hand
    pixels = tiny.prior.image_processor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        known = tiny.prior.image_encoder(pixels)["image_embeds"]
    network = tiny.prior.prior
    normalised = ((known - network.clip_mean) / network.clip_std).detach()
    fields: dict[str, Any] = {"strength": strength, "num_inference_steps": 6, "num_images_per_prompt": 2}
    expected = theirs(["a fox", "a cat"], image=normalised, generator=seeded(4), **fields)
    for given in (image, [image], known, pixels):
        found = mine(["a fox", "a cat"], image=given, generator=seeded(4), **fields)
        assert close(found.image_embeds, expected.image_embeds)
        assert close(found.negative_image_embeds, expected.negative_image_embeds)


def test_from_an_embedding_takes_a_step_at_least(ours: Load) -> None:
    found = ours("KandinskyV22PriorEmb2EmbPipeline", "prior")("a fox", draw_image(), strength=0.01, **STEPS)
    assert found.image_embeds.shape == (1, 20)


def test_from_an_embedding_interpolates_texts(ours: Load, prior: Any) -> None:
    fields: dict[str, Any] = {**STEPS, "generator": seeded(1)}
    plain = prior.interpolate(["a cat", draw_image()], [0.5, 0.5], **fields)
    fields["generator"] = seeded(1)
    found = ours("KandinskyV22PriorEmb2EmbPipeline", "prior").interpolate(["a cat", draw_image()], [0.5, 0.5], **fields)
    assert torch.equal(found.image_embeds, plain.image_embeds)
    assert torch.equal(found.negative_image_embeds, plain.negative_image_embeds)


def test_too_long_a_prompt_is_told(prior: Any) -> None:
    with pytest.warns(UserWarning, match=r"too long: .*fox"):
        prior("a fox " * 60, **STEPS)


def test_unfit_values_are_told(prior: Any) -> None:
    with pytest.raises(RequestError, match="output_type 'pil'"):
        prior("a fox", output_type="pil")
    with pytest.raises(RequestError, match="prompt is"):
        prior([])
    with pytest.raises(RequestError, match="2 generators were given for 3 images"):
        prior(["a", "b", "c"], generator=drawn("list", 2), **STEPS)
    with pytest.raises(RequestError, match="2 values of negative_prompt were given for 3 prompts"):
        prior(["a", "b", "c"], negative_prompt=["d", "e"], **STEPS)


def test_of_more_generators_than_images_the_first_count(prior: Any, tiny: Checkpoints) -> None:
    theirs = oracle(KandinskyV22PriorPipeline, tiny.prior)
    for prompts in ("a fox", ["a fox", "a cat"]):
        found = prior(prompts, generator=drawn("list", 3), **STEPS).image_embeds
        assert close(found, theirs(prompts, generator=drawn("list", 3), **STEPS).image_embeds)


def test_the_zero_embedding_is_computed_once(ours: Load) -> None:
    prior = compat.KandinskyV22PriorPipeline.from_pipe(ours("KandinskyV22PriorPipeline", "prior"))
    assert prior._stage is prior._stage
    kept = prior._stage.zero_embedding
    assert torch.equal(prior.get_zero_embed(3), kept.repeat(3, 1))
    prior.scheduler = compat.UnCLIPScheduler.from_config(prior.scheduler.config)
    assert prior._stage.schedule is prior.scheduler.schedule


class Counting(nn.Module):
    """A user's own module around the prior, as torch.compile would put one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module
        self.calls = 0

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls += 1
        return self._orig_mod(*arguments, **keywords)


def test_another_prior_acts(prior: Any) -> None:
    mine = compat.KandinskyV22PriorPipeline(**prior.components)
    fields: dict[str, Any] = {**STEPS, "negative_prompt": "ugly"}
    plain = mine("a fox", generator=seeded(), **fields)
    mine.prior = Counting(mine.prior)
    found = mine("a fox", generator=seeded(), **fields)
    assert mine.prior.calls == PRIOR_STEPS
    assert torch.equal(found.image_embeds, plain.image_embeds)
    hooked: list[int] = []
    handle = prior.prior.register_forward_hook(lambda *_: hooked.append(1))
    prior("a fox", generator=seeded(), **fields)
    handle.remove()
    assert len(hooked) == PRIOR_STEPS


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_prior_gives_the_same_embeddings(tiny: Checkpoints, prior: Any, in_place: bool) -> None:
    """One graph serves all steps, whether the module is compiled in place or wrapped."""
    mine = compat.KandinskyV22PriorPipeline(**prior.components)
    mine.prior = compat.PriorTransformer.from_pretrained(folder(tiny, "prior"), subfolder="prior")
    plain = prior("a fox", generator=seeded(), **STEPS).image_embeds
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    if in_place:
        mine.prior.compile(backend=backend, fullgraph=True)
    else:
        mine.prior = torch.compile(mine.prior, backend=backend, fullgraph=True)
    assert close(mine("a fox", generator=seeded(), **STEPS).image_embeds, plain, 1e-5)
    assert len(graphs) == 1


def test_the_prior_alone_wants_its_text(prior: Any) -> None:
    with pytest.raises(RequestError, match="not told its text"):
        prior.prior(torch.zeros(1, 20), 5)
