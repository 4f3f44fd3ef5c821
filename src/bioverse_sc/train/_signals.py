"""Whether a training is told to stop."""

from __future__ import annotations

import signal
import threading


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
