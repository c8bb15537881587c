"""The kinds of files that this library reads: sound samples of each, and what reads them."""

import copy
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import kandinsky
from kandinsky.adapters.lora import Adapter
from kandinsky.checkpoints.components import CheckpointSpec
from kandinsky.checkpoints.diffusers_folder import Folder, open_folder
from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.lora import choose_places, write_lora
from kandinsky.checkpoints.lpips_weights import read_array_pickle
from kandinsky.checkpoints.maps.scheduler import schedule_from_json
from kandinsky.checkpoints.original import OriginalFolder, open_checkpoint
from kandinsky.checkpoints.textual_inversion import read_words, write_original_words, write_words
from kandinsky.checkpoints.torchscript import is_torchscript, read_torchscript
from kandinsky.checkpoints.weights import read_header, read_tensor_file, read_weights, write_weights
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.tokenizer import load_tokenizer
from kandinsky.core.errors import CheckpointError, KandinskyError
from kandinsky.core.images import read_image, read_mask
from kandinsky.core.metadata import Metadata, read_metadata, write_image
from kandinsky.core.requests import Request, mix
from kandinsky.evaluation.coco import read_captions
from kandinsky.evaluation.moments import Moments, load_moments, save_moments
from kandinsky.generations import GENERATIONS
from kandinsky.generations.loading import own_defaults
from kandinsky.jobs.rows import read_rows, request_of
from kandinsky.training.checkpoint import HASHES, _hash, newest
from kandinsky.training.config.run import read_config
from kandinsky.training.data.decoded_cache import decoded
from kandinsky.training.data.folder import read_folder
from kandinsky.training.data.tokenizer_training import train_tokenizer, write_tokenizer
from kandinsky.training.data.webdataset import _rows_of_shard
from kandinsky.training.loop import _Live
from kandinsky.training.task import TrainState
from tests.fuzz.mutate import Draw, mutate
from tests.reference.folders import write_second, write_third
from tests.tiny import SCHEDULER, write_tiny

SPECS = [generation.spec for generation in GENERATIONS]
Make = Callable[[Path], None]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file: `make` writes a sound sample, alone in a folder, in one of several ways; `read` reads it.

    `damage` changes one file of a sample; where it is None the file's structure says how. `afterwards` mends
    what else must agree in it, such as hashes.
    """

    name: str
    makes: Sequence[Make]
    read: Read
    damage: Callable[[Draw, Path], None] | None = None
    afterwards: Callable[[Draw, Path], None] | None = None

    def mutant(self, draw: Draw, samples: Sequence[Path], folder: Path) -> None:
        """Makes `folder` a damaged copy of one of the samples."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(draw.choice(samples), folder)
        if self.damage is not None:
            self.damage(draw, folder)
        else:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            for path in draw.sample(files, min(len(files), draw.choice([1, 1, 1, 2]))):
                if draw.random() < 0.01:
                    path.unlink()
                    path.mkdir()
                elif draw.random() < 0.01:
                    path.unlink()
                else:
                    path.write_bytes(mutate(draw, path.name, path.read_bytes()))
        if self.afterwards is not None:
            self.afterwards(draw, folder)


def small() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(3, 2), "a.bias": torch.zeros(3).half(), "b": torch.arange(4), "c": torch.ones(())}


def only(folder: Path) -> Path:
    """The file of a sample, or one that is missing."""
    return next(folder.iterdir(), folder / "gone.txt")


# Weights.


def make_safetensors(folder: Path) -> None:
    save_file(small(), folder / "x.safetensors", metadata={"format": "pt", "kandinsky": '{"a": [1, 2.5], "b": "x"}'})


def use(tensors: dict[str, torch.Tensor]) -> None:
    """Looks at every number, as loading does."""
    for tensor in tensors.values():
        tensor.clone().float().sum()


def read_safetensors(folder: Path) -> None:
    use(read_tensor_file(folder / "x.safetensors"))
    read_header(folder / "x.safetensors")


def make_shards(folder: Path) -> None:
    write_weights(folder, "model", small(), max_shard_bytes=24)


def make_pickle_shards(folder: Path) -> None:
    torch.save({"a": torch.ones(2)}, folder / "model-00001-of-00002.bin")
    torch.save({"b": torch.ones(2)}, folder / "model-00002-of-00002.bin")
    places = {"a": "model-00001-of-00002.bin", "b": "model-00002-of-00002.bin"}
    (folder / "model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": places}))


def read_shards(folder: Path) -> None:
    use(read_weights(folder, "model"))


def make_pickle(content: object, zipped: bool = True) -> Make:
    return lambda folder: torch.save(content, folder / "x.ckpt", _use_new_zipfile_serialization=zipped)


def read_pickle_file(folder: Path) -> None:
    use(read_tensor_file(folder / "x.ckpt"))


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1).half()
        self.register_buffer("counts", torch.arange(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.counts.sum()


def make_torchscript(folder: Path) -> None:
    torch.jit.script(Inner()).save(folder / "x.pt")


def read_script(folder: Path) -> None:
    if is_torchscript(folder / "x.pt"):
        use(read_torchscript(folder / "x.pt"))
    else:
        use(read_tensor_file(folder / "x.pt"))


def make_lpips(folder: Path) -> None:
    tree = {"AlexNet_0": {"Conv_0": {"kernel": np.ones((2, 2, 1, 1), "f4"), "bias": np.zeros(1, "f4")}}}
    (folder / "x.pkl").write_bytes(pickle.dumps(tree, protocol=4))


def read_lpips(folder: Path) -> None:
    read_array_pickle(folder / "x.pkl")


# Adapters and words, on a whole model.


class Model:
    """The tiny model that adapters and words are put on; a folder of the session holds it."""

    root: Path

    @classmethod
    @cache
    def folder(cls) -> Path:
        return write_tiny(cls.root / "tiny")

    @classmethod
    @cache
    def pipe(cls) -> kandinsky.Pipeline:
        return kandinsky.load(cls.folder(), device="cpu", dtype="float32")


def draw_once(pipe: kandinsky.Pipeline) -> None:
    pipe.generate("a red qqzz", steps=1, prior_steps=1, seed=1, width=64, height=64)


def make_lora(component: str, rslora: bool = False) -> Make:
    def make(folder: Path) -> None:
        torch.manual_seed(0)
        names = {"unet": "unet", "prior_prior": "prior", "prior_text_encoder": "text_encoder"}
        network = Model.pipe().model.modules[names[component]]
        adapter = Adapter.new(network, choose_places(network)[:2], 2, 4.0, dora=component == "prior_text_encoder")
        notes = {
            "sampling": {"defaults": {"steps": 2, "sampler": "ddim", "guidance_scale": 1.0}, "spacing": "trailing"}
        }
        write_lora(folder / "a.safetensors", {component: (network, adapter)}, notes if not rslora else None)
        if rslora:
            tensors = read_tensor_file(folder / "a.safetensors")
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "a.safetensors")
            settings = {"r": 2, "lora_alpha": 4, "alpha_pattern": {"to_q": 3}, "rank_pattern": {}, "use_rslora": True}
            (folder / "adapter_config.json").write_text(
                json.dumps({"peft_type": "LORA", **settings, "lora_dropout": 0.0})
            )

    return make


def read_lora_file(folder: Path) -> None:
    pipe = Model.pipe()
    try:
        pipe.load_lora(folder / "a.safetensors", name="fuzzed")
        draw_once(pipe)
    finally:
        pipe.unload_lora()


def make_words(kind: str) -> Make:
    def make(folder: Path) -> None:
        torch.manual_seed(0)
        rows = torch.randn(2, 16)
        if kind == "own":
            write_words(folder / "w.safetensors", {"qqzz": {"prior_text_encoder": rows}}, {"a": 1})
        elif kind == "original":
            write_original_words(folder / "w.pt", {"qqzz": {"prior_text_encoder": rows[:1]}})
        else:
            torch.save({"string_to_param": {"*": rows}, "name": "qqzz"}, folder / "w.pt")

    return make


def read_word_file(folder: Path) -> None:
    path = only(folder)
    read_words(path)
    model = copy.deepcopy(Model.pipe().model)
    kandinsky.Pipeline(model).load_words(path)
    draw_once(kandinsky.Pipeline(model))


# Configurations.


def _specs(folder: Folder) -> CheckpointSpec:
    return next(spec for spec in SPECS if spec.holds(folder))


def make_component(origin: Callable[[Path], Path], name: str) -> Make:
    def make(folder: Path) -> None:
        source = origin(Model.root)
        shutil.copytree(source / name, folder / name)
        shutil.copy(source / "model_index.json", folder)
        (folder / "COMPONENT").write_text(name)

    return make


def combined(_: Path) -> Path:
    return Model.folder()


@cache
def second_folder(root: Path) -> Path:
    return by_components(second_source(root), root / "second-folder", ("movq", "text_encoder"))


def by_components(origin: Path, target: Path, names: Sequence[str]) -> Path:
    """A folder in diffusers layout with some networks of an original release."""
    opened = open_checkpoint(origin)
    spec = next(spec for spec in SPECS if spec.holds(opened))
    for one in spec.decoder:
        if one.name in names:
            one.save(target, one.open(opened).load(), one.name)
            if one.tokenizer:
                shutil.copytree(one.tokenizer_folder(opened), target / one.tokenizer)
    (target / "scheduler").mkdir()
    (target / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDIMScheduler", **SCHEDULER})
    )
    classes = {one.name: [one.library, one.class_name] for one in spec.decoder if one.name in names}
    (target / "model_index.json").write_text(
        json.dumps({"_class_name": spec.decoders[0], "scheduler": ["diffusers", "DDIMScheduler"], **classes})
    )
    return target


@cache
def third_folder(root: Path) -> Path:
    return by_components(third_source(root), root / "third-folder", ("unet", "movq", "text_encoder"))


def damage_config(draw: Draw, folder: Path) -> None:
    """One small file, so that what reads it is not stopped by weights."""
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".txt", ".model") and p.is_file()]
    path = draw.choice(files)
    path.write_bytes(mutate(draw, path.name, path.read_bytes()))


def read_component(folder: Path) -> None:
    name = (folder / "COMPONENT").read_text()
    opened = open_folder(folder)
    opened.kind, opened.components, opened.only_variant
    read_one(opened, name)


def read_one(opened: Folder, name: str) -> None:
    plain = name.removeprefix("prior_")
    if plain == "scheduler":
        schedule_from_json(opened.config(name))
        return
    if plain == "image_processor":
        processor = ClipPreprocess.from_json(opened.config(name))
        if processor.size <= 256:
            processor([Image.new("RGB", (20, 20))])
        return
    if plain.startswith("tokenizer"):
        load_tokenizer(opened.component(name), opened.components.get(name)).encode(["a red fox", "é" * 99])
        return
    spec = next((spec for spec in SPECS if spec.holds(opened)), None)
    if spec is None:
        raise CheckpointError(f"{opened.root} is of no known kind.")
    for one in (*spec.decoder, *spec.prior):
        if one.name in (name, plain):
            one.open(opened, name=name).load()
            return
    raise AssertionError(name)


def make_settings(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "UNet"]}')
    settings = {
        "defaults": {"steps": 4, "sampler": "ddim", "strength": 0.5, "width": 64, "guidance_interval": [0.1, 0.8]}
    }
    (folder / "kandinsky.json").write_text(json.dumps({**settings, "clip_logit_scale": [4.6, "float16"]}))
    (folder / "README.md").write_text("---\nprior: a/b\ntags:\n- x\n---\n")


def read_settings(folder: Path) -> None:
    opened = open_folder(folder)
    own_defaults(opened)
    opened.prior_reference()
    read_json(folder / "kandinsky.json")


# Originals.


def make_original(release: str, name: str) -> Make:
    def make(folder: Path) -> None:
        source = second_source(Model.root) if release == "second" else third_source(Model.root)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)
        for beside in (source / name).parent.glob("*.json"):
            shutil.copy(beside, target.parent)
        (folder / "RELEASE").write_text(release)
        if release == "second":
            shutil.copy(source / "ViT-L-14_stats.th", folder)

    return make


@cache
def second_source(root: Path) -> Path:
    return write_second(root / "second")


@cache
def third_source(root: Path) -> Path:
    return write_third(root / "third")


def damage_tensors(draw: Draw, folder: Path) -> None:
    """Another name, shape, dtype or value of a few tensors of a pickle."""
    path = draw.choice([p for p in sorted(folder.rglob("*")) if p.suffix in (".ckpt", ".pt", ".bin", ".th")])
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, tuple):
        content = list(content)
        content[draw.randrange(2)] = draw.choice(
            [torch.ones(()), torch.ones(3, 3), None, "x", torch.ones(1).expand(2**40)]
        )
        torch.save(tuple(content), path)
        return
    state = content.get("state_dict", content)
    for _ in range(draw.choice([1, 1, 2, 4])):
        name = draw.choice(list(state))
        old = state[name]
        tensor = old if isinstance(old, torch.Tensor) else torch.ones(2, 2)
        match draw.randrange(12):
            case 0:
                del state[name]
            case 1:
                state[draw.choice(["", "x", "../x", f"{name}.x", name[::-1], "a" * 5000])] = state.pop(name)
            case 2:
                state[name] = tensor.flatten()
            case 3:
                state[name] = tensor[None]
            case 4:
                state[name] = tensor.reshape(-1)[:1].expand(draw.choice([2**40, 2**31, 10**6]))
            case 5:
                state[name] = tensor.reshape(-1)[:1].expand(2**31, 2**31) if tensor.numel() else tensor
            case 6:
                state[name] = torch.zeros(draw.choice([(0,), (0, 2**60), (2**60, 0), (1,), (3, 5), (1, 1, 1, 1, 1)]))
            case 7:
                state[name] = tensor.to(
                    draw.choice([torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.uint8])
                )
            case 8:
                state[name] = draw.choice([None, 1, "x", [], {}, {"a": torch.ones(1)}, 2**70])
            case 9:
                state[name] = torch.cat([tensor, tensor]) if tensor.ndim else tensor
            case 10:
                state[name.replace(".0.", f".{draw.choice([1, 7, 99, 10**6, 10**12])}.")] = tensor
            case _:
                state[name] = tensor[:1] if tensor.ndim else tensor[None]
    torch.save(content, path)


def read_original(folder: Path) -> None:
    release = (folder / "RELEASE").read_text()
    source = open_checkpoint(second_source(Model.root) if release == "second" else third_source(Model.root))
    spec = next(spec for spec in SPECS if spec.holds(source))
    opened = OriginalFolder(folder, source.files)
    for one in (*spec.decoder, *spec.prior):
        try:
            one.open(opened).load()
        except KandinskyError as error:
            if "lacks" not in str(error):
                raise


# Tokenizers.


def make_clip_tokenizer(folder: Path) -> None:
    write_tokenizer(train_tokenizer(["a red fox and a blue cat in a house"] * 4, 540), folder, 16)


def make_vocabulary(folder: Path) -> None:
    marks = ["<|startoftext|>", "<|endoftext|>", "a</w>", "r", "e", "d</w>", "re", "red</w>", "f", "o", "x</w>"]
    (folder / "vocab.json").write_text(json.dumps({mark: place for place, mark in enumerate(marks)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    named = {"bos_token": "<|startoftext|>", "eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    (folder / "special_tokens_map.json").write_text(json.dumps({**named, "pad_token": "<|endoftext|>"}))
    (folder / "added_tokens.json").write_text(json.dumps({"qqzz": len(marks)}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )


def make_whole_tokenizer(model: str) -> Make:
    def make(folder: Path) -> None:
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁", "r", "e", "d", "f", "o", "x"]
        if model == "unigram":
            made = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], 3, False))
        else:
            made = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(pieces)}, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Metaspace() if model == "unigram" else pre_tokenizers.WhitespaceSplit()
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        made.enable_padding(length=7, pad_id=1, pad_token="<pad>")
        made.enable_truncation(9)
        made.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "XLMRobertaTokenizer", "pad_token": "<pad>", "eos_token": "</s>"}
        added = {"3": {"content": "<unk>", "special": True}}
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {**settings, "model_max_length": 16, "added_tokens_decoder": added, "extra_special_tokens": ["<e>"]}
            )
        )

    return make


def make_sentencepiece(family: str) -> Make:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(content)) + content

    def make(folder: Path) -> None:
        marks = (
            [("<unk>", 2), ("<s>", 3), ("</s>", 3)] if family == "xlmr" else [("<pad>", 3), ("</s>", 3), ("<unk>", 2)]
        )
        message = b""
        for piece, kind in [*marks, *((text, 1) for text in ("▁a", "▁", "r", "e", "d", "f", "o", "x"))]:
            message += field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", -1.5) + b"\x18" + bytes([kind]))
        message += field(3, field(1, b"nmt") + b"\x18\x01")
        (folder / ("sentencepiece.bpe.model" if family == "xlmr" else "spiece.model")).write_bytes(message)
        name = "XLMRobertaTokenizer" if family == "xlmr" else "T5Tokenizer"
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": name, "extra_ids": 3, "model_max_length": 32, "pad_token": "<pad>"})
        )

    return make


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


def read_tokenizer(folder: Path) -> None:
    made = load_tokenizer(folder)
    made.encode(["a red fox", "", "é" * 99, "🦊 qqzz"], None if made.max_length else 16)
    made.token_count("a red fox")
    made.word_ids("red")


# Images and what is in them.


def make_image(suffix: str, mode: str) -> Make:
    def make(folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 255, (9, 11, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
        image = Image.fromarray(pixels.squeeze(), mode if mode != "P" else "L").convert(mode)
        image.save(folder / f"x{suffix}")

    return make


def read_images(folder: Path) -> None:
    path = only(folder)
    read_image(path)
    read_mask(path)


def make_metadata(suffix: str, prompt: Any, **fields: Any) -> Make:
    def make(folder: Path) -> None:
        request = Request(prompt, seed=3, width=64, height=64, steps=4, guidance_scale=3.0, **fields).to_json()
        write_image(
            Image.new("RGB", (8, 8)), folder / f"x{suffix}", Metadata(request, "emoji", {"dtype": "float32"}, "1")
        )

    return make


def read_stored(folder: Path) -> None:
    path = only(folder)
    made = read_metadata(path)
    Request.from_json(made.request, folder)


# Texts.


def make_toml(folder: Path) -> None:
    source = Path(kandinsky.__file__).parent / "training" / "recipes"
    first = sorted(source.glob("*.toml"))[0]
    shutil.copy(first, folder / "a.toml")


def make_long_toml(folder: Path) -> None:
    (folder / "a.toml").write_text(
        'out = "runs/x"\nseed = 0\ndevice = "cpu"\nthreads = 1\n[data]\nfolder = "x"\nsize = 16\nheld_out = 3\n'
        "[networks.movq]\nchannels = [32, 32]\nlayers = 1\ncodebook_size = 32\n"
        '[[stage]]\nmethod = "movq"\nbatch = 4\nmax_steps = 3\nsave_every = 2\nprecision = "fp32"\n'
        '[stage.objective]\nadversarial = 0.1\nadversarial_from = 1\n[stage.optimiser]\nkind = "adamw"\nlr = 1e-3\n'
        "betas = [0.9, 0.99]\n[stage.ema]\ndecay = 0.99\n[stage.schedule]\nwarmup = 3\n"
    )


def read_toml(folder: Path) -> None:
    read_config(folder / "a.toml")


def make_rows(name: str, text: str) -> Make:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8") and None


ROWS = [
    make_rows(
        "a.jsonl", '{"prompt": "a fox", "seed": 1, "id": "x"}\n{"prompt": ["a", "b"], "steps": 3, "width": 64}\n'
    ),
    make_rows("a.jsonl", '{"mix": ["a:0.5", "b:0.5"], "guidance_interval": [0.1, 0.9], "output": "x.png"}\n'),
    make_rows("a.csv", 'prompt,seed,guidance_scale\na fox,1,2.5\n"a, b",2,\n'),
    make_rows("a.json", '{"annotations": [{"id": 1, "caption": "a fox"}, {"id": 2, "caption": "b"}], "images": []}'),
    make_rows("a.txt", "a fox\na cat\n"),
]


def read_requests(folder: Path) -> None:
    for row in read_rows(only(folder)):
        request_of(row, {})


def make_coco(folder: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    notes = [{"id": 5, "image_id": 1, "caption": "a fox"}, {"id": 6, "image_id": 2, "caption": "b"}]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))


def read_coco(folder: Path) -> None:
    read_captions(folder / "captions.json")


def make_moments(folder: Path) -> None:
    torch.manual_seed(0)
    save_moments(folder / "x.npz", Moments.of(torch.randn(5, 3)), "x")


def damage_npz(draw: Draw, folder: Path) -> None:
    path = folder / "x.npz"
    if draw.random() < 0.3:
        path.write_bytes(mutate(draw, "x", path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(records))
    if draw.random() < 0.5:
        records[name] = mutate(draw, "x", records[name])
    else:
        old, new = draw.choice(
            [(b"(3, 3)", b"(3000000, 3000000)"), (b"(3,)", b"(9223372036854775807,)"), (b"'<f8'", b"'|O'"), (b"(3,)", b"(-3,)"),
             (b"'<f8'", b"'<M8[s]'"), (b"False", b"True"), (b"(3,)", b"(" * 300), (b"{'descr'", b"{'descr': 1, 'descr'")]
        )  # fmt: skip
        records[name] = records[name].replace(old, new)
    with zipfile.ZipFile(path, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def read_moments(folder: Path) -> None:
    load_moments(folder / "x.npz")


def make_images(folder: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 80, 0, 0)).save(folder / f"{number}.png")


def make_folder_lines(folder: Path) -> None:
    make_images(folder)
    rows = [{"file_name": f"{n}.png", "caption": f"the {n}", "split": "train", "hint": "0.png"} for n in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def make_folder_table(folder: Path) -> None:
    make_images(folder)
    (folder / "metadata.csv").write_text('file_name,caption\n0.png,a\n1.png,"b, c"\n2.png,d\n')


def make_folder_files(folder: Path) -> None:
    make_images(folder)
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"the {number}")


def read_data(folder: Path) -> None:
    found = read_folder(folder)
    decoded(found, 8, folder / "cache")


def make_shard(folder: Path) -> None:
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(2):
            image = io.BytesIO()
            Image.new("RGB", (8, 8)).save(image, "PNG")
            caption = b"a fox" if number else json.dumps({"caption": "a", "x": [1]}).encode()
            for name, content in (
                (f"{number}.png", image.getvalue()),
                (f"{number}.{'txt' if number else 'json'}", caption),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def read_shard(folder: Path) -> None:
    for _ in _rows_of_shard(folder / "0.tar", optional=False):
        pass


# Runs.


@cache
def run(root: Path) -> Path:
    from tests.training.toys import run_toy

    run_toy(root / "toy", max_steps=4, save_every=2, sample_every=100)
    return root / "toy"


def make_run(folder: Path) -> None:
    shutil.copytree(run(Model.root), folder, dirs_exist_ok=True)
    for old in sorted((folder / "checkpoints").iterdir())[:-1]:
        shutil.rmtree(old)


def damage_run(draw: Draw, folder: Path) -> None:
    place = next((folder / "checkpoints").iterdir())
    path = draw.choice([place / "state.json"] * 3 + sorted(place.iterdir()))
    path.write_bytes(mutate(draw, path.name, path.read_bytes()))


def rehash(draw: Draw, folder: Path) -> None:
    place = next((folder / "checkpoints").iterdir())
    if draw.random() < 0.85:
        hashes = {path.name: _hash(path) for path in sorted(place.iterdir()) if path.name != HASHES}
        (place / HASHES).write_text(json.dumps(hashes))


def resume_run(folder: Path) -> None:
    """Continues for one step, without the logs of a whole run."""
    from tests.training.toys import toy_stage, toy_task

    found = newest(folder / "checkpoints").checkpoint
    if found is not None:
        live = _Live(TrainState(toy_task(), toy_stage(), folder, seed=3))
        live.restore(found)
        with ExitStack() as stack:
            batches, _ = next(live._feed(stack))
            live._update(batches)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("safetensors", [make_safetensors], read_safetensors),
        Kind("shards", [make_shards, make_pickle_shards], read_shards),
        Kind("pickle-zip", [make_pickle(small()), make_pickle({"state_dict": small(), "epoch": 1})], read_pickle_file),
        Kind("pickle-old", [make_pickle(small(), zipped=False)], read_pickle_file),
        Kind("torchscript", [make_torchscript], read_script),
        Kind("lpips", [make_lpips], read_lpips),
        Kind("lora", [*map(make_lora, ("unet", "prior_prior", "prior_text_encoder")), make_lora("unet", True)], read_lora_file),
        Kind("words", [*map(make_words, ("own", "original", "web"))], read_word_file),
        Kind(
            "config-2.2",
            [
                make_component(combined, name)
                for name in ("unet", "movq", "scheduler", "prior_prior", "prior_text_encoder", "prior_image_encoder",
                             "prior_image_processor", "prior_scheduler")
            ],
            read_component,
            damage_config,
        ),
        Kind(
            "config-2.1",
            [make_component(second_folder, name) for name in ("movq", "text_encoder", "scheduler", "tokenizer")],
            read_component,
            damage_config,
        ),
        Kind(
            "config-3",
            [make_component(third_folder, name) for name in ("unet", "movq", "text_encoder", "scheduler", "tokenizer")],
            read_component,
            damage_config,
        ),
        Kind("settings", [make_settings], read_settings),
        Kind(
            "originals",
            [
                make_original("second", "prior_fp16.ckpt"),
                make_original("second", "ViT-L-14.pt"),
                make_original("second", "text_encoder/pytorch_model.bin"),
                make_original("third", "weights/flan_ul2_encoder/pytorch_model.bin"),
                make_original("third", "weights/flan_ul2_encoder/pytorch_model.bin"),
            ],
            read_original,
            damage_tensors,
        ),
        Kind(
            "tokenizer",
            [make_clip_tokenizer, make_vocabulary, make_whole_tokenizer("unigram"), make_whole_tokenizer("words"),
             make_sentencepiece("xlmr"), make_sentencepiece("t5")],
            read_tokenizer,
        ),
        Kind(
            "image",
            [make_image(suffix, mode) for suffix, mode in
             ((".png", "RGBA"), (".png", "P"), (".png", "L"), (".jpg", "RGB"), (".jpg", "CMYK"), (".webp", "RGBA"),
              (".gif", "P"), (".bmp", "RGB"), (".tiff", "RGB"))],
            read_images,
        ),
        Kind(
            "metadata",
            [make_metadata(".png", "a fox"), make_metadata(".png", mix(["a", "b"])), make_metadata(".webp", "a fox"),
             make_metadata(".jpg", ["a"]), make_metadata(".png", kandinsky.Embedding([1.0, 2.0]))],
            read_stored,
        ),
        Kind("toml", [make_toml, make_long_toml], read_toml),
        Kind("requests", ROWS, read_requests),
        Kind("coco", [make_coco], read_coco),
        Kind("moments", [make_moments], read_moments, damage_npz),
        Kind("data-folder", [make_folder_lines, make_folder_table, make_folder_files], read_data),
        Kind("shard", [make_shard], read_shard),
        Kind("run", [make_run], resume_run, damage_run, rehash),
    )
}  # fmt: skip
