"""One chart of several runs of `benchmarks.against_diffusers` on the same machine.

    python -m benchmarks.join_results RUN/bench.json ANOTHER/bench.json --out chart.png

A row that several files hold is taken from the last of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.against_diffusers.chart import draw_chart
from benchmarks.against_diffusers.compare import Measured, Row
from benchmarks.against_diffusers.run import Plan, Results
from benchmarks.against_diffusers.workloads import WORKLOADS


def row(told: dict[str, Any]) -> Row:
    """A row as `benchmarks.against_diffusers` wrote it."""
    fields = ("dtype", "notes", "seconds", "peaks", "device_peaks", "operations")
    sides = {name: Measured(**{k: side[k] for k in fields}) for name, side in told["sides"].items()}
    return Row(WORKLOADS[told["workload"]], told["pairing"], sides, rates=told["rates"])


def joined(files: list[Path]) -> Results:
    """All rows, in the order of the workloads."""
    found: dict[tuple[str, str], Row] = {}
    machines = []
    for file in files:
        told = json.loads(file.read_text(encoding="utf-8"))
        machines.append(told["machine"])
        found |= {(each["workload"], each["pairing"]): row(each) for each in told["rows"]}
    order = list(WORKLOADS)
    rows = sorted(found.values(), key=lambda each: order.index(each.workload.name))
    return Results(machines[-1], Plan(), rows)


def main() -> None:
    """Reads the flags."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("files", nargs="+", type=Path)
    flags.add_argument("--out", required=True, type=Path)
    given = flags.parse_args()
    given.out.write_bytes(draw_chart(joined(given.files)))


if __name__ == "__main__":
    main()
