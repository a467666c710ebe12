"""HTTP exchanges as values, and what carries them out.

An exchange is described once, as an `HttpRequest`, and comes back as an
`HttpReply` or an `HttpFailure`; nothing that a network or a server can do raises
an exception. `Http.send` is for threads, `Http.asend` for asyncio. Both follow no
redirect, read a reply up to a size limit, ask for no compression, and end within
the request's total time.

httpx's connection pools slow down with the square of their connections, so our
own transports keep single connections (of httpcore, the layer under httpx) in a
last-in-first-out pool, or use aiohttp under asyncio where it is installed. A host that needs its own proxies, certificates or hooks hands in an httpx client.
Proxies of the environment (``HTTPS_PROXY`` ...) are honoured too, by a plain
httpx client, which is slower; they are read and checked when `Http` is built.

The files: `values` (requests, replies, failures), `prepare` (a checked request and
how far it came), `parts` (multipart bodies), `transports` (what carries it: our own connections of httpcore,
aiohttp, httpx clients), `pool` (idle connections), `deadline` (when a request ends),
`proxies` (the environment's), `tls` (the shared TLS context), `log_filter` (no
secrets in the logs of others), `client` (`Http`), `answerer` (whose reply it looks like).
"""

from __future__ import annotations

from videopoll._http.client import Http
from videopoll._http.parts import Part
from videopoll._http.values import (
    NOT_JSON,
    FailureKind,
    HttpFailure,
    HttpReply,
    HttpRequest,
    NotJson,
    retry_after_s,
    sent_s,
)

__all__ = [
    "NOT_JSON",
    "FailureKind",
    "Http",
    "HttpFailure",
    "HttpReply",
    "HttpRequest",
    "NotJson",
    "Part",
    "retry_after_s",
    "sent_s",
]
