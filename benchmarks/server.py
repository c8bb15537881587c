"""What HTTP costs: images and first partial images through `kandinsky serve` beside the bare pipeline, in one run.

    python -m benchmarks.server [--steps 20] [--images 24]

Both draw the same prompt with the same seeds on the embedded checkpoint, image by image in turns. The server is a
process of its own, with one worker; its seconds are those of the processor in all of its processes and in the client,
so that a loaded machine changes them little. Seconds by the clock stand beside them. Reported are the medians of each
side, and four ratios: of the best images, of pairs (their median), of all, and of the best by the clock.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import kandinsky
from kandinsky.core.events import Denoising

PROMPT = "a red fox"


@dataclass(frozen=True)
class Took:
    """Seconds of the processor and by the clock."""

    processor: float
    clock: float


Seconds: TypeAlias = Callable[[], float]
Pair: TypeAlias = tuple[Took, Took]


def ticks(pid: int) -> float:
    """Processor seconds of a process and its children, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    own = sum(int(fields[place]) for place in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(ticks(int(child)) for path in children for child in path.read_text(encoding="ascii").split())


def own_seconds() -> float:
    """Processor seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Server:
    """`kandinsky serve` as a process, and a client of it."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        command = [sys.executable, "-m", "kandinsky", "serve", "--data", str(data), "--port", str(self.port), "--quiet"]
        self.process = subprocess.Popen([*command, "--device", "cpu"])
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{self.url}/readyz")
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the server is not ready")

    def ask(self, **body: Any) -> Any:
        """The answer to a generation, which can be read."""
        data = json.dumps({"prompt": PROMPT} | body).encode()
        headers = {"content-type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(f"{self.url}/v1/images/generations", data, headers))

    def image(self, steps: int, seed: int) -> None:
        """Draws an image."""
        found = json.load(self.ask(steps=steps, seed=seed))
        assert found["data"][0]["seed"] == seed

    def partial(self, steps: int, seed: int) -> None:
        """Waits for the first partial image of three."""
        with self.ask(steps=steps, seed=seed, stream=True, partial_images=3) as events:
            for line in events:
                if b"partial_image" in line:
                    return
        raise SystemExit("no partial image came")

    def seconds(self) -> float:
        """Processor seconds of the server and of this client."""
        return ticks(self.process.pid) + own_seconds()


def measured(work: Callable[[], None], seconds: Seconds) -> Took:
    """What some work took."""
    begun, at = seconds(), time.perf_counter()
    work()
    clock = time.perf_counter() - at
    return Took(seconds() - begun, clock)


def pair(turn: int, bare: tuple[Callable[[], None], Seconds], served: tuple[Callable[[], None], Seconds]) -> Pair:
    """What both sides took, of which the one is the first in one turn, the other in the next."""
    if turn % 2:
        second = measured(*served)
        return measured(*bare), second
    return measured(*bare), measured(*served)


def first_preview(pipe: kandinsky.Pipeline, steps: int, seed: int) -> None:
    """Draws as far as the first of three previews, as the server does it."""
    due = round(steps / 4)
    for event in pipe.stream(PROMPT, steps=steps, seed=seed):
        if (
            isinstance(event, Denoising)
            and event.stage == "decoder"
            and event.step == due
            and event.preview is not None
        ):
            event.preview()
            return


def main() -> None:
    """Measures both sides in turns and prints the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--steps", type=int, default=20)
    flags.add_argument("--images", type=int, default=24)
    given = flags.parse_args()
    pipe = kandinsky.load(device="cpu")
    pipe.generate(PROMPT, steps=2, seed=0)
    images: list[Pair] = []
    partials: list[Pair] = []
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch))
        server.image(2, 0)
        try:
            for turn in range(given.images):

                def bare(seed: int = turn) -> None:
                    pipe.generate(PROMPT, steps=given.steps, seed=seed).images[0].save(Path(scratch, "bare.png"))

                def served(seed: int = turn) -> None:
                    server.image(given.steps, seed)

                images.append(pair(turn, (bare, own_seconds), (served, server.seconds)))
            for turn in range(given.images // 2):

                def preview(seed: int = turn) -> None:
                    first_preview(pipe, given.steps, seed)

                def event(seed: int = turn) -> None:
                    server.partial(given.steps, seed)

                partials.append(pair(turn, (preview, own_seconds), (event, server.seconds)))
                time.sleep(1.0)  # what was given up ends within a step
        finally:
            server.process.terminate()
            server.process.wait()
    print(f"steps={given.steps}, {given.images} images in turns")
    print("seconds of the processor (by the clock)")
    report("image", images)
    report("first partial image", partials)


def report(name: str, pairs: list[Pair]) -> None:
    """One line for each side, and the ratios."""
    bare, served = [one for one, _ in pairs], [two for _, two in pairs]
    for side, took in (("bare pipeline", bare), ("through HTTP", served)):
        processor = statistics.median(one.processor for one in took)
        clock = statistics.median(one.clock for one in took)
        print(f"{name}, {side}: {processor:.3f} s ({clock:.3f} s; {1 / clock:.2f} a second)")
    best = min(one.processor for one in served) / min(one.processor for one in bare)
    median = statistics.median(two.processor / one.processor for one, two in pairs)
    total = sum(one.processor for one in served) / sum(one.processor for one in bare)
    clock = min(one.clock for one in served) / min(one.clock for one in bare)
    print(
        f"{name}: {best:.3f} of the best, {median:.3f} in the median of pairs, {total:.3f} of all; {clock:.3f} by clock"
    )


if __name__ == "__main__":
    main()
