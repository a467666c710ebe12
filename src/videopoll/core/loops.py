"""Keeps account of a runner's loops: which of them fail, hang, or have ended though they should not.

A loop that fails goes on after a growing pause. One that fails for longer than a
lease lasts, hangs, or has ended makes its worker not alive, so that whoever
probes restarts it. Does no I/O and waits for nothing; the runners bring threads
or tasks.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import attrs

from videopoll._reasons import trace_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from videopoll.clock import Clock

__all__ = ["BELL", "HISTORY", "LOOP", "RENEWER", "SWEEPER", "WRITER", "Loops", "check_renewed"]

log: logging.Logger = logging.getLogger(__name__)

LOOP, WRITER, RENEWER, BELL, SWEEPER = "loop", "settler", "renewer", "bell", "sweeper"
HISTORY = "history"

VITAL = frozenset({LOOP, WRITER, RENEWER})
"""Loops without which a worker does harm, or nothing: the bell only saves time, the sweeper only looks for lost jobs."""

PAUSE_BASE_S = 0.1


@attrs.define
class _Loop:
    """What is known of one loop."""

    runs: Callable[[], bool]
    began_s: float | None = None
    failures: int = 0
    failing_since_s: float = 0.0
    error: str = ""


def check_renewed(steps: Sequence[object], held: Sequence[bool | None]) -> Sequence[bool | None]:
    """Return what a renewal answered, if it answered for every step: anything else says of no step that it is lost.

    Raises:
        ValueError: Another number of answers than of steps.
    """
    if len(held) != len(steps):
        msg = f"the renewal of {len(steps)} leases was answered for {len(held)}"
        raise ValueError(msg)
    return held


class Loops:
    """The loops of one runner. May be asked in any thread.

    Args:
        clock: What time it is.
        rng: Spreads the pauses of several workers.
        patience_s: How long a loop may fail without a success, in seconds.
        limit_s: How long one round of a loop may take, in seconds.
        pause_cap_s: The longest pause after a failure, in seconds.
    """

    def __init__(
        self, clock: Clock, rng: random.Random, *, patience_s: float, limit_s: float, pause_cap_s: float
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._patience_s = patience_s
        self._limit_s = limit_s
        self._pause_cap_s = pause_cap_s
        self._loops: dict[str, _Loop] = {}
        self._told: set[tuple[str, str]] = set()

    def open(self) -> None:
        """Begin afresh, with no loop."""
        self._loops = {}

    def begin(self, name: str, runs: Callable[[], bool] = lambda: True) -> None:
        """Note that a loop begins; `runs` says whether its thread or task is still there."""
        self._loops[name] = _Loop(runs)

    def end(self, name: str) -> None:
        """Note that a loop has ended, as it should."""
        self._loops.pop(name, None)

    @contextlib.contextmanager
    def busy(self, name: str) -> Iterator[None]:
        """Watch the time that something takes in a loop."""
        loop = self._loops.get(name)
        if loop is not None:
            loop.began_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            if loop is not None:
                loop.began_s = None

    def fine(self, name: str) -> None:
        """Note that a round of a loop went well."""
        loop = self._loops.get(name)
        if loop is not None:
            loop.failures = 0

    def failed(self, name: str, error: BaseException) -> float:
        """Note that a round of a loop raised; return the seconds to pause. Logged once for each kind of exception."""
        kind = type(error).__name__
        if (name, kind) not in self._told:
            self._told.add((name, kind))
            # The log may be what fails: a host's filters and handlers run in it.
            with contextlib.suppress(Exception):
                log.error(
                    "The worker's %s failed; it goes on after a pause. This is told once a kind\n%s",
                    name,
                    trace_of(error),
                )
        loop = self._loops.get(name)
        if loop is None:
            return PAUSE_BASE_S
        if not loop.failures:
            loop.failing_since_s = self._clock.monotonic_s()
        pause_s = min(PAUSE_BASE_S * 2.0 ** min(loop.failures, 10), self._pause_cap_s)
        loop.failures += 1
        loop.error = kind
        return pause_s * self._rng.uniform(0.5, 1.0)

    def failing(self, name: str) -> bool:
        """Whether a loop's last round raised."""
        loop = self._loops.get(name)
        return loop is not None and loop.failures > 0

    def judge(self, *, redis_away: bool) -> tuple[list[str], bool]:
        """Return what is wrong with the loops, one sentence each, and whether all that must go on do.

        Args:
            redis_away: Whether a round may take long because Redis is waited for.
        """
        problems: list[str] = []
        alive = True
        now_s = self._clock.monotonic_s()
        for name, loop in list(self._loops.items()):
            # Read once: the loop may go on meanwhile.
            failures, began_s = loop.failures, loop.began_s
            if not loop.runs():
                problems.append(f"the worker's {name} has ended: restart it")
                alive = False
            elif failures:
                failing_s = now_s - loop.failing_since_s
                problems.append(
                    f"the worker's {name} fails for {failing_s:.0f} s ({loop.error}): see the log, and restart it"
                )
                alive = alive and (name not in VITAL or failing_s <= self._patience_s)
            elif began_s is not None and not redis_away and now_s - began_s > self._limit_s:
                problems.append(f"the worker's {name} has not come back for {now_s - began_s:.0f} s: restart it")
                alive = alive and name not in VITAL
        return problems, alive
