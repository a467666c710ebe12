"""Pools of connections for the clients that a queue builds itself: none is used that a firewall may have forgotten."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, cast

import redis
import redis.asyncio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import ConnectionInterface

__all__ = ["AsyncFreshPool", "FreshPool"]

RESTED_S = 30.0
"""A connection that has not been used for so long is opened anew: what lies between forgets idle ones, and says nothing.

The first call after a quiet night would wait for its whole time limit, and fail. Home routers and load balancers
forget after a minute at the earliest.
"""


class FreshPool(redis.ConnectionPool):
    """A pool that opens a connection anew, by name, before it is used after a long rest."""

    def __init__(self, *args: object, **options: object) -> None:
        self._released_s: weakref.WeakKeyDictionary[ConnectionInterface, float] = weakref.WeakKeyDictionary()
        cast("Callable[..., None]", super().__init__)(*args, **options)

    def get_connection(self, *args: object, **options: object) -> redis.Connection:
        """Get a connection that is fit to be used."""
        get: Callable[..., redis.Connection] = super().get_connection
        connection = get(*args, **options)
        if time.monotonic() - self._released_s.pop(connection, float("inf")) > RESTED_S:
            try:
                cast("Callable[[], None]", connection.disconnect)()
                cast("Callable[[], None]", connection.connect)()
            except BaseException:
                self.release(connection)
                raise
        return connection

    def release(self, connection: ConnectionInterface) -> None:
        """Take a connection back, and note when it was."""
        self._released_s[connection] = time.monotonic()
        super().release(cast("redis.Connection", connection))


class AsyncFreshPool(redis.asyncio.ConnectionPool):
    """The asyncio side of `FreshPool`."""

    def __init__(self, *args: object, **options: object) -> None:
        self._released_s: weakref.WeakKeyDictionary[AsyncConnection, float] = weakref.WeakKeyDictionary()
        cast("Callable[..., None]", super().__init__)(*args, **options)

    async def get_connection(self, *args: object, **options: object) -> AsyncConnection:
        """Get a connection that is fit to be used."""
        get = cast("Callable[..., Awaitable[AsyncConnection]]", super().get_connection)
        connection = await get(*args, **options)
        if time.monotonic() - self._released_s.pop(connection, float("inf")) > RESTED_S:
            try:
                await connection.disconnect()
                await cast("Callable[[], Awaitable[None]]", connection.connect)()
            except BaseException:
                await self.release(connection)
                raise
        return connection

    async def release(self, connection: AsyncConnection) -> None:
        """Take a connection back, and note when it was."""
        self._released_s[connection] = time.monotonic()
        await super().release(connection)
