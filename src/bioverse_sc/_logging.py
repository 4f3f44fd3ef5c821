"""The package's own logger, finish lines, and progress bars."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

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


SILENCE = 30.0
"""Seconds between two lines about the progress of a job without a terminal at least; short work has none."""
SHARE = 0.1
"""Share of the work between them at least."""


def progress(
    *, total: int, description: str, initial: int = 0, unit: str = "step", hidden: bool = False
) -> tqdm | ProgressLog:
    """Make a progress bar, a notebook widget in Jupyter; lines of the log where there is no terminal.

    Nothing when ``settings.progress`` is off.
    """
    shown = not hidden and settings.progress
    if shown and not (sys.stderr.isatty() or _in_notebook()):
        return ProgressLog(total=total, initial=initial, description=description, unit=unit)
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, desc=description, unit=unit, disable=not shown, leave=False)


def _in_notebook() -> bool:
    """Whether this code runs in a kernel, and not beside one that was merely imported."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


class ProgressLog:
    """Logs how far some work is, in the place of a bar: a batch job writes to a file.

    A line comes when a tenth of the work and half a minute have passed since the last one, and none at the end, which
    :func:`finish_log` says.
    """

    def __init__(self, *, total: int, initial: int, description: str, unit: str) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.n = self._initial = self._logged = initial
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Count what was done."""
        self.n += n
        now = time.monotonic()
        is_due = now - self._last >= SILENCE and self.n - self._logged >= SHARE * self.total
        if is_due and self.n < self.total:
            self._last, self._logged = now, self.n
            passed = now - self._began
            left = passed / (self.n - self._initial) * (self.total - self.n)
            logger.info(
                "    %s: %d of %d %ss (%d %%) after %s, about %s left",
                self.description,
                self.n,
                self.total,
                self.unit,
                100 * self.n // self.total,
                _duration(passed),
                _duration(left),
            )

    def set_postfix(self, *_: object, **__: object) -> None:
        """Say nothing: a bar has room for figures beside it."""

    set_postfix_str = set_description = set_postfix


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
