"""The losses of a run as JSON lines that a resumed run continues without a trace, and as TensorBoard
events.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kandinsky.core.errors import OutputError


class LossLog:
    """`losses.jsonl`: one line per logged step, with nothing in it that a repeated run would not give again.

    `resume_at` is the length in bytes that a checkpoint remembers; what was written after it belongs to
    steps that will be made again, and is cut off.
    """

    def __init__(self, folder: Path, resume_at: int = 0, step: int = 0) -> None:
        self.path = folder / "losses.jsonl"
        try:
            self._file = self.path.open("a+b", buffering=0)
            self._file.truncate(min(resume_at, self.path.stat().st_size))
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}).", "Choose another `out`."
            ) from error
        self._board = _Board(folder / "tensorboard", step) if _has_tensorboard() else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line; raises OutputError when the disk does not take it."""
        try:
            # Unbuffered: nothing is left to be written when the disk was full.
            self._file.write(json.dumps({"step": step, **values}).encode() + b"\n")
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}).", "Free some disk space, then resume."
            ) from error
        if self._board is not None:
            self._board.write(step, values)

    def pictures(self, step: int, sheet: Any) -> None:
        """Shows a sheet (H, W, 3) uint8 in TensorBoard, where that is installed."""
        if self._board is not None:
            self._board.pictures(step, sheet)

    def synced_size(self) -> int:
        """Bytes so far, on the disk."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class _Board:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an abandoned run wrote after the step that is continued from must not be shown.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, sheet: Any) -> None:
        self._writer.add_image("samples", sheet, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def _has_tensorboard() -> bool:
    from importlib.util import find_spec

    return find_spec("tensorboard") is not None
