"""The idle connections of one transport. Does no I/O: it says which connection to use and which ones to close."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar


class PooledConnection(Protocol):
    """What the pool asks of a connection."""

    def has_expired(self) -> bool: ...
    def is_available(self) -> bool: ...


_Connection = TypeVar("_Connection", bound=PooledConnection)
Origin = tuple[str, str, int]


class IdlePool(Generic[_Connection]):
    """Last in, first out, so that connections which are not needed grow old and go."""

    def __init__(self, size: int) -> None:
        self._size, self._busy, self._closed = size, 0, False
        self._idle: list[tuple[Origin, _Connection]] = []
        self._lock = threading.Lock()

    def take(self, origin: Origin) -> tuple[_Connection | None, list[_Connection]]:
        """Take the idle connection to `origin` that was used last (None: open one). Returns it, and those to close."""
        with self._lock:
            self._busy += 1
            to_close: list[_Connection] = []
            for index in reversed(range(len(self._idle))):
                if self._idle[index][0] == origin:
                    _, connection = self._idle.pop(index)
                    if not connection.has_expired():
                        return connection, to_close
                    to_close.append(connection)
            if self._idle and len(self._idle) + self._busy > self._size:
                to_close.append(self._idle.pop(0)[1])
            return None, to_close

    def put(self, origin: Origin, connection: _Connection | None) -> list[_Connection]:
        """Put a connection back (None if connecting failed). Returns the connections to close."""
        with self._lock:
            self._busy -= 1
            if connection is None:
                return []
            if self._closed or not connection.is_available():
                return [connection]
            self._idle.append((origin, connection))
            return [self._idle.pop(0)[1]] if self._idle[0][1].has_expired() else []

    def close(self) -> list[_Connection]:
        """Keep no connection from now on. Returns the connections to close."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            return [connection for _, connection in idle]
