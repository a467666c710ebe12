"""Which accounts of video APIs are left alone after a 429 and for how long, and how many requests each has at a time.

An account is an API and a key: a pause of one holds up no job of another. The
worker that meets a 429 tells the others (`untold`), and learns what they met
(`learn`), by way of the queue. After a pause the requests of an account begin
gradually (`videopoll.core.opening`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import attrs
from typing_extensions import override

from videopoll.clock import FOREVER_S
from videopoll.core.belonging import OfProcess
from videopoll.core.opening import OPENS_IN_S, ever_open, open_places, spread_s
from videopoll.core.turns import LATEST_TURN_S, Turns
from videopoll.observations import Fault, FaultKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from videopoll.policies import PollingStrategy

__all__ = ["Brakes"]

T = TypeVar("T")

MOST_ACCOUNTS = 10_000
"""The most accounts that are remembered; the oldest go first."""

TOLD_AGAIN_S = 0.25
"""By how much a pause has to be longer than what was told before, in seconds, to be told again."""


SAME_MS = 500
"""Ends of a pause that are no further apart are the same one, read by another clock: partitions have one each."""


@attrs.frozen
class _Held:
    until_s: float
    in_row: int
    told_s: float
    """Until when the others know that it lasts."""


class Brakes(OfProcess):
    """The pauses of accounts, and the requests under way to each. Thread-safe.

    Args:
        monotonic_s: The clock.
    """

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self.rng: random.Random | None = None
        """Where it is drawn from how much later than others this worker comes back; without it, at once."""
        self.places: int | None = None
        """How many requests this worker has places for; None if nothing bounds them."""
        self.cap: int | None = None
        """How many requests the whole fleet may have under way to one account; None if nothing bounds them."""
        self.workers: int = 1
        """How many workers share that."""
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._busy: dict[str, Turns] = {}
        self._untold: dict[str, float] = {}
        self._news: dict[str, float] = {}
        self._learnt: dict[str, int] = {}
        self._resumed: dict[str, float] = {}
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # Another thread of the parent may have held it; and what the parent has under way ends there.
        self._lock = threading.Lock()
        self._busy = {}

    def held_s(self, account: str) -> float:
        """Return the seconds for which an account is to be left alone; 0 if it may be asked."""
        held = self._held.get(account)
        return 0.0 if held is None else max(0.0, held.until_s - self._monotonic_s())

    def resumed_s(self, account: str) -> float:
        """Return when its last pause ended or will end, on the clock of these brakes; minus infinity if it had none."""
        held = self._held.get(account)
        return self._resumed.get(account, -FOREVER_S) if held is None else held.until_s

    def hold(self, account: str, wait_s: float, in_row: int = 0) -> None:
        """Leave an account alone for so many seconds at least; `in_row` is how many pauses went before."""
        until_s = self._monotonic_s() + wait_s
        with self._lock:
            held = self._held.get(account)
            told_s = -FOREVER_S if held is None else held.told_s
            if until_s > told_s + min(TOLD_AGAIN_S, wait_s / 2):
                self._untold[account] = self._news[account] = told_s = until_s
            _put(self._held, account, _Held(self._later(until_s, wait_s, held), in_row, told_s))

    def learn(self, untils_ms: Mapping[str, int], now_ms: int, longest_s: float) -> dict[str, float]:
        """Leave accounts alone that another worker met a 429 at.

        Args:
            untils_ms: Until when, by account, as the queue keeps it.
            now_ms: The queue's clock.
            longest_s: Seconds that a pause lasts at most, from when it was read first.

        Returns:
            What is new here: accounts, and for how many seconds they are left alone.
        """
        if not untils_ms:
            return {}
        new: dict[str, float] = {}
        now_s = self._monotonic_s()
        for account, until_ms in untils_ms.items():
            left_s = min((until_ms - now_ms) / 1000, longest_s)
            with self._lock:
                # What was read before is bounded from then: whatever stands there, it holds nobody back for ever.
                before_ms = self._learnt.get(account)
                if left_s <= 0 or (before_ms is not None and abs(until_ms - before_ms) <= SAME_MS):
                    continue
                _put(self._learnt, account, until_ms)
                held, until_s = self._held.get(account), now_s + left_s
                # Most of them are what this worker told itself.
                if held is None or until_s > held.told_s + TOLD_AGAIN_S:
                    in_row = 0 if held is None else held.in_row
                    _put(self._held, account, _Held(self._later(until_s, left_s, held), in_row, until_s))
                    new[account] = left_s
        return new

    def untold(self) -> dict[str, float]:
        """Return the pauses that the others do not know of yet, in seconds by account; they count as told from now on."""
        return self._take(self._untold)

    def news(self) -> dict[str, float]:
        """Return the pauses that began here or were made longer since the last call, in seconds by account."""
        return self._take(self._news)

    def tell_again(self, pauses_s: Mapping[str, float]) -> None:
        """Note that pauses could not be told."""
        now_s = self._monotonic_s()
        with self._lock:
            for account, left_s in pauses_s.items():
                self._untold.setdefault(account, now_s + left_s)

    def note(self, account: str, began_s: float, observation: object, strategy: PollingStrategy) -> None:
        """Note what an account answered: after a 429 it is left alone, longer each time in a row.

        Args:
            account: The account.
            began_s: When it was asked, on the clock of these brakes.
            observation: What it answered.
            strategy: Its polling strategy: it bounds the pause.
        """
        held = self._held.get(account)
        # Those that were under way together are one time, and what was asked before a pause says nothing of what is after it.
        before = held is not None and began_s < held.until_s
        if not isinstance(observation, Fault) or observation.kind is not FaultKind.THROTTLED:
            if held is not None and not before:
                with self._lock:
                    self._held.pop(account, None)
                    _put(self._resumed, account, held.until_s)
            return
        in_row = 0 if held is None else held.in_row + (not before)
        hint_s = observation.retry_after_s
        wait_s = strategy.backoff_s(in_row) if hint_s is None else hint_s
        self.hold(account, min(wait_s, strategy.max_retry_after_s), in_row)

    def enter(self, account: str) -> float:
        """Begin a request to an account; return 0, or the seconds after which there is a place for it."""
        with self._lock:
            now_s, turns = self._monotonic_s(), self._busy.setdefault(account, Turns())
            if self.places is None:
                return turns.enter(now_s, FOREVER_S)
            bound, since_s = ever_open(self.places, self.cap, self.workers), now_s - self.resumed_s(account)
            most = open_places(bound, since_s)
            # As long as places open, they do so sooner than calls end.
            return turns.enter(now_s, most, LATEST_TURN_S if most == bound else OPENS_IN_S - since_s)

    def leave(self, account: str, began_s: float) -> None:
        """Note that a request to an account has ended, which began then."""
        with self._lock:
            busy = self._busy.get(account)
            # In a forked child, one of the parent's.
            if busy is not None and busy.leave(self._monotonic_s(), began_s):
                del self._busy[account]

    def _take(self, noted: dict[str, float]) -> dict[str, float]:
        """Return the seconds that are left of the pauses that were noted, by account, and forget them."""
        if not noted:
            return {}
        with self._lock:
            untils_s = dict(noted)
            noted.clear()
        now_s = self._monotonic_s()
        return {account: until_s - now_s for account, until_s in untils_s.items() if until_s > now_s}

    def _later(self, until_s: float, wait_s: float, held: _Held | None) -> float:
        """Return when this worker comes back after a pause that ends then; no earlier than it was to before."""
        if held is not None and until_s <= held.until_s:
            return held.until_s
        return until_s + (0.0 if self.rng is None else spread_s(wait_s, self.rng.random()))


def _put(accounts: dict[str, T], account: str, value: T) -> None:
    """Set a value; the newest at the end, and not more than are remembered."""
    accounts.pop(account, None)
    accounts[account] = value
    if len(accounts) > MOST_ACCOUNTS:
        del accounts[next(iter(accounts))]
