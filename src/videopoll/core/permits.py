"""Whether a worker may still begin a send: the end of its lease travels with the message.

A worker that stood still (a blocked thread, a stopped process, a slow look-up) must
not send once another worker may hold the job. So everything between the note of a send
and its first byte asks here, as late as it can.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from videopoll._reasons import own
from videopoll.core.accounts import account_key
from videopoll.messages import NotSent

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.core.accounts import Accounts

__all__ = ["Lease", "SendPermit"]

HELD_BACK = "held back: nobody knows what became of the last messages over this account of the channel"
REFUSED = "held back: the channel refuses this account"
NO_PLACE = "waits for its turn: other messages over this account of the channel are under way"


class Lease:
    """A lease on one job, as far as Redis has confirmed it. Each confirmed write or renewal extends it.

    Args:
        monotonic_s: The clock that counts its seconds.
    """

    __slots__ = ("_monotonic_s", "_over", "_until_s")

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._until_s = -math.inf
        self._over = False

    def confirm(self, asked_s: float, duration_s: float) -> None:
        """Extend the lease to `duration_s` seconds after `asked_s`, when Redis was asked to confirm it."""
        self._until_s = max(self._until_s, asked_s + duration_s)

    def forfeit(self) -> None:
        """End the lease for good: it is lost, or released. A later confirmation changes nothing."""
        self._over = True

    def left_s(self) -> float:
        """Return the seconds for which this worker surely holds it; 0 or less if another may."""
        return -math.inf if self._over else self._until_s - self._monotonic_s()


class SendPermit:
    """The right to begin one send. It ends with the lease, or when the send is given up.

    Args:
        lease: The lease of the worker that sends.
        accounts: The accounts that the worker holds back.
        reference: The name of the message.

    Attributes:
        turn_s: The seconds after which there is a place for a send over its account; 0 if there was one.
    """

    __slots__ = ("_accounts", "_began", "_lease", "_reference", "_withdrawn", "account", "channel", "turn_s")

    def __init__(self, lease: Lease, accounts: Accounts | None = None, reference: str = "") -> None:
        self._lease = lease
        self._accounts = accounts
        self._reference = reference
        self._withdrawn = False
        # When a place among those of its account was taken, and over which; None while it has none.
        self._began: tuple[str, float] | None = None
        # Those of a channel that stands alone.
        self.account: str = ""
        self.channel: str | None = None
        self.turn_s: float = 0.0

    def __reduce__(self) -> tuple[Callable[[Lease, bool], SendPermit], tuple[Lease, bool]]:
        return _copied, (self._lease, self._withdrawn)

    def withdraw(self) -> None:
        """Forbid this send to begin, wherever it waits."""
        self._withdrawn = True

    def holds(self) -> bool:
        """Return whether the send may begin at this moment."""
        return not self._withdrawn and self._lease.left_s() > 0

    def goes_over(self, channel: str, *credentials: str | None) -> None:
        """Note over which account of which channel the message goes."""
        self.account = account_key(channel, *credentials)
        self.channel = channel

    def held_back(self) -> NotSent | None:
        """Return the receipt of a send whose account this worker holds back, or has no place for; else None."""
        if self._accounts is None:
            return None
        if left_s := self._accounts.held_s(self.account, self._reference):
            reason = own(REFUSED if self._accounts.refused(self.account) else HELD_BACK)
            # Of the account's trouble an alarm has told: not each message that waits for it is news.
            return NotSent(reason, left_s, counts=False, channel_fault=False, waits=True, channel=self.channel)
        # A channel that stands alone shares its places with nobody.
        if self.account and self._began is None:
            self.turn_s = self._accounts.enter(self.account)
            if self.turn_s:
                return NotSent(
                    own(NO_PLACE), self.turn_s, counts=False, channel_fault=False, waits=True, channel=self.channel
                )
            self._began = self.account, self._accounts.now_s()
        return None

    def ended(self) -> None:
        """Note that the send has ended, or is waited for no more: its place is free."""
        if self._accounts is not None and self._began is not None:
            account, began_s = self._began
            self._began = None
            self._accounts.leave(account, began_s)


def _copied(lease: Lease, withdrawn: bool) -> SendPermit:  # noqa: FBT001 - pickle calls it by position
    permit = SendPermit(lease)
    if withdrawn:
        permit.withdraw()
    return permit
