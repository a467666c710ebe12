"""The jobs that a busy worker has claimed before a place is free for them, and how many those may be.

A place that has to wait for a claim stands idle for as long as the claim takes, and
for the time that keeps two claims apart. So while more is due than there are places,
a claim also takes what the next few milliseconds will have places for. Keeps no clock
and does no I/O: times come in as monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from videopoll.clock import FOREVER_S

if TYPE_CHECKING:
    from videopoll.core.step import JobStep

__all__ = ["Line"]

AHEAD_S = 0.04
"""For how long a line lasts: twice the time between two claims, as a busy worker's claim takes a while itself."""

LONGEST_WAIT_S = 0.25
"""How long a job may stand in line. It does if polls suddenly take longer: then another worker may be free for it."""

SMOOTHED_OVER_S = 0.5
"""Over how long the rate is averaged at which places get free: those that were taken together get free together."""


class Line:
    """Jobs in line for a place, the longest due first.

    Attributes:
        backlog: Whether more is due than the last claim took. Without that nothing waits:
            another worker may have a place for it now.
    """

    __slots__ = ("_freed", "_looked_s", "_rate", "_steps", "backlog")

    def __init__(self) -> None:
        self._steps: deque[tuple[float, JobStep]] = deque()
        self._rate, self._freed, self._looked_s = 0.0, 0, -FOREVER_S
        self.backlog: bool = False

    def __len__(self) -> int:
        return len(self._steps)

    def place_freed(self) -> None:
        """Note that a place for a poll is free again."""
        self._freed += 1

    def look(self, now_s: float) -> None:
        """Note that a turn of the loop begins: the rate is counted from turn to turn."""
        over_s = now_s - self._looked_s
        if over_s > 0:
            self._rate += (1 - math.exp(-over_s / SMOOTHED_OVER_S)) * (self._freed / over_s - self._rate)
            self._looked_s, self._freed = now_s, 0

    @property
    def room(self) -> int:
        """How many more jobs may join."""
        ahead = int(self._rate * AHEAD_S)
        # One more, as they do not come in evenly; but with less than one it would stand there for long.
        return max(0, ahead + 1 - len(self._steps)) if self.backlog and ahead else 0

    @property
    def late_s(self) -> float:
        """When the first has waited for too long; infinity if nobody waits."""
        return self._steps[0][0] + LONGEST_WAIT_S if self._steps else FOREVER_S

    def join(self, step: JobStep, now_s: float) -> None:
        """Add a job that waits for a place."""
        self._steps.append((now_s, step))

    def first(self) -> JobStep:
        """Return the job whose turn it is; it stands in line no more."""
        return self._steps.popleft()[1]

    def leave(self, now_s: float = FOREVER_S) -> list[JobStep]:
        """Return the jobs that have waited for too long by then, without a time all; they stand in line no more."""
        left = []
        while self.late_s <= now_s and self._steps:
            left.append(self.first())
        return left
