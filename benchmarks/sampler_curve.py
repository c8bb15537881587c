"""How far images of few steps are from those of a thousand: every sampler, the prior, the named options.

    python -m benchmarks.sampler_curve [--data FOLDER] [--images 8] [--kid 64] [--docs PAGE] [--out FOLDER]

Writes `sampler-curve.json` and `sampler-curve.png` to `--out`, and prints tables in Markdown, which take the
place of those between the marks of `--docs`. `--data` is the folder of the emoji recipe: prompts are then
captions of held-out images, and KID is measured against these images. `--quick` takes seconds.

Distances are means over images, as a share of the mean distance between the references of two different
images: 0 is the same image, 1 another one. They are taken in latents, and in the features of the FID
Inception where its weights are installed. Every run begins with the same noise. Samplers without fresh noise
are compared with a reference without (DDIM in 1000 steps), the others with DDPM in 1000 steps on the same
Brownian path: the noise of a long step is the sum of the noises of the short ones in it, see `BrownianNoise`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kandinsky
from benchmarks.against_diffusers.counting import counter
from benchmarks.brownian import BrownianNoise
from benchmarks.curve_plot import image_of
from benchmarks.curve_tables import rewritten, tables
from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.errors import DataError
from kandinsky.core.files import write_atomically
from kandinsky.core.requests import Request
from kandinsky.core.rng import PerImageRng
from kandinsky.evaluation.features import Features, extract, load_inception, to_bytes
from kandinsky.evaluation.kid import kernel_distance
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import denoise, encode
from kandinsky.tasks.resolve import resolve

PROMPTS = (
    "a red apple",
    "a cat",
    "a yellow star",
    "a house",
    "a blue heart",
    "a dog on a green background",
    "a car",
    "a smiling face",
)
DETERMINISTIC = ("ddim", "heun", "plms", "dpmpp_2m", "unipc")
RANDOM = ("ddpm", "dpmpp_2m_sde")
"""Samplers with fresh noise whose steps have the posterior's spread; euler_ancestral takes those of ddpm, and
euler those of ddim."""
STEPS = (4, 6, 8, 10, 12, 15, 20, 25, 50)
LONG = (100,)
"""Only of the two samplers of first order, which are what checkpoints were published with."""
PRIOR_SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "unipc")
PRIOR_STEPS = (2, 3, 5, 8, 10, 15, 25, 50)
REFERENCE_STEPS = 1000
SPACINGS = ("leading", "linspaced", "trailing")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"guidance_interval": (0.1, 0.9)},
    {"guidance_interval": (0.2, 0.8)},
    {"guidance_interval": (0.3, 0.7)},
    {"reuse": 2},
    {"reuse": 3},
    {"reuse": 5},
)
KID_STEPS = ({"steps": 4}, {"steps": 8}, {"steps": 15}, {}, {"sampler": "ddpm", "steps": 25})


class Counted:
    """A network that counts its calls, and the rows of them."""

    def __init__(self, network: Any) -> None:
        self.network, self.config = network, network.config
        self.calls = self.rows = 0

    def prepare(self, *arguments: Any) -> "CountedSteps":
        """See `Network`."""
        return CountedSteps(self, self.network.prepare(*arguments))


@dataclass
class CountedSteps:
    """A prepared network of a `Counted` one."""

    counted: Counted
    own: Any

    def step(self, x: Tensor, t: float) -> Tensor:
        """See `Prepared`."""
        self.counted.calls += 1
        self.counted.rows += len(x)
        return self.own.step(x, t)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Run:
    """One trajectory: latents (P, C, h, w), network calls, their rows an image, CPU seconds an image."""

    latents: Tensor
    calls: int
    rows: float
    seconds: float


@dataclass(frozen=True)
class Decoder:
    """A decoder with what P images are made of; every trajectory begins with the same noise."""

    model: Model
    request: Request
    conditions: Conditions
    noise: BrownianNoise

    def run(self, spacing: str | None = None, **fields: Any) -> Run:
        """The trajectory of the request with some fields changed, and at times spaced otherwise."""
        network = Counted(self.model.network)
        schedule = self.model.schedule if spacing is None else replace(self.model.schedule, spacing=spacing)
        model = replace(self.model, network=network, schedule=schedule)
        request = self.request.replaced(**fields)
        resolved = resolve(model, request)
        batch = Batch(resolved.rows, self.noise.along(resolved.begin.times))
        began = time.process_time()
        *_, last = denoise(model, resolved, batch, self.conditions)
        count = len(batch.rows)
        return Run(last.x, network.calls, network.rows / count, (time.process_time() - began) / count)

    def operations(self, **fields: Any) -> float:
        """Floating-point operations of the network in one trajectory of the first image."""
        cut = {k: None if v is None else v[:1] for k, v in vars(self.conditions.cond).items()}
        cond = replace(self.conditions.cond, **cut)
        uncond = self.conditions.uncond
        if uncond is not None:
            uncond = replace(uncond, **{k: None if v is None else v[:1] for k, v in vars(uncond).items()})
        prompt = self.request.prompts[0]
        alone = Decoder(
            self.model,
            self.request.replaced(prompt=prompt),
            Conditions(cond, uncond),
            BrownianNoise(self.noise.start[:1], self.noise.process),
        )
        with counter() as counted:
            alone.run(**fields)
        return float(counted.get_total_flops())


def decoder_of(pipe: kandinsky.Pipeline, prompts: Sequence[str]) -> Decoder:
    """The decoder with its prompts encoded, by the prior's own defaults."""
    model = pipe.model
    resolved = resolve(model, Request(list(prompts), seed=0))
    request = resolved.request
    batch = Batch(resolved.rows, PerImageRng.from_seeds(request.seeds))
    encoding = encode(model, resolved, [batch])
    while True:
        try:
            next(encoding)
        except StopIteration as stop:
            (conditions,) = stop.value
            break
    sides = [side // model.codec.downscale for side in (resolved.height, resolved.width)]
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(len(prompts), model.codec.channels, *sides, generator=generator)
    return Decoder(model, request, conditions, BrownianNoise(start, model.schedule.process))


def distance(found: Tensor, reference: Tensor) -> float:
    """The mean distance of rows, as a share of that between different rows of the reference."""
    found, reference = found.double().flatten(1), reference.double().flatten(1)
    apart = torch.cdist(reference, reference)
    count = len(reference)
    return float((found - reference).norm(dim=1).mean() / (apart.sum() / (count * (count - 1))))


class Measured:
    """Distances of runs from a reference, in latents and (where there is a network for it) in features."""

    def __init__(self, model: Model, reference: Tensor, features: Features | None) -> None:
        self.model, self.reference, self.features = model, reference, features
        self._seen = None if features is None else features(self._images(reference))

    def __call__(self, run: Run) -> dict[str, float | None]:
        """What is reported of one run."""
        seen = None
        if self.features is not None and self._seen is not None:
            seen = distance(self.features(self._images(run.latents)), self._seen)
        return {
            "latents": distance(run.latents, self.reference),
            "features": seen,
            "calls": run.calls,
            "rows": run.rows,
            "seconds": run.seconds,
        }

    @torch.no_grad()
    def _images(self, latents: Tensor) -> Tensor:
        return to_bytes(self.model.codec.decode(latents).clamp(-1, 1))


Say = Callable[[str], None]


def curve(
    decoder: Decoder, features: Features | None, counts: Sequence[int], quick: bool, say: Say
) -> list[dict[str, Any]]:
    """Every sampler at these steps against its reference; the spacings of times, and the named options."""
    long = 20 if quick else REFERENCE_STEPS
    found: list[dict[str, Any]] = []
    for own, samplers in (("ddim", DETERMINISTIC), ("ddpm", RANDOM)):
        say(f"reference: {own}, {long} steps")
        against = decoder.run(sampler=own, steps=long).latents
        measured = Measured(decoder.model, against, features)
        for sampler in samplers:
            for steps in (*counts, *(LONG if sampler == own and not quick else ())):
                # Heun asks the network twice a step, so half its steps cost the same.
                taken = max(1, steps // 2) if sampler == "heun" else steps
                run = decoder.run(sampler=sampler, steps=taken)
                found.append({"kind": "sampler", "name": sampler, "steps": taken, **measured(run)})
                say(f"{sampler} {taken}: {found[-1]['latents']:.4f}")
        extra = _variants if own == "ddim" else _published
        found += extra(decoder, measured, quick, say)
    return found


def _published(decoder: Decoder, measured: Measured, quick: bool, say: Say) -> list[dict[str, Any]]:
    """What published checkpoints are run with by default: ddpm, at times that begin below pure noise."""
    schedule = replace(decoder.model.schedule, spacing="leading", offset=1, open_end=False)
    decoder = replace(decoder, model=replace(decoder.model, schedule=schedule))
    found = []
    for steps in (4,) if quick else (25, 50, 100):
        run = decoder.run(sampler="ddpm", steps=steps)
        found.append({"kind": "published", "name": "ddpm", "steps": steps, **measured(run)})
        say(f"as published, ddpm {steps}: {found[-1]['latents']:.4f}")
    return found


def _variants(decoder: Decoder, measured: Measured, quick: bool, say: Say) -> list[dict[str, Any]]:
    found = []
    for spacing in SPACINGS:
        for steps in (4,) if quick else (6, 10, 25):
            run = decoder.run(spacing, sampler="dpmpp_2m", steps=steps)
            found.append({"kind": "spacing", "name": spacing, "steps": steps, **measured(run)})
            say(f"{spacing} {steps}: {found[-1]['latents']:.4f}")
    usual = {"sampler": "dpmpp_2m", "steps": 4 if quick else 25}
    # What an option costs in quality is told against the same request without it.
    plain = Measured(measured.model, decoder.run(**usual).latents, measured.features)
    whole = decoder.operations(**usual)
    for option in ({}, *OPTIONS[1::2]) if quick else ({}, *OPTIONS):
        run = decoder.run(**usual, **option)
        work = decoder.operations(**usual, **option) / whole
        found.append({"kind": "option", "name": _named(option), **usual, "work": work, **plain(run)})
        say(f"{_named(option)}: {found[-1]['latents']:.4f}, {work:.2f} of the work")
    return found


def _named(option: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in option.items()) or "none"


def prior_curve(stage: PriorStage, prompts: Sequence[str], scale: float, quick: bool) -> list[dict[str, Any]]:
    """The prior's samplers and steps: distances of image embeddings from those of a thousand steps."""
    texts = [stage.encode_text(text) for text in ("",) * len(prompts) + tuple(prompts)]
    start = torch.randn(len(prompts), stage.network.config.embedding_dim, generator=torch.Generator().manual_seed(2))
    noise = BrownianNoise(start, stage.schedule.process, seed=3)

    def run(sampler: str, steps: int) -> tuple[Tensor, float]:
        schedule = replace(stage.schedule, sampler=sampler)
        times = schedule.times(steps)
        draws = noise.along(times)
        began = time.process_time()
        prepared = stage.prepare(texts, steps)
        x = draws.normal(tuple(start.shape))
        *_, last = replace(stage, schedule=schedule).denoise(prepared, x, times, draws, scale)
        return stage.network.denormalise(last.x), (time.process_time() - began) / len(prompts)

    long = 20 if quick else REFERENCE_STEPS
    references = {name: run(name, long)[0].detach() for name in ("ddim", "ddpm")}
    found = []
    for sampler in PRIOR_SAMPLERS:
        for steps in (2, 4) if quick else PRIOR_STEPS:
            with torch.no_grad():
                embedding, seconds = run(sampler, steps)
            reference = references["ddpm" if sampler == "ddpm" else "ddim"]
            row = {"kind": "prior", "name": sampler, "steps": steps, "calls": steps, "seconds": seconds}
            found.append({**row, "latents": distance(embedding, reference)})
    return found


def kid_rows(pipe: kandinsky.Pipeline, data: Path, count: int, features: Features, say: Say) -> list[dict[str, Any]]:
    """KID of whole requests, prior included, against the held-out images whose captions they are of."""
    real, captions = held_out(data, int(pipe.model.defaults["width"]), count)
    wanted = extract(features, to_bytes(real))
    found = []
    for fields in (*KID_STEPS, *OPTIONS[1::3]):
        made = []
        for first in range(0, len(captions), pipe.batch_size):
            result = pipe.generate(captions[first : first + pipe.batch_size], seed=first, **fields)
            made += [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in result.images]
        side = real.shape[-1]
        images = torch.stack(made).reshape(-1, side, side, 3).permute(0, 3, 1, 2)
        far = kernel_distance(extract(features, images), wanted)
        found.append(
            {"kind": "kid", "name": _named(fields) if fields else "defaults", "kid": far.value, "std": far.std}
        )
        say(f"KID {_named(fields)}: {far.value:.4f}")
    return found


def held_out(data: Path, side: int, count: int) -> tuple[Tensor, list[str]]:
    """Images (N, 3, S, S) in [-1, 1] that were never trained on, at most `count`, and their captions."""
    from kandinsky.recipes.emoji.captions import plain_caption
    from kandinsky.recipes.emoji.recipe import concept_of, open_emoji

    test = open_emoji(data, side, split="test", groups=["core"])
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:count]
    styles = test.folder.styles
    captions = [plain_caption(concept_of(test, i), "en", styles[int(test.style_ids[i])]) for i in order.tolist()]
    return test.plain(order), captions


def inception(wanted: bool) -> Features | None:
    """The network that features are of, where it is installed."""
    try:
        return load_inception() if wanted else None
    except DataError as error:
        print(f"without features: {error}", file=sys.stderr)
        return None


def measure(given: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    """All rows of the report."""
    pipe = kandinsky.load(given.model, device="cpu", batch_size=16)
    features = inception(not given.quick)
    prompts = list(PROMPTS[: given.images])
    if given.data is not None:
        prompts = held_out(given.data, int(pipe.model.defaults["width"]), given.images)[1]
    decoder = decoder_of(pipe, prompts)
    rows = curve(decoder, features, (2, 4) if given.quick else given.steps, given.quick, say)
    conditioner = pipe.model.conditioner
    if isinstance(conditioner, ImagePromptConditioner) and conditioner.stage is not None:
        scale = float(pipe.model.defaults["prior_guidance_scale"])
        rows += prior_curve(conditioner.stage, prompts, scale, given.quick)
    if given.data is not None and given.kid and features is not None:
        rows += kid_rows(pipe, given.data, given.kid, features, say)
    return rows


def main() -> None:
    """Reads the flags, measures, writes."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--model", help="a folder or Hub id; the embedded checkpoint if not given")
    flags.add_argument("--data", type=Path, help="the folder of the emoji recipe")
    flags.add_argument("--images", type=int, default=8, help="how many distances are means over")
    flags.add_argument("--steps", type=int, nargs="+", default=STEPS, help="of every sampler")
    flags.add_argument("--kid", type=int, default=64, help="how many images KID is of, 0 for none")
    flags.add_argument("--out", type=Path, default=Path("."), help="where the JSON and the PNG go")
    flags.add_argument("--docs", type=Path, help="a page whose tables are replaced")
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--quick", action="store_true", help="few steps: whether it runs, and no more")
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:6.0f} s] {text}", file=sys.stderr, flush=True)

    rows = measure(given, say)
    about = {"model": given.model or "embedded", "images": given.images, "threads": given.threads}
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
    write_atomically(given.out / "sampler-curve.json", text.encode())
    write_atomically(given.out / "sampler-curve.png", image_of(rows))
    print(tables(rows))
    if given.docs is not None:
        write_atomically(given.docs, rewritten(given.docs.read_text("utf-8"), tables(rows)).encode())


if __name__ == "__main__":
    main()
