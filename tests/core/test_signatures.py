"""What `help` shows of a request is what is declared."""

import inspect
import pydoc
from typing import get_args

import pytest

import kandinsky
from kandinsky.core.errors import RequestError
from kandinsky.core.other_names import ELSEWHERE as OTHERS
from kandinsky.core.other_names import NOT_TAKEN
from kandinsky.core.requests import Fields, Request, SamplerName, about
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import ELSEWHERE, SAMPLERS, make_sampler, sampler_called


@pytest.mark.parametrize("method", [kandinsky.Pipeline.generate, kandinsky.Pipeline.stream])
def test_help_names_every_field_with_its_limits(method: object) -> None:
    shown = pydoc.render_doc(method, renderer=pydoc.plaintext)
    parameters = inspect.signature(method).parameters  # type: ignore[arg-type]
    assert list(parameters)[-len(Fields.__annotations__) :] == list(Fields.__annotations__)
    for name, said in about().items():
        assert f"    {name} (" in shown
        assert said.help in shown
        if name != "prompt":
            assert parameters[name].default == Request.model_fields[name].default
    for words in (
        "steps (whole number, 1 to 1000, default the model's)",
        "strength (number, above 0 to 1, default the model's)",
        "seed (whole number, or a list with one per prompt, 0 to 2**64 - 1, default random)",
        "count (whole number, 1 to 10000, default 1)",
        ", ".join(get_args(SamplerName)),
        "RequestError",
    ):
        assert words in shown


def test_help_of_load_names_every_argument() -> None:
    shown = inspect.getdoc(kandinsky.load) or ""
    for name in inspect.signature(kandinsky.load).parameters:
        assert f"    {name} (" in shown, name


def test_the_samplers_that_editors_offer_are_those_there_are() -> None:
    assert sorted(get_args(SamplerName)) == sorted(SAMPLERS)


OTHER_NAMES = {
    "num_inference_steps": "steps",
    "cfg_scale": "guidance_scale",
    "generator": "seed",
    "num_images_per_prompt": "count",
    "init_image": "image",
    "mask_image": "mask",
    "denoising_strength": "strength",
    "scheduler": "sampler",
    "prior_num_inference_steps": "prior_steps",
    "latents": "seed",
    "prompt_embeds": "Embedding",
    "stepz": "Did you mean 'steps'",
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_tools_names_are_answered_with_ours(name: str) -> None:
    with pytest.raises(RequestError, match=OTHER_NAMES[name]):
        Request("a fox", **{name: 1})  # type: ignore[arg-type]


def test_no_name_of_another_tool_is_a_field() -> None:
    assert not {*OTHERS, *NOT_TAKEN} & set(Request.model_fields)
    assert set(OTHERS.values()) <= set(Request.model_fields)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M Karras", "dpmpp_2m"),
        ("dpm++2m", "dpmpp_2m"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde"),
        ("Euler a", "euler_ancestral"),
        ("k_euler_a", "euler_ancestral"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("dpmpp_2m", "dpmpp_2m"),
        ("ddim_sampler", "ddim"),
        ("p_sampler", "ddpm"),
        ("PNDM", "plms"),
        ("UniPC", "unipc"),
    ],
)
def test_samplers_as_other_tools_call_them(name: str, ours: str) -> None:
    assert sampler_called(name) == ours
    if name not in SAMPLERS:
        with pytest.raises(RequestError, match=f"It is called '{ours}' here"):
            make_sampler(name, Process.squared_cosine())


def test_samplers_of_other_tools_lead_to_ours() -> None:
    assert set(ELSEWHERE.values()) <= set(SAMPLERS)
    assert sampler_called("Restart") is None
