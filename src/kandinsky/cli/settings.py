"""What flags say that are not typed: variables `KANDINSKY_*`, then the configuration file, then the model.

The file is TOML: a key is a flag without its dashes, for every command that has it, and in a table such as `[batch]`
for that command alone.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import typer

from kandinsky.cli.console import out, say
from kandinsky.core.errors import ConfigError, OutputError, nearest

PREFIX = "KANDINSKY_"
FILE = f"{PREFIX}CONFIG"
OTHERS = (FILE, f"{PREFIX}CACHE")
"""Variables that are no flags."""
COMMANDS = ("generate", "batch", "interpolate", "evaluate")
NEVER = (
    "prompts",
    "mix",
    "image",
    "mask",
    "hint",
    "outpaint",
    "paste_back",
    "mask_blur",
    "repeat",
    "requests",
    "list",
    "out",
    "ends",
    "images",
    "xy",
    "size",
    "help",
)
"""What is said anew for each image."""
NAMES = {"as_json": "json"}
"""Parameters whose flag is called otherwise."""
TEMPLATE = """# Settings of the command kandinsky. Flags that are typed go first, then variables KANDINSKY_*, then this.
# Keys are flags without their dashes; a table is for one command alone.

# model = "owner/name"
# device = "cuda"
# dtype = "float16"
# steps = 20
# output = "images/"

# [batch]
# batch_size = 8
"""


def is_configurable(name: str | None) -> bool:
    """Whether a parameter may come from a variable or the file."""
    return name is not None and name not in NEVER and name not in ("context", "version")


def variable(name: str) -> str:
    """The variable of a parameter."""
    return f"{PREFIX}{NAMES.get(name, name).upper()}"


def path() -> Path:
    """Where the configuration file is, or would be."""
    given = os.environ.get(FILE)
    return Path(given).expanduser() if given else Path(typer.get_app_dir("kandinsky")) / "config.toml"


@cache
def _read(file: Path, _: float) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read ({error}).", "Mend it, or set KANDINSKY_CONFIG to another."
        ) from error


def read() -> dict[str, Any]:
    """What the configuration file says; nothing where there is none. Raises ConfigError for a file that is no TOML."""
    file = path()
    if not file.is_file():
        if os.environ.get(FILE):
            raise ConfigError(f"There is no file {file}.", f"It is named by {FILE}.")
        return {}
    return _read(file, file.stat().st_mtime)


def defaults(command: str, parameters: Sequence[Any]) -> dict[str, Any]:
    """The values of the file for a command. Raises ConfigError for a key that no command has."""
    said = read()
    tables = {name: value for name, value in said.items() if isinstance(value, dict)}
    if unknown := sorted(set(tables) - set(COMMANDS)):
        raise ConfigError(f"{path()}: there is no table [{unknown[0]}].", nearest(unknown[0], COMMANDS))
    names = {_key(one.name): one.name for one in parameters if is_configurable(one.name)}
    general = {_key(name): value for name, value in said.items() if name not in tables}
    own = {_key(name): value for name, value in tables.get(command, {}).items()}
    everywhere = {*names, *_known()} if general else set(names)
    for key in (*general, *own):
        if key not in (names if key in own else everywhere):
            raise ConfigError(f"{path()}: there is no setting {key!r}.", nearest(key, everywhere))
    return {names[key]: value for key, value in {**general, **own}.items() if key in names}


def _key(name: str) -> str:
    return NAMES.get(name, name).replace("-", "_")


def _known() -> set[str]:
    """The keys of all commands."""
    return {_key(name) for command in _commands().values() for name in command}


def _commands() -> dict[str, list[str]]:
    from kandinsky.cli.main import app

    group: Any = typer.main.get_command(app)
    found = {name: group.commands[name].params for name in COMMANDS}
    return {name: [one.name for one in all_ if is_configurable(one.name)] for name, all_ in found.items()}


def flag_hint(name: str) -> str:
    """Our flag for one of another tool; nothing where there is none."""
    from kandinsky.core.other_names import ELSEWHERE

    ours = {**ELSEWHERE, "negative": "negative_prompt", "cfg": "guidance_scale", "ckpt": "model", "checkpoint": "model"}
    return f"It is called --{ours[name].replace('_', '-')} here." if name in ours else ""


def sources() -> dict[str, tuple[Any, str]]:
    """The settings that are made, by key or `command.key`: their value and where it comes from."""
    found: dict[str, tuple[Any, str]] = {}
    for name, value in read().items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{_key(key)}": (one, str(path())) for key, one in value.items()}
        else:
            found[_key(name)] = (value, str(path()))
    known = _known()
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIX) and (key := name.removeprefix(PREFIX).lower()) in known:
            found[key] = (value, name)
    return found


def show(*, as_json: bool) -> None:
    """Writes where settings come from, and what they are. Raises ConfigError for a file that cannot be."""
    from rich.markup import escape
    from rich.table import Table

    for command in COMMANDS:
        defaults(command, [_Named(name) for name in _commands()[command]])
    found, file = sources(), path()
    known = _known()
    strange = sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX) and name not in OTHERS and name.removeprefix(PREFIX).lower() not in known
    )
    if as_json:
        given = {name: {"value": value, "from": source} for name, (value, source) in found.items()}
        say(json.dumps({"file": str(file), "exists": file.is_file(), "settings": given, "unknown": strange}, indent=2))
        return
    say(f"file: {file}{'' if file.is_file() else ' (not there; kandinsky config --init writes one)'}")
    table = Table(box=None, header_style="bold")
    for column in ("Setting", "Value", "From"):
        table.add_column(column, overflow="fold")
    for name, (value, source) in found.items():
        table.add_row(escape(name), escape(str(value)), escape(source))
    if found:
        out().print(table)
    for name in strange:
        say(f"{name} is no setting. {nearest(name.removeprefix(PREFIX).lower(), known)}")


class _Named:
    """A parameter of which only the name counts."""

    def __init__(self, name: str) -> None:
        self.name = name


def write_template() -> Path:
    """Writes a commented file to begin with. Raises OutputError where there is one."""
    from kandinsky.core.files import write_atomically

    file = path()
    if file.exists():
        raise OutputError(f"{file} exists already.", "Edit it.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{file.parent} cannot be made ({error.strerror}).", f"Set {FILE}.") from error
    return write_atomically(file, TEMPLATE.encode(), replace=False)
