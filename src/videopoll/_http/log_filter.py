"""Keeps what our requests hold out of the logs of the libraries that carry them.

httpx logs the full URL of every request at INFO, and httpcore the headers of
every reply at DEBUG: a token in a URL's query would end up in the host's logs.
Whatever these libraries log while a request of ours is under way is dropped,
in its thread or task only: the host's own requests are logged as ever.
"""

from __future__ import annotations

import contextvars
import logging

# A filter acts on the records of its own logger only, not on those of the loggers below it.
_LOGGERS = (
    "aiohttp.client",
    "aiohttp.internal",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
    "httpx",
)

_under_way = contextvars.ContextVar("videopoll_http_under_way", default=False)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not _under_way.get()


_FILTER = _Filter()


def install() -> None:
    """Put the filter in place; once more does nothing more."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)


class suppress_client_logs:  # noqa: N801 - a context, as contextlib.suppress is
    """Marks a request of ours as under way, in this thread or task and the tasks that it starts."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _under_way.set(True)

    def __exit__(self, *_: object) -> None:
        _under_way.reset(self._token)
