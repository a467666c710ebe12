"""When to make the next round trip that serves many at once: claims and writes share this one rule.

The first that asks gets it at once; what asks soon after waits for company. So a
worker with little to do answers within a millisecond, and one with much to do
makes few round trips. Keeps no clock: time comes in as monotonic seconds.
"""

from __future__ import annotations

from videopoll.clock import FOREVER_S

__all__ = ["Coalescer"]


class Coalescer:
    """When the next round trip is wanted, and how long ago the last one was."""

    __slots__ = ("_began_s", "_held_until_s", "_next_s")

    def __init__(self) -> None:
        self._next_s = FOREVER_S
        self._began_s = self._held_until_s = -FOREVER_S

    @property
    def next_s(self) -> float:
        """When the next one is to begin; infinity while nobody wants one."""
        return max(self._next_s, self._held_until_s)

    @property
    def held_until_s(self) -> float:
        """Until when none is made."""
        return self._held_until_s

    def request(self, at_s: float, apart_s: float) -> bool:
        """Request a round trip at `at_s`, at least `apart_s` after the last; return whether it moved the next one forward."""
        at_s = max(at_s, self._began_s + apart_s)
        if at_s >= self._next_s:
            return False
        planned_s, self._next_s = self.next_s, at_s
        return self.next_s < planned_s

    def started(self, now_s: float) -> None:
        """Note that a round trip begins now: it serves all requests so far."""
        self._began_s, self._next_s = now_s, FOREVER_S

    def suspend_until(self, until_s: float) -> None:
        """Allow no round trip before `until_s`, whatever is requested."""
        self._held_until_s = until_s
