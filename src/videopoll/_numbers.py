"""Which values are numbers that can be counted with: JSON has longer ones, and infinite ones."""

from __future__ import annotations

from typing_extensions import TypeIs

__all__ = ["is_number"]

LARGEST = 2**53
"""Up to here a double, and so Redis and every reader of JSON, tells one whole number from the next."""


def is_number(value: object) -> TypeIs[int | float]:
    """Whether it is a finite number of a sane size.

    `math.isfinite` raises for integers of more than 308 digits, and JSON may have those.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
