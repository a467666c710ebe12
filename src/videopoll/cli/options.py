"""The options that several commands share, and the parts that are built from them.

Each option has an environment variable: its name in upper case with
``VIDEOPOLL_`` in front. Secrets have the variable only, so that they stand in no
list of processes and in no shell history.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import redis
import typer

from videopoll.errors import ConfigurationError, QueueError
from videopoll.policies import KeyTtls
from videopoll.queue.connect import client_of
from videopoll.queue.redis_queue import RedisVideoJobQueue
from videopoll.queue.schema import DEFAULT_PREFIX, Keys
from videopoll.video_api.client import DEFAULT_BASE_URL

if TYPE_CHECKING:
    from videopoll.queue.partitioned_queue import PartitionedQueue

__all__ = [
    "API_KEY",
    "DEFAULT_API_URL",
    "DEFAULT_JOB_TTL_S",
    "DEFAULT_PREFIX",
    "DEFAULT_REDIS_URL",
    "DEFAULT_ULTRAMSG_URL",
    "ULTRAMSG_TOKEN",
    "WHATSAPP_FACTORY_TOKEN",
    "ApiUrl",
    "AsJson",
    "GivenApiUrl",
    "JobId",
    "JobTtl",
    "Partitions",
    "Prefix",
    "Providers",
    "RedisUrl",
    "RunnerKind",
    "Serve",
    "TenantKey",
    "UltraMsgInstance",
    "UltraMsgUrl",
    "WhatsAppFactoryInstance",
    "WhatsAppFactoryUrl",
    "open_client",
    "open_queue",
    "secret",
    "served",
    "ttls_of",
]

API_KEY = "VIDEOPOLL_API_KEY"
ULTRAMSG_TOKEN = "VIDEOPOLL_ULTRAMSG_TOKEN"  # noqa: S105 - the name of a variable
WHATSAPP_FACTORY_TOKEN = "VIDEOPOLL_WHATSAPP_FACTORY_TOKEN"  # noqa: S105 - the name of a variable

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
DEFAULT_API_URL = DEFAULT_BASE_URL
DEFAULT_ULTRAMSG_URL = "https://api.ultramsg.com"
DEFAULT_JOB_TTL_S = 600
REDIS_TIMEOUT_S = 5.0

RedisUrl: TypeAlias = Annotated[
    str,
    typer.Option(
        "--redis-url",
        envvar="VIDEOPOLL_REDIS_URL",
        help="Where the jobs are: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
        rich_help_panel="Redis",
    ),
]
Prefix: TypeAlias = Annotated[
    str,
    typer.Option(
        "--prefix", envvar="VIDEOPOLL_PREFIX", help="What every key in Redis starts with.", rich_help_panel="Redis"
    ),
]
TenantKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tenant-key",
        envvar="VIDEOPOLL_TENANT_KEY",
        metavar="NAME",
        help="The entry of the metadata that says whose a job is: tenants have places in turn.",
        rich_help_panel="Redis",
    ),
]
Partitions: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--partitions",
        envvar="VIDEOPOLL_PARTITIONS",
        min=1,
        help="How many partitions the queue has; who begins with too small a number learns the greater from Redis.",
        rich_help_panel="Redis",
        show_default=False,
    ),
]
Serve: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--serve",
        envvar="VIDEOPOLL_SERVE",
        metavar="0,1",
        help="The partitions to take jobs from; all by default.",
        rich_help_panel="Redis",
        show_default=False,
    ),
]
JobTtl: TypeAlias = Annotated[
    int,
    typer.Option(
        "--job-ttl",
        envvar="VIDEOPOLL_JOB_TTL",
        min=1,
        help="Seconds that a job's record lives in Redis; longer than the workers' --timeout.",
        rich_help_panel="Redis",
    ),
]
ApiUrl: TypeAlias = Annotated[
    str,
    typer.Option("--api-url", envvar="VIDEOPOLL_API_URL", help="Where the video API is.", rich_help_panel="Video API"),
]
Providers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        envvar="VIDEOPOLL_PROVIDER",
        metavar="NAME",
        help="A video API that has a description (videopoll providers lists them), or package.module:DESCRIPTION;"
        " as often as you like. In the variable, spaces separate them.",
        rich_help_panel="Video API",
    ),
]
GivenApiUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        envvar="VIDEOPOLL_API_URL",
        help="Base URL of the video API to ask; else those that living workers poll.",
        show_default=False,
    ),
]
UltraMsgUrl: TypeAlias = Annotated[
    str,
    typer.Option(
        "--ultramsg-url", envvar="VIDEOPOLL_ULTRAMSG_URL", help="Where UltraMsg is.", rich_help_panel="Channels"
    ),
]
UltraMsgInstance: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--ultramsg-instance",
        envvar="VIDEOPOLL_ULTRAMSG_INSTANCE",
        help="The sending instance, e.g. instance1150.",
        rich_help_panel="Channels",
    ),
]
WhatsAppFactoryUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--whatsapp-factory-url",
        envvar="VIDEOPOLL_WHATSAPP_FACTORY_URL",
        help="Where your WhatsApp Factory is.",
        rich_help_panel="Channels",
    ),
]
WhatsAppFactoryInstance: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--whatsapp-factory-instance",
        envvar="VIDEOPOLL_WHATSAPP_FACTORY_INSTANCE",
        help="The sending instance.",
        rich_help_panel="Channels",
    ),
]
OwnChannels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        envvar="VIDEOPOLL_CHANNEL",
        metavar="NAME[=PACKAGE.MODULE:FUNCTION]",
        help="A channel that ships with videopoll and is configured by its variables (videopoll channels lists them), or"
        " one of your own and the function that builds its notifier; as often as you like. In the variable, spaces"
        " separate them.",
        rich_help_panel="Channels",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId: TypeAlias = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]


class RunnerKind(enum.StrEnum):
    """Which runner the worker uses: asyncio, or threads."""

    ASYNC = "async"
    SYNC = "sync"


def secret(variable: str) -> str | None:
    """Return a secret from the environment, or None if it is unset or empty."""
    return os.environ.get(variable) or None


def served(given: str | None) -> tuple[int, ...] | None:
    """Read the numbers of partitions.

    Raises:
        ConfigurationError: They are none.
    """
    if given is None:
        return None
    words = [word.strip() for word in given.split(",")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        msg = "--serve names partitions by their numbers, from 0, with commas between them: --serve 0,1"
        raise ConfigurationError(msg)
    return tuple(map(int, words))


def ttls_of(job_ttl_s: int) -> KeyTtls:
    """Return the times to live: a job's counter lives as long as its record."""
    return KeyTtls(job_s=job_ttl_s, attempts_s=job_ttl_s)


def open_queue(
    redis_url: str,
    prefix: str,
    job_ttl_s: int = DEFAULT_JOB_TTL_S,
    *,
    partitions: int | None = None,
    tenant_key: str | None = None,
) -> PartitionedQueue:
    """Open the queue for a command that looks or acts once, with as many partitions as it has, as Redis knows."""
    queue = RedisVideoJobQueue.from_url(
        redis_url,
        prefix=prefix,
        ttls=ttls_of(job_ttl_s),
        front_timeout_s=5.0,
        tenant_key=tenant_key,
        partitions=partitions or 1,
    )
    opened = cast("PartitionedQueue", queue)
    with contextlib.suppress(QueueError):
        opened.learn()
    return opened


@contextlib.contextmanager
def open_client(redis_url: str, prefix: str) -> Iterator[redis.Redis]:
    """Open a client for a command that reads keys of a prefix itself.

    Raises:
        ConfigurationError: The URL or the prefix cannot be read, or they do not fit together.
    """
    client = client_of(redis_url, Keys(prefix), REDIS_TIMEOUT_S)
    try:
        yield client
    finally:
        client.close()
