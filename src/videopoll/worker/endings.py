"""When a worker looks for jobs that should have ended: they are ended without a place, however long its places are taken.

Does no I/O. The loop that claims is the one that calls it; only `in_hand` is counted by others, with a lock of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll.clock import FOREVER_S

if TYPE_CHECKING:
    from videopoll.clock import Clock
    from videopoll.jobs.transition import ClaimBatch
    from videopoll.policies import PollingStrategy

__all__ = ["MOST_ENDINGS", "Endings"]

LOOK_EVERY_S = 1.0
"""How often a worker without a free slot looks for jobs that should have ended, at most."""

LOOK_ON_S = 0.1
"""How soon it goes on with a look that was not through."""

MOST_ENDINGS = 100
"""Jobs at a time that are ended without a slot."""


class Endings:
    """Plans the looks for jobs that should have ended.

    Args:
        strategy: The strategy that claims go by.
        clock: What time it is.
        rest_s: Seconds until the next look where there is nothing to end.

    Attributes:
        in_hand: How many jobs are being ended.
        look_from: Where the next look begins.
        look_at_s: When it is due, in monotonic seconds.
        patient_until_s: Until when nothing is ended.
    """

    def __init__(self, strategy: PollingStrategy, clock: Clock, rest_s: float) -> None:
        self._strategy, self._clock, self._rest_s = strategy, clock, rest_s
        self.in_hand: int = 0
        self._looked = self._late = False
        self.defer()

    def defer(self) -> None:
        """End nothing without a slot for a while: what is overdue when a worker comes gets its last poll first."""
        patience_s = self._strategy.interval_s + self._strategy.request_timeout_s
        self.patient_until_s: float = self._clock.monotonic_s() + patience_s
        self.look_at_s: float = self.patient_until_s
        self.look_from: int = 0

    def begin_look(self, now_s: float, polls: int, *, writes_first: bool) -> int:
        """Return how many jobs to end with the claim that begins now.

        Args:
            now_s: Monotonic seconds.
            polls: How many places for polls are free.
            writes_first: Whether nothing may be claimed.
        """
        endings = 0
        if now_s >= self.wanted_s(polls):
            endings = max(0, MOST_ENDINGS - self.in_hand)
            # Those that are being ended make room for the next.
            self.look_at_s = now_s + LOOK_ON_S
        if writes_first:
            endings = 0
        self._looked = endings > 0
        return endings

    def plan(self, batch: ClaimBatch, *, take_new: bool) -> None:
        """Plan the next look after a claim."""
        now_s = self._clock.monotonic_s()
        # Nothing is to be ended that has not been due for an interval, or waits where the due times are not told.
        late_ms = batch.now_ms - round(self._strategy.interval_s * 1000)
        self._late = bool(
            (batch.waiting and take_new)
            or (batch.next_poll_ms is not None and batch.next_poll_ms <= late_ms)
            or (batch.next_expiry_ms is not None and batch.next_expiry_ms <= batch.now_ms)
        )
        # Scaled down with the strategy: the look must not be what makes an end late.
        every_s = min(LOOK_EVERY_S, self._strategy.request_timeout_s / 4)
        if not self._looked:
            soon_s = now_s + every_s if self._late else self.look_at_s
            self.look_at_s = max(self.patient_until_s, min(self.look_at_s, soon_s))
            return
        goes_on = batch.look_from or any(claim.ending for claim in batch.claims)
        wait_s = min(LOOK_ON_S, every_s) if goes_on else every_s if self._late else self._rest_s
        self.look_from, self.look_at_s = batch.look_from, now_s + wait_s

    def wanted_s(self, polls: int) -> float:
        """When the next look is wanted, in monotonic seconds; never, while whatever is due finds a slot."""
        return FOREVER_S if polls and not self._late else self.look_at_s
