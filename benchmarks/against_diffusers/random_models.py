"""Folders of random weights in diffusers layout, from which both sides load."""

import json
import math
import shutil
import zlib
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from torch import Tensor

from benchmarks.against_diffusers.published import IMAGE, MODELS, TOKENS, Contents, Part
from kandinsky.checkpoints.diffusers_folder import save_component, write_model_index
from kandinsky.checkpoints.files import make_folder, write_json
from kandinsky.checkpoints.maps.scheduler import PRIOR_SCHEDULE_JSON
from kandinsky.checkpoints.weights import meta_init
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.engine.embedded import embedded_folder

COMPLETE = "complete.json"
"""Written last: a folder that has it need not be made again."""
MARKS = {"<s>": "bos_token", "</s>": "eos_token", "<pad>": "pad_token", "<unk>": "unk_token"}
Classes = dict[str, tuple[str, str]]
"""For the model index: the library and the class of each component."""


def make_model(root: Path, name: str, tiny: bool) -> dict[str, int]:
    """Writes a folder of random float32 weights unless it is there; returns the parameters of each part.

    The same name always gives the same numbers. Raises OutputError when the disk does not take them.
    """
    folder = root / name
    done = folder / COMPLETE
    if done.is_file():
        found: dict[str, int] = json.loads(done.read_text(encoding="utf-8"))
        return found
    counts = write_model(folder, MODELS[name](tiny))
    write_json(done, counts)
    return counts


def write_model(folder: Path, contents: Contents) -> dict[str, int]:
    """Writes a folder of random float32 weights and returns the parameters of each part."""
    counts = {component: write_part(folder, component, part) for component, part in contents.parts.items()}
    classes: Classes = {key: (part.form.library, part.form.class_name) for key, part in contents.parts.items()}
    save_component(folder, "scheduler", contents.scheduler, config_name="scheduler_config.json")
    classes["scheduler"] = ("diffusers", str(contents.scheduler["_class_name"]))
    for component, marks in (("tokenizer", contents.marks), ("tokenizer_2", contents.second_marks)):
        if marks:
            classes |= _write_letters(folder, component, marks)
    if contents.prior:
        classes |= _write_beside_prior(folder)
    write_model_index(folder, contents.kind, classes)
    return counts


def _write_beside_prior(folder: Path) -> Classes:
    """What a prior needs that has no weights."""
    save_component(folder, "prior_scheduler", PRIOR_SCHEDULE_JSON, config_name="scheduler_config.json")
    preprocess = ClipPreprocess(size=IMAGE).to_json()
    save_component(folder, "prior_image_processor", preprocess, config_name="preprocessor_config.json")
    words = folder / "prior_tokenizer"
    shutil.copytree(embedded_folder() / "prior_tokenizer", words, dirs_exist_ok=True)
    settings = json.loads((words / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(words / "tokenizer_config.json", settings | {"model_max_length": TOKENS})
    return {
        "prior_scheduler": ("diffusers", str(PRIOR_SCHEDULE_JSON["_class_name"])),
        "prior_image_processor": ("transformers", "CLIPImageProcessor"),
        "prior_tokenizer": ("transformers", "CLIPTokenizer"),
    }


def _write_letters(folder: Path, component: str, marks: tuple[str, ...]) -> Classes:
    """A tokenizer with a token for each byte behind `marks`."""
    pieces = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(models.BPE(ids, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    ends = [mark for mark in ("<s>", "</s>") if mark in marks]
    made.post_processor = processors.TemplateProcessing(
        single=" ".join([*(["<s>"] if "<s>" in marks else []), "$A", "</s>"]),
        special_tokens=[(mark, ids[mark]) for mark in ends],
    )
    kind = "PreTrainedTokenizerFast"
    target = folder / component
    make_folder(target)
    write_json(target / "tokenizer.json", json.loads(made.to_str()))
    settings = {"tokenizer_class": kind, "model_max_length": 512} | {MARKS[mark]: mark for mark in marks}
    write_json(target / "tokenizer_config.json", settings)
    return {component: ("transformers", kind)}


def write_part(folder: Path, component: str, part: Part) -> int:
    """Writes one network of random float32 weights and returns its number of parameters."""
    module = meta_init(lambda: part.form.build(part.config))
    shapes = part.form.keys(part.config, None).to_foreign(module.state_dict())
    tensors = {name: draw(name, shape.shape) for name, shape in shapes.items()}
    save_component(folder, component, part.form.write(part.config), tensors, part.form.stem)
    return sum(tensor.numel() for tensor in tensors.values())


def draw(name: str, shape: torch.Size) -> Tensor:
    """A tensor that keeps signals of unit size: matrices by their inputs, what scales near 1, what shifts
    near 0. The name is the seed."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1 and not name.endswith("clip_std"):
        return noise.mul_(1 / math.sqrt(math.prod(shape[1:])))
    scales = name.endswith(("weight", "clip_std"))
    return noise.mul_(0.05).add_(1.0 if scales else 0.0)
