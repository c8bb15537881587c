"""The files of a model as a hub has them."""

import hashlib
import json
from pathlib import Path

MODEL = "painters/kandinsky-tiny"
INDEX = {
    "_class_name": "KandinskyV22Pipeline",
    "_diffusers_version": "0.42.1",
    "movq": ["diffusers", "VQModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None],
}


def blob(name: str, size: int = 3000) -> bytes:
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (size // 32 + 1))[:size]


SMALL = {
    "model_index.json": json.dumps(INDEX).encode(),
    "README.md": b"---\nprior:\n- painters/prior-tiny\n---\n",
    "movq/config.json": b'{"_class_name": "VQModel"}',
    "scheduler/scheduler_config.json": b'{"n": 1}',
    "text_encoder/config.json": b'{"n": 2}',
    "tokenizer/merges.txt": b"#version: 0.2\n",
    "tokenizer/special_tokens_map.json": b'{"n": 3}',
    "tokenizer/tokenizer_config.json": b'{"n": 4}',
    "tokenizer/vocab.json": b'{"a": 0}',
    "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
}
PLAIN = [
    "movq/diffusion_pytorch_model.safetensors",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
]
HALF = [
    "movq/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
]
NEVER = [
    ".gitattributes",
    "movq/diffusion_pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder/flax_model.msgpack.index.json",
    "text_encoder/model.onnx",
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "safety_checker/model.safetensors",
    "images/fox.png",
    "kandinsky.ckpt",
    "unet/tricks.py",
]
SHARD_INDEX = "text_encoder/model.safetensors.index.json"
FILES = {**SMALL, SHARD_INDEX: b'{"weight_map": {}}', **{name: blob(name) for name in [*PLAIN, *HALF, *NEVER]}}
UNET = "unet/diffusion_pytorch_model.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
