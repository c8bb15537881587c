"""What is said of backends where they are not there."""

from importlib import metadata
from importlib.util import find_spec
from typing import Any

import pytest

import kandinsky
from kandinsky import backends
from kandinsky.cli import doctor
from kandinsky.core.errors import RequestError


def test_an_unknown_backend_is_refused_with_the_known_one() -> None:
    with pytest.raises(RequestError, match="mindspore"):
        kandinsky.load(backend="mindspor")  # type: ignore[arg-type]


@pytest.mark.parametrize(("numpy", "said"), [("2.4.6", "NumPy 2.4.6"), (None, "not installed")])
def test_the_error_names_the_pins(monkeypatch: pytest.MonkeyPatch, numpy: str | None, said: str) -> None:
    def version(name: str) -> str:
        if name == "mindspore" and numpy is None:
            raise metadata.PackageNotFoundError(name)
        return str(numpy)

    monkeypatch.setattr(backends, "version", version)
    with pytest.raises(RequestError, match=said) as error:
        kandinsky.load(backend="mindspore")
    assert "mindspore==2.10.0" in error.value.hint
    assert "numpy<2" in error.value.hint


def test_doctor_says_whether_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = doctor.examine()
    assert (facts["backends"]["mindspore"] is None) == (find_spec("mindspore") is not None)
    lines = dict(doctor._lines({**facts, "backends": {"mindspore": "mindspore is not installed"}}))
    assert "numpy<2" in lines["Backend mindspore"]
    assert dict(doctor._lines({**facts, "backends": {"mindspore": None}}))["Backend mindspore"] == "yes"
