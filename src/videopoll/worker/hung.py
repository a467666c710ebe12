"""Calls of a host's parts in threads that do not come back: the job goes on without them.

A thread cannot be cut off. So when its time is over, another thread gets the answer
that it did not come back, and goes on with the job; whichever of the two is first
has it. The late one finds that, and ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from videopoll._reasons import own
from videopoll.core.effects import Answer, Effect, PollApi, PublishVideo, SendMessage
from videopoll.messages import LookupResult, Unknown
from videopoll.observations import Fault, FaultKind

if TYPE_CHECKING:
    from videopoll.core.effects import Steps
    from videopoll.core.step import JobStep

__all__ = ["GUARD_S", "HungCalls", "PartCall", "limit_s", "not_back", "poller_not_back"]

GUARD_S = 5.0
"""How much longer than its own limit a host's poller may take before it is cut off."""


def not_back(effect: Effect, send_timeout_s: float) -> Answer:
    """Return the answer of a part that did not come back in its time."""
    if isinstance(effect, PollApi | PublishVideo):
        return poller_not_back(effect)
    if isinstance(effect, SendMessage):
        return Unknown(own(f"the notifier did not come back within {send_timeout_s:g} s"))
    return LookupResult.NO_ANSWER


def poller_not_back(effect: PollApi | PublishVideo) -> Fault:
    """Return the answer of a poller, or a publisher, that did not come back in its time."""
    who = "poller" if isinstance(effect, PollApi) else "publishing"
    return Fault(FaultKind.TIMEOUT, own(f"the {who} did not come back within {effect.timeout_s:g} s"))


def limit_s(effect: Effect, send_timeout_s: float) -> float:
    """Return the seconds after which a part is left to itself that carries this out."""
    return effect.timeout_s + GUARD_S if isinstance(effect, PollApi | PublishVideo) else send_timeout_s


@attrs.define(eq=False)
class PartCall:
    """One call of a part, and the work that waits for it."""

    step: JobStep
    steps: Steps
    effect: Effect
    until_s: float


class HungCalls:
    """The calls that a runner's threads are in.

    Args:
        most: Calls at most that are left to themselves: further ones keep their jobs waiting.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: dict[PartCall, None] = {}
        self._left: dict[PartCall, None] = {}

    @property
    def count(self) -> int:
        """How many were left to themselves and have not come back."""
        return len(self._left)

    def begin(self, call: PartCall) -> None:
        """Note that a call begins in this thread."""
        self._under_way[call] = None

    def end(self, call: PartCall) -> bool:
        """Note that it has come back; False if another thread goes on with its job by now."""
        # One step of the interpreter: the one who takes it out has it.
        if self._under_way.pop(call, True) is None:
            return True
        self._left.pop(call, None)
        return False

    def leave_all(self) -> None:
        """Leave all calls to themselves: the run that waited for them is over."""
        for call in list(self._under_way):
            self._left[call] = None
            if self._under_way.pop(call, True) is not None:
                self._left.pop(call, None)

    def overdue(self, now_s: float) -> list[PartCall]:
        """Take the calls whose time is over: their jobs are the caller's now."""
        taken = []
        for call in list(self._under_way):
            if call.until_s > now_s or len(self._left) >= self._most:
                continue
            # Noted first: the thread takes itself out again if it comes back now.
            self._left[call] = None
            if self._under_way.pop(call, True) is None:
                taken.append(call)
            else:
                self._left.pop(call, None)
        return taken
