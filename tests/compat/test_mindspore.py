"""Code for Kandinsky 3 on MindSpore with its import lines changed; and NumPy's generators on torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, fromarray

from kandinsky.compat import diffusers
from kandinsky.core.errors import RequestError
from tests.backends.checkpoints import write_checkpoint

SIZE = {"width": 16, "height": 16, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("facade") / "tiny")


@pytest.fixture(scope="module")
def torchs(folder: Path) -> Any:
    return diffusers.Kandinsky3Pipeline.from_pretrained(folder)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    from kandinsky.compat.mindspore import Kandinsky3Pipeline

    return Kandinsky3Pipeline.from_pretrained(folder)


def pcg(seed: int = 43) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def picture() -> Image:
    values = np.random.default_rng(3).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return fromarray(values).resize((16, 16))


def gap(found: Any, wanted: Any) -> float:
    a, b = (np.asarray(one, dtype=np.float64) for one in (found, wanted))
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_numpy_noise_on_torch_is_the_noise_given_as_latents(torchs: Any) -> None:
    """A generator of NumPy draws doubles, which are cast; its later draws are those of the steps."""
    first = torch.from_numpy(pcg().standard_normal((1, 4, 8, 8))).float()
    rest = pcg()
    rest.standard_normal((1, 4, 8, 8))
    drawn = torchs("a fox", generator=pcg(), output_type="np", **SIZE).images
    given = torchs("a fox", generator=rest, latents=first, output_type="np", **SIZE).images
    assert np.array_equal(drawn, given)
    other = torchs("a fox", generator=pcg(44), output_type="np", **SIZE).images
    assert not np.array_equal(drawn, other)


def test_one_generator_of_numpy_an_image_draws_the_image_alone(torchs: Any) -> None:
    both = torchs(["a fox", "a cat"], generator=[pcg(1), pcg(2)], output_type="np", **SIZE).images
    alone = torchs("a cat", generator=pcg(2), output_type="np", **SIZE).images
    assert gap(both[1:], alone) < 1e-5


@pytest.mark.mindspore
@pytest.mark.parametrize("negative", [None, "blue"])
def test_the_same_generator_gives_the_same_image_as_torch(torchs: Any, ours: Any, negative: str | None) -> None:
    given = {"negative_prompt": negative, "output_type": "np", **SIZE}
    found = ours("a fox", generator=pcg(), **given)[0]
    assert gap(found, torchs("a fox", generator=pcg(), **given).images) < 1e-3


@pytest.mark.mindspore
def test_the_same_generator_changes_an_image_as_torch_does(torchs: Any, ours: Any) -> None:
    from kandinsky.compat.mindspore import Kandinsky3Img2ImgPipeline

    theirs = diffusers.Kandinsky3Img2ImgPipeline(**torchs.components)  # type: ignore[attr-defined]
    changer = Kandinsky3Img2ImgPipeline(**ours.components)
    given: dict[str, Any] = {"image": picture(), "strength": 0.75, "num_inference_steps": 4, "output_type": "np"}
    found = changer("a fox", generator=pcg(), negative_prompt="blue", **given)[0]
    wanted = theirs("a fox", generator=pcg(), negative_prompt="blue", **given).images
    assert gap(found, wanted) < 1e-3


@pytest.mark.mindspore
def test_the_documented_code_runs_with_its_import_lines_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "kandinsky-community" / "kandinsky-3", dtype=torch.float16, variant="fp16")
    picture().save(tmp_path / "t2i.png")
    monkeypatch.chdir(tmp_path)
    import mindspore as ms

    from kandinsky.compat.mindspore import Kandinsky3Img2ImgPipeline, Kandinsky3Pipeline
    from kandinsky.compat.mindspore.utils import load_image

    half: dict[str, Any] = {"variant": "fp16", "mindspore_dtype": ms.float16}
    pipe: Any = Kandinsky3Pipeline.from_pretrained("kandinsky-community/kandinsky-3", **half)
    generator = np.random.Generator(np.random.PCG64(43))
    image = pipe("raccoons", num_inference_steps=2, height=16, width=16, generator=generator)[0][0]
    assert image.size == (16, 16)
    change: Any = Kandinsky3Img2ImgPipeline.from_pretrained("kandinsky-community/kandinsky-3", **half)
    given: dict[str, Any] = {"image": load_image("t2i.png"), "num_inference_steps": 4, "generator": generator}
    image = change("raccoons", strength=0.75, **given)[0][0]
    assert image.size == (16, 16)


@pytest.mark.mindspore
def test_arrays_schedulers_and_callbacks_act(ours: Any) -> None:
    import mindspore as ms

    first = ms.Tensor(pcg().standard_normal((1, 4, 8, 8)).astype(np.float32))
    seen = []

    def watch(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, tensors["latents"].shape, type(tensors["latents"])))
        return {"latents": tensors["latents"] * 0} if step == 2 else tensors

    told = {"callback_on_step_end": watch, "latents": first, "output_type": "latent", **SIZE}
    (latents,) = ours("a fox", generator=pcg(), **told)
    assert isinstance(latents, ms.Tensor)
    assert not latents.asnumpy().any()
    assert seen == [(step, (1, 4, 8, 8), ms.Tensor) for step in range(3)]
    states, negative, mask, against = ours.encode_prompt("a fox", negative_prompt="blue")
    names = ("prompt_embeds", "negative_prompt_embeds", "attention_mask", "negative_attention_mask")
    embeds = dict(zip(names, (states, negative, mask, against), strict=True))
    (by_states,) = ours(generator=pcg(), output_type="ms", **embeds, **SIZE)
    (by_text,) = ours("a fox", negative_prompt="blue", generator=pcg(), output_type="ms", **SIZE)
    assert gap(by_states.asnumpy(), by_text.asnumpy()) < 1e-5
    scheduler = ours.scheduler
    try:
        ours.scheduler = diffusers.DDIMScheduler.from_config(scheduler.config)  # type: ignore[attr-defined]
        (other,) = ours("a fox", negative_prompt="blue", generator=pcg(), output_type="ms", **SIZE)
    finally:
        ours.scheduler = scheduler
    assert gap(other.asnumpy(), by_text.asnumpy()) > 1e-3
    answer = ours("a fox", return_dict=True, **SIZE)
    assert len(answer.images) == 1


@pytest.mark.mindspore
@pytest.mark.parametrize(
    "do",
    [
        lambda pipe: pipe.load_lora_weights("some.safetensors"),
        lambda pipe: pipe.save_pretrained("there"),
        lambda pipe: pipe.unet.save_pretrained("there"),
        lambda pipe: pipe.unet.state_dict(),
        lambda pipe: pipe.unet.to(torch.float16),
        lambda pipe: pipe.to("cpu"),
        lambda pipe: pipe.enable_model_cpu_offload(),
        lambda pipe: type(pipe).from_pretrained("there", torch_dtype=torch.float16),
        lambda pipe: pipe("a fox", output_type="pt"),
        lambda pipe: setattr(pipe, "prepare_latents", None),
    ],
)
def test_what_does_not_act_is_refused(ours: Any, do: Any) -> None:
    with pytest.raises(RequestError):
        do(ours)
