"""Keeps the answers of calls in Redis, so that a repeated call starts nothing; each method is one command."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, cast

import attrs

from videopoll.jobs.codec import Poison, dump, load_object
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue

if TYPE_CHECKING:
    from typing import TypeAlias

    from videopoll.jobs.codec import JsonValue

    Answer: TypeAlias = dict[str, JsonValue]

__all__ = ["CallStore", "read_kept", "store_of"]


class CallStore(Protocol):
    """Keeps answers by call. An exception means that Redis cannot be asked."""

    @property
    def kept_s(self) -> int:
        """How long an answer is kept, in seconds."""
        ...

    def key(self, name: str) -> str:
        """Return where the call of this name is noted."""
        ...

    def claim(self, key: str, ttl_s: float) -> bool | Awaitable[bool]:
        """Note that the call is being carried out; False if that was noted before."""
        ...

    def look(self, key: str) -> bytes | Awaitable[bytes | None] | None:
        """Return what is noted; see `read_kept`."""
        ...

    def keep(self, key: str, answer: Answer, ttl_s: float) -> object:
        """Note the answer."""
        ...

    def release(self, key: str) -> object:
        """Forget a call that was not carried out."""
        ...


def _kept(answer: Answer | None) -> str:
    return dump({"answer": answer})


def read_kept(raw: bytes | None) -> Answer | None:
    """Return the answer that was kept; None while there is none."""
    fields = load_object(raw) if raw is not None else Poison("gone")
    answer = None if isinstance(fields, Poison) else fields.get("answer")
    return answer if isinstance(answer, dict) else None


def _ms(ttl_s: float) -> int:
    return max(1, round(ttl_s * 1000))


@attrs.frozen
class _Calls:
    queue: RedisVideoJobQueue | AsyncRedisVideoJobQueue

    @property
    def kept_s(self) -> int:
        return self.queue.ttls.completed_s

    def key(self, name: str) -> str:
        return self.queue.keys.tool_call(name)


@attrs.frozen
class _RedisCalls(_Calls):
    queue: RedisVideoJobQueue

    def claim(self, key: str, ttl_s: float) -> bool:
        return bool(self.queue._front.set(key, _kept(None), nx=True, px=_ms(ttl_s)))  # noqa: SLF001 - the connections for producers

    def look(self, key: str) -> bytes | None:
        return cast("bytes | None", self.queue._front.get(key))  # noqa: SLF001

    def keep(self, key: str, answer: Answer, ttl_s: float) -> object:
        return self.queue._front.set(key, _kept(answer), px=_ms(ttl_s))  # noqa: SLF001

    def release(self, key: str) -> object:
        return self.queue._front.delete(key)  # noqa: SLF001


@attrs.frozen
class _AsyncRedisCalls(_Calls):
    queue: AsyncRedisVideoJobQueue

    async def claim(self, key: str, ttl_s: float) -> bool:
        return bool(await self.queue._front.set(key, _kept(None), nx=True, px=_ms(ttl_s)))  # noqa: SLF001 - the connections for producers

    async def look(self, key: str) -> bytes | None:
        return cast("bytes | None", await self.queue._front.get(key))  # noqa: SLF001

    async def keep(self, key: str, answer: Answer, ttl_s: float) -> object:
        return await self.queue._front.set(key, _kept(answer), px=_ms(ttl_s))  # noqa: SLF001

    async def release(self, key: str) -> object:
        return await self.queue._front.delete(key)  # noqa: SLF001


def store_of(queue: object) -> CallStore | None:
    """Return the store beside a queue; None for a queue of the host, which may not be on Redis."""
    if isinstance(queue, RedisVideoJobQueue):
        return _RedisCalls(queue)
    return _AsyncRedisCalls(queue) if isinstance(queue, AsyncRedisVideoJobQueue) else None
