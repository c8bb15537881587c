"""Reading what clients send as images in processes of their own, which have little memory and time and can be killed.

`python -m kandinsky.server.decoding` is such a process. It reads frames on stdin (eight bytes that say how long a JSON
header is, eight for the bytes behind it) and answers each on stdout in the same way. It decodes PNG, JPEG and WebP and
nothing else, writes no file, knows no secret of its parent and ends when stdin does.

Source: incidents 9 and 16 of the security notes: heap overflows, bombs and crashes in decoders of images.
"""

import contextlib
import io
import json
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 32_000_000
LONGEST_SIDE = 8192
SHORTEST_SIDE = 8
MEMORY = 2 * 2**30
"""Bytes of addresses that a process may have: the largest image with 16 bits a channel needs about half."""
CPU_SECONDS = 10
SECONDS = 15.0
"""What one image may take by the clock."""
STARTING = 60.0
BUSY = 30.0
"""How long a caller waits for a process that is free."""
LARGEST_FRAME = 2**28
_HEAD = struct.Struct(">QQ")
Frame: TypeAlias = tuple[dict[str, Any], bytes]


class RefusedError(Exception):
    """What was sent is no image that is taken; `kind` is image, size or metadata."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


class BusyError(Exception):
    """All processes are decoding."""


class Decoders:
    """Up to `count` processes, started when they are needed; each works for one caller at a time."""

    def __init__(self, count: int = 2, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self.memory, self.seconds = memory, seconds
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)

    def ask(self, asked: Mapping[str, Any], data: bytes) -> Frame:
        """What a process answers; RefusedError for what is no image, BusyError where none is free for long."""
        try:
            child = self._free.get(timeout=BUSY)
        except queue.Empty as error:
            raise BusyError from error
        try:
            if child is None or child.poll() is not None:
                child = self._started()
            answer = self._exchange(child, asked, data)
        except BaseException:
            if child is not None:
                _end(child)
            child = None
            raise
        finally:
            self._free.put(child)
        header, _ = answer
        if "refused" in header:
            raise RefusedError(header["refused"], header["message"])
        return answer

    def close(self) -> None:
        """Ends the processes that are free."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (child := self._free.get_nowait()) is not None:
                    _end(child)

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "kandinsky.server.decoding", str(self.memory)]
        # Nothing that a server's environment may hold, such as a token.
        own = str(Path(__file__).resolve().parents[2])
        known = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
        paths = os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**known, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert child.stdout is not None
        with _killed_after(child, STARTING):
            if read_frame(child.stdout) is None:
                _end(child)
                raise RuntimeError("a process that decodes images could not be started")
        return child

    def _exchange(self, child: subprocess.Popen[bytes], asked: Mapping[str, Any], data: bytes) -> Frame:
        assert child.stdin is not None
        assert child.stdout is not None
        with _killed_after(child, self.seconds):
            try:
                write_frame(child.stdin, asked, data)
                answer = read_frame(child.stdout)
            except BrokenPipeError:
                answer = None
        if answer is None:
            raise RefusedError("image", "it takes more time or memory to decode than there is, or it is damaged")
        return answer


def _killed_after(child: subprocess.Popen[bytes], seconds: float) -> "_Killing":
    return _Killing(threading.Timer(seconds, child.kill))


class _Killing:
    """Kills a process at a time, unless what is inside has ended by then."""

    def __init__(self, timer: threading.Timer) -> None:
        timer.daemon = True
        self.timer = timer

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def write_frame(stream: IO[bytes], header: Mapping[str, Any], data: bytes = b"") -> None:
    """Writes a frame."""
    text = json.dumps(header).encode()
    stream.write(_HEAD.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Frame | None:
    """The next frame; None at the end, and where one is cut off or too large."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    lengths = _HEAD.unpack(head)
    if max(lengths) > LARGEST_FRAME:
        return None
    text, data = (stream.read(length) for length in lengths)
    if (len(text), len(data)) != lengths:
        return None
    found: dict[str, Any] = json.loads(text)
    return found, data


def decode(data: bytes) -> Frame:
    """The pixels of a file: upright, 8 bits, sRGB, as RGBA where it has transparency and as RGB elsewhere."""
    from kandinsky.core.image_files import decoded

    with _opened(data) as image:
        found = decoded(image, "the image")
        found = found.convert("RGBA" if found.has_transparency_data else "RGB")
        return {"mode": found.mode, "size": found.size}, found.tobytes()


def metadata(data: bytes) -> Frame:
    """What a file says of how it was made, in our words and in those of other tools; None where it says nothing."""
    from kandinsky.core.errors import KandinskyError
    from kandinsky.core.foreign_metadata import foreign_in
    from kandinsky.core.metadata import stored_in

    with _opened(data) as image:
        image.load()
        own = None
        with contextlib.suppress(KandinskyError):
            own = vars(stored_in(image, "the image"))
        foreign = foreign_in(image) if own is None else None
        return {"metadata": own, "foreign": None if foreign is None else vars(foreign)}, b""


@contextlib.contextmanager
def _opened(data: bytes) -> Any:
    import warnings

    from PIL import Image, UnidentifiedImageError

    from kandinsky.core.errors import KandinskyError
    from kandinsky.core.image_files import FAULTS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            sides = min(width, height), max(width, height)
            if sides[0] < SHORTEST_SIDE or sides[1] > LONGEST_SIDE or width * height > MOST_PIXELS:
                most = f"sides are {SHORTEST_SIDE} to {LONGEST_SIDE}, {MOST_PIXELS / 1e6:.0f} million pixels at most"
                raise RefusedError("size", f"{width} x {height} pixels; {most}")
            yield image
    except MemoryError:
        raise RefusedError("image", "it takes more memory to decode than there is") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, KandinskyError, *FAULTS):
        raise RefusedError("image", "it is no PNG, JPEG or WebP image, or it is damaged") from None


WORK = {"image": decode, "metadata": metadata}


def limit(memory: int) -> None:
    """Takes from this process what decoding does not need."""
    try:
        import resource
    except ImportError:  # where there are no such limits the clock alone ends it
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def more_time() -> None:
    """Gives this process time for one image more."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_SECONDS, most))


def main() -> None:
    """Answers frames until stdin ends."""
    # What is imported later would have to be read with the limits that are set here.
    import numpy as np  # noqa: F401

    import kandinsky.core.foreign_metadata  # noqa: F401

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit(int(sys.argv[1]))
    write_frame(answers, {"ready": True})
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        more_time()
        header, data = frame
        try:
            answer = WORK[header["work"]](data)
        except RefusedError as error:
            answer = {"refused": error.kind, "message": error.message}, b""
        except MemoryError:
            answer = {"refused": "image", "message": "it takes more memory to decode than there is"}, b""
        write_frame(answers, *answer)


if __name__ == "__main__":
    main()
