"""The parent of workers: starts them, hears what they tell, starts another where one ends before its time."""

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from kandinsky.core.errors import JobError
from kandinsky.jobs import store
from kandinsky.jobs.worker import WorkerOptions, read_frame

Listener: TypeAlias = Callable[[dict[str, JsonValue], bytes], None]
Messages: TypeAlias = "queue.SimpleQueue[tuple[WorkerProcess | None, object, bytes]]"
"""What workers tell: who, the header (None at its end) and the bytes; None for who ends the listening."""
LAST_WORDS = 2000
PATIENCE = 60.0
"""Seconds that a worker has to stop in once it is told to."""


class WorkerProcess:
    """One worker, its messages in a queue, and the end of what it wrote to stderr."""

    def __init__(self, options: WorkerOptions, heard: "Messages") -> None:
        self.options, self.name, self.ready, self.words = options, "", False, b""
        self.unusable: dict[str, JsonValue] | None = None
        command = [sys.executable, "-m", "kandinsky.jobs.worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(options.to_json().encode() + b"\n")
            self.process.stdin.flush()
        self._threads = [
            threading.Thread(target=self._listen, args=(heard,), daemon=True),
            threading.Thread(target=self._keep_words, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, heard: "Messages") -> None:
        assert self.process.stdout is not None
        while (found := read_frame(self.process.stdout)) is not None:
            heard.put((self, *found))
        self.process.wait()
        heard.put((self, None, b""))

    def _keep_words(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.words = (self.words + line)[-LAST_WORDS:]

    def wake(self) -> None:
        """Tells it that there is something to do."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """Asks it to finish its step, to give its jobs back and to end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Waits for its end, for a while, and makes sure of it."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Supervisor:
    """Keeps a worker for each of its options; made in one thread, run in one, woken and stopped from any."""

    def __init__(self, options: Sequence[WorkerOptions], on_message: Listener) -> None:
        self._options, self._on_message = options, on_message
        self._heard: Messages = queue.SimpleQueue()
        self._workers = set[WorkerProcess]()

    def run(self) -> None:
        """Runs the workers until each has ended of its own accord, or `stop` is called.

        `on_message` hears what they tell, in this thread. A worker that ends before its time is replaced, and its
        jobs are queued again or failed. Raises JobError when a worker cannot load its model, cannot write, or ends
        without having begun. An exception of `on_message`, or Ctrl-C, stops all workers at their next step.
        """
        db = store.open_store(self._options[0].path)
        try:
            self._workers |= {WorkerProcess(one, self._heard) for one in self._options}
            while self._workers:
                worker, header, data = self._heard.get()
                if worker is None:
                    return
                if isinstance(header, dict):
                    self._note(worker, header)
                    self._on_message(header, data)
                    continue
                worker.close()
                self._workers.remove(worker)
                if worker.process.returncode == 0:
                    continue
                _check_begun(worker)
                store.give_back(db, worker.name, crashed=True)
                code = worker.process.returncode
                self._on_message({"kind": "crashed", "worker": worker.name, "code": f"exit code {code}"}, worker.words)
                self._workers.add(WorkerProcess(worker.options, self._heard))
        finally:
            for worker in self._workers:
                worker.stop()
            for worker in self._workers:
                worker.close()
            self._workers.clear()
            db.close()

    def _note(self, worker: WorkerProcess, header: dict[str, JsonValue]) -> None:
        if header["kind"] == "ready":
            worker.ready, worker.name = True, str(header["worker"])
        elif header["kind"] == "unusable":
            error = header["error"]
            worker.unusable = error if isinstance(error, dict) else {}

    def wake(self) -> None:
        """Tells waiting workers that there is something to do."""
        for worker in list(self._workers):
            worker.wake()

    def stop(self) -> None:
        """Ends `run`: workers finish their step and give their jobs back."""
        self._heard.put((None, None, b""))


def run(options: Sequence[WorkerOptions], on_message: Listener) -> None:
    """Runs a worker for each of the options until nothing is queued; see `Supervisor.run`."""
    Supervisor(options, on_message).run()


def _check_begun(worker: WorkerProcess) -> None:
    """JobError for a worker that never drew anything: another would do no better."""
    if worker.unusable is not None:
        raise JobError(str(worker.unusable["message"]), str(worker.unusable.get("hint", "")))
    if not worker.ready:
        lines = worker.words.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise JobError(
            f"A worker ended while it was loading the model (exit code {worker.process.returncode}): {lines[-1]}.",
            "Is there enough memory for one model per worker?",
        )
