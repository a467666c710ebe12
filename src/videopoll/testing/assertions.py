"""Assertions about what a user got, and about what is left in Redis; and what contracts say of what is left out."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import redis
import redis.asyncio

from videopoll._reasons import told
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_kind, check_texts, kind_name
from videopoll.jobs.outcome import OutcomeKind
from videopoll.messages import Message
from videopoll.queue.schema import DEFAULT_PREFIX, KEYS, Keys
from videopoll.testing.builders import kind_of_end
from videopoll.testing.parts import RecordingNotifier, SendAttempt

__all__ = ["Answering", "assert_delivered_once", "assert_no_keys_leaked"]

_PERMANENT = frozenset(record.pattern.removeprefix("{prefix}:") for record in KEYS if record.ttl is None)

MOST_NUMBERS = 5
"""Sends of one kind that are told by their numbers."""

_PARTITION = re.compile(r"^\d+:")
"""What stands in the keys of a partition behind a prefix that is no hash tag."""


class Answering:
    """What a contract is that has to be told how a service answers."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            answers = {"working", "finished", "accepted"}
            hint = f": set {name} = Reply.json(…), as the service answers" if name in answers else ""
            msg = f"{type(self).__name__} has no {name}{hint}"
            raise AttributeError(msg)


def assert_delivered_once(
    notifier: RecordingNotifier, job_id: str, *, outcome: OutcomeKind | str = OutcomeKind.COMPLETED
) -> Message:
    """Check that the user of a job got exactly one message about it, with this outcome.

    Attempts that the notifier did not accept may have gone before.

    Args:
        notifier: What the worker sent with.
        job_id: The video API's id of the job.
        outcome: How the job should have ended; ``"failed"`` is as good as `OutcomeKind.FAILED`.

    Returns:
        The message, for further checks, e.g. of its text.

    Raises:
        AssertionError: The user got no message, several, or one about another outcome. The text
            lists what was tried, without addresses and texts.
        ConfigurationError: An argument is of the wrong kind, or there is no such outcome.
    """
    check_kind("the notifier", notifier, RecordingNotifier)
    check_texts("assert_delivered_once", job_id=job_id or "")
    wanted = kind_of_end(outcome, "the outcome")
    by_job: dict[str, list[SendAttempt]] = {}
    for one in notifier.attempts:
        if isinstance(one.message, Message):
            by_job.setdefault(one.message.job.job_id, []).append(one)
    attempts = by_job.get(job_id, [])
    delivered = [one.message for one in attempts if one.delivered and isinstance(one.message, Message)]
    # Not the statement: it would vanish under "python -O", and pytest does not explain it in a library.
    if len(delivered) != 1:
        # A wrong id is the commonest mistake of a test.
        others = (
            f", but sends about {', '.join(by_job)} were"
            if by_job
            else " about any job: was it enqueued, and did the worker run until it had ended?"
        )
        tried = "; ".join(_shown(attempts)) or f"no send was tried{others}"
        msg = f"the user of {job_id} got {len(delivered)} messages instead of 1 ({tried})"
        raise AssertionError(msg)
    (message,) = delivered
    if message.outcome.kind is not wanted:
        why = told(message.outcome.error)
        because = f" ({why})" if why else ""
        msg = f"the user of {job_id} was told {message.outcome.kind.value}, not {wanted.value}{because}"
        raise AssertionError(msg)
    return message


def assert_no_keys_leaked(client: redis.Redis, prefix: str = DEFAULT_PREFIX) -> None:
    """Check that every key of a prefix ends by itself.

    Left out are the list and the sorted sets that stay while a prefix is in use; they empty themselves.

    Args:
        client: A client of the server.
        prefix: The queue's prefix.

    Raises:
        AssertionError: Some keys have no time to live. The text names them.
        ConfigurationError: `client` is no client of redis-py's for threads.
    """
    if not isinstance(client, redis.Redis | redis.RedisCluster):
        is_async = isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster)
        got = "one for asyncio: this check is no coroutine" if is_async else kind_name(client)
        msg = f"the client must be a redis.Redis, such as MemoryServer.client() gives, got {got}"
        raise ConfigurationError(msg)
    prefix = Keys(prefix).prefix
    escaped = re.sub(r"([\\*?\[\]])", r"\\\1", prefix)
    names = [
        key.decode() if isinstance(key, bytes) else key for key in client.scan_iter(match=f"{escaped}:*", count=1000)
    ]
    leaked = sorted(
        name
        for name in names
        if client.ttl(name) == -1 and _PARTITION.sub("", name.removeprefix(f"{prefix}:")) not in _PERMANENT
    )
    if leaked:
        msg = f"keys without a time to live were left behind: {', '.join(leaked)}"
        raise AssertionError(msg)


def _shown(attempts: list[SendAttempt]) -> list[str]:
    """Return a line for each run of attempts in one form with one result."""
    lines = []
    for (form, result), some in itertools.groupby(
        attempts, key=lambda one: (one.message.form.value, type(one.result).__name__)
    ):
        numbers = [one.message.attempt for one in some]
        of = f"send {numbers[0]}" if len(numbers) == 1 else f"sends {', '.join(map(str, numbers))}"
        if len(numbers) > MOST_NUMBERS:
            of = f"{len(numbers)} sends from {numbers[0]} to {numbers[-1]}"
        lines.append(f"{of} as {form}: {result}")
    return lines
