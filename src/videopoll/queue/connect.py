"""Clients of Redis: those of a URL, the checks of a host's own, and clients beside them that lead to the same place.

No client retries on its own: a claim that runs twice would lease jobs to no one.
Calls that are safe to repeat are repeated in `videopoll.queue.scripts`.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, cast

import attrs
import redis
import redis.asyncio
import redis.asyncio.connection
import redis.connection
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_count, kind_name
from videopoll.queue.address import Way, read_address, unreadable
from videopoll.queue.cluster import AsyncSlotClient, ClusterRoute, SlotClient, check_prefix
from videopoll.queue.errors import speaks_tls
from videopoll.queue.pools import MAX_CONNECTIONS, AsyncLoopPools, FreshPool
from videopoll.queue.routes import PLAIN, ROUTED, Route, route_of
from videopoll.queue.sentinel import SentinelRoute, is_sentinel_pool, sentinels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from videopoll.queue.address import Node
    from videopoll.queue.schema import Keys

__all__ = [
    "async_client_of",
    "async_client_of_cluster",
    "check_client",
    "client_beside",
    "client_of",
    "client_of_cluster",
    "ms_of",
    "shown_address",
]

CONNECT_TIMEOUT_S = 5.0
"""Seconds that a connection takes at most to be opened."""


@attrs.frozen
class _Twin:
    """What the clients of threads, or those of asyncio, are made of."""

    client: Any
    slot_client: Any
    pool: Any
    connection: type
    retry: Callable[[], object]
    parse: Callable[[str], Mapping[str, Any]]


_SYNC = _Twin(
    redis.Redis,
    SlotClient,
    FreshPool,
    redis.Connection,
    lambda: Retry(NoBackoff(), 0),
    cast("Callable[[str], Mapping[str, Any]]", redis.connection.parse_url),
)
_ASYNC = _Twin(
    redis.asyncio.Redis,
    AsyncSlotClient,
    AsyncLoopPools,
    redis.asyncio.Connection,
    lambda: AsyncRetry(NoBackoff(), 0),
    cast("Callable[[str], Mapping[str, Any]]", redis.asyncio.connection.parse_url),
)


# --- clients of a URL ---


def client_of(url: str, keys: Keys, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> redis.Redis:
    """Return a client with a pool of its own.

    Args:
        url: Where to; see `RedisVideoJobQueue.from_url`.
        keys: The keys that it is for: in a cluster they tell the node.
        timeout_s: Seconds that a call waits at most for a connection to be free, again for it to be opened, and
            again for a reply.
        max_connections: Connections at most. A ``max_connections`` in the URL goes before it.

    Raises:
        ConfigurationError: The URL cannot be read, or the number is none; or the URL is a cluster's, and the keys
            have no hash tag.
    """
    return cast("redis.Redis", _client_of(_SYNC, url, keys, timeout_s, max_connections))


def async_client_of(
    url: str, keys: Keys, timeout_s: float, max_connections: int = MAX_CONNECTIONS
) -> redis.asyncio.Redis:
    """Return an asyncio client, which may be used in any event loop; the asyncio side of `client_of`."""
    return cast("redis.asyncio.Redis", _client_of(_ASYNC, url, keys, timeout_s, max_connections))


def _client_of(twin: _Twin, url: str, keys: Keys, timeout_s: float, max_connections: int) -> object:
    check_count("max_connections", max_connections)
    address = read_address(url)
    try:
        said = dict(twin.parse(address.url))
    except (ValueError, TypeError, AttributeError):
        # The cause would quote a part of the URL, and so of the password.
        raise unreadable() from None
    kind = said.pop("connection_class", twin.connection)
    route: Route | None = None
    if address.way is Way.CLUSTER:
        check_prefix(keys)
        route = ClusterRoute(address.nodes, _known_to_nodes(said), keys)
    elif address.way is Way.SENTINEL:
        known = {name: value for name, value in said.items() if name.startswith("ssl_")}
        route = SentinelRoute(address.nodes, {**known, **address.sentinel}, address.service)
    return _open(twin, kind, {"max_connections": max_connections, **said}, timeout_s, route)


def _open(twin: _Twin, kind: type, said: Mapping[str, Any], timeout_s: float, route: Route | None) -> object:
    """Open a client whose connections follow a route, or lead to the one server that the options name."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, CONNECT_TIMEOUT_S),
        "retry": twin.retry(),
        "health_check_interval": 0,
        **said,
    }
    if speaks_tls(kind):
        # redis-py 5 does not look at the name in a certificate unless it is told to.
        options.setdefault("ssl_check_hostname", True)
    if route is not None:
        kind = ROUTED[kind]
        options["route"] = route
    try:
        pool = twin.pool(connection_class=kind, **options)
        # Opens nothing; else an option that does not exist would only be met by the first call.
        pool.connection_class(**pool.connection_kwargs)
    except (redis_errors.RedisError, ValueError, TypeError, AttributeError):
        msg = (
            "the Redis URL has an option behind its ? that the Redis client does not know, or cannot use: leave it out,"
            " or build the client yourself"
        )
        raise ConfigurationError(msg) from None
    _check_certificates(pool)
    made = twin.slot_client if isinstance(route, ClusterRoute) else twin.client
    return made.from_pool(pool)


def _check_certificates(pool: redis.ConnectionPool) -> None:
    """Refuse a URL that turns the check of the server's certificate off, or names files that cannot be used.

    Raises:
        ConfigurationError: It does.
    """
    if not speaks_tls(pool.connection_class):
        return
    options = pool.connection_kwargs
    if not options["ssl_check_hostname"] or options.get("ssl_cert_reqs") == "none":
        msg = (
            "the Redis URL turns off the check of the server's certificate (ssl_cert_reqs, ssl_check_hostname):"
            " name the certificate to trust instead, with ssl_ca_certs=/path/to/ca.pem, or build the client yourself"
        )
        raise ConfigurationError(msg)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    what = "ssl_ca_certs, the certificates to trust"
    try:
        if options.get("ssl_ca_certs"):
            context.load_verify_locations(options["ssl_ca_certs"])
        what = "ssl_certfile and ssl_keyfile, this client's own certificate and its key"
        if options.get("ssl_certfile") or options.get("ssl_keyfile"):
            context.load_cert_chain(
                options.get("ssl_certfile") or "", options.get("ssl_keyfile"), options.get("ssl_password") or ""
            )
    except (OSError, TypeError) as error:
        why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no such PEM file"
        msg = f"the Redis URL names files that cannot be used, {what}: {why}. Give the paths of PEM files"
        raise ConfigurationError(msg) from None


# --- clients beside others ---

_WHERETO = frozenset({"host", "port", "path", "db", "username", "password", "credential_provider", "protocol"})

_SAME_FOR_NODES = frozenset({"username", "password", "credential_provider", "protocol"})


def _known_to_nodes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every node of a cluster is told: the user, the password, certificates."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and (name in _SAME_FOR_NODES or name.startswith("ssl_"))
    }


def _whereto(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if name in _WHERETO or name == "route" or name.startswith(("ssl_", "socket_keepalive"))
    }


def client_beside(client: redis.Redis | redis.asyncio.Redis, timeout_s: float) -> redis.Redis | None:
    """Return a sync client with connections of its own to where another client connects; None where that is not known."""
    pool = client.connection_pool
    options = _whereto(pool.connection_kwargs)
    route = options.pop("route", None)
    if is_sentinel_pool(pool):
        route = _sentinel_route(pool)
        kind: type | None = redis.SSLConnection if speaks_tls(pool.connection_class) else redis.Connection
    else:
        kind = PLAIN.get(pool.connection_class)
    if kind is None:
        return None
    options |= {"socket_timeout": timeout_s, "socket_connect_timeout": min(timeout_s, CONNECT_TIMEOUT_S)}
    if route is not None:
        kind = ROUTED.get(kind, kind)
        options["route"] = route
    beside = FreshPool(connection_class=kind, retry=Retry(NoBackoff(), 0), health_check_interval=0, **options)
    return (SlotClient if isinstance(route, ClusterRoute) else redis.Redis).from_pool(beside)


def _sentinel_route(pool: object) -> SentinelRoute:
    service, sentinels = sentinels_of(pool)
    nodes = [(one["host"], one["port"]) for one in sentinels]
    return SentinelRoute(cast("list[Node]", nodes), _known_to_nodes(sentinels[0]), service)


def client_of_cluster(cluster: redis.RedisCluster, keys: Keys, timeout_s: float) -> redis.Redis:
    """Return a client to whichever node of a host's cluster has the keys, with connections of its own.

    Raises:
        ConfigurationError: The keys have no hash tag.
    """
    pool = cast("Any", cluster).get_redis_connection(cast("Any", cluster).get_default_node()).connection_pool
    options = {**pool.connection_kwargs, "connection_class": pool.connection_class}
    return cast("redis.Redis", _beside_cluster(_SYNC, cluster, options, keys, timeout_s))


def async_client_of_cluster(cluster: redis.asyncio.RedisCluster, keys: Keys, timeout_s: float) -> redis.asyncio.Redis:
    """Return the asyncio side of `client_of_cluster`."""
    node = next(iter(cluster.nodes_manager.startup_nodes.values()))
    options = {**node.connection_kwargs, "connection_class": node.connection_class}
    return cast("redis.asyncio.Redis", _beside_cluster(_ASYNC, cluster, options, keys, timeout_s))


def _beside_cluster(twin: _Twin, cluster: object, options: Mapping[str, Any], keys: Keys, timeout_s: float) -> object:
    check_prefix(keys)
    manager = cast("redis.RedisCluster", cluster).nodes_manager
    nodes: Sequence[Node] = [(one.host, int(one.port)) for one in manager.startup_nodes.values()]
    route = ClusterRoute(nodes, _known_to_nodes(options), keys, manager.address_remap)
    said = {**_whereto(options), "socket_timeout": options.get("socket_timeout") or timeout_s}
    return _open(twin, options["connection_class"], said, timeout_s, route)


def shown_address(client: redis.Redis | redis.asyncio.Redis) -> str:
    """Return where a client connects to, without user and password."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    route = route_of(client) or (_sentinel_route(pool) if is_sentinel_pool(pool) else None)
    if route is not None:
        return route.shown
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"{where}/{options.get('db') or 0}"


# --- clients of a host ---


def check_client(client: object, wanted: type, queue: str, name: str = "client") -> None:
    """Refuse a client that a queue cannot work with.

    Args:
        client: What was handed in.
        wanted: The class of client that is needed.
        queue: The name of the queue's class.
        name: For which of its arguments.

    Raises:
        ConfigurationError: It is of another class, decodes responses, or retries.
    """
    which = "" if name == "client" else f" ({name})"
    if not isinstance(client, wanted):
        got = kind_name(client) if isinstance(client, type) else _name_of(type(client))
        msg = f"{queue} needs a {_name_of(wanted)} client{which}, got {got}{_instead_of(client, queue)}"
        raise ConfigurationError(msg)
    options = cast("redis.Redis", client).connection_pool.connection_kwargs
    if options.get("decode_responses"):
        msg = f"the Redis client{which} must not decode responses, as an id in Redis may be no text: leave out decode_responses"
        raise ConfigurationError(msg)
    try:
        # Opens nothing. What retries is the connection: only it knows what comes of all the options.
        connection = cast("redis.Redis", client).connection_pool.connection_class(**options)
    except (redis_errors.RedisError, ValueError, TypeError):
        msg = f"the Redis client{which} has an option that its connections do not know, or cannot use: leave it out"
        raise ConfigurationError(msg) from None
    if _retries_of(connection.retry) != 0:
        msg = (
            f"the Redis client{which} must not retry, as a claim that runs twice would lease jobs to no one: build it with"
            f" retry=Retry(NoBackoff(), 0), or use {queue}.from_url"
        )
        raise ConfigurationError(msg)


def _name_of(kind: type) -> str:
    # Where a host imports it from: both kinds of client are called Redis.
    module = {
        "redis.client": "redis",
        "redis.cluster": "redis",
        "redis.asyncio.client": "redis.asyncio",
        "redis.asyncio.cluster": "redis.asyncio",
        "builtins": "",
    }
    return f"{module.get(kind.__module__, kind.__module__)}.{kind.__qualname__}".removeprefix(".")


def _instead_of(client: object, queue: str) -> str:
    """Return what to do about a client of another class."""
    if isinstance(client, redis.asyncio.Redis):
        return ": use AsyncRedisVideoJobQueue for it"
    if isinstance(client, redis.Redis):
        return ": use RedisVideoJobQueue for it"
    if isinstance(client, str | bytes):
        return f": a URL goes into {queue}.from_url"
    if isinstance(client, redis.asyncio.RedisCluster):
        return ": use AsyncRedisVideoJobQueue for it"
    if isinstance(client, redis.RedisCluster):
        return ": use RedisVideoJobQueue for it"
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
