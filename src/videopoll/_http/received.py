"""What somebody else sent to the host, and the host hands on: the headers of a request, from any web framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import kind_name, listed

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MAX_RECEIVED_BYTES", "Headers", "checked_body", "checked_secrets", "headers_named"]

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
"""The headers of a request, as web frameworks have them: a mapping, or pairs, in any case."""

MAX_RECEIVED_BYTES = 1_000_000
"""The largest body that is looked at."""

MAX_HEADER_CHARS = 4096
MAX_HEADERS = 200


def checked_body(body: object, what: str) -> bytes:
    """Return the body of a request that somebody else sent, as the host hands it on.

    Raises:
        ConfigurationError: It is no bytes: a parsed body has no signature.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        msg = f"{what}'s body must be the bytes as they came, got {kind_name(body)}: a parsed body has no signature"
        raise ConfigurationError(msg)
    return bytes(body)


def checked_secrets(given: str | Iterable[str], name: str, what: str) -> list[str]:
    """Return the secrets that sign what comes in: one, or several while it is being changed.

    Args:
        given: What the host handed in.
        name: For which argument.
        what: What it is.

    Raises:
        ConfigurationError: There is none, or one is no text, or ends with the line end of the file that it was read from.
            None is quoted.
    """
    secrets = () if given is None else (given,) if isinstance(given, str) else listed(given, name, "texts")
    if not secrets or not all(isinstance(one, str) and one for one in secrets):
        msg = f"read_receipts needs {what}, as a text ({name}): without one anybody could write receipts"
        raise ConfigurationError(msg)
    if not all(one.isprintable() for one in secrets):
        msg = f"{name} has a line end or another character that cannot be seen: was it cut out cleanly?"
        raise ConfigurationError(msg)
    return list(secrets)


def headers_named(headers: Headers, names: Collection[str]) -> dict[str, str] | None:
    """Return these headers; None if one is missing, is there twice, or has more in it than printable ASCII.

    Args:
        headers: All of them.
        names: Which ones, in lower case.

    Raises:
        ConfigurationError: They are neither a mapping nor pairs.
    """
    found: dict[str, str] = {}
    # Those of the standard library's server are no mapping, and give names alone when they are gone through.
    items = getattr(headers, "items", None)
    pairs = items() if callable(items) else headers
    for count, pair in enumerate(pairs if isinstance(pairs, Iterable) else (None,)):
        if count >= MAX_HEADERS:
            break
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004 - a name and its value
            msg = f"headers must be a mapping, or pairs of names and values, got {kind_name(headers)}"
            raise ConfigurationError(msg)
        name, value = pair
        name = _text(name).lower()
        if name not in names:
            continue
        text = _text(value)
        if name in found or not text or len(text) > MAX_HEADER_CHARS or not (text.isascii() and text.isprintable()):
            return None
        found[name] = text
    return found if len(found) == len(names) else None


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
