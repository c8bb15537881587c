"""What the site makes of the library itself: the references of its Python names, request fields and commands."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MARK = re.compile(r"^<!-- generated: (\w+)((?: [\w.]+)*) -->$", re.MULTILINE)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]+\.md)\)")
_FIELD = re.compile(r"^    (\w+) \((.+?)\): (.+)$", re.MULTILINE)
TAKEN: dict[object, str] = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
"""What an option takes, by its type."""
FUNCTION, CLASS, MODULE = "autofunction", "autoclass", "automodule"


def fill(app: Any, name: str, source: list[str]) -> None:
    """Puts what is generated into the source of a page; for Sphinx's event `source-read`."""
    source[0] = filled(source[0])
    if name == app.config.root_doc:
        source[0] += contents(source[0])


def filled(text: str) -> str:
    """A page with what each of its marks stands for."""
    return MARK.sub(lambda match: MADE[match[1]](*match[2].split()), text)


def redirect(app: Any, error: Exception | None) -> None:
    """Leads from the top of the site to its first page; for Sphinx's event `build-finished`."""
    if error is None and app.builder.format == "html":
        start = f"{app.config.root_doc}.html"
        page = (
            f'<!doctype html><meta http-equiv="refresh" content="0; url={start}"><a href="{start}">Documentation</a>\n'
        )
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def contents(index: str) -> str:
    """A table of contents for the side of the site: the sections of the index, each with the pages it links to."""
    parts = _SECTION.split(index)
    made, seen = "", set()
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        pages = [page for page in dict.fromkeys(_LINK.findall(text)) if page not in seen]
        seen |= set(pages)
        made += "\n\n:::{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(pages) + "\n:::\n"
    return made


def python(kind: str, name: str, *options: str) -> str:
    """A documented name of the library, by autodoc; options are `members` or names of members."""
    lines = [f".. {kind}:: {name}"]
    if options:
        lines.append(f"   :members:{'' if options == ('members',) else ' ' + ', '.join(options)}")
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```\n"


def fields() -> str:
    """Every field of a request as a table, from its declaration."""
    from kandinsky.core.signatures import field_docs

    lines = ["| field | type, range and default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {_cell(facts)} | {_cell(says)} |" for name, facts, says in _FIELD.findall(field_docs())]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its arguments and options, from the declarations that `--help` shows."""
    import typer.main

    from kandinsky.cli.main import app

    return "\n".join(_commands(typer.main.get_command(app), "kandinsky", None))


def _commands(command: Any, path: str, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=path.rsplit(maxsplit=1)[-1], parent=parent)
    yield f"{'##' if parent is None else '##' + '#' * (path.count(' ') - 1)} `{path}`\n"
    yield f"{(command.help or '').strip()}\n"
    panels: dict[str, list[Any]] = {}
    for parameter in command.get_params(context):
        if not getattr(parameter, "hidden", False):
            panel = "Arguments" if parameter.param_type_name == "argument" else None
            panels.setdefault(panel or getattr(parameter, "rich_help_panel", None) or "Options", []).append(parameter)
    for title, rows in panels.items():
        yield f"| {title} | |\n| --- | --- |"
        yield from (_row(parameter) for parameter in rows)
        yield ""
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _commands(command.get_command(context, name), f"{path} {name}", context)


def _row(parameter: Any) -> str:
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    value = parameter.metavar or TAKEN.get(kind) or parameter.name.upper().replace("_", "-")
    if parameter.param_type_name == "argument":
        shown = f"`{value}`"
    else:
        taken = "" if getattr(parameter, "is_flag", False) else f" {value}"
        names = [*parameter.opts, *parameter.secondary_opts]
        shown = ", ".join(f"`{one}{taken if one == names[-1] else ''}`" for one in names)
    default = parameter.default
    told = isinstance(default, str | int | float) and not isinstance(default, bool)
    return f"| {_cell(shown)} | {_cell(parameter.help or '')}{f' Default: `{default}`.' if told else ''} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


MADE: dict[str, Callable[..., str]] = {
    "function": lambda name: python(FUNCTION, name),
    "class": lambda name, *members: python(CLASS, name, *members),
    "module": lambda name, *members: python(MODULE, name, *members),
    "fields": fields,
    "commands": commands,
}
"""What a mark in a page stands for."""
