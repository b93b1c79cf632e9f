"""When a run is to end before its end: its time is over, or the user pressed Ctrl-C."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Report = Callable[..., None]


class Stop:
    """A sampler's progress callback that returns True once no more work is to be started.

    Attributes:
        reason: "time limit" or "interrupted" once that was so, else empty.
    """

    def __init__(self, time_limit: float | None = None, report: Report | None = None) -> None:
        """Start the clock; `report` is called as report(done, total, seconds left or None, **figures)."""
        self.reason, self._report = "", report
        self._started = time.monotonic()
        self._limit = time_limit

    def __call__(self, done: int, total: int, **figures: Any) -> bool:
        """Pass progress on; return whether to stop."""
        elapsed = time.monotonic() - self._started
        if self._limit is not None and elapsed >= self._limit and done < total:
            self.reason = self.reason or "time limit"
        if self._report is not None:
            self._report(done, total, self._left(elapsed, done, total), **figures)
        return bool(self.reason)

    def _left(self, elapsed: float, done: int, total: int) -> float | None:
        left = [] if not done else [elapsed * (total - done) / done]
        left += [] if self._limit is None else [max(0.0, self._limit - elapsed)]
        return min(left, default=None)

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Take the first Ctrl-C as a wish to stop; the second ends the program as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread is told of signals
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.reason = "interrupted"
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
