"""The calls under way over one account, and whose turn is when among those that have to wait."""

from __future__ import annotations

import attrs

__all__ = ["Turns"]

USUAL_S = 1.0
"""How long a call takes, in seconds, as long as none over this account has ended."""

SOONEST_TURN_S, LATEST_TURN_S = 0.05, 60.0
"""How soon, in seconds, a job is tried again for which its account had no place, and how late: its calls may be quick again."""


@attrs.define
class Turns:
    """Those of one account. Whoever calls sees to it that no two threads do so together."""

    under_way: int = 0
    took_s: float = USUAL_S
    turn_s: float = 0.0

    def enter(self, now_s: float, most: float, latest_s: float = LATEST_TURN_S) -> float:
        """Begin a call if fewer than `most` are under way; return 0, or the seconds after which there is a place for it.

        Each that has to wait gets a turn of its own, as far apart as the account's calls end, and in at most
        `latest_s` seconds.
        """
        if self.under_way < most:
            self.under_way += 1
            return 0.0
        turn_s = max(now_s + SOONEST_TURN_S, self.turn_s + self.took_s / self.under_way)
        self.turn_s = min(turn_s, now_s + max(SOONEST_TURN_S, latest_s))
        return self.turn_s - now_s

    def leave(self, now_s: float, began_s: float) -> bool:
        """Note that a call has ended which began then; return whether there is nothing to be remembered."""
        self.under_way -= 1
        self.took_s += (now_s - began_s - self.took_s) / 4
        return not self.under_way and self.turn_s <= now_s
