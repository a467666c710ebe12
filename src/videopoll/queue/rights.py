"""What a Redis user has to be allowed: the commands of the scripts, read from their text, and those that are sent beside them."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

from videopoll.queue import brake_calls, calls, history_calls, layout_calls, watch_calls

if TYPE_CHECKING:
    from videopoll.queue.schema import Keys
    from videopoll.queue.scripts import Script

__all__ = ["SCRIPTS_OF", "Role", "acl_rules", "commands_of"]

_CALLED = re.compile(r"(?:redis\.p?call|variadic)\('([A-Z]+)'")
"""A command in a script: called, or handed to the function that calls it in pieces."""


class Role(enum.StrEnum):
    """What a user of Redis is for."""

    ALL = "all"
    """One user for everything."""
    PRODUCER = "producer"
    """Enqueues, looks up, cancels, waits for outcomes; the tool of an agent; the receiver of callbacks and receipts."""
    WORKER = "worker"
    """Polls and delivers, and keeps the history."""
    OPERATOR = "operator"
    """The command line, except `videopoll worker`."""


SCRIPTS_OF: dict[Role, tuple[Script, ...]] = {
    Role.PRODUCER: (
        layout_calls.ENQUEUE,
        layout_calls.LAYOUT,
        calls.INSPECT,
        calls.CANCEL,
        calls.POLL_NOW,
        watch_calls.FIND_WATCHED,
        watch_calls.RECEIVE,
        watch_calls.KEEP_RECEIPTS,
    ),
    Role.WORKER: (
        calls.CLAIM,
        calls.RESCHEDULE,
        calls.RELEASE,
        calls.CONCLUDE,
        calls.BEGIN_SEND,
        calls.REDELIVER,
        calls.SETTLE,
        calls.RENEW,
        calls.RECOVER,
        brake_calls.BRAKE,
        *history_calls.SCRIPTS,
        layout_calls.LAYOUT,
        watch_calls.WATCH,
    ),
    Role.OPERATOR: (
        layout_calls.ENQUEUE,
        layout_calls.LAYOUT,
        calls.INSPECT,
        calls.CANCEL,
        calls.POLL_NOW,
        calls.COUNT,
        calls.REDRIVE,
        calls.HAND_BACK,
    ),
}

_EVERYBODY = ("EVALSHA", "EVAL", "SELECT", "CLUSTER|SLOTS")
"""Scripts; a database other than 0; and who has the keys, where the URL is a cluster's."""

_BESIDE: dict[Role, tuple[str, ...]] = {
    # The answers of an agent's calls; the one subscription of all waits.
    Role.PRODUCER: ("GET", "SET", "DEL", "SUBSCRIBE", "UNSUBSCRIBE", "PING"),
    # The doorbell; the look for lost jobs.
    Role.WORKER: ("BLMOVE", "SET", "TIME", "LRANGE", "SCAN", "PEXPIRE"),
    # Lists, dead letters, the history, and what doctor looks at.
    Role.OPERATOR: (
        *("TIME", "LRANGE", "ZRANGE", "ZRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYSCORE", "MGET", "HMGET", "HGET"),
        *("XREVRANGE", "SCAN"),
        *("PING", "INFO", "CONFIG|GET", "TYPE"),
    ),
}


def commands_of(role: Role) -> tuple[str, ...]:
    """Return the commands that this role needs, as ACL rules name them, in the order of the alphabet."""
    roles = [one for one in Role if one is not Role.ALL] if role is Role.ALL else [role]
    found: set[str] = set(_EVERYBODY)
    for one in roles:
        found.update(_BESIDE[one])
        for script in SCRIPTS_OF[one]:
            found.update(_CALLED.findall(script.source))
    return tuple(sorted(command.lower() for command in found))


def acl_rules(role: Role, *partitions: Keys) -> tuple[str, ...]:
    """Return the rules of ``ACL SETUSER`` that give a user what this role needs, and nothing else; without a password.

    Args:
        role: Which.
        *partitions: The keys of each partition of the queue; of the queue itself, if it has none.
    """
    return (
        "resetkeys",
        *(f"~{keys.prefix}:*" for keys in partitions),
        "resetchannels",
        *(f"&{keys.ended('*')}" for keys in partitions),
        "-@all",
        *(f"+{command}" for command in commands_of(role)),
    )
