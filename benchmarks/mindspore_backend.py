"""Steps, codec and memory of networks on MindSpore beside torch, on random weights and one thread.

`python -m benchmarks.mindspore_backend` in an environment with the extra `mindspore` prints a line of each, of the 3.x
networks or with `--decoder 2.2` of the others.
Seconds are of the processor, so that other work on the machine matters little; each side is a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import kandinsky
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.unet3 import UNet3Condition
from tests.backends.checkpoints import (
    MIDDLE,
    MIDDLE_CODEC,
    MIDDLE_DECODER,
    write_checkpoint,
    write_two_stages,
)

SIDE = 32
"""Latents along a side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["torch", "mindspore"], help="One side alone, as JSON.")
    parser.add_argument("--decoder", choices=["2.2", "3"], default="3")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.side is not None:
        print(json.dumps(measured(given.side, given.folder, given.decoder)))
        return
    with TemporaryDirectory() as root:
        folder = Path(root) / "mid"
        if given.decoder == "3":
            write_checkpoint(folder, MIDDLE, codec=MIDDLE_CODEC)
        else:
            write_two_stages(folder, MIDDLE_DECODER, MIDDLE_CODEC)
        sides = {side: _in_a_process(side, folder, given.decoder) for side in ("torch", "mindspore")}
    for name, value in sides["mindspore"].items():
        other = sides["torch"][name]
        print(f"{name:28s} torch {other:8.2f}  mindspore {value:8.2f}  ratio {value / other:6.2f}")


def _in_a_process(side: str, folder: Path, decoder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.mindspore_backend", "--side", side, "--folder", str(folder)]
    command += ["--decoder", decoder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "3"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(side: str, folder: Path, decoder: str) -> dict[str, float]:
    """Seconds and GB of one side."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"backend": "mindspore"} if side == "mindspore" else {"device": "cpu"}
    options |= {"prior": False} if decoder == "2.2" else {}
    running = kandinsky.load(folder, dtype="float32", **options).running
    generator = torch.Generator().manual_seed(1)
    condition: UNet2Condition | UNet3Condition
    if decoder == "2.2":
        condition = UNet2Condition(torch.randn(2, MIDDLE_DECODER.image_dim, generator=generator))
    else:
        hidden = torch.randn(2, 9, MIDDLE.text_dim, generator=generator)
        condition = UNet3Condition(hidden, torch.ones(2, 9))
    x = torch.randn(2, 4, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        prepared = running.network.prepare(condition, [500.0])
        step = _seconds(lambda: prepared.step(x, 500.0))
        decode = _seconds(lambda: running.codec.decode(x[:1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "first step, s": step[0],
        "step of 2 images, s": step[1],
        "first decoding, s": decode[0],
        "decoding, s": decode[1],
        "peak of memory, GB": peak,
    }


def _seconds(call: Callable[[], object], runs: int = 3) -> tuple[float, float]:
    """Of the first call, and the least of the others."""
    found = []
    for _ in range(runs + 1):
        begun = time.process_time()
        call()
        found.append(time.process_time() - begun)
    return found[0], min(found[1:])


if __name__ == "__main__":
    main()
