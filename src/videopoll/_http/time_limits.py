"""Time limits for many requests of one event loop, with one timer for all that end about together.

`asyncio.timeout` sets and cancels a timer for each request, which took a
fourteenth of a poll's time. Here requests whose limits lie within `GRAIN_S` share
a timer, and a request that ends in time only leaves a set.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

GRAIN_S = 0.02
"""How much later than its limit a request may be cut off."""


class TimeLimits:
    """The limits that are running in one event loop."""

    def __init__(self) -> None:
        self._running: dict[int, set[TimeLimit]] = {}

    def until(self, deadline_s: float) -> TimeLimit:
        """Return a context that raises `TimeoutError` when the monotonic clock reaches `deadline_s`."""
        return TimeLimit(self, math.ceil(deadline_s / GRAIN_S))

    def begin(self, limit: TimeLimit) -> None:
        """Watch over a limit."""
        together = self._running.get(limit.tick)
        if together is None:
            together = self._running[limit.tick] = set()
            left_s = max(0.0, limit.tick * GRAIN_S - time.monotonic())
            asyncio.get_running_loop().call_later(left_s, self._expire, limit.tick)
        together.add(limit)

    def end(self, limit: TimeLimit) -> None:
        """Watch over it no more."""
        self._running.get(limit.tick, set()).discard(limit)

    def _expire(self, tick: int) -> None:
        for limit in self._running.pop(tick):
            limit.expire()


class TimeLimit:
    """One limit, of the task that enters it; like `asyncio.timeout`, it heeds cancellations of others."""

    __slots__ = ("_before", "_expired", "_limits", "_task", "tick")

    def __init__(self, limits: TimeLimits, tick: int) -> None:
        self._limits = limits
        self.tick = tick
        self._expired = False

    def expire(self) -> None:
        """Cut the task off."""
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            msg = "a time limit needs a task"
            raise RuntimeError(msg)
        self._task, self._before = task, task.cancelling()
        self._limits.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not self._expired:
            self._limits.end(self)
        elif self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
