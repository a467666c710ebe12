"""Places for sends: as many as the load wants, and no account takes all of them."""

from __future__ import annotations

import itertools
import threading

import attrs
import pytest

from kit import EACH_COMBINATION, part, until
from videopoll import DeliveryPolicy, RoutingNotifier, events
from videopoll.core.accounts import Accounts
from videopoll.core.delivery import Later, after_no_place, open_outbox
from videopoll.messages import Delivered, NotSent
from videopoll.testing import Reply, build_job, build_outcome

PATIENT = DeliveryPolicy(backoff_base_s=0.1, deadline_s=300.0)


class Time:
    """A clock that a test moves."""

    s = 1000.0

    def now_s(self) -> float:
        return self.s


@pytest.fixture
def clock():
    return Time()


def fill(accounts: Accounts, key: str, most: int = 1000) -> int:
    """Begin sends over an account until one has to wait; return how many began."""
    return next((count for count in range(most) if accounts.enter(key)), most)


def test_an_account_that_sends_alone_gets_three_quarters_of_the_places(clock):
    assert fill(Accounts(clock.now_s, 2.0, 100), "slow") == 75


def test_whatever_accounts_are_slow_another_one_finds_a_place(clock):
    accounts = Accounts(clock.now_s, 2.0, 100)

    taken = [fill(accounts, f"slow_{number}") for number in range(3)]

    assert taken[0] > taken[1] > taken[2]
    assert accounts.enter("quick") == 0


@pytest.mark.parametrize("places", [1, 2, 3])
def test_few_places_are_never_none(clock, places):
    assert fill(Accounts(clock.now_s, 2.0, places), "only") >= 1


def test_where_nothing_bounds_the_places_nobody_waits(clock):
    assert fill(Accounts(clock.now_s, 2.0), "only", 500) == 500


def test_a_place_is_free_again_when_its_send_has_ended(clock):
    accounts = Accounts(clock.now_s, 2.0, 8)
    began = fill(accounts, "slow")

    accounts.leave("slow", clock.s)

    assert accounts.enter("slow") == 0
    assert accounts.enter("slow") > 0
    assert began == 6


def test_those_that_wait_get_turns_as_far_apart_as_sends_end(clock):
    """6 places at 3 s each: one gets free every half second. All at once would find the places taken again."""
    accounts = Accounts(clock.now_s, 2.0, 8)
    fill(accounts, "slow")
    for _ in range(20):
        clock.s += 3
        for _ in range(5):
            accounts.leave("slow", clock.s - 3)
        fill(accounts, "slow")
    clock.s += 60

    waits = [accounts.enter("slow") for _ in range(5)]

    assert [after - before for before, after in itertools.pairwise(waits)] == pytest.approx([0.5] * 4, rel=0.1)


def test_no_turn_is_further_off_than_a_minute(clock):
    """The channel may be quick again by then."""
    accounts = Accounts(clock.now_s, 2.0, 4)

    assert max(accounts.enter("slow") for _ in range(10_000)) == pytest.approx(60)


def test_a_message_that_waits_for_a_place_is_no_try_and_ends_at_no_deadline():
    """The deadline is judged after a send: one is made, however long its account had no place."""
    fresh = open_outbox(build_job(), build_outcome(), DeliveryPolicy())
    entry = attrs.evolve(fresh, tries=3, sending_ms=500, deadline_ms=1000)

    later = after_no_place(entry, 2.5, 9000)

    assert later == Later(attrs.evolve(entry, tries=2, sending_ms=None), 11_500)


@EACH_COMBINATION
def test_a_channel_that_hangs_holds_up_neither_other_channels_nor_the_polls(world, parts):
    """Twice as many messages as there are places, all over the one that hangs, come before those over the other."""
    let_go, sent, lock = threading.Event(), {"slow": [], "quick": []}, threading.Lock()

    def hang(message):
        yield let_go
        with lock:
            sent["slow"].append(message.job.job_id)
        return Delivered()

    def send(message):
        with lock:
            sent["quick"].append(message.job.job_id)
        return Delivered()

    slow = [f"slow_{number}" for number in range(16)]
    quick = [f"quick_{number}" for number in range(8)]
    router = RoutingNotifier.from_metadata({"slow": part(parts, notify=hang), "quick": part(parts, notify=send)})
    for number, job_id in enumerate(slow):
        world.enqueue_ready(job_id, user=number, channel="slow")
    with world.worker(notifier=router, concurrency=4, delivery_concurrency=8) as worker:
        until(lambda: len(worker.recorder.of(events.JobConcluded)) == len(slow), "all those videos are ready")
        for number, job_id in enumerate(quick):
            world.enqueue_ready(job_id, user=number, channel="quick")

        until(lambda: sorted(sent["quick"]) == sorted(quick), "the quick channel has its messages")

        assert sent["slow"] == []
        let_go.set()
        until(lambda: sorted(sent["slow"]) == sorted(slow), "the other one has its messages, too")
        until(lambda: not world.queue().counts().in_flight, "all is settled")

    assert len(sent["slow"]) == len(slow)
    assert not worker.recorder.of(events.JobDeadLettered)


@EACH_COMBINATION
def test_an_account_that_takes_a_message_now_and_then_holds_up_neither_another_channel_nor_the_polls(world, parts):
    """While the other channel sends four, it takes one: whoever let it have all places would wait for it for ever."""
    waiting, sent, lock, over = [], {"limited": [], "quick": []}, threading.Lock(), threading.Event()

    def now_and_then(message):
        turn = over if over.is_set() else threading.Event()
        with lock:
            waiting.append(turn)
        yield turn
        with lock:
            sent["limited"].append(message.job.job_id)
        return Delivered()

    def send(message):
        with lock:
            sent["quick"].append(message.job.job_id)
            if len(sent["quick"]) % 4 == 0 and waiting:
                waiting.pop(0).set()
        return Delivered()

    limited, quick = [f"limited_{number}" for number in range(24)], [f"quick_{number}" for number in range(16)]
    router = RoutingNotifier.from_metadata(
        {"limited": part(parts, notify=now_and_then), "quick": part(parts, notify=send)}
    )
    for number, job_id in enumerate(limited):
        world.enqueue_ready(job_id, user=number, channel="limited")
    with world.worker(notifier=router, delivery=PATIENT, concurrency=4, delivery_concurrency=8) as worker:
        until(lambda: len(worker.recorder.of(events.JobConcluded)) == len(limited), "all those videos are ready")
        world.enqueue("working", Reply.processing(), user=99, channel="quick")
        for number, job_id in enumerate(quick):
            world.enqueue_ready(job_id, user=number, channel="quick")

        until(lambda: sorted(sent["quick"]) == sorted(quick), "the other channel has its messages", 60)
        until(lambda: len(world.api.polls("working")) >= 3, "polls go on", 60)

        assert len(sent["limited"]) <= 4
        over.set()
        with lock:
            for turn in waiting:
                turn.set()


@EACH_COMBINATION
def test_a_message_that_waited_for_its_place_and_then_failed_is_not_taken_for_one_of_unknown_fate(world, parts):
    """At most once: of a send whose fate nobody knows there would be a dead letter."""
    let_go, waited, failed, sent, lock = threading.Event(), set(), set(), [], threading.Lock()

    def send(message):
        yield let_go
        with lock:
            if message.job.job_id in waited - failed:
                failed.add(message.job.job_id)
                return NotSent("busy")
            sent.append(message.job.job_id)
            return Delivered()

    jobs = [f"job_{number}" for number in range(12)]
    for number, job_id in enumerate(jobs):
        world.enqueue_ready(job_id, user=number, channel="slow")
    router = RoutingNotifier.from_metadata({"slow": part(parts, notify=send)})
    once = DeliveryPolicy(on_unknown="at_most_once", backoff_base_s=0.1)
    with world.worker(notifier=router, delivery=once, concurrency=4, delivery_concurrency=8) as worker:
        until(lambda: len(worker.recorder.of(events.JobConcluded)) == len(jobs), "all those videos are ready")
        until(lambda: world.queue().counts().deliveries >= 2, "some have no place")
        waited.update(jobs)
        let_go.set()
        until(lambda: sorted(sent) == sorted(jobs), "all have their message")
        until(lambda: not world.queue().counts().in_flight, "all is settled")

    assert failed == waited
    assert not worker.recorder.of(events.JobDeadLettered)
