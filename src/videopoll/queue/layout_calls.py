"""The scripts that depend on the number of partitions as typed calls; the others are in `videopoll.queue.calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from videopoll.jobs.codec import raw, text_of
from videopoll.jobs.job import split_record
from videopoll.jobs.views import EnqueueResult
from videopoll.policies import FOREIGN_IDLE_S
from videopoll.queue.layout import Layout, Moved
from videopoll.queue.scripts import Script, ScriptCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from videopoll.jobs.codec import JsonValue
    from videopoll.policies import KeyTtls
    from videopoll.queue.schema import Keys

CheckedJob: TypeAlias = "tuple[str, str, Mapping[str, JsonValue]]"
"""A job to take in: its id, its conversation id and its metadata, all of which were checked."""

ENQUEUE = Script.load("enqueue")
LAYOUT = Script.load("layout")

SCRIPTS = (ENQUEUE, LAYOUT)


def enqueue(
    keys: Keys, jobs: Sequence[CheckedJob], ttls: KeyTtls, *, tenants: bool = False, partitions: int = 1
) -> ScriptCall[list[EnqueueResult]]:
    """Take in jobs; the reading raises `Moved` if there are more partitions than the producer knows of.

    Args:
        keys: The names of the keys.
        jobs: What to take in.
        ttls: How long the keys live.
        tenants: Whether some of them have a tenant.
        partitions: How many partitions the producer knows of.
    """
    job_keys = [key for job_id, _, _ in jobs for key in keys.of_job(job_id)]
    if tenants:
        job_keys.append(keys.tenants)
    args: list[str | bytes | int] = [ttls.job_s, ttls.attempts_s, round(FOREIGN_IDLE_S * 1000), partitions]
    for job_id, conversation_id, metadata in jobs:
        args += [job_id, *split_record(job_id, conversation_id, metadata)]

    def parse(reply: object) -> list[EnqueueResult]:
        if isinstance(reply, int):
            raise Moved(reply)
        return [EnqueueResult(text_of(one)) for one in cast("list[bytes]", reply)]

    return ScriptCall(ENQUEUE, (*keys.fixed, keys.layout, *job_keys), tuple(args), parse)


class KnownHere(NamedTuple):
    """What a partition knows: its time in Unix milliseconds, of how many partitions, and how each of some jobs stands."""

    now_ms: int
    layout: Layout
    results: list[EnqueueResult | None]


def layout(keys: Keys, partitions: int, job_ids: Sequence[str] = ()) -> ScriptCall[KnownHere]:
    """Note that there are so many partitions (0 for asking only), and ask which of these jobs are known here."""

    def parse(reply: object) -> KnownHere:
        now, noted, *found = cast("list[bytes]", reply)
        return KnownHere(int(now), Layout.read(noted), [EnqueueResult(text_of(one)) if one else None for one in found])

    return ScriptCall(
        LAYOUT,
        (*keys.fixed, keys.layout, *(raw(key) for job_id in job_ids for key in keys.of_job(job_id))),
        (partitions, *map(raw, job_ids)),
        parse,
    )
