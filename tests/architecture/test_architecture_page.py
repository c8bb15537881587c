"""The tree on the architecture page is the tree that there is."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "kandinsky"
PAGE = REPOSITORY / "docs" / "architecture.md"


def described() -> set[str]:
    """The folders that the page names, those within others with their paths."""
    text = PAGE.read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :].split("```text\n")[1].split("```")[0]
    found, above = set(), ""
    for line in tree.splitlines():
        name = line.split()[0].rstrip("/")
        inner = line.startswith("  ")
        above = above if inner else name
        found.add(f"{above}/{name}" if inner else name)
    return found


def test_the_page_names_every_folder_and_no_other() -> None:
    folders = [path for path in SOURCE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    names = {path.relative_to(SOURCE).as_posix() for path in folders}
    assert described() == {name for name in names if not name.startswith("assets/")}
