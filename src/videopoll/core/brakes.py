"""Which accounts of video APIs a worker leaves alone after a 429, and for how long.

An account is a provider and a key: a pause of one holds up no job of another. The
pauses are those of this worker; what is to be shared between workers goes in and
out here (`hold`, `held_s`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import attrs
from typing_extensions import override

from videopoll.core.belonging import OfProcess
from videopoll.observations import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.policies import PollingStrategy

__all__ = ["Brakes"]

MOST_ACCOUNTS = 10_000
"""The most accounts that are remembered; the oldest go first."""


@attrs.frozen
class _Held:
    until_s: float
    in_row: int


class Brakes(OfProcess):
    """The pauses of accounts. Thread-safe.

    Args:
        monotonic_s: The clock.
    """

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # Another thread of the parent may have held it.
        self._lock = threading.Lock()

    def held_s(self, account: str) -> float:
        """Return the seconds for which an account is to be left alone; 0 if it may be asked."""
        held = self._held.get(account)
        return 0.0 if held is None else max(0.0, held.until_s - self._monotonic_s())

    def hold(self, account: str, wait_s: float, in_row: int = 0) -> None:
        """Leave an account alone for so many seconds at least; `in_row` is how many pauses went before."""
        until_s = self._monotonic_s() + wait_s
        with self._lock:
            # The newest at the end.
            held = self._held.pop(account, None)
            self._held[account] = _Held(until_s if held is None else max(held.until_s, until_s), in_row)
            if len(self._held) > MOST_ACCOUNTS:
                del self._held[next(iter(self._held))]

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
            return
        in_row = 0 if held is None else held.in_row + (not before)
        hint_s = observation.retry_after_s
        wait_s = strategy.backoff_s(in_row) if hint_s is None else hint_s
        self.hold(account, min(wait_s, strategy.max_retry_after_s), in_row)
