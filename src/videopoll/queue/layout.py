"""Where the jobs of a queue of several partitions are: by their ids, under each number of partitions.

Pure: a hash, and the reading of what is noted in Redis about the number.

A job's partition is its *home*. The hash is jump consistent hashing (Lamping and Veach, "A Fast, Minimal Memory,
Consistent Hash Algorithm", 2014) over 64 bits of BLAKE2b: of one more partition than there were, only the new one
takes jobs from the others. What is more, the homes that a job had under all smaller numbers fall out of the same
loop, about ``ln(number)`` of them: nobody has to remember what the numbers were.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs

from videopoll.jobs.codec import raw, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videopoll.policies import DeliveryPolicy, KeyTtls

__all__ = ["MOST_PARTITIONS", "Layout", "Moved", "homes", "horizon_ms", "leavings", "prefix_of"]

MOST_PARTITIONS = 1000
"""Partitions at most. A larger number in Redis is taken for damage."""

MAX_DIGITS = 16
"""A time or a number of more digits is none."""

_64_BITS = (1 << 64) - 1


def homes(job_id: str, partitions: int) -> tuple[int, ...]:
    """Return the partitions in which a job has been at home under some number up to this one; the last one is its home.

    The first is always 0.
    """
    key = int.from_bytes(hashlib.blake2b(raw(job_id), digest_size=8).digest(), "big")
    found, then = list[int](), 0
    while then < partitions:
        found.append(then)
        # The numbers of the paper: a linear congruential generator, of which the upper bits are used.
        key = (key * 2862933555777941757 + 1) & _64_BITS
        then = int((found[-1] + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return tuple(found)


def leavings(job_id: str, partitions: int) -> Iterator[tuple[int, int]]:
    """Yield each former home of a job, and the number of partitions from which on it was that no more."""
    for home, then in pairwise(homes(job_id, partitions)):
        yield home, then + 1


def prefix_of(prefix: str, partition: int) -> str:
    """Return the prefix of one partition's keys: ``{video}``, ``{video:1}``, ``{video:2}``.

    The first has the queue's own: a queue without partitions is one of one partition, and can grow.
    """
    if partition == 0:
        return prefix
    head, brace, tail = prefix.partition("}")
    return f"{head}:{partition}{brace}{tail}"


@attrs.frozen
class Layout:
    """What one partition's Redis knows of the number of partitions.

    Args:
        raises: The numbers, each with the time from which on it was known there in Unix milliseconds, the latest first.
    """

    raises: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, stored: bytes | None) -> Layout:
        """Read what `layout.lua` has written: ``5:1764437381000 3:1764430000000``. What is none says nothing."""
        raises = list[tuple[int, int]]()
        for word in text_of(stored or b"").split():
            number, _, since = word.partition(":")
            if not (_is_number(number) and _is_number(since) and 1 <= int(number) <= MOST_PARTITIONS):
                break
            raises.append((int(number), int(since)))
        return cls(tuple(raises))

    @property
    def partitions(self) -> int:
        """The greatest number that is known there; 1 if none is."""
        return max((number for number, _ in self.raises), default=1)

    def since_ms(self, partitions: int) -> int | None:
        """Return since when at least so many are known there; None if they are not."""
        return min((since for number, since in self.raises if number >= partitions), default=None)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= MAX_DIGITS


class Moved(Exception):  # noqa: N818 - no error: the call goes on elsewhere
    """Redis knows of more partitions than the caller.

    Args:
        partitions: How many.
    """

    def __init__(self, partitions: int) -> None:
        super().__init__(partitions)
        self.partitions: int = partitions


def horizon_ms(ttls: KeyTtls, delivery: DeliveryPolicy) -> int:
    """Return for how long a job may be known where it was taken in: while it is polled, delivered, watched, remembered.

    After that the same id is a new job, also without partitions. Doubled, as a receipt may open a delivery again.
    """
    return 2000 * (ttls.job_s + delivery.keep_s + ttls.completed_s)
