"""What a run writes down as it goes, and whether it is told to stop."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bioverse_sc._optional import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG = "log.jsonl"


class LogWriter:
    """``log.jsonl``, a row at a time, and TensorBoard's events."""

    def __init__(self, folder: Path | None, *, tensorboard: bool) -> None:
        self.folder = folder
        self.tensorboard = tensorboard
        self.events: Any = None
        if tensorboard and folder is not None:
            require("tensorboard", "train")

    @contextmanager
    def started(self, history: list[dict[str, float]]) -> Iterator[None]:
        """Write the rows up to a checkpoint; what an interrupted run wrote after it is dropped."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in history)
            (self.folder / LOG).write_text(text, encoding="utf-8")
        if self.folder is not None and self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            following = int(history[-1]["step"]) + 1 if history else 0
            self.events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=following)
        try:
            yield
        finally:
            if self.events is not None:
                self.events.close()

    def write(self, row: dict[str, float]) -> None:
        """Append a row."""
        if self.folder is not None:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.events is not None:
            for name, value in row.items():
                if name != "step":
                    self.events.add_scalar(name.replace("validation_", "validation/"), value, int(row["step"]))
            self.events.flush()


class Terminated:
    """Whether SIGTERM has come, inside a ``with`` block of the main thread."""

    def __init__(self, *, enabled: bool) -> None:
        self.signalled = False
        self.enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Terminated:
        if self.enabled:
            self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, _signal: int, _frame: object) -> None:
        self.signalled = True

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            # a handler that was not set from Python is None
            signal.signal(signal.SIGTERM, self.before or signal.SIG_DFL)
