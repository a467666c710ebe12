"""Dead letters: what could not be processed or delivered, for a person to look at.

A letter keeps the job's record, its outcome and the reasons, so that it can be
redriven: an outcome goes back to its delivery, a record to its polling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs
from redis import exceptions as redis_errors

from videopoll.errors import InvalidJobError
from videopoll.queue import calls
from videopoll.queue.scripts import ScriptCall, arun, cause_of, run, to_queue_error

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from videopoll.jobs.outcome import DeadLetter
    from videopoll.policies import DeliveryPolicy, KeyTtls
    from videopoll.queue.schema import Keys

__all__ = ["AsyncDeadLetters", "DeadLetters"]

PAGE = 200
"""Letters that `redrive_all` reads at a time."""


class _Base:
    def __init__(self, keys: Keys, ttls: KeyTtls, delivery: DeliveryPolicy) -> None:
        self._keys = keys
        self._ttls = ttls
        self._delivery = delivery

    def _revive(self, job_id: str, stored: bytes, now_s: int) -> ScriptCall[bool]:
        """Build the call that redrives a letter.

        Raises:
            InvalidJobError: The letter has neither an outcome that can be read nor a record.
        """
        letter = calls.read_letter(job_id, stored)
        if letter.entry is not None:
            # The mark of a send whose fate is unknown stays: the channel is asked first.
            entry = attrs.evolve(
                letter.entry,
                tries=0,
                form_failures=0,
                finds=0,
                unknowns=0,
                deadline_ms=round((now_s + self._delivery.deadline_s) * 1000),
            )
            return calls.redrive(
                self._keys, job_id, stored, entry=entry.to_json(), entry_s=self._delivery.keep_s, ttls=self._ttls
            )
        if letter.raw_entry is not None:
            msg = (
                "the outcome in this dead letter cannot be read: look at it in the hash"
                f" {self._keys.letters}, tell its user, and dismiss it"
            )
            raise InvalidJobError(msg)
        if letter.record is not None:
            return calls.redrive(self._keys, job_id, stored, record=letter.record, ttls=self._ttls)
        msg = "this dead letter is a bare id, its record had expired: enqueue the job again with its conversation id"
        raise InvalidJobError(msg)

    def _dismiss(self, job_id: str, stored: bytes) -> ScriptCall[bool]:
        return calls.redrive(self._keys, job_id, stored, ttls=self._ttls)


class DeadLetters(_Base):
    """Lists, redrives and dismisses dead letters; from `RedisVideoJobQueue.dead_letters`.

    Every method raises `QueueError` when Redis is away or says no.
    """

    def __init__(self, client: redis.Redis, keys: Keys, ttls: KeyTtls, delivery: DeliveryPolicy) -> None:
        super().__init__(keys, ttls, delivery)
        self._client = client

    def list(self, *, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        """Return letters, the newest first."""
        if limit < 1:
            return []
        with _queue_errors("listing dead letters"):
            ids = cast("list[bytes]", self._client.zrevrange(self._keys.dead, offset, offset + limit - 1))
            found = cast("list[bytes | None]", self._client.hmget(self._keys.letters, ids)) if ids else []
        return _read(ids, found)

    def get(self, job_id: str) -> DeadLetter | None:
        """Return one letter, or None."""
        stored = self._stored(job_id)
        return None if stored is None else calls.read_letter(job_id, stored)

    def redrive(self, job_id: str) -> bool:
        """Bring one letter back to life; False if there is none, or a worker has its job in hand again by now.

        Raises:
            InvalidJobError: It is a bare id: there is nothing to go on with.
        """
        stored = self._stored(job_id)
        if stored is None:
            return False
        with _queue_errors("redriving"):
            now_s = self._client.time()[0]
        return run(self._client, self._revive(job_id, stored, now_s))

    def redrive_all(self) -> int:
        """Bring back every letter that can be; give their number."""
        redriven, offset, seen = 0, 0, set[str]()
        while letters := self.list(limit=PAGE, offset=offset):
            for letter in letters:
                try:
                    # One that has died again meanwhile is not redriven for ever.
                    revived = letter.job_id not in seen and self.redrive(letter.job_id)
                except InvalidJobError:
                    revived = False
                seen.add(letter.job_id)
                redriven += revived
                offset += not revived
        return redriven

    def dismiss(self, job_id: str) -> bool:
        """Throw one letter away; False if there is none."""
        stored = self._stored(job_id)
        return stored is not None and run(self._client, self._dismiss(job_id, stored))

    def _stored(self, job_id: str) -> bytes | None:
        with _queue_errors("reading a dead letter"):
            return cast("bytes | None", self._client.hget(self._keys.letters, cast("str", calls.raw(job_id))))


class AsyncDeadLetters(_Base):
    """The asyncio side of `DeadLetters`: the same methods, to be awaited."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys, ttls: KeyTtls, delivery: DeliveryPolicy) -> None:
        super().__init__(keys, ttls, delivery)
        self._client = client

    async def list(self, *, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        """Return letters, the newest first."""
        if limit < 1:
            return []
        with _queue_errors("listing dead letters"):
            ids = cast("list[bytes]", await self._client.zrevrange(self._keys.dead, offset, offset + limit - 1))
            found = cast("list[bytes | None]", await self._client.hmget(self._keys.letters, ids)) if ids else []
        return _read(ids, found)

    async def get(self, job_id: str) -> DeadLetter | None:
        """Return one letter, or None."""
        stored = await self._stored(job_id)
        return None if stored is None else calls.read_letter(job_id, stored)

    async def redrive(self, job_id: str) -> bool:
        """Bring one letter back to life; see `DeadLetters.redrive`."""
        stored = await self._stored(job_id)
        if stored is None:
            return False
        with _queue_errors("redriving"):
            now_s = (await self._client.time())[0]
        return await arun(self._client, self._revive(job_id, stored, now_s))

    async def redrive_all(self) -> int:
        """Bring back every letter that can be; give their number."""
        redriven, offset, seen = 0, 0, set[str]()
        while letters := await self.list(limit=PAGE, offset=offset):
            for letter in letters:
                try:
                    # One that has died again meanwhile is not redriven for ever.
                    revived = letter.job_id not in seen and await self.redrive(letter.job_id)
                except InvalidJobError:
                    revived = False
                seen.add(letter.job_id)
                redriven += revived
                offset += not revived
        return redriven

    async def dismiss(self, job_id: str) -> bool:
        """Throw one letter away; False if there is none."""
        stored = await self._stored(job_id)
        return stored is not None and await arun(self._client, self._dismiss(job_id, stored))

    async def _stored(self, job_id: str) -> bytes | None:
        with _queue_errors("reading a dead letter"):
            return cast("bytes | None", await self._client.hget(self._keys.letters, cast("str", calls.raw(job_id))))


def _read(ids: list[bytes], found: list[bytes | None]) -> list[DeadLetter]:
    return [
        calls.read_letter(calls.text_of(one), stored)
        for one, stored in zip(ids, found, strict=True)
        if stored is not None
    ]


class _queue_errors:  # noqa: N801 - reads as a verb where it is used
    """Translates the client's exceptions raised in its block."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, redis_errors.RedisError | OSError):
            raise to_queue_error(error, self._doing) from cause_of(error)
