"""diffusers' own pipelines through our networks: the same numbers, the same habits, and back again."""

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.models.attention_processor import AttnAddedKVProcessor
from diffusers.pipelines import kandinsky2_2
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from kandinsky.compat import accelerate_diffusers
from kandinsky.compat.accelerate import KINDS
from kandinsky.compat.diffusers import KandinskyV22Pipeline as OurPipeline
from kandinsky.core.errors import RequestError
from tests.compat.comparing import close, draw_image, embeds, folder, hole, oracle, seeded
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import WIDTH, TextImageCheckpoints

SIZE: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 4}
CHANGED = {**SIZE, "strength": 0.6}
PRIOR = {"num_inference_steps": 4}
WHOLE = {**SIZE, "prior_num_inference_steps": 4}


class Sources:
    """Pipelines of diffusers on tiny weights, by class name, and what they are called with."""

    def __init__(self, tiny: Checkpoints, text_image: TextImageCheckpoints, one_text: OneTextCheckpoints) -> None:
        self.tiny, self.text_image, self.one_text = tiny, text_image, one_text

    def pipe(self, name: str) -> Any:
        """A pipeline on parts of its own."""
        kind = getattr(diffusers, name, None) or getattr(kandinsky2_2, name)
        return oracle(kind, copy.deepcopy(self._parts(name)))

    def _parts(self, name: str) -> Any:
        inpaint, later = "Inpaint" in name, "V22" in name
        if "Kandinsky3" in name:
            return self.one_text.oracle
        if later:
            decoder = self.tiny.decoders["inpaint" if inpaint else "control" if "Controlnet" in name else "text2img"]
        else:
            decoder = self.text_image.inpainting if inpaint else self.text_image.decoder
        prior = self.tiny.prior if later else self.text_image.prior
        if "Combined" in name:
            return _Parts({**decoder.components, **{f"prior_{key}": part for key, part in prior.components.items()}})
        return prior if "Prior" in name else decoder


class _Parts:
    def __init__(self, components: dict[str, Any]) -> None:
        self.components = components


@pytest.fixture(scope="module")
def sources(tiny: Checkpoints, text_image: TextImageCheckpoints, one_text: OneTextCheckpoints) -> Sources:
    return Sources(tiny, text_image, one_text)


@pytest.fixture
def decoder(sources: Sources) -> Any:
    return sources.pipe("KandinskyV22Pipeline")


def early(rows: int = 1) -> list[Any]:
    both = torch.randn(2 * rows, WIDTH, generator=seeded(3))
    return ["a fox", both[:rows], both[rows:]]


def hints() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=seeded(4))


IMAGE, MASK = draw_image(64, 64), hole(64, 64)
CALLS: dict[str, Callable[[Any], Any]] = {
    "KandinskyPriorPipeline": lambda pipe: pipe("a fox", generator=seeded(), **PRIOR),
    "KandinskyPipeline": lambda pipe: pipe(*early(), generator=seeded(), **SIZE),
    "KandinskyImg2ImgPipeline": lambda pipe: pipe("a fox", IMAGE, *early()[1:], generator=seeded(), **CHANGED),
    "KandinskyInpaintPipeline": lambda pipe: pipe("a fox", IMAGE, MASK, *early()[1:], generator=seeded(), **SIZE),
    "KandinskyCombinedPipeline": lambda pipe: pipe("a fox", generator=seeded(), **WHOLE),
    "KandinskyImg2ImgCombinedPipeline": lambda pipe: pipe("a fox", IMAGE, generator=seeded(), **WHOLE),
    "KandinskyInpaintCombinedPipeline": lambda pipe: pipe("a fox", IMAGE, MASK, generator=seeded(), **WHOLE),
    "KandinskyV22PriorPipeline": lambda pipe: pipe("a fox", "grey", generator=seeded(), **PRIOR),
    "KandinskyV22PriorEmb2EmbPipeline": lambda pipe: pipe("a fox", IMAGE, strength=0.9, generator=seeded(), **PRIOR),
    "KandinskyV22Pipeline": lambda pipe: pipe(*embeds(2), generator=seeded(), **SIZE),
    "KandinskyV22Img2ImgPipeline": lambda pipe: pipe(*_changed(), generator=seeded(), **CHANGED),
    "KandinskyV22InpaintPipeline": lambda pipe: pipe(*_masked(), generator=seeded(), **SIZE),
    "KandinskyV22ControlnetPipeline": lambda pipe: pipe(*embeds(1), hints(), generator=seeded(), **SIZE),
    "KandinskyV22ControlnetImg2ImgPipeline": lambda pipe: pipe(*_hinted(), generator=seeded(), **CHANGED),
    "KandinskyV22CombinedPipeline": lambda pipe: pipe("a fox", "grey", generator=seeded(), **WHOLE),
    "KandinskyV22Img2ImgCombinedPipeline": lambda pipe: pipe("a fox", IMAGE, generator=seeded(), **WHOLE),
    "KandinskyV22InpaintCombinedPipeline": lambda pipe: pipe("a fox", IMAGE, MASK, generator=seeded(), **WHOLE),
    "Kandinsky3Pipeline": lambda pipe: pipe("a fox", negative_prompt="grey", generator=seeded(), **SIZE),
    "Kandinsky3Img2ImgPipeline": lambda pipe: pipe(
        "a fox", IMAGE, num_inference_steps=4, strength=0.6, generator=seeded()
    ),
}


EACH_NETWORK = (
    "KandinskyPriorPipeline",
    "KandinskyPipeline",
    "KandinskyInpaintPipeline",
    "KandinskyV22PriorEmb2EmbPipeline",
    "KandinskyV22Pipeline",
    "KandinskyV22ControlnetImg2ImgPipeline",
    "KandinskyV22Img2ImgCombinedPipeline",
    "Kandinsky3Pipeline",
)
"""Pipelines that together run every kind of network, and every way to call it."""


def _changed() -> list[Any]:
    image, negative = embeds(1)
    return [image, IMAGE, negative]


def _masked() -> list[Any]:
    image, negative = embeds(1)
    return [image, IMAGE, MASK, negative]


def _hinted() -> list[Any]:
    image, negative = embeds(1)
    return [image, IMAGE, negative, hints()]


def samples(name: str, pipe: Any) -> list[Tensor]:
    """What each step of a pipeline's schedulers makes in a call."""
    made: list[Tensor] = []
    schedulers = [part for key, part in pipe.components.items() if key.endswith("scheduler")]
    for scheduler in schedulers:

        def step(*given: Any, own: Any = scheduler.step, **keywords: Any) -> Any:
            found = own(*given, **keywords)
            made.append(found.prev_sample)
            return found

        scheduler.step = step
    try:
        CALLS[name](pipe)
    finally:
        for scheduler in schedulers:
            del scheduler.step
    return made


def latents(pipe: Any, **options: Any) -> Tensor:
    """The latents of a small 2.2 decoder."""
    fields = {**SIZE, "num_inference_steps": 3, "output_type": "latent", "generator": seeded(), **options}
    made: Tensor = pipe(*embeds(1), **fields).images
    return made


def forbid_plain(handle: Any) -> None:
    """Makes every call fail that diffusers' own networks would answer."""

    def fail(*given: Any, **keywords: Any) -> None:
        raise AssertionError("diffusers' own forward ran")

    for method in handle._methods:
        method.own = fail


def networks(pipe: Any) -> list[nn.Module]:
    return [part for part in pipe.components.values() if type(part).__name__ in KINDS]


def test_every_pipeline_of_diffusers_is_tried() -> None:
    names = {name for name in dir(diffusers) if name.startswith("Kandinsky") and name.endswith("Pipeline")}
    later = {name for name in names if name.startswith(("Kandinsky5", "Kandinsky6"))}
    assert names - later - CALLS.keys() == set()


@pytest.mark.parametrize("name", mostly_slow(CALLS, *EACH_NETWORK))
def test_same_numbers_and_back_to_the_bit(sources: Sources, name: str) -> None:
    pipe = sources.pipe(name)
    before = {id(part): copy.deepcopy(part.state_dict()) for part in networks(pipe)}
    plain = samples(name, pipe)
    with accelerate_diffusers(pipe) as handle:
        own = [method.own for method in handle._methods]
        forbid_plain(handle)
        fast = samples(name, pipe)
        for method, bound in zip(handle._methods, own, strict=True):
            method.own = bound
    assert len(fast) == len(plain)
    assert all(close(ours, theirs) for ours, theirs in zip(fast, plain, strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(samples(name, pipe), plain, strict=True))
    for part in networks(pipe):
        assert "forward" not in part.__dict__
        assert "encode" not in part.__dict__
        assert all(torch.equal(tensor, before[id(part)][key]) for key, tensor in part.state_dict().items())


@pytest.mark.parametrize(
    "name", mostly_slow(["KandinskyV22Pipeline", "Kandinsky3Pipeline", "KandinskyPipeline"], "KandinskyPipeline")
)
def test_images_and_latents_of_the_autoencoder(sources: Sources, name: str) -> None:
    movq = sources.pipe(name).movq
    pipe = sources.pipe(name)
    z, x = torch.randn(2, 4, 8, 8, generator=seeded()), torch.rand(2, 3, 64, 64, generator=seeded()) * 2 - 1
    with torch.no_grad(), accelerate_diffusers(pipe):
        assert close(pipe.movq.decode(z, force_not_quantize=True)["sample"], movq.decode(z, force_not_quantize=True)[0])
        assert close(pipe.movq.decode(z, True, return_dict=False)[0], movq.decode(z, force_not_quantize=True)[0])
        assert close(pipe.movq.encode(x)["latents"], movq.encode(x).latents)
        # Codes are diffusers' own business.
        assert torch.equal(pipe.movq.decode(z).commit_loss, movq.decode(z).commit_loss)
        assert type(pipe.movq.decode(z, force_not_quantize=True)) is type(movq.decode(z))


@pytest.mark.parametrize(
    ("name", "dtype"),
    mostly_slow(
        product(
            ["KandinskyV22Pipeline", "KandinskyV22PriorPipeline", "Kandinsky3Pipeline"], [torch.float16, torch.bfloat16]
        ),
        ("KandinskyV22PriorPipeline", torch.bfloat16),
        ("Kandinsky3Pipeline", torch.float16),
    ),
)
def test_half_precision_as_far_from_single_as_diffusers(sources: Sources, name: str, dtype: torch.dtype) -> None:
    right = samples(name, sources.pipe(name))[0]
    pipe = sources.pipe(name).to(dtype)
    plain = samples(name, pipe)[0]
    with accelerate_diffusers(pipe):
        fast = samples(name, pipe)[0]
    assert fast.dtype == plain.dtype
    assert (fast - right).abs().max() < 2 * (plain - right).abs().max() + 1e-3


def test_one_copy_of_the_weights(sources: Sources) -> None:
    pipe = sources.pipe("KandinskyV22CombinedPipeline")
    with accelerate_diffusers(pipe) as handle:
        CALLS["KandinskyV22CombinedPipeline"](pipe)
        for shared in {method.shared for method in handle._methods}:
            theirs = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in shared.module.parameters()}
            both = theirs | {p.untyped_storage().data_ptr(): p.untyped_storage() for p in shared.network.parameters()}
            assert both.keys() == theirs.keys()
            needed = sum(p.numel() * p.element_size() for p in shared.module.parameters())
            assert sum(storage.nbytes() for storage in both.values()) == needed


def _doubled(unet: Any) -> None:
    with torch.no_grad():
        unet.mid_block.attentions[0].to_v.weight.mul_(20)


def _through_data(unet: Any) -> None:
    unet.mid_block.attentions[0].to_v.weight.data.mul_(20)


def _replaced_data(unet: Any) -> None:
    layer = unet.mid_block.attentions[0].to_v
    layer.weight.data = 20 * layer.weight.data


def _replaced(unet: Any) -> None:
    layer = unet.mid_block.attentions[0].to_v
    layer.weight = nn.Parameter(20 * layer.weight.detach())


def _loaded(unet: Any) -> None:
    name = "mid_block.attentions.0.to_v.weight"
    unet.load_state_dict({**unet.state_dict(), name: 20 * unet.state_dict()[name]})


def _renewed(unet: Any) -> None:
    unet.conv_in = copy.deepcopy(unet.conv_in)
    with torch.no_grad():
        unet.conv_in.weight.mul_(2)


CHANGES = [_doubled, _through_data, _replaced_data, _replaced, _loaded, _renewed]


@pytest.mark.parametrize("change", mostly_slow(CHANGES, _loaded, _replaced_data), ids=lambda change: change.__name__)
def test_changed_weights_act(decoder: Any, sources: Sources, change: Callable[[Any], None]) -> None:
    other = sources.pipe("KandinskyV22Pipeline")
    before = latents(other)
    change(other.unet)
    with accelerate_diffusers(decoder) as handle:
        latents(decoder)
        change(decoder.unet)
        forbid_plain(handle)
        assert close(latents(decoder), latents(other))
        assert not close(latents(decoder), before, 1e-3)


def test_weights_changed_by_a_callback_act(decoder: Any, sources: Sources) -> None:
    other = sources.pipe("KandinskyV22Pipeline")

    def double(pipe: Any, step: int, t: Any, told: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            _doubled(pipe.unet)
        return told

    with accelerate_diffusers(decoder):
        assert close(latents(decoder, callback_on_step_end=double), latents(other, callback_on_step_end=double))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_casts_act(decoder: Any, sources: Sources, dtype: torch.dtype) -> None:
    other = sources.pipe("KandinskyV22Pipeline").to(dtype)
    x, z = torch.randn(1, 4, 8, 8, dtype=dtype, generator=seeded()), embeds(1)[0].to(dtype)
    with torch.no_grad(), accelerate_diffusers(decoder) as handle:
        latents(decoder)
        decoder.to(dtype)
        forbid_plain(handle)
        made = [unet(x, 500, None, added_cond_kwargs={"image_embeds": z})[0] for unet in (decoder.unet, other.unet)]
    assert made[0].dtype == dtype
    assert close(*made, tolerance=1e-10 if dtype == torch.float64 else 1e-2)


def test_callbacks_schedulers_and_conditions_act(decoder: Any, sources: Sources) -> None:
    other = sources.pipe("KandinskyV22Pipeline")

    def change(pipe: Any, step: int, t: Any, told: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            told["image_embeds"].mul_(0.5)
        if step == 2:
            pipe._guidance_scale = 0.0
            told["image_embeds"] = told["image_embeds"].chunk(2)[-1]
        return told

    options = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["image_embeds"]}
    with accelerate_diffusers(decoder) as handle:
        forbid_plain(handle)
        assert close(latents(decoder, **options), latents(other, **options))
        for kind in (diffusers.DDIMScheduler, diffusers.KDPM2AncestralDiscreteScheduler, diffusers.LCMScheduler):
            decoder.scheduler = kind.from_config(decoder.scheduler.config)
            other.scheduler = kind.from_config(other.scheduler.config)
            for steps in (1, 5):
                options = {"num_inference_steps": steps, "guidance_scale": 2.0}
                assert close(latents(decoder, **options), latents(other, **options)), (kind, steps)


def test_what_no_step_changes_is_computed_once(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with accelerate_diffusers(decoder) as handle:
        network = handle._methods[0].shared.network
        prepared = []
        own = network.prepare
        monkeypatch.setattr(network, "prepare", lambda *given: prepared.append(given) or own(*given))
        latents(decoder)
        latents(decoder, num_inference_steps=7)
    assert [len(times) for _, times in prepared] == [3, 7]
    assert handle.parts == ("unet", "movq")


def test_calls_by_hand(decoder: Any, sources: Sources) -> None:
    other = sources.pipe("KandinskyV22Pipeline")
    z, w = embeds(2)
    with torch.no_grad(), accelerate_diffusers(decoder):
        for t in (7, 980.5, torch.tensor([400]), torch.tensor([400, 3])):
            for condition in (z, w):
                x = torch.randn(2, 4, 16, 8, generator=seeded())
                told: dict[str, Any] = {"encoder_hidden_states": None, "added_cond_kwargs": {"image_embeds": condition}}
                found = decoder.unet(x, timestep=t, **told)
                expected = other.unet(x, timestep=t, **told)
                assert type(found) is type(expected)
                assert close(found.sample, expected.sample)
                assert found.sample.is_contiguous()
        with pytest.raises(TypeError):
            decoder.unet(x)
    assert inspect.signature(decoder.unet.forward) == inspect.signature(other.unet.forward)


def lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["to_q", "to_k", "add_k_proj"], init_lora_weights=False)


@pytest.mark.parametrize("when", mostly_slow(["before", "after"], "after"))
def test_lora_layers_act_and_are_named(sources: Sources, when: str) -> None:
    pipe, other = sources.pipe("KandinskyV22Pipeline"), sources.pipe("KandinskyV22Pipeline")
    bare = latents(other)
    torch.manual_seed(0)
    other.unet.add_adapter(lora())
    if when == "before":
        torch.manual_seed(0)
        pipe.unet.add_adapter(lora())
    with accelerate_diffusers(pipe) as handle:
        if when == "after":
            latents(pipe)
            torch.manual_seed(0)
            pipe.unet.add_adapter(lora())
        with pytest.warns(UserWarning, match=r"unet runs as diffusers has it.*to_q is a Linear of peft"):
            adapted = latents(pipe)
        assert close(adapted, latents(other))
        assert not close(adapted, bare, 1e-3)
        pipe.unet.fuse_lora()
        pipe.unet.unload_lora()
        forbid_plain(handle)
        assert close(latents(pipe), adapted)


def test_hooks_act(decoder: Any) -> None:
    plain, seen = latents(decoder), []
    with accelerate_diffusers(decoder) as handle:
        outer = decoder.unet.register_forward_hook(lambda module, given, made: seen.append("outer"))
        fast = latents(decoder)
        assert seen == ["outer"] * 3
        outer.remove()
        seen.clear()
        inner = decoder.unet.mid_block.register_forward_hook(lambda module, given, made: seen.append("inner"))
        with pytest.warns(UserWarning, match="mid_block has hooks"):
            assert torch.equal(latents(decoder), plain)
        assert seen == ["inner"] * 3
        inner.remove()
        forbid_plain(handle)
        assert torch.equal(latents(decoder), fast)


def test_attention_processors_act(decoder: Any) -> None:
    plain = latents(decoder)

    class Own(AttnAddedKVProcessor):  # type: ignore[misc]
        calls = 0

        def __call__(self, *given: Any, **keywords: Any) -> Any:
            Own.calls += 1
            return super().__call__(*given, **keywords)

    with accelerate_diffusers(decoder) as handle:
        decoder.unet.set_attn_processor(Own())
        with pytest.warns(UserWarning, match="attention processor Own"):
            assert close(latents(decoder), plain)
        assert Own.calls > 0
        decoder.unet.set_attn_processor(AttnAddedKVProcessor())
        forbid_plain(handle)
        assert close(latents(decoder), plain)


def test_gradients_reach_diffusers_parameters(decoder: Any) -> None:
    x, z = torch.randn(1, 4, 8, 8, generator=seeded()), embeds(1)[0]
    with accelerate_diffusers(decoder):
        latents(decoder)
        decoder.unet(x, 500, None, added_cond_kwargs={"image_embeds": z})[0].square().mean().backward()
        before = latents(decoder)
        assert decoder.unet.mid_block.attentions[0].to_q.weight.grad.abs().max() > 0
        torch.optim.SGD(decoder.unet.parameters(), 0.5).step()
        after = latents(decoder)
    assert not close(after, before)
    assert close(latents(decoder), after)


def test_copies_and_files_are_diffusers_own(decoder: Any, tmp_path: Any) -> None:
    with torch.no_grad():
        before = {name: tensor.clone() for name, tensor in decoder.unet.state_dict().items()}
        with accelerate_diffusers(decoder):
            plain = latents(decoder)
            copies = copy.deepcopy(decoder.unet), pickle.loads(pickle.dumps(decoder.unet))
            decoder.save_pretrained(tmp_path)
            torch.save(decoder.unet.state_dict(), tmp_path / "unet.pt")
            for other in copies:
                other.mid_block.attentions[0].to_v.weight.mul_(20)
            assert close(latents(decoder), plain)
            for other in copies:
                decoder.unet = other
                assert not close(latents(decoder), plain, 1e-3)
    for found in (load_file(tmp_path / "unet/diffusion_pytorch_model.safetensors"), torch.load(tmp_path / "unet.pt")):
        assert found.keys() == before.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


class Seen(ModelHook):
    calls = 0

    def pre_forward(self, module: nn.Module, *given: Any, **keywords: Any) -> Any:
        Seen.calls += 1
        return given, keywords


@pytest.mark.parametrize("when", mostly_slow(["before", "after"], "before"))
def test_offloading_hooks_act(decoder: Any, when: str) -> None:
    plain, Seen.calls = latents(decoder), 0
    if when == "before":
        add_hook_to_module(decoder.unet, Seen())
        add_hook_to_module(decoder.movq, Seen())
    handle = accelerate_diffusers(decoder)
    own = [method.own for method in handle._methods]
    if when == "after":
        add_hook_to_module(decoder.unet, Seen())
        add_hook_to_module(decoder.movq, Seen())
    forbid_plain(handle)
    decoder(*embeds(1), **SIZE)
    assert close(latents(decoder), plain)
    assert Seen.calls == 4 + 1 + 3
    for method, bound in zip(handle._methods, own, strict=True):
        method.own = bound
    handle.undo()
    assert torch.equal(latents(decoder), plain)
    assert Seen.calls == 4 + 1 + 3 + 3
    remove_hook_from_module(decoder.unet)
    assert torch.equal(latents(decoder), plain)
    assert Seen.calls == 4 + 1 + 3 + 3


def test_autocast_and_compilation_are_diffusers_own(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        cast = latents(decoder)
    plain = latents(decoder)
    with accelerate_diffusers(decoder):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(latents(decoder), cast)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert torch.equal(latents(decoder), plain)


def test_weights_that_inference_mode_shared_can_be_trained(decoder: Any) -> None:
    x, z = torch.randn(1, 4, 8, 8, generator=seeded()), embeds(1)[0]
    with torch.inference_mode():
        handle = accelerate_diffusers(decoder)
        latents(decoder)
    decoder.unet(x, 500, None, added_cond_kwargs={"image_embeds": z})[0].mean().backward()
    with torch.inference_mode():
        handle.undo()
    decoder.unet(x, 500, None, added_cond_kwargs={"image_embeds": z})[0].mean().backward()
    assert not any(weight.is_inference() for weight in decoder.unet.parameters())


def test_offloading_layer_by_layer_acts_and_frees_the_weights(decoder: Any) -> None:
    plain = latents(decoder)
    with accelerate_diffusers(decoder) as handle:
        latents(decoder)
        cpu_offload(decoder.unet, torch.device("cpu"))
        with pytest.warns(UserWarning, match="unet runs as diffusers has it"):
            assert close(latents(decoder), plain)
        assert all(weight.is_meta for weight in handle._methods[0].shared.network.parameters())


def test_another_network_set_later_acts(decoder: Any, sources: Sources) -> None:
    other = sources.pipe("KandinskyV22Pipeline")
    _doubled(other.unet)
    expected = latents(other)
    handle = accelerate_diffusers(decoder)
    first, decoder.unet = decoder.unet, other.unet
    assert torch.equal(latents(decoder), expected)
    handle.undo()
    handle.undo()
    assert "forward" not in first.__dict__


class Mine(diffusers.UNet2DConditionModel):  # type: ignore[misc]
    """A U-Net of a user's own."""


def _own_class(pipe: Any) -> None:
    pipe.unet.__class__ = Mine


def _compiled(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def _own_forward(pipe: Any) -> None:
    pipe.unet.forward = lambda *given, **keywords: None


def _twice(pipe: Any) -> None:
    accelerate_diffusers(pipe)


def _other_sizes(pipe: Any) -> None:
    pipe.unet.register_to_config(act_fn="gelu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_own_class, "unet is a .*Mine"),
        (_compiled, "unet is a .*OptimizedModule"),
        (_own_forward, r"unet\.forward was replaced"),
        (_twice, "unet is accelerated already"),
        (_other_sizes, "unet cannot be accelerated: .*act_fn"),
    ],
)
def test_refusals_name_the_part_and_change_nothing(decoder: Any, change: Callable[[Any], None], said: str) -> None:
    change(decoder)
    before = dict(decoder.movq.__dict__)
    with pytest.raises(RequestError, match=said):
        accelerate_diffusers(decoder)
    assert decoder.movq.__dict__.keys() == before.keys()


def test_other_pipelines_are_refused_by_name(tiny: Checkpoints) -> None:
    other = diffusers.DDPMPipeline(
        diffusers.UNet2DModel(
            block_out_channels=(32, 64), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
        ),
        diffusers.DDPMScheduler(),
    )
    for pipe, name in (
        (other, "DDPMPipeline"),
        (OurPipeline.from_pretrained(folder(tiny, "text2img")), "KandinskyV22"),
    ):
        with pytest.raises(RequestError, match=f"{name}.* is no Kandinsky pipeline of diffusers"):
            accelerate_diffusers(pipe)


def test_a_method_that_was_replaced_later_is_not_undone_silently(decoder: Any) -> None:
    handle = accelerate_diffusers(decoder)
    ours = decoder.unet.forward
    decoder.unet.forward = lambda *given, **keywords: None
    with pytest.raises(RequestError, match=r"unet\.forward was replaced after"):
        handle.undo()
    assert "encode" in decoder.movq.__dict__
    decoder.unet.forward = ours
    handle.undo()
    assert "encode" not in decoder.movq.__dict__


def test_no_warning_where_nothing_is_lost(decoder: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with accelerate_diffusers(decoder):
            latents(decoder)
