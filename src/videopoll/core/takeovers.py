"""Whether a claim may take over leases that have ended: an absent Redis is no dead holder.

While Redis is away, stands still, or after its clock has stepped, the leases of
workers that live end all the same. So after such a time they get one renewal
period to say that they live, before anybody takes anything over. Keeps no clock
and does no I/O: times come in as monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from videopoll.clock import FOREVER_S

if TYPE_CHECKING:
    from videopoll.jobs.transition import ClaimBatch
    from videopoll.policies import LeasePolicy

__all__ = ["Asked", "Takeovers"]


USUAL_AFTER = 3
"""How late a claim is answered here shows in so many in a row: the quickest of them."""


@attrs.frozen
class Asked:
    """What a worker knew when it asked for a claim.

    Args:
        at_s: When it was, in monotonic seconds.
        clock_ms: What Redis's clock should say when the claim runs.
        take_over: Whether leases that have ended may be taken over.
        late_s: How late answers are here as a rule, in seconds; `clock_ms` allows for it.
    """

    at_s: float
    clock_ms: int
    take_over: bool
    late_s: float


class Takeovers:
    """Judges by a worker's own round trips whether Redis was there all the time.

    Args:
        lease: How long leases last, and how often they are renewed.
    """

    __slots__ = ("_drift_ms", "_failed", "_fine_s", "_hold_s", "_known", "_took_s", "gap_s", "held_until_s", "learnt")

    def __init__(self, lease: LeasePolicy) -> None:
        self._hold_s = lease.renew_every_s
        self._drift_ms = lease.renew_every_s * 1000
        # Whoever lives had renewed at most one period before Redis went, and will within one after it is back.
        # Who looks less often than that would not notice. Leases of two periods leave only the time by which
        # renewals come early (`RENEW_EARLIER`).
        self.gap_s: float = max(lease.duration_s - 2 * lease.renew_every_s, lease.renew_every_s / 6)
        self._known = False
        self._took_s = deque([0.0] * USUAL_AFTER, maxlen=USUAL_AFTER)
        self.learnt: bool = False
        """Whether the last claim took nothing over only because this worker did not know Redis's clock before."""
        self.open()

    def open(self) -> None:
        """Begin afresh: what was seen in an earlier run delays nothing in this one."""
        self.held_until_s: float = -FOREVER_S
        self._fine_s = -FOREVER_S
        self._failed = False

    def ask(self, now_s: float, clock_ms: int) -> Asked:
        """Return how to ask for a claim that begins now, when Redis's clock should say `clock_ms`.

        The claim is judged by the clock whatever has happened before: it may hang in a Redis that stands
        still, and run when nobody waits for it any more. Where every answer is late, nobody is away: what
        is usual is expected, so that takeovers do not wait for ever.
        """
        # While Redis is away, the next claim that it answers is the first sign of it.
        take_over = now_s >= self.held_until_s and not self._failed
        late_s = min(self._took_s)
        return Asked(now_s, clock_ms + round(late_s * 1000), take_over, late_s)

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
        away_s = max(now_s - asked_s - min(self._took_s), now_s - self._fine_s if self._failed else 0.0)
        failed, self._failed, self._fine_s = self._failed, False, now_s
        return away_s >= self.gap_s and self._wait(now_s, again=failed)

    def claimed(self, asked: Asked, batch: ClaimBatch, now_s: float) -> bool:
        """Note a claim that was answered; return whether takeovers wait from now on."""
        known, self._known = self._known, True
        self._took_s.append(now_s - asked.at_s)
        drifted = abs(batch.now_ms - asked.clock_ms) > self._drift_ms
        if self.answered(asked.at_s, now_s):
            return True
        # Before its first claim a worker has only its own wall clock to compare with.
        self.learnt = drifted and not known
        return drifted and known and self._wait(now_s, again=True)

    def _wait(self, now_s: float, *, again: bool) -> bool:
        # What is late during a wait tells of the same absence. Its clock was known by then, so another step is a new one.
        if not again and now_s < self.held_until_s:
            return False
        self.held_until_s = now_s + self._hold_s
        return True
