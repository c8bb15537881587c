"""What is measured: every workload is one request to a model, and the part of it that counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.against_diffusers.request import Asked, Form
from benchmarks.against_diffusers.spans import Span

EMBEDDED = "embedded"
PRIOR_STEPS = 25
Kind = Literal["warm", "alone", "cold"]
"""Both sides loaded and asked in turn; one process at a time, loaded, asked once and ended, where one side
alone fills the memory; from the shell to a finished file."""
Counts = Literal["seconds", "peak"]


@dataclass(frozen=True)
class Workload:
    """A request to a model (`EMBEDDED`, or the name of one of random weights).

    `bars` are the ratios that this library wants to be ahead by, "default" against default or a dtype against
    the same; of what `counts`. `gib` is about what a float32 side needs in memory; `denoiser` is as in `Job`;
    `peer_lacks` says why the peer cannot do it.
    """

    name: str
    text: str
    model: str
    asked: Asked
    span: Span = "whole"
    kind: Kind = "warm"
    counts: Counts = "seconds"
    bars: Mapping[str, float] = field(default_factory=dict)
    gib: float = 1.0
    denoiser: int = 0
    peer_lacks: str = ""

    @property
    def only_default(self) -> bool:
        """Whether there is nothing to choose: what counts is what each side does by itself."""
        return self.kind == "cold" or self.asked.steps is None


SMALL = Asked(width=512, height=512, steps=1, sampler="ddpm", prior_steps=1, embedding=1280)
"""A request to a model of random weights."""
GUIDED = replace(SMALL, reads="embedding", steps=6)
"""So many steps as it takes for weights to be laid out once for them; that is done before the first."""
DENOISER = 1_253_057_288
"""Parameters of the U-Net of 2.2, whose other networks are measured without it."""


def _warm(form: Form, count: int) -> Workload:
    text = f"{form} of the embedded checkpoint, {count} image{'s' if count > 1 else ''}, loaded already"
    lacks = "it only repaints with U-Nets of 9 channels" if form == "inpaint" else ""
    return Workload(f"{form}-{count}", text, EMBEDDED, Asked(form=form, count=count), peer_lacks=lacks)


def _same(dtype_bar: float) -> dict[str, float]:
    return {"float32": dtype_bar, "bfloat16": dtype_bar}


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "cold-start", "shell to PNG, embedded checkpoint", EMBEDDED, Asked(), kind="cold", bars={"default": 2.3}
        ),
        *(_warm(form, count) for form in ("text2img", "img2img", "inpaint", "mix") for count in (1, 8)),
        Workload(
            "step-2.2",
            "a guided step of the 2.2 U-Net, 1.25 B parameters, 64 x 64 latents",
            "unet-2.2",
            GUIDED,
            "step",
            bars=_same(1.1) | {"default": 2.4},
            gib=6.5,
        ),
        Workload(
            "prior-2.2",
            "the 2.2 prior, 1.03 B parameters, 25 guided steps",
            "prior-2.2",
            replace(SMALL, prior_steps=PRIOR_STEPS),
            "prior",
            bars=_same(4.0) | {"default": 15.0},
            gib=5.0,
            denoiser=DENOISER,
        ),
        Workload(
            "step-2.1",
            "a guided step of the 2.1 U-Net, 1.23 B parameters, 64 x 64 latents",
            "unet-2.1",
            replace(GUIDED, reads="both", embedding=768, sampler="ddim"),
            "step",
            gib=6.5,
        ),
        Workload(
            "step-3.0-half",
            "a guided step of a 3.0 U-Net of half the width, 64 x 64 latents",
            "unet-3.0-half",
            replace(GUIDED, reads="text"),
            "step",
            gib=4.5,
        ),
        *(
            Workload(
                f"movq-{side}",
                f"MoVQ, 68 M parameters, latents to an image of {side} x {side}",
                "movq",
                replace(SMALL, reads="embedding", width=side, height=side),
                "decode",
                bars=_same(1.15) | {"default": 3.0} if side == 512 else {},
                gib=3.0 * (side / 512) ** 2,
                denoiser=DENOISER,
            )
            for side in (512, 768)
        ),
        Workload(
            "memory-2.2",
            "peak memory of text2img, 2.2 with all its parts at full size, 512 x 512, 2 steps",
            "whole-2.2",
            replace(SMALL, steps=2, prior_steps=2),
            kind="alone",
            counts="peak",
            bars={"default": 2.0},
            gib=20.0,
        ),
        Workload(
            "text2img-2.2",
            "text2img, 2.2 with all its parts at full size, 512 x 512, each side's own steps and sampler",
            "whole-2.2",
            replace(SMALL, steps=None, sampler=None, prior_steps=PRIOR_STEPS),
            kind="alone",
            bars={"default": 6.0},
            gib=20.0,
        ),
    )
}
"""All workloads by name."""


def quick(workload: Workload) -> Workload:
    """The same of a model so tiny that it takes seconds, to see that everything works."""
    asked = replace(
        workload.asked,
        width=64,
        height=64,
        count=min(workload.asked.count, 2),
        steps=None if workload.asked.steps is None else min(workload.asked.steps, 3),
        prior_steps=min(workload.asked.prior_steps, 2),
        embedding=64,
    )
    return replace(workload, asked=asked, bars={}, gib=0.5)
