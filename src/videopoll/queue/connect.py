"""Connections to Redis: the clients of a URL, the checks of a host's own clients, and what their errors mean.

No client retries on its own: a claim that runs twice would lease jobs to no one.
Calls that are safe to repeat are repeated in `videopoll.queue.scripts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import redis
import redis.asyncio
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import override

from videopoll._reasons import own
from videopoll.core.belonging import OfLoop, OfProcess, is_of_other_loop
from videopoll.errors import ConfigurationError, QueueError, QueueRefusedError, QueueUnavailableError
from videopoll.policies import check_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import NoReturn

    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import ConnectionInterface

__all__ = [
    "MAX_CONNECTIONS",
    "REDIS_ERRORS",
    "AsyncFreshPool",
    "AsyncLoopPools",
    "FreshPool",
    "async_client_of",
    "check_client",
    "client_beside",
    "client_of",
    "has_moved",
    "is_broken",
    "is_full",
    "ms_of",
    "queue_errors",
    "raise_if_of_other_loop",
    "raise_queue_error",
    "shown_address",
    "to_queue_error",
]

PoolT = TypeVar("PoolT")
ConnectionT = TypeVar("ConnectionT")
GateT = TypeVar("GateT")

REDIS_ERRORS: tuple[type[redis_errors.RedisError], type[OSError]] = (redis_errors.RedisError, OSError)
"""What a client of Redis raises."""

CONNECT_TIMEOUT_S = 5.0
"""Seconds that a connection takes at most to be opened."""

RESTED_S = 30.0
"""A connection that has not been used for so long is opened anew: what lies between forgets idle ones, and says nothing.

The first call after a quiet night would wait for its whole time limit, and fail. Home routers and load balancers
forget after a minute at the earliest.
"""


MAX_CONNECTIONS = 50
"""Connections of one client at most, where nothing else is said; further calls wait for one."""


OPENS_IN_TURN = (5, 3) <= tuple(int(part) for part in redis.__version__.split(".")[:2]) < (7, 3)
"""Whether redis-py's asyncio pool opens connections one after the other, under a lock that is for nothing else.

A burst behind a server that stands still would wait for a time limit after the other.
"""


# --- clients of a URL ---


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
        cast("Callable[..., None]", super().__init__)(*args, **options)
        self._begin_in_child()
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # A forked process has none of its parent's connections, nor the threads that would put them back.
        self._gate = threading.Semaphore(self.max_connections)

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
            super().release(cast("redis.Connection", connection))
        finally:
            if gate is not None:
                gate.release()


class AsyncFreshPool(redis.asyncio.ConnectionPool):
    """The asyncio side of `FreshPool`, for one event loop."""

    def __init__(self, *args: object, **options: object) -> None:
        self._uses = _Uses["AsyncConnection", asyncio.Semaphore]()
        cast("Callable[..., None]", super().__init__)(*args, **options)
        self._gate = asyncio.Semaphore(self.max_connections)
        if OPENS_IN_TURN:
            self._lock = cast("asyncio.Lock", contextlib.nullcontext())

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
            await super().release(connection)
        finally:
            if gate is not None:
                gate.release()


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

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - as in the client
        """Close the connections of the running event loop."""
        await self._pools.here().disconnect(inuse_connections=inuse_connections)


def client_of(url: str, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> redis.Redis:
    """Return a client with a pool of its own.

    Args:
        url: Where to.
        timeout_s: Seconds that a call waits at most for a connection to be free, again for it to be opened, and
            again for a reply.
        max_connections: Connections at most. A ``max_connections`` in the URL goes before it.

    Raises:
        ConfigurationError: The URL cannot be read, or the number is none.
    """
    return redis.Redis.from_pool(_pool_of(FreshPool, url, timeout_s, max_connections, Retry(NoBackoff(), 0)))


def async_client_of(url: str, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> redis.asyncio.Redis:
    """Return an asyncio client, which may be used in any event loop; the asyncio side of `client_of`."""
    retry = AsyncRetry(NoBackoff(), 0)
    return redis.asyncio.Redis.from_pool(_pool_of(AsyncLoopPools, url, timeout_s, max_connections, retry))


def _pool_of(kind: type[PoolT], url: str, timeout_s: float, max_connections: int, retry: object) -> PoolT:
    check_count("max_connections", max_connections)
    if not isinstance(url, str):
        msg = (
            f"the Redis URL must be a string such as redis://127.0.0.1:6379/0, got {_name_of(type(url))}: is the"
            " variable set that it comes from?"
        )
        raise ConfigurationError(msg)
    check_seconds("a time limit of Redis", timeout_s, above=0)
    pool_type = cast("Any", kind)
    # redis-py 5 does not look at the name in a certificate unless it is told to.
    tls = {"ssl_check_hostname": True} if url.startswith("rediss://") else {}
    try:
        pool = pool_type.from_url(
            url,
            **tls,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
            retry=retry,
            health_check_interval=0,
            max_connections=max_connections,
        )
    except (ValueError, TypeError, AttributeError):
        # The cause would quote a part of the URL, and so of the password.
        msg = "the Redis URL cannot be read; it looks like redis://127.0.0.1:6379/0, rediss://… or unix://…"
        raise ConfigurationError(msg) from None
    try:
        # Opens nothing; else an option that does not exist would only be met by the first call.
        pool.connection_class(**pool.connection_kwargs)
    except (redis_errors.RedisError, ValueError, TypeError):
        msg = (
            "the Redis URL has an option behind its ? that the Redis client does not know, or cannot use: leave it out,"
            " or build the client yourself"
        )
        raise ConfigurationError(msg) from None
    _check_certificates(pool)
    return cast("PoolT", pool)


def _check_certificates(pool: redis.ConnectionPool) -> None:
    """Refuse a URL that turns the check of the server's certificate off.

    Raises:
        ConfigurationError: It does.
    """
    if issubclass(pool.connection_class, redis.SSLConnection | redis.asyncio.SSLConnection):
        options = pool.connection_kwargs
        if not options["ssl_check_hostname"] or options.get("ssl_cert_reqs") == "none":
            msg = (
                "the Redis URL turns off the check of the server's certificate (ssl_cert_reqs, ssl_check_hostname):"
                " name the certificate to trust instead, with ssl_ca_certs=/path/to/ca.pem, or build the client yourself"
            )
            raise ConfigurationError(msg)


_PLAIN: dict[type, type] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}
_PLAIN.update({kind: kind for kind in _PLAIN.values()})
"""The ways to a server that are known: how a connection is opened that a sentinel names, or a fake, is not."""

_WHERETO = frozenset({"host", "port", "path", "db", "username", "password", "credential_provider", "protocol"})


def client_beside(client: redis.Redis | redis.asyncio.Redis, timeout_s: float) -> redis.Redis | None:
    """Return a sync client with connections of its own to where another client connects; None where that is not known."""
    pool = client.connection_pool
    kind = _PLAIN.get(pool.connection_class)
    if kind is None:
        return None
    options = {
        name: value
        for name, value in cast("dict[str, object]", pool.connection_kwargs).items()
        if name in _WHERETO or name.startswith(("ssl_", "socket_keepalive"))
    }
    options |= {"socket_timeout": timeout_s, "socket_connect_timeout": min(timeout_s, CONNECT_TIMEOUT_S)}
    beside = FreshPool(connection_class=kind, retry=Retry(NoBackoff(), 0), health_check_interval=0, **options)
    return redis.Redis.from_pool(beside)


def shown_address(client: redis.Redis | redis.asyncio.Redis) -> str:
    """Return where a client connects to, without user and password."""
    options = client.connection_pool.connection_kwargs
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"{where}/{options.get('db') or 0}"


# --- clients of a host ---


def check_client(client: object, wanted: type, queue: str) -> None:
    """Refuse a client that a queue cannot work with.

    Args:
        client: What was handed in.
        wanted: The class of client that is needed.
        queue: The name of the queue's class.

    Raises:
        ConfigurationError: It is of another class, decodes responses, or retries.
    """
    if not isinstance(client, wanted):
        msg = f"{queue} needs a {_name_of(wanted)} client, got {_name_of(type(client))}{_instead_of(client, queue)}"
        raise ConfigurationError(msg)
    options = cast("redis.Redis", client).connection_pool.connection_kwargs
    if options.get("decode_responses"):
        msg = "the Redis client must not decode responses, as an id in Redis may be no text: leave out decode_responses"
        raise ConfigurationError(msg)
    try:
        # Opens nothing. What retries is the connection: only it knows what comes of all the options.
        connection = cast("redis.Redis", client).connection_pool.connection_class(**options)
    except (redis_errors.RedisError, ValueError, TypeError):
        msg = "the Redis client has an option that its connections do not know, or cannot use: leave it out"
        raise ConfigurationError(msg) from None
    if _retries_of(connection.retry) != 0:
        msg = (
            "the Redis client must not retry, as a claim that runs twice would lease jobs to no one: build it with"
            f" retry=Retry(NoBackoff(), 0), or use {queue}.from_url"
        )
        raise ConfigurationError(msg)


def _name_of(kind: type) -> str:
    # Where a host imports it from: both kinds of client are called Redis.
    module = {"redis.client": "redis", "redis.asyncio.client": "redis.asyncio", "builtins": ""}
    return f"{module.get(kind.__module__, kind.__module__)}.{kind.__qualname__}".removeprefix(".")


def _instead_of(client: object, queue: str) -> str:
    """Return what to do about a client of another class."""
    if isinstance(client, redis.asyncio.Redis):
        return ": use AsyncRedisVideoJobQueue for it"
    if isinstance(client, redis.Redis):
        return ": use RedisVideoJobQueue for it"
    if isinstance(client, str | bytes):
        return f": a URL goes into {queue}.from_url"
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return (
            ": connect to the node, or the proxy, that owns the slot of the prefix, which is a hash tag such as {video}"
        )
    return ""


def _retries_of(retry: Retry) -> int:
    # redis-py 5 has the number, but no method that tells it.
    tell = getattr(retry, "get_retries", None)
    return int(tell() if tell else retry._retries)  # noqa: SLF001


# --- times ---


def ms_of(clock: tuple[int, int]) -> int:
    """Return Redis's time, seconds and microseconds, in Unix milliseconds."""
    seconds, micros = clock
    return seconds * 1000 + micros // 1000


# --- errors ---

TRANSIENT_PREFIXES = (
    "LOADING",
    "READONLY",
    "OOM",
    "UNBLOCKED",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "UNKILLABLE",
    "ASK",
    "MOVED",
)
"""Error replies that pass: a restart, a failover, a full memory, a slot on the move."""

_CODES = frozenset({*TRANSIENT_PREFIXES, "CROSSSLOT", "ERR", "EXECABORT", "NOAUTH", "NOPERM", "WRONGPASS", "WRONGTYPE"})
"""The codes of errors that are shown."""

_IN_SCRIPT = re.compile(r"Error running script \(.*?\): (?:@user_script: ?\d+: )+-?")
"""What Redis 6.2 puts in front of the error of a command in a script. From 7.0 on the error comes as it is."""

_MOVED = ("READONLY", "MASTERDOWN", "UNBLOCKED")

_FULL = ("Too many connections", "No connection available.")
"""What redis-py's pools say when all is in use: of no class of its own in some versions, or in the pool that waits."""

_NO_RIGHTS = ("NOPERM", "The user executing the script can't")

_LOOKED_AT = 300
"""Characters of an error in which codes are looked for."""

_CODE = re.compile(r"[A-Z]{3,20}")
_COMMAND = re.compile(r"the '([a-z|]{1,30})' command")


@contextlib.contextmanager
def queue_errors(doing: str) -> Iterator[None]:
    """Translate what a Redis client raises in this block.

    Raises:
        QueueError: Redis is away or says no.
    """
    try:
        yield
    except REDIS_ERRORS as error:
        raise_queue_error(error, doing)


def raise_queue_error(error: Exception, doing: str) -> NoReturn:
    """Raise the `QueueError` for an exception of the Redis client."""
    raise to_queue_error(error, doing) from cause_of(error)


def raise_if_of_other_loop(error: RuntimeError) -> None:
    """Raise the `QueueError` for a host's client whose connections were opened in another event loop.

    Raises:
        QueueRefusedError: It is that.
    """
    if is_of_other_loop(error):
        msg = (
            "the Redis client that this queue was given has connections of another event loop. Give each loop a client"
            " and a queue of its own, or close the client (await client.aclose()) before a loop ends; a queue that was"
            " built with from_url works in any loop."
        )
        raise QueueRefusedError(own(msg)) from error


def to_queue_error(error: Exception, doing: str) -> QueueError:
    """Translate an exception of the Redis client, saying what to do next."""
    return _queue_error(error, doing, _IN_SCRIPT.sub("", str(error), count=1))


def _queue_error(error: Exception, doing: str, text: str) -> QueueError:
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthorizationError):
        return QueueRefusedError(
            own(f"{doing}: Redis refused the credentials. Check the user and password of the URL.")
        )
    if isinstance(error, redis_errors.NoPermissionError) or text.startswith(_NO_RIGHTS):
        command = _COMMAND.search(text)
        which = f", {command[1]}" if command else ""
        return QueueRefusedError(
            own(
                f"{doing}: this Redis user may not run a command or use a key that videopoll needs"
                f" ({_codes(error, text)}{which}). Grant it access to the keys of the prefix."
            )
        )
    if is_full(error):
        return QueueUnavailableError(
            own(
                f"{doing}: every connection that this client may open is in use, and none came free in time; Redis was"
                " not asked. Allow more (max_connections), or make fewer calls at once. Try again."
            )
        )
    if isinstance(error, redis_errors.TimeoutError):
        return QueueUnavailableError(own(f"{doing}: Redis did not answer in time. Try again."))
    if isinstance(error, redis_errors.ConnectionError | OSError):
        return QueueUnavailableError(own(f"{doing}: cannot reach Redis ({_why(error)}). Try again."))
    if isinstance(error, redis_errors.MovedError) or text.startswith("MOVED"):
        return QueueUnavailableError(
            own(
                f"{doing}: another node of this cluster has the keys. Make the prefix a hash tag, such as {{video}}, and"
                " connect to the node that has its slot, or to a proxy. Try again."
            ),
            answered=True,
        )
    if text.lstrip("-").startswith(TRANSIENT_PREFIXES) or isinstance(
        error,
        # The client cuts the first word off these. MASTERDOWN is a ClusterDownError there, and MOVED an AskError.
        redis_errors.ReadOnlyError
        | redis_errors.OutOfMemoryError
        | redis_errors.TryAgainError
        | redis_errors.ClusterDownError
        | redis_errors.AskError,
    ):
        role = ", it is a replica" if has_moved(error) else ""
        return QueueUnavailableError(
            own(f"{doing}: Redis is not ready{role} ({_codes(error, text)}). Try again."), answered=True
        )
    # The client cuts the first word off where it has a class for the error, and not in redis-py 5.
    if isinstance(error, redis_errors.ClusterCrossSlotError) or text.startswith("CROSSSLOT"):
        return QueueRefusedError(
            own(
                f"{doing}: this Redis is a node of a cluster, where all keys of a queue have to be in one slot. Make"
                " the prefix a hash tag, such as {video}."
            )
        )
    about_data = isinstance(error, redis_errors.DataError) or text.startswith("WRONGTYPE")
    return QueueRefusedError(
        own(f"{doing}: Redis answered with an error: {_codes(error, text)}"), about_data=about_data
    )


def cause_of(error: Exception) -> Exception | None:
    """Return what a host may see behind a `QueueError`: not an answer of Redis, which may quote a prompt."""
    return None if isinstance(error, redis_errors.ResponseError) else error


def has_moved(error: Exception) -> bool:
    """Whether the server at the other end is no primary any more: its name may lead to another one by now."""
    text = _IN_SCRIPT.sub("", str(error), count=1)
    return isinstance(error, redis_errors.ReadOnlyError | redis_errors.MasterDownError) or text.startswith(_MOVED)


def is_full(error: Exception) -> bool:
    """Whether a client's pool had no connection to give: nothing was sent, and the server may be well."""
    return isinstance(error, redis_errors.MaxConnectionsError) or (
        isinstance(error, redis_errors.ConnectionError) and str(error) in _FULL
    )


def is_broken(error: Exception) -> bool:
    """Whether a connection broke: a pooled one may have died unnoticed, and a fresh one may work."""
    return (
        isinstance(error, redis_errors.ConnectionError | OSError)
        and not isinstance(
            error, redis_errors.TimeoutError | redis_errors.AuthenticationError | redis_errors.BusyLoadingError
        )
        and not is_full(error)
    )


def _codes(error: Exception, text: str) -> str:
    """Name an error of Redis by its type and the codes in its text, which may quote the arguments."""
    found = dict.fromkeys(code for code in _CODE.findall(text[:_LOOKED_AT]) if code in _CODES)
    return ", ".join([type(error).__name__, *found])


def _why(error: Exception) -> str:
    """Return why there is no connection, without an address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else "its name cannot be looked up"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
