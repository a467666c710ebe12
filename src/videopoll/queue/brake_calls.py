"""Accounts of video APIs that all workers leave alone after a 429: how one worker tells, and how the others read it.

They learn of it with each claim (``claim.lua``), which reads the same key; this module has the rest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from videopoll.jobs.checks import check_seconds, mapped
from videopoll.jobs.codec import raw, text_of
from videopoll.queue.connect import ms_of
from videopoll.queue.scripts import Script, ScriptCall, read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from videopoll.core.flow import Flow
    from videopoll.queue.schema import Keys

__all__ = ["BRAKE", "brake", "read_held", "read_held_accounts"]

BRAKE = Script.load("brake")

MOST_HELD = 1_000
"""Accounts that are held back together at most; those whose pauses end first go."""

LONGEST_HELD_MS = 86_400_000
"""The longest pause of an account that workers tell each other; ``claim.lua`` passes over what is longer."""


def brake(keys: Keys, pauses_s: Mapping[str, float]) -> ScriptCall[int]:
    """Return the call that tells all workers to leave accounts alone for so many seconds at least; it gives how many are held back."""
    words: list[bytes | int] = []
    for account, wait_s in mapped(pauses_s, "brake.pauses_s", needed=True).items():
        check_seconds("each of brake.pauses_s", wait_s)
        words += (raw(account), max(1, round(wait_s * 1000)))
    return ScriptCall(BRAKE, (keys.brakes,), (MOST_HELD, LONGEST_HELD_MS, *words), lambda reply: cast("int", reply))


def read_held(held: Sequence[bytes]) -> dict[str, int]:
    """Read accounts and until when they are held back, in Unix milliseconds, given one after the other."""
    pairs = zip(held[::2], map(float, held[1::2]), strict=True)
    return {text_of(account): round(until_ms) for account, until_ms in pairs if math.isfinite(until_ms)}


def read_held_accounts(client: redis.Redis, keys: Keys) -> Flow[dict[str, int]]:
    """Return the accounts that are held back now and until when, in Unix milliseconds, the longest first."""
    doing = "reading which accounts are held back"
    now_ms = ms_of((yield from read(client, doing, client.time)))
    latest_ms = now_ms + LONGEST_HELD_MS
    # The names of the bounds are those of redis-py: the highest comes first.
    found = yield from read(
        client,
        doing,
        client.zrevrangebyscore,
        keys.brakes,
        latest_ms,
        f"({now_ms}",
        start=0,
        num=MOST_HELD,
        withscores=True,
    )
    return {text_of(account): round(until_ms) for account, until_ms in cast("list[tuple[bytes, float]]", found)}
