"""Reports as pages: a curve that holds its points, and text that cannot become markup."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from kandinsky.evaluation.page import curve, markdown, page


def report(*runs: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    rows = [{"guidance_scale": value, "images": 9, "FID": fid, "CLIP score": clip} for value, fid, clip in runs]
    return {"title": "x", "runs": rows, **more}


@pytest.mark.parametrize(
    "runs",
    [
        [(1, 120.4, 21.2), (2, 98.3, 23.5), (8, 101.2, 25.4)],
        [(1, 5.0, 20.0), (2, 5.0, 20.0)],
        [(1, 0.001, 0.0), (2, 0.0011, 31.0)],
        [(1, 3000.0, -3.0), (2, 12.0, 31.0)],
    ],
)
def test_a_curve_holds_all_points_and_round_ticks(runs: list[tuple[float, float, float]]) -> None:
    picture = ET.fromstring(curve(report(*runs)))
    dots = [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in picture.iter("circle")]
    assert len(dots) == len(runs)
    assert all(60 <= x <= 560 and 20 <= y <= 340 for x, y in dots)
    for i, (_, fid, clip) in enumerate(runs):
        for j, (_, other_fid, other_clip) in enumerate(runs):
            assert (dots[i][0] < dots[j][0]) == (clip < other_clip)
            assert (dots[i][1] < dots[j][1]) == (fid > other_fid)
    texts = [one.text for one in picture.iter("text")]
    assert 3 + len(runs) <= len(texts) <= 2 + len(runs) + 14


def test_one_run_has_no_curve() -> None:
    assert curve(report((1, 2, 3))) == ""
    assert "<svg" not in page(report((1, 2, 3)))


def test_text_is_no_markup() -> None:
    bad = "<script>|\n*"
    made = report((1, 2, 3), (2, 3, 4), notes=[bad], protocol={bad: bad}, published=[[bad, 1.0, ""]])
    made["title"] = bad
    assert "<script" not in page(made)
    assert not re.search(r"\| <script>\|", markdown(made))
