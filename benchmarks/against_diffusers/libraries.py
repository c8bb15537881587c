"""What has to be installed beside this library for a comparison; importing this imports none of it."""

from importlib.util import find_spec

from kandinsky.core.errors import ConfigError

PEER = ("diffusers", "transformers")


def check_installed() -> None:
    """Raises ConfigError where the peer is missing."""
    missing = [name for name in PEER if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The comparison needs {' and '.join(missing)}, not installed here.",
            "pip install -r benchmarks/requirements.txt, or measure this library alone: --side ours.",
        )
