"""Delivery by whole workers of both kinds, over real messengers that fail: never lost, never twice."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
import time
import uuid
from typing import Any

import attrs
import pytest
import redis

from kit import FAST, INSTANCE, QUICK, TOKEN, Worker, World, phone, until
from videopoll import (
    AsyncRunner,
    CallbackNotifier,
    ConfigurationError,
    LeasePolicy,
    OnUnknown,
    Recipient,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    WhatsAppFactoryNotifier,
    events,
)
from videopoll.core.delivery import open_outbox
from videopoll.jobs import JobState, MessageForm, Outcome, OutcomeKind
from videopoll.jobs.transition import Conclude, Redeliver
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.messages import Delivered, NotSent
from videopoll.testing import Reply
from videopoll.texts import SPANISH, SPANISH_AND_ENGLISH, Texts

# The server's kind makes no difference here; the scripts are tested on both elsewhere.
pytestmark = [pytest.mark.parametrize("redis_server", ["valkey"], indirect=True), pytest.mark.usefixtures("eager")]

TO = phone(1)
STEADY = attrs.evolve(QUICK, jitter=0.0)


@pytest.fixture
def eager(idle_at_most):
    """Let idle workers look again soon: what a producer or an operator does to a delivery wakes nobody."""
    idle_at_most(0.1)


def settled(worker: Worker, timeout_s: float = 15.0) -> events.JobDelivered:
    """Wait until the user has the message and the job is over."""
    return until(lambda: worker.recorder.of(events.JobDelivered), "the job is delivered", timeout_s)[0]


def buried(worker: Worker, timeout_s: float = 15.0) -> events.JobDeadLettered:
    """Wait until the job is a dead letter."""
    return until(lambda: worker.recorder.of(events.JobDeadLettered), "the job is a dead letter", timeout_s)[0]


def tried(worker: Worker) -> list[str]:
    """What became of the sends and look-ups, runs of the same told once; waiting for one's turn is none."""
    results = [event.result for event in worker.recorder.of(events.SendTried) if event.result != "waits"]
    return [result for result, _ in itertools.groupby(results)]


def posts(messenger: Any, path: str = "/") -> list[Any]:
    """The requests that would send a message."""
    return [request for request in messenger.requests if request.method == "POST" and path in request.path]


def asks_for_messages(request: Any) -> bool:
    return request.method == "GET" and request.path.endswith("/messages")


def completed(world: World) -> dict[str, Any]:
    """What ``video:completed`` says of the job."""
    with redis.Redis.from_url(world.url) as client:
        return json.loads(client.get(f"{world.prefix}:completed:job_1"))


def keys(world: World) -> set[str]:
    """The names of the keys of single jobs, without their prefix."""
    with redis.Redis.from_url(world.url, decode_responses=True) as client:
        names = {key.removeprefix(f"{world.prefix}:") for key in client.scan_iter(match=f"{world.prefix}:*")}
    return {name for name in names if name.endswith(":job_1")}


def over(world: World, resolve: Any, **channels: Any) -> RoutingNotifier:
    """Route to the world's messengers by a function of the host."""
    return RoutingNotifier(
        {
            "ultramsg": UltraMsgNotifier(base_url=world.ultramsg.url, instance_id=INSTANCE, token=TOKEN),
            "whatsapp_factory": WhatsAppFactoryNotifier(base_url=world.factory.url, instance_id=INSTANCE, token=TOKEN),
            **channels,
        },
        resolve=resolve,
    )


# --- the outbox -----------------------------------------------------------------------------------


def test_an_outcome_that_is_being_sent_has_a_key_of_its_own_and_nothing_else(world):
    """A crash from here on resumes with the delivery; other kinds of workers see no job to poll, time out or delete."""
    seen: dict[str, Any] = {}

    def look(_):
        with redis.Redis.from_url(world.url, decode_responses=True) as client, world.queue() as queue:
            seen["keys"] = keys(world)
            seen["ttl_s"] = client.ttl(f"{world.prefix}:poll:outbox:job_1")
            seen["listed"] = client.llen(f"{world.prefix}:poll:queue")
            seen["records"] = client.keys(f"{world.prefix}:job:*")
            seen["enqueue"] = queue.enqueue("job_1", conversation_id="conversation-1")
            seen["cancel"] = queue.cancel("job_1")
            seen["view"] = queue.get("job_1")
        return Delivered()

    world.enqueue_ready()
    with world.worker(notifier=CallbackNotifier(look)) as worker:
        settled(worker)

    assert seen["keys"] == {"poll:outbox:job_1"}
    assert QUICK.keep_s - 5 <= seen["ttl_s"] <= QUICK.keep_s == 80
    assert (seen["listed"], seen["records"]) == (0, [])
    assert (seen["enqueue"], seen["cancel"]) == (EnqueueResult.DELIVERING, CancelResult.SENDING)
    assert seen["view"].state is JobState.DELIVERING
    assert seen["view"].outcome.video_url == world.api.video_url("job_1")
    assert seen["view"].entry.tries == 1
    assert keys(world) == {"completed:job_1"}


def test_an_outcome_that_waits_for_its_next_send_is_seen_by_look_up_enqueue_and_cancel(world):
    """The host can tell what is going on, starts nothing twice, and can still stop the message."""
    world.enqueue_ready()
    world.ultramsg.fail_every(1, Reply.fault(503), path="/messages/")
    patient = attrs.evolve(STEADY, backoff_base_s=10.0, backoff_cap_s=10.0)

    with world.worker(delivery=patient) as worker, world.queue() as queue:
        view = until(lambda: (found := queue.get("job_1")).state is JobState.OUTBOX and found, "it waits")
        assert view.entry.reasons == ("HTTP 503: {'error': 'fault 503'}",)
        assert 5_000 < view.due_ms - view.now_ms <= 10_000
        assert keys(world) == {"poll:outbox:job_1"}
        assert queue.enqueue("job_1", conversation_id="conversation-1") is EnqueueResult.DELIVERING
        assert queue.cancel("job_1") is CancelResult.CANCELLED
        assert queue.counts().deliveries == 0

    assert len(posts(world.ultramsg)) == 1
    assert not worker.recorder.of(events.JobDelivered)
    assert keys(world) == {"completed:job_1"}


def test_a_delivery_goes_on_after_the_time_for_polling_is_long_over(world):
    """The budgets are separate: a messenger that is down does not eat the video's time, nor the other way round."""
    short = attrs.evolve(FAST, timeout_s=0.6, max_attempts=2)
    world.enqueue_ready()
    world.ultramsg.stop()

    with world.worker(strategy=short, delivery=attrs.evolve(STEADY, video_attempts=40)) as worker:
        concluded = until(lambda: worker.recorder.of(events.JobConcluded), "the video is ready")[0]
        began_s = time.monotonic()
        until(
            lambda: time.monotonic() - began_s > 1.5 and len(worker.recorder.of(events.SendTried)) >= 3,
            "more sends and more time than the polling would have had",
        )
        world.ultramsg.start()
        delivered = settled(worker)

    assert concluded.outcome == "completed"
    assert delivered.attempts > 3
    assert delivered.after_s > short.timeout_s
    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]


# --- what a failed send means ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "results", "kinds"),
    [
        (Reply.fault(429, retry_after="0.4"), ["not_sent", "delivered"], ["video"]),
        (Reply.fault(503), ["not_sent", "delivered"], ["video"]),
        (Reply.json({"error": "bad video"}, status=400), ["refused", "delivered"], ["text"]),
        (Reply.json({"error": "no"}), ["refused", "delivered"], ["text"]),
        (Reply.dropped(accept=True), ["unknown", "found"], ["video"]),
        (Reply.dropped(), ["unknown", "absent", "delivered"], ["video"]),
        (Reply.fault(502), ["unknown", "absent", "delivered"], ["video"]),
        (attrs.evolve(Reply.fault(500), accept=True), ["unknown", "found"], ["video"]),
        (Reply.garbage(), ["unknown", "absent", "delivered"], ["video"]),
        (Reply.slow(1.0), ["unknown", "found"], ["video"]),
    ],
    ids=["429", "503", "400", "200 no", "taken, lost", "lost", "502", "taken, 500", "no JSON", "taken, slow"],
)
def test_whatever_becomes_of_a_send_the_user_gets_one_message(world, monkeypatch, reply, results, kinds):
    """Not sent is sent again, refused goes as text, and an unknown fate is asked for first."""
    monkeypatch.setattr("videopoll.notifiers.ultramsg.VIDEO_TIMEOUT_S", 0.4)
    world.enqueue_ready()
    world.ultramsg.fail_next(reply, path="/messages/video")

    with world.worker(delivery=STEADY) as worker:
        settled(worker)

    assert tried(worker) == results
    assert [message.kind for message in world.ultramsg.inbox(TO)] == kinds
    assert len({request.body["referenceId"] for request in posts(world.ultramsg)}) == 1
    if "retry-after" in map(str.lower, reply.headers):
        first, second = (request.at for request in posts(world.ultramsg))
        assert second - first >= 0.3, "0.4 s, less what its claim's answer was late; without the hint 0.1 s"


def test_a_worker_comes_back_to_a_delivery_when_it_is_due(world, idle_at_most):
    """A user whose message needs a second try waits for the back-off, and not until the worker happens to look."""
    idle_at_most(4.0)
    world.enqueue_ready()
    world.ultramsg.fail_next(*[Reply.fault(503)] * 2, path="/messages/")

    with world.worker(delivery=STEADY) as worker:
        delivered = settled(worker)

    assert delivered.after_s < 3


def test_a_message_that_shows_late_at_the_channel_is_not_sent_twice(world):
    """The first look-ups find nothing: that is no proof before its time is over."""
    world.ultramsg._visible_after_s = 0.7
    world.enqueue_ready()
    world.ultramsg.fail_next(Reply.dropped(accept=True), path="/messages/video")

    with world.worker(delivery=attrs.evolve(STEADY, appear_within_s=1.5)) as worker:
        delivered = settled(worker)

    assert tried(worker) == ["unknown", "absent", "found"]
    assert len(posts(world.ultramsg)) == 1
    assert delivered.attempts == 1


def test_a_channel_that_does_not_answer_a_look_up_is_asked_until_it_does(world):
    """Without an answer nothing is sent."""
    world.enqueue_ready()
    world.ultramsg.fail_next(Reply.dropped(accept=True), path="/messages/video")
    world.ultramsg.fail_next(Reply.fault(503), Reply.dropped(), when=asks_for_messages)

    with world.worker() as worker:
        settled(worker)

    assert tried(worker) == ["unknown", "no_answer", "found"]
    assert len(posts(world.ultramsg)) == 1


def test_a_messenger_that_fails_all_the_time_ends_as_a_dead_letter_after_the_allowed_sends(world):
    """With a longer wait each time; the letter has the video, the reason of each send, and how many there were."""
    world.enqueue_ready()
    world.ultramsg.fail_every(1, Reply.fault(503), path="/messages/")

    with (
        world.worker(delivery=attrs.evolve(STEADY, max_attempts=4, backoff_cap_s=5.0)) as worker,
        world.queue() as queue,
    ):
        event = buried(worker)
        (letter,) = queue.dead_letters.list()

    assert (event.reason, letter.reason) == (
        "4 sends failed: HTTP 503",
        "4 sends failed: HTTP 503: {'error': 'fault 503'}",
    )
    assert letter.entry.outcome.video_url == world.api.video_url("job_1")
    assert (letter.entry.tries, len(letter.entry.reasons)) == (4, 4)
    at = [request.at for request in posts(world.ultramsg)]
    assert len(at) == 4
    waits = [after - before for before, after in itertools.pairwise(at)]
    # Redis's clock counts whole milliseconds, the messenger's does not.
    assert waits[0] >= 0.1 - 0.002
    assert waits[1] >= 0.2 - 0.002
    told = completed(world)
    assert (told["success"], told["delivered"], told["undeliverable"]) == (True, False, letter.reason)


def test_a_message_that_is_not_delivered_by_its_deadline_becomes_a_dead_letter(world):
    """A person hears of it while it still matters."""
    world.enqueue_ready()
    world.ultramsg.stop()

    with world.worker(delivery=attrs.evolve(STEADY, deadline_s=1.0)) as worker:
        event = buried(worker, 5)

    assert event.reason.startswith("not delivered within 1 s: connect")


def test_a_channel_that_answers_with_odd_values_sends_once_all_the_same(world):
    """A UUID cannot be written as JSON: found out after the send, it would have the message sent again and again."""
    sent: list[str] = []

    def send(message):
        sent.append(message.reference)
        return Delivered(uuid.UUID(int=7))

    world.enqueue_ready()
    with world.worker(notifier=CallbackNotifier(send)) as worker:
        settled(worker)

    assert len(sent) == 1
    assert completed(world)["messageId"] == "00000000-0000-0000-0000-000000000007"


def test_a_wait_that_is_no_number_is_no_wait(world):
    """Services write what they like into their bodies, and channels hand it on."""
    receipts = iter([NotSent(OSError("busy"), "soon"), NotSent("busy", math.nan), NotSent("busy", -3)])
    world.enqueue_ready()

    with world.worker(notifier=CallbackNotifier(lambda _: next(receipts, None)), delivery=STEADY) as worker:
        delivered = settled(worker)

    assert delivered.attempts == 4
    assert tried(worker) == ["not_sent", "delivered"]


class Forgetful:
    """A host's own channel, whose look-up was written in a hurry."""

    def notify(self, message):
        """Lose the reply."""
        raise ConnectionResetError

    def look_up(self, message):
        """Say nothing."""


def test_a_look_up_that_gives_no_answer_sends_nothing_and_is_named_in_the_dead_letter(world):
    """What a host's part returns must not keep a job going round for ever."""
    world.enqueue_ready()

    with world.worker(notifier=Forgetful(), delivery=attrs.evolve(STEADY, deadline_s=0.6)) as worker:
        event = buried(worker, 6)
        with world.queue() as queue:
            letter = queue.dead_letters.get("job_1")

    assert "does not answer" in event.reason
    assert tried(worker) == ["unknown", "no_answer"]
    assert letter.entry.reasons[-1] == "the notifier's look_up gave NoneType, which is no LookupResult"


def test_a_phone_number_that_is_a_number_is_one(world):
    """That is how many databases keep it."""
    world.enqueue_ready()
    recipient = Recipient(channel="ultramsg", to=int(TO), reply_to=17)

    with world.worker(notifier=over(world, lambda _: recipient)) as worker:
        settled(worker)

    assert [(message.kind, message.reply_to) for message in world.ultramsg.inbox(TO)] == [("video", "17")]


# --- fallback -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "quick"),
    [(Reply.fault(503), {}), (Reply.dropped(), {"appear_within_s": 0.05})],
    ids=["not sent", "lost, and proven absent"],
)
def test_a_video_that_keeps_failing_goes_as_text_with_the_link(world, reply, quick):
    """The upload may be what breaks: a link is better than a dead letter."""
    world.enqueue_ready()
    world.ultramsg.fail_every(1, reply, path="/messages/video")

    with world.worker(delivery=attrs.evolve(STEADY, video_attempts=2, **quick)) as worker:
        delivered = settled(worker)

    (message,) = world.ultramsg.inbox(TO)
    assert message.text.endswith(f"\n\n🔗 Video: {world.api.video_url('job_1')}")
    assert (delivered.form, delivered.attempts) == (MessageForm.TEXT, 3)
    assert [request.path.rpartition("/")[2] for request in posts(world.ultramsg)] == ["video", "video", "chat"]
    assert completed(world)["form"] == "text"


def test_what_is_refused_for_good_in_both_forms_is_a_dead_letter_with_the_reason(world):
    """No number of tries helps, so there are two sends and no more."""
    world.enqueue_ready()
    world.ultramsg.fail_every(1, Reply.json({"error": f"user {TO} has blocked you"}), path="/messages/")

    with world.worker() as worker, world.queue() as queue:
        event = buried(worker)
        (letter,) = queue.dead_letters.list()

    assert event.reason == "refused by the channel: an error"
    assert letter.reason == "refused by the channel: user [redacted] has blocked you"
    assert len(posts(world.ultramsg)) == 2


HASTY = attrs.evolve(QUICK, backoff_base_s=0.02, backoff_cap_s=0.1, video_attempts=1)

PASSING = {
    "throttled": Reply.json({"sent": "false", "message": "throttled"}),
    "no reason": Reply.json({"sent": False}),
    "not ready": Reply.json({"error": "instance is not ready, try again later"}),
    "wrong token": Reply.json({"error": "Wrong token. Please provide token."}),
    "401": Reply.fault(401),
    "no such instance": Reply.json({"error": "instance not found"}, status=404),
    "404 of a proxy": Reply(status=404, body=b"404 page not found", headers={"content-type": "text/plain"}),
    "403 of a firewall": Reply(status=403, body=b"<html>Access denied</html>", headers={"content-type": "text/html"}),
    "not connected": Reply.json({"error": "Session not connected"}, status=400),
}


@pytest.mark.parametrize("channel", ["ultramsg", "whatsapp_factory"])
@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_a_refusal_that_passes_costs_neither_the_message_nor_its_video(world, channel, reply):
    world.enqueue_ready(channel=channel)
    messenger = world.ultramsg if channel == "ultramsg" else world.factory
    messenger.fail_next(*[reply] * 6, path="/messages/" if channel == "ultramsg" else "/send/")
    delivery = attrs.evolve(HASTY, video_attempts=7)

    with world.worker(delivery=delivery) as worker:
        delivered = settled(worker)

    assert delivered.attempts == 7
    assert tried(worker) == ["not_sent", "delivered"]
    (message,) = messenger.inbox(TO)
    assert message.kind == ("video" if channel == "ultramsg" else "text")
    assert len(posts(messenger)) == 7


@pytest.mark.parametrize("reply", [PASSING["404 of a proxy"], PASSING["wrong token"], PASSING["throttled"]])
def test_what_is_not_the_videos_fault_does_not_make_it_a_text(world, reply):
    world.enqueue_ready()
    world.ultramsg.fail_next(*[reply] * 6, path="/messages/")

    with world.worker(delivery=HASTY) as worker:
        settled(worker)

    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]


def test_a_token_that_is_rotated_costs_no_message(world):
    """The host's database has the new one a moment later."""
    tokens = iter(["old-token"] * 5)
    world.enqueue_ready()
    with world.worker(
        notifier=over(world, lambda _: Recipient(channel="ultramsg", to=TO, token=next(tokens, TOKEN))), delivery=HASTY
    ) as worker:
        settled(worker)

    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]


def test_a_404_during_a_look_up_is_no_second_message(world):
    """The reply to a send is lost, and a proxy answers the question about it."""
    world.enqueue_ready()
    world.ultramsg.fail_next(Reply.dropped(accept=True), path="/messages/video")
    world.ultramsg.fail_next(*[PASSING["404 of a proxy"]] * 3, when=asks_for_messages)

    with world.worker(delivery=HASTY) as worker:
        settled(worker)

    assert len(world.ultramsg.inbox(TO)) == 1
    assert tried(worker) == ["unknown", "no_answer", "found"]


@pytest.mark.parametrize("channel", ["ultramsg", "whatsapp_factory"])
@pytest.mark.parametrize("succeeds", [True, False], ids=["video", "notice"])
def test_a_quoted_message_that_is_gone_costs_the_quote_alone(world, channel, succeeds):
    messenger = world.ultramsg if channel == "ultramsg" else world.factory
    messenger.forget("false_gone")
    world.enqueue("job_1", Reply.completed() if succeeds else Reply.failed(), channel=channel, reply_to="false_gone")

    with world.worker(delivery=STEADY) as worker:
        settled(worker)

    (message,) = messenger.inbox(TO)
    assert message.reply_to == ""
    assert message.kind == ("video" if succeeds and channel == "ultramsg" else "text")
    quote = "msgId" if channel == "ultramsg" else "quotedMessageId"
    assert [request.body.get(quote) for request in posts(messenger)] == ["false_gone", None]


def test_a_delivery_remembers_that_its_quote_was_refused(world, monkeypatch):
    """Whoever takes the delivery over does not try the quote again."""
    world.ultramsg.forget("false_gone")
    world.enqueue_ready(reply_to="false_gone")
    world.ultramsg.fail_next(
        *[Reply.json({"sent": "false", "message": "throttled"})] * 50,
        when=lambda request: "msgId" not in request.body and request.method == "POST",
    )
    with world.worker(delivery=attrs.evolve(STEADY, backoff_base_s=0.5)) as worker:
        until(lambda: len(posts(world.ultramsg)) >= 2, "it was tried without the quote")
        worker.stop()
    world.ultramsg.heal()
    with world.worker(delivery=STEADY) as worker:
        settled(worker)

    assert [request.body.get("msgId") for request in posts(world.ultramsg)].count("false_gone") == 1
    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]


def test_a_message_that_quotes_what_is_there_keeps_its_quote_over_failures(world):
    world.enqueue_ready(reply_to="false_there")
    world.ultramsg.fail_next(*[PASSING["throttled"]] * 2, PASSING["404 of a proxy"], path="/messages/")

    with world.worker(delivery=HASTY) as worker:
        settled(worker)

    assert [message.reply_to for message in world.ultramsg.inbox(TO)] == ["false_there"]


def test_long_words_are_cut_to_the_channels_limits_without_breaking_the_link(world):
    """The messenger would refuse them: a caption has 1024 characters, a text 4096."""
    family = "👨‍👩‍👧‍👦"
    texts = Texts({"es": attrs.evolve(SPANISH, done="¡Listo! " + family * 1000)}, default="es")
    world.enqueue_ready()
    enqueue_second = phone(2)
    world.ultramsg.refuse_videos(to=enqueue_second)
    world.api.job("job_2", Reply.completed())
    with world.queue() as queue:
        queue.enqueue("job_2", conversation_id="conversation-2", metadata={"channel": "ultramsg", "to": enqueue_second})

    with world.worker(texts=texts) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both are delivered")

    (video,), (text,) = world.ultramsg.inbox(TO), world.ultramsg.inbox(enqueue_second)
    assert video.kind == "video"
    assert len(video.text) <= 1024
    assert video.text.removeprefix("¡Listo! ").removesuffix("…").replace(family, "") == ""
    assert text.kind == "text"
    assert len(text.text) <= 4096
    assert text.text.endswith(f"{family}…\n\n🔗 Video: {world.api.video_url('job_2')}")


# --- who gets it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["ultramsg", "whatsapp_factory"])
@pytest.mark.parametrize(
    "to", ["5491155550001:12@s.whatsapp.net", "+44 (0)7911 123456", "0049171123456", "US.134912086"]
)
def test_an_address_with_extra_digits_reaches_nobody_and_the_letter_says_what_is_expected(world, channel, to):
    messenger = world.ultramsg if channel == "ultramsg" else world.factory
    world.api.job("job_1", Reply.completed())
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="conversation-1", metadata={"channel": channel, "to": to})

    with world.worker() as worker:
        event = buried(worker)

    assert "the recipient's address" in event.reason
    assert not posts(messenger)


def test_the_host_is_asked_again_for_each_send_so_a_rotated_token_is_right_at_the_next(world):
    """Recipients are never stored in Redis."""
    asked: list[str] = []
    tokens = iter(["old-token"])

    def resolve(conversation_id):
        asked.append(conversation_id)
        return Recipient(channel="ultramsg", to=TO, token=next(tokens, TOKEN))

    world.enqueue_ready()
    world.ultramsg.fail_next(Reply.fault(503), path="/messages/")
    with world.worker(notifier=over(world, resolve)) as worker:
        settled(worker)

    assert asked == ["conversation-1"] * 2
    assert [request.body["token"] for request in posts(world.ultramsg)] == ["old-token", TOKEN]


@pytest.mark.parametrize(
    "answer",
    [LookupError("no such conversation"), None, Recipient(channel="pigeon", to=TO)],
    ids=["raises", "gives None", "names a channel that is not here"],
)
def test_a_recipient_that_cannot_be_looked_up_is_tried_again_and_costs_no_video(world, answer):
    """The host's database may be away for a while; that is no reason to send a link instead of the video."""
    answers = iter([answer] * 3)

    def resolve(_):
        found = next(answers, Recipient(channel="ultramsg", to=TO))
        if isinstance(found, Exception):
            raise found
        return found

    world.enqueue_ready()
    with world.worker(
        notifier=over(world, resolve), delivery=attrs.evolve(STEADY, video_attempts=1, backoff_cap_s=0.1)
    ) as worker:
        delivered = settled(worker)

    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]
    assert delivered.attempts == 4


def test_a_recipient_that_is_never_found_ends_as_a_dead_letter_that_tells_no_secret(world):
    """The reason is for the operator, and is read in a terminal and in logs."""

    def resolve(_):
        msg = f"no row for {TO} at postgres://user:{TOKEN}@db"
        raise LookupError(msg)

    world.enqueue_ready()
    with (
        world.worker(notifier=over(world, resolve), delivery=attrs.evolve(STEADY, max_attempts=2)) as worker,
        world.queue() as queue,
    ):
        event = buried(worker)
        (letter,) = queue.dead_letters.list()

    assert event.reason == "2 sends failed: resolve raised LookupError"
    assert letter.reason == "2 sends failed: resolve raised LookupError: no row for [number] at [url]"
    assert not world.ultramsg.requests


def test_a_resolve_function_of_either_kind_runs_where_it_should(world):
    """AsyncRunner takes both, a plain one in a thread; Runner takes plain ones and names the way out for the other."""
    threads: list[threading.Thread] = []

    def resolve(_):
        threads.append(threading.current_thread())
        return Recipient(channel="ultramsg", to=TO)

    async def aresolve(conversation_id):
        await asyncio.sleep(0)
        return resolve(conversation_id)

    world.enqueue_ready()
    if world.kind == "sync":
        with pytest.raises(ConfigurationError, match="AsyncRunner"):
            Runner(world.queue(), world.poller(), over(world, aresolve))
        with world.worker(notifier=over(world, resolve)) as worker:
            settled(worker)
        return
    with world.worker(notifier=over(world, resolve)) as worker:
        settled(worker)
        assert isinstance(worker.runner, AsyncRunner)
    assert threads[0] is not worker._thread
    assert not threads[0].name.startswith("test-worker")
    world.api.job("job_2", Reply.completed())
    with world.queue() as queue:
        queue.enqueue("job_2", conversation_id="conversation-1")
    with world.worker(notifier=over(world, aresolve)) as worker:
        settled(worker)
    assert threads[1].name.startswith("test-worker")


def test_each_conversation_is_spoken_to_in_its_own_language(world):
    """English for one user, Spanish for another, and the default for a language that has no words."""
    languages = {"conversation-0": "en-US", "conversation-1": "es", "conversation-2": "fr"}

    def resolve(conversation_id):
        to = phone(int(conversation_id[-1]))
        return Recipient(channel="whatsapp_factory", to=to, language=languages[conversation_id])

    for number in range(3):
        world.api.job(f"job_{number}", Reply.failed())
    with world.queue() as queue:
        queue.enqueue_many((f"job_{number}", f"conversation-{number}", None) for number in range(3))
    with world.worker(notifier=over(world, resolve)) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 3, "all are delivered")

    openings = [world.factory.inbox(phone(number))[0].text[:11] for number in range(3)]
    assert openings == ["😔 There was", "😔 Hubo un p", "😔 Hubo un p"]


# --- an offline instance --------------------------------------------------------------------------


def held_back(world: World) -> tuple[RoutingNotifier, list[float]]:
    """An UltraMsg whose clock a test moves, as it asks for the line's state every 30 s."""
    ultramsg = UltraMsgNotifier(base_url=world.ultramsg.url, instance_id=INSTANCE, token=TOKEN)
    now_s = [1000.0]
    ultramsg._lines._clock = lambda: now_s[0]
    return RoutingNotifier.from_metadata({"ultramsg": ultramsg}), now_s


def status_requests(world: World) -> int:
    return sum(request.path.endswith("/instance/status") for request in world.ultramsg.requests)


HELD = attrs.evolve(QUICK, max_attempts=2, backoff_cap_s=0.1, max_retry_after_s=0.1, jitter=0.0)


def test_an_offline_instance_holds_messages_back_and_delivers_them_when_it_is_online(world):
    """UltraMsg would queue them and send all in one burst; and a phone without power must not cost any attempts."""
    notifier, now_s = held_back(world)
    world.ultramsg.online = False
    world.enqueue_ready()

    with world.worker(notifier=notifier, delivery=HELD) as worker:
        until(lambda: len(worker.recorder.of(events.SendTried)) > 3 * HELD.max_attempts, "it was held back many times")
        assert status_requests(world) == 1
        assert not posts(world.ultramsg)
        now_s[0] += 29.0
        held = len(worker.recorder.of(events.SendTried))
        until(lambda: len(worker.recorder.of(events.SendTried)) > held + 2, "it is still held back")
        assert status_requests(world) == 1
        world.ultramsg.online = True
        now_s[0] += 1.0
        delivered = settled(worker)

    assert status_requests(world) == 2
    assert delivered.attempts == 1
    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]


def test_a_message_that_is_held_back_is_given_up_at_its_deadline_and_not_before(world):
    """Being offline uses up no tries, but not for ever: then a person decides."""
    notifier, _ = held_back(world)
    world.ultramsg.online = False
    world.enqueue_ready()

    with world.worker(notifier=notifier, delivery=attrs.evolve(HELD, deadline_s=1.2)) as worker:
        event = buried(worker, 6)

    held = worker.recorder.of(events.SendTried)
    assert len(held) > HELD.max_attempts
    assert event.reason == "not delivered within 1.2 s: the instance is offline: the message is held back"
    assert not posts(world.ultramsg)


# --- where the channel cannot be asked ------------------------------------------------------------


def test_at_least_once_sends_again_with_longer_and_longer_waits(world):
    """A service that takes every message and loses every reply must not send the user one every few seconds."""
    world.enqueue_ready(channel="whatsapp_factory")
    world.factory.fail_every(1, Reply.dropped(accept=True))
    policy = attrs.evolve(STEADY, unknown_attempts=4, backoff_base_s=0.2, backoff_cap_s=5.0)

    with world.worker(delivery=policy) as worker:
        buried(worker)

    at = [message.at for message in world.factory.inbox(TO)]
    assert len(at) == 4
    # 0.2 s, 0.4 s and 0.8 s, from before each send: a busy machine may take some of it.
    assert at[3] - at[2] > 0.5


def test_at_most_once_leaves_it_to_a_person_who_can_still_have_it_sent(world):
    """Nothing goes out twice by itself; a redrive is somebody's decision to send it again."""
    world.enqueue_ready(channel="whatsapp_factory")
    world.factory.fail_next(Reply.dropped(accept=True))
    once = attrs.evolve(STEADY, on_unknown=OnUnknown.AT_MOST_ONCE)

    with world.worker(delivery=once) as worker, world.queue() as queue:
        event = buried(worker)
        assert "at most once" in event.reason
        assert len(world.factory.inbox(TO)) == 1
        assert queue.dead_letters.redrive("job_1")
        settled(worker)

    assert tried(worker) == ["unknown", "cannot_tell", "delivered"]
    # It has no look-up: to say that it was asked would be false.
    asked = worker.recorder.of(events.SendTried)[1].reason
    assert asked == "the channel cannot tell what became of an earlier send"
    assert len(world.factory.inbox(TO)) == 2


# --- dead letters ---------------------------------------------------------------------------------


def test_a_redrive_asks_the_channel_first_when_the_fate_of_the_message_is_unknown(world):
    """The user may have had the video all along."""
    world.enqueue_ready()
    world.ultramsg.fail_next(Reply.dropped(accept=True), path="/messages/video")
    world.ultramsg.fail_every(1, Reply.fault(500), when=asks_for_messages)

    with world.worker(delivery=attrs.evolve(STEADY, deadline_s=0.8)) as worker, world.queue() as queue:
        event = buried(worker, 6)
        assert event.reason == "nobody can say whether the message went out: the channel does not answer"
        world.ultramsg.heal()
        assert queue.dead_letters.redrive("job_1")
        settled(worker)
        assert queue.counts().dead == 0

    assert tried(worker) == ["unknown", "no_answer", "found"]
    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]


def test_dead_letters_are_listed_redriven_and_dismissed_from_code(world):
    """A made video waits there until a person has seen to it; the events tell hooks of its death."""
    with world.queue() as queue:
        for number in range(3):
            world.api.job(f"job_{number}", Reply.completed())
            metadata = {"channel": "ultramsg", "to": phone(number)}
            queue.enqueue(f"job_{number}", conversation_id=f"conversation-{number}", metadata=metadata)
        world.ultramsg.fail_every(1, Reply.json({"error": [{"to": "invalid phone number"}]}), path="/messages/")

        def broken(event):
            raise RuntimeError(type(event).__name__)

        with world.worker(hooks=[broken]) as worker:
            until(lambda: len(worker.recorder.of(events.JobDeadLettered)) == 3, "all are dead letters")
            letters = {letter.job_id: letter for letter in queue.dead_letters.list()}
            assert letters.keys() == {"job_0", "job_1", "job_2"}
            assert queue.counts().dead == 3
            letter = queue.dead_letters.get("job_1")
            assert letter == letters["job_1"]
            assert letter.reason == "refused by the channel: to: invalid phone number"
            assert letter.entry.job.conversation_id == "conversation-1"
            assert queue.get("job_1").state is JobState.DEAD

            assert queue.dead_letters.dismiss("job_2")
            assert not queue.dead_letters.dismiss("job_2")
            world.ultramsg.heal()
            assert queue.dead_letters.redrive("job_0")
            until(lambda: worker.recorder.of(events.JobDelivered, "job_0"), "the one that was redriven arrives")
            assert queue.dead_letters.redrive_all() == 1
            until(lambda: worker.recorder.of(events.JobDelivered, "job_1"), "the other one arrives")
            assert queue.counts().dead == 0

    assert [len(world.ultramsg.inbox(phone(number))) for number in range(3)] == [1, 1, 0]
    assert {event.outcome for event in worker.recorder.of(events.JobDeadLettered)} == {"completed"}


# --- words ----------------------------------------------------------------------------------------


def test_the_provider_speaks_to_the_operator_and_we_to_the_user(world):
    """The API's error may have anything in it: it stays in the audit record."""
    world.enqueue("job_1", Reply.failed("RAI_FILTERED: /var/task/veo.py line 12"))

    with world.worker() as worker:
        settled(worker)

    (message,) = world.ultramsg.inbox(TO)
    assert message.text == SPANISH_AND_ENGLISH.of("es").failed.format(reason=SPANISH.failed_reason)
    told = completed(world)
    assert (told["success"], told["error"]) == (False, "RAI_FILTERED: /var/task/veo.py line 12")
    assert (told["delivered"], told["form"], told["sends"]) == (True, "text", 1)


@pytest.mark.parametrize("where", ["outbox", "a dead worker's hands"])
def test_a_video_that_no_worker_was_there_for_is_sent_however_late(world, where):
    """It was kept for a day, and the deadline of its delivery was an hour."""
    world.enqueue_ready()
    strategy, lease = attrs.evolve(FAST, initial_delay_s=0), LeasePolicy()
    with world.queue() as queue, redis.Redis.from_url(world.url) as client:
        (claim,) = queue.claim(polls=1, sends=0, worker_id="w", strategy=strategy, lease=lease).claims
        outcome = Outcome(OutcomeKind.COMPLETED, claim.work.job.start_ms, video_url=world.api.video_url("job_1"))
        entry = attrs.evolve(open_outbox(claim.work.job, outcome, STEADY), deadline_ms=1, tries=3)
        queue.apply([Conclude(claim, entry, 60, 12_000)])
        if where == "outbox":
            queue.apply([Redeliver(claim, entry, 60, 1)])
        else:
            client.zadd(queue.keys.inflight, {"job_1": 1})

        with world.worker(delivery=STEADY) as worker:
            assert settled(worker).attempts == 4
        assert queue.counts().dead == 0

    assert [message.kind for message in world.ultramsg.inbox(TO)] == ["video"]
