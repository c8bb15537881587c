"""Every form in which diffusers writes its folders, for each kind of model: pickles, shards, variants."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import kandinsky
from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import CheckpointError
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_text_image import TextImageCheckpoints

FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "pickles": ({"safe_serialization": False}, "unet/diffusion_pytorch_model.bin"),
    "shards": ({"max_shard_size": "400KB"}, "unet/diffusion_pytorch_model.safetensors.index.json"),
    "pickles in shards": (
        {"safe_serialization": False, "max_shard_size": "400KB"},
        "unet/diffusion_pytorch_model.bin.index.json",
    ),
    "variant": ({"variant": "fp16"}, "unet/diffusion_pytorch_model.fp16.safetensors"),
    "variant in shards": (
        {"variant": "fp16", "max_shard_size": "400KB"},
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    ),
}
KINDS = {"2.1": ["decoder", "inpainting"], "2.2": ["text2img", "inpaint", "control"]}


@pytest.mark.parametrize(
    ("generation", "form"), mostly_slow(product(KINDS, FORMS), ("2.1", "pickles in shards"), ("2.2", "variant"))
)
def test_every_form_of_every_kind(
    generation: str, form: str, tiny: Checkpoints, text_image: TextImageCheckpoints, tmp_path: Path
) -> None:
    options, written = FORMS[form]
    oracles = {"prior": (tiny if generation == "2.2" else text_image).prior}
    for kind in KINDS[generation]:
        oracles[kind] = tiny.decoders[kind] if generation == "2.2" else getattr(text_image, kind)
    for name, oracle in oracles.items():
        oracle.save_pretrained(tmp_path / name, **options)
    variant = options.get("variant")
    for kind in KINDS[generation]:
        assert (tmp_path / kind / written).is_file()
        place = {"device": "cpu", "dtype": "float32"}
        ours = kandinsky.load(tmp_path / kind, prior=tmp_path / "prior", variant=variant, **place)
        plain = text_image.ours(kind) if generation == "2.1" else tiny.ours(kind)
        for name, module in plain.model.modules.items():
            state, wanted = ours.model.modules[name].state_dict(), module.state_dict()
            assert state.keys() == wanted.keys()
            assert all(torch.equal(state[key], tensor) for key, tensor in wanted.items())
        facade = compat.DiffusionPipeline.from_pretrained(tmp_path / kind, variant=variant)
        native = facade.unet.native.state_dict()
        assert all(torch.equal(native[k], t) for k, t in ours.model.modules["unet"].state_dict().items())
        with pytest.raises(CheckpointError, match="variant 'bf16'"):
            kandinsky.load(tmp_path / kind, prior=tmp_path / "prior", variant="bf16", **place)
