"""How many places for polls a worker has open: pure functions of what it knows of its fleet, and of time.

All workers of a fleet come back together: after a deployment, after an outage of
Redis, after a pause that an API asked for. What was due meanwhile is due for all of
them at once. So the places of each open gradually, and an account that bears only so
much is shared among those that live.
"""

from __future__ import annotations

import math

__all__ = ["OPENS_IN_S", "ever_open", "open_places", "share_of", "spread_s"]

OPENS_IN_S = 2.0
"""Seconds until all places are open: about the time in which an API that is asked for too much says so, and workers hear of it."""

FIRST_SHARE = 1 / 8
"""The share of the places that is open at once; it doubles until all are, in equal times."""

AT_ONCE = 8
"""So few places are open at once in any case: they are no burst."""

LONGEST_SPREAD_S = 1.0
"""Over how many seconds, at most, the workers of a fleet come back after a pause."""

SPREAD_SHARE = 1 / 4
"""The same as a share of the pause: a short one is not made much longer."""


def open_places(places: int, since_s: float) -> int:
    """Return how many of so many places are open, `since_s` seconds after the first of them was."""
    if since_s >= OPENS_IN_S:
        return places
    doublings = max(0.0, since_s) / OPENS_IN_S * -math.log2(FIRST_SHARE)
    return min(places, max(AT_ONCE, math.ceil(places * FIRST_SHARE * math.exp2(doublings))))


def ever_open(places: int, cap: int | None, workers: int) -> int:
    """Return how many of a worker's places may ever be open at a time for one account; see `share_of`."""
    return places if cap is None else min(places, share_of(cap, workers))


def share_of(cap: int, workers: int) -> int:
    """Return a worker's share of what an account bears: rounded down, at least one; all if it knows of no other."""
    return max(1, cap // max(1, workers))


def spread_s(pause_s: float, chance: float) -> float:
    """Return by how many seconds a worker comes back later than a pause ends, given a random number from 0 to 1."""
    return chance * min(LONGEST_SPREAD_S, pause_s * SPREAD_SHARE)
