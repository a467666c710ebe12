"""JSON as it comes from others: read strictly, within bounds, and never an exception for what is wrong with it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

__all__ = ["LENIENT_JSON", "STRICT_JSON", "JsonValue", "Poison", "dump", "is_number", "load_object", "raw", "text_of"]

LARGEST = 2**53
"""Up to here a double, and so Redis and every reader of JSON, tells one whole number from the next."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number of a sane size.

    `math.isfinite` raises for integers of more than 308 digits, and JSON may have those.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"


@attrs.frozen
class Poison:
    """Something in Redis that is not a job, and why."""

    reason: str


def _refuse_constant(text: str) -> NoReturn:
    msg = f"not JSON: {text}"
    raise ValueError(msg)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        # "1e999" reads as infinity, which cannot be written again.
        msg = f"too large: {text[:20]}"
        raise ValueError(msg)
    return number


# Made once: `json.loads` with options makes a decoder for each call, and a worker reads a record and a reply for each poll.
STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
"""For what stands in Redis, and will be written again: NaN and the infinities are no JSON."""

LENIENT_JSON = json.JSONDecoder(parse_constant=lambda _: None)
"""For what servers answer, and is only looked at: some write NaN where they have no number; it reads as null."""


_COMPACT_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def raw(text: str) -> bytes:
    """Encode an id, or a key with an id in it, as it stood in Redis."""
    return text.encode("utf-8", "surrogateescape")


def text_of(value: object) -> str:
    """Decode what Redis gave; bytes that are no text become surrogates."""
    return cast("bytes", value).decode("utf-8", "surrogateescape")


def load_object(stored: bytes) -> dict[str, JsonValue] | Poison:
    """Read a JSON object from hostile bytes."""
    try:
        value = STRICT_JSON.decode(stored.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return Poison("not JSON")
    if not isinstance(value, dict):
        return Poison("not a JSON object")
    return cast("dict[str, JsonValue]", value)


def dump(value: Mapping[str, object]) -> str:
    """Write a JSON object compactly; lone surrogates stay escaped, so it is always UTF-8."""
    return _COMPACT_JSON.encode(value)


def whole(value: JsonValue) -> int:
    if not is_number(value) or not isinstance(value, int):
        msg = "not a whole number"
        raise TypeError(msg)
    return value


def text_or_none(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
