"""What a host hands in by mistake is refused where it is handed in, by its name, and with none of its secrets.

The parts are all public ones that a host builds, the calls those that it makes itself. Which values an argument takes
is read from its annotation, so that a new argument is tried from the day that it is there.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs
import httpx
import prometheus_client
import pytest
from typer.testing import CliRunner

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    CallbackNotifier,
    ConfigurationError,
    DeadLetterPolicy,
    DeliveryPolicy,
    KeyTtls,
    LeasePolicy,
    PollingStrategy,
    Recipient,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    SilentNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
    VideopollError,
    WebhookNotifier,
    WhatsAppFactoryNotifier,
)
from videopoll.cli.app import build_app
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, LookupResult, MessageReceipt
from videopoll.notifiers import (
    DiscordNotifier,
    EvolutionNotifier,
    TeeNotifier,
    TelegramNotifier,
    TwilioNotifier,
    TwilioTemplate,
    VideoCheck,
    VideoLimits,
    WhatsAppCloudNotifier,
    WhatsAppTemplate,
)
from videopoll.observations import VideoWorking
from videopoll.observe.log import LogHook
from videopoll.observe.metrics import OpenTelemetryHook, PrometheusHook
from videopoll.testing import (
    AsyncSandbox,
    FakeDiscord,
    FakeEvolution,
    FakeOpenAI,
    FakeProviders,
    FakeServer,
    FakeTelegram,
    FakeTwilio,
    FakeUltraMsg,
    FakeVideoApi,
    FakeWhatsAppCloud,
    FakeWhatsAppFactory,
    FolderPublisher,
    MovableClock,
    RecordingNotifier,
    Reply,
    Sandbox,
    ScriptedPoller,
    async_memory_queue,
    async_wait_until,
    build_job,
    build_message,
    build_outcome,
    memory_queue,
    wait_until,
)
from videopoll.texts import SPANISH, Texts
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import (
    Capabilities,
    Doorbell,
    HttpVideoGenerator,
    HttpVideoPoller,
    RoutingPoller,
    VideoApiGenerator,
)
from videopoll.video_api.apis import REPLICATE, XAI
from videopoll.worker.health_server import HealthServer
from videopoll.worker.serve import observed, serve

NO_REDIS = "redis://127.0.0.1:1/0"
SECRET = "s3cr3t"


class Something:
    """A thing of the host's."""


def plain(*_, **__):
    """A function of the host's."""


async def awaited(*_, **__):
    """An asyncio function of the host's."""


def described(api, **changes):
    return {one.name: getattr(api, one.name) for one in attrs.fields(type(api)) if one.init} | changes


def api():
    return {"base_url": "http://127.0.0.1:9", "api_key": "k"}


def parts(kind="sync"):
    queue = memory_queue() if kind == "sync" else async_memory_queue()
    return {"queue": queue, "poller": ScriptedPoller(), "notifier": SilentNotifier()}


BUILT = {
    "RedisVideoJobQueue": (RedisVideoJobQueue, lambda: {"client": memory_queue()._client}),
    "from_url": (RedisVideoJobQueue.from_url, lambda: {"url": NO_REDIS}),
    "from_url of partitions": (RedisVideoJobQueue.from_url, lambda: {"url": NO_REDIS, "partitions": 2}),
    "async from_url": (AsyncRedisVideoJobQueue.from_url, lambda: {"url": NO_REDIS}),
    "Runner": (Runner, parts),
    "AsyncRunner": (AsyncRunner, lambda: parts("async")),
    "memory_queue": (memory_queue, dict),
    "async_memory_queue": (async_memory_queue, dict),
    "Sandbox": (Sandbox, dict),
    "AsyncSandbox": (AsyncSandbox, dict),
    "HealthServer": (HealthServer, lambda: {"runner": Runner(**parts()), "port": 0}),
    "PollingStrategy": (PollingStrategy, dict),
    "DeliveryPolicy": (DeliveryPolicy, dict),
    "KeyTtls": (KeyTtls, dict),
    "LeasePolicy": (LeasePolicy, dict),
    "DeadLetterPolicy": (DeadLetterPolicy, dict),
    "Texts": (Texts, lambda: {"languages": {"es": SPANISH}, "default": "es"}),
    "CallbackNotifier": (CallbackNotifier, lambda: {"function": plain}),
    "RoutingNotifier": (RoutingNotifier, lambda: {"channels": {"a": SilentNotifier()}, "resolve": plain}),
    "TeeNotifier": (TeeNotifier, lambda: {"notifier": SilentNotifier(), "store": plain}),
    "WebhookNotifier": (WebhookNotifier, lambda: {"url": "https://x.example", "secret": "k" * 32}),
    "UltraMsgNotifier": (UltraMsgNotifier, dict),
    "WhatsAppFactoryNotifier": (WhatsAppFactoryNotifier, lambda: {"base_url": "https://x.example"}),
    "DiscordNotifier": (DiscordNotifier, dict),
    "EvolutionNotifier": (EvolutionNotifier, lambda: {"base_url": "https://x.example"}),
    "TelegramNotifier": (TelegramNotifier, dict),
    "TwilioNotifier": (TwilioNotifier, dict),
    "TwilioTemplate": (TwilioTemplate, lambda: {"content_sid": "HX" + "0" * 32}),
    "WhatsAppCloudNotifier": (WhatsAppCloudNotifier, dict),
    "WhatsAppTemplate": (WhatsAppTemplate, lambda: {"name": "t", "language": "es"}),
    "VideoCheck": (VideoCheck, lambda: {"hosts": ["x.example"]}),
    "VideoLimits": (VideoLimits, lambda: {"max_bytes": {MessageForm.VIDEO: 5}}),
    "VideoApiPoller": (VideoApiPoller, api),
    "VideoApiGenerator": (VideoApiGenerator, api),
    "HttpVideoPoller": (HttpVideoPoller, lambda: {"api": XAI, "api_key": "k"}),
    "HttpVideoGenerator": (HttpVideoGenerator, lambda: {"api": XAI, "api_key": "k", "model": "m"}),
    "RoutingPoller": (RoutingPoller, lambda: {"pollers": {"a": ScriptedPoller()}}),
    "Doorbell": (Doorbell, lambda: {"queue": memory_queue(), "api": REPLICATE, "secret": "whsec_" + "a" * 32}),
    "ApiDescription": (type(XAI), lambda: described(XAI)),
    "Start": (type(XAI.start), lambda: described(XAI.start)),
    "Callback": (type(REPLICATE.callback), lambda: described(REPLICATE.callback)),
    "Capabilities": (Capabilities, lambda: {"name": "x"}),
    "VideoGeneratorTool": (
        VideoGeneratorTool,
        lambda: {"queue": memory_queue(), "generator": VideoApiGenerator(**api())},
    ),
    "FakeServer": (FakeServer, dict),
    "FakeVideoApi": (FakeVideoApi, dict),
    "FakeUltraMsg": (FakeUltraMsg, dict),
    "FakeTwilio": (FakeTwilio, dict),
    "FakeEvolution": (FakeEvolution, dict),
    "FakeTelegram": (FakeTelegram, dict),
    "FakeDiscord": (FakeDiscord, dict),
    "FakeWhatsAppFactory": (FakeWhatsAppFactory, dict),
    "FakeWhatsAppCloud": (FakeWhatsAppCloud, dict),
    "FakeOpenAI": (FakeOpenAI, lambda: {"arguments": plain}),
    "FolderPublisher": (FolderPublisher, lambda: {"folder": "/nowhere"}),
    "Reply": (Reply, dict),
    "build_job": (build_job, dict),
    "build_outcome": (build_outcome, dict),
    "build_message": (build_message, dict),
}


def job(**more):
    return {"job_id": "job_1", **more}


CALLED = {
    "enqueue": lambda queue: (queue.enqueue, job(conversation_id="c")),
    "enqueue_many": lambda queue: (queue.enqueue_many, {"jobs": []}),
    "get": lambda queue: (queue.get, job()),
    "cancel": lambda queue: (queue.cancel, job()),
    "wait": lambda queue: (queue.wait, job(timeout_s=0)),
    "poll_now": lambda queue: (queue.poll_now, job()),
    "list_jobs": lambda queue: (queue.list_jobs, {}),
    "history": lambda queue: (queue.history, {}),
    "drain": lambda queue: (queue.drain, {"timeout_s": 0}),
    "brake": lambda queue: (queue.brake, {"pauses_s": {}}),
    "receive_receipts": lambda queue: (queue.receive_receipts, {"receipts": []}),
    "dead letters": lambda queue: (queue.dead_letters.list, {}),
    "dead letter": lambda queue: (queue.dead_letters.get, job()),
}

MISTAKES = {
    "None": None,
    "a text": SECRET,
    "a number as a text": "4",
    "an empty text": "",
    "half a character": "\ud800",
    "True": True,
    "zero": 0,
    "a fraction": 1.5,
    "not a number": math.nan,
    "too large": 10**400,
    "too large to write": 10**5000,
    "bytes": SECRET.encode(),
    "a list": [],
    "a list of texts": ["a"],
    "a list of nothing": [None],
    "a tuple": (1,),
    "a mapping": {},
    "a mapping from numbers": {1: "a"},
    "a mapping to things": {"a": Something()},
    "a thing": Something(),
    "a class": Something,
    "a function": plain,
    "an asyncio function": awaited,
}

KNOWN = {
    "None": lambda value: value is None,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) in {int, float} and math.isfinite(value),
    "bytes": lambda value: isinstance(value, bytes),
    "Mapping": lambda value: isinstance(value, Mapping),
    "Iterable": lambda value: isinstance(value, Iterable),
    "Sequence": lambda value: isinstance(value, Sequence),
    "Collection": lambda value: isinstance(value, Collection),
    "tuple": lambda value: isinstance(value, tuple | list),
    "frozenset": lambda value: isinstance(value, Collection),
    **dict.fromkeys(
        [
            "KeyTtls",
            "LeasePolicy",
            "DeliveryPolicy",
            "DeadLetterPolicy",
            "PollingStrategy",
            "Texts",
            "Clock",
            "MemoryServer",
            "VideoCheck",
            "VideoLimits",
            "TwilioTemplate",
            "WhatsAppTemplate",
            "ApiDescription",
            "Capabilities",
            "Certainty",
            "Signing",
            "Start",
            "httpx.Client",
            "httpx.AsyncClient",
            "random.Random",
            "VideoJob",
            "Recipient",
        ],
        lambda _: False,
    ),
}
"""Whether a value fits a word of an annotation. An annotation with another word says nothing here of what it takes."""


def fits(value, annotation):
    """Return whether a mistake is none after all, as far as the annotation tells; None if it does not."""
    words = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", str(annotation))).split(" | ")
    if not all(word in KNOWN for word in words):
        return None
    try:
        return any(KNOWN[word](value) for word in words)
    except OverflowError:
        return False


def named(name, text):
    """Whether an error is about an argument."""
    return any(
        word in text.lower() for word in {name.lower(), name.rstrip("s"), name.replace("_", " "), name.split("_")[0]}
    )


def arguments(call):
    return {
        name: one.annotation
        for name, one in inspect.signature(call).parameters.items()
        if one.kind not in {one.VAR_KEYWORD, one.VAR_POSITIONAL}
    }


def tried(call, given):
    """Return the error of a call, which may be none; what was built is closed."""
    try:
        made = call(**given)
    except VideopollError as error:
        return error
    close = getattr(made, "close", None) if isinstance(made, HealthServer | Sandbox) else None
    if close is not None:
        close()
    return None


def judge(call, given, name, annotation):
    """Yield what is wrong with how a call takes mistakes for one of its arguments."""
    for mistake, value in MISTAKES.items():
        try:
            error = tried(call, {**given, name: value})
        except Exception as error:  # noqa: BLE001 - any other is a fault of ours
            yield f"{name}={mistake}: {type(error).__name__}: {error}"
            continue
        if error is None:
            if fits(value, annotation) is False:
                yield f"{name}={mistake}: taken, though it is no {annotation}"
        elif not named(name, str(error)) or len(str(error)) > 500:
            yield f"{name}={mistake}: {error}"


@pytest.mark.parametrize("part", BUILT)
def test_a_part_refuses_what_it_cannot_work_with_when_it_is_built(part):
    make, valid = BUILT[part]
    given = valid()
    assert tried(make, given) is None

    faults = [fault for name, annotation in arguments(make).items() for fault in judge(make, given, name, annotation)]

    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("call", CALLED)
def test_a_queue_refuses_what_it_cannot_work_with_at_the_call(call):
    with memory_queue() as queue:
        queue.enqueue("job_1", conversation_id="c")
        method, given = CALLED[call](queue)

        faults = [
            fault for name, annotation in arguments(method).items() for fault in judge(method, given, name, annotation)
        ]

    assert not faults, "\n".join(faults)


SECRETS = [
    (make, valid, name)
    for part, (make, valid) in BUILT.items()
    for name in arguments(make)
    if part not in {"Start", "ApiDescription"}
    and re.fullmatch(r"(auth_|webhook_)?token|secret|api_key|app_secret|base_url|url", name)
    and not inspect.getmodule(make).__name__.startswith("videopoll.testing")
]


@pytest.mark.parametrize("wrong", [f"{SECRET}\n", f" {SECRET}", SECRET.encode(), [SECRET], {SECRET: 1}])
@pytest.mark.parametrize(("make", "valid", "name"), SECRETS, ids=lambda one: one if isinstance(one, str) else None)
def test_a_key_with_a_line_end_or_as_bytes_is_refused_and_not_quoted(make, valid, name, wrong):
    """As it is read from a file, or comes out of a vault."""
    with pytest.raises(ConfigurationError) as refused:
        make(**{**valid(), name: wrong})

    assert SECRET not in str(refused.value)


# --- what no annotation tells ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [UltraMsgNotifier, DiscordNotifier, TelegramNotifier])
def test_clients_of_the_other_kind_are_told_where_they_go(make):
    with (
        httpx.Client() as client,
        pytest.raises(ConfigurationError, match=r"async_client .* got Client: it goes into client"),
    ):
        make(async_client=client)
    with pytest.raises(
        ConfigurationError, match=r"client must be an httpx\.Client, got AsyncClient: it goes into async_"
    ):
        make(client=httpx.AsyncClient())
    with pytest.raises(ConfigurationError, match="got the class Client"):
        make(client=httpx.Client)


@pytest.mark.parametrize("hooks", [[LogHook], (Something,)])
def test_a_class_among_the_hooks_is_refused(hooks):
    """It would be built anew at each event, and never called."""
    with pytest.raises(ConfigurationError, match="a hook must be a function of an event, got the class"):
        memory_queue(hooks=hooks)


@pytest.mark.parametrize("name", ["foreign_workers", "recover", "take_new", "visible"])
def test_a_switch_is_no_text_of_a_variable(name):
    with pytest.raises(ConfigurationError, match=rf"^{name} is True or False, got 'false' \(a string: convert it\)$"):
        Runner(**parts(), **{name: "false"})


@pytest.mark.parametrize("rng", [random, random.Random(5), None])
def test_whatever_draws_numbers_will_do(rng):
    Runner(**parts(), rng=rng)


@pytest.mark.parametrize("rng", [random.Random, 5, "seed"])
def test_a_seed_is_no_source_of_numbers(rng):
    with pytest.raises(ConfigurationError, match="rng"):
        Runner(**parts(), rng=rng)


class OnlyClaims:
    """A queue of a host that has not read all of the protocol."""

    def claim(self, **_wanted):
        """Claim nothing."""


class OnlyClaimsAsync:
    """Its asyncio side."""

    async def claim(self, **_wanted):
        """Claim nothing."""


@pytest.mark.parametrize(("runner", "queue"), [(Runner, OnlyClaims), (AsyncRunner, OnlyClaimsAsync)])
def test_a_queue_that_does_not_tell_how_long_its_keys_live_is_refused(runner, queue):
    with pytest.raises(ConfigurationError, match=r"^the queue's ttls must be a KeyTtls, got NoneType$"):
        runner(**{**parts(), "queue": queue()})


def notifying(look_up):
    """A notifier of a host, with what it has for look-ups."""
    return type("Own", (), {"notify": lambda self, message: Delivered(), "look_up": look_up})()


async def alook_up(_self, _message):
    return LookupResult.ABSENT


async def adownload(_self, _job, _place, _file, *, timeout_s):
    return timeout_s


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("look_up", "said"), [(lambda self: None, "is called as look_up"), ("text", "a method look_up")]
)
def test_a_look_up_that_no_runner_can_call_is_refused(kind, look_up, said):
    """Else no message of unknown fate would ever be looked up, and nobody told of it."""
    with pytest.raises(ConfigurationError, match=said):
        (Runner if kind == "sync" else AsyncRunner)(**{**parts(kind), "notifier": notifying(look_up)})


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_look_up_that_is_none_is_as_if_it_were_not_there(kind):
    (Runner if kind == "sync" else AsyncRunner)(**{**parts(kind), "notifier": notifying(None)})


def test_what_a_part_may_have_besides_is_refused_by_threads_if_it_has_to_be_awaited():
    downloading = type("Own", (), {"poll": ScriptedPoller.poll, "download": adownload})()
    for part in ({"notifier": notifying(alook_up)}, {"poller": downloading}):
        with pytest.raises(ConfigurationError, match="use AsyncRunner for it"):
            Runner(**{**parts(), **part})
        AsyncRunner(**{**parts("async"), **part})


def test_a_client_is_refused_by_the_argument_that_it_was_given_for():
    client = memory_queue()._client
    with pytest.raises(ConfigurationError, match=r"needs a redis.Redis client \(front\), got str"):
        RedisVideoJobQueue(client, front=NO_REDIS)
    with pytest.raises(ConfigurationError, match=r"needs a redis.Redis client \(blocking\), got the class"):
        RedisVideoJobQueue(client, blocking=type(client))


def test_partitions_to_serve_may_come_from_anything_that_gives_numbers():
    queue = RedisVideoJobQueue.from_url(NO_REDIS, partitions=3, serve=(one for one in (0, 2)))
    assert queue._parts.rounds.served == [0, 2]


@pytest.mark.parametrize("server", [False, 0, {}, "server"])
def test_what_is_no_server_of_memory_is_not_taken_for_none(server):
    with pytest.raises(ConfigurationError, match="server must be a MemoryServer"):
        memory_queue(server)


@pytest.mark.parametrize("part", [{"poller": 0}, {"notifier": ""}])
def test_what_is_no_part_of_a_sandbox_is_not_taken_for_none(part):
    with pytest.raises(ConfigurationError, match=f"the {next(iter(part))} must have a method"):
        Sandbox(**part)


def test_a_wait_for_an_asyncio_function_is_refused():
    """A coroutine is true: the test would go on at once, and could not fail."""
    with pytest.raises(ConfigurationError, match="must be a plain function"):
        wait_until(awaited)
    with pytest.raises(ConfigurationError, match="must be a plain function"):
        asyncio.run(async_wait_until(awaited))


@pytest.mark.parametrize("answers", [{"job_1": 1}, {"job_1": "done"}, {"job_1": [Something]}, {"job_1": [{}]}])
def test_a_script_has_observations_and_exceptions(answers):
    with pytest.raises(ConfigurationError, match="an observation or an exception"):
        ScriptedPoller(answers)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        ([VideoWorking()], "got list: hand in what it holds one by one"),
        (VideoWorking, "got the class VideoWorking: build one of it"),
        (KeyboardInterrupt(), "got KeyboardInterrupt"),
    ],
)
def test_an_answer_of_a_script_that_is_none_is_told_what_to_do(answer, got):
    with pytest.raises(
        ConfigurationError, match=f"an answer of ScriptedPoller is an observation or an exception, {got}"
    ):
        ScriptedPoller().job("job_1", answer)


def test_a_script_is_for_a_job_by_its_id():
    """Under a number it would wait for ever: no poll of it comes."""
    with pytest.raises(ConfigurationError, match=r"ScriptedPoller\.job\.job_id must be a text, got int"):
        ScriptedPoller().job(17, VideoWorking())


@pytest.mark.parametrize("answer", ["delivered", None, Delivered, [Delivered("1")], True, KeyboardInterrupt()])
def test_a_recorded_send_is_answered_with_a_receipt_or_an_exception(answer):
    """Anything else counted as a send of unknown fate, in a test that was to be about something else."""
    with pytest.raises(ConfigurationError, match="an answer of RecordingNotifier is a receipt or an exception, got "):
        RecordingNotifier().answer_next(answer)


@pytest.mark.parametrize(("runner", "queue"), [(Runner, async_memory_queue), (AsyncRunner, memory_queue)])
def test_a_queue_of_the_other_world_is_called_by_a_name_that_its_host_knows(runner, queue):
    """Of no private class: the text is all that there is to go by."""
    with pytest.raises(ConfigurationError, match=r"^(Async)?MemoryQueue is (no|an) asyncio queue: "):
        runner(queue(), ScriptedPoller(), RecordingNotifier())


def test_a_queue_and_a_function_in_the_wrong_place_are_told_what_makes_a_part_of_them():
    queue = memory_queue()
    for runner in (Runner, AsyncRunner):
        with pytest.raises(ConfigurationError, match="got str: build one with RedisVideoJobQueue, or with Async"):
            runner(NO_REDIS, ScriptedPoller(), RecordingNotifier())
    with pytest.raises(ConfigurationError, match="got function: CallbackNotifier makes one of it"):
        Runner(queue, ScriptedPoller(), lambda message: None)


@pytest.mark.parametrize("seconds", [-1, "5", math.nan, True])
def test_a_clock_is_moved_on_by_seconds(seconds):
    with pytest.raises(ConfigurationError, match=r"MovableClock\.move\.seconds must be"):
        MovableClock().move(seconds)


@pytest.mark.parametrize("name", ["to", "instance_id", "token", "reply_to", "sender", "language", "channel"])
@pytest.mark.parametrize("wrong", [SECRET.encode(), [SECRET], {SECRET: 1}, 5.0, True, Something])
def test_a_recipient_has_texts_and_numbers(name, wrong):
    """As a text, bytes would be b'…', and no messenger would take them for a token."""
    with pytest.raises(ConfigurationError, match=rf"Recipient\.{name} must be") as refused:
        Recipient(**{"channel": "ultramsg", "to": "5491155550000", name: wrong})
    assert SECRET not in str(refused.value)


READERS = [
    (WhatsAppCloudNotifier.read_receipts, "app_secret", {}),
    (TwilioNotifier.read_receipts, "auth_token", {"url": "https://x.example/twilio"}),
    (EvolutionNotifier.read_receipts, "jwt_key", {}),
]


@pytest.mark.parametrize("secret", [None, SECRET.encode(), 7, [None], [], "", [SECRET, ""], {SECRET: 1}, f"{SECRET}\n"])
@pytest.mark.parametrize(("read", "name", "more"), READERS, ids=["whatsapp", "twilio", "evolution"])
def test_receipts_are_not_read_with_a_secret_that_is_none(read, name, more, secret):
    """Above all not with that of a variable that is not set."""
    with pytest.raises(ConfigurationError, match=name) as refused:
        read(**{"headers": {}, "body": b"{}", name: secret, **more})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("headers", [None, 7, ["x"], "x: y", [("x",)], plain])
@pytest.mark.parametrize(("read", "name", "more"), READERS, ids=["whatsapp", "twilio", "evolution"])
def test_headers_that_are_none_are_a_mistake_of_the_host(read, name, more, headers):
    with pytest.raises(ConfigurationError, match="headers must be a mapping, or pairs of names and values"):
        read(**{"headers": headers, "body": b"{}", name: SECRET, **more})


@pytest.mark.parametrize("reply", [{"status": "done"}, 503, Reply])
def test_a_fake_is_told_replies_and_nothing_else(reply):
    """Else it would fail in the middle of an answer, in a thread of its own."""
    server = FakeVideoApi()
    for tell in (
        lambda: server.route("GET", "/x", reply),
        lambda: server.reply_with(reply),
        lambda: server.fail_next(reply),
        lambda: server.fail_every(2, reply),
        lambda: server.job("job_1", reply),
    ):
        with pytest.raises(ConfigurationError, match="reply must be a Reply, got"):
            tell()


def test_what_cannot_be_counted_into_is_refused_when_the_hook_is_built():
    with pytest.raises(ConfigurationError, match=r"PrometheusHook\.registry's register"):
        PrometheusHook(5)
    with pytest.raises(ConfigurationError, match=r"PrometheusHook\.counts"):
        PrometheusHook(prometheus_client.CollectorRegistry(), counts=7)
    with pytest.raises(ConfigurationError, match=r"OpenTelemetryHook\.meter_provider's get_meter"):
        OpenTelemetryHook(5)
    with pytest.raises(ConfigurationError, match=r"OpenTelemetryHook\.tracer_provider's get_tracer"):
        OpenTelemetryHook(None, 5)


def test_a_receipt_is_of_one_of_the_kinds_that_there_are():
    with pytest.raises(ConfigurationError, match=r"MessageReceipt\.kind must be one of .*, got 'arrived'"):
        MessageReceipt(kind="arrived", message_id="x")


@pytest.mark.parametrize("timeout_s", ["5", 0, math.nan])
def test_the_health_of_an_api_is_asked_within_seconds(timeout_s):
    with pytest.raises(ConfigurationError, match=r"health\.timeout_s must be"):
        VideoApiPoller(**api()).health(timeout_s=timeout_s)


@pytest.mark.parametrize("given", [{"runner": None}, {"runner": Runner}, {"metrics": "no"}])
def test_only_runners_are_observed(given):
    with (
        pytest.raises(ConfigurationError, match="observed"),
        observed(**{"runner": Runner(**parts()), **given}),
    ):
        pass


def test_the_health_of_a_worker_is_not_told_to_everybody_by_an_empty_variable():
    with pytest.raises(ConfigurationError, match="host must be a text, got an empty one: leave it out"):
        HealthServer(Runner(**parts()), 0, "")


@pytest.mark.parametrize("app", [None, "shop.worker:build", Something()])
def test_serve_takes_a_function_that_builds_the_runner(app):
    with pytest.raises(ConfigurationError, match="the app must be a function that builds the runner, got"):
        serve(app)


def test_serve_says_that_it_takes_no_runner():
    with pytest.raises(ConfigurationError, match="got Runner: hand in the function itself"):
        serve(Runner(**parts()))


def test_no_fake_speaks_for_an_api_that_is_named_only():
    with pytest.raises(ConfigurationError, match="each API of FakeProviders must be an ApiDescription, got str"):
        FakeProviders("xai")


@pytest.mark.parametrize("given", [{"public_links": "no"}, {"link_life_s": "60"}, {"api_key": 7}])
def test_fake_providers_refuse_values_of_the_wrong_kind(given):
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        FakeProviders(**given)


# --- on the command line --------------------------------------------------------------------------

HOSTS_MODULE = """
class Poller:
    async def poll(self, job, *, timeout_s):
        return None

def build():
    return Poller()

def nothing():
    return None
"""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runner", "sync", "--poller", "misuse_host:build"], "builds an async poller: use --runner async"),
        (["--poller", "misuse_host:nothing"], "the poller must have a method poll"),
        (["--timeout", "inf"], "--timeout must be a finite number of seconds, got inf"),
        (["--interval", "nan"], "interval_s must be a finite number, got nan"),
        (["--runner", "sync", "--poller", "misuse_host:nothing"], "the poller must have a method poll"),
    ],
)
def test_a_worker_says_in_a_sentence_what_does_not_fit(options, says, tmp_path, monkeypatch):
    (tmp_path / "misuse_host.py").write_text(HOSTS_MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("VIDEOPOLL_ULTRAMSG_TOKEN", "t")
    monkeypatch.setenv("VIDEOPOLL_API_KEY", "k")

    result = CliRunner().invoke(
        build_app(["worker"]), ["worker", "--redis-url", NO_REDIS, "--ultramsg-instance", "i", *options]
    )

    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert re.search(says, result.output)
