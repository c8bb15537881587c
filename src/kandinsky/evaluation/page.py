"""A report as JSON becomes a page: Markdown or HTML, with all that a stranger needs to get the same number."""

import html
import math
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

RESULTS = "Results"


def markdown(report: Mapping[str, JsonValue]) -> str:
    """The report as Markdown."""
    parts = [f"# {report['title']}\n"]
    parts += [f"{text}\n" for text in _texts(report)]
    for title, head, rows in _tables(report):
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def page(report: Mapping[str, JsonValue]) -> str:
    """The report as one HTML page without scripts or files beside it."""
    title = html.escape(str(report["title"]))
    parts = [f"<h1>{title}</h1>", *(f"<p>{html.escape(text)}</p>" for text in _texts(report))]
    for heading, head, rows in _tables(report):
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(cell, mark=False))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        parts.append(f"<h2>{html.escape(heading)}</h2><table><tr>{cells}</tr>{body}</table>")
        if heading == RESULTS:
            parts.append(curve(report))
    style = (
        "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "td,th{padding:.2em 1em .2em 0;text-align:left}"
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def curve(report: Mapping[str, JsonValue]) -> str:
    """FID over CLIP score as an SVG picture, a dot for each value of the swept field; "" for fewer than two runs."""
    runs = report.get("runs")
    rows = [one for one in runs if isinstance(one, dict)] if isinstance(runs, list) else []
    if len(rows) < 2:
        return ""
    name = next(iter(rows[0]))
    points = [(float(str(one["CLIP score"])), float(str(one["FID"])), _cell(one[name])) for one in rows]
    across, up = _Axis([x for x, _, _ in points], 60, 560), _Axis([y for _, y, _ in points], 340, 20)
    line = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y, _ in points)
    parts = [f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/>']
    for x, y, text in points:
        left, top = across.at(x), up.at(y)
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4"/>')
        parts.append(f'<text x="{left + 8:.1f}" y="{top - 8:.1f}">{html.escape(text)}</text>')
    parts.append('<path d="M60 20V340H560" fill="none" stroke="currentColor" stroke-opacity=".4"/>')
    for value in across.ticks():
        parts.append(f'<text x="{across.at(value):.1f}" y="360" text-anchor="middle">{value:g}</text>')
    for value in up.ticks():
        parts.append(f'<text x="52" y="{up.at(value) + 5:.1f}" text-anchor="end">{value:g}</text>')
    parts.append('<text x="310" y="385" text-anchor="middle">CLIP score</text><text x="60" y="12">FID</text>')
    words = html.escape(f"FID over CLIP score for each {name}")
    return (
        f'<figure><svg viewBox="0 0 600 395" role="img" aria-label="{words}" fill="currentColor" font-size="14" '
        f'style="max-width:600px">{"".join(parts)}</svg><figcaption>{words}</figcaption></figure>'
    )


class _Axis:
    """Values along a line from `first` to `last`, in pixels, with room at both ends."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        low, high = min(values), max(values)
        room = (high - low) * 0.1 or 1.0
        self.low, self.high, self.first, self.last = low - room, high + room, first, last

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.first + (self.last - self.first) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Three to seven round values."""
        step = 10 ** math.floor(math.log10(self.high - self.low))
        step = next(one for one in (step / 5, step / 2, step, step * 2) if (self.high - self.low) / one < 7)
        count = math.floor(self.high / step) - math.ceil(self.low / step) + 1
        return [round((math.ceil(self.low / step) + i) * step, 10) for i in range(count)]


def _texts(report: Mapping[str, JsonValue]) -> list[str]:
    notes = report.get("notes")
    return [str(one) for one in notes] if isinstance(notes, list) else []


Table = tuple[str, Sequence[str], Sequence[Sequence[JsonValue]]]


def _tables(report: Mapping[str, JsonValue]) -> list[Table]:
    found: list[Table] = []
    runs, protocol, published = report.get("runs"), report.get("protocol"), report.get("published")
    if isinstance(runs, list):
        rows = [one for one in runs if isinstance(one, dict)]
        head = list(rows[0]) if rows else []
        found.append((RESULTS, head, [[row.get(name) for name in head] for row in rows]))
    if isinstance(published, list):
        found.append(
            ("FID on COCO-30k, zero-shot", ("model", "FID", ""), [row for row in published if isinstance(row, list)])
        )
    if isinstance(protocol, dict):
        found.append(("How it was measured", ("what", "value"), [[name, value] for name, value in protocol.items()]))
    return found


def _cell(value: JsonValue, *, mark: bool = True) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4g}"
        case str():
            return value.replace("|", "\\|").replace("\n", " ") if mark else value
        case _:
            return str(value)
