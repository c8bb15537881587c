"""Peak memory of each way of fine-tuning, planned and measured, on a CPU.

    python benchmarks/finetuning_memory.py                   embedded checkpoint and a model of middle size
    python benchmarks/finetuning_memory.py --only embedded

Each row is measured in a process of its own that trains for two steps in float32: the largest resident set
(VmHWM) since the first step began, less that of the same run on a model of next to nothing. Planned is what
`kandinsky train --plan` says. The model of middle size has random weights: a third of the published widths
of the 2.2 decoder at its full depth, and its whole autoencoder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "textual_inversion": {"token": "zwx", "init_from": "red", "route": "sampled", "prior_steps": 2},
    "lora": {"target": "both"},
    "dreambooth": {"target": "both", "prompt": "a zwx toy", "class_prompt": "a toy", "class_pictures": 1},
    "full": {"target": "both"},
}
"""Of textual inversion the route that holds most: through the prior and the decoder."""
SIZES = {"embedded": 64, "middle": 256}
BATCHES = {"embedded": 8, "middle": 2}
MIB = 2**20


def make(root: Path, name: str) -> str | None:
    """The folder of a model, written if need be; None is the embedded one."""
    if name == "embedded":
        return None
    from kandinsky.bench import random_models
    from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
    from kandinsky.networks.movq import MoVQConfig
    from kandinsky.networks.prior import PriorConfig
    from kandinsky.networks.unet2 import UNet2Config

    tokens, words, end = random_models.TOKENS, random_models.VOCABULARY, random_models.END
    dim = 512
    random_models.MODELS["middle"] = lambda _: random_models.Sizes(
        UNet2Config(channels=(128, 256, 384, 512), image_dim=dim),
        MoVQConfig(),
        PriorConfig(8, 64, 10, dim, dim, tokens),
        ClipTextConfig(words, dim, 12, 8, 4 * dim, tokens, dim, "gelu", end, "eos"),
        ClipVisionConfig(512, 12, 8, 2048, 224, 14, dim, "gelu"),
    )
    random_models.make_model(root, name, quick=False)
    narrow(root / name)
    return str(root / name)


def narrow(folder: Path) -> None:
    """Writes weights anew in half precision: read in float32, no page of the file stays in memory."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in folder.rglob("*.safetensors"):
        tensors = load_file(path)
        if any(value.dtype == torch.float32 for value in tensors.values()):
            save_file({name: value.half() for name, value in tensors.items()}, path)


def make_nothing(root: Path) -> str:
    """A model of next to nothing, whose runs show what the program itself takes."""
    from kandinsky.bench import random_models

    random_models.MODELS["nothing"] = random_models.MODELS["whole-2.2"]
    random_models.make_model(root, "nothing", quick=True)
    narrow(root / "nothing")
    return str(root / "nothing")


def config(job: dict[str, Any]) -> dict[str, Any]:
    """The run of a row."""
    return {
        "method": job["method"],
        "out": job["out"],
        "data": {"folder": job["pictures"], "size": job["size"]},
        "model": {"name": job["model"]} if job["model"] else {},
        "objective": METHODS[job["method"]],
        "batch": job["batch"],
        "max_steps": 2,
        "variants": 1,
        "gradient_checkpointing": job["recomputed"],
        "device": "cpu",
        "threads": 1,
    }


def resident(name: str) -> int:
    """A line of this process's memory, in bytes: VmRSS now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def child(job: dict[str, Any]) -> None:
    """Trains, and prints the peak of its steps as JSON."""
    from kandinsky.training import events, run_config

    peak = 0
    for event in run_config(config(job)):
        if isinstance(event, events.Started):
            # From now on the most is counted anew: loading is no part of a step.
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        if isinstance(event, events.Progress):
            peak = resident("VmHWM")
    print(json.dumps({"peak": peak}))


def measured(job: dict[str, Any]) -> int:
    """The peak of a run in a process of its own, in bytes."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=told)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def compared(root: Path, name: str, method: str, recomputed: bool) -> tuple[int, int]:
    """The planned and the measured peak of a row, in bytes; models and pictures lie in `root`."""
    from PIL import Image

    from kandinsky.training.plan import plan

    pictures = root / "pictures"
    pictures.mkdir(exist_ok=True)
    for number in range(2):
        Image.new("RGB", (64, 64), "grey").save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("a grey square", encoding="utf-8")
    out = root / f"{name}-{method}-{recomputed}"
    job: dict[str, Any] = {"method": method, "pictures": str(pictures), "recomputed": recomputed}
    job |= {"size": SIZES[name], "batch": BATCHES[name], "model": make(root, name), "out": str(out)}
    bare = {"model": make_nothing(root), "size": 64, "batch": 1, "out": f"{out}-bare"}
    return plan(config(job)).peak, measured(job) - measured({**job, **bare})


def table(root: Path, only: list[str], methods: list[str]) -> None:
    """Prints the Markdown table."""
    print("| model | method | gradient checkpointing | planned MiB | measured MiB | measured / planned |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in only:
        for method in methods:
            for recomputed in (False, True):
                planned, found = compared(root, name, method, recomputed)
                print(
                    f"| {name} | {method} | {'yes' if recomputed else 'no'} | {planned / MIB:,.0f} | "
                    f"{found / MIB:,.0f} | {found / planned:.2f} |",
                    flush=True,
                )


def main() -> None:
    """Reads the flags."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--only", nargs="+", choices=[*SIZES], default=[*SIZES])
    flags.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    flags.add_argument("--job", help=argparse.SUPPRESS)
    given = flags.parse_args()
    if given.job:
        child(json.loads(given.job))
        return
    with tempfile.TemporaryDirectory() as folder:
        table(Path(folder), given.only, given.methods)


if __name__ == "__main__":
    main()
