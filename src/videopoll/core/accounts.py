"""The accounts of channels that a worker holds back.

A gateway that delivers and answers 500 each time would send every user as many copies
as the budget allows: so its account is held back after a few sends of unknown fate in
a row. One whose credentials are refused is held back at once, as every message would
fail. After a pause one message finds out whether the account works again.

No account takes all places for sends, however slow its channel is: what is above its
share waits in Redis, so that there are places for the others.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import attrs

from videopoll.clock import FOREVER_S
from videopoll.core.turns import Turns
from videopoll.messages import Failed, Found, LookupAnswer, LookupResult, NotSent, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.messages import Receipt

__all__ = ["Accounts", "account_key", "api_account"]

IN_A_ROW = 3
"""An account is held back after this many different messages of unknown fate in a row."""

LONGEST_PAUSE_S = 300.0

SHARE = 3
"""An account has at most so many times the places that are free: three quarters, if it is the only one that sends."""

MOST_NAME, MOST_HASH = 40, 16
"""Characters that the key of an account of a video API has of its name, and of its hash."""

MOST_ACCOUNTS = 10_000
"""The most accounts that are remembered; the oldest go first."""


def account_key(channel: str, *credentials: str | None) -> str:
    """Return the key of an account. No credential can be read from it."""
    parts = "\0".join((channel, *(part or "" for part in credentials)))
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()


def api_account(name: str, *credentials: str | None) -> str:
    """Return the key of an account of a video API, with the name of the API in front, so that operators can tell it."""
    shown = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-._") else "_" for letter in name)
    return f"{shown[:MOST_NAME]}:{account_key(name, *credentials)[:MOST_HASH]}"


@attrs.define
class _Account:
    channel: str | None
    references: set[str] = attrs.field(factory=set)
    refused: bool = False
    pause_s: float = 0.0
    until_s: float = 0.0
    probe: str | None = None

    @property
    def held(self) -> bool:
        return self.pause_s > 0


class Accounts:
    """The last results of each account, and the sends under way over each. Thread-safe.

    Args:
        monotonic_s: The clock.
        first_pause_s: Seconds of the first pause of an account; it doubles each time.
        places: How many sends there are places for; None if nothing bounds them.
    """

    def __init__(self, monotonic_s: Callable[[], float], first_pause_s: float, places: int | None = None) -> None:
        self._monotonic_s = monotonic_s
        self._first_pause_s = min(first_pause_s, LONGEST_PAUSE_S)
        self._places = places
        self._under_way = 0
        self._busy: dict[str, Turns] = {}
        self._lock = threading.Lock()
        self._suspects: dict[str, _Account] = {}
        self._showing: dict[str, None] = {}

    def refused(self, key: str) -> bool:
        """Return whether the channel refused the account the last time."""
        account = self._suspects.get(key)
        return account is not None and account.refused

    def held_s(self, key: str, reference: str) -> float:
        """Return the seconds for which the account is held back; 0 if this message may go out. After a pause one may."""
        with self._lock:
            account = self._suspects.get(key)
            if account is None or not account.held:
                return 0.0
            now_s = self._monotonic_s()
            left_s = account.until_s - now_s
            if left_s <= 0:
                # This one finds out; the others wait for what becomes of it.
                account.until_s = now_s + account.pause_s
                account.probe = reference
            return max(0.0, left_s)

    def enter(self, key: str) -> float:
        """Begin a send over an account; return 0, or the seconds after which there is a place for it.

        Each that has to wait gets a turn of its own, as far apart as the account's sends end.
        """
        with self._lock:
            free = FOREVER_S if self._places is None else self._places - self._under_way
            wait_s = self._busy.setdefault(key, Turns()).enter(self._monotonic_s(), max(1.0, SHARE * free))
            self._under_way += not wait_s
            return wait_s

    def leave(self, key: str, began_s: float) -> None:
        """Note that a send over an account has ended, which began then."""
        with self._lock:
            self._under_way -= 1
            if self._busy[key].leave(self._monotonic_s(), began_s):
                del self._busy[key]

    def now_s(self) -> float:
        """Return the time on the clock of these accounts."""
        return self._monotonic_s()

    def note(self, key: str, channel: str | None, reference: str, result: Receipt | LookupAnswer) -> float | None:
        """Record the result of a send or of a look-up.

        Args:
            key: The account, see `account_key`.
            channel: The name of its channel.
            reference: The name of the message.
            result: The receipt, or the answer to a look-up.

        Returns:
            The seconds of the pause if the account is held back from now on, else None.
        """
        if isinstance(result, LookupAnswer):
            if isinstance(result, Found | Failed) or result in {LookupResult.FOUND, LookupResult.FAILED}:
                self._ended_well(key)
                self._showed(key)
            return None
        if isinstance(result, NotSent):
            return self._ended_badly(key, channel, reference, refused=True) if result.account_fault else None
        if isinstance(result, Unknown):
            return self._ended_badly(key, channel, reference, refused=False)
        self._ended_well(key)
        return None

    def shows(self, key: str) -> bool:
        """Return whether the account has shown a message that it was asked for: its look-ups can be believed."""
        return key in self._showing

    def _ended_well(self, key: str) -> None:
        with self._lock:
            self._suspects.pop(key, None)

    def _showed(self, key: str) -> None:
        with self._lock:
            self._showing.pop(key, None)
            self._showing[key] = None
            if len(self._showing) > MOST_ACCOUNTS:
                del self._showing[next(iter(self._showing))]

    def _ended_badly(self, key: str, channel: str | None, reference: str, *, refused: bool) -> float | None:
        with self._lock:
            account = self._suspects.pop(key, None) or _Account(channel)
            account.refused = refused
            self._suspects[key] = account
            if len(self._suspects) > MOST_ACCOUNTS:
                del self._suspects[next(iter(self._suspects))]
            now_s = self._monotonic_s()
            if account.held:
                # What went out before the pause says nothing new.
                if account.probe == reference:
                    account.pause_s = min(account.pause_s * 2, LONGEST_PAUSE_S)
                    account.until_s, account.probe = now_s + account.pause_s, None
                return None
            account.references.add(reference)
            if not refused and len(account.references) < IN_A_ROW:
                return None
            account.pause_s = self._first_pause_s
            account.until_s = now_s + account.pause_s
            return account.pause_s

    def held(self) -> list[tuple[str | None, bool]]:
        """Return the accounts that are held back: the channel's name, and whether it refused the account."""
        with self._lock:
            return [(account.channel, account.refused) for account in self._suspects.values() if account.held]
