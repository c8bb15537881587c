"""Every setting is documented, by the classes that read them."""

from pathlib import Path

import pytest

from kandinsky.training.config.table import Table
from kandinsky.training.settings_page import page

PAGE = Path(__file__).parents[2] / "docs" / "training-settings.md"


def kinds(base: type[Table] = Table) -> list[type[Table]]:
    return [found for kind in base.__subclasses__() for found in (kind, *kinds(kind))]


@pytest.mark.parametrize("kind", kinds())
def test_every_setting_says_what_it_does(kind: type[Table]) -> None:
    if not kind.__module__.startswith("kandinsky.training.config"):
        pytest.skip("a table of a test")
    missing = [name for name, field in kind.model_fields.items() if name != "method" and not field.description]
    assert not missing, f"{kind.__name__}: give these a description"
    names = page().count("| `")
    assert names > 140


def test_the_page_has_them_all() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page() in text, "write `python -m kandinsky.training.settings_page` into docs/training-settings.md"
    assert "|  |\n" not in page(), "a setting says nothing"
