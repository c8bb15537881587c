"""How much faster diffusers is by `kandinsky.compat.accelerate_diffusers`, on the same weights.

    python -m benchmarks.accelerate_diffusers [--divide 2] [--side 256] [--steps 10] [--runs 3] [--dtype float32]

Random 2.2 networks of published depth and of widths divided by `--divide`: a guided trajectory of
the decoder and of the prior, and one image decoded by the MoVQ. Plain and accelerated calls take turns in one process;
a row has the median of either's seconds (of the processor, on a CPU), of the pairs' ratios with their range, and how
far the outputs are apart.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.against_diffusers.random_models import write_part
from benchmarks.narrow_models import image
from kandinsky.compat import accelerate_diffusers

CLASSES = {"unet": "UNet2DConditionModel", "movq": "VQModel", "prior_prior": "PriorTransformer"}


def load_parts(root: Path, divide: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """diffusers' networks on new weights, written to `root`."""
    import diffusers

    contents, loaded = image(divide), {}
    for name, class_name in CLASSES.items():
        write_part(root, name, contents.parts[name])
        kind = getattr(diffusers, class_name)
        loaded[name] = kind.from_pretrained(root / name, torch_dtype=dtype).to(device).eval()
    return loaded


def pipelines(parts: dict[str, Any]) -> tuple[Any, Any]:
    """diffusers' decoder pipeline, and its prior pipeline without encoders."""
    from diffusers import DDPMScheduler, KandinskyV22Pipeline, KandinskyV22PriorPipeline, UnCLIPScheduler

    schedule = DDPMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    decoder = KandinskyV22Pipeline(unet=parts["unet"], movq=parts["movq"], scheduler=schedule)
    decoder.set_progress_bar_config(disable=True)
    steps = UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0)
    nothing = dict.fromkeys(("image_encoder", "text_encoder", "tokenizer", "image_processor"))
    return decoder, KandinskyV22PriorPipeline(prior=parts["prior_prior"], scheduler=steps, **nothing)


def calls(decoder: Any, prior: Any, side: int, steps: int) -> dict[str, Callable[[], Tensor]]:
    """What is measured, by the names of the rows."""
    place: dict[str, Any] = {"device": decoder.unet.device, "dtype": decoder.unet.dtype}

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(**place)

    dim, wide = decoder.unet.config.encoder_hid_dim, prior.prior.config.embedding_dim
    embedding, latents = draw(1, dim), draw(1, 4, side // 8, side // 8)
    states, texts, noise = draw(2, 77, wide), draw(2, wide), draw(1, wide)
    mask = torch.arange(77, device=place["device"])[None] < torch.tensor([[2], [9]], device=place["device"])

    def decode() -> Tensor:
        told = {"latents": latents, "height": side, "width": side, "num_inference_steps": steps}
        draws = torch.Generator().manual_seed(0)
        made: Tensor = decoder(embedding, -embedding, **told, generator=draws, output_type="latent").images
        return made

    def denoise() -> Tensor:
        # The steps of diffusers' own pipeline, which wants encoders around them.
        x, schedule = noise, prior.scheduler
        schedule.set_timesteps(steps, device=place["device"])
        times = schedule.timesteps
        draws = torch.Generator().manual_seed(0)
        for t, following in zip(times, [*times[1:], None], strict=True):
            told = {"proj_embedding": texts, "encoder_hidden_states": states, "attention_mask": mask}
            said = prior.prior(torch.cat([x] * 2), timestep=t, **told).predicted_image_embedding
            guided = said[:1] + 4.0 * (said[1:] - said[:1])
            x = schedule.step(guided, t, x, generator=draws, prev_timestep=following).prev_sample
        return x

    def pixels() -> Tensor:
        made: Tensor = decoder.movq.decode(latents, force_not_quantize=True)["sample"]
        return made

    return {f"decoder, {steps} steps": decode, f"prior, {steps} steps": denoise, "MoVQ": pixels}


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """The seconds of a call, the processor's own where that computes, and its output."""
    seconds, wall = time.process_time(), time.perf_counter()
    made = run()
    if made.is_cuda:
        torch.cuda.synchronize()
        return time.perf_counter() - wall, made
    return time.process_time() - seconds, made


def row(name: str, plain: Callable[[], Tensor], fast: Callable[[], Tensor], runs: int) -> str:
    """A row of the table; the first call of either is not counted."""
    ways = {"plain": plain, "fast": fast}
    outputs = {way: timed(run)[1] for way, run in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(runs):
        for way in list(ways)[:: -1 if turn % 2 else 1]:
            seconds[way].append(timed(ways[way])[0])
    ratios = [slow / quick for slow, quick in zip(seconds["plain"], seconds["fast"], strict=True)]
    off = (outputs["fast"] - outputs["plain"]).abs().max() / outputs["plain"].abs().max()
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    medians = " | ".join(f"{statistics.median(found):.3f}" for found in seconds.values())
    return f"| {name} | {medians} | {ratio} | {float(off):.0e} |"


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Prints the Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerate_diffusers")
    for name, value in {"divide": 2, "side": 256, "steps": 10, "runs": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        parts = load_parts(Path(folder), given.divide, getattr(torch, given.dtype), given.device)
        plain, fast = pipelines(parts), pipelines(copy.deepcopy(parts))
        for pipe in fast:
            accelerate_diffusers(pipe)
        size = given.side, given.steps
        print(f"Widths / {given.divide}, {given.side} x {given.side}, {given.dtype} on {given.device}.\n")
        print("| | plain s | accelerated s | ratio | difference |\n| --- | --- | --- | --- | --- |")
        ours = calls(*fast, *size)
        for name, run in calls(*plain, *size).items():
            print(row(name, run, ours[name], given.runs), flush=True)


if __name__ == "__main__":
    main()
