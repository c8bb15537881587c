"""The numbers of the sampler curve as Markdown, and their place in a page."""

from collections.abc import Sequence
from typing import Any

from kandinsky.core.errors import DataError

BEGIN, END = "<!-- sampler curve: begin -->", "<!-- sampler curve: end -->"
Row = dict[str, Any]


def tables(rows: Sequence[Row]) -> str:
    """All tables, one below the other."""
    parts = [
        _by_calls("sampler", "decoder, by network calls", rows, "calls"),
        _by_calls("published", "as published, by steps", rows, "steps"),
        _by_calls("spacing", "`dpmpp_2m`, times spaced, by steps", rows, "steps"),
        _by_calls("prior", "prior, by network calls", rows, "calls"),
        _options([row for row in rows if row["kind"] == "option"]),
        _kid([row for row in rows if row["kind"] == "kid"]),
    ]
    return "\n\n".join(part for part in parts if part)


def rewritten(page: str, new: str) -> str:
    """The page with `new` between its marks; DataError where it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise DataError(f"The page has no marks {BEGIN} and {END}.", "Put them where the tables go.")
    return f"{head}{BEGIN}\n\n{new}\n\n{END}{tail}"


def _by_calls(kind: str, title: str, rows: Sequence[Row], axis: str) -> str:
    rows = [row for row in rows if row["kind"] == kind]
    columns = sorted({row[axis] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    if not rows:
        return ""
    lines = [f"| {title} | {' | '.join(map(str, columns))} |", "| --- |" + " --- |" * len(columns)]
    for name in names:
        there = {row[axis]: row["latents"] for row in rows if row["name"] == name}
        cells = [f"{there[column]:.3f}" if column in there else "" for column in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _options(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = ["| option | work of the network | distance in latents | in features |", "| --- |" + " --- |" * 3]
    for row in rows:
        features = "" if row["features"] is None else f"{row['features']:.3f}"
        lines.append(f"| `{row['name']}` | {row['work']:.2f} | {row['latents']:.3f} | {features} |")
    return "\n".join(lines)


def _kid(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = ["| request | KID | deviation |", "| --- | --- | --- |"]
    lines += [f"| `{row['name']}` | {row['kid']:.4f} | {row['std']:.4f} |" for row in rows]
    return "\n".join(lines)
