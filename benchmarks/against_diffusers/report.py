"""Results as Markdown and as JSON."""

from collections.abc import Sequence
from typing import Any

from benchmarks.against_diffusers.compare import Measured, Row
from benchmarks.against_diffusers.run import Results

HEAD = (
    "workload",
    "pairing",
    "ours",
    "diffusers",
    "ahead",
    "min .. max",
    "peak ours",
    "peak diffusers",
    "share ours",
    "share diffusers",
    "difference",
)
NONE = "–"


def markdown(results: Results) -> str:
    """The machine, a table with a line for each row, what was left out, and what the columns mean."""
    lines = [_machine(results), "", _line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(_cells(row)) for row in results.rows]
    if results.skipped:
        lines += ["", "Left out:", "", *(f"- {label}: {reason}" for label, reason in results.skipped)]
    lines += ["", *_meaning(results.rows)]
    return "\n".join(lines) + "\n"


def to_json(results: Results) -> dict[str, Any]:
    """Everything that was noted: seconds, peaks in bytes, rates in operations a second."""
    return {
        "machine": {key: value for key, value in results.machine.items() if key != "free"},
        "rates": results.rates,
        "runs": results.plan.runs,
        "quick": results.plan.quick,
        "rows": [_row(row) for row in results.rows],
        "skipped": [{"row": label, "reason": reason} for label, reason in results.skipped],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "workload": row.workload.name,
        "text": row.workload.text,
        "pairing": row.pairing,
        "kind": row.workload.kind,
        "sides": {name: _side(side) | {"share": row.share(name)} for name, side in row.sides.items()},
        "ratios": row.ratios,
        "ratio": row.ratio,
        "bar": row.bar,
        "difference": row.difference,
        "rates": row.rates,
    }


def _side(side: Measured) -> dict[str, Any]:
    return {
        "dtype": side.dtype,
        "notes": side.notes,
        "load_seconds": side.load_seconds,
        "seconds": side.seconds,
        "median": side.median,
        "peaks": side.peaks,
        "device_peaks": side.device_peaks,
        "operations": side.operations,
    }


def _machine(results: Results) -> str:
    found = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    rates = ", ".join(f"{dtype} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in results.rates.items())
    where = f"{found['device']}, {found['threads']} threads"
    return f"{where}; {versions}. Matrix products in the same run: {rates}."


def _cells(row: Row) -> list[str]:
    ours, peer = row.sides.get("ours"), row.sides.get("peer")
    span = f"{min(row.ratios):.2f} .. {max(row.ratios):.2f}" if row.ratios else NONE
    return [
        row.workload.name,
        row.pairing,
        *(_time(side) for side in (ours, peer)),
        NONE if row.ratio is None else f"{row.ratio:.2f}x",
        span,
        *(NONE if side is None else f"{side.peak / 2**20:.0f} MiB" for side in (ours, peer)),
        *(_share(row.share(side)) for side in ("ours", "peer")),
        NONE if row.difference is None else f"{row.difference[0]:.2f} / {row.difference[1]:.0f}",
    ]


def _time(side: Measured | None) -> str:
    if side is None:
        return NONE
    return f"{seconds(side.median)} {side.dtype}".strip()


def seconds(value: float) -> str:
    """As people read it: 12.3 s, 4.56 s, 78 ms."""
    if value >= 10:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _share(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _meaning(rows: Sequence[Row]) -> list[str]:
    done = {row.workload.name: row.workload.text for row in rows}
    return [
        *(f"- `{name}`: {text}." for name, text in done.items()),
        "- Times are medians; *ahead* is the median of diffusers' over ours, pair by pair (of peaks of "
        "memory where those are the aim). *share* is of the rate of matrix products, by the operations that "
        "the side itself does. *difference* is the mean and the largest one of the images, in levels of "
        "255.",
    ]
