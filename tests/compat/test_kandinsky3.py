"""The original code's names for Kandinsky 3; its recorded runs are repeated in tests/reference."""

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky.compat import kandinsky3
from kandinsky.core.errors import CheckpointError, RequestError
from tests.checkpoints.hub_server import connected, files_of
from tests.compat.comparing import draw_image
from tests.parity.oracles import relative
from tests.reference.folders import THIRD_PROMPT
from tests.reference.recorded import THIRD, tensors

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}
FIRST: Any = inspect.Parameter.empty


def parameters(function: Any) -> dict[str, Any]:
    """Those that can be given by place, with their defaults."""
    kept = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    return {p.name: p.default for p in kept if p.name != "self"}


@pytest.fixture(scope="module")
def drawing(third_release: Path) -> Any:
    return kandinsky3.get_T2I_pipeline("cpu", cache_dir=third_release)


@pytest.fixture(scope="module")
def painting(third_release: Path) -> Any:
    return kandinsky3.get_inpainting_pipeline("cpu", cache_dir=third_release)


def test_signatures() -> None:
    loading = {
        "device_map": FIRST,
        "dtype_map": torch.float32,
        "low_cpu_mem_usage": True,
        "load_in_8bit": False,
        "load_in_4bit": False,
        "cache_dir": "/tmp/kandinsky3/",
        "unet_path": None,
        "text_encoder_path": None,
        "movq_path": None,
    }
    for load in (kandinsky3.get_T2I_pipeline, kandinsky3.get_T2I_Flash_pipeline, kandinsky3.get_inpainting_pipeline):
        assert parameters(load) == loading
    from_text = {
        "text": FIRST,
        "negative_text": None,
        "images_num": 1,
        "bs": 1,
        "width": 1024,
        "height": 1024,
        "guidance_scale": 3.0,
        "steps": 50,
        "eta": 1.0,
    }
    assert list(parameters(kandinsky3.Kandinsky3T2IPipeline.__call__).items()) == list(from_text.items())
    assert parameters(kandinsky3.Kandinsky3T2IFlashPipeline.__call__) == from_text
    assert list(parameters(kandinsky3.Kandinsky3InpaintingPipeline.__call__).items()) == [
        ("text", FIRST),
        ("image", FIRST),
        ("mask", FIRST),
        ("negative_text", None),
        ("images_num", 1),
        ("bs", 1),
        ("steps", 50),
        ("guidance_weight_text", 4),
        ("eta", 1.0),
    ]


def test_torchs_own_seed_repeats_a_call(drawing: Any) -> None:
    def made(seed: int, **fields: Any) -> list[bytes]:
        torch.manual_seed(seed)
        return [image.tobytes() for image in drawing(THIRD_PROMPT, **(SMALL | fields))]

    assert made(1) == made(1)
    assert made(1) != made(2)
    # The batch size says in which order noise is drawn, and nothing else.
    assert len(made(1, images_num=3, bs=2)) == 3
    assert made(1, images_num=3, bs=2)[:1] != made(1, images_num=3, bs=2)[1:2]


def test_the_draws_are_those_of_the_original(drawing: Any) -> None:
    """With torch's generator seeded as it was there, the recorded image comes out."""
    torch.manual_seed(1302)
    (image,) = drawing(THIRD_PROMPT, width=64, height=64, steps=10, eta=0.0)
    expected = tensors(THIRD)["t2i_eta0.image"][0].numpy()
    assert np.abs(np.asarray(image, int) - expected).max() <= 1
    # It also draws where nothing is added: the generator is where it would be.
    after = torch.randn(1)
    torch.manual_seed(1302)
    for _ in range(11):
        torch.randn(1, 4, 8, 8)
    assert torch.equal(after, torch.randn(1))


def test_any_size(drawing: Any) -> None:
    """The original crashes unless both sides are multiples of 64."""
    (image,) = drawing(THIRD_PROMPT, width=100, height=70, steps=1)
    assert image.size == (100, 70)


def test_a_negative_text_keeps_its_own_length(drawing: Any) -> None:
    def made(text: str | None, cut: bool = False) -> bytes:
        drawing.cut_negatives = cut
        torch.manual_seed(1)
        return bytes(drawing(THIRD_PROMPT, text, **SMALL)[0].tobytes())

    try:
        assert len({made(None), made(""), made("p1"), made("p1", cut=True)}) == 4
        assert made("p5 p4 p3 p2 p1 p0 p5") == made("p5 p4 p3 p2 p1 p0 p5", cut=True)
    finally:
        drawing.cut_negatives = False


def test_flash_warns_of_what_it_cannot_do(third_release: Path) -> None:
    pipe = kandinsky3.get_T2I_Flash_pipeline("cpu", cache_dir=third_release)

    def made(**fields: Any) -> bytes:
        torch.manual_seed(1)
        return bytes(pipe(THIRD_PROMPT, width=64, height=64, **fields)[0].tobytes())

    with pytest.warns(UserWarning, match="guidance_scale, steps, eta does nothing"):
        assert made() == made(guidance_scale=7.0, steps=3, eta=0.2)
    with pytest.warns(UserWarning, match="negative_text does nothing"):
        assert made(negative_text="p1") == made()


def test_masks(painting: Any) -> None:
    """One is repainted, in every form; the original crashes for masks of bool."""
    mask = np.zeros((64, 128), np.float64)
    mask[:, 64:] = 1

    def made(form: Any, **fields: Any) -> bytes:
        torch.manual_seed(2)
        (image,) = painting(THIRD_PROMPT, draw_image(), form, steps=1, **fields)
        assert image.size == (128, 64)
        return bytes(image.tobytes())

    usual = made(mask)
    forms = (mask.astype(bool), mask.astype(np.uint8), mask.astype(np.uint8) * 255, torch.from_numpy(mask))
    for form in (*forms, mask[None], Image.fromarray(mask.astype(np.uint8) * 255)):
        assert made(form) == usual
    assert made(1 - mask) != usual
    # The original crashes here too.
    assert made(mask, negative_text="p1") != usual


@pytest.mark.parametrize(
    ("size", "wanted"), [((70, 140), (64, 128)), ((127, 64), (64, 64)), ((40, 30), (64, 64)), ((2048, 64), (2048, 64))]
)
def test_sizes_of_inpainted_images(painting: Any, size: Any, wanted: Any) -> None:
    (image,) = painting("p1", draw_image(*size), np.ones(size[::-1]), steps=1)
    assert image.size == wanted


def test_paths_of_single_parts(third_release: Path, drawing: Any, tmp_path: Path) -> None:
    """Files of any name; the projection lies with the text encoder."""
    weights = third_release / "weights"
    (tmp_path / "net.pt").symlink_to(weights / "kandinsky3.pt")
    pipe = kandinsky3.get_T2I_pipeline(
        {"unet": "cpu", "text_encoder": "cpu", "movq": "cpu"},
        {"unet": torch.float32, "text_encoder": torch.float64, "movq": "float32"},
        cache_dir=tmp_path / "nothing",
        unet_path=tmp_path / "net.pt",
        text_encoder_path=weights / "flan_ul2_encoder",
        movq_path=str(weights / "movq.pt"),
    )
    assert next(pipe.model.modules["text_encoder"].parameters()).dtype == torch.float64
    images = []
    for one in (pipe, drawing):
        torch.manual_seed(1)
        images.append(np.asarray(one(THIRD_PROMPT, **SMALL)[0], int))
    assert np.abs(images[0] - images[1]).max() <= 1
    assert not (tmp_path / "nothing").exists()


def test_the_first_release(third_first_release: Path) -> None:
    """Its own words for loading, its sampler, and its encoder from another repository's folder."""
    weights = third_first_release / "weights"
    pipe = kandinsky3.get_T2I_pipeline(
        "cpu",
        fp16=False,
        unet_path=weights / "kandinsky3.pt",
        text_encode_path=third_first_release / "google" / "flan-ul2",
        movq_path=weights / "movq.pt",
    )
    assert pipe.model.schedule.sampler == "ddpm"
    (image,) = pipe(THIRD_PROMPT, **SMALL)
    assert image.size == (64, 64)


@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_a_text_encoder_in_few_bits(
    bits: str, third_release: Path, drawing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are as without, each part on its own dtype."""
    load, here = kandinsky3.get_T2I_pipeline, {"cache_dir": third_release, bits: True}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optimum.quanto", None)
        with pytest.raises(RequestError, match="optimum-quanto, which is not installed"):
            load("cpu", **here)
    pytest.importorskip("optimum.quanto")
    dtypes = {"unet": torch.float32, "text_encoder": torch.float32, "movq": torch.float32}
    pipe = load("cpu", dtypes, **here)
    for part in ("unet", "movq"):
        plain = drawing.model.modules[part].state_dict()
        for name, tensor in pipe.model.modules[part].state_dict().items():
            assert torch.equal(tensor, plain[name])
    ids = torch.tensor([[5, 9, 200, 37, 1]])
    with torch.no_grad():
        told = [one.model.modules["text_encoder"](ids, torch.ones_like(ids)) for one in (pipe, drawing)]
    assert 1e-4 < relative(*told) < (0.05 if bits == "load_in_8bit" else 0.6)
    (image,) = pipe(THIRD_PROMPT, **SMALL)
    assert image.size == (64, 64)


def test_what_loading_refuses(third_release: Path, tmp_path: Path) -> None:
    load, here = kandinsky3.get_T2I_pipeline, {"cache_dir": third_release}
    with pytest.raises(RequestError, match="Both load_in_8bit and load_in_4bit"):
        load("cpu", load_in_8bit=True, load_in_4bit=True, **here)
    with pytest.raises(RequestError, match="device_map lacks 'movq'"):
        load({"unet": "cpu", "text_encoder": "cpu"}, **here)
    with pytest.raises(RequestError, match="dtype_map has a part 'vae'"):
        load("cpu", {"unet": torch.float32, "vae": torch.float32}, **here)
    with pytest.raises(RequestError, match="abacus"):
        load("abacus", **here)
    with pytest.raises(CheckpointError, match=r"There is no .*nowhere"):
        load("cpu", unet_path=tmp_path / "nowhere", **here)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": 0}, "steps 0 is outside"),
        ({"eta": 1.5}, r"eta 1\.5 is outside"),
        ({"eta": "1"}, r"eta '1' is outside"),
        ({"bs": 0}, "bs is 0"),
        ({"images_num": 0}, "count 0 is outside"),
        ({"width": 3}, "width 3 is outside"),
        ({"guidance_scale": -2}, "guidance_scale -2"),
        ({"text": 5}, "text is a int"),
        ({"text": ["p1", "p2"]}, "Give one text"),
    ],
)
def test_what_calls_refuse(drawing: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        drawing(**({"text": THIRD_PROMPT} | SMALL | fields))


def test_the_wrong_kind_of_unet(drawing: Any, painting: Any) -> None:
    drawn = kandinsky3.Kandinsky3InpaintingPipeline(drawing.model)
    with pytest.raises(RequestError, match="wrong kind of checkpoint"):
        drawn("p1", draw_image(), np.ones((64, 128)))
    painted = kandinsky3.Kandinsky3T2IPipeline(painting.model)
    with pytest.raises(RequestError, match="of an inpainting checkpoint"):
        painted("p1", **SMALL)
    for mask, words in (
        ("a mask", "A str is not a mask"),
        (np.zeros((64, 128)), "marks nothing to repaint"),
        (-np.ones((64, 128)), "outside 0 to 1"),
        (np.full((64, 128), np.nan), "outside 0 to 1"),
    ):
        with pytest.raises(RequestError, match=words):
            painting("p1", draw_image(), mask)


def test_missing_parts_are_fetched(third_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of the task, and only once."""
    weights = third_release / "weights"
    with connected(monkeypatch, tmp_path / "hub") as hub:
        hub.publish("ai-forever/Kandinsky3.1", files_of(third_release))
        given = {"movq_path": weights / "movq.pt", "cache_dir": tmp_path / "part"}
        kandinsky3.get_T2I_Flash_pipeline("cpu", text_encoder_path=weights / "flan_ul2_encoder", **given)
        assert hub.fetched() == ["weights/kandinsky3_flash.pt"]
        kandinsky3.get_inpainting_pipeline("cpu", cache_dir=tmp_path / "whole")
        fetched = hub.fetched()[1:]
        assert {name for name in fetched if name.endswith(".pt")} == {
            "weights/kandinsky3_inpainting.pt",
            "weights/movq.pt",
            "weights/flan_ul2_encoder/projection_inpainting.pt",
        }
        before = len(hub.fetched())
        pipe = kandinsky3.get_inpainting_pipeline("cpu", cache_dir=tmp_path / "whole")
        assert len(hub.fetched()) == before
    assert pipe.model.extra_channels == 5
