"""The example scripts as modules."""

import importlib.util
import sys
from types import ModuleType

from tests.docs.pages import REPOSITORY


def make_examples() -> ModuleType:
    return load_script("make_examples")


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    # Run as a script, one finds what it shares with others beside itself.
    sys.path.insert(0, str(REPOSITORY / "examples"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
