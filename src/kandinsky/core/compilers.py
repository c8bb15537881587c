"""What torch.compile needs of a machine; importing this imports no torch."""

import shutil

COMPILERS = ("c++", "g++", "clang++", "cl")


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, None where there is none."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)
