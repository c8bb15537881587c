"""Compares a few-step adapter with its teacher and with the bare checkpoint in as few steps.

    python recipes/emoji/few_steps.py out/emoji --lora runs/emoji-fewstep/few-step.safetensors --sheet few.png

Images of the first captions of evaluate.py's fixed shuffle of held-out pairs, from the same seeds: PSNR to
the teacher's images, KID to the held-out real ones, seconds. The sheet has eight captions, a row for each
way. Two minutes on one processor core.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import read_reference, write_sheet
from torch import Tensor

import kandinsky
from kandinsky.core.files import write_atomically
from kandinsky.core.system import cache_folder
from kandinsky.evaluation.features import extract, load_inception, to_bytes
from kandinsky.evaluation.kid import kernel_distance
from kandinsky.evaluation.quality import psnr

SHOWN = 8
TEACHER, STUDENT = "teacher", "few-step adapter"
BARE: dict[str, dict[str, Any]] = {
    TEACHER: {},
    "8 steps": {"steps": 8},
    "4 steps": {"steps": 4},
    "4 steps, unguided": {"steps": 4, "guidance_scale": 1.0},
}
"""Ways to draw without the adapter; what is not said is the checkpoint's default."""


def draw(pipe: kandinsky.Pipeline, captions: list[str], fields: dict[str, Any]) -> tuple[Tensor, float]:
    """Images (N, 3, S, S) in [-1, 1] from the seeds 0, 1, ..., and the seconds that one took."""
    began = time.perf_counter()
    images = pipe.generate(captions, seed=0, **fields).images
    seconds = (time.perf_counter() - began) / len(images)
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a few-step adapter with its teacher.")
    parser.add_argument("data", type=Path, help="the folder that build.py wrote")
    parser.add_argument("--model", default=None, help="folder of the checkpoint (default: the embedded one)")
    parser.add_argument("--lora", default="few-step", help="file of the adapter, or its name")
    parser.add_argument("--groups", nargs="+", default=["core", "faces"])
    parser.add_argument("--limit", type=int, default=100, help="how many images of each way")
    parser.add_argument("--out", type=Path, default=None, help="write the numbers here as JSON")
    parser.add_argument("--sheet", type=Path, default=None, help="write a sheet of eight captions here")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()

    pipe = kandinsky.load(options.model, device=options.device, batch_size=options.batch_size)
    size = int(pipe.model.defaults["width"])
    reference = read_reference(options.data, size, options.groups, ["en"], options.limit)
    captions = list(reference.captions["en"])
    made = {name: draw(pipe, captions, fields) for name, fields in BARE.items()}
    pipe.load_lora(options.lora)
    pipe.merge_loras()
    made[STUDENT] = draw(pipe, captions, {})

    inception = load_inception(device=pipe.model.device)
    real = extract(inception, to_bytes(reference.held_out.pixels), cache=cache_folder())
    report = {}
    for name, (images, seconds) in made.items():
        distance = kernel_distance(extract(inception, to_bytes(images)), real)
        report[name] = {
            "psnr_to_teacher": None if name == TEACHER else float(psnr(images, made[TEACHER][0]).mean()),
            "kid": distance.value,
            "kid_std": distance.std,
            "seconds": seconds,
        }
        print(name, json.dumps(report[name]), flush=True)
    if options.out is not None:
        write_atomically(options.out, (json.dumps(report, indent=2) + "\n").encode())
    if options.sheet is not None:
        write_sheet(torch.cat([images[:SHOWN] for images, _ in made.values()]), options.sheet)


if __name__ == "__main__":
    main()
