"""Rows of several runs in one image: what was written is read again."""

import json
from pathlib import Path

from benchmarks.against_diffusers.compare import Measured, Row
from benchmarks.against_diffusers.report import to_json
from benchmarks.against_diffusers.run import Plan, Results
from benchmarks.against_diffusers.workloads import WORKLOADS
from benchmarks.join_results import joined


def written(file: Path, *rows: Row) -> Path:
    machine = {"device": "a machine", "threads": 2, "versions": {}}
    file.write_text(json.dumps(to_json(Results(machine, Plan(), list(rows)))), encoding="utf-8")
    return file


def row(name: str, ours: float, peer: float) -> Row:
    sides = {
        "ours": Measured("float32", seconds=[ours], peaks=[5]),
        "peer": Measured("float32", seconds=[peer], peaks=[9]),
    }
    return Row(WORKLOADS[name], "default", sides, rates={"float32": 1e9})


def test_the_last_of_a_row_counts_and_workloads_keep_their_order(tmp_path: Path) -> None:
    first = written(tmp_path / "1.json", row("movq-512", 2, 3), row("step-2.2", 1, 9))
    second = written(tmp_path / "2.json", row("movq-512", 2, 6), row("cold-start", 1, 2))
    found = joined([first, second])
    assert [(each.workload.name, each.ratio) for each in found.rows] == [
        ("cold-start", 2.0),
        ("step-2.2", 9.0),
        ("movq-512", 3.0),
    ]
    assert found.rows[2].sides["peer"].peak == 9
    assert found.machine["device"] == "a machine"
