"""Folders of original files: every task from them, and one clear error for each that is not whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kandinsky
from kandinsky.checkpoints.weights import read_tensor_file
from kandinsky.core.errors import CheckpointError, KandinskyError, RequestError
from kandinsky.core.events import Warned
from kandinsky.core.images import to_tensor
from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.engine.pipeline import Pipeline
from tests.parity.oracles import relative
from tests.parity.test_generate import draw_image
from tests.reference.folders import NEGATIVE, PRIOR_NEGATIVE, PROMPT
from tests.requests import our_conditions, our_latents
from tests.tiny import Checkpoints
from tests.tiny_text_image import TextImageCheckpoints

FIELDS: dict[str, Any] = {"prompt": PROMPT, "seed": 3, "width": 64, "height": 64, "steps": 2}
MASK = np.zeros((64, 64), np.uint8)
MASK[:, 32:] = 1


def load(folder: Path, **options: Any) -> Pipeline:
    return kandinsky.load(folder, device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def first(first_release: Path) -> Pipeline:
    return load(first_release)


@pytest.fixture(scope="module")
def second(second_release: Path) -> Pipeline:
    return load(second_release)


def test_defaults_are_the_published_ones(first: Pipeline, second: Pipeline) -> None:
    sizes = {"width": 512, "height": 512, "steps": 100, "guidance_scale": 7.0, "strength": 0.3}
    assert first.model.defaults == sizes
    assert second.model.defaults == sizes | {"prior_steps": 25, "prior_guidance_scale": 4.0}
    result = first.generate(PROMPT, seed=1, width=64, height=64, steps=1)
    assert (result.request["sampler"], result.request["eta"]) == ("ddim", 0.05)
    plain = first.generate(PROMPT, seed=1, width=64, height=64, steps=1, sampler="ddpm")
    assert plain.request["eta"] is None


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 3])
def test_every_sampler(sampler: str, steps: int, first: Pipeline, second: Pipeline) -> None:
    for pipe, more in ((first, {}), (second, {"prior_steps": 1})):
        ours = our_latents(pipe, **(FIELDS | {"sampler": sampler, "steps": steps} | more))
        assert torch.isfinite(ours).all()


@pytest.mark.parametrize("variant", [None, "inpainting"])
def test_inpainting_in_batches(first_release: Path, variant: str | None) -> None:
    pipe = load(first_release, variant=variant, batch_size=2)
    images = [draw_image(64, 64, seed) for seed in (1, 2)]
    fields = FIELDS | {"prompt": [PROMPT] * 2, "image": images, "mask": MASK, "eta": 0.0}
    both = our_latents(pipe, **fields)
    second = our_latents(pipe, **(FIELDS | {"image": images[1], "mask": MASK, "seed": 4, "eta": 0.0}))
    assert relative(both[1:], second) < 1e-4
    if variant is None:
        # An ordinary network is pinned to the draw of the posterior that the image's seed makes first.
        pixels = to_tensor(images[:1], 64, 64)
        encoded = pipe.model.codec.encode(pixels, PerImageRng.from_seeds([3]))
        assert relative(both[:1, ..., :3], encoded[..., :3]) < 1e-5


def test_images_depend_on_their_own_seed_only(first: Pipeline, second: Pipeline) -> None:
    """Percentiles too are each image's own, whatever the original code measured."""
    for pipe, more in ((first, {}), (second, {"prior_steps": 2})):
        fields = FIELDS | {"sampler": "ddpm", "steps": 3} | more
        both = our_latents(pipe, batch=2, **(fields | {"count": 2}))
        assert relative(both[1:], our_latents(pipe, **(fields | {"seed": 4}))) < 1e-4


def test_strengths(first: Pipeline) -> None:
    image = draw_image(64, 64)
    encoded = first.model.codec.encode(to_tensor([image], 64, 64))
    fields = FIELDS | {"image": image, "steps": 10, "sampler": "ddpm"}
    far, near = (
        (our_latents(first, **(fields | {"strength": strength})) - encoded).abs().mean() for strength in (0.9, 0.1)
    )
    assert near < far


def test_odd_sizes_are_cropped_back(first: Pipeline) -> None:
    (image,) = first.generate(PROMPT, seed=1, width=72, height=40, steps=1).images
    assert image.size == (72, 40)


def test_negative_prompts_of_both_releases(first: Pipeline, second: Pipeline) -> None:
    conditions = our_conditions(first, **(FIELDS | {"negative_prompt": NEGATIVE}))
    plain = our_conditions(first, **FIELDS)
    assert not torch.equal(conditions.uncond.text_hidden, plain.uncond.text_hidden)
    assert torch.equal(conditions.cond.text_hidden, plain.cond.text_hidden)
    fields = FIELDS | {"prior_steps": 2}
    conditions = our_conditions(second, **(fields | {"negative_prompt": NEGATIVE}))
    plain = our_conditions(second, **fields)
    # The decoder's own unconditional text stays empty, as in the original code.
    assert torch.equal(conditions.uncond.text_hidden, plain.uncond.text_hidden)
    assert not torch.equal(conditions.uncond.image_embedding, plain.uncond.image_embedding)
    prior = our_conditions(second, **(fields | {"prior_negative_prompt": PRIOR_NEGATIVE}))
    assert torch.equal(prior.uncond.image_embedding, plain.uncond.image_embedding)
    assert not torch.equal(prior.cond.image_embedding, plain.cond.image_embedding)


def test_both_encoders_tell_what_they_do_not_read(first: Pipeline) -> None:
    events = list(first.stream(" ".join(["p0"] * 100), seed=1, width=64, height=64, steps=1))
    (warning,) = [event.message for event in events if isinstance(event, Warned) and event.text]
    unread = warning.partition("tokens: ")[2].partition(" was not read")[0]
    assert unread.count("p0") == 100 - 75  # 77 tokens, of which the first encoder needs two for itself


def test_unguided_requests_need_no_unconditional_text(first: Pipeline) -> None:
    conditions = our_conditions(first, **(FIELDS | {"guidance_scale": 1.0}))
    assert conditions.uncond is None


def test_a_prior_in_the_other_layout(text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    """Decoders and priors of both layouts go together."""
    from kandinsky.checkpoints.original import open_checkpoint
    from kandinsky.generations import convert

    assert text_image.prior
    assert text_image.decoder
    roots = {}
    for name in ("decoder", "prior"):
        convert(open_checkpoint(text_image.root / name), tmp_path / name, "original")
        roots[name] = tmp_path / name
    fields: dict[str, Any] = {"prompt": "fox", "seed": 1, "width": 64, "height": 64, "steps": 2, "prior_steps": 2}
    mixed = load(roots["decoder"], prior=text_image.root / "prior")
    assert torch.isfinite(our_latents(mixed, **fields)).all()
    other = load(text_image.root / "decoder", prior=roots["prior"])
    assert torch.isfinite(our_latents(other, **fields)).all()
    with pytest.raises(CheckpointError, match="holds a prior, not a decoder"):
        load(roots["prior"])
    with pytest.raises(CheckpointError, match="holds no prior"):
        load(text_image.root / "decoder", prior=roots["decoder"])
    with pytest.raises(CheckpointError, match="is a decoder without a prior"):
        load(roots["decoder"])
    decoder = load(roots["decoder"], prior=False)
    result = decoder.generate(kandinsky.Embedding([0.1] * 64, [0.0] * 64), seed=1, width=64, height=64, steps=1)
    assert len(result.images) == 1


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Replaces tensors of a file, or with None removes them; not in place, for they are mapped."""
    content = {**read_tensor_file(path), **tensors}
    torch.save({k: v for k, v in content.items() if v is not None}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


Damage = Callable[[Path], Any]
FIRST: dict[str, tuple[Damage, str]] = {
    "no vae": (lambda p: (p / "vae.ckpt").unlink(), r"lacks the file vae\.ckpt"),
    "no encoder": (lambda p: shutil.rmtree(p / "text_encoder2"), "lacks the folder 'text_encoder2'"),
    "no tokenizer": (
        lambda p: [f.unlink() for f in (p / "text_encoder1").glob("tokenizer*.json")],
        "holds no tokenizer|names no padding|looked for",
    ),
    "cut off": (
        lambda p: (p / "Kandinsky-2-0.pt").write_bytes((p / "Kandinsky-2-0.pt").read_bytes()[:5000]),
        "cannot be read as weights",
    ),
    "text": (lambda p: (p / "vae.ckpt").write_text("version https://git-lfs"), "cannot be read as weights"),
    "a tensor less": (
        lambda p: change(p / "Kandinsky-2-0.pt", **{"time_embed.0.bias": None}),
        r"Kandinsky-2-0\.pt: 1 missing \(time_mlp\.0\.bias\)",
    ),
    "a tensor more": (
        lambda p: change(p / "Kandinsky-2-0.pt", lora=torch.zeros(1)),
        "1 tensors have names this network does not know: lora",
    ),
    "another network": (
        lambda p: shutil.copy(p / "vae.ckpt", p / "Kandinsky-2-0.pt"),
        r"Kandinsky-2-0\.pt: The file has no tensor",
    ),
    "another encoder": (
        lambda p: change(
            p / "text_encoder1" / "pytorch_model.bin",
            **{"LinearTransformation.weight": torch.zeros(50, 128), "LinearTransformation.bias": torch.zeros(50)},
        ),
        "the embedding of the first text encoder has size 50, the U-Net takes 96",
    ),
    "heads": (
        lambda p: (p / "text_encoder1" / "config.json").write_text('{"num_attention_heads": 5}'),
        "5 heads do not divide a width of 128",
    ),
}
SECOND: dict[str, tuple[Damage, str]] = {
    "no statistics": (lambda p: (p / "ViT-L-14_stats.th").unlink(), r"lacks the file ViT-L-14_stats\.th"),
    "odd statistics": (
        lambda p: torch.save({"mean": torch.zeros(64)}, p / "ViT-L-14_stats.th"),
        "not a pair of vectors",
    ),
    "no clip": (lambda p: (p / "ViT-L-14.pt").unlink(), "lacks CLIP"),
    "no temperature": (
        lambda p: change(p / "ViT-L-14.pt", logit_scale=None),
        r"ViT-L-14\.pt: The file has no tensor logit_scale",
    ),
    "no vocabulary": (
        lambda p: shutil.rmtree(p / "tokenizer"),
        r"lacks CLIP's vocabulary: looked for vocab\.json with merges\.txt, or tokenizer\.json",
    ),
    "clip of another size": (
        lambda p: change(p / "ViT-L-14.pt", text_projection=torch.zeros(128, 32)),
        "the text encoder's embedding has size 32",
    ),
    "two releases": (
        lambda p: shutil.copy(p / "decoder_fp16.ckpt", p / "Kandinsky-2-0.pt"),
        "holds files of 2 releases",
    ),
    "channels": (
        lambda p: change(p / "decoder_fp16.ckpt", **{"input_blocks.0.0.weight": torch.zeros(64, 6, 3, 3)}),
        "takes 6 channels, its codec makes 4",
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_damages_of_the_first(name: str, first_release: Path, tmp_path: Path) -> None:
    _refused(first_release, tmp_path / "model", *FIRST[name])


@pytest.mark.parametrize("name", SECOND)
def test_damages_of_the_second(name: str, second_release: Path, tmp_path: Path) -> None:
    _refused(second_release, tmp_path / "model", *SECOND[name])


def _refused(source: Path, folder: Path, damage: Damage, words: str) -> None:
    shutil.copytree(source, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        load(folder)


def test_folders_of_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"It holds model\.ckpt: weights in another layout"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "fp16"}, "Original files have no variant 'fp16'"),
        ({"behaviour": "head-2024"}, "Did you mean 'head-2023'"),
    ],
)
def test_options_that_the_first_does_not_have(first_release: Path, options: Any, words: str) -> None:
    with pytest.raises(KandinskyError, match=words):
        load(first_release, **options)


def test_options_that_others_do_not_have(first_release: Path, second_release: Path, tiny: Checkpoints) -> None:
    with pytest.raises(RequestError, match="It has one only"):
        load(second_release, behaviour="head-2023")
    with pytest.raises(CheckpointError, match="has no prior"):
        load(first_release, prior=tiny.combined)
    with pytest.raises(CheckpointError, match="embeddings of 16 numbers, the decoder takes 64"):
        load(second_release, prior=tiny.combined)


def test_behaviours_differ_and_are_remembered(first_release: Path, first: Pipeline) -> None:
    head = load(first_release, behaviour="head-2023")
    assert head.settings["behaviour"] == "head-2023"
    fields = FIELDS | {"steps": 3, "eta": 0.0}
    assert relative(our_latents(head, **fields), our_latents(first, **fields)) > 1e-2


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "a mix": ({"prompt": kandinsky.mix(["a", "b"])}, "reads texts only, no mix"),
    "an embedding": ({"prompt": kandinsky.Embedding([0.0] * 4)}, "reads texts only, no embedding"),
    "prior steps": ({"prior_steps": 3}, "prior_steps 3 is given, but this checkpoint has no prior"),
    "prior guidance": ({"prior_guidance_scale": 3.0}, "has no prior"),
    "prior negative": ({"prior_negative_prompt": "bad"}, "has no prior"),
    "hint": ({"hint": np.zeros((8, 8, 3), np.uint8)}, "does not take a hint"),
    "sampler": ({"sampler": "p_sampler"}, "unknown sampler 'p_sampler'"),
    "eta": ({"sampler": "plms", "eta": 0.5}, "cannot act in sampler 'plms'"),
    "strength": ({"image": np.zeros((8, 8, 3), np.uint8), "strength": 1.5}, r"strength 1\.5 is not"),
    "mask": ({"image": np.zeros((8, 8, 3), np.uint8), "mask": np.ones((4, 4), np.uint8)}, "its image is 8 x 8"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_the_first_cannot_do(name: str, first: Pipeline) -> None:
    fields, words = REQUESTS[name]
    with pytest.raises(RequestError, match=words):
        first.stream(**({"prompt": "fox"} | fields))


def test_the_inpainting_network_wants_a_mask(second_release: Path) -> None:
    pipe = load(second_release, variant="inpainting")
    with pytest.raises(RequestError, match="an inpainting checkpoint, and it needs an image with a mask"):
        pipe.stream(PROMPT)


def test_an_odd_scale_of_a_folder(first_release: Path, tmp_path: Path) -> None:
    """Our own folder of the first release states its codec's scale."""
    from kandinsky.checkpoints.original import open_checkpoint
    from kandinsky.generations import convert

    folder = tmp_path / "folder"
    convert(open_checkpoint(first_release), folder, "diffusers")
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    assert config["scaling_factor"] == 0.0512
    path.write_text(json.dumps(config | {"scaling_factor": "large"}))
    with pytest.raises(CheckpointError, match="scaling_factor = 'large'"):
        load(folder)
