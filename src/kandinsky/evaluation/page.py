"""A report as JSON becomes a page: Markdown or HTML, with all that a stranger needs to get the same number."""

import html
from collections.abc import Mapping, Sequence

from pydantic import JsonValue


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
    style = (
        "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "td,th{padding:.2em 1em .2em 0;text-align:left}"
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head><body>{''.join(parts)}</body></html>\n"
    )


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
        found.append(("Results", head, [[row.get(name) for name in head] for row in rows]))
    if isinstance(published, list):
        found.append(
            ("FID on COCO-30k, zero-shot", ("model", "FID"), [row for row in published if isinstance(row, list)])
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
