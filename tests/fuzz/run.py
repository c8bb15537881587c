"""Reads many mutants of a kind, each under a clock, a limit of memory and a watch over what the process does.

A child process reads; the parent sees when it hangs or dies. By hand:

    python -m tests.fuzz.run KIND COUNT SEED [ONLY]
"""

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 10
"""Of a processor, for one mutant."""
WAIT = 120
"""Seconds without a word from the reader, on a machine that others use too."""
SLOW = 2.0
ADDRESS_SPACE = 4 << 30
"""What a reader may take beside what its process has when it begins: a run of many tests has gigabytes by then."""
LONGEST = 500
SOURCE = Path(__file__).resolve().parents[2]
WATCHED = ("exec", "compile", "subprocess", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.")
CHANGING = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
    "shutil.",
)


@dataclass
class Report:
    """How often each outcome came; `bad` are those that should not be, with an example each."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, outcome: str) -> None:
        self.counts[outcome.split("|", maxsplit=1)[0]] += 1
        if not outcome.startswith(("ok", "refused")):
            self.bad.setdefault(outcome, []).append(number)

    def __str__(self) -> str:
        lines = [f"{count:6d}  {outcome}" for outcome, count in self.counts.most_common()]
        return "\n".join(lines + [f"   BAD {said} at {where[:5]} ({len(where)})" for said, where in self.bad.items()])


class Watch:
    """An audit hook that notes what no reader of a file may do."""

    def __init__(self, allowed: list[Path]) -> None:
        self.on = False
        self.hits: list[str] = []
        known = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
        self.readable = tuple(
            {*known, *map(str, allowed), str(SOURCE), sys.prefix, sys.base_prefix, "/proc/", "/dev/", "/sys/"}
        )
        self.writable = tuple(map(str, allowed))
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode = arguments[0], arguments[1] or ("w" if (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR) else "r")
            if isinstance(path, bytes | str) and "w" not in str(mode) and os.fsdecode(path).startswith(self.readable):
                return
            if isinstance(path, bytes | str) and os.fsdecode(path).startswith(self.writable):
                return
            if not isinstance(path, int) and path is not None:
                self.hits.append(f"open {path} {mode}")
        elif event.startswith(CHANGING):
            if not str(arguments[0]).startswith(self.writable):
                self.hits.append(f"{event} {arguments[0]}")
        elif event in ("exec", "compile"):
            place = arguments[0].co_filename if event == "exec" else str(arguments[1])
            if not (
                place.startswith(self.readable)
                or place.startswith(("<frozen", "<unknown>"))
                or (place == "<string>" and _by_library())
            ):
                self.hits.append(f"{event} {place}")
        elif event.startswith(WATCHED) and event != "socket.gethostname":
            self.hits.append(f"{event} {str(arguments)[:80]}")


def _by_library() -> bool:
    """Whether a dataclass or a named tuple is being made, which an import does."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(
            ("dataclasses.py", "collections/__init__.py", "<frozen importlib._bootstrap>")
        ):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class TookTooLongError(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise TookTooLongError


def outcome(read: Any, folder: Path, watch: Watch | None) -> str:
    """What reading a folder led to, in a few words."""
    from kandinsky.core.errors import KandinskyError

    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        if watch is not None:
            watch.on, watch.hits = True, []
        read(folder)
        found = "ok"
    except KandinskyError as error:
        found, said = f"refused {type(error).__name__}", str(error)
        if len(said) > LONGEST:
            found = f"MESSAGE of {len(said)} characters|{said[:80]}"
        elif "\n" in said.strip():
            found = f"MESSAGE of several lines|{said[:80]}"
        elif not said.isprintable():
            found = f"MESSAGE that cannot be printed|{said[:80]!r}"
        elif " at 0x" in said:
            found = f"MESSAGE with an address|{said[:80]}"
        if os.environ.get("FUZZ_SAY"):
            print(f"{said}")
    except TookTooLongError:
        found = "HANG|" + _where(sys.exc_info()[2])
    except BaseException as error:
        found = f"RAW {type(error).__module__}.{type(error).__name__}|{_where(error.__traceback__)} {str(error)[:90]!r}"
        if os.environ.get("FUZZ_SAY"):
            traceback.print_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if watch is not None:
            watch.on = False
    if watch is not None and watch.hits:
        found = f"AUDIT|{watch.hits[0]}"
    took = time.process_time() - began
    return f"SLOW|{took:.0f} s {found}" if took > SLOW and found.startswith(("ok", "refused")) else found


def _where(trace: Any) -> str:
    frames = [frame for frame in traceback.extract_tb(trace) if "src/kandinsky" in frame.filename]
    return (
        f"{frames[-1].filename.rpartition('src/kandinsky/')[2]}:{frames[-1].lineno} {frames[-1].name}"
        if frames
        else "?"
    )


def address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def samples(kind: Any, root: Path) -> list[Path]:
    made = []
    for number, make in enumerate(kind.makes):
        folder = root / f"sample-{number}"
        folder.mkdir(parents=True)
        make(folder)
        made.append(folder)
    return made


def child(kind: Any, made: list[Path], work: Path, numbers: range, seed: int, out: int, readable: Path) -> None:
    """Reads mutants and tells the parent of each."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _alarm)
    for sample in made:  # what is imported lazily is imported now
        copy = work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(sample, copy)
        kind.read(copy)
        with suppress(Exception):
            (copy / "x").write_bytes(b"")
    most = address_space() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    watch = Watch([work, *made])
    watch.readable += (str(readable),)
    for number in numbers:
        draw = random.Random(f"{seed} {kind.name} {number}")
        folder = work / "case"
        kind.mutant(draw, made, folder)
        os.write(out, (json.dumps([number, outcome(kind.read, folder, watch)]) + "\n").encode())
        for left in work.iterdir():
            if left.name not in ("case", "copy"):
                os.write(out, (json.dumps([number, f"LEFT {left.name}"]) + "\n").encode())
                left.unlink()


def fuzz(kind: Any, count: int, seed: int, root: Path, numbers: range | None = None) -> Report:
    """Reads `count` mutants of a kind; begins again behind one that kills the reader."""
    made = samples(kind, root / "samples")
    report = Report()
    todo = range(count) if numbers is None else numbers
    while len(todo):
        work = Path(tempfile.mkdtemp(dir=root))
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            code = 1
            try:
                child(kind, made, work, todo, seed, writer, root.parent)
                code = 0
            except BaseException:
                traceback.print_exc(limit=-8)
            finally:
                os._exit(code)
        os.close(writer)
        last, buffer, why = todo[0] - 1, b"", ""
        while True:
            ready, _, _ = select.select([reader], [], [], WAIT)
            if not ready:
                os.kill(pid, signal.SIGKILL)
                why = "HANG that no alarm ends"
                break
            piece = os.read(reader, 65536)
            if not piece:
                break
            buffer += piece
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                last, said = json.loads(line)
                report.add(last, said)
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        shutil.rmtree(work, ignore_errors=True)
        if last + 1 >= todo.stop and not status:
            break
        if not why and os.WIFEXITED(status) and last < todo[0]:
            raise AssertionError(f"{kind.name}: the reader of sound samples failed")
        report.add(last + 1, why or f"DIED|{status}")
        todo = range(last + 2, todo.stop)
    return report


def main() -> None:
    from tests.fuzz.kinds import KINDS, Model

    names = list(KINDS) if sys.argv[1] == "all" else sys.argv[1].split(",")
    count, seed = int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KANDINSKY_CACHE"] = f"{folder}/cache"
        Model.root = Path(folder)
        for name in names:
            began = time.monotonic()
            only = range(int(sys.argv[4]), int(sys.argv[4]) + 1) if len(sys.argv) > 4 else None
            report = fuzz(KINDS[name], count, seed, Path(folder) / name, only)
            print(f"== {name}: {count} mutants, seed {seed}, {time.monotonic() - began:.0f} s\n{report}", flush=True)


if __name__ == "__main__":
    main()
