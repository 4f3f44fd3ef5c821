"""The package's own logger, finish lines, and progress bars."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bioverse_sc._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever ``sys.stderr`` is now, as notebooks and test runners replace it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Logger(logging.Logger):
    def isEnabledFor(self, level: int) -> bool:
        return level >= getattr(logging, settings.verbosity.upper())


logger = _Logger("bioverse_sc")
logger.addHandler(_StderrHandler())


@contextmanager
def finish_log(start: str) -> Iterator[list[str]]:
    """Log a start line, and at the end the time and the slots that were appended to the list."""
    logger.info("%s", start)
    began = time.perf_counter()
    slots: list[str] = []
    yield slots
    lines = "".join(f"\n    {slot}" for slot in slots)
    logger.info("    finished (%.1f s)%s%s", time.perf_counter() - began, "; added" if slots else "", lines)


def progress(*, total: int, description: str, initial: int = 0, unit: str = "step", hidden: bool = False) -> tqdm:
    """Make a progress bar, a notebook widget in Jupyter, nothing when ``settings.progress`` is off."""
    from tqdm.auto import tqdm

    shown = not hidden and settings.progress and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(total=total, initial=initial, desc=description, unit=unit, disable=not shown, leave=False)
