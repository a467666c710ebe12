"""The TLS context of our own connections: made when the first https request comes, and then shared.

Making one reads all root certificates, which takes tens of milliseconds.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import ssl

_lock = threading.Lock()


def tls_context() -> ssl.SSLContext:
    """Give the context that fits the environment's certificates."""
    # The lock keeps threads that start together from each making one.
    with _lock:
        return _make(*map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")))


@functools.lru_cache(maxsize=4)
def _make(*_environment: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()
