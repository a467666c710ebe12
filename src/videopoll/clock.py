"""The time as a worker sees it, in one place, so that a test can move it."""

from __future__ import annotations

import time

__all__ = ["FOREVER_S", "Clock", "RedisClock"]

FOREVER_S = float("inf")


class Clock:
    """The real time. A test hands a subclass to a runner and decides itself what time it is."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""
        return time.monotonic()

    def unix_s(self) -> float:
        """Return this machine's wall clock, in Unix seconds."""
        return time.time()


class RedisClock:
    """Redis's clock, carried on by this process's monotonic one between two claims."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._offset_ms = (self._clock.unix_s() - self._clock.monotonic_s()) * 1000

    def set(self, now_ms: int) -> None:
        """Take over the time that Redis has just told."""
        self._offset_ms = now_ms - self._clock.monotonic_s() * 1000

    def now_ms(self) -> int:
        """Return Redis's time, in Unix milliseconds."""
        return int(self._clock.monotonic_s() * 1000 + self._offset_ms)

    def monotonic_s(self) -> float:
        """Return the monotonic time of this process, in seconds."""
        return self._clock.monotonic_s()
