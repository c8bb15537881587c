"""Memory policies: the same images with weights that come and go, and proof that they do go."""

import gc
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kandinsky
from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.original import open_checkpoint
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.rng import PerImageRng
from kandinsky.engine.devices import free_memory
from kandinsky.engine.offload import ROOM, OffloadedEncoder, choose_policy, codec_of
from kandinsky.engine.pipeline import Pipeline
from kandinsky.engine.weight_residency import bytes_of, names_in
from kandinsky.generations import convert
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet3 import UNet3
from tests.families import mostly_slow
from tests.parity.test_generate import draw_image
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "seed": 3}
TEXTS: dict[str, Any] = SMALL | {"negative_prompt": "blurred"}
AWAY = ("parts", "layers")


def pixels(pipe: Pipeline, prompt: str = "a red fox", **fields: Any) -> list[bytes]:
    return [image.tobytes() for image in pipe.generate(prompt, **(TEXTS | fields)).images]


def resident(pipe: Pipeline) -> int:
    """Bytes of the weights that are in memory."""
    tensors = [t for m in pipe.model.modules.values() for t in m.state_dict().values()]
    return sum(t.numel() * t.element_size() for t in tensors if not t.is_meta)


@pytest.mark.parametrize(("sampler", "offload"), mostly_slow(product([None, "heun"], AWAY), (None, "layers")))
def test_the_images_are_the_same(one_text: OneTextCheckpoints, offload: str, sampler: str | None) -> None:
    """Twice, since the second request brings everything anew."""
    plain, away = one_text.kept(), one_text.ours(offload=offload)
    assert away.offload == offload
    for fields in ({"count": 2}, {"image": draw_image(64, 64), "strength": 0.5, "steps": 4}):
        assert pixels(away, sampler=sampler, **fields) == pixels(plain, sampler=sampler, **fields)
        assert resident(away) == 0
    assert resident(plain) == sum(map(bytes_of, plain.model.modules.values()))


def test_what_is_in_memory_when(one_text: OneTextCheckpoints) -> None:
    """While a layer reads there is that layer, in the loop nothing that `prepare` alone reads."""
    away = one_text.ours(offload="layers")
    unet, encoder = away.model.modules["unet"], away.model.modules["text_encoder"]
    assert isinstance(unet, UNet3)
    assert isinstance(encoder, T5Encoder)
    layers, loops = [], []
    for block in encoder.blocks:
        block.register_forward_pre_hook(lambda *_: layers.append(resident(away)))
    unet.conv_in.register_forward_pre_hook(lambda *_: loops.append(resident(away)))
    pixels(away)
    largest = max(bytes_of(block) for block in encoder.blocks)
    assert layers == [largest] * len(encoder.blocks) * 2  # the prompt and the negative one
    once = names_in(unet, unet.request_modules())
    sizes = {name: t.numel() * t.element_size() for name, t in unet.state_dict().items()}
    assert set(loops) == {sum(size for name, size in sizes.items() if name not in once)}
    assert 0 < loops[0] < 0.8 * bytes_of(unet)


def test_the_streamed_encoder_reads_the_same(one_text: OneTextCheckpoints) -> None:
    plain, away = one_text.kept(), one_text.ours(offload="layers")
    network, streamed = plain.model.modules["text_encoder"], away.running.conditioner.reader.network  # type: ignore[attr-defined]
    assert isinstance(streamed, OffloadedEncoder)
    ids = torch.tensor([[5, 9, 200, 1, 0, 0]])
    mask = ids > 0
    with torch.no_grad():
        assert (streamed(ids, mask) - network(ids, mask)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("form", "dtype"),
    mostly_slow(
        product(["shards", "pickle", "fp16"], ["float32", "float16", "float64"]),
        ("shards", "float16"),
        ("fp16", "float32"),
    ),
)
def test_every_form_of_file(one_text: OneTextCheckpoints, tmp_path: Path, dtype: str, form: str) -> None:
    """The encoder in shards, in a pickle that can be mapped, and in half precision."""
    folder = Path(shutil.copytree(one_text.root / "decoder", tmp_path / "m")) if one_text.oracle else tmp_path
    encoder = one_text.oracle.text_encoder
    for old in (folder / "text_encoder").glob("*.safetensors"):
        old.unlink()
    if form == "shards":
        encoder.save_pretrained(folder / "text_encoder", max_shard_size="10KB")
        assert read_json(folder / "text_encoder" / "model.safetensors.index.json")
    else:
        state = {k: v.half() if form == "fp16" else v for k, v in encoder.state_dict().items()}
        torch.save(state, folder / "text_encoder" / "pytorch_model.bin")
    plain, away = (kandinsky.load(folder, device="cpu", dtype=dtype, offload=o) for o in (None, "layers"))
    assert pixels(away) == pixels(plain)


def test_a_pickle_that_is_read_whole_is_refused(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(one_text.root / "decoder", tmp_path / "m")) if one_text.oracle else tmp_path
    for old in (folder / "text_encoder").glob("*.safetensors"):
        old.unlink()
    file = folder / "text_encoder" / "pytorch_model.bin"
    torch.save(one_text.oracle.text_encoder.state_dict(), file, _use_new_zipfile_serialization=False)
    kandinsky.load(folder, device="cpu")
    with pytest.raises(CheckpointError, match=r"text encoder lie in an old form of pickle.*kandinsky convert"):
        kandinsky.load(folder, device="cpu", offload="layers")


@pytest.mark.parametrize("offload", mostly_slow(AWAY, "layers"))
def test_original_files(third_release: Path, third_first_release: Path, offload: str) -> None:
    for folder, variant in ((third_release, "flash"), (third_first_release, None)):
        options: dict[str, Any] = {"device": "cpu", "variant": variant}
        plain, away = (kandinsky.load(folder, offload=o, **options) for o in (None, offload))
        told = {"negative_prompt": None} if variant else {}
        assert pixels(away, "p5 p4", **told) == pixels(plain, "p5 p4", **told)


@pytest.mark.parametrize("offload", AWAY)
def test_generations_with_a_prior(tiny: Checkpoints, text_image: TextImageCheckpoints, offload: str) -> None:
    """Their encoders and prior are gone when the U-Net comes."""
    for load in (tiny.own, text_image.ours):
        plain, away = load(), load(offload=offload)
        before = [away.model.modules[name] for name in ("prior", "text_encoder", "image_encoder")]
        seen: list[bool] = []

        def look(*_: Any, before: Any = before, seen: list[bool] = seen) -> None:
            seen.append(all(t.is_meta for network in before for t in network.parameters()))

        away.model.modules["unet"].conv_in.register_forward_pre_hook(look)  # type: ignore[attr-defined]
        assert pixels(away, prior_steps=2) == pixels(plain, prior_steps=2)
        assert seen
        assert all(seen)
        assert resident(away) == 0


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_two_text_encoders(layout: str, first_release: Path, tmp_path: Path) -> None:
    """Original files and a folder made of them are read in parts alike."""
    root = first_release
    if layout == "diffusers":
        root = tmp_path / "folder"
        convert(open_checkpoint(first_release), root, "diffusers")
    plain, away = (kandinsky.load(root, device="cpu", offload=o) for o in (None, "parts"))
    assert pixels(away, "p5 p4", negative_prompt="p1") == pixels(plain, "p5 p4", negative_prompt="p1")
    assert resident(away) == 0


def test_previews_and_closed_streams(one_text: OneTextCheckpoints) -> None:
    plain, away = one_text.kept(), one_text.ours(offload="parts")
    found = []
    for pipe in (plain, away):
        events = [e for e in pipe.stream("a fox", **TEXTS) if isinstance(e, kandinsky.Denoising)]
        stream, shown = pipe.stream("a fox", **TEXTS), []
        for event in stream:
            if isinstance(event, kandinsky.Denoising) and event.preview is not None:
                shown.append(event.preview()[0].tobytes())
            if len(shown) == len(events):
                break
        stream.close()
        found.append(shown)
    assert found[0] == found[1]
    assert resident(away) == 0


def test_requests_at_once(one_text: OneTextCheckpoints, tiny: Checkpoints) -> None:
    """Each brings what the other sent away."""
    for away in (one_text.ours(offload="layers"), tiny.own(offload="parts")):
        alone = [pixels(away, text) for text in ("a cat", "a fox")]
        streams = [away.stream(text, **TEXTS) for text in ("a cat", "a fox")]
        found: dict[int, list[bytes]] = {}
        while len(found) < 2:
            for place, stream in enumerate(streams):
                event = next(stream, None)
                if isinstance(event, kandinsky.Finished):
                    found[place] = [image.tobytes() for image in event.result.images]
        assert [found[0], found[1]] == alone


def test_threads_wait_for_each_other(tiny: Checkpoints) -> None:
    away, texts = tiny.own(offload="parts"), ["a cat", "a fox", "a dog", "a house"]
    alone = [pixels(away, text) for text in texts]

    def drawn(text: str) -> list[bytes]:
        images: list[bytes] = []
        for event in away.stream(text, **TEXTS):
            if isinstance(event, kandinsky.Denoising) and event.preview is not None:
                event.preview()
            elif isinstance(event, kandinsky.Finished):
                images = [image.tobytes() for image in event.result.images]
        return images

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(drawn, texts)) == alone
    assert resident(away) == 0


def test_a_stream_may_be_collected_while_another_computes(tiny: Checkpoints) -> None:
    away = tiny.own(offload="parts")
    left = [away.stream("a cat", **TEXTS)]
    next(left[0])
    left.append(left)  # type: ignore[arg-type]
    del left

    def rng(seeds: Sequence[int]) -> PerImageRng:
        gc.collect()
        return PerImageRng.from_seeds(seeds, torch.float32)

    *_, last = away.run(kandinsky.Request("a fox", **TEXTS), rng)
    assert isinstance(last, kandinsky.Finished)
    assert resident(away) == 0


def test_adapters_and_words(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    from kandinsky.adapters.lora import Adapter, Place, attach
    from kandinsky.engine.text_encoders import learn_word, text_encoders

    plain, away = one_text.ours(), one_text.ours(offload="layers")
    found = []
    for pipe in (plain, away):
        torch.manual_seed(0)
        rows = torch.randn(2, 20)
        for name, layer in (("text_encoder", "blocks.1.q"), ("unet", "up.1.triples.0.attention.mixing.q")):
            network = pipe.model.modules[name]
            adapter = Adapter.new(one_text.kept().model.modules[name], [Place(layer)], 2)
            for _, change in adapter.items():
                nn.init.normal_(change.up)
            attach(network, adapter, "a")
        learn_word(text_encoders(pipe.model), "<toy>", {"text_encoder": rows})
        found.append(pixels(pipe, "a <toy>"))
    assert found[0] == found[1]
    assert found[0] != pixels(one_text.kept(), "a <toy>")
    with pytest.raises(RequestError, match="cannot be merged into weights with offload 'layers'"):
        away.merge_loras()


def test_the_policy_is_chosen_by_free_memory(one_text: OneTextCheckpoints) -> None:
    model = one_text.kept().model
    sizes = [bytes_of(module) for module in model.modules.values()]
    room = [int(size / ROOM) + 1 for size in (sum(sizes), max(sizes))]
    assert choose_policy(model, room[0]) == "none"
    assert choose_policy(model, room[1]) == "parts"
    assert choose_policy(model, int(0.9 * room[1])) == "layers"
    assert one_text.ours(offload="auto").offload == "none"
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 2**20
    assert bytes_of(codec_of(model)) == bytes_of(model.modules["movq"])


def test_unknown_policies(one_text: OneTextCheckpoints) -> None:
    with pytest.raises(RequestError, match=r"no memory policy 'part'.*parts"):
        one_text.ours(offload="part")
