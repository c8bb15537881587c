"""Weights by diffusers' names, adapters by peft's: read, put in place, fused and saved, against diffusers itself."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import ConfigError, RequestError
from tests.compat.comparing import close, folder, seeded
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def pair(tiny: Checkpoints, name: str) -> tuple[Any, Any]:
    """A network here and in diffusers, of the same weights and not shared with other tests."""
    place, part = {"unet": ("text2img", "unet"), "prior": ("prior", "prior"), "movq": ("text2img", "movq")}[name]
    kind = {"unet": "UNet2DConditionModel", "prior": "PriorTransformer", "movq": "VQModel"}[name]
    where = folder(tiny, place)
    return getattr(compat, kind).from_pretrained(where, subfolder=part), copy.deepcopy(_theirs(kind, where, part))


@cache
def _theirs(kind: str, where: Path, part: str) -> Any:
    return getattr(diffusers, kind).from_pretrained(where, subfolder=part)


def say(unet: Any) -> torch.Tensor:
    x, image = torch.randn(2, 4, 8, 8, generator=seeded(1)), torch.randn(2, 20, generator=seeded(2))
    with torch.no_grad():
        found: torch.Tensor = unet(x, 500, None, added_cond_kwargs={"image_embeds": image}).sample
    return found


def test_names_are_diffusers(tiny: Checkpoints, text_image: TextImageCheckpoints, one_text: OneTextCheckpoints) -> None:
    folder(tiny, "prior")
    text_image.ours()
    one_text.ours()
    pipes = [
        (compat.KandinskyV22PriorPipeline.from_pretrained(tiny.root / "prior"), tiny.prior),
        (compat.KandinskyV22Pipeline.from_pretrained(tiny.root / "text2img"), tiny.decoders["text2img"]),
        (compat.KandinskyV22ControlnetPipeline.from_pretrained(tiny.root / "control"), tiny.decoders["control"]),
        tuple(side.KandinskyPipeline.from_pretrained(text_image.root / "decoder") for side in (compat, diffusers)),
        (compat.Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder"), one_text.oracle),
    ]
    for mine, theirs in pipes:
        for name, part in theirs.components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            ours, wanted = getattr(mine, name), part.state_dict()
            found = ours.state_dict()
            assert set(found) == set(wanted), name
            assert all(torch.equal(found[key], value) for key, value in wanted.items())
            changed = {key: value * 0.5 for key, value in wanted.items()}
            assert ours.load_state_dict(changed).missing_keys == []
            assert all(torch.equal(value, changed[key]) for key, value in ours.state_dict().items())


def test_a_part_of_the_weights(tiny: Checkpoints) -> None:
    mine, theirs = pair(tiny, "unet")
    part = {name: value + 1 for name, value in theirs.state_dict().items() if "to_k" in name or "conv_in" in name}
    part["nobody.weight"] = torch.zeros(1)
    found, wanted = (side.load_state_dict(part, strict=False) for side in (mine, theirs))
    assert set(found.missing_keys) == set(wanted.missing_keys)
    assert found.unexpected_keys == wanted.unexpected_keys == ["nobody.weight"]
    assert close(say(mine), say(theirs))
    for words, wrong in (
        (r"Missing key.*conv_out", part),
        ("size mismatch for conv_in.bias", {"conv_in.bias": torch.zeros(7)}),
    ):
        for side in (mine, theirs):
            with pytest.raises(RuntimeError, match=words):
                side.load_state_dict(wrong)


def test_inside_another_module(tiny: Checkpoints) -> None:
    (mine, theirs), (other, _) = pair(tiny, "unet"), pair(tiny, "movq")
    whole, there = torch.nn.ModuleDict({"a": mine, "b": other}), torch.nn.ModuleDict({"a": theirs})
    state = {name: value * 2 for name, value in there.state_dict().items()}
    assert set(state) < set(whole.state_dict())
    assert all(name.startswith("b.") for name in whole.load_state_dict(state, strict=False).missing_keys)
    there.load_state_dict(state)
    assert close(say(mine), say(theirs))
    compiled = torch.compile(mine, backend="eager")
    assert {f"_orig_mod.{name}" for name in theirs.state_dict()} == set(compiled.state_dict())


def test_a_network_of_a_configuration(tiny: Checkpoints, tmp_path: Path) -> None:
    mine, theirs = pair(tiny, "unet")
    for made in (compat.UNet2DConditionModel(**theirs.config), compat.UNet2DConditionModel.from_config(mine.config)):
        made.load_state_dict(theirs.state_dict())
        assert close(say(made), say(theirs))
    prior, oracle = pair(tiny, "prior")
    assert torch.equal(prior.clip_mean, oracle.clip_mean)
    assert torch.equal(prior.clip_std, oracle.clip_std)
    from diffusers.training_utils import EMAModel

    average = EMAModel(prior.parameters(), model_cls=compat.PriorTransformer, model_config=prior.config)
    average.step(prior.parameters())
    average.save_pretrained(tmp_path)
    again = EMAModel.from_pretrained(tmp_path, compat.PriorTransformer)
    assert again.decay == average.decay
    assert all(torch.equal(a, b) for a, b in zip(again.shadow_params, average.shadow_params, strict=True))
    assert diffusers.PriorTransformer.from_pretrained(tmp_path).config.num_layers == 3


def test_gradient_checkpointing_changes_no_gradient(tiny: Checkpoints) -> None:
    grads = []
    for wanted in (False, True):
        mine, _ = pair(tiny, "unet")
        if wanted:
            mine.enable_gradient_checkpointing()
        x = torch.randn(1, 4, 8, 8, generator=seeded())
        mine.train()(x, 5, None, added_cond_kwargs={"image_embeds": x.new_ones(1, 20)}).sample.sum().backward()
        grads.append({name: one.grad for name, one in mine.named_parameters() if one.grad is not None})
    assert grads[0]
    assert all(torch.allclose(value, grads[1][name]) for name, value in grads[0].items())


@pytest.mark.parametrize("safe", mostly_slow([True, False], False))
def test_shards_and_pickles(safe: bool, tiny: Checkpoints, tmp_path: Path) -> None:
    mine, theirs = pair(tiny, "unet")
    mine.save_pretrained(tmp_path / "mine", safe_serialization=safe, max_shard_size="200KB")
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=safe, max_shard_size="200KB")
    for side in ("mine", "theirs"):
        files = [path for path in (tmp_path / side).iterdir() if path.suffix == (".safetensors" if safe else ".bin")]
        assert len(files) > 3
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "mine", use_safetensors=safe)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in theirs.state_dict().items())
    assert close(say(compat.UNet2DConditionModel.from_pretrained(tmp_path / "theirs")), say(theirs))
    pipe = compat.KandinskyV22Pipeline.from_pretrained(folder(tiny, "text2img"), unet=mine)
    pipe.save_pretrained(tmp_path / "pipe", safe_serialization=safe, max_shard_size=200_000)
    loaded = diffusers.KandinskyV22Pipeline.from_pretrained(tmp_path / "pipe", use_safetensors=safe)
    assert close(say(loaded.unet), say(theirs))
    with pytest.raises(RequestError, match="push_to_hub"):
        pipe.save_pretrained(tmp_path / "pipe", push_to_hub=True)
    with pytest.raises(TypeError, match="safe_serialisation"):
        mine.save_pretrained(tmp_path, safe_serialisation=True)


SETTINGS: list[dict[str, Any]] = [
    {"r": 2, "lora_alpha": 2, "target_modules": TARGETS},
    {"r": 3, "lora_alpha": 5, "target_modules": r"up_blocks.*\.(to_q|conv1)", "use_rslora": True},
    {"r": 2, "lora_alpha": 4, "target_modules": ["to_q", "conv_in"], "use_dora": True},
    {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["to_v", "to_q"],
        "rank_pattern": {"mid_block.*": 4},
        "exclude_modules": ["up_blocks.0.attentions.0.to_v"],
    },
]


def adapted(tiny: Checkpoints, settings: dict[str, Any], name: str = "default") -> tuple[Any, Any]:
    """Both networks with the same adapter, whose numbers are drawn."""
    torch.manual_seed(0)
    mine, theirs = pair(tiny, "unet")
    for side in (mine, theirs):
        side.add_adapter(peft.LoraConfig(**settings), name)
    learned = {key: value for key, value in theirs.state_dict().items() if ".lora_" in key}
    draws = seeded(9)
    learned = {key: value + 0.3 * torch.randn(value.shape, generator=draws) for key, value in learned.items()}
    for side in (mine, theirs):
        assert side.load_state_dict(learned, strict=False).unexpected_keys == []
    return mine, theirs


@pytest.mark.parametrize("settings", mostly_slow(SETTINGS, SETTINGS[1], SETTINGS[2]))
def test_adapters_of_a_configuration(settings: dict[str, Any], tiny: Checkpoints, tmp_path: Path) -> None:
    plain = say(pair(tiny, "unet")[0])
    mine, theirs = adapted(tiny, settings)
    assert set(mine.state_dict()) == set(theirs.state_dict())
    assert close(say(mine), say(theirs))
    assert not close(say(mine), plain, 1e-2)
    trained, wanted = ({tuple(p.shape) for p in side.parameters() if p.requires_grad} for side in (mine, theirs))
    if not settings.get("use_dora"):
        assert trained == wanted
    mine.save_lora_adapter(tmp_path / "mine")
    theirs.save_lora_adapter(tmp_path / "theirs")
    for name in ("mine", "theirs"):
        fresh, oracle = pair(tiny, "unet")
        for side in (fresh, oracle):
            side.load_lora_adapter(tmp_path / name, prefix=None, weight_name=FILE)
        assert close(say(fresh), say(theirs))
        assert close(say(oracle), say(theirs))


def test_adapters_learn(tiny: Checkpoints) -> None:
    """A loop as in training scripts: the parameters that want gradients are the adapter's."""
    losses = []
    for side in adapted(tiny, SETTINGS[0]):
        optimiser = torch.optim.SGD([p for p in side.train().parameters() if p.requires_grad], lr=1e-2)
        x, image = torch.randn(2, 4, 8, 8, generator=seeded(1)), torch.randn(2, 20, generator=seeded(2))
        for _ in range(3):
            loss = side(x, 500, None, added_cond_kwargs={"image_embeds": image}).sample[:, :4].square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_which_adapters_act(tiny: Checkpoints, tmp_path: Path) -> None:
    mine, theirs = adapted(tiny, SETTINGS[0], "one")
    other = adapted(tiny, SETTINGS[1])[1]
    other.save_lora_adapter(tmp_path)

    def same(act: Any) -> torch.Tensor:
        for side in (mine, theirs):
            act(side)
        assert close(say(mine), say(theirs))
        return say(mine)

    one = say(mine)
    two = same(lambda side: side.load_lora_adapter(tmp_path, prefix=None, weight_name=FILE, adapter_name="two"))
    assert mine.active_adapters() == theirs.active_adapters() == ["two"]
    both = same(lambda side: side.set_adapters(["one", "two"], [0.5, 2.0]))
    assert not close(both, two, 1e-3)
    same(lambda side: side.disable_lora())
    same(lambda side: side.enable_lora())
    assert close(say(mine), both)
    same(lambda side: side.set_adapter("two"))
    same(lambda side: side.delete_adapters("two"))
    same(lambda side: side.set_adapters("one", 1.0))
    assert close(say(mine), one)
    for side in (mine, theirs):
        with pytest.raises(ValueError, match="three"):
            side.set_adapter("three")
    with pytest.raises(RequestError, match="loaded already"):
        mine.add_adapter(peft.LoraConfig(**SETTINGS[0]), "one")
    with pytest.raises(ConfigError, match="No layer is called 'nowhere'"):
        mine.add_adapter(peft.LoraConfig(target_modules=["nowhere"]), "new")
    with pytest.raises(RequestError, match="bias = 'all'"):
        mine.add_adapter(peft.LoraConfig(target_modules=["to_q"], bias="all"), "new")


def test_what_is_fused_stays(tiny: Checkpoints, tmp_path: Path) -> None:
    plain, wanted = say(pair(tiny, "unet")[0]), {}
    for scale in (1.0, 0.25):
        mine, theirs = adapted(tiny, SETTINGS[0])
        for side in (mine, theirs):
            side.fuse_lora(lora_scale=scale)
        assert close(say(mine), say(theirs))
        wanted[scale] = say(mine)
    mine.unfuse_lora()
    full = say(mine)
    assert close(full, wanted[1.0])
    mine.fuse_lora(0.25, safe_fusing=True)
    for side in (mine, theirs):
        side.unload_lora()
    assert close(say(mine), say(theirs))
    assert close(say(mine), wanted[0.25])
    assert not close(say(mine), plain, 1e-3)
    mine.save_pretrained(tmp_path)
    assert close(say(diffusers.UNet2DConditionModel.from_pretrained(tmp_path)), wanted[0.25])


def test_fusing_in_a_pipeline(tiny: Checkpoints, tmp_path: Path) -> None:
    """Of several adapters those named are fused, where they are asked to be."""
    learned = []
    for index, settings in enumerate(SETTINGS[:2]):
        source = adapted(tiny, settings)[1]
        source.save_lora_adapter(tmp_path / str(index))
        learned.append({f"unet.{key}": value for key, value in peft.get_peft_model_state_dict(source).items()})
    pipe = compat.KandinskyV22Pipeline.from_pretrained(folder(tiny, "text2img"))
    pipe.load_lora_weights(learned[0], adapter_name="a")
    oracle = pair(tiny, "unet")[1]
    for index, name in enumerate("ab"):
        oracle.load_lora_adapter(tmp_path / str(index), prefix=None, weight_name=FILE, adapter_name=name)
    pipe.load_lora_weights(tmp_path / "1", adapter_name="b")
    assert pipe.get_active_adapters() == oracle.active_adapters() == ["b"]
    assert pipe.get_list_adapters() == {"unet": ["a", "b"]}
    for side in (pipe, oracle):
        side.set_adapters(["a", "b"], [1.0, 0.5])
    assert close(say(pipe.unet), say(oracle))
    pipe.fuse_lora(components=["unet"], adapter_names=["a"], lora_scale=0.5)
    assert (pipe.fused_loras, pipe.num_fused_loras) == ({"a"}, 1)
    oracle.set_adapters(["a", "b"], [0.5, 0.5])
    assert close(say(pipe.unet), say(oracle))
    pipe.unload_lora_weights()
    oracle.set_adapters(["a", "b"], [0.5, 0.0])
    assert close(say(pipe.unet), say(oracle))
    assert pipe.num_fused_loras == 0
    for words, act in (
        ("'movq' takes no adapters", lambda: pipe.fuse_lora(components=["movq"])),
        ("No adapter 'c' is loaded", lambda: pipe.fuse_lora(adapter_names=["c"])),
        ("hotswap", lambda: pipe.load_lora_weights(learned[0], hotswap=True)),
    ):
        with pytest.raises(RequestError, match=words):
            act()
