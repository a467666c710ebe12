"""Keeps the answers of calls in Redis, so that a repeated call starts nothing; each method is one command."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, cast

from videopoll.core.flow import do
from videopoll.jobs.codec import Poison, dump, load_object
from videopoll.queue.scripts import arun, run

if TYPE_CHECKING:
    from typing import TypeAlias

    from videopoll.core.flow import Flow
    from videopoll.jobs.codec import JsonValue
    from videopoll.queue.operations import Operations

    Answer: TypeAlias = dict[str, JsonValue]

__all__ = ["AsyncToolCalls", "CallStore", "ToolCalls", "read_kept", "store_of"]


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


def read_kept(raw: bytes | None) -> Answer | None:
    """Return the answer that was kept; None while there is none."""
    fields = load_object(raw) if raw is not None else Poison("gone")
    answer = None if isinstance(fields, Poison) else fields.get("answer")
    return answer if isinstance(answer, dict) else None


def _ms(ttl_s: float) -> int:
    return max(1, round(ttl_s * 1000))


class _Calls:
    """The answers of one queue's calls, each thing once."""

    def __init__(self, queue: Operations) -> None:
        self._queue = queue

    @property
    def kept_s(self) -> int:
        """How long an answer is kept, in seconds."""
        return self._queue.ttls.completed_s

    def key(self, name: str) -> str:
        """Return where the call of this name is noted."""
        return self._queue.keys.tool_call(name)

    def _set(self, key: str, answer: Answer | None, ttl_s: float, *, new: bool) -> Flow[bool]:
        done = yield from do(self._queue.front.set, key, dump({"answer": answer}), nx=new, px=_ms(ttl_s))
        return bool(done)

    def _get(self, key: str) -> Flow[bytes | None]:
        return cast("bytes | None", (yield from do(self._queue.front.get, key)))

    def _delete(self, key: str) -> Flow[bool]:
        return bool((yield from do(self._queue.front.delete, key)))


class ToolCalls(_Calls):
    """The answers of calls, from `RedisVideoJobQueue.tool_calls`."""

    def claim(self, key: str, ttl_s: float) -> bool:
        """Note that the call is being carried out; False if that was noted before."""
        return run(self._set(key, None, ttl_s, new=True))

    def look(self, key: str) -> bytes | None:
        """Return what is noted; see `read_kept`."""
        return run(self._get(key))

    def keep(self, key: str, answer: Answer, ttl_s: float) -> bool:
        """Note the answer."""
        return run(self._set(key, answer, ttl_s, new=False))

    def release(self, key: str) -> bool:
        """Forget a call that was not carried out."""
        return run(self._delete(key))


class AsyncToolCalls(_Calls):
    """The asyncio side of `ToolCalls`: the same methods, to be awaited."""

    async def claim(self, key: str, ttl_s: float) -> bool:
        """Note that the call is being carried out; see `ToolCalls.claim`."""
        return await arun(self._set(key, None, ttl_s, new=True))

    async def look(self, key: str) -> bytes | None:
        """Return what is noted; see `read_kept`."""
        return await arun(self._get(key))

    async def keep(self, key: str, answer: Answer, ttl_s: float) -> bool:
        """Note the answer."""
        return await arun(self._set(key, answer, ttl_s, new=False))

    async def release(self, key: str) -> bool:
        """Forget a call that was not carried out."""
        return await arun(self._delete(key))


def store_of(queue: object) -> CallStore | None:
    """Return the store beside a queue; None for a queue of the host, which may not be on Redis."""
    store = getattr(queue, "tool_calls", None)
    return store if isinstance(store, ToolCalls | AsyncToolCalls) else None
