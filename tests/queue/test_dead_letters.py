"""Dead letters: listed, redriven, dismissed, and bounded."""

from __future__ import annotations

import itertools

import attrs
import pytest

from kit.bench import AT_ONCE, LEASE
from videopoll import (
    DeadLetterPolicy,
    RedisVideoJobQueue,
)
from videopoll.errors import InvalidJobError
from videopoll.jobs import DeadLetter
from videopoll.jobs.codec import dump
from videopoll.jobs.transition import (
    Settle,
)


def test_dead_letters_are_listed_the_newest_first(bench):
    """And page by page."""
    for number in range(5):
        bench.bury(f"job_{number}", f"reason {number}")
        bench.db.zadd(bench.keys.dead, {f"job_{number}": bench.now_ms() + number})
    letters = bench.queue.dead_letters
    assert [letter.job_id for letter in bench.call(letters.list())] == [f"job_{number}" for number in (4, 3, 2, 1, 0)]
    assert [letter.reason for letter in bench.call(letters.list(limit=2, offset=1))] == ["reason 3", "reason 2"]
    assert bench.call(letters.list(limit=0)) == []
    assert bench.call(letters.get("job_3")).reason == "reason 3"
    assert bench.call(letters.get("nobody")) is None


def test_an_undelivered_outcome_can_be_redriven(bench):
    """The video is delivered after all, with fresh attempts and a fresh deadline."""
    claim = bench.one()
    entry = bench.entry(claim, tries=40, form_failures=3, deadline_ms=5, reasons=("busy",), sending_ms=bench.now_ms())
    completed = dump(entry.outcome.to_completed(entry.job, delivered=False))
    bench.apply(Settle(claim, completed, DeadLetter("job_1", "40 sends failed", bench.now_ms(), entry=entry)))
    assert bench.call(bench.queue.dead_letters.get("job_1")).entry == entry
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is True
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is False
    (claim,) = bench.claim()
    assert (claim.work.entry.tries, claim.work.entry.form_failures) == (0, 0)
    assert claim.work.entry.sending_ms == entry.sending_ms, "the channel is asked first"
    assert claim.work.entry.deadline_ms > bench.now_ms() + 3_500_000
    assert bench.finish(claim) == "delivered"
    assert bench.names() == {"completed:job_1"}


def test_a_damaged_record_can_be_redriven(bench):
    """After the operator has repaired what was wrong beside it."""
    claim = bench.one()
    record = claim.raw.decode()
    bench.apply(Settle(claim, letter=DeadLetter("job_1", "the lock key holds a list", bench.now_ms(), record=record)))
    assert bench.names() == {"poll:dead", "poll:letters"}
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is True
    (again,) = bench.claim()
    assert again.work.job == claim.work.job
    assert bench.finish(again) == "delivered"


def test_a_bare_id_cannot_be_redriven_and_says_what_to_do(bench):
    """There is nothing to go on with."""
    bench.bury()
    before = bench.everything()
    with pytest.raises(InvalidJobError, match="enqueue the job again"):
        bench.call(bench.queue.dead_letters.redrive("job_1"))
    assert bench.everything() == before
    assert bench.call(bench.queue.dead_letters.dismiss("job_1")) is True
    assert bench.call(bench.queue.dead_letters.dismiss("job_1")) is False
    assert bench.names() == set()


def test_all_that_can_be_redriven_is(bench):
    """Bare ids stay for a person."""
    for number in range(5):
        claim = bench.one(f"job_{number}")
        record = claim.raw.decode() if number % 2 else None
        bench.apply(Settle(claim, letter=DeadLetter(claim.job_id, "why", bench.now_ms(), record=record)))
    assert bench.call(bench.queue.dead_letters.redrive_all()) == 2
    assert sorted(claim.job_id for claim in bench.claim()) == ["job_1", "job_3"]
    assert bench.counts().dead == 3


def test_letters_that_die_again_at_once_do_not_keep_redrive_all_for_ever(bench):
    """The messenger is still down, and the workers are quick."""
    claim = bench.one()
    letter = DeadLetter("job_1", "why", bench.now_ms(), record=claim.raw.decode())
    bench.apply(Settle(claim, letter=letter))
    letters = bench.queue.dead_letters
    redrive, rounds = letters._letters.redrive, itertools.count()

    def redrive_to_die_again(job_id):
        assert next(rounds) < 50, "it does not end"
        revived = yield from redrive(job_id)
        with RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix) as other:
            claims = other.claim(polls=9, sends=9, worker_id="quick", strategy=AT_ONCE, lease=LEASE).claims
            deaths = [attrs.evolve(letter, reason=f"again {next(rounds)}") for _ in claims]
            other.apply([Settle(one, letter=death) for one, death in zip(claims, deaths, strict=True)])
        return revived

    letters._letters.redrive = redrive_to_die_again
    assert bench.call(letters.redrive_all()) == 1


def test_dead_letters_are_bounded_by_their_number(bench):
    """The oldest go."""
    bench.options["dead_letters"] = DeadLetterPolicy(max_count=3)
    for number in range(6):
        bench.bury(f"job_{number}")
        bench.db.zadd(bench.keys.dead, {f"job_{number}": bench.now_ms() - 1000 + number})
    bench.bury("job_6")
    assert [letter.job_id for letter in bench.call(bench.queue.dead_letters.list())] == ["job_6", "job_5", "job_4"]
    assert bench.db.hlen(bench.keys.letters) == 3


def test_dead_letters_are_bounded_by_their_age(bench):
    """A week later nobody will redrive them."""
    bench.bury("job_old")
    bench.db.zadd(bench.keys.dead, {"job_old": bench.now_ms() - 8 * 86_400_000})
    bench.bury("job_new")
    assert [letter.job_id for letter in bench.call(bench.queue.dead_letters.list())] == ["job_new"]
    assert bench.db.hkeys(bench.keys.letters) == [b"job_new"]
    for key in (bench.keys.dead, bench.keys.letters):
        assert 7 * 86400 - 10 < bench.db.ttl(key) <= 7 * 86400


@pytest.mark.parametrize(
    "stored",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"reason":7,"at":"x","entry":"{","record":1}',
        b'{"entry":"\\ud800","at":1e999}',
        b'{"entry":"\\ud800"}',
    ],
)
def test_a_damaged_dead_letter_can_be_read_and_dismissed(bench, stored):
    """Even the place for what is broken may be broken."""
    bench.db.hset(bench.keys.letters, "job_1", stored)
    bench.db.zadd(bench.keys.dead, {"job_1": bench.now_ms()})
    for key in (bench.keys.dead, bench.keys.letters):
        bench.db.expire(key, 60)
    (letter,) = bench.call(bench.queue.dead_letters.list())
    assert letter.job_id == "job_1"
    with pytest.raises(InvalidJobError):
        bench.call(bench.queue.dead_letters.redrive("job_1"))
    assert bench.call(bench.queue.dead_letters.redrive_all()) == 0
    assert bench.call(bench.queue.dead_letters.dismiss("job_1")) is True
    assert bench.names() == set()


def test_a_dead_letter_whose_record_is_no_text_is_redriven_as_it_was(bench):
    """Byte for byte: nobody else can repair it."""
    claim = bench.one()
    raw = b'{"jobId":"job_1","conversationId":"c","x":"\xff"}'
    letter = DeadLetter("job_1", "why", 1, record=raw.decode("utf-8", "surrogateescape"))
    bench.apply(Settle(claim, letter=letter))
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is True
    assert bench.db.get(bench.keys.job("job_1")) == raw
