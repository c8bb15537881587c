"""What of diffusers' own tests does not pass against the facade is listed with a reason, and still true."""

import json
from pathlib import Path
from typing import Any

import pytest

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import RequestError

SUITE = json.loads((Path(__file__).parent / "diffusers_suite.json").read_text(encoding="utf-8"))
ROWS = [row for part in ("pipelines", "schedulers") for row in SUITE[part]["rest"]]


def count(row: dict[str, Any]) -> int:
    return int(row.get("count", len(row["tests"]) * len(row["classes"])))


def table() -> str:
    """The rows of docs/compat.md."""
    lines = []
    for row in ROWS:
        tests, classes = (", ".join(f"`{name}`" for name in row[key]) for key in ("tests", "classes"))
        lines.append(f"| {tests} | {classes} | {count(row)} | {row['reason']} |")
    return "\n".join(lines)


def test_the_page_lists_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")
    assert table() in page, table()
    for part in ("pipelines", "schedulers"):
        run = SUITE[part]["run"]
        assert f"{run - sum(map(count, SUITE[part]['rest']))} of {run}" in page


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["tests"][0]))
def test_each_reason_holds(row: dict[str, Any]) -> None:
    """Private names are not there, and settings are refused: where that changes, the row goes."""
    if "lacks" in row:
        assert not hasattr(getattr(compat, row["lacks"]["of"]), row["lacks"]["name"])
    for name in row["classes"] if "refused" in row else ():
        with pytest.raises(RequestError):
            getattr(compat, name)(**row["refused"])
