"""What a training writes down as it goes."""

from __future__ import annotations

import json
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
