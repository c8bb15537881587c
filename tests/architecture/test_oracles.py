"""The search for tests that need an oracle, on sources made for it."""

import pytest

from tests.oracles import Oracles

HELPERS = """
from functools import cached_property

class Folders:
    def own(self):
        return 1

    @cached_property
    def theirs(self):
        return save()

    def ours(self):
        return self.theirs

class More(Folders):
    pass

def save():
    from diffusers import DDPMScheduler
    return DDPMScheduler()

def plain():
    return 2
"""
CONFTEST = """
import pytest
from tests.helpers import Folders

@pytest.fixture
def folders():
    return Folders()

@pytest.fixture
def saved(folders: Folders):
    return folders.ours()
"""
TESTS = """
import importlib
import pytest
from tests import helpers
from tests.helpers import Folders, More, plain, save

class TestAll:
    def test_method(self):
        save()

def by(folders: Folders):
    return folders.theirs

def test_own(folders: Folders): assert folders.own() == plain()
def test_inside(): import transformers.models
def test_by_name(): pytest.importorskip("peft")
def test_a_word(): assert "diffusers" != "peft.utils"
def test_helper(): save()
def test_module(): helpers.save()
def test_of_a_module(): helpers.plain()
def test_attribute(folders: Folders): assert folders.ours()
def test_inherited(more: More): assert more.ours()
def test_made():
    made = Folders()
    assert made.theirs
def test_fixture(saved): pass
@pytest.mark.usefixtures("saved")
def test_named_fixture(): pass
def test_passed_on(folders): by(folders)
"""


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Oracles:
    root = tmp_path_factory.mktemp("root")
    (root / "tests").mkdir()
    whole = "from tests.vocabulary import words\ndef test_one(): pass\n"
    files = {"helpers": HELPERS, "conftest": CONFTEST, "test_some": TESTS, "test_whole": whole}
    for name, text in (files | {"vocabulary": "import sentencepiece\nwords = 1\n"}).items():
        (root / "tests" / f"{name}.py").write_text(text, encoding="utf-8")
    return Oracles(root)


@pytest.mark.parametrize("test", ["own", "a_word", "of_a_module"])
def test_what_needs_none(oracles: Oracles, test: str) -> None:
    assert not oracles.test_needs("tests.test_some", f"test_{test}")


@pytest.mark.parametrize(
    "test",
    [
        "inside",
        "by_name",
        "helper",
        "module",
        "attribute",
        "inherited",
        "made",
        "fixture",
        "named_fixture",
        "passed_on",
    ],
)
def test_what_needs_one(oracles: Oracles, test: str) -> None:
    assert oracles.test_needs("tests.test_some", f"test_{test}")


def test_methods_and_modules_that_need_one(oracles: Oracles) -> None:
    assert oracles.test_needs("tests.test_some", "TestAll.test_method")
    assert oracles.import_needs("tests.test_whole")
    assert not oracles.import_needs("tests.test_some")


def test_this_repository_has_tests_of_both_kinds() -> None:
    found = Oracles()
    assert found.test_needs("tests.parity.test_unet2", "test_parity")
    assert not found.test_needs("tests.core.test_rng", "test_one")
    assert not found.test_needs("tests.architecture.test_layers", "test_there_is_one_denoising_loop")
