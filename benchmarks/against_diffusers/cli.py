"""The command `python -m benchmarks.against_diffusers`: flags to a plan, results to files."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.against_diffusers.chart import draw_chart
from benchmarks.against_diffusers.libraries import check_installed
from benchmarks.against_diffusers.report import markdown, to_json
from benchmarks.against_diffusers.run import Plan, Results, run
from kandinsky.cli.console import err, interruptible, report, say
from kandinsky.core.errors import KandinskyError
from kandinsky.core.files import check_writable, write_atomically

NAME = "python -m benchmarks.against_diffusers"
NAMES = ("bench.md", "bench.json", "bench.png")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@interruptible
def command(
    workloads: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKLOAD]...", help="What to measure; all if not given.")
    ] = None,
    side: Annotated[list[str] | None, typer.Option(help="ours, ours-best, peer or peer-best; repeat it.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="What the best sides compute in; repeat it.")] = None,
    runs: Annotated[int, typer.Option(help="How often each side is measured.")] = 5,
    threads: Annotated[int, typer.Option(help="Of the CPU; 0 is the usual number.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    prior_steps: Annotated[int | None, typer.Option(help="Where the prior is what counts.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="The best sides compiled; ours on a GPU only.")] = False,
    small: Annotated[bool, typer.Option("--quick", help="Tiny models: see that all of it works.")] = False,
    weights: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the random weights here.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the table, JSON and a chart here.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The table only.")] = False,
) -> None:
    """Measure speed and memory beside diffusers, on the same weights."""
    given = {"workloads": workloads, "sides": side, "dtypes": dtype}
    plan = Plan(
        **{name: tuple(values) for name, values in given.items() if values},
        runs=runs,
        threads=threads,
        device=device,
        quick=small,
        compiled=compiled,
        weights=weights,
        prior_steps=prior_steps,
    )
    bench(plan, out, quiet=quiet)


def main() -> None:
    """Runs the command and ends the process: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    try:
        app(prog_name=NAME)
    except KandinskyError as error:
        report(error)
        sys.exit(1)


def bench(plan: Plan, out: Path | None, *, quiet: bool) -> None:
    """Measures, prints the table, and keeps it up to date as `NAMES` in the folder `out` where one is given.

    Raises ConfigError where the peer is asked for and missing, OutputError for a folder that takes no files.
    """
    if any(side.startswith("peer") for side in plan.sides):
        check_installed()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            check_writable(out / name)
    console = err()

    def keep(results: Results) -> None:
        if out is not None:
            contents = (markdown(results).encode(), _as_json(results), draw_chart(results))
            for name, content in zip(NAMES, contents, strict=True):
                write_atomically(out / name, content)

    results = run(plan, lambda line: None if quiet else console.print(line, markup=False), keep)
    say(markdown(results).rstrip())


def _as_json(results: Results) -> bytes:
    return json.dumps(to_json(results), indent=1).encode()
