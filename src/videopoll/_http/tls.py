"""The TLS context of our own connections: made when the first https request comes, and then shared.

Making one reads all root certificates, which takes tens of milliseconds.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from videopoll._http.prepare import describe
from videopoll.core.belonging import NO_FORK
from videopoll.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl


def tls_context() -> ssl.SSLContext:
    """Return the context that fits the environment's certificates."""
    # The lock keeps threads that start together from each making one.
    with NO_FORK:
        return _make(*map(os.environ.get, _VARIABLES))


def check_environment() -> None:
    """Find out whether the environment's certificates can be used, without reading all of them.

    Raises:
        ConfigurationError: They cannot: every https request would fail.
    """
    # Of the two the file counts, as in httpx.
    file, directories, key_log = map(os.environ.get, _VARIABLES)
    if file:
        try:
            with open(file, "rb") as certificates:  # noqa: PTH123 - os and open take whatever stands in the variable
                problem = None if _BEGIN in certificates.read(LONGEST_BUNDLE) else "has no certificate in it"
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({describe(error)})"
        _refuse_if(problem, "SSL_CERT_FILE")
    elif directories and not any(map(os.path.isdir, directories.split(os.pathsep))):
        _refuse_if("is no directory", "SSL_CERT_DIR")
    if key_log and (os.path.isdir(key_log) or not os.access(os.path.dirname(key_log) or ".", os.W_OK)):  # noqa: PTH112, PTH120
        _refuse_if("cannot be written", "SSLKEYLOGFILE")


def _refuse_if(problem: str | None, variable: str) -> None:
    if problem:
        msg = f"the environment's {variable} {problem}: correct it, or unset it"
        raise ConfigurationError(msg)


_BEGIN = b"-----BEGIN "
LONGEST_BUNDLE = 10_000_000
"""How much of a file of certificates is read, in bytes."""

_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


@functools.lru_cache(maxsize=4)
def _make(*_environment: str | None) -> ssl.SSLContext:
    import httpx  # noqa: PLC0415 - who sends no https request needs none

    return httpx.create_ssl_context()
