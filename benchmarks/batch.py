"""Rows a second of `kandinsky batch` beside a loop of diffusers' pipeline: the same prompts, weights and steps.

    python -m benchmarks.batch [--rows 48] [--steps 10] [--batch-size 4] [--runs 3]

Both are whole processes on the embedded checkpoint, imports and loading included, and take turns. The loop
draws one prompt at a time and writes a PNG for each, as most scripts do.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kandinsky.engine.embedded import embedded_folder

WORDS = ("fox", "house", "tree", "cat", "car", "apple", "star", "heart")
LOOP = """
import sys, torch
from diffusers import KandinskyV22CombinedPipeline
model, prompts, out, steps = sys.argv[1:]
pipe = KandinskyV22CombinedPipeline.from_pretrained(model, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
pipe.prior_pipe.set_progress_bar_config(disable=True)
pipe.decoder_pipe.set_progress_bar_config(disable=True)
side = pipe.decoder_pipe.unet.config.sample_size * 4
for i, prompt in enumerate(open(prompts).read().splitlines()):
    image = pipe(
        prompt, num_inference_steps=int(steps), prior_num_inference_steps=int(steps), height=side, width=side,
        generator=torch.manual_seed(i),
    ).images[0]
    image.save(f"{out}/{i:06d}.png")
"""


def seconds(command: list[str]) -> float:
    """How long a command takes; its output is shown where it fails."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return time.perf_counter() - begun


def main() -> None:
    """Measures both in turns and prints medians and the ratio of each pair."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", type=int, default=48)
    flags.add_argument("--steps", type=int, default=10)
    flags.add_argument("--batch-size", type=int, default=4)
    flags.add_argument("--runs", type=int, default=3)
    given = flags.parse_args()
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch, "prompts.txt")
        prompts.write_text("".join(f"a {WORDS[i % len(WORDS)]} {i}\n" for i in range(given.rows)))
        for run in range(given.runs):
            ours, theirs = Path(scratch, f"ours-{run}"), Path(scratch, f"theirs-{run}")
            theirs.mkdir()
            steps = ["--steps", str(given.steps), "--prior-steps", str(given.steps), "--sampler", "ddim"]
            batch = [sys.executable, "-m", "kandinsky", "batch", str(prompts), str(ours), *steps, "--quiet"]
            loop = [sys.executable, "-c", LOOP, str(embedded_folder()), str(prompts), str(theirs), str(given.steps)]
            pair = seconds([*batch, "--batch-size", str(given.batch_size)]), seconds(loop)
            pairs.append(pair)
            ours_rate, their_rate = (given.rows / one for one in pair)
            print(f"batch {ours_rate:.2f} rows/s, loop {their_rate:.2f} rows/s, {ours_rate / their_rate:.2f}x")
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    print(f"median of {given.runs}: {ratio:.2f}x")


if __name__ == "__main__":
    main()
