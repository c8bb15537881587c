"""`kandinsky bench`: flags become a plan, its results a table, a file of JSON and a picture."""

import json
from pathlib import Path

from kandinsky.bench.chart import draw_chart
from kandinsky.bench.libraries import check_installed
from kandinsky.bench.report import markdown, to_json
from kandinsky.bench.run import Plan, Results, run
from kandinsky.cli.console import err, say
from kandinsky.core.files import check_writable, write_atomically

NAMES = ("bench.md", "bench.json", "bench.png")


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
