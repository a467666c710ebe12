"""Damaged keys: whatever stands in Redis harms one job at most."""

from __future__ import annotations

import json

import pytest

from kit.bench import AT_ONCE, KINDS, SPEC, bring
from videopoll import (
    OutcomeKind,
)
from videopoll.jobs import JobState, Outcome
from videopoll.jobs.codec import Poison
from videopoll.jobs.transition import (
    Abandoned,
    Conclude,
    MissingRecord,
)

BINARY = b"\xff\xfe\x00id"


@pytest.mark.parametrize("kind_of_key", KINDS)
@pytest.mark.parametrize("name", ["job", "lock", "attempts", "outbox", "completed"])
def test_a_key_of_the_wrong_type_harms_no_other_job(bench, name, kind_of_key):
    """The job becomes a dead letter or goes on; the others in the batch do not notice; nothing is left behind."""
    for number in range(3):
        bench.enqueue(f"job_{number}")
    key = getattr(bench.keys, name)("job_1")
    bench.db.delete(key)
    arguments = {"rpush": ["x"], "sadd": ["x"], "hset": ["x", "y"], "zadd": [{"x": 1}], "xadd": [{"x": 1}]}
    command = KINDS[kind_of_key]
    getattr(bench.db, command)(key, *arguments[command])
    claims = bench.claim()
    ends = {claim.job_id: bench.finish(claim) for claim in claims}
    assert ends["job_0"] == ends["job_2"] == "delivered"
    fatal = name in {"job", "lock", "attempts"}
    assert ends["job_1"] == (f"dead: the {name} key holds a {kind_of_key}" if fatal else "delivered")
    left = {"completed:job_0", "completed:job_2"}
    assert bench.names() == left | ({"poll:dead", "poll:letters"} if fatal else {"completed:job_1"})


@pytest.mark.parametrize(
    "text", ["abc", "", "nan", "-nan", "inf", "-inf", "1e400", "1e300", "1.5", "0x10", "-7", "9" * 400, " 7 ", "\xff"]
)
def test_a_counter_that_is_no_number_is_poison_for_its_job_alone(bench, text):
    """Lua reads many things as numbers that Python does not, and the whole batch would be lost."""
    bench.enqueue("job_0")
    bench.enqueue("job_1")
    bench.db.set(bench.keys.attempts("job_1"), text, ex=60)
    ends = {claim.job_id: bench.finish(claim) for claim in bench.claim()}
    assert ends == {"job_0": "delivered", "job_1": "dead: the attempts key holds no number"}
    assert bench.names() == {"completed:job_0", "poll:dead", "poll:letters"}


@pytest.mark.parametrize(
    "start",
    [
        "-1e999",
        "1e999",
        "NaN",
        "-Infinity",
        "-1e300",
        "1e300",
        "0",
        "1757157518",
        '"1757157518747"',
        "null",
        "true",
        "[1]",
        "99999999999999",
    ],
)
def test_an_absurd_start_time_is_poison_for_its_job_alone(bench, start):
    """Redis's JSON reads infinities; a due time of "-inf" is no time."""
    bench.enqueue("job_0")
    bench.db.set(bench.keys.job("job_1"), f'{{"jobId":"job_1","conversationId":"c","startTime":{start}}}', ex=60)
    bench.db.lpush(bench.keys.queue, "job_1")
    claims = bench.claim(strategy=AT_ONCE)
    ends = {claim.job_id: bench.finish(claim) for claim in claims}
    assert ends["job_0"] == "delivered"
    assert ends["job_1"].startswith(("dead: startTime is", "dead: record is not JSON", "dead: record has no startTime"))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"7", b"null", b'{"jobId":"other"}', b"[" * 5000], ids=repr)
@pytest.mark.parametrize("strategy", [AT_ONCE, SPEC], ids=["at once", "after five seconds"])
def test_a_record_that_is_no_job_is_taken_at_once_and_named(bench, raw, strategy):
    """It must not wait for anything, and never be looked at for ever."""
    bench.db.set(bench.keys.job("job_1"), raw, ex=60)
    bench.db.lpush(bench.keys.queue, "job_1")
    (claim,) = bench.claim(strategy=strategy)
    assert isinstance(claim.work, Poison)
    assert claim.raw == raw
    assert bench.finish(claim).startswith("dead: record")
    assert bench.names() == {"poll:dead", "poll:letters"}


@pytest.mark.parametrize(
    "job_id",
    [BINARY, b"", b" ", b"a\nb", b"x" * 100_000, "ñ🎥".encode(), b"..", b"*", b"a:b:c"],
    ids=lambda one: repr(one[:9]),
)
@pytest.mark.parametrize("record", [False, True])
def test_any_bytes_in_the_list_come_to_an_end(bench, job_id, record):
    """The list is written by others: whatever stands in it leaves it, and everything of it is cleaned up."""
    if record:
        bench.db.set(bench.keys.job("").encode() + job_id, b"{}", ex=60)
    bench.enqueue("job_0")
    bench.db.lpush(bench.keys.queue, job_id)
    ends = [bench.finish(claim) for claim in bench.claim()]
    assert sorted(end[:4] for end in ends) == ["dead", "deli"]
    assert bench.names() == {"completed:job_0", "poll:dead", "poll:letters"}
    (letter,) = bench.call(bench.queue.dead_letters.list())
    assert letter.job_id.encode("utf-8", "surrogateescape") == job_id
    assert bench.call(bench.queue.dead_letters.dismiss(letter.job_id)) is True


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-1e300", "0.5"])
@pytest.mark.parametrize("name", ["schedule", "inflight", "deliveries"])
def test_an_absurd_score_does_not_blind_the_workers(bench, name, score):
    """One entry written by hand must not make every claim fail."""
    bench.enqueue("job_0")
    bench.db.zadd(getattr(bench.keys, name), {"odd": score})
    claims = bench.claim()
    assert "job_0" in {claim.job_id for claim in claims}
    for claim in claims:
        bench.finish(claim)
    bench.counts()
    bench.batch()
    bench.db.delete(getattr(bench.keys, name))


def test_a_record_that_expired_before_its_poll_is_gone(bench):
    """It becomes a dead letter with its bare id."""
    bench.enqueue()
    bench.db.delete(bench.keys.job("job_1"))
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=False)
    assert claim.raw is None
    assert not bench.db.exists(bench.keys.lock("job_1"), bench.keys.attempts("job_1"))
    assert bench.finish(claim) == "dead: no record"


def test_a_job_that_somebody_else_completed_is_no_dead_letter(bench):
    """Its record is gone and its completed record is there."""
    bench.enqueue()
    bench.db.delete(bench.keys.job("job_1"))
    bench.db.set(bench.keys.completed("job_1"), '{"success":true}', ex=60)
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=True)
    bench.finish(claim)
    assert bench.names() == {"completed:job_1"}


def test_a_job_with_both_records_was_abandoned_around_its_send(bench):
    """Another kind of worker writes the completed record, sends, and then deletes the job's record."""
    bench.enqueue()
    completed = {"success": True, "videoUrl": "https://v/1.mp4", "completedAt": 9}
    bench.db.set(bench.keys.completed("job_1"), json.dumps(completed), ex=60)
    (claim,) = bench.claim()
    assert isinstance(claim.work, Abandoned)
    assert claim.work.outcome == Outcome(OutcomeKind.COMPLETED, 9, video_url="https://v/1.mp4")
    assert bench.finish(claim) == "delivered"
    assert bench.names() == {"completed:job_1"}


def test_a_completed_record_that_is_no_json_is_poison(bench):
    """Nobody can say whether the user has the video."""
    bench.enqueue()
    bench.db.set(bench.keys.completed("job_1"), "[", ex=60)
    (claim,) = bench.claim()
    assert isinstance(claim.work, Poison)


def test_a_damaged_outbox_is_poison(bench):
    """It does not start a delivery to nobody."""
    claim = bench.one()
    bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    bench.db.set(bench.keys.outbox("job_1"), "{}", ex=60)
    bench.expire_lease()
    (claim,) = bench.claim()
    assert isinstance(claim.work, Poison)
    assert bench.finish(claim).startswith("dead: outbox entry")


def test_a_delivery_whose_outbox_expired_is_gone(bench):
    """All workers were away for longer than the retention."""
    bring(bench, JobState.OUTBOX)
    bench.db.delete(bench.keys.outbox("job_1"))
    bench.db.zadd(bench.keys.deliveries, {"job_1": 5})
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=False)
    bench.finish(claim)
    assert bench.names() == {"poll:dead", "poll:letters"}
