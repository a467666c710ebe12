"""Deadlines for many requests of one event loop, with one timer for all that fall about together.

`asyncio.timeout` sets and cancels a timer for each request, which took a
fourteenth of a poll's time. Here requests whose deadlines lie within `GRAIN_S` share
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
"""How much later than its deadline a request may be cut off."""


class Deadlines:
    """The deadlines that are running in one event loop."""

    def __init__(self) -> None:
        self._running: dict[int, set[Deadline]] = {}

    def at(self, deadline_s: float) -> Deadline:
        """Return a context that raises `TimeoutError` when the monotonic clock reaches `deadline_s`."""
        return Deadline(self, math.ceil(deadline_s / GRAIN_S))

    def begin(self, deadline: Deadline) -> set[Deadline]:
        """Watch over a deadline; return those that are watched together. One that leaves them is watched no more."""
        together = self._running.get(deadline.tick)
        if together is None:
            together = self._running[deadline.tick] = set()
            left_s = max(0.0, deadline.tick * GRAIN_S - time.monotonic())
            asyncio.get_running_loop().call_later(left_s, self._expire, deadline.tick)
        together.add(deadline)
        return together

    def _expire(self, tick: int) -> None:
        together = self._running.pop(tick)
        while together:
            together.pop().expire()


class Deadline:
    """A deadline of the task that enters it; like `asyncio.timeout`, it lets outside cancellations through."""

    __slots__ = ("_before", "_deadlines", "_expired", "_task", "_together", "tick")

    def __init__(self, deadlines: Deadlines, tick: int) -> None:
        self._deadlines = deadlines
        self.tick: int = tick
        self._expired = False

    @property
    def expired(self) -> bool:
        """Whether the time was over before it was left."""
        return self._expired

    def expire(self) -> None:
        """Cut the task off."""
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            msg = "a deadline needs a task"
            raise RuntimeError(msg)
        self._task, self._before = task, task.cancelling()
        self._together = self._deadlines.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not self._expired:
            self._together.discard(self)
        elif self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
