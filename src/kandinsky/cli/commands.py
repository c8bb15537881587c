"""How command lines are read: commands that were meant, and flags that are given twice."""

from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it cannot read; it has no public name."""


class Commands(TyperGroup):
    """The commands; what is none is answered with the one that was meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click; a prompt in the place of a command gets the command in front of it."""
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            name, names = args[0], [one for one in self.list_commands(ctx) if one != "help"]
            begun = [one for one in names if one.startswith(name)]
            if " " in name or (not begun and "Did you mean" not in str(error)):
                quoted = name.replace('"', "")
                hint = f'To draw it: kandinsky generate "{quoted}". The commands: {", ".join(names)}.'
            else:
                hint = f"Did you mean {begun[0]!r}?" if begun else ""
            if hint:
                error.message = f"There is no command {name!r}. {hint}"  # type: ignore[attr-defined]
            raise


class OnceCommand(TyperCommand):
    """A command that refuses a flag that is given twice where only one value can act."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click; raises its usage error for such a flag."""
        _, _, order = self.make_parser(ctx).parse_args(args=[*args])
        for parameter in cast(list[Any], order):
            once = parameter.param_type_name == "option" and not (parameter.multiple or parameter.is_flag)
            if once and order.count(parameter) > 1:
                raise UsageError(f"{parameter.opts[0]} is given twice. Give it once.", ctx)
        return super().parse_args(ctx, args)
