"""Sentinel: which server is the primary of a service now."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from typing_extensions import override

from videopoll.queue.errors import RouteError
from videopoll.queue.routes import Route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from videopoll.queue.address import Node

__all__ = ["SentinelRoute", "is_sentinel_pool", "sentinels_of"]


class SentinelRoute(Route):
    """Asks sentinels for the primary of a service.

    Args:
        nodes: The sentinels.
        options: How to connect to them.
        service: What they call it.
    """

    refusal = (
        "the sentinels refuse the user or the password. They have their own, which the URL says with"
        " ?sentinel_username=…&sentinel_password=…"
    )
    stranger = "what answers is no Sentinel: check the hosts and ports in the URL (a Sentinel listens on 26379)"

    def __init__(self, nodes: Sequence[Node], options: Mapping[str, object], service: str) -> None:
        super().__init__(nodes, options)
        self.silence: str = f"none of the {len(self.first_nodes)} sentinels can be asked for the primary"
        self.service = service
        self.question: tuple[str | bytes, ...] = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)

    @property
    @override
    def shown(self) -> str:
        return f"sentinels {super().shown} service {self.service}"

    @override
    def read(self, reply: object, asked: Node) -> tuple[Node, Sequence[Node]]:
        if reply is None:
            msg = f"the sentinels know no service {self.service!r}: check its name in the URL"
            raise RouteError(msg, refused=True)
        host, port = cast("tuple[bytes | str, bytes | str]", reply)
        return (host.decode() if isinstance(host, bytes) else host, int(port)), ()


def is_sentinel_pool(pool: object) -> bool:
    """Whether a pool is one of redis-py's that ask sentinels for a primary."""
    kinds = (redis.sentinel.SentinelConnectionPool, redis.asyncio.sentinel.SentinelConnectionPool)
    return isinstance(pool, kinds) and pool.is_master


def sentinels_of(pool: object) -> tuple[str, list[dict[str, object]]]:
    """Return the service of such a pool, and how it connects to each sentinel."""
    known = cast("redis.sentinel.SentinelConnectionPool", pool)
    return str(known.service_name), [one.connection_pool.connection_kwargs for one in known.sentinel_manager.sentinels]
