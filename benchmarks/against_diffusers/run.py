"""A whole run: workloads in their pairings, the models they need, the machine's rate, the results."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.against_diffusers.compare import DEFAULT, Row, Setting, compare
from benchmarks.against_diffusers.processes import BenchError, Child
from benchmarks.against_diffusers.request import Asked
from benchmarks.against_diffusers.workloads import EMBEDDED, WORKLOADS, Workload, quick
from kandinsky.core.errors import RequestError, nearest
from kandinsky.engine.embedded import embedded_folder

SIDES = ("ours", "ours-best", "peer", "peer-best")
"""Each library as it comes, and at its best in a dtype that both are given."""
BEST = "-best"
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float16",)}
QUICK_RATE_SIDE = 128
"""Rows of the matrices whose products tell the rate: where models are tiny it means nothing either."""
USUAL_STEPS = 25
"""Of a guided step on a GPU, where the second step is recorded for all that follow."""
GIB = 2**30
Say = Callable[[str], None]
Keep = Callable[["Results"], None]


@dataclass(frozen=True)
class Plan:
    """What to measure and how.

    `dtypes` are those of the "best" sides, by default the usual ones of the `device`. `weights` is where
    folders of random weights are kept, None for a temporary place; `prior_steps` replaces the number of steps
    where the prior is what counts. Raises RequestError for names that there are not, and for no runs.
    """

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    sides: tuple[str, ...] = SIDES
    dtypes: tuple[str, ...] = ()
    runs: int = 5
    threads: int = 0
    device: str = "cpu"
    quick: bool = False
    compiled: bool = False
    weights: Path | None = None
    prior_steps: int | None = None

    def __post_init__(self) -> None:
        for name in self.workloads:
            if name not in WORKLOADS:
                raise RequestError(f"There is no workload {name!r}.", nearest(name, WORKLOADS))
        for side in self.sides:
            if side not in SIDES:
                raise RequestError(f"There is no side {side!r}.", nearest(side, SIDES))
        if self.runs < 1:
            raise RequestError(f"{self.runs} runs measure nothing.", "Use 1 or more.")

    @property
    def best_dtypes(self) -> tuple[str, ...]:
        """What the "best" sides compute in."""
        return self.dtypes or DTYPES.get(self.device.partition(":")[0], ("float16",))

    def chosen(self) -> Iterator[Workload]:
        """The workloads as they will be asked."""
        for name in self.workloads:
            workload = WORKLOADS[name]
            if workload.model == EMBEDDED:
                workload = replace(workload, asked=_as_embedded(workload.asked))
            if workload.span == "step" and self.device != "cpu":
                workload = replace(workload, asked=replace(workload.asked, steps=USUAL_STEPS))
            if workload.span == "prior" and self.prior_steps is not None:
                workload = replace(workload, asked=replace(workload.asked, prior_steps=self.prior_steps))
            yield quick(workload) if self.quick else workload

    def pairings(self, workload: Workload) -> Iterator[tuple[str, list[str]]]:
        """Each pairing with the libraries that take part in it: "ours" and "peer", or one of them."""
        able = [side for side in self.sides if not (workload.peer_lacks and side.startswith("peer"))]
        plain = [side for side in able if not side.endswith(BEST)]
        best = [side.removesuffix(BEST) for side in able if side.endswith(BEST)]
        if plain:
            yield DEFAULT, plain
        if best and not workload.only_default:
            for dtype in self.best_dtypes:
                yield dtype, best


@dataclass
class Results:
    """All that was measured: the machine, a row for each pairing, what was left out and why."""

    machine: dict[str, Any]
    plan: Plan
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rates(self) -> dict[str, float]:
        """The machine's operations a second in matrix products by dtype, the median over the rows."""
        dtypes = dict.fromkeys(dtype for row in self.rows for dtype in row.rates)
        return {k: median(row.rates[k] for row in self.rows if k in row.rates) for k in dtypes}


def run(plan: Plan, say: Say, keep: Keep = lambda _: None) -> Results:
    """Does all of a plan; `say` is told of each row as it begins, `keep` of the results after each.

    A row that fails is left out with what was said. Raises OutputError when models cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="kandinsky-bench-") as name, ExitStack() as stack:
        scratch = Path(name)
        setting = Setting(plan.runs, plan.threads, plan.device, scratch, plan.compiled)
        machine = stack.enter_context(Child(scratch / "machine.log", plan.threads, plan.device))
        results = Results(machine.ask("machine"), plan)
        for workload in plan.chosen():
            if workload.peer_lacks:
                results.skipped.append((f"{workload.name}, the peer", workload.peer_lacks))
            try:
                folder = _folder(workload, plan, scratch, say)
            except BenchError as error:
                results.skipped.append((workload.name, str(error)))
                continue
            for pairing, sides in plan.pairings(workload):
                label = f"{workload.name}, {pairing}"
                say(f"{label}: {' against '.join(sides)}")
                try:
                    _check_room(workload, pairing, len(sides), machine)
                    before = _rates(machine, plan)
                    row = compare(workload, pairing, sides, folder, setting)
                    row.rates = {k: (rate + before[k]) / 2 for k, rate in _rates(machine, plan).items()}
                    results.rows.append(row)
                except BenchError as error:
                    results.skipped.append((label, str(error)))
                keep(results)
            if workload.model != EMBEDDED and plan.weights is None:
                shutil.rmtree(folder)
        return results


def _rates(machine: Child, plan: Plan) -> dict[str, float]:
    """The machine's rate of matrix products, by dtype."""
    dtypes = dict.fromkeys(("float32", *plan.best_dtypes))
    side = QUICK_RATE_SIDE if plan.quick else None
    return {dtype: machine.ask("rate", dtype=dtype, side=side)["rate"] for dtype in dtypes}


def _as_embedded(asked: Asked) -> Asked:
    """The embedded checkpoint's own defaults, which its folder states, told to both sides."""
    root = embedded_folder()

    def read(*names: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(root.joinpath(*names).read_text(encoding="utf-8"))
        return found

    unet, movq = read("unet", "config.json"), read("movq", "config.json")
    side = unet["sample_size"] * 2 ** (len(movq["block_out_channels"]) - 1)
    own = {k: v for k, v in read("kandinsky.json")["defaults"].items() if k in Asked.__dataclass_fields__}
    return replace(asked, **{"width": side, "height": side} | own)


def _folder(workload: Workload, plan: Plan, scratch: Path, say: Say) -> Path:
    if workload.model == EMBEDDED:
        return embedded_folder()
    root = (plan.weights or scratch) / ("quick" if plan.quick else "full")
    say(f"{workload.name}: random weights of {workload.model}")
    with Child(scratch / "make.log", plan.threads, "cpu") as maker:
        maker.ask("make", root=str(root), name=workload.model, tiny=plan.quick)
    return root / workload.model


def _check_room(workload: Workload, pairing: str, sides: int, machine: Child) -> None:
    """Raises BenchError for a row that would not fit into the memory that is free."""
    free = machine.ask("machine")["free"]
    half = pairing in ("bfloat16", "float16")
    needed = workload.gib * (0.6 if half else 1) * (1 if workload.kind == "alone" else sides)
    if free is not None and needed * GIB > free:
        raise BenchError(f"It needs about {needed:.0f} GiB, {free / GIB:.0f} GiB are free.")
