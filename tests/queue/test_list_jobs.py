"""Listing: which jobs are where, and for whom, in steps of a bounded size."""

from __future__ import annotations

import pytest

from kit.bench import Bench
from videopoll import ConfigurationError, OutcomeKind
from videopoll.errors import QueueRefusedError, QueueUnavailableError
from videopoll.jobs import JobState
from videopoll.jobs.transition import Conclude, Redeliver, Reschedule
from videopoll.queue import listing
from videopoll.testing import unused_port

LISTABLE = [state for state in JobState if state is not JobState.ORPHANED]


def page(bench: Bench, **options):
    """List jobs."""
    return bench.call(bench.queue.list_jobs(**options))


def ids(bench: Bench, *states: JobState, **options) -> list[str]:
    """List jobs in these states, and give their ids."""
    return [job.job_id for job in page(bench, states=states, **options).jobs]


@pytest.fixture
def everywhere(bench):
    """A job in each state, whose name is its id."""
    later_ms = bench.now_ms() + 60_000
    bench.apply(Reschedule(bench.one("scheduled"), later_ms, 1))
    delivering, outbox = bench.one("delivering"), bench.one("outbox")
    for claim in (delivering, outbox):
        bench.apply(Conclude(claim, bench.entry(claim), 600, 60_000))
    bench.apply(Redeliver(outbox, bench.entry(outbox, tries=2), 600, later_ms))
    bench.finish(bench.one("settled"))
    bench.watch(bench.one("watched"))
    bench.enqueue("dead")
    bench.bury("dead", "nobody knows the number", record=bench.db.get(bench.keys.job("dead")).decode())
    bench.one("polling", worker_id="worker_7")
    bench.enqueue("queued")
    return bench


@pytest.mark.parametrize("state", LISTABLE)
def test_jobs_are_listed_by_state(everywhere, state):
    assert ids(everywhere, state) == [state.value]
    assert ids(everywhere, state.value) == [state.value], "its word is enough"


def test_by_default_those_that_have_not_ended_are_listed_those_in_hand_first(everywhere):
    found = page(everywhere)

    assert {job.job_id for job in found.jobs[:2]} == {"polling", "delivering"}
    assert [job.job_id for job in found.jobs[2:]] == ["outbox", "scheduled", "queued"]
    assert not found.more
    for job in found.jobs:
        assert (job.state.value, job.conversation_id) == (job.job_id, "conversation")
        assert 0 <= found.now_ms - job.start_ms < 60_000


def test_a_listed_job_says_what_its_operator_asks_first(everywhere):
    jobs = {job.job_id: job for job in page(everywhere, states=LISTABLE).jobs}

    assert (jobs["polling"].worker_id, jobs["polling"].polls) == ("worker_7", 1)
    assert jobs["polling"].at_ms > everywhere.now_ms(), "its lease ends then"
    assert (jobs["outbox"].sends, jobs["outbox"].outcome) == (2, OutcomeKind.COMPLETED)
    assert (jobs["settled"].outcome, jobs["settled"].delivered) == (OutcomeKind.COMPLETED, True)
    assert jobs["dead"].reason == "nobody knows the number"
    assert jobs["queued"].at_ms is None


def test_jobs_are_listed_by_conversation_worker_and_age(everywhere):
    everywhere.call(everywhere.queue.enqueue("another", conversation_id="c_2"))

    assert ids(everywhere, *LISTABLE, conversation_id="c_2") == ["another"]
    assert len(ids(everywhere, *LISTABLE, conversation_id="conversation")) == len(LISTABLE)
    assert ids(everywhere, *LISTABLE, worker_id="worker_7") == ["polling"]
    assert ids(everywhere, *LISTABLE, older_than_s=3600) == []
    assert "queued" in ids(everywhere, JobState.QUEUED, older_than_s=-1)


def test_many_jobs_are_listed_in_steps_in_the_order_of_their_turns(bench, monkeypatch):
    monkeypatch.setattr(listing, "PAGE", 7)
    queued = [f"job_{number:03d}" for number in range(100)]
    bench.call(bench.queue.enqueue_many((job_id, "c", None) for job_id in queued))
    bench.db.zadd(bench.keys.schedule, {f"due_{number:03d}": 1_000 + number for number in range(50)})

    assert ids(bench, JobState.QUEUED, limit=500, conversation_id="c") == queued
    scheduled = page(bench, states=[JobState.SCHEDULED], limit=500)
    assert [job.job_id for job in scheduled.jobs] == [f"due_{number:03d}" for number in range(50)]
    assert (scheduled.jobs[0].start_ms, scheduled.jobs[0].conversation_id) == (None, None)


def test_a_job_that_moves_between_two_steps_is_listed_once_where_it_was_met_first(bench):
    """As if it had been taken from the list after the schedule was read."""
    bench.enqueue("job_1")
    bench.db.zadd(bench.keys.schedule, {"job_1": 1_000})

    assert [job.state for job in page(bench).jobs] == [JobState.SCHEDULED]


def test_a_page_has_so_many_jobs_and_says_whether_there_are_more(bench):
    for number in range(5):
        bench.enqueue(f"job_{number}")

    pages = [page(bench, limit=2, offset=offset) for offset in (0, 2, 4, 6)]

    assert [[job.job_id for job in one.jobs] for one in pages] == [
        ["job_0", "job_1"],
        ["job_2", "job_3"],
        ["job_4"],
        [],
    ]
    assert [one.more for one in pages] == [True, True, False, False]
    assert not page(bench, limit=5).more


def test_those_that_ended_last_come_first_and_others_queues_are_not_looked_at(bench):
    for number in range(3):
        bench.db.set(
            bench.keys.completed(f"job_{number}"), f'{{"success":true,"completedAt":{10**12 + number}}}', ex=60
        )
    bench.db.set(f"{bench.prefix}x:completed:theirs", "{}", ex=60)
    try:
        first = page(bench, states=[JobState.SETTLED], limit=2)
    finally:
        bench.db.delete(f"{bench.prefix}x:completed:theirs")

    assert len(first.jobs) == 2
    assert first.more
    assert len(ids(bench, JobState.SETTLED)) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"states": [JobState.ORPHANED]}, r"list_jobs\.states .* look it up by its id, with get"),
        ({"states": ["in_flight"]}, r"list_jobs\.states must be of queued, scheduled, polling,"),
        ({"states": []}, r"list_jobs\.states"),
        ({"limit": 0}, r"list_jobs\.limit must be a whole number of at least 1, got 0"),
        ({"limit": "10"}, r"list_jobs\.limit must be a whole number of at least 1, got '10'"),
        ({"offset": -1}, r"list_jobs\.offset must be a whole number of at least 0, got -1"),
        ({"older_than_s": "60"}, r"list_jobs\.older_than_s must be a finite number"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(bench, options, says):
    with pytest.raises(ConfigurationError, match=says):
        page(bench, **options)


def test_what_stands_in_the_way_of_a_list_is_said(bench):
    bench.db.set(bench.keys.queue, "no list", ex=60)

    with pytest.raises(QueueRefusedError, match=r"^listing jobs: Redis answered with an error: .*WRONGTYPE"):
        page(bench)

    bench.another(f"redis://127.0.0.1:{unused_port()}/0")
    with pytest.raises(QueueUnavailableError, match=r"^listing jobs: cannot reach Redis"):
        bench.call(bench.queues[-1].list_jobs())


def test_a_pooled_connection_that_died_is_replaced(bench):
    """Reading may be repeated."""
    bench.enqueue("job_1")
    queue = bench.another(f"{bench.url}?client_name={bench.prefix}")
    assert len(bench.call(queue.list_jobs()).jobs) == 1
    for client in bench.db.client_list():
        if client["name"] == bench.prefix:
            bench.db.client_kill_filter(_id=client["id"])

    assert len(bench.call(queue.list_jobs()).jobs) == 1
