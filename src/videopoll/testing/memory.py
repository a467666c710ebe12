"""A queue in this process's memory, for the tests of an app: the real queue and its real scripts, without a server.

Needs the extra ``testing``, which brings fakeredis.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import override

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import given
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.queue.schema import DEFAULT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from videopoll.clock import Clock
    from videopoll.events import Hook
    from videopoll.policies import DeadLetterPolicy, DeliveryPolicy, KeyTtls

__all__ = ["MEMORY_TIME", "MemoryServer", "async_memory_queue", "memory_queue"]


class MemoryServer:
    """A Redis in this process's memory, for queues that share their jobs.

    Pass it to `memory_queue` and `async_memory_queue`, e.g. where a threaded producer enqueues
    and an asyncio worker polls. A queue without one has a server of its own. A forked child goes on with a
    copy: what either does from then on, the other does not see. `EmbeddedRedis` is for several processes.

    Raises:
        ImportError: The extra ``testing`` is not installed.
    """

    def __init__(self) -> None:
        self._server = _fakeredis().FakeServer()
        _servers.add(self._server)

    def client(self) -> redis.Redis:
        """Return a client, e.g. for a test that looks at keys. It neither retries nor decodes."""
        client: redis.Redis = _fakeredis().FakeRedis(server=self._server, retry=Retry(NoBackoff(), 0))
        return client

    def async_client(self) -> redis.asyncio.Redis:
        """Return a client for asyncio. It neither retries nor decodes."""
        client: redis.asyncio.Redis = _fakeredis().FakeAsyncRedis(server=self._server, retry=AsyncRetry(NoBackoff(), 0))
        return client


_servers: weakref.WeakSet[Any] = weakref.WeakSet()
"""Those of fakeredis: each does a command at a time, under its lock."""

_at_rest: list[threading.Lock] = []


def _rest() -> None:
    """Wait until no command is under way: a forked child would have half of it, and nobody who ends it."""
    for server in list(_servers):
        lock: threading.Lock = server.lock
        lock.acquire()
        _at_rest.append(lock)


def _go_on() -> None:
    while _at_rest:
        _at_rest.pop().release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_rest, after_in_parent=_go_on, after_in_child=_go_on)


class MemoryQueue(RedisVideoJobQueue):
    @override
    def close(self) -> None:
        super().close()
        self._client.close()


class AsyncMemoryQueue(AsyncRedisVideoJobQueue):
    @override
    async def close(self) -> None:
        await super().close()
        await self._client.aclose()


def memory_queue(
    server: MemoryServer | None = None,
    *,
    prefix: str = DEFAULT_PREFIX,
    ttls: KeyTtls | None = None,
    dead_letters: DeadLetterPolicy | None = None,
    delivery: DeliveryPolicy | None = None,
    hooks: Iterable[Hook] = (),
    tenant_key: str | None = None,
) -> RedisVideoJobQueue:
    """Return a queue in this process's memory, for threads and for code without an event loop.

    It is `RedisVideoJobQueue` with its real scripts, over fakeredis instead of a server. An idle
    worker looks for new jobs once a second, as without a `blocking` client.

    Args:
        server: Where the jobs are, to share them with another queue; a new one by default.
        prefix: What every key starts with.
        ttls: How long keys live; see `KeyTtls`.
        dead_letters: How many dead letters are kept, and for how long.
        delivery: The delivery policy of notices that `cancel` and `redrive` start.
        hooks: Called with the jobs that are enqueued and cancelled here.
        tenant_key: The entry of the jobs' metadata that says whose a job is; see `RedisVideoJobQueue`.

    Raises:
        ImportError: The extra ``testing`` is not installed.
    """
    client = given(server, MemoryServer, "server").client()
    return MemoryQueue(
        client,
        prefix=prefix,
        ttls=ttls,
        dead_letters=dead_letters,
        delivery=delivery,
        hooks=hooks,
        tenant_key=tenant_key,
    )


def async_memory_queue(
    server: MemoryServer | None = None,
    *,
    prefix: str = DEFAULT_PREFIX,
    ttls: KeyTtls | None = None,
    dead_letters: DeadLetterPolicy | None = None,
    delivery: DeliveryPolicy | None = None,
    hooks: Iterable[Hook] = (),
    tenant_key: str | None = None,
) -> AsyncRedisVideoJobQueue:
    """Return a queue in this process's memory, for asyncio; else the same as `memory_queue`.

    Raises:
        ImportError: The extra ``testing`` is not installed.
    """
    client = given(server, MemoryServer, "server").async_client()
    return AsyncMemoryQueue(
        client,
        prefix=prefix,
        ttls=ttls,
        dead_letters=dead_letters,
        delivery=delivery,
        hooks=hooks,
        tenant_key=tenant_key,
    )


def _fakeredis() -> ModuleType:
    try:
        fakeredis = importlib.import_module("fakeredis")
        # What runs the scripts: without it, fakeredis would refuse them one by one.
        importlib.import_module("lupa")
    except ImportError:
        msg = "a queue in memory needs fakeredis with Lua: pip install 'videopoll[testing]'"
        raise ImportError(msg) from None
    return fakeredis


class _MemoryTime:
    """What the module ``time`` is for fakeredis while a `MovableClock` is in use."""

    def __init__(self) -> None:
        self._clock: Clock | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def time(self) -> float:
        """Return the wall clock of the clock in use, in Unix seconds."""
        return time.time() if self._clock is None else self._clock.unix_s()

    def use(self, clock: Clock) -> None:
        """Make fakeredis run on this clock."""
        if self._clock is not None:
            msg = (
                "another sandbox or MovableClock is in use, and one alone can move the time: leave its with block first"
            )
            raise ConfigurationError(msg)
        _fakeredis()
        self._clock = clock
        _replace_time(time, self)

    def restore(self) -> None:
        """Make fakeredis run on the real time again."""
        self._clock = None
        _replace_time(self, time)


def _replace_time(old: object, new: object) -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fakeredis" and getattr(module, "time", None) is old:
            module.time = new  # type: ignore[attr-defined]


MEMORY_TIME = _MemoryTime()
