"""Every public name and parameter of diffusers' Kandinsky classes acts here or is refused by words: no third state."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from kandinsky.compat import diffusers as compat
from kandinsky.compat.diffusers.files import HARMLESS, IGNORED, LOADING, REFUSED
from kandinsky.compat.diffusers.pipelines import PIPELINES
from kandinsky.compat.diffusers.surface import ARGUMENTS, NOT_OFFERED, NotOfferedError, page
from kandinsky.compat.diffusers.weights import NOT_SAVED
from kandinsky.core.errors import RequestError
from tests.compat.comparing import folder
from tests.tiny import Checkpoints

NETWORKS = {"UNet2DConditionModel": "unet", "VQModel": "movq", "PriorTransformer": "prior_prior", "Kandinsky3UNet": ""}
SCHEDULERS = [name for name in compat.__all__ if name.endswith("Scheduler")]
AUTOMATIC = [f"AutoPipelineFor{task}" for task in ("Text2Image", "Image2Image", "Inpainting")]
KINDS = (
    [(name, "pipelines") for name in [*PIPELINES, "DiffusionPipeline"]]
    + [(name, "automatic pipelines") for name in AUTOMATIC]
    + [(name, "networks") for name in NETWORKS]
    + [(name, "schedulers") for name in SCHEDULERS]
)
BY_KEYWORD = {*LOADING, *HARMLESS, *IGNORED, *REFUSED, *NOT_SAVED, "attention_op", "hotswap"}
"""Parameters that act, or are refused, by way of a function's further keywords."""


def made(name: str, kind: str) -> Any:
    """An object of the class, without weights where it has some."""
    if kind == "schedulers":
        return getattr(compat, name)()
    if kind == "automatic pipelines":  # which are never made
        return getattr(compat, name)
    if kind == "pipelines":
        found = getattr(compat, name)
        return found(**dict.fromkeys(found.COMPONENTS))
    if name == "Kandinsky3UNet":
        sizes = {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 2, "cross_attention_dim": 16}
        with torch.device("meta"):
            return compat.Kandinsky3UNet(**sizes, attention_head_dim=8, encoder_hid_dim=16, groups=8)
    return compat.AutoPipelineForText2Image.from_pretrained("emoji").components[NETWORKS[name]]


def public(kind: type[Any]) -> list[str]:
    return sorted(name for name in dir(kind) if not name.startswith("_") and not hasattr(nn.Module, name))


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_name(name: str, kind: str) -> None:
    ours, theirs, one = getattr(compat, name), getattr(diffusers, name), made(name, kind)
    for member in public(theirs):
        if member in NOT_OFFERED[kind] and not hasattr(ours, member):
            with pytest.raises(NotOfferedError, match="is not offered"):
                getattr(one, member)
            assert not hasattr(one, member)
            continue
        assert hasattr(ours, member) or member in vars(one), f"{name}.{member} is neither offered nor refused"


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_parameter(name: str, kind: str) -> None:
    ours, theirs = getattr(compat, name), getattr(diffusers, name)
    members = [*public(theirs), *(["forward"] if kind == "networks" else ["__call__"] if name in PIPELINES else [])]
    for member in members:
        if not (callable(getattr(theirs, member)) and callable(getattr(ours, member, None))):
            continue
        wanted = inspect.signature(getattr(theirs, member)).parameters.values()
        found = inspect.signature(getattr(ours, member)).parameters
        further = any(one.kind is one.VAR_KEYWORD for one in found.values())
        refused = ARGUMENTS.get(member, {})
        for one in wanted:
            if one.name in found or one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
                continue
            known = further and (one.name in BY_KEYWORD or one.name in refused)
            assert known, f"{name}.{member}({one.name}=) is neither offered nor refused"


@pytest.mark.parametrize("name", AUTOMATIC)
def test_automatic_pipelines_take_what_theirs_do(name: str, tiny: Checkpoints) -> None:
    """Options of loading go to the pipeline that is chosen, whose own are walked above."""
    kind, place = getattr(compat, name), folder(tiny, "inpaint" if "Inpainting" in name else "text2img")
    loaded = kind.from_pretrained(place, prior=tiny.root / "prior", dtype=torch.bfloat16)
    assert loaded.dtype is torch.bfloat16
    assert kind.from_pipe(loaded, dtype=torch.float32).dtype is torch.float32
    for call in (
        lambda: kind.from_pretrained(place, prior=tiny.root / "prior", custom_pipeline="x"),
        lambda: kind.from_pretrained(place, prior=tiny.root / "prior", schedular=1),
        lambda: kind.from_pipe(loaded, schedular=1),
    ):
        with pytest.raises(RequestError):
            call()


def test_refused_arguments_say_so(tiny: Checkpoints) -> None:
    place = folder(tiny, "text2img")
    unet = compat.UNet2DConditionModel.from_pretrained(place, subfolder="unet")
    movq = compat.VQModel.from_pretrained(place, subfolder="movq")
    text = compat.CLIPTextModelWithProjection.from_pretrained(folder(tiny, "prior"), subfolder="text_encoder")
    x = torch.zeros(1, 4, 8, 8)
    scheduler = compat.EulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    calls: dict[str, Any] = {
        "decode": lambda **more: movq.decode(x, **more),
        "enable_gradient_checkpointing": unet.enable_gradient_checkpointing,
        "forward": lambda **more: text(torch.zeros(1, 5, dtype=torch.long), **more),
        "num_parameters": unet.num_parameters,
        "set_timesteps": scheduler.set_timesteps,
    }
    for method, call in calls.items():
        for name in ARGUMENTS[method]:
            with pytest.raises(RequestError, match=f"{name} of {method} cannot act"):
                call(**{name: 1})
    with pytest.raises(RequestError, match="s_churn"):
        scheduler.step(x, scheduler.timesteps[0], x, s_churn=0.5)
    with pytest.raises(RequestError, match="class_labels of forward cannot act"):
        unet(x, 5, None, class_labels=x, added_cond_kwargs={"image_embeds": x.new_zeros(1, 20)})
    with pytest.raises(TypeError, match="nonsense"):
        unet(x, 5, None, nonsense=1, added_cond_kwargs={"image_embeds": x.new_zeros(1, 20)})
    for name in REFUSED:
        for load in (compat.KandinskyV22Pipeline.from_pretrained, compat.VQModel.from_pretrained):
            with pytest.raises(RequestError, match=f"cannot act on {name}"):
                load(place, **{name: True})


def test_the_page_is_made_of_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")
    assert page() in text, "write `python -m kandinsky.compat.diffusers.surface` into docs/compat.md"
