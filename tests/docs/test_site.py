"""The documentation site: its references name everything, and it is built without a warning."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
import typer.main

import kandinsky
from kandinsky.cli.main import app
from kandinsky.core.requests import Request
from tests.docs.pages import REPOSITORY


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = load(REPOSITORY / "docs" / "generated.py")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_the_api_page_names_everything_public() -> None:
    text = page("api")
    assert [name for name in kandinsky.__all__ if f"kandinsky.{name}" not in text] == []
    for name in dir(kandinsky.Pipeline):
        public = not name.startswith("_") and name not in ("resolve",)
        assert not public or re.search(rf"kandinsky\.Pipeline .*\b{name}\b", text), name


def test_the_table_of_fields_has_every_field() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", GENERATED.fields(), re.MULTILINE)
    assert rows == list(Request.model_fields)


def test_the_command_reference_has_every_command_and_flag() -> None:
    text = GENERATED.filled(page("command-reference"))

    def check(command: object, path: str, parent: object) -> None:
        context = command.context_class(command, info_name=path, parent=parent)  # type: ignore[attr-defined]
        section = re.split(r"^##+ ", text[text.index(f"# `{path}`\n") :], flags=re.MULTILINE)[0]
        section = re.split(r"^##+ `kandinsky", section.partition("\n")[2], flags=re.MULTILINE)[0]
        for parameter in command.params:  # type: ignore[attr-defined]
            for flag in () if getattr(parameter, "hidden", False) else parameter.opts:
                assert not flag.startswith("-") or re.search(rf"`{flag}[ `]", section), f"{path} {flag}"
        for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
            check(command.get_command(context, name), f"{path} {name}", context)  # type: ignore[attr-defined]

    check(typer.main.get_command(app), "kandinsky", None)


def test_the_side_of_the_site_lists_each_page_once() -> None:
    table = GENERATED.contents(page("index"))
    listed = re.findall(r"^(\S+\.md)$", table, re.MULTILINE)
    assert len(listed) == len(set(listed))
    wanted = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"index.md"}
    assert wanted <= set(listed)


class Links(HTMLParser):
    """What a page of the site links to and loads, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.targets.append(given["href"])
        if tag in ("script", "img", "iframe", "source"):
            self.loaded.append(given.get("src", ""))
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(given.get("href", ""))


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    site = tmp_path / "site"
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", "docs"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(site)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "textual inversion" in (site / "searchindex.js").read_text(encoding="utf-8").lower()
    pages = {path.resolve(): Links(path) for path in site.rglob("*.html")}
    for path, found in pages.items():
        assert not [one for one in found.loaded if urlsplit(one).netloc], f"{path.name} loads from a network"
        for target in found.targets:
            where = urlsplit(target)
            if where.scheme or where.netloc:
                continue
            aim = (path.parent / unquote(where.path)).resolve() if where.path else path
            assert aim.exists(), f"{path.name}: {target}"
            if where.fragment and aim in pages:
                assert unquote(where.fragment) in pages[aim].places, f"{path.name}: {target}"
    text = (site / "docs" / "api.html").read_text(encoding="utf-8")
    for name in ("kandinsky.load", "kandinsky.Pipeline.generate", "kandinsky.Result.grid", "kandinsky.RequestError"):
        assert f'id="{name}"' in text, name
