"""Damaged files of every kind are refused in one line or read: no other exception, no waiting, no death.

Two hundred mutants of each kind here; `-m slow` reads three thousand, with the seed of FUZZ_SEED.
"""

import mmap
import os
from pathlib import Path

import pytest

from tests.fuzz.kinds import KINDS, Model
from tests.fuzz.run import ADDRESS_SPACE, fuzz

SEED = int(os.environ.get("FUZZ_SEED", "1"))


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models lie that files are read for."""
    Model.root = tmp_path_factory.mktemp("fuzz")
    return Model.root


@pytest.mark.parametrize("name", KINDS)
def test_mutants(name: str, root: Path) -> None:
    report = fuzz(KINDS[name], 200, SEED, root / name)
    assert not report.bad, str(report)
    assert report.counts.total() == 200


def test_a_reader_has_its_memory_beside_what_its_process_has(root: Path) -> None:
    with mmap.mmap(-1, ADDRESS_SPACE + (1 << 30), mmap.MAP_PRIVATE):
        report = fuzz(KINDS["requests"], 10, SEED, root / "beside")
    assert not report.bad, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_mutants(name: str, root: Path) -> None:
    report = fuzz(KINDS[name], 3000, SEED, root / f"many-{name}")
    print(report)
    assert not report.bad, str(report)
