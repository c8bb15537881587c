"""Libraries of native code, whose faults are no ordinary exceptions."""

from collections.abc import Iterator
from contextlib import contextmanager


class NativeError(Exception):
    """Native code refused what it was given, or gave up on it; the message is a short reason."""


def is_native(error: BaseException) -> bool:
    """Whether an exception is what Rust code raises for what it was given."""
    # The class of panics cannot be imported: each library has one of its own.
    panicked = type(error).__name__ == "PanicException"
    return panicked or type(error) is Exception or isinstance(error, TypeError | ValueError | OverflowError)


@contextmanager
def native_code() -> Iterator[None]:
    """Turns what Rust code raises inside the block into NativeError: `Exception` itself for nearly every fault, wrong
    types and values, and panics, which are no Exception."""
    try:
        yield
    except BaseException as error:
        if not is_native(error):
            raise
        raise NativeError((str(error).splitlines() or ["a panic"])[0][:120]) from None
