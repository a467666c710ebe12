"""How long a worker may still begin a send: the end of its lease, as it travels with a message.

A worker that stood still (a blocked thread, a stopped process, a slow look-up) must
not send once somebody else may have the job. So whatever lies between the note of
a send and its first byte asks here, as late as it can.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Lease", "SendPermit"]


class Lease:
    """A lease on one job, as far as Redis has confirmed it. Each write or renewal that is confirmed moves its end on.

    Args:
        monotonic_s: The clock that counts its seconds.
    """

    __slots__ = ("_monotonic_s", "_over", "_until_s")

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._until_s = -math.inf
        self._over = False

    def confirm(self, asked_s: float, duration_s: float) -> None:
        """Note that Redis has confirmed it, for `duration_s` from when it was asked: that was before it answered."""
        self._until_s = max(self._until_s, asked_s + duration_s)

    def forfeit(self) -> None:
        """Let go of it for good: it is lost, or handed on. A confirmation that comes later changes nothing."""
        self._over = True

    def left_s(self) -> float:
        """Return the seconds for which it is surely ours; 0 or less when it may be somebody else's."""
        return -math.inf if self._over else self._until_s - self._monotonic_s()


class SendPermit:
    """The right to begin one send. It ends with the lease, or when the send is given up.

    Args:
        lease: The lease of the worker that sends.
    """

    __slots__ = ("_lease", "_withdrawn")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._withdrawn = False

    def withdraw(self) -> None:
        """Let this send not begin any more, wherever it waits."""
        self._withdrawn = True

    def holds(self) -> bool:
        """Return whether the send may begin at this moment."""
        return not self._withdrawn and self._lease.left_s() > 0
