"""Tenants: with more due than there are places, each gets its turn, however much another one has waiting."""

from __future__ import annotations

import json
from collections import Counter

import attrs
import pytest

from kit import until
from kit.bench import AT_ONCE, SPEC
from storm.mutants import Mutant
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.jobs import JobState
from videopoll.jobs.transition import MissingRecord, PollWork, Redeliver, Reschedule, SendWork, Settle
from videopoll.policies import PollingStrategy

STRATEGY = attrs.evolve(AT_ONCE, timeout_s=100, interval_s=10)


@pytest.fixture
def shared(bench):
    """A queue whose jobs say whose they are."""
    bench.options["tenant_key"] = "brand"
    return bench


def names(tenant: str, count: int) -> list[str]:
    """Give the ids of some jobs of a tenant."""
    return [f"{tenant}-{number:04}" for number in range(count)]


def take_in(bench, tenant: str, count: int) -> None:
    """Enqueue some jobs of a tenant."""
    bench.call(bench.queue.enqueue_many([(job_id, "c", {"brand": tenant}) for job_id in names(tenant, count)]))


def overdue(bench, tenant: str, count: int, late_ms: int) -> None:
    """Have some jobs of a tenant be due for so long."""
    take_in(bench, tenant, count)
    bench.db.delete(bench.keys.queue)
    bench.db.zadd(bench.keys.schedule, dict.fromkeys(names(tenant, count), bench.now_ms() - late_ms))


def over(bench, job_id: str) -> None:
    """Wait until the milliseconds that a hasty strategy gives a job are over: a claim may come sooner than that."""
    start_ms = bench.get(job_id).job.start_ms
    until(lambda: bench.now_ms() > start_ms + 2, "its time is up")


def whose(claims) -> Counter:
    """Count claims by tenant."""
    return Counter(claim.job_id.partition("-")[0] for claim in claims)


def parked(bench, job_id: str) -> bool:
    """Whether a job waits for its tenant's turn."""
    return bench.db.zscore(bench.keys.schedule, job_id) % 1 == 0.5


# --- who gets the places ---


def test_a_tenant_with_ten_jobs_does_not_wait_behind_another_ones_thousands(shared):
    """All of the ten are polled with the first twenty, though they came due last."""
    overdue(shared, "heavy", 3000, late_ms=60_000)
    overdue(shared, "light", 10, late_ms=1000)

    assert whose(shared.claim(polls=20)) == {"heavy": 10, "light": 10}


def test_taken_by_due_time_only_the_light_tenant_would_wait(shared):
    """The test above can fail: without turns the first twenty are the heavy one's."""
    by_turn = "    if a.turn ~= b.turn then return a.turn < b.turn end\n"
    overdue(shared, "heavy", 3000, late_ms=60_000)
    overdue(shared, "light", 10, late_ms=1000)

    with Mutant("lanes are taken by due time only", 7, "claim.lua", by_turn, "").applied():
        assert whose(shared.claim(polls=20)) == {"heavy": 20}


def test_without_a_tenant_key_the_longest_due_comes_first(bench):
    """As it always was."""
    overdue(bench, "heavy", 3000, late_ms=60_000)
    overdue(bench, "light", 10, late_ms=1000)

    assert whose(bench.claim(polls=20)) == {"heavy": 20}
    assert not bench.db.exists(bench.keys.tenants, bench.keys.lanes)


def test_new_jobs_do_not_wait_in_the_list_behind_another_ones_thousands(shared):
    """A claim takes more ids off the list than it has places."""
    take_in(shared, "heavy", 1500)
    take_in(shared, "light", 10)

    seen = Counter()
    for _ in range(5):
        seen += whose(shared.claim(polls=20))

    assert seen["light"] == 10
    assert shared.db.llen(shared.keys.queue) == 0


def test_three_tenants_have_a_third_of_the_places_each(shared):
    for tenant in ("a", "b", "c"):
        overdue(shared, tenant, 160, late_ms=1000)

    seen = Counter()
    for _ in range(20):
        seen += whose(shared.claim(polls=7))

    assert seen.total() == 140
    assert max(seen.values()) - min(seen.values()) <= 1


def test_jobs_without_a_tenant_are_one_tenant(shared):
    """Those of other producers, and of earlier versions."""
    overdue(shared, "heavy", 600, late_ms=60_000)
    for number in range(700):
        shared.db.set(
            shared.keys.job(f"none-{number:03}"),
            f'{{"jobId":"none-{number:03}","conversationId":"c","startTime":{shared.now_ms()}}}',
            ex=600,
        )
    shared.db.zadd(shared.keys.schedule, {f"none-{number:03}": shared.now_ms() - 90_000 for number in range(700)})

    assert whose(shared.claim(polls=10)) == {"none": 5, "heavy": 5}


def test_a_tenants_own_jobs_keep_their_order(shared):
    """The longest due first."""
    overdue(shared, "a", 50, late_ms=1000)
    due = {job_id: shared.now_ms() - 1000 - 100 * number for number, job_id in enumerate(names("a", 50))}
    shared.db.zadd(shared.keys.schedule, due)

    order = [claim.job_id for _ in range(10) for claim in shared.claim(polls=5)]

    assert order == list(reversed(names("a", 50)))


def test_a_claim_tells_since_when_a_job_was_due(shared):
    """Not since it waits for its turn."""
    overdue(shared, "a", 20, late_ms=7000)
    due_ms = int(shared.db.zscore(shared.keys.schedule, "a-0000"))

    shared.claim(polls=5)
    assert parked(shared, "a-0019")
    batch = shared.batch(polls=20)

    assert {claim.due_ms for claim in batch.claims} == {due_ms}
    assert batch.next_poll_ms is None


def test_what_waits_for_its_turn_is_due(shared):
    """An idle worker must not sleep over it."""
    overdue(shared, "a", 20, late_ms=7000)
    due_ms = int(shared.db.zscore(shared.keys.schedule, "a-0000"))

    assert shared.batch(polls=5).next_poll_ms == due_ms
    assert shared.batch(polls=0).next_poll_ms == due_ms


@pytest.mark.parametrize("first", ["heavy", "light"])
def test_a_tenant_that_comes_back_again_and_again_has_every_other_turn(shared, first):
    """With one place, and one job of the light one at a time, whoever's are due for longer."""
    overdue(shared, "heavy", 60, late_ms=60_000)
    take_in(shared, "light", 40)
    shared.db.delete(shared.keys.queue)
    due_ms = shared.now_ms() - (90_000 if first == "light" else 1000)
    seen = Counter()
    for _ in range(40):
        shared.db.zadd(shared.keys.schedule, {names("light", 40)[seen["light"]]: due_ms}, nx=True)
        seen += whose(shared.claim(polls=1))
    assert seen.total() == 40
    assert 19 <= seen["light"] <= 21


def test_sends_have_their_turns_too(shared):
    """A messenger that was down for one tenant leaves it thousands to send."""
    for tenant, count, late_ms in (("heavy", 300, 60_000), ("light", 5, 1000)):
        take_in(shared, tenant, count)
        claims = [claim for claim in shared.claim(polls=500, sends=0) if claim.job_id.startswith(tenant)]
        due = shared.now_ms() - late_ms
        later = [Redeliver(claim, shared.entry(claim), 600, due) for claim in claims]
        shared.apply(*later)
        for claim in claims:
            shared.db.delete(shared.keys.job(claim.job_id))

    claims = shared.claim(sends=10)

    assert whose(claims) == {"heavy": 5, "light": 5}
    assert all(isinstance(claim.work, SendWork) for claim in claims)
    assert shared.db.zcard(shared.keys.deliveries) == 295
    waiting = shared.get("heavy-0299")
    assert (waiting.state, waiting.due_ms) == (JobState.OUTBOX, claims[0].due_ms)
    assert shared.call(shared.queue.list_jobs(states=["outbox"], limit=1)).jobs[0].at_ms == claims[0].due_ms
    assert shared.db.zcard(shared.keys.send_lane("heavy")) == 295


# --- a lane is no place of its own ---


def waiting_for_its_turn(bench) -> str:
    """Have a job wait for its tenant's turn."""
    overdue(bench, "a", 20, late_ms=7000)
    bench.claim(polls=5)
    assert parked(bench, "a-0019")
    return "a-0019"


def test_what_waits_for_its_turn_is_scheduled_and_counted(shared):
    job_id = waiting_for_its_turn(shared)

    due_ms = int(shared.db.zscore(shared.keys.lane("a"), job_id))

    view = shared.get(job_id)
    assert (view.state, view.due_ms) == (JobState.SCHEDULED, due_ms)
    counts = shared.counts()
    assert (counts.scheduled, counts.oldest_due_ms) == (15, due_ms)
    listed = shared.call(shared.queue.list_jobs(states=["scheduled"])).jobs
    assert [(job.at_ms, job.tenant) for job in listed] == [(due_ms, "a")] * 15


def test_a_lane_that_is_gone_loses_nobody(shared):
    """All come due again where every worker looks, also one of an earlier version."""
    waiting_for_its_turn(shared)
    shared.db.delete(shared.keys.lanes, shared.keys.lane("a"))
    assert shared.claim() == ()
    shared.db.zadd(shared.keys.schedule, dict.fromkeys(names("a", 20)[5:], 1.5))

    assert len(shared.claim()) == 15


def test_a_job_is_looked_at_again_before_its_record_is_over(shared):
    """And so often that a worker of an earlier version has it soon."""
    job_id = waiting_for_its_turn(shared)

    back_ms = shared.db.zscore(shared.keys.schedule, job_id)

    assert shared.now_ms() + 100_000 <= back_ms <= shared.now_ms() + 150_001
    shared.db.zadd(shared.keys.schedule, {job_id: shared.now_ms() - 0.5 - 1})
    shared.db.zadd(shared.keys.lane("a"), {job_id: 1})
    (claim,) = shared.claim(polls=1)
    assert (claim.job_id, claim.due_ms) == (job_id, 1)


def test_a_job_whose_time_is_up_is_ended_without_a_turn(shared):
    """At the moment at which it would be without tenants."""
    overdue(shared, "a", 20, late_ms=7000)
    hasty = PollingStrategy(initial_delay_s=0, interval_s=1, timeout_s=2)
    shared.claim(polls=5, strategy=hasty)
    start_ms = shared.get("a-0019").job.start_ms
    assert shared.db.zscore(shared.keys.schedule, "a-0019") == start_ms + 3000.5
    shared.db.zadd(shared.keys.schedule, dict.fromkeys(names("a", 20)[5:], 1.5))
    over(shared, "a-0019")
    early = attrs.evolve(hasty, timeout_s=0.001, interval_s=0.001)

    claims = shared.claim(polls=1, strategy=early, endings=50)

    assert len(claims) == 15
    assert sum(claim.ending for claim in claims) == 14
    assert not shared.db.exists(shared.keys.lane("a"))


@pytest.mark.parametrize("polls", [0, 1])
def test_endings_are_bounded_where_there_are_lanes(shared, polls):
    overdue(shared, "a", 20, late_ms=7000)
    over(shared, "a-0019")
    early = attrs.evolve(AT_ONCE, timeout_s=0.001, interval_s=0.001)

    claims = shared.claim(polls=polls, strategy=early, endings=7)

    assert sum(claim.ending for claim in claims) == 7 - polls or sum(claim.ending for claim in claims) == 7


def test_a_cancelled_job_is_gone_from_its_lane(shared):
    job_id = waiting_for_its_turn(shared)
    shared.call(shared.queue.cancel(job_id))

    claims = shared.claim()

    assert len(claims) == 14
    assert job_id not in {claim.job_id for claim in claims}
    assert not shared.db.exists(shared.keys.lane("a"))


def test_an_id_that_lives_again_is_not_lost_by_what_its_lane_holds(shared):
    """It was cancelled while it waited for its turn, and enqueued again."""
    job_id = waiting_for_its_turn(shared)
    shared.call(shared.queue.cancel(job_id))
    shared.db.delete(shared.keys.completed(job_id))
    shared.enqueue(job_id, brand="a")

    claims = {claim.job_id: claim for claim in shared.claim()}

    assert claims[job_id].work.attempts == 1
    assert not shared.db.exists(shared.keys.lane("a"), shared.keys.queue)


def test_an_id_that_lives_again_waits_for_its_initial_delay(shared):
    job_id = waiting_for_its_turn(shared)
    shared.call(shared.queue.cancel(job_id))
    shared.db.delete(shared.keys.completed(job_id))
    shared.enqueue(job_id, brand="a")

    claims = {claim.job_id: claim for claim in shared.claim(strategy=SPEC)}

    assert job_id not in claims
    assert shared.db.zscore(shared.keys.schedule, job_id) == shared.get(job_id).job.start_ms + 5000


def test_poll_now_keeps_the_turn_of_a_job_that_is_due(shared):
    job_id = waiting_for_its_turn(shared)
    shared.db.set(shared.keys.attempts(job_id), 7, ex=600)

    assert shared.call(shared.queue.poll_now(job_id, counted=False))
    assert parked(shared, job_id)

    claims = {claim.job_id: claim for claim in shared.claim()}
    assert len(claims) == 15
    assert claims[job_id].work.attempts == 8, "it was due, so this is no poll on top"


def test_a_record_that_is_gone_is_found(shared):
    job_id = waiting_for_its_turn(shared)
    shared.db.delete(shared.keys.job(job_id))

    claims = {claim.job_id: claim for claim in shared.claim()}

    assert claims[job_id].work == MissingRecord(finished=False)


def test_a_job_beside_a_foreign_lock_leaves_its_lane(shared):
    job_id = waiting_for_its_turn(shared)
    shared.db.set(shared.keys.lock(job_id), "somebody else", px=60_000)

    assert len(shared.claim()) == 14
    assert not parked(shared, job_id)
    assert not shared.db.exists(shared.keys.lane("a"))


def test_the_hand_back_knows_what_waits_for_its_turn(shared):
    waiting_for_its_turn(shared)

    assert shared.call(shared.queue.hand_back()).handed == 15
    assert shared.claim(take_new=False) == ()
    assert not shared.db.exists(shared.keys.lane("a"), shared.keys.lanes)


def test_nothing_is_left_of_lanes_that_are_empty(shared):
    """Whatever way the jobs went."""
    overdue(shared, "a", 600, late_ms=7000)
    overdue(shared, "b", 50, late_ms=7000)
    while claims := shared.claim(polls=40):
        shared.apply(*(Settle(claim, '{"success":true}') for claim in claims))

    left = {name.decode() for name in shared.db.scan_iter(match=f"{shared.prefix}:poll:*", count=1000)}
    assert left == {shared.keys.tenants}
    assert shared.db.ttl(shared.keys.tenants) > 86_000


def test_everything_of_lanes_ends_by_itself(shared):
    waiting_for_its_turn(shared)

    for key in (shared.keys.lanes, shared.keys.lane("a")):
        assert 590 <= shared.db.ttl(key) <= 600


def test_a_job_that_waits_long_keeps_its_record(shared):
    """As one does that a worker looks at."""
    overdue(shared, "a", 20, late_ms=7000)
    now_ms = shared.now_ms()
    record = f'{{"jobId":"a-0019","conversationId":"c","startTime":{now_ms - 400_000},"tenant":"a"}}'
    shared.db.set(shared.keys.job("a-0019"), record, ex=200)

    shared.claim(polls=5, strategy=attrs.evolve(AT_ONCE, timeout_s=3600))

    assert shared.db.ttl(shared.keys.job("a-0019")) > 590


# --- who a tenant is ---


@pytest.mark.parametrize(("value", "tenant"), [("acme", "acme"), ("Zoë & Co", "Zoë & Co"), (42, "42")])
def test_the_host_names_the_entry_that_says_whose_a_job_is(shared, value, tenant):
    shared.enqueue(brand=value)
    (claim,) = shared.claim()
    assert isinstance(claim.work, PollWork)
    assert claim.work.job.tenant == tenant
    assert claim.work.job.metadata["brand"] == value


def test_a_job_without_that_entry_has_no_tenant(shared):
    shared.enqueue(brand=None)
    assert shared.get().job.tenant is None
    assert not shared.db.exists(shared.keys.tenants)


@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", True, 1.5, ["acme"], {"a": 1}])
def test_what_cannot_be_a_tenant_is_refused(shared, value):
    with pytest.raises(InvalidJobError, match="the tenant, the metadata's entry that tenant_key names, must"):
        shared.enqueue(brand=value)


def test_the_tenant_has_a_name_of_its_own(shared):
    with pytest.raises(InvalidJobError, match="may not use the name tenant"):
        shared.enqueue(brand="acme", tenant="other")


@pytest.mark.parametrize("key", ["", 7, "jobId", b"brand"])
def test_a_key_that_names_no_entry_is_refused(bench, key):
    with pytest.raises(ConfigurationError, match="tenant_key must name an entry"):
        bench.another(tenant_key=key)


def test_a_tenant_that_other_producers_write_is_hostile(shared):
    """Names of keys, something that is no text, something long: none of it harms, and each job is polled."""
    overdue(shared, "a", 20, late_ms=1000)
    odd = ["}:{", "a:b", "x" * 600, 7, None, {"a": []}, "\u0000\n", "poll:queue"]
    for number, tenant in enumerate(odd):
        job_id = f"odd-{number}"
        record = {"jobId": job_id, "conversationId": "c", "startTime": shared.now_ms(), "tenant": tenant}
        shared.db.set(shared.keys.job(job_id), json.dumps(record), ex=600)
        shared.db.zadd(shared.keys.schedule, {job_id: shared.now_ms() - 1})

    seen = Counter()
    while claims := shared.claim(polls=3):
        seen += whose(claims)
        shared.apply(*(Reschedule(claim, shared.now_ms() + 60_000) for claim in claims))

    assert seen == {"a": 20, "odd": len(odd)}
    assert not shared.db.exists(shared.keys.lanes)
