"""Dead letters: what could not be processed or delivered, for a person to look at.

A letter keeps the job's record, its outcome and the reasons, so that it can be
redriven: an outcome goes back to its delivery, a record to its polling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs

from videopoll.core.flow import do
from videopoll.errors import InvalidJobError
from videopoll.jobs.checks import check_count
from videopoll.jobs.codec import raw, text_of
from videopoll.jobs.job import check_is_text
from videopoll.jobs.outcome import DeadLetter
from videopoll.queue import calls
from videopoll.queue.errors import queue_errors
from videopoll.queue.scripts import ScriptCall, arun, evaluate, run

if TYPE_CHECKING:
    import builtins

    from videopoll.core.flow import Flow
    from videopoll.queue.operations import Operations

__all__ = ["AsyncDeadLetters", "DeadLetters", "Letters"]

PAGE = 200
"""Letters that `redrive_all` reads at a time."""


class Letters:
    """What can be done with letters, each thing once."""

    def __init__(self, queue: Operations) -> None:
        self._queue = queue

    def list(self, limit: int, offset: int) -> Flow[builtins.list[DeadLetter]]:
        """Return letters, the newest first."""
        check_count("dead_letters.list.limit", limit, low=0)
        check_count("dead_letters.list.offset", offset, low=0)
        if limit < 1:
            return []
        client, keys = self._queue.front, self._queue.keys
        with queue_errors("listing dead letters"):
            ids = cast("list[bytes]", (yield from do(lambda: client.zrevrange(keys.dead, offset, offset + limit - 1))))
            found = (yield from do(lambda: client.hmget(keys.letters, cast("list[str]", ids)))) if ids else []
        return [
            DeadLetter.from_json(text_of(job_id), stored)
            for job_id, stored in zip(ids, cast("list[bytes | None]", found), strict=True)
            if stored is not None
        ]

    def get(self, job_id: str) -> Flow[DeadLetter | None]:
        """Return one letter, or None."""
        stored = yield from self._stored(job_id)
        return None if stored is None else DeadLetter.from_json(job_id, stored)

    def redrive(self, job_id: str) -> Flow[bool]:
        """Bring one letter back to life."""
        client = self._queue.front
        stored = yield from self._stored(job_id)
        if stored is None:
            return False
        with queue_errors("redriving"):
            now_s, _ = yield from do(client.time)
        return (yield from evaluate(client, self._revive(job_id, stored, now_s)))

    def redrive_all(self) -> Flow[int]:
        """Bring back every letter that can be; return their number."""
        redriven, offset, seen = 0, 0, set[str]()
        while letters := (yield from self.list(PAGE, offset)):
            for letter in letters:
                try:
                    # One that has died again meanwhile is not redriven for ever.
                    revived = letter.job_id not in seen and (yield from self.redrive(letter.job_id))
                except InvalidJobError:
                    revived = False
                seen.add(letter.job_id)
                redriven += revived
                offset += not revived
        return redriven

    def dismiss(self, job_id: str) -> Flow[bool]:
        """Throw one letter away."""
        stored = yield from self._stored(job_id)
        if stored is None:
            return False
        queue = self._queue
        return (yield from evaluate(queue.front, calls.redrive(queue.keys, job_id, stored, ttls=queue.ttls)))

    def _stored(self, job_id: str) -> Flow[bytes | None]:
        client, keys = self._queue.front, self._queue.keys
        field = raw(check_is_text(job_id, "job_id"))
        with queue_errors("reading a dead letter"):
            found = yield from do(lambda: client.hget(keys.letters, cast("str", field)))
        return cast("bytes | None", found)

    def _revive(self, job_id: str, stored: bytes, now_s: int) -> ScriptCall[bool]:
        """Return the call that redrives a letter.

        Raises:
            InvalidJobError: The letter has neither an outcome that can be read nor a record.
        """
        letter, queue = DeadLetter.from_json(job_id, stored), self._queue
        if letter.entry is not None:
            # The mark of a send whose fate is unknown stays: the channel is asked first.
            entry = attrs.evolve(
                letter.entry,
                tries=0,
                form_failures=0,
                lookups=0,
                unknowns=0,
                # What the channel refused, or had ready, may be otherwise by now.
                refused_forms=frozenset(),
                prepared={},
                deadline_ms=round((now_s + queue.delivery.deadline_s) * 1000),
            )
            return calls.redrive(
                queue.keys, job_id, stored, entry=entry.to_json(), entry_s=queue.delivery.keep_s, ttls=queue.ttls
            )
        if letter.raw_entry is not None:
            msg = (
                "the outcome in this dead letter cannot be read: look at it in the hash"
                f" {queue.keys.letters}, tell its user, and dismiss it"
            )
            raise InvalidJobError(msg)
        if letter.record is not None:
            return calls.redrive(queue.keys, job_id, stored, record=letter.record, ttls=queue.ttls)
        msg = "this dead letter is a bare id, its record had expired: enqueue the job again with its conversation id"
        raise InvalidJobError(msg)


class _Twin:
    """What both twins carry out."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters


class DeadLetters(_Twin):
    """Lists, redrives and dismisses dead letters; from `RedisVideoJobQueue.dead_letters`.

    Every method raises `QueueError` when Redis is away or says no.
    """

    def list(self, *, limit: int = 100, offset: int = 0) -> builtins.list[DeadLetter]:
        """Return letters, the newest first."""
        return run(self._letters.list(limit, offset))

    def get(self, job_id: str) -> DeadLetter | None:
        """Return one letter, or None."""
        return run(self._letters.get(job_id))

    def redrive(self, job_id: str) -> bool:
        """Bring one letter back to life; False if there is none, or a worker has claimed its job again by now.

        Raises:
            InvalidJobError: It is a bare id: there is nothing to go on with.
        """
        return run(self._letters.redrive(job_id))

    def redrive_all(self) -> int:
        """Bring back every letter that can be; return their number."""
        return run(self._letters.redrive_all())

    def dismiss(self, job_id: str) -> bool:
        """Throw one letter away; False if there is none."""
        return run(self._letters.dismiss(job_id))


class AsyncDeadLetters(_Twin):
    """The asyncio side of `DeadLetters`: the same methods, to be awaited."""

    async def list(self, *, limit: int = 100, offset: int = 0) -> builtins.list[DeadLetter]:
        """Return letters, the newest first."""
        return await arun(self._letters.list(limit, offset))

    async def get(self, job_id: str) -> DeadLetter | None:
        """Return one letter, or None."""
        return await arun(self._letters.get(job_id))

    async def redrive(self, job_id: str) -> bool:
        """Bring one letter back to life; see `DeadLetters.redrive`."""
        return await arun(self._letters.redrive(job_id))

    async def redrive_all(self) -> int:
        """Bring back every letter that can be; return their number."""
        return await arun(self._letters.redrive_all())

    async def dismiss(self, job_id: str) -> bool:
        """Throw one letter away; False if there is none."""
        return await arun(self._letters.dismiss(job_id))
