"""What is installed is what the checkout holds: package data, type marker, licences, the command."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import REPOSITORY

NAME = "kandinsky-diffusion"
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOLS = SETTINGS["project"], SETTINGS["tool"]


@pytest.fixture(scope="module")
def installed() -> metadata.Distribution:
    """The distribution, where it was installed as a wheel: else there are no files to compare."""
    try:
        found = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        pytest.skip("run from a checkout that is not installed")
    if not any(file.as_posix() == "kandinsky/__init__.py" for file in found.files or []):
        pytest.skip("installed in place")
    return found


def test_every_file_of_the_package_is_installed(installed: metadata.Distribution) -> None:
    source = REPOSITORY / "src" / "kandinsky"
    wanted = {
        f"kandinsky/{path.relative_to(source).as_posix()}"
        for path in source.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    }
    assert {"kandinsky/py.typed", "kandinsky/training/recipes/emoji.toml"} <= wanted
    assert sorted(wanted - {file.as_posix() for file in installed.files or []}) == []


def test_the_licence_is_installed(installed: metadata.Distribution) -> None:
    assert any(Path(file).name == "LICENSE" for file in installed.files or [])
    assert installed.metadata["License-Expression"] == PROJECT["license"]


def test_the_command_and_the_name_lead_to_the_package(installed: metadata.Distribution) -> None:
    (command,) = installed.entry_points.select(group="console_scripts")
    assert command.name == "kandinsky"
    assert callable(command.load())
    assert installed.version == PROJECT["version"]


def test_the_changelog_begins_with_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = text.split("\n## ")[1]
    assert PROJECT["version"] in newest


def test_the_citation_is_of_this_version_and_licence() -> None:
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["title"] == PROJECT["name"]


@pytest.mark.parametrize("path", sorted((REPOSITORY / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_templates_are_understood(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.stem == "config" or {"name", "description", "body"} <= form.keys()


def test_tests_alone_need_the_oracles() -> None:
    needed = " ".join(PROJECT["dependencies"])
    for oracle in ("diffusers", "transformers", "peft", "sentencepiece", "torchvision"):
        assert oracle not in needed


def test_links_of_the_readme_are_absolute_on_an_index() -> None:
    hook = TOOLS["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    shown = "".join((REPOSITORY / part["path"]).read_text(encoding="utf-8") for part in hook["fragments"])
    for change in hook["substitutions"]:
        shown = re.sub(change["pattern"], change["replacement"], shown)
    targets = re.findall(r"\]\(([^)\s]+)\)", shown)
    assert len(targets) > 30
    source = PROJECT["urls"]["Source"]
    raw = source.replace("github.com", "raw.githubusercontent.com")
    for target in targets:
        place, _, path = target.partition("/main/")
        assert place in (f"{source}/blob", raw), target
        assert (REPOSITORY / path.partition("#")[0]).exists(), target
