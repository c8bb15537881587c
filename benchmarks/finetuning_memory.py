"""Peak memory of each way of fine-tuning, planned and measured, on a CPU.

    python -m benchmarks.finetuning_memory                   embedded checkpoint and a model of middle size
    python -m benchmarks.finetuning_memory --only embedded

Each row is measured in a process of its own that trains for two steps in float32: the largest resident set
(VmHWM) since the first step began, less that of the same run on a model of next to nothing. Planned is what
`kandinsky train --plan` says. The model of middle size has random weights: a third of the published widths
of the 2.2 decoder at its full depth, and its whole autoencoder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "textual_inversion": {"token": "zwx", "init_from": "red", "route": "sampled", "prior_steps": 2},
    "lora": {"target": "both"},
    "dreambooth": {"target": "both", "prompt": "a zwx toy", "class_prompt": "a toy", "class_images": 1},
    "full": {"target": "both"},
}
"""Of textual inversion the route that holds most: through the prior and the decoder."""
SIZES = {"embedded": 64, "middle": 256}
BATCHES = {"embedded": 8, "middle": 2}
MIB = 2**20


def sizes(name: str) -> dict[str, Any]:
    """The configurations of the networks of a model with random weights, by component."""
    from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
    from kandinsky.networks.movq import MoVQConfig
    from kandinsky.networks.prior import PriorConfig
    from kandinsky.networks.unet2 import UNet2Config

    words, end, tokens = 8192, 8191, 77
    if name == "middle":
        dim = 512
        return {
            "unet": UNet2Config(channels=(128, 256, 384, 512), image_dim=dim),
            "movq": MoVQConfig(),
            "prior_prior": PriorConfig(8, 64, 10, dim, dim, tokens),
            "prior_text_encoder": ClipTextConfig(words, dim, 12, 8, 4 * dim, tokens, dim, "gelu", end, "eos"),
            "prior_image_encoder": ClipVisionConfig(512, 12, 8, 2048, 224, 14, dim, "gelu"),
        }
    dim = 32
    return {
        "unet": UNet2Config(channels=(32, 64), layers=1, head_dim=32, context_dim=64, image_dim=dim),
        "movq": MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=16),
        "prior_prior": PriorConfig(2, 16, 1, dim, dim, tokens),
        "prior_text_encoder": ClipTextConfig(words, dim, 1, 2, 64, tokens, dim, "gelu", end, "eos"),
        "prior_image_encoder": ClipVisionConfig(32, 1, 2, 64, 224, 56, dim, "gelu"),
    }


def make(root: Path, name: str) -> Path | None:
    """The folder of a model, written unless it is there; None is the embedded one.

    Its weights are in half precision: read in float32, no page of the files stays in memory beside them.
    """
    import torch

    from kandinsky.checkpoints.diffusers_folder import save_component
    from kandinsky.checkpoints.files import write_json
    from kandinsky.checkpoints.maps import networks
    from kandinsky.checkpoints.weights import meta_init
    from kandinsky.conditioning.clip_image import ClipPreprocess
    from kandinsky.engine.embedded import embedded_folder

    folder = root / name
    if name == "embedded" or folder.is_dir():
        return None if name == "embedded" else folder
    # Tokenizers and schedulers are the embedded checkpoint's.
    shutil.copytree(embedded_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    kinds = {
        "unet": networks.UNET,
        "movq": networks.MOVQ,
        "prior_prior": networks.PRIOR,
        "prior_text_encoder": networks.CLIP_TEXT,
        "prior_image_encoder": networks.CLIP_VISION,
    }
    for component, network in sizes(name).items():
        form = kinds[component]
        shapes = form.keys(network, None).to_foreign(meta_init(partial(form.build, network)).state_dict())
        tensors = {key: (0.02 * torch.randn(value.shape)).half() for key, value in shapes.items()}
        save_component(folder, component, form.write(network), tensors, form.stem)
    write_json(folder / "prior_image_processor" / "preprocessor_config.json", ClipPreprocess(224).to_json())
    words = folder / "prior_tokenizer" / "tokenizer_config.json"
    write_json(words, json.loads(words.read_text(encoding="utf-8")) | {"model_max_length": 77})
    return folder


def config(job: dict[str, Any]) -> dict[str, Any]:
    """The run of a row."""
    return {
        "method": job["method"],
        "out": job["out"],
        "data": {"folder": job["images"], "size": job["size"]},
        "model": {} if job["model"] is None else {"name": job["model"]},
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
    command = [sys.executable, "-m", "benchmarks.finetuning_memory", "--job", json.dumps(job)]
    told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=told)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def compared(root: Path, name: str, method: str, recomputed: bool) -> tuple[int, int]:
    """The planned and the measured peak of a row, in bytes; models and images lie in `root`."""
    from PIL import Image

    from kandinsky.training.memory_plan import plan

    images = root / "images"
    images.mkdir(exist_ok=True)
    for number in range(2):
        Image.new("RGB", (64, 64), "grey").save(images / f"{number}.png")
        (images / f"{number}.txt").write_text("a grey square", encoding="utf-8")
    out = root / f"{name}-{method}-{recomputed}"
    job: dict[str, Any] = {"method": method, "images": str(images), "recomputed": recomputed}
    folder, nothing = make(root, name), make(root, "nothing")
    model = None if folder is None else str(folder)
    job |= {"size": SIZES[name], "batch": BATCHES[name], "model": model, "out": str(out)}
    bare = {"model": str(nothing), "size": 64, "batch": 1, "out": f"{out}-bare"}
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
