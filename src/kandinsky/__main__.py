"""`python -m kandinsky` is the command `kandinsky`."""

from kandinsky.cli.program import program

program()
