"""What is built: a wheel of the sources alone, and a source distribution that holds and passes its tests."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
LEFT_OUT = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.safetensors", "*.png", "build", "dist", "runs")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, without weights so that it is quick; an earlier build left a module in it."""
    pytest.importorskip("hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme")
    copy = tmp_path_factory.mktemp("checkout") / "kandinsky"
    shutil.copytree(REPOSITORY, copy, ignore=LEFT_OUT)
    stale = copy / "build" / "lib" / "kandinsky"
    stale.mkdir(parents=True)
    (stale / "stale.py").write_text("")
    return copy


def built(checkout: Path, kind: str) -> Path:
    """A distribution by the build backend that pyproject names."""
    program = f"import hatchling.build as backend; print(backend.build_{kind}('dist'))"
    made = subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True, capture_output=True, text=True)
    return checkout / "dist" / made.stdout.split()[-1]


def test_a_wheel_holds_the_sources_and_nothing_stale(checkout: Path) -> None:
    with zipfile.ZipFile(built(checkout, "wheel")) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        about = wheel.read(metadata).decode()
    source = checkout / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == files
    assert {"kandinsky/py.typed", "kandinsky/training/configs/2.2-lora.toml"} <= names
    assert "/main/docs/install.md)" in about
    assert "](docs/" not in about, "a link of the README that leads nowhere on an index"
    assert any(name.endswith("licenses/src/kandinsky/assets/emoji/NOTICE") for name in names)


def test_a_source_distribution_passes_its_tests(checkout: Path, tmp_path: Path) -> None:
    with tarfile.open(built(checkout, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for name in (".ci/run", "README.md", "docs/index.md", "benchmarks/RESULTS.md", "recipes/emoji/build.py"):
        assert (unpacked / name).is_file(), name
    assert not (unpacked / "build").exists()
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            # Trains the embedded checkpoint, whose weights this copy lacks.
            "--deselect",
            "tests/architecture/test_layers.py::test_fine_tuning_reads_nothing_of_recipes",
            "tests/architecture",
            "tests/training/test_configs.py",
        ],
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
