"""`kandinsky train --plan`: the memory of a step as a table, before anything is downloaded or drawn."""

from pathlib import Path
from typing import Any

from kandinsky.cli.console import say
from kandinsky.training.memory_plan import Plan

MIB = 2**20
HALF = {"bf16": "bf16", "fp16": "fp16", "fp32": "bf16"}
"""The half precision to compare with, by what is set."""


def show(path: Path, changes: dict[str, Any]) -> None:
    """Prints what a step of a run takes, and how precision and gradient checkpointing change it."""
    from kandinsky.training.config import read_config
    from kandinsky.training.memory_plan import plan

    config = read_config(path, changes)
    stage = config.stage[0]
    planned = plan(config)
    say("\n".join(lines(planned)))
    say(f"\n{'MiB at the peak':24}{'plain':>12}{'checkpointed':>14}")
    for precision in ("fp32", HALF[stage.precision]):
        peaks = []
        for recomputed in (False, True):
            same = (precision, recomputed) == (stage.precision, stage.gradient_checkpointing)
            found = planned if same else plan(config, precision=precision, gradient_checkpointing=recomputed)
            peaks.append(found.peak / MIB)
        say(f"{precision:24}{peaks[0]:12,.0f}{peaks[1]:14,.0f}")


def lines(planned: Plan) -> list[str]:
    """The table of one plan, line by line."""
    stage = planned.stage
    batch = f"batch {stage.batch}" + (f" x {stage.accumulate}" if stage.accumulate > 1 else "")
    how = [batch, f"{planned.size} px", stage.precision, stage.optimiser.kind]
    how += ["gradient checkpointing"] * stage.gradient_checkpointing
    rows: list[tuple[str, int | None, int]] = [
        (name, count, size) for name, (count, size) in planned.networks.items()
    ]
    rows += [
        ("learns", planned.numbers, planned.learned),
        ("gradients", None, planned.gradients),
        ("optimiser", None, planned.optimiser),
        ("running mean", None, planned.means),
        ("activations", None, planned.activations),
        ("peak", None, planned.peak),
    ]
    table = [
        f"{name:24}{'' if count is None else format(count, ','):>16}{size / MIB:12,.1f}"
        for name, count, size in rows
    ]
    title = f"{stage.method} on {planned.device}: {', '.join(how)}"
    return [title, f"{'':24}{'numbers':>16}{'MiB':>12}", *table]
