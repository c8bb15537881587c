"""The original code's names: its recorded runs through its own methods, and what it could not do."""

import inspect
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from kandinsky.compat import kandinsky2
from kandinsky.compat.kandinsky2 import get_kandinsky2, get_kandinsky2_0, get_kandinsky2_1
from kandinsky.core.errors import CheckpointError, HubError, RequestError
from tests.checkpoints.hub_server import connected, files_of
from tests.compat.comparing import close, draw_image, folder, hole
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.reference.folders import NEGATIVE, PRIOR_NEGATIVE, PROMPT, write_first, write_second
from tests.reference.recorded import HEAD, RELEASE, SECOND, facts, levels_agree, limit, tensors
from tests.tiny import Checkpoints

IMAGES = [
    pytest.param(case, run, id=f"{case}-{run}")
    for case in (RELEASE, HEAD, SECOND)
    for run in facts(case)["runs"]
    if f"{run}.latents" in tensors(case)
]
EMBEDDINGS = [run for run in facts(SECOND)["runs"] if run.startswith("clip_emb")]
SIGNATURES = {
    (kandinsky2.Kandinsky2, "generate_text2img"): (
        "prompt, num_steps=100, batch_size=1, guidance_scale=7, progress=True, dynamic_threshold_v=99.5, "
        "denoised_type='dynamic_threshold', h=512, w=512, sampler='ddim_sampler', ddim_eta=0.05"
    ),
    (kandinsky2.Kandinsky2, "generate_img2img"): (
        "prompt, pil_img, strength=0.7, num_steps=100, guidance_scale=7, progress=True, "
        "dynamic_threshold_v=99.5, denoised_type='dynamic_threshold', sampler='ddim_sampler', ddim_eta=0.05"
    ),
    (kandinsky2.Kandinsky2, "generate_inpainting"): (
        "prompt, pil_img, img_mask, num_steps=100, guidance_scale=7, progress=True, "
        "dynamic_threshold_v=99.5, denoised_type='dynamic_threshold', sampler='ddim_sampler', ddim_eta=0.05"
    ),
    (kandinsky2.Kandinsky2_1, "generate_text2img"): (
        "prompt, num_steps=100, batch_size=1, guidance_scale=7, h=512, w=512, sampler='ddim_sampler', "
        "prior_cf_scale=4, prior_steps='25', negative_prior_prompt='', negative_decoder_prompt=''"
    ),
    (kandinsky2.Kandinsky2_1, "mix_images"): (
        "images_texts, weights, num_steps=100, batch_size=1, guidance_scale=7, h=512, w=512, "
        "sampler='ddim_sampler', prior_cf_scale=4, prior_steps='25', negative_prior_prompt='', "
        "negative_decoder_prompt=''"
    ),
    (kandinsky2.Kandinsky2_1, "generate_img2img"): (
        "prompt, pil_img, strength=0.7, num_steps=100, batch_size=1, guidance_scale=7, h=512, w=512, "
        "sampler='ddim_sampler', prior_cf_scale=4, prior_steps='25'"
    ),
    (kandinsky2.Kandinsky2_1, "generate_inpainting"): (
        "prompt, pil_img, img_mask, num_steps=100, batch_size=1, guidance_scale=7, h=512, w=512, "
        "sampler='ddim_sampler', prior_cf_scale=4, prior_steps='25', negative_prior_prompt='', "
        "negative_decoder_prompt=''"
    ),
    (kandinsky2.Kandinsky2_1, "generate_clip_emb"): (
        "prompt, batch_size=1, prior_cf_scale=4, prior_steps='25', negative_prior_prompt=''"
    ),
    (kandinsky2.Kandinsky2_1, "encode_images"): "image, is_pil=False",
    (kandinsky2.Kandinsky2_1, "create_zero_img_emb"): "batch_size",
    (kandinsky2.Kandinsky2_1, "encode_text"): "text_encoder, tokenizer, prompt, batch_size",
    (kandinsky2.Kandinsky2_2, "generate_text2img"): (
        "prompt, batch_size=1, decoder_steps=50, prior_steps=25, decoder_guidance_scale=4, "
        "prior_guidance_scale=4, h=512, w=512, negative_prior_prompt='', negative_decoder_prompt=''"
    ),
    (kandinsky2.Kandinsky2_2, "generate_img2img"): (
        "prompt, image, strength=0.4, batch_size=1, decoder_steps=100, prior_steps=25, "
        "decoder_guidance_scale=4, prior_guidance_scale=4, h=512, w=512, "
        "negative_prior_prompt='', negative_decoder_prompt=''"
    ),
    (kandinsky2.Kandinsky2_2, "mix_images"): (
        "images_texts, weights, batch_size=1, decoder_steps=50, prior_steps=25, "
        "decoder_guidance_scale=4, prior_guidance_scale=4, h=512, w=512, "
        "negative_prior_prompt='', negative_decoder_prompt=''"
    ),
    (kandinsky2.Kandinsky2_2, "generate_inpainting"): (
        "prompt, pil_img, img_mask, batch_size=1, decoder_steps=50, prior_steps=25, "
        "decoder_guidance_scale=4, prior_guidance_scale=4, h=512, w=512, "
        "negative_prior_prompt='', negative_decoder_prompt=''"
    ),
}
UNETS = {
    RELEASE: (get_kandinsky2_0, "Kandinsky-2-0.pt", "Kandinsky-2-0-inpainting.pt"),
    SECOND: (get_kandinsky2_1, "decoder_fp16.ckpt", "inpainting_fp16.ckpt"),
}
"""By case: the loader, and the files of the ordinary U-Net and of the one for inpainting."""
SMALL = {"num_steps": 3, "h": 64, "w": 64, "prior_steps": "2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cache")
    first = write_first(root / "2_0")
    return {"cache": root, RELEASE: first, HEAD: first, SECOND: write_second(root / "2_1")}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[tuple[str, str], Any]:
    """By case and task: found in a cache folder by the files' original names."""
    found: dict[tuple[str, str], Any] = {}
    for task in ("text2img", "inpainting"):
        for case, version in ((RELEASE, "2.0"), (HEAD, "2.0"), (SECOND, "2.1")):
            model = get_kandinsky2("cpu", task, cache_dir=folders["cache"], model_version=version)
            if version == "2.0":
                model.image_size = 64
                model.behaviour = "head-2023" if case == HEAD else model.behaviour
            found[case, task] = model
    return found


class Replay:
    """Hands out recorded draws as the noise of a model, which must ask for their very shapes."""

    def __init__(self, case: str, run: str) -> None:
        total = sum(part["count"] for part in facts(case)["runs"][run]["draws"])
        self.draws = [tensors(case)[f"{run}.draw.{k:02d}"] for k in range(total)]
        self.used = 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        draw = self.draws[self.used]
        assert tuple(draw.shape) == shape
        self.used += 1
        return draw


def arguments_of(case: str, run: str) -> dict[str, Any]:
    """The recorded arguments, with the texts that the test's vocabularies know for the recorded ids."""
    told, found = facts(case)["runs"][run], tensors(case)
    given = dict(told["arguments"])
    if "negative_prior_prompt" in given:
        given["negative_prior_prompt"] = PRIOR_NEGATIVE
    if "negative_decoder_prompt" in given:
        given["negative_decoder_prompt"] = NEGATIVE
    image_in = Image.fromarray(found["image_in"].numpy())
    if told["method"] == "mix_images":
        return given | {"images_texts": [PROMPT, image_in]}
    given["prompt"] = PROMPT
    if told["method"] in ("generate_img2img", "generate_inpainting"):
        given["pil_img"] = image_in
    if told["method"] == "generate_inpainting":
        given["img_mask"] = found["mask_in"].numpy()
    if case != SECOND:
        given.pop("batch_size", None) if told["method"] != "generate_text2img" else None
    return given


@pytest.mark.parametrize(("case", "run"), IMAGES)
def test_recorded_runs(
    case: str, run: str, models: dict[tuple[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = facts(case)["runs"][run]
    model = models[case, "inpainting" if told["method"] == "generate_inpainting" else "text2img"]
    noise = Replay(case, run)
    monkeypatch.setattr(model, "noise", noise)
    monkeypatch.setattr(model, "shared_threshold", True)
    images = getattr(model, told["method"])(**arguments_of(case, run))
    wanted = tensors(case)[f"{run}.image"].numpy()
    assert levels_agree(case, run, np.stack([np.asarray(one) for one in images]), wanted)
    assert noise.used > 0


@pytest.mark.parametrize("run", EMBEDDINGS)
def test_recorded_embeddings(run: str, models: dict[tuple[str, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, noise = models[SECOND, "text2img"], Replay(SECOND, run)
    monkeypatch.setattr(model, "noise", noise)
    given = dict(facts(SECOND)["runs"][run]["arguments"])
    if "negative_prior_prompt" in given:
        given["negative_prior_prompt"] = PRIOR_NEGATIVE
    ours = model.generate_clip_emb(PROMPT, **given)
    wanted = tensors(SECOND)[f"{run}.image_emb"]
    assert relative(ours, wanted[: len(ours)]) < limit(SECOND, run)
    assert noise.used == len(noise.draws)


@pytest.mark.parametrize(("kind", "name"), list(SIGNATURES), ids=lambda value: getattr(value, "__name__", value))
def test_signatures(kind: type, name: str) -> None:
    parameters = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
    told = ", ".join(p.name + ("" if p.default is p.empty else f"={p.default!r}") for p in parameters)
    assert told == SIGNATURES[kind, name]


def test_signatures_of_the_loaders() -> None:
    def told(function: Any) -> str:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        return ", ".join(p.name + ("" if p.default is p.empty else f"={p.default!r}") for p in parameters)

    head = "device, task_type='text2img', cache_dir='/tmp/kandinsky2', use_auth_token=None"
    assert told(get_kandinsky2) == f"{head}, model_version='2.1', use_flash_attention=False"
    assert told(get_kandinsky2_0) == head
    assert told(get_kandinsky2_1) == f"{head}, use_flash_attention=False"


def test_torch_s_seed_repeats_a_call(models: dict[tuple[str, str], Any]) -> None:
    model = models[SECOND, "text2img"]
    torch.manual_seed(3)
    first = model.generate_text2img(PROMPT, **SMALL)
    torch.manual_seed(3)
    assert model.generate_text2img(PROMPT, **SMALL)[0].tobytes() == first[0].tobytes()
    assert model.generate_text2img(PROMPT, **SMALL)[0].tobytes() != first[0].tobytes()


@pytest.mark.parametrize("steps", [1, 3, 9])
@pytest.mark.parametrize("sampler", ["p_sampler", "ddim_sampler", "plms_sampler"])
def test_every_step_count(models: dict[tuple[str, str], Any], sampler: str, steps: int) -> None:
    """The original code fails on all of these, or on one sampler's."""
    (image,) = models[SECOND, "text2img"].generate_text2img(
        PROMPT, num_steps=steps, sampler=sampler, prior_steps="1", h=64, w=64
    )
    assert image.size == (64, 64)


@pytest.mark.parametrize("prior_steps", ["5", 5, "3,2", "ddim5", "1"])
def test_step_strings_of_the_prior(models: dict[tuple[str, str], Any], prior_steps: str | int) -> None:
    embedding = models[SECOND, "text2img"].generate_clip_emb(PROMPT, batch_size=2, prior_steps=prior_steps)
    assert embedding.shape == (2, 64)
    assert embedding.isfinite().all()


def test_batches_and_sizes_that_the_original_cannot_do(models: dict[tuple[str, str], Any]) -> None:
    plain, hole_maker = models[SECOND, "text2img"], models[SECOND, "inpainting"]
    odd = {"num_steps": 2, "prior_steps": "2", "h": 72, "w": 100, "batch_size": 2}
    image = draw_image(90, 70)
    mask = np.ones((70, 90), dtype=np.uint8)
    mask[20:50, 30:60] = 0
    for made in (
        plain.generate_text2img(PROMPT, **odd),
        plain.generate_img2img(PROMPT, image, strength=0.3, **odd),
        plain.mix_images([PROMPT, image], [0.5, 0.5], negative_decoder_prompt=NEGATIVE, **odd),
        hole_maker.generate_inpainting(PROMPT, image, mask, **odd),
    ):
        assert [one.size for one in made] == [(100, 72)] * 2
    assert plain.generate_img2img(PROMPT, image, strength=1.0, **SMALL)[0].size == (64, 64)
    assert plain.generate_img2img(PROMPT, image, strength=0.0, **SMALL)[0].size == (64, 64)


def test_masks_of_every_kind_keep_where_they_are_one(models: dict[tuple[str, str], Any]) -> None:
    model = models[SECOND, "inpainting"]
    keep = (1 - hole(64, 64)).astype(np.float32)
    fields: dict[str, Any] = {**SMALL, "sampler": "ddim_sampler"}

    def made(mask: Any) -> bytes:
        torch.manual_seed(1)
        return model.generate_inpainting(PROMPT, draw_image(64, 64), mask, **fields)[0].tobytes()

    wanted = made(keep)
    for mask in (
        keep.astype(np.uint8),
        keep.astype(bool),
        torch.from_numpy(keep),
        (keep * 255).astype(np.uint8),
        Image.fromarray((keep * 255).astype(np.uint8)),
        keep.repeat(2, axis=0).repeat(2, axis=1),
    ):
        assert made(mask) == wanted
    assert made(1 - keep) != wanted
    with pytest.raises(RequestError, match="is not a mask"):
        made("mask.png")
    with pytest.raises(RequestError, match="marks nothing to repaint"):
        made(np.ones((64, 64)))


def test_encoders_by_hand(models: dict[tuple[str, str], Any]) -> None:
    model, found = models[SECOND, "text2img"], tensors(SECOND)
    full, pooled = model.encode_text(model.text_encoder, model.tokenizer1, PROMPT, 1)
    assert relative(full, found["text.full"][:2]) < limit(SECOND, "text")
    assert relative(pooled, found["text.pooled"][:2]) < limit(SECOND, "text")
    zero = model.create_zero_img_emb(3)
    assert zero.shape == (3, 64)
    size = model._stage().vision.config.image_size
    assert torch.equal(model.encode_images(torch.zeros(1, 3, size, size)), zero[:1])
    by_image = model.encode_images(draw_image(64, 64), is_pil=True)
    assert by_image.shape == (1, 64)
    assert not close(by_image, zero[:1], 1e-3)


def test_the_first_release_s_options(models: dict[tuple[str, str], Any]) -> None:
    model = models[RELEASE, "text2img"]
    fields: dict[str, Any] = {"num_steps": 3, "h": 64, "w": 64, "sampler": "p_sampler", "progress": False}

    def made(**changes: Any) -> bytes:
        torch.manual_seed(2)
        return model.generate_text2img(PROMPT, **(fields | changes))[0].tobytes()

    kinds = [made(), made(denoised_type="clip_denoised"), made(denoised_type="none"), made(dynamic_threshold_v=50)]
    assert len(set(kinds)) == 4
    torch.manual_seed(2)
    (kept,) = model.generate_img2img(PROMPT, draw_image(64, 64), strength=0.99, num_steps=10)
    (changed,) = model.generate_img2img(PROMPT, draw_image(64, 64), strength=0.1, num_steps=10)
    original = np.asarray(draw_image(64, 64), dtype=float)
    distance = [np.abs(np.asarray(one, dtype=float) - original).mean() for one in (kept, changed)]
    assert distance[0] < distance[1]


def test_what_cannot_be_is_told(
    models: dict[tuple[str, str], Any], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[SECOND, "text2img"]
    with pytest.raises(RequestError, match=r"sampler 'ddim'.*ddim_sampler"):
        model.generate_text2img(PROMPT, sampler="ddim")
    with pytest.raises(RequestError, match=r"strength 1\.2 is outside 0 to 1"):
        model.generate_img2img(PROMPT, draw_image(), strength=1.2)
    with pytest.raises(RequestError, match="step string 'fast27'"):
        model.generate_clip_emb(PROMPT, prior_steps="fast27")
    with pytest.raises(RequestError, match="1 items are mixed with 2 weights"):
        model.mix_images([PROMPT], [1, 2])
    with pytest.raises(RequestError, match=r"denoised_type 'clip'.*clip_denoised"):
        models[RELEASE, "text2img"].generate_text2img(PROMPT, denoised_type="clip")
    with pytest.raises(RequestError, match="dynamic_threshold_v is 0"):
        models[RELEASE, "text2img"].generate_text2img(PROMPT, dynamic_threshold_v=0)
    with pytest.raises(RequestError, match=r"model_version '3\.0'"):
        get_kandinsky2("cpu", model_version="3.0")
    with pytest.raises(RequestError, match="task_type 'outpainting'"):
        get_kandinsky2("cpu", task_type="outpainting")
    with pytest.raises(RequestError, match="behaviour 'head'"):
        get_kandinsky2_0("cpu", model_path=folders[RELEASE], behaviour="head")
    with pytest.raises(CheckpointError, match=r"holds Kandinsky 2\.0, not Kandinsky 2\.1"):
        get_kandinsky2_1("cpu", model_path=folders[RELEASE])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"ai-forever/Kandinsky_2\.1"):
        get_kandinsky2("cpu", cache_dir=tmp_path)


@pytest.mark.parametrize("case", [RELEASE, SECOND])
def test_the_u_net_of_another_task_is_told(
    case: str, models: dict[tuple[str, str], Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """The original code fails inside its network on these, or on nothing but noise."""
    plain, repainting = models[case, "text2img"], models[case, "inpainting"]
    with pytest.raises(RequestError, match=r"generate_inpainting inpaints.* 4 channels is of the wrong kind"):
        plain.generate_inpainting(PROMPT, draw_image(64, 64), 1 - hole(64, 64))
    for method, inputs in (("text2img", ()), ("img2img", (draw_image(64, 64),))):
        with pytest.raises(RequestError, match="9 channels is of an inpainting checkpoint"):
            getattr(repainting, f"generate_{method}")(PROMPT, *inputs)
    if case == SECOND:
        with pytest.raises(RequestError, match="9 channels is of an inpainting checkpoint"):
            repainting.mix_images([PROMPT], [1.0])
    load, unet, other = UNETS[case]
    place = shutil.copytree(folders[case], tmp_path / "model")
    shutil.copy(place / unet, place / other)
    with pytest.raises(RequestError, match=r"task_type 'inpainting' inpaints.* 4 channels"):
        load("cpu", "inpainting", model_path=place)
    shutil.copy(folders[case] / other, place / unet)
    with pytest.raises(RequestError, match=r"task_type 'img2img' takes no mask.* 9 channels"):
        load("cpu", "img2img", model_path=place)


@pytest.mark.parametrize(("task", "kind"), [("inpainting", "text2img"), ("text2img", "inpaint")])
def test_the_last_release_s_u_net_of_another_task_is_told(tiny: Checkpoints, task: str, kind: str) -> None:
    places = {"model_path": folder(tiny, kind), "prior_path": folder(tiny, "prior")}
    with pytest.raises(RequestError, match=f"task_type '{task}'.*checkpoint"):
        get_kandinsky2("cpu", task, model_version="2.2", **places)
    model = get_kandinsky2("cpu", "text2img" if kind == "text2img" else "inpainting", model_version="2.2", **places)
    fields: dict[str, Any] = {"decoder_steps": 1, "prior_steps": 1, "h": 64, "w": 64}
    repaint = partial(model.generate_inpainting, "a fox", draw_image(64, 64), 1 - hole(64, 64), **fields)
    draw = partial(model.generate_text2img, "a fox", **fields)
    with pytest.raises(RequestError, match=r"wrong kind of checkpoint|of an inpainting checkpoint"):
        (repaint if kind == "text2img" else draw)()


def test_missing_files_are_fetched_to_their_original_names(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = folders[SECOND]
    published = files_of(second)
    clip = {name: published.pop(name) for name in list(published) if name.startswith(("tokenizer/", "ViT-L-14.pt"))}
    for name in ("config.json", "sentencepiece.bpe.model", "special_tokens_map.json"):
        published[f"text_encoder/{name}"] = b"{}"
    with connected(monkeypatch, tmp_path / "hub") as hub:
        hub.publish("ai-forever/Kandinsky_2.1", published)
        cache = tmp_path / "cache"
        for name, data in clip.items():
            (cache / "2_1" / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / "2_1" / name).write_bytes(data)
        model = get_kandinsky2("cpu", cache_dir=cache)
        assert (cache / "2_1" / "decoder_fp16.ckpt").is_file()
        assert not (cache / "2_1" / "inpainting_fp16.ckpt").exists()
        asked = len(hub.asked)
        get_kandinsky2("cpu", cache_dir=cache)
        assert len(hub.asked) == asked
    assert model.generate_text2img(PROMPT, **SMALL)[0].size == (64, 64)


@pytest.mark.parametrize("task", mostly_slow(["text2img", "img2img", "inpainting"], "text2img", "inpainting"))
def test_the_last_release(tiny: Checkpoints, task: str) -> None:
    place = folder(tiny, "inpaint" if task == "inpainting" else "text2img")
    model = get_kandinsky2("cpu", task, model_version="2.2", model_path=place, prior_path=folder(tiny, "prior"))
    fields: dict[str, Any] = {"decoder_steps": 3, "prior_steps": 2, "h": 64, "w": 100, "batch_size": 2}

    def made(**changes: Any) -> list[bytes]:
        torch.manual_seed(5)
        told = fields | changes
        if task == "text2img":
            images = model.generate_text2img("a fox", **told)
        elif task == "img2img":
            images = model.generate_img2img("a fox", draw_image(), **told)
        else:
            images = model.generate_inpainting("a fox", draw_image(), 1 - hole(), **told)
        assert [one.size for one in images] == [(100, 64)] * 2
        return [one.tobytes() for one in images]

    plain = made()
    assert made() == plain
    assert made(negative_prior_prompt="ugly") != plain
    assert made(negative_decoder_prompt="ugly") != plain
    if task == "text2img":
        torch.manual_seed(5)
        mixed = model.mix_images(["a fox", draw_image()], [0.5, 0.5], **fields)
        assert [one.size for one in mixed] == [(100, 64)] * 2
        # A task that was not asked for works all the same where the U-Net can do it.
        assert model.generate_img2img("a fox", draw_image(), **fields)[0].size == (100, 64)
    assert model.unet is model.decoder.unet
    assert model.image_encoder is model.prior.image_encoder


def test_the_prior_of_a_decoder_is_found(tiny: Checkpoints, tmp_path: Path) -> None:
    """Beside it, or where its README says; else the published one would be fetched."""
    named = shutil.copytree(folder(tiny, "text2img"), tmp_path / "named")
    (named / "README.md").write_text(f"---\nprior:\n- {folder(tiny, 'prior')}\n---\n")
    for place in (named, tiny.combined):
        model = get_kandinsky2("cpu", model_version="2.2", model_path=place)
        (image,) = model.generate_text2img("a fox", decoder_steps=1, prior_steps=1, h=64, w=64)
        assert image.size == (64, 64)


def test_the_last_release_keeps_where_the_mask_is_one(tiny: Checkpoints) -> None:
    model = get_kandinsky2(
        "cpu", "inpainting", model_version="2.2", model_path=folder(tiny, "inpaint"), prior_path=folder(tiny, "prior")
    )
    torch.manual_seed(0)
    embeds = model.prior("a fox", num_inference_steps=2)
    torch.manual_seed(1)
    (wanted,) = model.decoder(
        **embeds, image=draw_image(), mask_image=hole(), height=64, width=128, num_inference_steps=3
    ).images
    plain = type(model.prior).__call__

    def reseeded(*arguments: Any, **keywords: Any) -> Any:
        torch.manual_seed(0)
        output = plain(*arguments, **keywords)
        torch.manual_seed(1)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.prior), "__call__", reseeded)
        (found,) = model.generate_inpainting(
            "a fox", draw_image(), 1 - hole(), decoder_steps=3, prior_steps=2, h=64, w=128
        )
    assert found.tobytes() == wanted.tobytes()
