"""What has to be installed beside this library for a comparison; importing this imports none of it."""

import shutil
from importlib.util import find_spec

from kandinsky.core.errors import ConfigError

PEER = ("diffusers", "transformers")
COMPILERS = ("c++", "g++", "clang++", "cl")


def check_installed() -> None:
    """Raises ConfigError where the peer is missing."""
    missing = [name for name in PEER if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The comparison needs {' and '.join(missing)}, not installed here.",
            "pip install 'kandinsky-diffusion[bench]', or measure this library alone: --side ours.",
        )


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, None where there is none."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)
