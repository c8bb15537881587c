"""How far a 2.2 U-Net of random weights, of a fraction of its widths, is off in eight or four bits.

    python -m benchmarks.quantize_error [--divide 4] [--side 16]

One prediction for latents of noise and a random embedding, against that of the weights in float32: the root
of the mean squared difference beside that of the prediction, and the largest difference beside the largest
number. Random weights have no structure that rounding could spoil or spare: trained ones may do otherwise.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import kandinsky
from benchmarks.against_diffusers.published import Contents
from benchmarks.against_diffusers.random_models import write_model
from benchmarks.narrow_models import image
from kandinsky.engine.quantize import WIDTHS
from kandinsky.networks.unet2 import UNet2Condition


def prediction(folder: Path, side: int, width: str | None) -> Tensor:
    """What the U-Net of a folder says with its weights in `width`."""
    pipe = kandinsky.load(folder, prior=False, device="cpu", dtype="float32", quantize=width)
    network = pipe.model.network
    draws = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, network.config.image_dim, generator=draws)
    x = torch.randn(1, network.config.in_channels, side, side, generator=draws)
    with torch.no_grad():
        return network.prepare(UNet2Condition(embedding), [500.0]).step(x, 500.0)


def main() -> None:
    """Reads the flags and prints the Markdown table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--divide", type=int, default=4, choices=(1, 2, 4, 8))
    flags.add_argument("--side", type=int, default=16, help="of the latents")
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, whole = Path(name), image(given.divide)
        parts = {key: whole.parts[key] for key in ("unet", "movq")}
        count = write_model(folder, Contents("KandinskyV22Pipeline", parts, whole.scheduler))["unet"]
        print(f"Widths / {given.divide}, {count / 1e6:.0f} M weights.\n")
        print("| weights | mean error | largest |\n| --- | --- | --- |")
        exact = prediction(folder, given.side, None)
        for width in WIDTHS:
            found = prediction(folder, given.side, width)
            mean = float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())
            largest = float((found - exact).abs().max() / exact.abs().max())
            print(f"| {width} | {mean:.4f} | {largest:.4f} |", flush=True)


if __name__ == "__main__":
    main()
