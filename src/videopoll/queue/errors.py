"""What an exception of the Redis client means: whether it passes, whether the server has moved, and what to do next."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from typing import TYPE_CHECKING, TypeVar

import redis
import redis.asyncio
from redis import exceptions as redis_errors

from videopoll._reasons import own
from videopoll.core.belonging import is_of_other_loop
from videopoll.errors import QueueError, QueueRefusedError, QueueUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

__all__ = [
    "REDIS_ERRORS",
    "RouteError",
    "cause_of",
    "has_moved",
    "is_alone",
    "is_broken",
    "is_cut_off",
    "is_full",
    "is_undone",
    "of_a_cluster",
    "queue_errors",
    "raise_if_of_other_loop",
    "raise_queue_error",
    "speaks_tls",
    "to_queue_error",
]

E = TypeVar("E", bound=Exception)

REDIS_ERRORS: tuple[type[redis_errors.RedisError], type[OSError]] = (redis_errors.RedisError, OSError)
"""What a client of Redis raises."""


class RouteError(redis_errors.ConnectionError):
    """Nobody could say which server a connection is to lead to.

    Args:
        text: Why, and what to do; it has nothing secret.
        refused: Whether that is so for good.
    """

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.refused = refused


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

_MOVED = ("READONLY", "MASTERDOWN", "UNBLOCKED", "MOVED")

_CUT_OFF = re.compile(
    r"Script attempted to (?:access a non local key|execute a (?:write )?command while the cluster)"
    r"|undeclared keys were accessed during rehashing"
)
"""A script that had begun when the keys of its slot moved away, in the words of Redis 7 and of Redis 8."""

_FULL = ("Too many connections", "No connection available.")
"""What redis-py's pools say when all is in use: of no class of its own in some versions, or in the pool that waits."""

_NO_RIGHTS = ("NOPERM", "The user executing the script can't")

_NO_SUCH_DATABASE = ("DB index is out of range", "SELECT is not allowed in cluster mode")
"""What a server answers to the SELECT with which a connection begins; it has no code of its own."""

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


def raise_queue_error(error: Exception, doing: str, opened: redis.Redis | None = None) -> NoReturn:
    """Raise the `QueueError` for an exception of the Redis client; see `to_queue_error`."""
    raise to_queue_error(error, doing, opened) from cause_of(error)


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


def to_queue_error(error: Exception, doing: str, opened: redis.Redis | None = None) -> QueueError:
    """Translate an exception of the Redis client, saying what to do next.

    Args:
        error: What was raised.
        doing: What for, as the error says it.
        opened: The client, if its connection had not worked before: the URL may be wrong.
    """
    return _queue_error(error, doing, _IN_SCRIPT.sub("", str(error), count=1), opened)


def speaks_tls(kind: type) -> bool:
    """Whether connections of a class talk TLS."""
    return issubclass(kind, redis.SSLConnection | redis.asyncio.SSLConnection)


_NO_TLS = " If the server does not speak TLS at this port, write redis:// in the URL, not rediss://."
_ONLY_TLS = " If the server speaks TLS at this port, write rediss:// in the URL."

_WHILE_OPENED = "Timeout connecting to server"
"""What redis-py says of a connection that took too long to be opened, the handshake of TLS included."""

_HUNG_UP = ("Connection closed by server.", "Connection reset by peer")
"""What it says of a server that ends a connection: so does one that expects a handshake."""


def _other_scheme(error: Exception, opened: redis.Redis | None) -> str:
    """Return what to change in the URL, if the server may want TLS, or have none."""
    if opened is None:
        return ""
    if speaks_tls(opened.connection_pool.connection_class):
        tls = _first(error, ssl.SSLError)
        no_tls = tls.reason in _NOT_TLS if tls is not None else str(error).startswith(_WHILE_OPENED)
        return _NO_TLS if no_tls else ""
    hung_up = _first(error, ConnectionResetError) is not None or str(error).endswith(_HUNG_UP)
    over_net = "path" not in opened.connection_pool.connection_kwargs
    return _ONLY_TLS if over_net and hung_up else ""


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
"""What OpenSSL says of an answer that is no handshake."""


def _first(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the first error of a kind among those that an error came of."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _no_answer(error: Exception, doing: str, opened: redis.Redis | None) -> QueueError | None:
    """Translate what was raised because no server was asked, or none answered; None for an answer."""
    if is_full(error):
        return QueueUnavailableError(
            own(
                f"{doing}: every connection that this client may open is in use, and none came free in time; Redis was"
                " not asked. Allow more (max_connections), or make fewer calls at once. Try again."
            )
        )
    route = _route_error(error)
    if route is not None:
        kind, again = (QueueRefusedError, "") if route.refused else (QueueUnavailableError, ". Try again.")
        return kind(own(f"{doing}: {route.text}{again}"))
    if isinstance(error, redis_errors.TimeoutError):
        return QueueUnavailableError(
            own(f"{doing}: Redis did not answer in time.{_other_scheme(error, opened)} Try again.")
        )
    if isinstance(error, redis_errors.InvalidResponse):
        return QueueRefusedError(
            own(
                f"{doing}: what answers is no Redis, or wants TLS: check the port in the URL, and whether the URL has to"
                " begin with rediss://."
            )
        )
    if isinstance(error, redis_errors.ConnectionError | OSError):
        return QueueUnavailableError(
            own(f"{doing}: cannot reach Redis ({_why(error)}).{_other_scheme(error, opened)} Try again.")
        )
    return None


def _queue_error(error: Exception, doing: str, text: str, opened: redis.Redis | None) -> QueueError:
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
                f" ({_codes(error, text)}{which}). Grant it the rights that videopoll acl prints."
            )
        )
    no_answer = _no_answer(error, doing, opened)
    if no_answer is not None:
        return no_answer
    if isinstance(error, redis_errors.MovedError) or text.startswith("MOVED"):
        return QueueUnavailableError(
            own(
                f"{doing}: another node of this cluster has the keys. Make the prefix a hash tag, such as {{video}}, and"
                " write redis+cluster:// in the URL. Try again."
            ),
            answered=True,
        )
    if _CUT_OFF.search(text) or isinstance(error, redis_errors.AskError | redis_errors.TryAgainError):
        return QueueUnavailableError(
            own(f"{doing}: the keys are being moved to another node of the cluster. Try again."), answered=True
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
                " the prefix a hash tag, such as {video}, and write redis+cluster:// in the URL."
            )
        )
    if any(said in text for said in _NO_SUCH_DATABASE):
        return QueueRefusedError(
            own(
                f"{doing}: this Redis has no database of the number at the end of the URL. Most have those from 0 to 15,"
                " a cluster has 0 alone."
            )
        )
    about_data = isinstance(error, redis_errors.DataError) or text.startswith("WRONGTYPE")
    return QueueRefusedError(
        own(f"{doing}: Redis answered with an error: {_codes(error, text)}"), about_data=about_data
    )


_OF_A_CLUSTER: dict[str, Callable[[str], redis_errors.ResponseError]] = {
    "ASK": redis_errors.AskError,
    "CLUSTERDOWN": redis_errors.ClusterDownError,
    "MASTERDOWN": redis_errors.MasterDownError,
    "MOVED": redis_errors.MovedError,
    "TRYAGAIN": redis_errors.TryAgainError,
}


def of_a_cluster(error: redis_errors.ResponseError) -> redis_errors.ResponseError:
    """Return what a node of a cluster says in the class that redis-py has for it; redis-py 5 knows it in its own cluster client alone."""
    word, _, rest = str(error).partition(" ")
    known = _OF_A_CLUSTER.get(word)
    return error if known is None else known(rest)


def cause_of(error: Exception) -> Exception | None:
    """Return what a host may see behind a `QueueError`: not an answer of Redis, which may quote a prompt."""
    return None if isinstance(error, redis_errors.ResponseError) else error


def has_moved(error: Exception) -> bool:
    """Whether the server at the other end is no primary any more: its name may lead to another one by now."""
    text = _IN_SCRIPT.sub("", str(error), count=1)
    return isinstance(
        error, redis_errors.ReadOnlyError | redis_errors.MasterDownError | redis_errors.MovedError
    ) or text.startswith(_MOVED)


def is_alone(error: Exception) -> bool:
    """Whether the server has lost its replicas, or the other nodes of its cluster: they may have another by now."""
    text = _IN_SCRIPT.sub("", str(error), count=1)
    return isinstance(error, redis_errors.ClusterDownError) or text.startswith(("CLUSTERDOWN", "NOREPLICAS"))


def is_undone(error: Exception) -> bool:
    """Whether what was asked for has surely not begun, and may where or when it is sent next."""
    return has_moved(error) or isinstance(
        error,
        redis_errors.NoScriptError | redis_errors.AskError | redis_errors.TryAgainError | redis_errors.ClusterDownError,
    )


def is_cut_off(error: Exception) -> bool:
    """Whether a script had begun when the keys of its slot moved away; run again, it does the rest."""
    return _CUT_OFF.search(str(error)) is not None


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


def _route_error(error: Exception) -> RouteError | None:
    # The asyncio client wraps what is raised while it connects.
    return _first(error, RouteError)


def _codes(error: Exception, text: str) -> str:
    """Name an error of Redis by its type and the codes in its text, which may quote the arguments."""
    found = dict.fromkeys(code for code in _CODE.findall(text[:_LOOKED_AT]) if code in _CODES)
    return ", ".join([type(error).__name__, *found])


def _why(error: Exception) -> str:
    """Return why there is no connection, without an address."""
    tls = _first(error, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        # Behind a comma it names the host.
        return f"its certificate is not trusted: {tls.verify_message.partition(',')[0]}"
    if tls is not None:
        return f"TLS failed: {tls.reason or type(tls).__name__}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else "its name cannot be looked up"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
