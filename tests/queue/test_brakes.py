"""Brakes: an account that asked one worker for a pause is left alone by all, each from its next claim on."""

from __future__ import annotations

import math

import pytest

from kit.bench import AT_ONCE, KINDS, LEASE
from videopoll.errors import QueueRefusedError

DAY_MS = 24 * 3600 * 1000


def test_a_pause_that_one_worker_tells_comes_with_the_next_claim_of_another(bench):
    """No round trip more, and none that would have to be waited for."""
    before_ms = bench.now_ms()
    bench.call(bench.queue.brake({"fal:1": 30.0, "kling:2": 20.0}))
    claim = bench.another().claim(polls=0, sends=0, worker_id="another", strategy=AT_ONCE, lease=LEASE)
    told = bench.call(claim).brakes
    assert set(told) == {"fal:1", "kling:2"}
    assert before_ms + 30_000 <= told["fal:1"] <= bench.now_ms() + 30_000
    assert told == bench.call(bench.queue.held_accounts())


def test_without_a_pause_a_claim_tells_of_none(bench):
    """As nearly always."""
    bench.enqueue()
    batch = bench.batch()
    assert (batch.brakes, len(batch.claims)) == ({}, 1)
    assert bench.call(bench.queue.held_accounts()) == {}


def test_a_pause_is_never_made_shorter(bench):
    """Whose word comes last does not matter."""
    bench.call(bench.queue.brake({"fal:1": 30.0}))
    first = bench.batch().brakes
    bench.call(bench.queue.brake({"fal:1": 1.0}))
    assert bench.batch().brakes == first


def test_what_has_ended_goes_and_with_the_last_the_key(bench):
    """It is bounded by who is held back now."""
    now_ms = bench.now_ms()
    bench.db.zadd(bench.keys.brakes, {"over:1": now_ms - 1, "over:2": 5})
    assert bench.batch().brakes == {}
    bench.call(bench.queue.brake({"fal:1": 30.0}))
    assert bench.db.zrange(bench.keys.brakes, 0, -1) == [b"fal:1"]
    assert 0 < bench.db.pttl(bench.keys.brakes) <= 30_000


def test_so_many_accounts_at_most(bench):
    """A host with a key for each of its users may have thousands; those with the longest pauses stay."""
    bench.call(bench.queue.brake({f"fal:{number}": 10.0 + number for number in range(1_100)}))
    held = bench.call(bench.queue.held_accounts())
    assert len(held) == bench.db.zcard(bench.keys.brakes) == 1_000
    assert "fal:1099" in held
    assert "fal:99" not in held
    told = bench.batch().brakes
    assert (len(told), "fal:1099" in told, "fal:999" in told) == (100, True, False)


@pytest.mark.parametrize("score", [math.inf, -math.inf, "a year ahead", -5.0, 0.5])
def test_a_number_that_none_of_us_wrote_holds_back_nobody(bench, score):
    """Whoever may write there could stop the fleet for good; the next that writes clears it away."""
    score = bench.now_ms() + 365 * DAY_MS if score == "a year ahead" else score
    bench.db.zadd(bench.keys.brakes, {"fal:1": score})
    bench.enqueue()
    batch = bench.batch()
    assert (batch.brakes, len(batch.claims)) == ({}, 1)
    assert bench.call(bench.queue.held_accounts()) == {}
    bench.call(bench.queue.brake({"kling:2": 1.0}))
    assert bench.db.zrange(bench.keys.brakes, 0, -1) == [b"kling:2"]


def test_a_pause_of_more_than_a_day_is_one_of_a_day(bench):
    """Nobody waits for ever."""
    bench.call(bench.queue.brake({"fal:1": 1e9}))
    assert bench.call(bench.queue.held_accounts())["fal:1"] <= bench.now_ms() + DAY_MS


@pytest.mark.parametrize("kind_of_key", ["list", "set", "hash", "string", "stream"])
def test_a_key_of_another_type_harms_no_claim(bench, kind_of_key):
    """Jobs are claimed all the same; only the telling is refused."""
    for key in (bench.keys.brakes, bench.keys.workers):
        put = bench.db.set if kind_of_key == "string" else getattr(bench.db, KINDS[kind_of_key])
        put(key, *_value(kind_of_key))
        bench.db.expire(key, 60)
    bench.enqueue()
    batch = bench.batch()
    assert (len(batch.claims), batch.brakes, batch.workers) == (1, {}, 0)
    with pytest.raises(QueueRefusedError):
        bench.call(bench.queue.brake({"fal:1": 1.0}))


def test_a_user_with_the_rights_of_an_earlier_version_claims_all_the_same(bench, redis_url):
    """Rights are not always changed before the workers are."""
    bench.enqueue()
    commands = ["+@all", "-zcount", "-zrevrangebyscore"]
    bench.db.acl_setuser(f"user-{bench.prefix}", enabled=True, passwords=["+pw"], keys=["*"], commands=commands)
    try:
        other = bench.another(redis_url.replace("redis://", f"redis://user-{bench.prefix}:pw@"))
        batch = bench.call(other.claim(polls=9, sends=9, worker_id="w", strategy=AT_ONCE, lease=LEASE))
    finally:
        bench.db.acl_deluser(f"user-{bench.prefix}")

    assert (len(batch.claims), batch.brakes, batch.workers) == (1, {}, 0)


def test_a_claim_tells_how_many_workers_live(bench):
    """Those that beat within the last ten seconds, the same that `workers()` calls alive."""
    now_ms = bench.now_ms()
    bench.db.zadd(
        bench.keys.workers, {"a": now_ms, "b": now_ms - 4_000, "dead": now_ms - 11_000, "ahead": now_ms + 999_999}
    )
    bench.db.expire(bench.keys.workers, 60)
    assert bench.batch().workers == 2
    assert {one.worker_id for one in bench.call(bench.queue.workers()) if one.alive} == {"a", "b", "ahead"}


def _value(kind_of_key: str) -> tuple[object, ...]:
    return {"hash": ("f", "v"), "stream": ({"f": "v"},)}.get(kind_of_key, ("v",))
