"""What people do around pipelines: wrapped networks, halves, classes of their own, attributes that are set."""

import copy
import pickle
from collections.abc import Callable
from itertools import product
from types import MethodType
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import CheckpointError, RequestError
from tests.compat.comparing import PRIOR_STEPS, SMALL, close, draw_image, embeds, folder, hole, oracle, seeded
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import WIDTH, TextImageCheckpoints

Load = Callable[[str, str], Any]
LATENT = {**SMALL, "output_type": "latent"}
WHOLE = {**SMALL, "prior_num_inference_steps": PRIOR_STEPS, "output_type": "latent"}


class Weaker(nn.Module):
    """A user's module around a network of either library: what it says is made smaller."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config, self.dtype, self.device = inner.config, torch.float32, torch.device("cpu")

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        answer = self.inner(*arguments, **keywords)
        return (answer[0] * 0.9,)


class Plain:
    """The same without torch."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return (self.inner(*arguments, **keywords)[0] * 0.9,)


def other_forward(inner: Any) -> Any:
    inner = copy.deepcopy(inner)
    forward = inner.forward

    def replaced(
        self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any = None, return_dict: bool = True, **more: Any
    ) -> Any:
        assert timestep.ndim == 0
        more |= {"encoder_hidden_states": encoder_hidden_states, "return_dict": False}
        return (forward(sample, timestep, **more)[0] * 0.9,)

    inner.forward = MethodType(replaced, inner)
    return inner


def hooked(inner: Any) -> Any:
    inner = copy.deepcopy(inner)

    def before(module: Any, arguments: Any, keywords: Any) -> Any:
        added = keywords["added_cond_kwargs"]
        keywords["added_cond_kwargs"] = {**added, "image_embeds": added["image_embeds"] * 0.5}
        return arguments, keywords

    inner.register_forward_pre_hook(before, with_kwargs=True)
    inner.register_forward_hook(lambda module, arguments, answer: (answer[0] * 0.9,))
    return inner


@pytest.mark.parametrize(
    ("wrap", "kind"),
    mostly_slow(
        product([Weaker, Plain, other_forward, hooked], ["text2img", "inpaint", "control"]),
        (Weaker, "text2img"),
        (Plain, "inpaint"),
        (other_forward, "control"),
        (hooked, "text2img"),
    ),
)
def test_a_wrapped_unet_acts(tiny: Checkpoints, ours: Load, wrap: Any, kind: str) -> None:
    theirs = copy.copy(tiny.decoders[kind])
    mine = getattr(compat, type(theirs).__name__)(**ours(type(theirs).__name__, kind).components)
    inputs: dict[str, Any] = {"inpaint": {"image": draw_image(), "mask_image": hole()}}.get(kind, {})
    inputs |= {"hint": torch.rand(1, 3, 64, 128, generator=seeded(1))} if kind == "control" else {}
    inputs |= dict(zip(("image_embeds", "negative_image_embeds"), embeds(1), strict=True))
    last: dict[str, Any] = {}
    for name, pipe in (("mine", mine), ("theirs", theirs)):
        inner = pipe.unet
        pipe.__dict__["unet"] = wrap(inner)
        told = {"callback": lambda i, t, x, name=name: last.__setitem__(name, x.clone()), "callback_steps": 1}
        pipe(generator=seeded(), **SMALL, **inputs, **told)
        pipe.__dict__["unet"] = inner
    assert close(last["mine"], last["theirs"])


def test_a_wrapped_prior_acts(tiny: Checkpoints, ours: Load) -> None:
    class Smaller(Weaker):
        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            answer = self.inner(*arguments, **keywords)
            answer.predicted_image_embedding = answer["predicted_image_embedding"] * 0.9
            return answer

        def post_process_latents(self, latents: Any) -> Any:
            return self.inner.post_process_latents(latents)

    fields: dict[str, Any] = {"num_inference_steps": PRIOR_STEPS, "negative_prompt": "ugly"}
    mine = compat.KandinskyV22PriorPipeline(**ours("KandinskyV22PriorPipeline", "prior").components)
    mine.prior = Smaller(mine.prior)
    theirs = copy.copy(tiny.prior)
    theirs.prior = Smaller(theirs.prior)
    found = mine("a fox", generator=seeded(), **fields).image_embeds
    assert close(found, theirs("a fox", generator=seeded(), **fields).image_embeds)


def test_a_wrapped_unet_that_reads_texts_acts(one_text: OneTextCheckpoints, text_image: TextImageCheckpoints) -> None:
    assert one_text.oracle
    newest = compat.Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder")
    theirs = copy.copy(one_text.oracle)
    for pipe in (newest, theirs):
        pipe.unet = Weaker(pipe.unet)
    fields = {"prompt": "a fox", **LATENT}
    assert close(newest(generator=seeded(), **fields).images, theirs(generator=seeded(), **fields).images)
    assert text_image.decoder
    earlier = compat.KandinskyPipeline.from_pretrained(text_image.root / "decoder")
    theirs = copy.copy(text_image.decoder)
    both = torch.randn(2, WIDTH, generator=seeded(3))
    last = []
    for pipe in (earlier, theirs):
        pipe.unet = Weaker(pipe.unet)
        told: list[torch.Tensor] = []
        pipe("a fox", both[:1], both[1:], generator=seeded(), callback=lambda i, t, x: told.append(x), **SMALL)  # noqa: B023
        last.append(told[-1])
    assert close(*last)


def scaled_outputs(module: Any, arguments: Any, answer: Any) -> Any:
    """A forward hook: what an encoder says, smaller."""
    for name, value in answer.items():
        if isinstance(value, torch.Tensor):
            answer[name] = value * 0.7
    return answer


@pytest.mark.parametrize("part", ["text_encoder", "image_encoder"])
def test_hooked_encoders_of_a_prior_act(tiny: Checkpoints, ours: Load, part: str) -> None:
    mine = compat.KandinskyV22PriorPipeline(**ours("KandinskyV22PriorPipeline", "prior").components)
    theirs = copy.copy(tiny.prior)
    found = []
    for pipe in (mine, theirs):
        inner = copy.deepcopy(getattr(pipe, part))
        inner.register_forward_hook(scaled_outputs)
        setattr(pipe, part, inner)
        found.append(pipe("a fox", num_inference_steps=PRIOR_STEPS, generator=seeded()))
    assert close(found[0].image_embeds, found[1].image_embeds)
    assert close(found[0].negative_image_embeds, found[1].negative_image_embeds)
    plain = ours("KandinskyV22PriorPipeline", "prior")("a fox", num_inference_steps=PRIOR_STEPS, generator=seeded())
    name = "image_embeds" if part == "text_encoder" else "negative_image_embeds"
    assert not close(found[0][name], plain[name], 1e-2)
    mine.text_encoder = torch.compile(ours("KandinskyV22PriorPipeline", "prior").text_encoder, backend="eager")
    assert mine("a fox", num_inference_steps=1).image_embeds.isfinite().all()


def scaled_parts(module: Any, arguments: Any, answer: Any) -> Any:
    """A forward hook on an encoder that answers with a tuple or a dict of tensors."""
    if isinstance(answer, tuple):
        return tuple(value * 0.7 for value in answer)
    return scaled_outputs(module, arguments, answer)


def test_hooked_encoders_of_decoders_act(one_text: OneTextCheckpoints, text_image: TextImageCheckpoints) -> None:
    assert one_text.oracle
    assert text_image.decoder
    both = torch.randn(2, WIDTH, generator=seeded(3))
    for kind, place, theirs, arguments in (
        (compat.Kandinsky3Pipeline, one_text.root / "decoder", one_text.oracle, ("a fox",)),
        (compat.KandinskyPipeline, text_image.root / "decoder", text_image.decoder, ("a fox", both[:1], both[1:])),
    ):
        last = []
        for pipe in (kind.from_pretrained(place), copy.copy(theirs)):
            plain = pipe.text_encoder
            pipe.text_encoder = copy.deepcopy(plain)
            pipe.text_encoder.register_forward_hook(scaled_parts)
            told = {"output_type": "np", **SMALL, "width": 64}
            last.append(torch.from_numpy(pipe(*arguments, generator=seeded(), **told).images))
        assert close(*last, 2e-3), kind


def test_a_changed_movq_acts(tiny: Checkpoints, ours: Load) -> None:
    """Another `decode` or `encode` on the object, as tiling and compiling put them there."""
    kind = "KandinskyV22Img2ImgPipeline"
    mine = getattr(compat, kind)(**ours(kind, "text2img").components)
    theirs = getattr(diffusers, kind)(**tiny.decoders["text2img"].components)
    theirs.set_progress_bar_config(disable=True)
    found, calls = [], []
    for pipe in (mine, theirs):
        movq = pipe.movq = copy.deepcopy(pipe.movq)
        for name in ("encode", "decode"):
            method = getattr(movq, name)

            def own(x: Any, *arguments: Any, method: Any = method, name: str = name, **keywords: Any) -> Any:
                calls.append(name)
                return method(x * 0.8, *arguments, **keywords)

            setattr(movq, name, own)
        fields = {**SMALL, "width": 64, "image": draw_image(64), "strength": 0.6, "output_type": "np"}
        positive, negative = embeds(1)
        drawn = pipe(image_embeds=positive, negative_image_embeds=negative, generator=seeded(), **fields).images
        found.append(torch.from_numpy(drawn))
    assert calls == ["encode", "decode"] * 2
    assert close(found[0], found[1])


def test_a_tokenizer_of_another_call_is_refused(ours: Load) -> None:
    pipe = compat.KandinskyV22PriorPipeline(**ours("KandinskyV22PriorPipeline", "prior").components)

    class Mine(compat.CLIPTokenizer):  # type: ignore[misc]
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            raise AssertionError

    pipe.tokenizer = Mine(pipe.tokenizer.native, pipe.tokenizer.folder)
    with pytest.raises(RequestError, match="A Mine replaces __call__"):
        pipe("a fox", num_inference_steps=1)


@pytest.fixture
def combined(tiny: Checkpoints) -> Any:
    return compat.KandinskyV22CombinedPipeline.from_pretrained(folder(tiny, "text2img"), prior=tiny.root / "prior")


def test_halves_are_the_pipelines_themselves(tiny: Checkpoints, combined: Any) -> None:
    assert combined.prior_pipe is combined.prior_pipe
    theirs = diffusers.KandinskyV22CombinedPipeline(
        **tiny.decoders["text2img"].components, **{f"prior_{k}": v for k, v in tiny.prior.components.items()}
    )
    theirs.set_progress_bar_config(disable=True)
    for pipe, library in ((combined, compat), (theirs, diffusers)):
        kind = library.DDIMScheduler
        pipe.decoder_pipe.scheduler = kind.from_config(pipe.decoder_pipe.scheduler.config)
        pipe.decoder_pipe.unet = Weaker(pipe.decoder_pipe.unet)
    assert combined.scheduler is combined.decoder_pipe.scheduler
    assert combined.unet is combined.decoder_pipe.unet
    expected = theirs("a fox", generator=seeded(), **WHOLE).images
    assert close(combined("a fox", generator=seeded(), **WHOLE).images, expected)
    for name, own in (
        ("prior_prior", "prior"),
        ("prior_text_encoder", "text_encoder"),
        ("prior_scheduler", "scheduler"),
    ):
        other = copy.deepcopy(getattr(combined, name))
        setattr(combined.prior_pipe, own, other)
        assert getattr(combined, name) is other
        again = copy.deepcopy(other)
        setattr(combined, name, again)
        assert getattr(combined.prior_pipe, own) is again
    combined.set_progress_bar_config(disable=True)
    assert combined.prior_pipe._progress_bar_config == {"disable": True}
    with pytest.raises(RequestError, match="two guidance scales"):
        combined._guidance_scale = 2.0
    half = compat.KandinskyV22PriorPipeline(**combined.prior_pipe.components)
    combined.prior_pipe = half
    assert combined.prior_prior is half.prior


def test_combined_pipelines_are_copied_whole(combined: Any) -> None:
    plain = combined("a fox", generator=seeded(), **WHOLE).images
    for again in (copy.deepcopy(combined), pickle.loads(pickle.dumps(combined))):
        assert again.unet is again.decoder_pipe.unet is not combined.unet
        assert close(again("a fox", generator=seeded(), **WHOLE).images, plain, 1e-5)


def test_an_interrupted_prior_ends_the_call(combined: Any) -> None:
    steps: list[int] = []

    def stop(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        combined._interrupt = True
        return tensors

    def count(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(index)
        return tensors

    combined("a fox", generator=seeded(), prior_callback_on_step_end=stop, callback_on_step_end=count, **WHOLE)
    assert steps == [0]


@pytest.mark.parametrize("name", ["prepare_latents", "check_inputs", "guidance_scale", "model_cpu_offload_seq"])
def test_what_nothing_reads_cannot_be_set(ours: Load, name: str) -> None:
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    with pytest.raises(RequestError, match=f"Setting {name} of a KandinskyV22Pipeline cannot act"):
        setattr(mine, name, lambda *_: None)
    with pytest.raises(RequestError, match=f"Mine replaces {name}"):
        type("Mine", (compat.KandinskyV22Pipeline,), {name: lambda *_: None})
    mine.safety_checker = None  # no Kandinsky pipeline of diffusers reads it either
    mine.sd_checkpoint_info = "mine"
    assert mine.sd_checkpoint_info == "mine"


def test_a_progress_bar_of_ones_own_acts(ours: Load) -> None:
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    seen: list[Any] = []

    def bar(iterable: Any = None, total: Any = None) -> Any:
        for one in iterable:
            seen.append(one)
            yield one

    mine.progress_bar = bar
    mine(*embeds(1), generator=seeded(), **LATENT)
    assert len(seen) == SMALL["num_inference_steps"]


def own(library: Any) -> Any:
    """The same pipeline of a user's for either library."""

    class Mine(library.DiffusionPipeline):  # type: ignore[misc]
        def __init__(self, unet: Any, scheduler: Any, movq: Any) -> None:
            super().__init__()
            self.register_modules(unet=unet, scheduler=scheduler, movq=movq)
            self.movq_scale_factor = 2 ** (len(self.movq.config.block_out_channels) - 1)

        def prepare_latents(self, shape: Any, generator: Any) -> Any:
            return torch.randn(shape, generator=generator, device=self._execution_device)

        @torch.no_grad()
        def __call__(self, positive: Any, negative: Any, steps: int, generator: Any) -> Any:
            self.scheduler.set_timesteps(steps)
            x = self.prepare_latents((1, 4, 64 // self.movq_scale_factor, 64 // self.movq_scale_factor), generator)
            told = {"image_embeds": torch.cat([negative, positive])}
            with self.progress_bar(total=steps) as bar:
                for t in self.scheduler.timesteps:
                    both = self.unet(torch.cat([x] * 2), t, None, added_cond_kwargs=told, return_dict=False)[0][:, :4]
                    uncond, cond = both.chunk(2)
                    x = self.scheduler.step(uncond + 3 * (cond - uncond), t, x, generator=generator)[0]
                    bar.update()
            image = self.movq.decode(x, force_not_quantize=True)["sample"] * 0.5 + 0.5
            return self.numpy_to_pil(image.clamp(0, 1).permute(0, 2, 3, 1).numpy())

    return Mine


def test_pipelines_of_ones_own(tiny: Checkpoints, ours: Load) -> None:
    parts = ours("KandinskyV22Pipeline", "text2img").components
    mine, theirs = own(compat)(**parts), own(diffusers)(**tiny.decoders["text2img"].components)
    theirs.set_progress_bar_config(disable=True)
    (image,), (expected,) = (pipe(*embeds(1), 3, seeded()) for pipe in (mine, theirs))
    difference = np.asarray(image).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
    assert set(mine.components) == {"unet", "scheduler", "movq"}
    assert own(compat).from_pretrained(folder(tiny, "text2img")).unet.config.in_channels == 4
    assert mine.to(torch.float64).dtype is torch.float64
    mine.to(torch.float32)
    built = compat.KandinskyV22Pipeline(**parts)
    assert (
        built.movq_scale_factor == oracle(diffusers.KandinskyV22Pipeline, tiny.decoders["text2img"]).movq_scale_factor
    )


def test_a_wrapper_without_a_network_is_refused(ours: Load) -> None:
    mine = compat.KandinskyV22Pipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    mine.unet = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="A Linear was given"):
        mine(*embeds(1), **LATENT)


def unit(size: int = 96) -> torch.Tensor:
    """An image (1, 3, H, W) of zeros and ones, which resizing overshoots."""
    return (torch.rand(1, 3, size, size, generator=seeded(7)) > 0.5).float()


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (unit(), unit() * 2 - 1),
        ((unit() * 255).byte(), unit() * 2 - 1),
        ((unit() * 255).long(), unit() * 2 - 1),
        (unit().bool(), unit() * 2 - 1),
        (unit().half(), unit() * 2 - 1),
        ([unit()[0], unit()[0]], [unit()[0] * 2 - 1] * 2),
    ],
)
def test_ranges_of_tensors(ours: Load, given: Any, right: Any) -> None:
    mine = ours("KandinskyV22Img2ImgPipeline", "text2img")
    positive, negative = embeds(1)
    fields: dict[str, Any] = {**LATENT, "width": 64, "strength": 0.5}
    found, wanted = (mine(positive, one, negative, generator=seeded(), **fields).images for one in (given, right))
    assert close(found, wanted, 1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [(unit() * 3, "from 0 to 3"), (unit() * 4 - 2, "from -2 to 2"), ((unit() * 300).int(), "0 to 300.* 0..255")],
)
def test_other_ranges_are_refused(ours: Load, given: Any, words: str) -> None:
    positive, negative = embeds(1)
    with pytest.raises(RequestError, match=words):
        ours("KandinskyV22Img2ImgPipeline", "text2img")(positive, given, negative, **LATENT)
    with pytest.raises(RequestError, match=words):
        ours("KandinskyV22InpaintPipeline", "inpaint")(positive, given, hole(96, 96), negative, **LATENT)
    with pytest.raises(RequestError, match=words):
        ours("KandinskyV22ControlnetPipeline", "control")(positive, negative, given, **LATENT)


def test_inpainting_takes_bytes_and_hints_of_another_size(ours: Load) -> None:
    mine, positive, negative = ours("KandinskyV22InpaintPipeline", "inpaint"), *embeds(1)
    inputs = [((unit(64) * 255).byte(), hole(64, 64)), (unit(64) * 2 - 1, hole(64, 64))]
    fields = {**LATENT, "width": 64}
    found, wanted = (mine(positive, *pair, negative, generator=seeded(), **fields).images for pair in inputs)
    assert torch.equal(found, wanted)
    hinted = ours("KandinskyV22ControlnetPipeline", "control")
    found, wanted = (
        hinted(positive, negative, hint, generator=seeded(), **fields).images
        for hint in (unit(), (unit() * 255).byte())
    )
    assert torch.equal(found, wanted)


def test_outputs_and_batches_are_dicts(ours: Load) -> None:
    prior = ours("KandinskyV22PriorPipeline", "prior")
    out = prior("a fox", num_inference_steps=1, generator=seeded())
    assert "image_embeds" in out
    assert list(out.keys()) == ["image_embeds", "negative_image_embeds"]
    assert dict(out.items())["image_embeds"] is out.image_embeds is next(iter(out.values()))
    assert out.get("images") is None
    assert isinstance(out, dict)
    out.image_embeds = out["image_embeds"] * 2
    assert out[0] is out.image_embeds
    assert out.to(torch.float64).image_embeds.dtype is torch.float64
    for again in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert torch.equal(again.image_embeds, out.image_embeds)
    tokens = prior.tokenizer(["a fox", "a big red fox"], padding="longest", return_tensors="pt")
    assert sorted(dict(tokens.items())) == ["attention_mask", "input_ids"]
    assert tokens.to("cpu", torch.float16).input_ids.dtype is torch.int64
    assert prior.image_processor(draw_image()).to(torch.float16)["pixel_values"].dtype is torch.float16


def test_tokenizers_act_as_there(tiny: Checkpoints, ours: Load) -> None:
    mine, theirs = ours("KandinskyV22PriorPipeline", "prior").tokenizer, tiny.prior.tokenizer
    long = "a fox " * 60
    for fields in (
        {"padding": "longest"},
        {"padding": "max_length", "truncation": True, "max_length": 20},
        {"padding": True, "truncation": True, "max_length": 20},
    ):
        for texts in (["a fox", "a big red fox"], [long]):
            ids = theirs(texts, return_tensors="pt", **fields).input_ids
            assert torch.equal(mine(texts, return_tensors="pt", **fields).input_ids, ids)
    ids = mine("a fox").input_ids
    assert mine.batch_decode(ids, skip_special_tokens=True) == theirs.batch_decode(ids, skip_special_tokens=True)
    assert mine.pad_token_id == theirs.pad_token_id
    assert isinstance(mine("a fox", return_tensors="np").input_ids, np.ndarray)
    with pytest.raises(RequestError, match="return_tensors='tf'"):
        mine("a fox", return_tensors="tf")
    with pytest.raises(TypeError, match="stride"):
        mine("a fox", stride=2)
