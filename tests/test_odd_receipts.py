"""What comes back from a host's channel after a send: a known receipt, or "unknown"; never an exception, never a loop."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from kit import EACH_COMBINATION, QUICK, part, until
from videopoll import NotSentError, RefusedError, RoutingNotifier, events
from videopoll.messages import Delivered, LookupResult, NotSent, Refused, Unknown

# The server's kind makes no difference here; the scripts are tested on both elsewhere.
pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

STEADY = attrs.evolve(
    QUICK, jitter=0.0, backoff_base_s=0.05, backoff_cap_s=0.1, appear_within_s=0.05, max_attempts=6, video_attempts=2
)


class Hostile:
    """An object that raises at whatever is done to it."""

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __bool__(self) -> bool:
        raise ZeroDivisionError

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError


class Impostor:
    """An object that says that it is a receipt."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    @property
    def __class__(self) -> type:
        return self._kind


class Vague(Delivered):
    """A host's own receipt whose fields cannot be read."""

    @property
    def form(self) -> Any:
        raise RuntimeError


class UntoldError(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class MuteError(NotSentError):
    """One of ours, made by a host that forgot its fields."""

    def __init__(self) -> None:
        pass


async def later() -> Delivered:
    return Delivered()


def raising(error: BaseException) -> Any:
    def raises() -> None:
        raise error

    return raises


HUGE = "x" * 10_000_000

DELIVERED = {
    "form as a word": lambda: Delivered(form="text"),
    "form that is none": lambda: Delivered(form="fax"),
    "form that is a list": lambda: Delivered(form=[]),
    "channel that is a number": lambda: Delivered(channel=7),
    "channel that is a list": lambda: Delivered(channel=["a"]),
    "huge id": lambda: Delivered(HUGE, HUGE),
    "id that is bytes": lambda: Delivered(b"\xff"),
    "a subclass": lambda: type("Mine", (Delivered,), {})("1"),
}
UNKNOWN = {
    "a word": lambda: "ok",
    "False": lambda: False,
    "nothing much": dict,
    "a class": lambda: Delivered,
    "an impostor": lambda: Impostor(Delivered),
    "another impostor": lambda: Impostor(Unknown),
    "hostile": Hostile,
    "fields that cannot be read": lambda: Vague("1"),
    "no text": raising(UntoldError()),
    "no reason": raising(MuteError()),
    "a group": raising(ExceptionGroup("g", [UntoldError()])),
    "SystemExit": raising(SystemExit()),
    "CancelledError": raising(asyncio.CancelledError()),
    "TimeoutError": raising(TimeoutError()),
    "huge reason": lambda: Unknown(HUGE),
    "a result": lambda: LookupResult.FOUND,
}
REST = {
    "counts is a word": (lambda: NotSent("busy", counts="yes", channel_fault="no"), "sends failed: busy"),
    "wait is a word": (lambda: NotSent("busy", "soon"), "sends failed: busy"),
    "huge": (lambda: NotSent(HUGE), "sends failed: xxx"),
    "hostile error": (raising(NotSentError(HUGE, retry_after_s="x")), "sends failed: xxx"),
    "try_text is a word": (lambda: Refused("no", try_text="no"), "refused by the channel: no"),
    "refused with a number": (raising(RefusedError(17, try_text=[])), "refused by the channel: 17"),
}


def channel(parts: str, answer: Any, sent: list[str]) -> Any:
    """A host's channel that sends, and then answers; one with both sides stands behind a router."""

    def notify(message):
        sent.append(message.form.value)
        return answer()

    own = part(parts, notify=notify)
    return RoutingNotifier.from_metadata({"own": own}) if parts == "both" else own


@EACH_COMBINATION
@pytest.mark.parametrize("answer", DELIVERED.values(), ids=DELIVERED)
def test_a_delivered_message_is_delivered_whatever_its_fields_are(world, parts, answer):
    """It is sent once, and settled."""
    sent: list[str] = []
    world.enqueue_ready(channel="own")
    with world.worker(notifier=channel(parts, answer, sent), delivery=STEADY) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")

    assert sent == ["video"]


@EACH_COMBINATION
@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN)
def test_whatever_else_comes_back_after_a_send_is_of_unknown_fate(world, parts, answer):
    """Three sends at most, and a dead letter; no lease has to run out for it."""
    sent: list[str] = []
    world.enqueue_ready(channel="own")
    with world.worker(notifier=channel(parts, answer, sent), delivery=STEADY) as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")

    assert len(sent) == 3
    assert {event.result for event in worker.recorder.of(events.SendTried)} == {"unknown", "cannot_tell"}
    assert not worker.recorder.of(events.LeaseLost)


@EACH_COMBINATION
@pytest.mark.parametrize(("answer", "reason"), REST.values(), ids=REST)
def test_a_refusal_is_what_it_says_whatever_its_fields_are(world, parts, answer, reason):
    """It ends within the budget, with a reason of a bounded length."""
    sent: list[str] = []
    world.enqueue_ready(channel="own")
    with world.worker(notifier=channel(parts, answer, sent), delivery=STEADY) as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")
        with world.queue() as queue:
            told = queue.dead_letters.get("job_1").reason

    assert reason in told
    assert len(told) < 1_200
    assert len(sent) <= STEADY.max_attempts


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_a_coroutine_that_a_plain_channel_returns_is_awaited_by_nobody_under_threads(world):
    """What was done before it was returned may have been the send."""
    sent: list[str] = []
    world.enqueue_ready(channel="own")
    with world.worker(notifier=channel("sync", later, sent), delivery=STEADY) as worker:
        reason = until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")[0].reason

    assert "use AsyncRunner" in reason
    assert len(sent) == 3


@EACH_COMBINATION
@pytest.mark.parametrize(
    "result",
    [
        lambda: "found",
        lambda: True,
        Hostile,
        lambda: Impostor(LookupResult),
        raising(UntoldError()),
        raising(SystemExit()),
        raising(asyncio.CancelledError()),
    ],
    ids=["word", "True", "hostile", "impostor", "no text", "SystemExit", "CancelledError"],
)
def test_a_look_up_that_answers_nonsense_is_no_answer(world, parts, result):
    """Nothing is sent again for it, and the deadline ends it."""
    sent: list[str] = []

    def notify(message):
        sent.append(message.form.value)
        return Unknown("lost")

    world.enqueue_ready(channel="own")
    own = part(parts, notify=notify, look_up=lambda _: result())
    with world.worker(notifier=own, delivery=attrs.evolve(STEADY, deadline_s=0.5)) as worker:
        reason = until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")[0].reason

    assert "the channel does not answer" in reason
    assert sent == ["video"]


@EACH_COMBINATION
@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, GeneratorExit, RuntimeError])
def test_a_hook_that_raises_after_a_send_has_no_message_sent_twice(world, parts, error):
    """Whatever it raises: it is heard between the send and its settlement."""
    sent: list[str] = []

    def hook(event):
        if isinstance(event, events.SendTried | events.JobConcluded | events.JobPolled):
            raise error

    world.enqueue_ready(channel="own")
    notifier = channel(parts, lambda: None, sent)
    with world.worker(notifier=notifier, delivery=STEADY, hooks=[hook]) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")

    assert sent == ["video"]
