"""A clock that a test moves, for runners and for the queues of `videopoll.testing.memory_queue`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from videopoll.clock import Clock
from videopoll.jobs.checks import check_seconds
from videopoll.testing.memory import MEMORY_TIME

__all__ = ["MovableClock"]


class MovableClock(Clock):
    """The real time, plus what a test has moved it by.

    Pass it to a runner as ``clock=``. As a context manager it also moves the time of every queue
    of `memory_queue` and `async_memory_queue` in this process: hours of polling pass in
    milliseconds. Call the runner's `run_once` after each move. A runner in the background only
    notices a move when it looks at the clock again, which takes some seconds.

    ::

        with MovableClock() as clock, memory_queue() as queue:
            with Runner(queue, poller, notifier, clock=clock) as runner:
                runner.run_once()
                clock.move(10)
                runner.run_once()

    Raises:
        ConfigurationError: Another clock is used as a context manager at the moment.
        ImportError: On ``with``, if the extra ``testing`` is not installed.
    """

    def __init__(self) -> None:
        self._moved_s = 0.0

    def __repr__(self) -> str:
        return f"<MovableClock moved by {self._moved_s:g} s>"

    def move(self, seconds: float) -> None:
        """Move the time on.

        Args:
            seconds: How far, in seconds.

        Raises:
            ConfigurationError: `seconds` is negative: a monotonic clock never goes back.
        """
        # A monotonic clock never goes back.
        check_seconds("MovableClock.move.seconds", seconds, low=0)
        self._moved_s += seconds

    def monotonic_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""
        return super().monotonic_s() + self._moved_s

    def unix_s(self) -> float:
        """Return the wall clock, in Unix seconds."""
        return super().unix_s() + self._moved_s

    def __enter__(self) -> Self:
        MEMORY_TIME.use(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        MEMORY_TIME.restore()
