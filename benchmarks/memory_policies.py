"""Peak memory of each memory policy, and of diffusers' pipeline, on models of a fraction of their width.

    python -m benchmarks.memory_policies [--generation 3.0] [--divide 8] [--folder FOLDER]

The model has random weights and the published depth, every width divided by `--divide`. diffusers has no 2.0.
Each row is measured in a process of its own: the largest resident set (VmHWM) of the whole process, imports,
mapped files and one image of two steps included, less that of a process that only imports the library.
The published widths have `divide` squared times the weights, and the same imports. Their matrices are larger
than any that the C library's allocator keeps when they are freed; here it is told to keep no large ones.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT, STEPS, SIDE = "a red fox in the snow, oil on canvas", 2, 64
OURS: dict[str, dict[str, str]] = {
    "kandinsky": {},
    'kandinsky, offload="parts"': {"offload": "parts"},
    'kandinsky, offload="layers"': {"offload": "layers"},
    'kandinsky, quantize="int8"': {"quantize": "int8"},
    'kandinsky, quantize="int4"': {"quantize": "int4"},
}
OF_ONE_TEXT = ('kandinsky, offload="layers"',)
"""Policies for text encoders of 3.x."""
CACHED = 'kandinsky, offload="parts", prompt in the cache'
ORACLE = {
    "diffusers": "",
    "diffusers, model offload": "enable_model_cpu_offload",
    "diffusers, sequential offload": "enable_sequential_cpu_offload",
}


def make(folder: Path, generation: str, divide: int) -> None:
    """Writes the model and prints its number of weights."""
    from benchmarks.against_diffusers.random_models import write_model
    from benchmarks.narrow_models import GENERATIONS

    print(json.dumps(write_model(folder, GENERATIONS[generation](divide))))


def run_ours(folder: Path, options: dict[str, str]) -> None:
    """One image by this library."""
    import kandinsky

    pipe = kandinsky.load(folder, device="cpu", dtype="float32", **options)  # type: ignore[arg-type]
    prior = {"prior_steps": STEPS} if "prior_steps" in pipe.model.defaults else {}
    pipe.generate(PROMPT, steps=STEPS, width=SIDE, height=SIDE, seed=0, **prior)


def run_oracle(folder: Path, offload: str) -> None:
    """One image by diffusers."""
    import diffusers
    import torch

    kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    if offload:
        getattr(pipe, offload)()
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    prior = {"prior_num_inference_steps": STEPS} if "Combined" in kind else {}
    pipe(PROMPT, num_inference_steps=STEPS, width=SIDE, height=SIDE, generator=noise, **prior)


def import_ours() -> None:
    """What a process takes before a model is there."""
    from kandinsky.engine import pipeline  # noqa: F401


def import_oracle() -> None:
    """The same of diffusers."""
    from diffusers import Kandinsky3Pipeline, KandinskyV22CombinedPipeline  # noqa: F401


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def child(job: dict[str, Any]) -> None:
    """Does one job and prints its peak and its seconds as JSON."""
    begin = time.perf_counter()
    try:
        match job["kind"]:
            case "ours":
                run_ours(Path(job["folder"]), job["options"])
            case "oracle":
                run_oracle(Path(job["folder"]), job["offload"])
            case "import ours":
                import_ours()
            case "import oracle":
                import_oracle()
    except Exception as error:
        print(json.dumps({"said": f"{type(error).__name__}: {error}".splitlines()[0]}))
        return
    print(json.dumps({"peak": peak(), "seconds": time.perf_counter() - begin}))


def measured(**job: Any) -> dict[str, Any]:
    """What a process of its own prints for a job."""
    command = [sys.executable, "-m", "benchmarks.memory_policies", "--job", json.dumps(job)]
    told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=told)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, found: dict[str, Any], base: int) -> str:
    """A line of the table."""
    if "peak" not in found:
        return f"| {name} | – | – | {found['said']} |"
    whole, above = found["peak"] / 2**20, (found["peak"] - base) / 2**20
    return f"| {name} | {whole:.0f} | {above:.0f} | {found['seconds']:.0f} |"


def table(folder: Path, generation: str, divide: int) -> None:
    """Prints the Markdown table."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory_policies",
        "--make",
        "--generation",
        generation,
        "--divide",
        str(divide),
        "--folder",
        str(folder),
    ]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    counts = json.loads(made.stdout.splitlines()[-1])
    weights = ", ".join(f"{name} {count * 4 / 2**20:.0f} MiB" for name, count in counts.items())
    print(f"Kandinsky {generation}, widths / {divide}, float32 on a CPU: {weights}.\n")
    print("| policy | peak MiB | above imports | seconds |\n| --- | --- | --- | --- |")
    base = measured(kind="import ours")["peak"]
    one_text = generation == "3.0"
    left_out = () if one_text else OF_ONE_TEXT
    ours = {name: ("ours", {"options": options}) for name, options in OURS.items() if name not in left_out}
    for name, (kind, options) in ours.items():
        print(row(name, measured(kind=kind, folder=str(folder), **options), base), flush=True)
    if one_text:
        options = {"offload": "parts", "prompt_cache": str(folder / "prompts")}
        for _ in range(2):
            found = measured(kind="ours", folder=str(folder), options=options)
        print(row(CACHED, found, base), flush=True)
    if generation == "2.0":
        return
    base = measured(kind="import oracle")["peak"]
    for name, offload in ORACLE.items():
        print(row(name, measured(kind="oracle", folder=str(folder), offload=offload), base), flush=True)


def main() -> None:
    """Reads the flags."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--generation", default="3.0", choices=("2.0", "2.1", "2.2", "3.0"))
    flags.add_argument("--divide", type=int, default=8, choices=(1, 2, 4, 8))
    flags.add_argument("--folder", type=Path, help="keep the model here")
    flags.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    flags.add_argument("--job", help=argparse.SUPPRESS)
    given = flags.parse_args()
    if given.job:
        child(json.loads(given.job))
    elif given.make:
        make(given.folder, given.generation, given.divide)
    elif given.folder:
        table(given.folder, given.generation, given.divide)
    else:
        with tempfile.TemporaryDirectory() as folder:
            table(Path(folder), given.generation, given.divide)


if __name__ == "__main__":
    main()
