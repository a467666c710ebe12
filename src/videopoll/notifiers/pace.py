"""How fast one user may get messages, where a channel asks for a gap between them: in this process, and for a while.

A message that is too early is not sent, uses up nothing of its delivery's budget, and comes
again when it may. Several workers know nothing of each other's messages: what one of them sends
too early for another, the channel refuses.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import attrs
from typing_extensions import override

from videopoll._reasons import own
from videopoll.core.belonging import OfProcess
from videopoll.messages import Message, NotSent, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.messages import BaseMessage, Receipt

__all__ = ["Pace", "Turn"]

MOST_USERS = 10_000
"""Users whose last message is remembered, at most: those who got one in the last seconds."""

User: TypeAlias = tuple[str, str]


class Pace(OfProcess):
    """When each user got the last message. Thread-safe.

    Args:
        gap_s: Seconds between two messages to one user; 0 for none.
        monotonic_s: The clock.
    """

    def __init__(self, gap_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.gap_s = gap_s
        self._monotonic_s = monotonic_s
        self._begin_in_child()
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()
        # In the order of their ends, as all have the same gap.
        self._until_s: dict[User, float] = {}

    def turn(self, message: BaseMessage) -> Turn:
        """Return what the message may do now, and what it notes when it is sent."""
        recipient = message.recipient
        # What is said to a user before a video is made has one chance, and nobody would send it later.
        waits = isinstance(message, Message)
        return Turn(self, None if recipient is None else (recipient.instance_id or "", recipient.to), waits=waits)

    def left_s(self, user: User) -> float:
        """Return the seconds until the user may get another message; 0 for now."""
        with self._lock:
            return max(0.0, self._until_s.get(user, 0.0) - self._monotonic_s())

    def take(self, user: User, *, waits: bool) -> float:
        """Note that a message goes out now; if it `waits` for its time, only if it may. Return as `left_s` does."""
        with self._lock:
            now_s = self._monotonic_s()
            left_s = self._until_s.get(user, 0.0) - now_s
            if waits and left_s > 0:
                return left_s
            self._until_s.pop(user, None)
            while self._until_s:
                oldest = next(iter(self._until_s))
                if self._until_s[oldest] > now_s and len(self._until_s) < MOST_USERS:
                    break
                del self._until_s[oldest]
            self._until_s[user] = now_s + self.gap_s
            return 0.0

    def give_back(self, user: User) -> None:
        """Forget the last message of a user, as it was not sent."""
        with self._lock:
            self._until_s.pop(user, None)


@attrs.define
class Turn:
    """The place of one message in its user's pace."""

    _pace: Pace
    _user: User | None
    _waits: bool = attrs.field(kw_only=True, alias="waits")
    _taken: bool = False

    def too_early(self) -> NotSent | None:
        """Return why the message does not go out now; None if it may."""
        if self._user is None or not self._waits or not self._pace.gap_s:
            return None
        return self._held(self._pace.left_s(self._user))

    def take(self) -> NotSent | None:
        """Note that the message goes out now; return why not, if it must not. Once for all its requests."""
        if self._user is None or self._taken or not self._pace.gap_s:
            return None
        held = self._held(self._pace.take(self._user, waits=self._waits))
        self._taken = held is None
        return held

    def end(self, receipt: Receipt) -> None:
        """Return the place if nothing was sent."""
        if self._taken and self._user is not None and isinstance(receipt, NotSent | Refused):
            self._pace.give_back(self._user)

    def _held(self, left_s: float) -> NotSent | None:
        if left_s <= 0:
            return None
        reason = own(f"held back: its user got another message less than {self._pace.gap_s:g} s ago")
        return NotSent(reason, left_s, counts=False, channel_fault=False, waits=True)
