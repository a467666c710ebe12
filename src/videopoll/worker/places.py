"""How many polls a worker may have under way now: its own places, what its account bears, and a pause of the fleet.

Does no I/O: what other workers tell comes with each claim, and `videopoll.worker.upkeep` tells them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll.clock import FOREVER_S
from videopoll.core.accounts import api_account
from videopoll.core.brakes import Brakes
from videopoll.core.opening import OPENS_IN_S, ever_open, open_places
from videopoll.jobs.checks import check_count

if TYPE_CHECKING:
    import random

    from videopoll.clock import Clock
    from videopoll.jobs.transition import ClaimBatch

__all__ = ["Places"]


class Places:
    """The places for polls of one worker.

    Args:
        poller: Asks the video API. One that asks at several has `brakes` of its own (`RoutingPoller`).
        concurrency: How many polls there are places for.
        account_concurrency: How many requests the whole fleet may have under way to one account; None if nothing
            bounds them.
        longest_pause_s: Seconds that an account is left alone at most because another worker says so.
        clock: The worker's clock.
        rng: Where it is drawn from how much later than others this worker comes back after a pause.

    Raises:
        ConfigurationError: `account_concurrency` is no whole number of at least 1.
    """

    __slots__ = ("_account", "_all", "_clock", "_longest_pause_s", "_opened_s", "_several", "brakes")

    def __init__(
        self,
        poller: object,
        concurrency: int,
        account_concurrency: int | None,
        *,
        longest_pause_s: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        if account_concurrency is not None:
            check_count("account_concurrency", account_concurrency)
        self._all, self._clock, self._longest_pause_s = concurrency, clock, longest_pause_s
        self._opened_s = -FOREVER_S
        self._several = getattr(poller, "holds_back", False) is True
        self._account = _account_of(poller)
        own = getattr(poller, "brakes", None)
        self.brakes: Brakes = own if isinstance(own, Brakes) else Brakes(clock.monotonic_s)
        """Which accounts are left alone; those of the poller, if it asks at several."""
        self.brakes.rng, self.brakes.places, self.brakes.cap = rng, concurrency, account_concurrency

    def open_at_once(self) -> None:
        """Open all places: a single batch has nobody who would take up the rest of it later."""
        self._opened_s = -FOREVER_S

    def open_softly(self) -> None:
        """Open the places gradually, from the next claim on: the whole fleet may be about to take up what is overdue."""
        self._opened_s = FOREVER_S

    def throttled(self, wait_s: float) -> bool:
        """Note a 429 that asks for a pause; return whether this worker polls nothing until it is over."""
        if self._several:
            # Each account by itself, as its poller has noted: the others go on.
            return False
        self.brakes.hold(self._account, wait_s)
        return True

    def learn(self, batch: ClaimBatch) -> dict[str, float]:
        """Note what a claim tells of the fleet; return which accounts are left alone from now on, for so many seconds."""
        # Not before: until it can claim for the first time, a busy machine may take a while.
        self._opened_s = min(self._opened_s, self._clock.monotonic_s())
        self.brakes.workers = max(1, batch.workers)
        return self.brakes.learn(batch.brakes, batch.now_ms, self._longest_pause_s)

    def pause_left_s(self) -> float:
        """Seconds until polling may go on after a 429; 0 when it may."""
        return 0.0 if self._several else self.brakes.held_s(self._account)

    @property
    def open(self) -> int:
        """How many polls may be under way now."""
        # Of several accounts each has a bound of its own.
        most = self._all if self._several else ever_open(self._all, self.brakes.cap, self.brakes.workers)
        return open_places(most, self._since_s)

    @property
    def opening(self) -> bool:
        """Whether more places open by themselves."""
        return self._since_s < OPENS_IN_S

    @property
    def _since_s(self) -> float:
        resumed_s = -FOREVER_S if self._several else self.brakes.resumed_s(self._account)
        return self._clock.monotonic_s() - max(self._opened_s, resumed_s)


def _account_of(poller: object) -> str:
    """Return the account of a poller; of one that names none, what stands for the one that all workers of a queue have."""
    account = getattr(poller, "account", None)
    return account if isinstance(account, str) and account else api_account("video-api")
