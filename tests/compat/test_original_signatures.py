"""Every parameter of the original packages' functions acts, or a warning or an error names it."""

import inspect
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import kandinsky
from kandinsky.compat import kandinsky2, kandinsky3
from kandinsky.compat.kandinsky2.facade import Facade
from kandinsky.compat.kandinsky2.v2_2 import TASKS
from kandinsky.core.errors import RequestError
from tests.compat.comparing import draw_image
from tests.reference.folders import write_first, write_second

IMAGE, OTHER = draw_image(64, 64), draw_image(64, 64, seed=1)
MASK = np.zeros((64, 64), np.float32)
HALF = np.repeat([[0.0, 1.0]], 64, axis=0).repeat(32, axis=1)
SIZE = {"h": (64, 128), "w": (64, 128)}
FIRST: dict[str, tuple[Any, Any]] = {
    "prompt": ("p1", "p2"),
    "num_steps": (3, 4),
    "guidance_scale": (7, 5),
    "progress": (True, False),
    "dynamic_threshold_v": (99.5, 90.0),
    "denoised_type": ("dynamic_threshold", "none"),
    "sampler": ("ddim_sampler", "p_sampler"),
    "ddim_eta": (0.05, 0.5),
}
"""By parameter: a value, and another."""
SECOND: dict[str, tuple[Any, Any]] = {
    "prompt": ("p1", "p2"),
    "num_steps": (3, 4),
    "batch_size": (1, 2),
    "guidance_scale": (7, 5),
    **SIZE,
    "sampler": ("ddim_sampler", "plms_sampler"),
    "prior_cf_scale": (4, 3),
    "prior_steps": ("2", "3"),
}
NEGATIVES = {"negative_prior_prompt": ("", "p3"), "negative_decoder_prompt": ("", "p4")}
THIRD: dict[str, tuple[Any, Any]] = {
    "prompt": ("p1", "p2"),
    "batch_size": (1, 2),
    "decoder_steps": (5, 6),
    "prior_steps": (2, 3),
    "decoder_guidance_scale": (4, 3),
    "prior_guidance_scale": (4, 3),
    **SIZE,
    **NEGATIVES,
}
EDITED = {"pil_img": (IMAGE, OTHER), "strength": (0.7, 0.5)}
PAINTED = {"pil_img": (IMAGE, OTHER), "img_mask": (MASK, HALF)}
MIXED = {"images_texts": (["p1", IMAGE], ["p2", IMAGE]), "weights": ([0.5, 0.5], [0.2, 0.8])}
TEXT: dict[str, tuple[Any, Any]] = {
    "text": ("p1", "p2"),
    "negative_text": (None, "p3"),
    "images_num": (1, 2),
    "bs": (1, 2),
    "width": (1024, 64),
    "height": (1024, 64),
    "guidance_scale": (3.0, 4.0),
    "steps": (50, 40),
    "eta": (1.0, 0.5),
}


def without(values: dict[str, tuple[Any, Any]], *names: str) -> dict[str, tuple[Any, Any]]:
    return {name: pair for name, pair in values.items() if name not in names}


METHODS: dict[tuple[str, str], dict[str, tuple[Any, Any]]] = {
    ("Kandinsky2", "generate_text2img"): {**FIRST, "batch_size": (1, 2), **SIZE},
    ("Kandinsky2", "generate_img2img"): {**FIRST, **EDITED},
    ("Kandinsky2", "generate_inpainting"): {**FIRST, **PAINTED},
    ("Kandinsky2_1", "generate_text2img"): {**SECOND, **NEGATIVES},
    ("Kandinsky2_1", "generate_img2img"): {**SECOND, **EDITED},
    ("Kandinsky2_1", "generate_inpainting"): {**SECOND, **PAINTED, **NEGATIVES},
    ("Kandinsky2_1", "mix_images"): {**without(SECOND, "prompt"), **MIXED, **NEGATIVES},
    ("Kandinsky2_1", "generate_clip_emb"): {
        **{name: SECOND[name] for name in ("prompt", "batch_size", "prior_cf_scale", "prior_steps")},
        "negative_prior_prompt": ("", "p3"),
    },
    ("Kandinsky2_2", "generate_text2img"): THIRD,
    ("Kandinsky2_2", "generate_img2img"): {**THIRD, "image": (IMAGE, OTHER), "strength": (0.4, 0.5)},
    ("Kandinsky2_2", "generate_inpainting"): {**THIRD, **PAINTED},
    ("Kandinsky2_2", "mix_images"): {**without(THIRD, "prompt"), **MIXED},
    ("Kandinsky3T2IPipeline", "__call__"): TEXT,
    ("Kandinsky3T2IFlashPipeline", "__call__"): TEXT,
    ("Kandinsky3InpaintingPipeline", "__call__"): {
        **without(TEXT, "width", "height", "guidance_scale"),
        "guidance_weight_text": (4, 3),
        "image": (IMAGE, OTHER),
        "mask": (HALF, 1 - HALF),
    },
}


def plain(value: Any) -> Any:
    """Anything as what can be compared."""
    match value:
        case Image.Image():
            return value.size, value.tobytes()
        case np.ndarray() | Tensor():
            return tuple(value.shape), np.asarray(value).tobytes()
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
        case kandinsky.Embedding() | kandinsky.Picture():
            return plain(list(vars(value).values()))
    return repr(value)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("originals")
    write_first(root / "2_0")
    write_second(root / "2_1")
    made = {
        version: kandinsky2.get_kandinsky2("cpu", cache_dir=root, model_version=version) for version in ("2.0", "2.1")
    }
    made["2.0"].image_size = 64
    return {"Kandinsky2": made["2.0"], "Kandinsky2_1": made["2.1"]}


class Recorder:
    """Stands for a stage of 2.2: keeps what it is called with, and returns it as its embeddings."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def __call__(self, *given: Any, **keywords: Any) -> Any:
        self.seen.append([given, keywords])
        told = plain([given, keywords])
        return SimpleNamespace(image_embeds=told, images=[])

    def interpolate(self, *given: Any, **keywords: Any) -> Any:
        return self(*given, **keywords)

    def get_zero_embed(self, count: int) -> Any:
        return ["nothing", count]

    def from_pipe(self, other: Any) -> Any:
        return self


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the methods hand to the library: nothing is drawn."""
    told: list[Any] = []

    def first_two(
        self: Any, model: Any, prompt: Any, fields: Any, rng: Any, progress: bool = True
    ) -> list[Image.Image]:
        told.append([prompt, fields, model.schedules, rng.total, rng.plain, progress])
        return [Image.new("RGB", (fields["width"], fields["height"]))]

    def third(self: Any, fields: Any, count: int, size: int, eta: float) -> list[Image.Image]:
        told.append([fields, count, size, eta])
        return []

    monkeypatch.setattr(Facade, "_run", first_two)
    monkeypatch.setattr(Facade, "_check_kind", lambda *given: None)
    monkeypatch.setattr(kandinsky3.pipelines.Facade, "_images", third)
    monkeypatch.setattr(kandinsky3.pipelines, "check_kind", lambda *given, **keywords: None)
    for task in TASKS:
        monkeypatch.setitem(TASKS, task, Recorder(told))  # type: ignore[arg-type]
    return told


def method(name: str, called: str, originals: dict[str, Any], seen: list[Any]) -> Callable[..., Any]:
    if name == "Kandinsky2_2":
        return getattr(kandinsky2.Kandinsky2_2(Recorder(seen), Recorder(seen)), called)  # type: ignore[arg-type, no-any-return]
    if name in originals:
        return getattr(originals[name], called)  # type: ignore[no-any-return]
    return getattr(getattr(kandinsky3, name)(None), called)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "called"), METHODS, ids="-".join)
def test_every_parameter_of_a_method_acts_or_is_named(
    name: str, called: str, originals: dict[str, Any], seen: list[Any]
) -> None:
    call, values = method(name, called, originals, seen), METHODS[name, called]
    assert set(inspect.signature(call).parameters) == set(values)

    def told(**changes: Any) -> tuple[Any, str]:
        seen.clear()
        arguments = {key: pair[0] for key, pair in values.items()} | changes
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            made = call(**arguments)
        return plain([seen, made]), " ".join(str(one.message) for one in warned)

    usual, _ = told()
    for parameter, (_, other) in values.items():
        found, said = told(**{parameter: other})
        assert found != usual or parameter in said, parameter


def test_the_public_methods_are_those_of_the_table() -> None:
    by_hand = {"create_zero_img_emb", "encode_images", "encode_text"}  # see test_encoders_by_hand
    for name in {name for name, _ in METHODS}:
        kind = getattr(kandinsky2, name, None) or getattr(kandinsky3, name)
        public = {key for key, value in vars(kind).items() if callable(value) and not key.startswith("_")}
        assert public - by_hand <= {called for of, called in METHODS if of == name}, name


NEEDLESS = {"use_flash_attention": "attention is fused", "low_cpu_mem_usage": "weights are mapped"}
"""Parameters that ask for what is done anyway, and what the docstring says of them."""
LOADED: dict[str, dict[str, tuple[Any, Any]]] = {
    "get_kandinsky2": {
        "device": ("cpu", "meta"),
        "task_type": ("text2img", "inpainting"),
        "cache_dir": ("here", "there"),
        "use_auth_token": (None, "token"),
        "model_version": ("2.1", "2.2"),
        "model_path": (None, "folder"),
        "prior_path": (None, "prior"),
    },
    "get_T2I_pipeline": {
        "device_map": ("cpu", "meta"),
        "dtype_map": ("float32", "float64"),
        "load_in_8bit": (False, True),
        "load_in_4bit": (False, True),
        "cache_dir": ("here", "there"),
        "unet_path": (None, "unet"),
        "text_encoder_path": (None, "text"),
        "movq_path": (None, "movq"),
        "fp16": (False, True),
        "text_encode_path": (None, "text"),
    },
}


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("get_kandinsky2", {"model_version": "2.0"}),
        ("get_kandinsky2", {"model_version": "2.1"}),
        ("get_kandinsky2", {"model_version": "2.2"}),
        ("get_T2I_pipeline", {}),
        ("get_T2I_Flash_pipeline", {}),
        ("get_inpainting_pipeline", {}),
    ],
)
def test_every_parameter_of_a_loader_acts_or_is_named(
    name: str, fixed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class StoppedError(Exception):
        pass

    def stop(*given: Any, **keywords: Any) -> Any:
        told.append([given, keywords])
        raise StoppedError

    def noted(*given: Any, **keywords: Any) -> Any:
        told.append([given, keywords])
        return SimpleNamespace(_model=lambda: None, to=stop)

    monkeypatch.setattr(kandinsky2, "choose_device", lambda device: device)
    monkeypatch.setattr(kandinsky2, "choose_dtype", lambda dtype, device: (dtype, device))
    monkeypatch.setattr(kandinsky2, "original_folder", lambda *given: told.append(given) or "folder")  # type: ignore[func-returns-value]
    monkeypatch.setattr(kandinsky, "load", stop)
    monkeypatch.setattr(kandinsky2, "_own_prior", lambda path: path)
    monkeypatch.setattr(kandinsky2, "check_kind", lambda *given: None)
    monkeypatch.setattr(kandinsky2.KandinskyV22PriorPipeline, "from_pretrained", noted)
    for task in TASKS:
        monkeypatch.setitem(TASKS, task, SimpleNamespace(from_pretrained=noted))  # type: ignore[arg-type]
    monkeypatch.setattr(kandinsky3, "_load", stop)
    monkeypatch.setattr(kandinsky3, "check_quantize", lambda width: None)
    load: Any = getattr(kandinsky2, name, None) or getattr(kandinsky3, name)
    values = LOADED["get_kandinsky2" if fixed else "get_T2I_pipeline"]
    assert set(inspect.signature(load).parameters) - NEEDLESS.keys() == set(values)

    def said(**changes: Any) -> Any:
        told.clear()
        with pytest.raises((StoppedError, RequestError)) as raised:
            load(**{key: pair[0] for key, pair in values.items()} | fixed | changes)
        return plain(told), str(raised.value)

    usual = said()
    for parameter, (_, other) in values.items():
        if parameter not in fixed:
            assert said(**{parameter: other}) != usual, parameter
    for parameter in NEEDLESS.keys() & inspect.signature(load).parameters.keys():
        assert parameter in str(load.__doc__)
        assert NEEDLESS[parameter] in str(load.__doc__)
