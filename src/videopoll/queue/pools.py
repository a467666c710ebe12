"""Pools of connections: those that a queue opens for itself, for threads and for each event loop.

A call waits for a free connection, one that has rested for long is opened anew, and a forked
process has connections of its own. Where a connection leads to is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import redis
import redis.asyncio
from redis import exceptions as redis_errors
from typing_extensions import override

from videopoll.core.belonging import OfLoop, OfProcess
from videopoll.policies import ENDING_S

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import ConnectionInterface

__all__ = ["MAX_CONNECTIONS", "AsyncFreshPool", "AsyncLoopPools", "FreshPool", "aleave", "leave", "renew_locks"]

ConnectionT = TypeVar("ConnectionT")
GateT = TypeVar("GateT")

MAX_CONNECTIONS = 50
"""Connections of one client at most, where nothing else is said; further calls wait for one."""

RESTED_S = 30.0
"""A connection that has not been used for so long is opened anew: what lies between forgets idle ones, and says nothing.

The first call after a quiet night would wait for its whole time limit, and fail. Home routers and load balancers
forget after a minute at the earliest.
"""

OPENS_IN_TURN = (5, 3) <= tuple(int(part) for part in redis.__version__.split(".")[:2]) < (7, 3)
"""Whether redis-py's asyncio pool opens connections one after the other, under a lock that is for nothing else.

A burst behind a server that stands still would wait for a time limit after the other.
"""


_KINDS_OF_LOCK: tuple[tuple[type, Callable[[], object]], ...] = (
    (type(threading.Lock()), threading.Lock),
    (type(threading.RLock()), threading.RLock),
)


def renew_locks(owner: object) -> None:
    """Renew the locks of a client or a pool of redis-py in a forked child: one that another thread held is held for ever.

    redis-py looks for a fork itself, but takes the lock of its pool for that, as of 8.1: one child of 25 of a busy
    process hung in its first call.
    """
    for one in (owner, *(vars(owner).get(part) for part in ("_event_dispatcher", "himport_registry"))):
        for name, value in list(getattr(one, "__dict__", {}).items()):
            for kind, new in _KINDS_OF_LOCK:
                if isinstance(value, kind):
                    setattr(one, name, new())


class _Uses(Generic[ConnectionT, GateT]):
    """The connections of a pool: when each was last used, and through which gate it came."""

    def __init__(self) -> None:
        self._released_s: weakref.WeakKeyDictionary[ConnectionT, float] = weakref.WeakKeyDictionary()
        self._gates: weakref.WeakKeyDictionary[ConnectionT, GateT] = weakref.WeakKeyDictionary()

    def begin(self, connection: ConnectionT, gate: GateT) -> bool:
        """Note that a connection is used; return whether it has rested for so long that it is to be opened anew."""
        self._gates[connection] = gate
        return time.monotonic() - self._released_s.pop(connection, float("inf")) > RESTED_S

    def end(self, connection: ConnectionT) -> GateT | None:
        """Note that a connection is used no more; return the gate that it came through, and goes back to."""
        self._released_s[connection] = time.monotonic()
        return self._gates.pop(connection, None)


class FreshPool(OfProcess, redis.ConnectionPool):
    """A pool whose connections are waited for, and opened anew, by name, before they are used after a long rest.

    redis-py's own pool that waits has deadlocked under asyncio in some of its versions, and opens no
    connection anew; so places are counted here.
    """

    def __init__(self, *args: object, **options: object) -> None:
        self._uses = _Uses["ConnectionInterface", threading.Semaphore]()
        self._left_until_s = 0.0
        cast("Callable[..., None]", super().__init__)(*args, **options)
        self._gate = threading.Semaphore(self.max_connections)
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # A forked process has none of its parent's connections, nor the threads that would put them back.
        self._gate = threading.Semaphore(self.max_connections)
        renew_locks(self)

    def get_connection(self, *args: object, **options: object) -> redis.Connection:
        """Get a connection that is fit to be used.

        Raises:
            redis.exceptions.MaxConnectionsError: All are in use, and none came free in time.
        """
        gate = self._gate
        if not gate.acquire(timeout=_wait_s(self)):
            raise redis_errors.MaxConnectionsError
        try:
            get: Callable[..., redis.Connection] = super().get_connection
            connection = get(*args, **options)
        except BaseException:
            gate.release()
            raise
        if self._uses.begin(connection, gate):
            try:
                cast("Callable[[], None]", connection.disconnect)()
                cast("Callable[[], None]", connection.connect)()
            except BaseException:
                self.release(connection)
                raise
        return connection

    def release(self, connection: ConnectionInterface) -> None:
        """Take a connection back, and note when it was."""
        gate = self._uses.end(connection)
        try:
            if time.monotonic() < self._left_until_s:
                cast("Callable[[], None]", connection.disconnect)()
            super().release(cast("redis.Connection", connection))
        finally:
            if gate is not None:
                gate.release()

    def leave(self) -> None:
        """Close the connections; what another thread uses is closed when it comes back.

        A socket that is closed under its reader makes the client raise what is none of its errors, or wait for
        its whole time limit. Whatever comes back within 10 s is closed: a call under way may need several, and
        whoever uses the pool again later has one that keeps them.
        """
        self._left_until_s = time.monotonic() + ENDING_S
        self.disconnect(inuse_connections=False)


def _packer() -> Callable[..., list[bytes]] | None:
    """Return what puts a command's words into bytes in C; None without hiredis, with which redis-py does it for threads alone."""
    try:
        from hiredis import pack_command  # noqa: PLC0415 - an extra
    except ImportError:
        return None

    def pack(name: str | bytes, *words: object) -> list[bytes]:
        named = (name.encode() if isinstance(name, str) else name).split()
        try:
            return [pack_command(cast("tuple[bytes]", (*named, *words)))]
        except TypeError as error:
            raise redis_errors.DataError(*error.args) from None

    return pack


_PACK = _packer()


class AsyncFreshPool(redis.asyncio.ConnectionPool):
    """The asyncio side of `FreshPool`, for one event loop."""

    def __init__(self, *args: object, **options: object) -> None:
        self._uses = _Uses["AsyncConnection", asyncio.Semaphore]()
        self._left_until_s = 0.0
        cast("Callable[..., None]", super().__init__)(*args, **options)
        self._gate = asyncio.Semaphore(self.max_connections)
        if OPENS_IN_TURN:
            self._lock = cast("asyncio.Lock", contextlib.nullcontext())

    @override
    def make_connection(self) -> AsyncConnection:
        """Make a connection, which packs commands in C if it can."""
        make = cast("Callable[[], AsyncConnection]", super().make_connection)
        connection = make()
        if _PACK is not None:
            connection.pack_command = _PACK  # type: ignore[method-assign]
        return connection

    async def get_connection(self, *args: object, **options: object) -> AsyncConnection:
        """Get a connection that is fit to be used; see `FreshPool.get_connection`."""
        gate = self._gate
        try:
            async with asyncio.timeout(_wait_s(self) if gate.locked() else None):
                await gate.acquire()
        except TimeoutError:
            raise redis_errors.MaxConnectionsError from None
        try:
            get = cast("Callable[..., Awaitable[AsyncConnection]]", super().get_connection)
            connection = await get(*args, **options)
        except BaseException:
            gate.release()
            raise
        if self._uses.begin(connection, gate):
            try:
                await connection.disconnect()
                await cast("Callable[[], Awaitable[None]]", connection.connect)()
            except BaseException:
                await self.release(connection)
                raise
        return connection

    async def release(self, connection: AsyncConnection) -> None:
        """Take a connection back, and note when it was."""
        gate = self._uses.end(connection)
        try:
            if time.monotonic() < self._left_until_s:
                await connection.disconnect()
            # One of another pool is its parent's, in a forked child that comes to its end in the parent's event loop.
            with contextlib.suppress(KeyError):
                await super().release(connection)
        finally:
            if gate is not None:
                gate.release()

    async def leave(self) -> None:
        """Close the connections; see `FreshPool.leave`."""
        self._left_until_s = time.monotonic() + ENDING_S
        await self.disconnect(inuse_connections=False)


def _wait_s(pool: redis.ConnectionPool | redis.asyncio.ConnectionPool) -> float:
    """Return the seconds that a call waits for a connection to be free, at most: as long as for a reply."""
    return float(pool.connection_kwargs["socket_timeout"])


class AsyncLoopPools(redis.asyncio.ConnectionPool):
    """A pool for each event loop: connections belong to the loop in which they were opened."""

    def __init__(self, *args: object, **options: object) -> None:
        cast("Callable[..., None]", super().__init__)(*args, **options)
        # Its own options may have got references to it by now.
        self._pools: OfLoop[AsyncFreshPool] = OfLoop(functools.partial(AsyncFreshPool, *args, **options))

    async def get_connection(self, *args: object, **options: object) -> AsyncConnection:
        """Get a connection of the running event loop."""
        return await self._pools.here().get_connection(*args, **options)

    async def release(self, connection: AsyncConnection) -> None:
        """Take a connection of the running event loop back."""
        await self._pools.here().release(connection)

    async def leave(self) -> None:
        """Close the connections of the running event loop; see `FreshPool.leave`."""
        await self._pools.here().leave()

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - as in the client
        """Close the connections of the running event loop."""
        await self._pools.here().disconnect(inuse_connections=inuse_connections)


# --- the end ---


def leave(client: redis.Redis) -> None:
    """Close a client; what another thread does with it just now goes on to its end, if its pool is one of ours."""
    if isinstance(pool := client.connection_pool, FreshPool):
        pool.leave()
    else:
        client.close()


async def aleave(client: redis.asyncio.Redis) -> None:
    """Close an asyncio client in the running event loop; see `leave`."""
    if isinstance(pool := client.connection_pool, AsyncLoopPools):
        await pool.leave()
    else:
        await client.aclose()
