"""Receipts: accepted is not delivered, and what a channel tells afterwards is heard once, whenever it comes."""

from __future__ import annotations

import contextlib
import json

import attrs
import pytest

from kit.bench import Bench
from videopoll import events
from videopoll.errors import ConfigurationError
from videopoll.jobs import JobState
from videopoll.jobs.transition import BeginSend, Conclude, Redeliver, SendWork, Settle
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.messages import MessageForm, MessageReceipt
from videopoll.queue import receipts, watch_calls


def keep_only(bench: Bench, *words: str) -> set[str]:
    """Give the names of the keys that begin with these words."""
    return {name for name in bench.names() if name.startswith(words)}


@contextlib.contextmanager
def somebody_else(bench: Bench):
    """Give a threaded queue beside it, for what happens in the middle of a call."""
    other = attrs.evolve(bench, kind="sync", call=lambda result: result, queues=[])
    yield other
    for queue in other.queues:
        queue.close()


def early(bench: Bench) -> int:
    """Count the receipts that wait for their message."""
    count = bench.db.hlen(bench.keys.early)
    assert bench.db.zcard(bench.keys.early_times) == count
    return count


# --- the watch ------------------------------------------------------------------------------------


def test_an_accepted_message_is_watched_and_called_neither_delivered_nor_undelivered(bench):
    """``wait`` has its outcome, ``drain`` does not wait for it, and the counts tell it apart."""
    bench.watch(bench.one())

    view = bench.get()
    assert (view.state, view.delivered, view.outcome.video_url) == (JobState.WATCHED, None, "https://v/1.mp4")
    assert view.job.conversation_id == "conversation"
    assert 3590_000 < view.due_ms - view.now_ms <= 3600_000
    assert bench.call(bench.queue.wait("job_1", timeout_s=1)).success
    counts = bench.call(bench.queue.drain(timeout_s=0))
    assert (counts.watched, counts.pending) == (1, 0)
    completed = bench.completed()
    assert completed["success"] is True
    assert completed["delivered"] is None
    assert completed["acceptedAt"] == view.accepted_ms
    assert completed["messageId"] == "wamid.1"


def test_a_watch_leaves_nothing_of_the_delivery_and_every_key_of_it_ends(bench):
    """Without a single receipt, and without a worker that sweeps, nothing is left when its time is over."""
    bench.watch(bench.one(), watch_s=77)
    assert keep_only(bench, "job", "lock", "attempts", "poll:outbox", "poll:deliveries", "poll:leases") == set()
    names = keep_only(bench, "poll:")
    assert {name.split(":")[1] for name in names} == {"watch", "watched", "sent"}
    assert len(names) == 4, "the job, the set, and one name each of the channel's and ours"
    assert {0 < bench.db.ttl(f"{bench.prefix}:{name}") <= 77 for name in names} == {True}


def test_a_job_whose_watch_is_over_has_ended_without_anybody_doing_anything(bench):
    """A host that has mounted no endpoint has no sweeper either."""
    bench.watch(bench.one())
    bench.db.delete(bench.keys.watch("job_1"))
    bench.db.zadd(bench.keys.watched, {"job_1": 1})
    view = bench.get()
    assert (view.state, view.delivered) == (JobState.SETTLED, None)
    assert bench.counts().watched == 0
    assert bench.call(bench.queue.list_jobs(states=["watched"])).jobs == ()


def test_watches_that_are_over_leave_the_set_as_others_come(bench):
    """It is as large as what is watched, whatever the traffic."""
    bench.db.zadd(bench.keys.watched, {f"old_{number}": number for number in range(50)})
    for number in range(5):
        bench.watch(bench.one(f"job_{number}"), message_id=f"wamid.{number}")
    assert set(bench.db.zrange(bench.keys.watched, 0, -1)) == {f"job_{number}".encode() for number in range(5)}


def test_watched_jobs_can_be_listed_and_are_not_among_those_that_have_not_ended(bench):
    """They are for whoever asks."""
    bench.watch(bench.one())
    (job,) = bench.call(bench.queue.list_jobs(states=[JobState.WATCHED])).jobs
    assert (job.job_id, job.state, job.conversation_id, job.sends) == ("job_1", JobState.WATCHED, "conversation", 1)
    assert bench.call(bench.queue.list_jobs()).jobs == ()


@pytest.mark.parametrize("again", ["enqueued", "cancelled", "handed back"])
def test_a_watched_job_has_ended_for_whoever_comes_with_its_id(bench, again):
    """Its message is with the channel: nothing can be called back, and nothing has to be done again."""
    bench.watch(bench.one())
    before = bench.everything()
    if again == "enqueued":
        assert bench.enqueue() is EnqueueResult.FINISHED
    elif again == "cancelled":
        assert bench.call(bench.queue.cancel("job_1")) is CancelResult.FINISHED
    else:
        assert bench.call(bench.queue.hand_back()).complete
    assert bench.everything() == before


def test_a_record_that_a_producer_of_another_kind_writes_again_is_left_over(bench):
    """It would be sent once more otherwise, as after a worker that died around its send."""
    bench.watch(bench.one())
    bench.db.set(
        bench.keys.job("job_1"),
        json.dumps({"jobId": "job_1", "conversationId": "c", "startTime": bench.now_ms()}),
        ex=600,
    )
    assert bench.call(bench.queue.cancel("job_1")) is CancelResult.FINISHED
    bench.db.lpush(bench.keys.queue, "job_1")
    (claim,) = bench.claim()
    assert claim.work.finished
    assert claim.work.left_over


# --- delivered and read ---------------------------------------------------------------------------


def test_a_receipt_says_that_the_user_has_the_message(bench):
    """Only then is it delivered; and a late "failed" changes nothing any more."""
    bench.watch(bench.one())
    at_ms = bench.now_ms()
    assert bench.receive("delivered", at_ms=at_ms) == {"delivered": 1}
    view = bench.get()
    assert (view.state, view.delivered, view.read_ms) == (JobState.SETTLED, True, None)
    assert bench.completed()["deliveredAt"] == at_ms == view.delivered_ms
    assert bench.counts().watched == 0
    assert bench.receive("delivered", "failed", "sent") == {"ignored": 3}
    assert bench.receive("read") == {"read": 1}
    assert bench.get().read_ms is not None
    assert bench.completed()["deliveredAt"] == at_ms
    assert bench.receive("read", "delivered") == {"ignored": 2}


def test_read_implies_delivered(bench):
    """WhatsApp leaves "delivered" out if the chat is open."""
    bench.watch(bench.one())
    assert bench.receive("read") == {"read": 1}
    assert bench.get().delivered is True
    assert bench.receive("delivered") == {"ignored": 1}


def test_several_receipts_of_one_job_in_one_call_are_taken_in_their_order(bench):
    """A webhook brings several."""
    bench.watch(bench.one())
    assert bench.receive("sent", "delivered", "read", "read") == {"delivered": 1, "read": 1, "ignored": 2}


@pytest.mark.parametrize("at_ms", [-5, 0, 9 * 10**15, None])
def test_a_channel_whose_clock_is_wrong_tells_no_impossible_time(bench, at_ms):
    """Neither before its acceptance nor in the future."""
    entry = bench.watch(bench.one())
    bench.receive("delivered", at_ms=at_ms)
    assert entry.accepted.at_ms <= bench.completed()["deliveredAt"] <= bench.now_ms()


def test_the_audit_trail_is_written_anew_if_it_has_expired_before_the_receipt(bench):
    """A host may watch for longer than it lives."""
    bench.watch(bench.one())
    before = bench.completed()
    bench.db.delete(bench.keys.completed("job_1"))
    assert bench.receive("delivered") == {"delivered": 1}
    after = bench.completed()
    assert {name: after[name] for name in before if name != "delivered"} == {
        name: before[name] for name in before if name != "delivered"
    }


def test_our_reference_names_the_message_where_the_channel_gives_it_back(bench):
    """Also beside an id: an earlier message of the same job has the same reference, and is another one."""
    entry = bench.watch(bench.one())
    reference = entry.job.reference
    assert bench.receive("failed", message_id="wamid.0", reference=reference) == {"kept": 1}
    assert bench.get().state is JobState.WATCHED
    assert bench.receive("delivered", message_id=None, reference=reference) == {"delivered": 1}


def test_two_channels_may_have_messages_of_one_id(bench):
    """Numbers are given by each gateway for itself."""
    claim = bench.one()
    entry = bench.entry(claim)
    bench.apply(Conclude(claim, entry, 600, 12_000))
    bench.watch(claim, message_id="17")
    entry = bench.db.get(bench.keys.watch("job_1"))
    fields = json.loads(entry)
    fields["accepted"]["channel"] = "mine"
    bench.db.set(bench.keys.watch("job_1"), json.dumps(fields), keepttl=True)
    assert bench.receive("delivered", message_id="17", channel="another") == {"ignored": 1}
    assert bench.receive("delivered", message_id="17", channel="mine") == {"delivered": 1}


# --- failed ---------------------------------------------------------------------------------------


def test_a_failure_opens_the_delivery_again_at_once(bench):
    """A worker goes on with it, with what the channel said; the job has not ended any more."""
    bench.watch(bench.one())
    counts = bench.receive("failed", reason="131053: unsupported codec", then=MessageForm.TEXT)
    assert counts == {"failed": 1}
    view = bench.get()
    assert (view.state, view.delivered) == (JobState.OUTBOX, None)
    assert view.due_ms <= bench.now_ms()
    assert (bench.counts().watched, bench.counts().pending) == (0, 1)
    assert 86_000 < bench.db.ttl(bench.keys.outbox("job_1")) <= 90_000
    (claim,) = bench.claim()
    assert isinstance(claim.work, SendWork)
    assert claim.work.entry.sending_ms is None
    assert "unsupported codec" in claim.work.entry.accepted.receipt


def test_a_failure_told_twice_opens_it_once(bench):
    """Channels repeat what was not answered in time."""
    bench.watch(bench.one())
    assert bench.receive("failed") == {"failed": 1}
    assert bench.receive("failed", "delivered", "read") == {"ignored": 3}
    before = bench.everything()
    assert bench.receive("failed") == {"ignored": 1}
    assert bench.everything() == before


@pytest.mark.parametrize("state", ["enqueued again", "redriven", "in a worker's hands"])
def test_a_receipt_for_a_job_that_lives_again_changes_nothing(bench, state):
    """What becomes of it now, another worker writes."""
    entry = bench.watch(bench.one())
    if state == "enqueued again":
        bench.db.delete(bench.keys.completed("job_1"))
        bench.enqueue()
    elif state == "redriven":
        bench.db.set(bench.keys.outbox("job_1"), entry.to_json(), ex=60)
        bench.db.zadd(bench.keys.deliveries, {"job_1": 1})
    else:
        bench.db.zadd(bench.keys.inflight, {"job_1": bench.now_ms() + 9000})
    before = bench.everything()
    assert bench.receive("failed") == {"ignored": 1}
    assert bench.receive("delivered") == {"ignored": 1}
    assert bench.everything() == before


def test_a_watch_of_a_message_after_which_another_one_was_delivered_is_void(bench):
    """An older worker, which knows no watches, may have settled the job again."""
    bench.watch(bench.one())
    bench.db.set(bench.keys.completed("job_1"), '{"success":true,"delivered":true,"messageId":"5225"}', ex=600)
    before = bench.everything()
    assert bench.receive("failed") == {"ignored": 1}
    assert bench.everything() == before
    assert bench.get().state is JobState.SETTLED


def test_the_watch_of_the_next_message_takes_the_place_of_the_first(bench):
    """Receipts of the first one come late, out of order, and mean nothing."""
    bench.watch(bench.one(), message_id="first")
    bench.receive("failed", message_id="first")
    (claim,) = bench.claim()
    entry = attrs.evolve(claim.work.entry, accepted=None, tries=2)
    bench.watch(attrs.evolve(claim, work=SendWork(entry)), message_id="second")
    assert bench.receive("failed", "read", message_id="first") == {"ignored": 2}
    assert bench.get().state is JobState.WATCHED
    assert bench.receive("delivered", message_id="second") == {"delivered": 1}


# --- early ones -----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["by its id", "by our reference"])
@pytest.mark.parametrize("kind", ["failed", "delivered", "read"])
def test_a_receipt_that_comes_before_our_own_write_is_applied_by_it(bench, kind, named):
    """A channel may be faster than the reply to the send and the round trip after it."""
    claim = bench.one()
    names = {"message_id": "wamid.1"}
    if named == "by our reference":
        names = {"message_id": None, "reference": claim.work.job.reference}
    assert bench.receive(kind, reason="why", **names) == {"kept": 1}
    bench.watch(claim, message_id=names["message_id"])

    view = bench.get()
    assert view.state is JobState.OUTBOX, "a worker judges it"
    (claim,) = bench.claim()
    assert claim.work.receipt.kind == kind
    assert claim.work.receipt.reason == "why"


def test_that_a_message_was_sent_is_no_news_for_the_watch(bench):
    """It would go round in circles otherwise."""
    claim = bench.one()
    assert bench.receive("sent") == {"kept": 1}
    bench.watch(claim)
    assert bench.get().state is JobState.WATCHED


def test_of_early_receipts_the_one_stays_that_says_most(bench):
    """In whatever order they come."""
    claim = bench.one()
    assert bench.receive("delivered", "failed", "sent") == {"kept": 3}
    assert early(bench) == 1
    bench.watch(claim)
    (claim,) = bench.claim()
    assert claim.work.receipt.kind == "delivered"


def test_a_receipt_that_comes_between_a_crashed_send_and_its_takeover_answers_for_the_channel(bench):
    """The send went out, its worker died before it could note it: the receipt has our reference and tells."""
    claim = bench.one()
    entry = bench.entry(claim, tries=1, sending_ms=bench.now_ms())
    bench.apply(Conclude(claim, entry, 600, 12_000), BeginSend(claim, entry, 600, 12_000))
    assert bench.receive("sent", reference=entry.job.reference) == {"kept": 1}
    bench.expire_lease()
    (claim,) = bench.claim()
    assert claim.taken_over
    assert (claim.work.receipt.kind, claim.work.receipt.message_id) == ("sent", "wamid.1")


def test_a_delivery_that_begins_no_send_of_unknown_fate_looks_for_no_receipts(bench):
    """What an earlier message of the job was told of says nothing about the next one."""
    claim = bench.one()
    entry = bench.entry(claim)
    bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, 1))
    bench.receive("failed", message_id=None, reference=entry.job.reference)
    (claim,) = bench.claim()
    assert claim.work.receipt is None


def test_a_receipt_that_is_kept_while_the_watch_is_written_is_not_lost(bench, monkeypatch):
    """Between the look for its message and the note that it is unknown."""
    claim = bench.one()
    keep = watch_calls.keep

    def late(keys, some):
        monkeypatch.undo()
        with somebody_else(bench) as other:
            other.watch(claim)
        return keep(keys, some)

    monkeypatch.setattr(watch_calls, "keep", late)
    assert bench.receive("failed") == {"failed": 1}
    assert bench.get().state is JobState.OUTBOX
    assert early(bench) == 0


# --- strangers, doubles, damage -------------------------------------------------------------------


def test_receipts_of_others_are_counted_and_let_go(bench, monkeypatch):
    """The number may be used by people and by other programs; a storm of their receipts must not fill Redis."""
    monkeypatch.setattr(watch_calls, "MOST_EARLY", 200)
    for first in range(0, 3000, 500):
        strangers = [
            MessageReceipt(kind="delivered", message_id=f"theirs.{number}", reference="not ours")
            for number in range(first, first + 500)
        ]
        assert bench.call(bench.queue.receive_receipts(strangers)).kept == 500
    assert early(bench) <= 200
    assert bench.names() == {"poll:early", "poll:early-times"}
    assert 0 < bench.db.ttl(bench.keys.early) <= 600
    assert 0 < bench.db.ttl(bench.keys.early_times) <= 600
    # The newest stay.
    claim = bench.one()
    bench.receive("failed")
    bench.watch(claim)
    assert bench.get().state is JobState.OUTBOX


def test_early_receipts_that_are_old_go_as_others_come(bench):
    """After some minutes nobody will ask for them."""
    bench.receive("failed", message_id="old")
    bench.db.zadd(bench.keys.early_times, {bench.db.zrange(bench.keys.early_times, 0, 0)[0]: bench.now_ms() - 601_000})
    bench.receive("failed", message_id="new")
    assert early(bench) == 1


def test_a_receipt_that_names_nothing_changes_nothing(bench):
    """The channel's reader found neither an id nor a reference."""
    assert bench.receive("failed", message_id=None) == {"ignored": 1}
    assert bench.names() == set()


@pytest.mark.parametrize("stored", [b"", b"[]", b'{"v":1}', b"\xff", b'{"accepted":5}'])
def test_a_damaged_watch_is_a_stranger(bench, stored):
    """Nothing raises, and nothing is sent."""
    bench.watch(bench.one())
    bench.db.set(bench.keys.watch("job_1"), stored, keepttl=True)
    assert bench.receive("failed") == {"ignored": 1}
    assert bench.get().job is None


@pytest.mark.parametrize("given", [None, "delivered", [None], ["delivered"], 5])
def test_what_is_no_receipt_is_refused_before_anything_is_written(bench, given):
    """The channel's reader makes them."""
    with pytest.raises(ConfigurationError, match="receive_receipts takes a list of MessageReceipt"):
        bench.call(bench.queue.receive_receipts(given))
    assert bench.call(bench.queue.receive_receipts([])).ignored == 0


def test_two_processes_that_take_one_receipt_open_the_delivery_once(bench, monkeypatch):
    """A balancer sends a webhook's repetition elsewhere."""
    bench.watch(bench.one())
    receipt = MessageReceipt(kind="failed", message_id="wamid.1")
    judge = receipts.judge

    def meanwhile(*args):
        monkeypatch.undo()
        with somebody_else(bench) as other:
            assert other.receive("failed") == {"failed": 1}
        return judge(*args)

    monkeypatch.setattr(receipts, "judge", meanwhile)
    counts = bench.call(bench.queue.receive_receipts([receipt]))
    assert (counts.failed, counts.ignored) == (0, 1)
    assert bench.counts().deliveries == 1


def test_a_receipt_and_a_worker_that_settles_the_job_again_do_not_overwrite_each_other(bench, monkeypatch):
    """The job was redriven and delivered between the judgement of a receipt and its write."""
    bench.watch(bench.one())
    judge = receipts.judge

    def meanwhile(*args):
        monkeypatch.undo()
        bench.db.set(bench.keys.completed("job_1"), '{"success":true,"delivered":true}', ex=60)
        return judge(*args)

    monkeypatch.setattr(receipts, "judge", meanwhile)
    assert bench.receive("delivered") == {"ignored": 1}
    assert bench.completed() == {"success": True, "delivered": True}


# --- what is told ---------------------------------------------------------------------------------


def test_hooks_of_the_queue_hear_what_receipts_changed_and_nothing_of_the_rest(bench):
    """The text of a failure is the channel's, and stays out of events."""
    heard = []
    bench.another(hooks=[heard.append])
    bench.watch(bench.one("job_1"))
    bench.watch(bench.one("job_2"), message_id="wamid.2")
    heard.clear()
    bench.receive("delivered", "delivered", "read")
    bench.receive("failed", message_id="wamid.2", reason="to +5491155550001: window closed")
    told = [(type(event).__name__, event.job_id, getattr(event, "kind", None)) for event in heard]
    assert told == [
        ("ReceiptReceived", "job_1", "delivered"),
        ("JobDelivered", "job_1", None),
        ("ReceiptReceived", "job_1", "read"),
        ("ReceiptReceived", "job_2", "failed"),
    ]
    assert isinstance(heard[-1], events.ReceiptReceived)
    assert "5491155550001" not in repr(heard)


def test_a_settlement_that_watches_nothing_is_told_by_the_audit_trail(bench):
    """A host that watches for 0 seconds ends the job at once."""
    claim = bench.one()
    bench.apply(Settle(claim, '{"success":true,"delivered":null,"acceptedAt":5}'))
    view = bench.get()
    assert (view.state, view.delivered, view.accepted_ms) == (JobState.SETTLED, None, 5)
