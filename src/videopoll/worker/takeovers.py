"""Whether a claim may take over leases that have ended: an absent Redis is no dead holder.

While Redis is away, stands still, or after its clock has stepped, the leases of
workers that live end all the same. So after such a time they get one renewal
period to say that they live, before anybody takes anything over. Keeps no clock
and does no I/O: times come in as monotonic seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from videopoll.clock import FOREVER_S

if TYPE_CHECKING:
    from videopoll.jobs.transition import ClaimBatch
    from videopoll.policies import LeasePolicy

__all__ = ["Asked", "Takeovers"]


MOST_WAITS = 2
"""So many times in a row takeovers wait because answers are late; then they are always that late."""


@attrs.frozen
class Asked:
    """What a worker knew when it asked for a claim.

    Args:
        at_s: When it was, in monotonic seconds.
        clock_ms: What Redis's clock should say when the claim runs; None where that proves nothing.
        take_over: Whether leases that have ended may be taken over.
    """

    at_s: float
    clock_ms: int | None
    take_over: bool


class Takeovers:
    """Judges by a worker's own round trips whether Redis was there all the time.

    Args:
        lease: How long leases last, and how often they are renewed.
    """

    __slots__ = ("_drift_ms", "_failed", "_fine_s", "_hold_s", "_known", "_waits", "gap_s", "held_until_s", "learnt")

    def __init__(self, lease: LeasePolicy) -> None:
        self._hold_s = lease.renew_every_s
        self._drift_ms = lease.renew_every_s * 1000
        # Whoever lives had renewed at most one period before Redis went, and will within one after it is back.
        # Who looks less often than that would not notice.
        self.gap_s: float = max(lease.duration_s - 2 * lease.renew_every_s, lease.renew_every_s / 2)
        self.held_until_s: float = -FOREVER_S
        self._known = False
        self.learnt: bool = False
        """Whether the last claim took nothing over only because this worker did not know Redis's clock before."""
        self.open()

    def open(self) -> None:
        """Begin afresh: what was seen in an earlier run delays nothing in this one."""
        self.held_until_s = self._fine_s = -FOREVER_S
        self._failed, self._waits = False, 0

    def ask(self, now_s: float, clock_ms: int) -> Asked:
        """Return how to ask for a claim that begins now, when Redis's clock should say `clock_ms`.

        The first claim after two waits in a row is not judged by the clock: where every answer
        is as late as that, nobody is away, and takeovers do not wait for ever.
        """
        # While Redis is away, the next claim that it answers is the first sign of it.
        take_over = now_s >= self.held_until_s and not self._failed
        return Asked(now_s, None if self._waits >= MOST_WAITS else clock_ms, take_over)

    def failed(self, *, answered: bool = False) -> None:
        """Note that a round trip failed: Redis was away, or (`answered`) it would not do what it was asked.

        A Redis that refuses to write has refused the others' renewals as well, for longer than this worker knows.
        """
        self._failed = True
        if answered:
            self._fine_s = -FOREVER_S

    def answered(self, asked_s: float, now_s: float) -> bool:
        """Note a round trip that was answered; return whether takeovers wait from now on.

        Args:
            asked_s: When it began.
            now_s: When it was answered.
        """
        away_s = max(now_s - asked_s, now_s - self._fine_s if self._failed else 0.0)
        failed, self._failed, self._fine_s = self._failed, False, now_s
        return away_s >= self.gap_s and self._wait(now_s, again=failed)

    def claimed(self, asked: Asked, batch: ClaimBatch, now_s: float) -> bool:
        """Note a claim that was answered; return whether takeovers wait from now on."""
        known, self._known = self._known, True
        drifted = asked.clock_ms is not None and abs(batch.now_ms - asked.clock_ms) > self._drift_ms
        if self.answered(asked.at_s, now_s):
            return True
        if asked.take_over and not drifted:
            self._waits = 0
        # Before its first claim a worker has only its own wall clock to compare with.
        self.learnt = drifted and not known
        return drifted and known and self._wait(now_s, again=False)

    def _wait(self, now_s: float, *, again: bool) -> bool:
        # What is late during a wait tells of the same absence; after it, Redis may have gone once more.
        if not again and (now_s < self.held_until_s or self._waits >= MOST_WAITS):
            return False
        self.held_until_s = now_s + self._hold_s
        self._waits += 1
        return True
