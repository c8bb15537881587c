"""The losses of a run as JSON lines that a resumed run continues exactly, and as TensorBoard events."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from kandinsky.core.errors import OutputError
from kandinsky.training.image_grid import ImageGrid


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
            raise OutputError(f"{self.path} cannot be written ({error.strerror}).", "Choose another `out`.") from error
        self._board = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What an abandoned run wrote after the step that is continued from must not be shown.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

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
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def image(self, step: int, grid: ImageGrid) -> None:
        """Shows an image (H, W, 3) in TensorBoard, where that is installed."""
        if self._board is not None:
            self._board.add_image("samples", grid, step, dataformats="HWC")

    def synced_size(self) -> int:
        """Bytes so far, on the disk."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
