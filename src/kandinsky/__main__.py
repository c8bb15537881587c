"""`python -m kandinsky` is the command `kandinsky`."""

from kandinsky.cli.entry import main

main()
