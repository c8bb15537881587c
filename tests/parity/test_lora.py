"""Our low-rank adapters against peft and diffusers: the same files give the same numbers, both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Kandinsky3UNet, PriorTransformer, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from kandinsky.adapters.lora import Adapter, attach, merge
from kandinsky.checkpoints.lora import (
    DIFFUSERS_FILE,
    choose_places,
    from_tensors,
    modules_of,
    read_lora,
    to_tensors,
    write_lora,
)
from kandinsky.checkpoints.maps.clip import CLIP_TEXT, clip_text_config
from kandinsky.checkpoints.maps.prior import PRIOR, prior_config
from kandinsky.checkpoints.maps.unet2 import UNET2, unet2_config
from kandinsky.checkpoints.maps.unet3 import unet3_config, unet3_map
from kandinsky.checkpoints.weights import write_tensor_file
from kandinsky.networks.clip import ClipText
from kandinsky.networks.prior import Prior, PriorCondition
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from kandinsky.networks.unet3 import UNet3, UNet3Condition
from tests.families import mostly_slow
from tests.parity.oracles import UNET_TINY, noise, redraw, relative
from tests.tiny_one_text import UNET as UNET3_TINY

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
EVERYWHERE = [*ATTENTION, "conv1", "conv_shortcut", "time_emb_proj", "image_embeds"]
TOLERANCE = 1e-5


def _redraw_adapter(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "lora_" in name:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


def _drawn(network: torch.nn.Module, targets: list[str], **options: Any) -> Adapter:
    adapter = Adapter.new(network, choose_places(network, targets), 3, 5.0, **options)
    return redraw(adapter, 8, 0.1)


class _UNets:
    """diffusers' tiny U-Net and ours, on the same weights and inputs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.oracle = redraw(UNet2DConditionModel(**UNET_TINY))
        config = unet2_config(self.oracle.config)
        self.ours = UNet2(config)
        self.ours.load_state_dict(UNET2[config.condition].to_native(self.oracle.state_dict()))
        self.ours.eval()
        self.x, self.embedding = noise(2, 4, 8, 8), noise(2, 20, seed=1)
        self.t = torch.tensor([981.0, 20.0])

    @torch.no_grad()
    def theirs(self) -> torch.Tensor:
        added = {"image_embeds": self.embedding}
        return self.oracle(self.x, self.t, encoder_hidden_states=None, added_cond_kwargs=added).sample

    @torch.no_grad()
    def mine(self) -> torch.Tensor:
        return self.ours(self.x, self.t, UNet2Condition(self.embedding))


@pytest.mark.parametrize(
    ("targets", "dora"),
    [
        pytest.param(["to_k", "to_out.0"], False, id="some-False", marks=pytest.mark.slow),
        # The other way round every layer has one.
        pytest.param(["to_k", "to_out.0"], True, id="some-True"),
        pytest.param(EVERYWHERE, False, id="all-False", marks=pytest.mark.slow),
        pytest.param(EVERYWHERE, True, id="all-True", marks=pytest.mark.slow),
    ],
)
def test_a_unet_adapter_of_diffusers(dora: bool, targets: list[str], tmp_path: Path) -> None:
    nets = _UNets()
    bare = nets.theirs()
    nets.oracle.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=dora))
    _redraw_adapter(nets.oracle)
    nets.oracle.save_lora_adapter(tmp_path)
    theirs = nets.theirs()
    found = read_lora(tmp_path)
    attach(nets.ours, from_tensors(nets.ours, found.tensors, found.settings), "style")
    assert relative(theirs, bare) > 1e-2
    assert relative(nets.mine(), theirs) < TOLERANCE
    merge(nets.ours)
    assert relative(nets.mine(), theirs) < TOLERANCE


@pytest.mark.parametrize("dora", mostly_slow([False, True], True))
def test_diffusers_reads_our_unet_adapter(dora: bool, tmp_path: Path) -> None:
    nets = _UNets()
    adapter = _drawn(nets.ours, EVERYWHERE, dora=dora)
    write_lora(tmp_path / DIFFUSERS_FILE, {"unet": (nets.ours, adapter)}, {"method": "lora"})
    nets.oracle.load_lora_adapter(tmp_path, prefix="unet", use_safetensors=True)
    attach(nets.ours, adapter, "style")
    assert relative(nets.mine(), nets.theirs()) < TOLERANCE


def test_a_scaled_adapter_is_that_of_diffusers(tmp_path: Path) -> None:
    nets = _UNets()
    adapter = _drawn(nets.ours, ATTENTION)
    write_lora(tmp_path / DIFFUSERS_FILE, {"unet": (nets.ours, adapter)})
    nets.oracle.load_lora_adapter(tmp_path, prefix="unet", adapter_name="style", use_safetensors=True)
    nets.oracle.set_adapters("style", 0.4)
    attach(nets.ours, adapter, "style", 0.4)
    assert relative(nets.mine(), nets.theirs()) < TOLERANCE


def test_older_names_are_read(tmp_path: Path) -> None:
    """The files of diffusers' first training scripts for these models, on its processors."""
    nets = _UNets()
    adapter = _drawn(nets.ours, ATTENTION)
    write_lora(tmp_path / "new.safetensors", {"unet": (nets.ours, adapter)})
    old = {}
    for name, tensor in load_file(tmp_path / "new.safetensors").items():
        module, _, role = name.removeprefix("unet.").partition(".lora_")
        parent, _, projection = module.removesuffix(".0" if "to_out" in module else "").rpartition(".")
        side = {"A": "down", "B": "up"}[role[0]]
        # Those scripts knew no alpha: it was the rank.
        scale = 5 / 3 if side == "up" else 1.0
        old[f"{parent}.processor.{projection}_lora.{side}.weight"] = tensor * scale
    save_file(old, tmp_path / "old.safetensors")
    found = read_lora(tmp_path / "old.safetensors")
    attach(nets.ours, from_tensors(nets.ours, found.tensors, found.settings), "old")
    again = _UNets()
    attach(again.ours, adapter, "new")
    assert relative(nets.mine(), again.mine()) < TOLERANCE


def test_a_prior_adapter_both_ways(tmp_path: Path) -> None:
    sizes = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 20}
    oracle = redraw(PriorTransformer(**sizes, num_embeddings=7), scale=0.2)
    ours = Prior(prior_config(dict(oracle.config))).eval()
    ours.load_state_dict(PRIOR.to_native(oracle.state_dict()))
    mask = torch.arange(7)[None] < torch.tensor([[7], [4]])
    text = PriorCondition(noise(2, 7, 20, seed=1), noise(2, 20, seed=2), mask)
    x = noise(2, 20, seed=3)

    oracle.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "to_v", "net.2", "proj_in"]), "a")
    _redraw_adapter(oracle)
    oracle.save_lora_adapter(tmp_path / "theirs", adapter_name="a")
    found = read_lora(tmp_path / "theirs")
    attach(ours, from_tensors(ours, found.tensors, found.settings), "a")
    second = _drawn(ours, ["to_k", "to_out.0"])
    write_lora(tmp_path / "ours" / DIFFUSERS_FILE, {"prior_prior": (ours, second)})
    oracle.load_lora_adapter(tmp_path / "ours", prefix="prior_prior", adapter_name="b", use_safetensors=True)
    oracle.set_adapters(["a", "b"], [1.0, 0.5])
    attach(ours, second, "b", 0.5)
    with torch.no_grad():
        theirs = oracle(x, 500, text.text_embedding, text.text_hidden, mask).predicted_image_embedding
        assert relative(ours(x, torch.full((2,), 500), text), theirs) < TOLERANCE
        assert relative(ours.prepare(text, [500]).step(x, 500), theirs) < TOLERANCE


def test_an_adapter_of_the_third_unet_that_diffusers_cannot_load(tmp_path: Path) -> None:
    """diffusers' U-Net takes no adapters itself, but peft wraps it."""
    torch.manual_seed(0)
    bare = redraw(Kandinsky3UNet(**UNET3_TINY), scale=0.15)
    ours = UNet3(unet3_config(dict(bare.config))).eval()
    ours.load_state_dict(unet3_map(ours.config).to_native(bare.state_dict()))
    x, t = noise(2, 4, 8, 8), torch.tensor([900, 3])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    states = noise(2, 5, 20, seed=1) * mask[:, :, None]
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv_in"]
    oracle = get_peft_model(bare, LoraConfig(r=2, lora_alpha=3, target_modules=targets))
    _redraw_adapter(oracle)
    oracle.eval().save_pretrained(tmp_path)
    found = read_lora(tmp_path)
    with torch.no_grad():
        theirs = oracle(x, t, encoder_hidden_states=states, encoder_attention_mask=mask).sample
        before = ours(x, t, UNet3Condition(states, mask))
        attach(ours, from_tensors(ours, found.tensors, found.settings), "a")
        assert relative(before, theirs) > 1e-2
        assert relative(ours(x, t, UNet3Condition(states, mask)), theirs) < TOLERANCE
    assert not any("feed_forward" in name for name in modules_of(ours)), "convolutions there, matrices here"


def test_a_text_encoder_adapter_through_folders_of_peft(tmp_path: Path) -> None:
    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=20,
        intermediate_size=32,
        projection_dim=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=9,
        eos_token_id=2,
        architectures=["CLIPTextModelWithProjection"],
    )
    bare = redraw(CLIPTextModelWithProjection(config))
    ours = ClipText(clip_text_config(config.to_dict())).eval()
    ours.load_state_dict(CLIP_TEXT.to_native(bare.state_dict()))
    ids = torch.tensor([[5, 8, 59, 59], [7, 3, 2, 59]])
    settings = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "fc1"], use_rslora=True)
    oracle = get_peft_model(bare, settings)
    _redraw_adapter(oracle)
    oracle.eval().save_pretrained(tmp_path / "theirs")
    found = read_lora(tmp_path / "theirs")
    attach(ours, from_tensors(ours, found.tensors, found.settings), "a")
    with torch.no_grad():
        assert relative(ours(ids).embedding, oracle(ids).text_embeds) < TOLERANCE
        again = redraw(CLIPTextModelWithProjection(config))
        fresh = ClipText(ours.config).eval()
        fresh.load_state_dict(CLIP_TEXT.to_native(again.state_dict()))
        adapter = _drawn(fresh, ["k_proj", "out_proj", "text_projection"])
        tensors, peft = to_tensors(fresh, adapter)
        named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
        write_tensor_file(tmp_path / "ours" / "adapter_model.safetensors", named, {})
        config = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "bias": "none", **peft}
        (tmp_path / "ours" / "adapter_config.json").write_text(json.dumps(config))
        attach(fresh, adapter, "b")
        read = PeftModel.from_pretrained(again, str(tmp_path / "ours")).eval()
        assert relative(fresh(ids).embedding, read(ids).text_embeds) < TOLERANCE
