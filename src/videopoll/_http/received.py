"""What somebody else sent to the host, and the host hands on: the headers of a request, from any web framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MAX_RECEIVED_BYTES", "Headers", "headers_named"]

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
"""The headers of a request, as web frameworks have them: a mapping, or pairs, in any case."""

MAX_RECEIVED_BYTES = 1_000_000
"""The largest body that is looked at."""

MAX_HEADER_CHARS = 4096
MAX_HEADERS = 200


def headers_named(headers: Headers, names: Collection[str]) -> dict[str, str] | None:
    """Return these headers; None if one is missing, is there twice, or has more in it than printable ASCII.

    Args:
        headers: All of them.
        names: Which ones, in lower case.
    """
    found: dict[str, str] = {}
    # Those of the standard library's server are no mapping, and give names alone when they are gone through.
    items = getattr(headers, "items", None)
    pairs = cast("Iterable[tuple[object, object]]", items() if callable(items) else headers)
    for count, (name, value) in enumerate(pairs):
        if count >= MAX_HEADERS:
            break
        name = _text(name).lower()  # noqa: PLW2901 - the same in one form
        if name not in names:
            continue
        text = _text(value)
        if name in found or not text or len(text) > MAX_HEADER_CHARS or not (text.isascii() and text.isprintable()):
            return None
        found[name] = text
    return found if len(found) == len(names) else None


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
