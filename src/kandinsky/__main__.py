"""`python -m kandinsky` is the command `kandinsky`."""

from kandinsky.cli.main import program

program()
