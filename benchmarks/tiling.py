"""Peak memory and error of coding large images in strips, against coding them whole.

    python -m benchmarks.tiling [--divide 1] [--sides 1024 1536 2048] [--dtype float32] [--encode]

A MoVQ of random weights, its widths divided by `--divide`, decodes latents of noise (or encodes an image of
noise) once. Each row is measured in a process of its own: its largest resident set (VmHWM) less that before
the work. The difference is the largest one of any number, beside the largest number.
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

import numpy as np

WAYS = {"whole": False, "strips": True}


def status(name: str) -> int:
    """Bytes of this process: VmHWM is its largest resident set so far, VmRSS the present one."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def child(job: dict[str, Any]) -> None:
    """Codes one image, keeps the result and prints what it took."""
    import torch

    from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
    from kandinsky.networks.autoencoder import Norm
    from kandinsky.networks.movq import MoVQ, MoVQConfig

    torch.manual_seed(0)
    published, dtype = MoVQConfig(), getattr(torch, job["dtype"])
    widths = tuple(width // job["divide"] for width in published.channels)
    network = MoVQ(MoVQConfig(channels=widths, codebook_size=0)).to(dtype).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Norm) and module.modulation is not None:
            # As in trained networks latents change scales a little: what multiplies rounding is not random.
            module.modulation.weight.mul_(0.1)
            scale, shift = module.modulation.bias.chunk(2)
            scale.fill_(1)
            shift.zero_()
    codec = AutoencoderCodec(network, tiling=WAYS[job["way"]])
    side = job["side"]
    shape = (1, 3, side, side) if job["encode"] else (1, 4, side // codec.downscale, side // codec.downscale)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before, begin = status("VmRSS"), time.perf_counter()
    made = codec.encode(given.clamp(-1, 1)) if job["encode"] else codec.decode(given)
    taken = {"peak": status("VmHWM") - before, "seconds": time.perf_counter() - begin}
    np.save(job["out"], made.numpy())
    print(json.dumps(taken))


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own prints for a job."""
    command = [sys.executable, "-m", "benchmarks.tiling", "--job", json.dumps(job)]
    # As the large matrices of published widths: what is freed goes back to the system.
    told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=told)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(sides: list[int], given: dict[str, Any]) -> None:
    """Prints the Markdown table."""
    what = "encoding" if given["encode"] else "decoding"
    print(f"Widths / {given['divide']}, {what} in {given['dtype']}.\n")
    print("| side | whole MiB | strips MiB | share | whole s | strips s | largest difference, of |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            found, made = {}, {}
            for way in WAYS:
                out = str(Path(folder) / f"{way}.npy")
                found[way] = measured({**given, "side": side, "way": way, "out": out})
                made[way] = np.load(out)
        peaks = [found[way]["peak"] / 2**20 for way in WAYS]
        seconds = [found[way]["seconds"] for way in WAYS]
        difference = float(abs(made["strips"] - made["whole"]).max())
        print(
            f"| {side} | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] / peaks[0]:.2f} | {seconds[0]:.1f} | "
            f"{seconds[1]:.1f} | {difference:.1e}, {abs(made['whole']).max():.1f} |",
            flush=True,
        )


def main() -> None:
    """Reads the flags."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--divide", type=int, default=1, choices=(1, 2, 4))
    flags.add_argument("--sides", type=int, nargs="+", default=[1024, 1536, 2048])
    flags.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    flags.add_argument("--encode", action="store_true")
    flags.add_argument("--job", help=argparse.SUPPRESS)
    given = flags.parse_args()
    if given.job:
        child(json.loads(given.job))
    else:
        table(given.sides, {"divide": given.divide, "dtype": given.dtype, "encode": given.encode})


if __name__ == "__main__":
    main()
