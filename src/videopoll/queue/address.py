"""What a Redis URL says of where to connect to: one server, one that Sentinel names, or the nodes of a cluster."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import attrs

from videopoll.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import TypeAlias

    Node: TypeAlias = tuple[str, int]

__all__ = ["Address", "Way", "read_address"]

SENTINEL_PORT = 26379

REDIS_PORT = 6379

FORMS = (
    "redis://127.0.0.1:6379/0, rediss://… (TLS), unix:///run/redis.sock, redis+sentinel://host1,host2/service/0 or"
    " redis+cluster://host1,host2"
)


class Way(enum.Enum):
    """How the server is found."""

    DIRECT = "direct"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis+sentinel": (Way.SENTINEL, "redis", SENTINEL_PORT),
    "rediss+sentinel": (Way.SENTINEL, "rediss", SENTINEL_PORT),
    "redis+cluster": (Way.CLUSTER, "redis", REDIS_PORT),
    "rediss+cluster": (Way.CLUSTER, "rediss", REDIS_PORT),
}


@attrs.frozen
class Address:
    """Where to connect to.

    Args:
        way: How the server is found.
        url: A URL that redis-py reads: the server's own, or one with all that connections to it have in common.
        nodes: Whom to ask for the server; nobody where the URL names it.
        service: What the sentinels call it.
        sentinel: The sentinels' own user and password, by the names that a connection has for them.
    """

    way: Way
    url: str = attrs.field(repr=False)
    nodes: tuple[Node, ...] = ()
    service: str = ""
    sentinel: dict[str, str] = attrs.field(factory=dict, repr=False)


def read_address(url: str) -> Address:
    """Read a URL.

    Raises:
        ConfigurationError: It cannot be read. The text has nothing of the URL, which may hold a password.
    """
    if not isinstance(url, str):
        kind = type(url).__name__
        msg = (
            f"the Redis URL must be a string such as redis://127.0.0.1:6379/0, got {kind}: is the variable set that it"
            " comes from?"
        )
        raise ConfigurationError(msg)
    scheme = url.partition("://")[0].lower()
    way, plain, port = _SCHEMES.get(scheme, (Way.DIRECT, scheme, REDIS_PORT))
    authority, behind = _cut(url.partition("://")[2])
    user, at, hosts = authority.rpartition("@")
    try:
        # Without the hosts: not every Python reads brackets that are not around all of them.
        parts = urlsplit(url if way is Way.DIRECT else f"{plain}://host{behind}")
        nodes = tuple(_node(host, port) for host in hosts.split(",")) if way is not Way.DIRECT else ()
    except ValueError:
        raise unreadable() from None
    if way is Way.DIRECT:
        if "," in hosts:
            msg = (
                "the Redis URL names several hosts: write redis+sentinel://host1,host2/service/0 if they are sentinels,"
                " or redis+cluster://host1,host2 if they are nodes of a cluster"
            )
            raise ConfigurationError(msg)
        return Address(way, url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    path = [unquote(part) for part in parts.path.split("/")[1:] if part]
    service = path.pop(0) if path and way is Way.SENTINEL else ""
    if way is Way.SENTINEL and not service:
        msg = "the Redis URL has to name the service that the sentinels watch: redis+sentinel://host1,host2/mymaster/0"
        raise ConfigurationError(msg)
    database = path.pop(0) if path else ""
    if path or not (database.isdigit() or not database):
        raise unreadable()
    if way is Way.CLUSTER and int(database or 0) + sum(name == "db" and value != "0" for name, value in query):
        msg = "the Redis URL names a database of a cluster, which has only database 0: leave it out"
        raise ConfigurationError(msg)
    own = {name: value for name, value in query if name.startswith("sentinel_") and way is Way.SENTINEL}
    unknown = set(own) - {"sentinel_username", "sentinel_password"}
    if unknown:
        msg = "the Redis URL may say sentinel_username and sentinel_password of the sentinels, and nothing else"
        raise ConfigurationError(msg)
    rest = urlencode([(name, value) for name, value in query if name not in own])
    first = hosts.split(",")[0]
    return Address(
        way,
        f"{plain}://{user}{at}{first}/{database}{'?' if rest else ''}{rest}",
        nodes,
        service,
        {name.removeprefix("sentinel_"): value for name, value in own.items()},
    )


def _cut(address: str) -> tuple[str, str]:
    """Return what stands before the path, the query or the fragment, and the rest."""
    end = next((place for place, character in enumerate(address) if character in "/?#"), len(address))
    return address[:end], address[end:]


def _node(host: str, port: int) -> Node:
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.path or "@" in host:
        msg = "no host"
        raise ValueError(msg)
    return unquote(parts.hostname), port if parts.port is None else parts.port


def unreadable() -> ConfigurationError:
    """Return the error for a URL that cannot be read."""
    return ConfigurationError(f"the Redis URL cannot be read; it looks like {FORMS}")
