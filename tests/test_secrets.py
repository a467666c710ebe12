"""Texts of others are shown to who asks for them, and nowhere else.

Markers go in by every path on which free text comes from outside, and every
output that nobody asked for is looked through for them. Each marker is one that
the old guesses (known values, numbers, URLs, credentials) do not recognise.
"""

from __future__ import annotations

import io
import json
import logging
import re
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import pytest
import redis
from typer.testing import CliRunner

import videopoll.cli.commands.dead
import videopoll.core.report
import videopoll.events
import videopoll.queue.history
import videopoll.queue.history_calls
import videopoll.queue.scripts
import videopoll.worker.host_parts
from kit import API_KEY, INSTANCE, QUICK, TOKEN, open_world, phone, until
from videopoll import (
    CallbackNotifier,
    NotSentError,
    QueueError,
    Recipient,
    RedisVideoJobQueue,
    RefusedError,
    RoutingNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
    events,
)
from videopoll.cli.app import build_app
from videopoll.cli.describe import describe_entry
from videopoll.events import show_texts
from videopoll.jobs import JobState
from videopoll.messages import Delivered, LookupResult, NotSent, Refused, Unknown
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoReady, VideoWorking
from videopoll.observe.log_setup import JsonFormatter
from videopoll.observe.metrics import OpenTelemetryHook, PrometheusHook
from videopoll.queue.history import RedisHistory
from videopoll.queue.schema import Keys
from videopoll.testing import FakeVideoApi, Reply
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import GenerationErrorCode, GenerationFailed, VideoApiGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit import World

prometheus = pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
sdk_trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")

MARK = "zqv"
"""Every marker begins like this, and nothing else does."""

PROMPT = f"a {MARK} wish about the sea and a very long walk along it, " * 3
SIGNED = f"https://files.example/{MARK}-path.mp4?signature={MARK}sig"


def marker(path: str) -> str:
    """Make the marker of a path: plain words, in no form that a guess would find."""
    return f"{MARK} {path} said so"


def quoting(path: str) -> str:
    """Quote the prompt in another case and with other spaces, beyond its first 100 characters, and all that is private."""
    return f"{marker(path)}: {PROMPT.upper().replace(' ', '  ')} for +{phone(1)} at {SIGNED} with {TOKEN}"


class WordyError(Exception):
    """An exception of a host's, whose every text quotes."""

    def __init__(self, path: str) -> None:
        super().__init__(marker(path))
        self.add_note(marker(f"note of {path}"))

    def __repr__(self) -> str:
        return f"Wordy({self.args[0]})"


def raise_chained(path: str) -> None:
    """Raise with a cause, a context and a group in it; the line of source quotes, too."""
    first, one, last = (WordyError(f"{which} {path}") for which in ("context of", "one of", "the"))
    group = ExceptionGroup(marker(f"group of {path}"), [one, ValueError("zqv line of source")])
    group.__context__ = first
    raise last from group


class Poller:
    """A host's poller: one of ours for most jobs, and one with words of its own for some."""

    def __init__(self, world: World) -> None:
        self._ours = world.poller()
        self._polls: dict[str, int] = {}

    def poll(self, job: Any, *, timeout_s: float) -> Any:
        number = self._polls[job.job_id] = self._polls.get(job.job_id, 0) + 1
        match job.job_id, number:
            case "poller_raises", 1:
                raise_chained("poller")
            case "poller_raises", _:
                return VideoFailed(quoting("failure of a host"))
            case "poller_faults", 1:
                return Fault(FaultKind.SERVER, quoting("fault of a host"))
            case "poller_faults", 2:
                return VideoWorking(f"{MARK} 7 word of a host")
            case "poller_faults", _:
                return VideoReady(SIGNED, marker("file id of a host"), marker("timestamp of a host"))
        return self._ours.poll(job, timeout_s=timeout_s)


class Finder:
    """A host's channel that does not know, and whose look-up raises."""

    def notify(self, message: Any) -> Any:
        return Unknown(quoting("unknown of a channel"))

    def look_up(self, message: Any) -> LookupResult:
        raise_chained("look_up")
        raise AssertionError


def raising(error: BaseException) -> Callable[[Any], Any]:
    def notify(_: Any) -> Any:
        raise error

    return notify


CHANNELS: dict[str, Any] = {
    "refused": CallbackNotifier(lambda _: Refused(quoting("refusal of a channel"), channel=marker("name"))),
    "not_sent": CallbackNotifier(lambda _: NotSent(quoting("not sent of a channel"))),
    "finder": Finder(),
    "delivered": CallbackNotifier(lambda _: Delivered(marker("message id"), quoting("detail of a channel"))),
    "raises": CallbackNotifier(lambda _: raise_chained("channel")),
    "raises_refused": CallbackNotifier(raising(RefusedError(quoting("refused error")))),
    "raises_not_sent": CallbackNotifier(raising(NotSentError(quoting("not sent error")))),
    "no_receipt": CallbackNotifier(lambda _: marker("no receipt")),
}


def resolve(conversation_id: str) -> Any:
    """Find a recipient, as a host does: the conversation names the channel."""
    if conversation_id == "lost":
        raise_chained("resolver")
    if conversation_id == "names_no_channel":
        return Recipient(channel=marker("channel that is not here"), to=phone(1), token=TOKEN)
    if conversation_id == "no_recipient":
        return marker("no recipient")
    if conversation_id == "bad_number":
        return Recipient(channel="ultramsg", to=marker("number"), instance_id=INSTANCE, token=TOKEN)
    return Recipient(channel=conversation_id, to=phone(1), instance_id=INSTANCE, token=TOKEN, reply_to=marker("quote"))


def hook_that_raises(event: events.Event) -> None:
    if isinstance(event, events.JobConcluded):
        raise_chained("hook")


JOBS = {
    # Texts of the API.
    "api_failed": ("ultramsg", Reply.failed(quoting("error of the API"))),
    "api_nested": (
        "ultramsg",
        Reply(status=200, body={"status": "failed", "error": {"message": quoting("nested error")}}),
    ),
    "api_400": ("ultramsg", Reply(status=400, body={"error": quoting("error 400")})),
    "api_word": ("ultramsg", Reply.processing(f"{MARK} 7 new word"), Reply.completed(SIGNED)),
    "api_aborted": ("ultramsg", Reply(status=200, body={"status": f"{MARK} 7 last word", "error": quoting("end")})),
    "api_blocked": ("ultramsg", Reply(status=403, body=quoting("firewall").encode()), Reply.completed(SIGNED)),
    "api_page": ("ultramsg", Reply(status=200, body=quoting("page").encode()), Reply.completed(SIGNED)),
    "api_bad_url": ("ultramsg", Reply(status=200, body={"status": "completed", "videoUrl": f"ftp://{MARK}.example/x"})),
    "api_503": ("ultramsg", Reply(status=503, body={"error": quoting("error 503")}), Reply.completed(SIGNED)),
    # Texts of a host's poller.
    "poller_raises": ("ultramsg",),
    "poller_faults": ("ultramsg",),
    # Texts of channels and of the resolver.
    **{f"channel_{name}": (name, Reply.completed(SIGNED)) for name in CHANNELS},
    "messenger_error": ("messenger", Reply.completed(SIGNED)),
    **{
        f"resolve_{name}": (name, Reply.completed(SIGNED))
        for name in ("lost", "names_no_channel", "no_recipient", "bad_number")
    },
}


@attrs.define
class Outputs:
    """Everything that was said where nobody had asked, and what was shown to who did."""

    unasked: dict[str, str] = attrs.field(factory=dict)
    asked: dict[str, str] = attrs.field(factory=dict)

    def add(self, name: str, *values: object) -> None:
        self.unasked[name] = self.unasked.get(name, "") + "\n".join(str(value) for value in values)

    def leaks(self) -> dict[str, str]:
        """Give where a marker or a secret shows, with a piece of it."""
        found = {}
        secrets = (MARK, API_KEY, TOKEN, phone(1))
        for name, text in self.unasked.items():
            at = next((text.lower().find(one) for one in secrets if one in text.lower()), -1)
            if at >= 0:
                found[name] = text[max(0, at - 200) : at + 100]
        return found


def everything(world: World) -> Outputs:
    """Run a worker, a tool and the command line with markers on every path; give all that was said."""
    outputs = Outputs()
    spans, registry = sdk_spans(), prometheus.CollectorRegistry()
    tracers = sdk_trace.TracerProvider()
    tracers.add_span_processor(spans[0])
    with listening(outputs), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for job_id, (_, *replies) in JOBS.items():
            world.api.job(job_id, *(replies or [Reply.completed(SIGNED)]))
        world.ultramsg.fail_every(1, Reply.json({"error": quoting("error of a messenger")}), path="other/messages/")
        with RedisHistory(world.url, prefix=world.prefix) as history, world.queue(hooks=[history]) as queue:
            for job_id, (conversation, *_) in JOBS.items():
                metadata = {"prompt": PROMPT, "deep": {"wish": [marker("metadata")], marker("name"): 1}}
                queue.enqueue(job_id, conversation_id=conversation, metadata=metadata)
            ours = UltraMsgNotifier(base_url=world.ultramsg.url, instance_id=INSTANCE, token=TOKEN)
            client = httpx.Client()  # It logs URLs, and that of an instance's state has the token in it.
            other = UltraMsgNotifier(base_url=world.ultramsg.url, client=client)
            channels = {"ultramsg": ours, "messenger": _Instead(other), **CHANNELS}
            worker = world.worker(
                poller=Poller(world),
                notifier=RoutingNotifier(channels, resolve=resolve),
                delivery=attrs.evolve(QUICK, max_attempts=2, unknown_attempts=1, appear_within_s=0.0, deadline_s=3.0),
                hooks=[
                    history,
                    hook_that_raises,
                    PrometheusHook(registry),
                    OpenTelemetryHook(tracer_provider=tracers),
                ],
            )
            with worker:
                ends = (events.JobDelivered, events.JobDeadLettered)
                until(
                    lambda: {one.job_id for one in worker.recorder.events if isinstance(one, ends)} == set(JOBS),
                    "every job has ended",
                    40,
                )
            history.close()
            client.close()
            letters = queue.dead_letters.list()
            views = [queue.get(job_id) for job_id in JOBS]
            outputs.add("repr of what Redis holds", letters, views, [letter.entry for letter in letters])
        tool(outputs, world)
        refusals(outputs)
        values(outputs)
        command_line(outputs, world)
    outputs.add("events", *worker.recorder.events, *(attrs.asdict(one) for one in worker.recorder.events))
    outputs.add("metrics", prometheus.generate_latest(registry).decode())
    outputs.add("spans", *(span.to_json() for span in spans[1].get_finished_spans()))
    outputs.add("warnings", *(one.message for one in warned))
    with redis.Redis.from_url(world.url) as client:
        stream = client.xrange(Keys(world.prefix).history)
        outputs.add("stream", *({name: one for name, one in fields.items() if name != b"text"} for _, fields in stream))
    with RedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue:
        outputs.add("repr of the history", queue.history(limit=1000))
        outputs.add(
            "repr of lists",
            queue.list_jobs(states=[one for one in JobState if one is not JobState.ORPHANED], limit=1000),
            queue.workers(),
        )
        outputs.asked["history"] = "".join(one.text or "" for one in queue.history("api_failed"))
    assert len(spans[1].get_finished_spans()) > len(JOBS)
    return outputs


class _Instead:
    """UltraMsg for an instance whose every message is refused in words of its own."""

    def __init__(self, notifier: UltraMsgNotifier) -> None:
        self._notifier = notifier

    def notify(self, message: Any) -> Any:
        recipient = attrs.evolve(message.recipient, instance_id="other", reply_to=None)
        return self._notifier.notify(attrs.evolve(message, recipient=recipient))


def sdk_spans() -> tuple[Any, Any]:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    return SimpleSpanProcessor(exporter), exporter


class listening:  # noqa: N801 - reads as a verb where it is used
    """Listens to every logger, in both forms."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def __enter__(self) -> None:
        self._written = {"log": io.StringIO(), "log in JSON": io.StringIO()}
        self._handlers = [logging.StreamHandler(one) for one in self._written.values()]
        self._handlers[0].setFormatter(
            logging.Formatter("%(name)s %(message)s %(vp_event)s", defaults={"vp_event": ""})
        )
        self._handlers[1].setFormatter(JsonFormatter())
        root = logging.getLogger()
        self._levels = {logger: logger.level for logger in [root, *map(logging.getLogger, root.manager.loggerDict)]}
        for logger in self._levels:
            logger.setLevel(logging.DEBUG)
        for handler in self._handlers:
            root.addHandler(handler)

    def __exit__(self, *_: object) -> None:
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
        for logger, level in self._levels.items():
            logger.setLevel(level)
        for name, written in self._written.items():
            self._outputs.add(name, written.getvalue())


def tool(outputs: Outputs, world: World) -> None:
    """Call the tool with parts that fail in words of their own."""

    class Generator:
        def generate(self, request: Any) -> Any:
            raise_chained("generator")

    arguments = json.dumps(
        {"prompt": PROMPT, "messageToUser": marker("message"), "aspectRatio": None, "negativePrompt": None}
        | {"modelSelected": 2}
    )
    teller = CallbackNotifier(lambda _: Refused(quoting("early message")))
    failing = FakeVideoApi(api_key=API_KEY)
    with failing:
        failing.fail_every(
            1, Reply(status=400, body={"error": quoting("error of a generation")}), path="/generate-video"
        )
        generator = VideoApiGenerator(base_url=failing.url, api_key=API_KEY)
        with world.queue() as queue:
            for number, part in enumerate((Generator(), generator)):
                made = VideoGeneratorTool(queue, part, notifier=teller)
                outputs.add(
                    "repr of the tool", made, made.call(arguments, conversation_id="c", call_id=f"call_{number}")
                )
        generator.close()


def refusals(outputs: Outputs) -> None:
    """Have a client raise what Redis says when it quotes its arguments."""

    class Client:
        def execute_command(self, *words: object) -> None:
            msg = f"ERR unknown command 'X', with args beginning with: {marker('argument')}"
            raise redis.ResponseError(msg)

    call = videopoll.queue.scripts.ScriptCall(videopoll.queue.history_calls.BEAT, (), (), lambda reply: reply)
    try:
        videopoll.queue.scripts.run(videopoll.queue.scripts.evaluate(Client(), call))
    except QueueError as error:
        outputs.add("exceptions of the queue", error, repr(error), *traceback.format_exception(error))
    else:
        raise AssertionError


def values(outputs: Outputs) -> None:
    """Write every public value with words of others in it."""
    text = marker("value")
    made = [
        VideoWorking(text, error=text),
        VideoFailed(text, text),
        VideoReady(SIGNED, text, text),
        Fault(FaultKind.SERVER, text),
        Delivered(text, text, channel=text),
        NotSent(text, channel=text),
        Refused(text, channel=text),
        Unknown(text, channel=text),
        GenerationFailed(code=GenerationErrorCode.API_ERROR, detail=text),
        Recipient(channel="ultramsg", to=text, token=text, reply_to=text),
        VideoApiPoller(api_key=API_KEY),
        UltraMsgNotifier(instance_id=INSTANCE, token=TOKEN),
    ]
    outputs.add("repr of values", *map(repr, made))


def command_line(outputs: Outputs, world: World) -> None:
    """Look at the lists, and ask for one job and one letter."""

    def say(*words: str) -> str:
        result = CliRunner().invoke(build_app(words), [*words, "--redis-url", world.url, "--prefix", world.prefix])
        return result.output

    outputs.add("dead list", say("dead", "list"), say("dead", "list", "--json"))
    outputs.add("watch", say("watch", "--for", "0"), say("watch", "--for", "0", "--json"))
    outputs.add("status", say("status", "--no-scan", "--api-url", world.api.url))
    outputs.add("errors of commands", say("dead", "show", "no-such"), say("explain", "no-such"))
    outputs.asked["explain"] = "".join(
        say("explain", job_id) for job_id in ("api_failed", "poller_raises", "channel_refused", "api_word")
    )
    outputs.asked["dead show"] = say("dead", "show", "channel_refused") + say("dead", "show", "channel_raises")


@pytest.fixture
def redis_world(redis_url, prefix) -> Iterator[World]:
    """One with threads, for what needs to be shown once only."""
    yield from open_world("sync", redis_url, prefix)


def test_words_of_others_show_in_no_output_that_nobody_asked_for(world):
    """Whoever reads the log, the metrics or the lists learns codes and our own words; who asks learns all."""
    outputs = everything(world)
    assert outputs.leaks() == {}
    assert min(len(text) for name, text in outputs.unasked.items() if name != "warnings") > 20
    for name, texts in {
        "history": ["error of the API said so"],
        "explain": ["error of the API said so", "the poller said so", "refusal of a channel said so", "7 new word"],
        "dead show": ["refusal of a channel said so", "the channel said so"],
    }.items():
        for text in texts:
            assert text in outputs.asked[name], name


def test_the_log_says_in_our_words_what_happened(redis_world):
    """It has to be of use without them."""
    log = everything(redis_world).unasked["log"]
    for said in (
        "ended without a video: failed (HTTP 400)",
        "Something in front of the video API refuses us (attempt 1): HTTP 403",
        "HTTP 200: not JSON",
        "Send 1 as video: refused (in words of others, which videopoll explain shows)",
        "resolve raised WordyError",
        "resolve named a channel that is not here",
        "the poller raised WordyError",
        "An event hook failed on JobConcluded",
        "in raise_chained\nWordyError",
        "its video URL cannot be delivered: it is not http or https",
    ):
        assert said in log, said
    # On a busy machine a second may have passed.
    assert re.search(r"No answer from the video API \(attempt 1, elapsed: [0-9]s\): HTTP 503", log)


def test_a_host_may_have_them_shown(redis_world):
    """With one switch, for as long as somebody looks for something."""
    show_texts()
    try:
        outputs = everything(redis_world)
    finally:
        show_texts(False)
    assert {"log", "log in JSON", "events", "dead list", "repr of values"} <= set(outputs.leaks())
    assert "error of the API said so" in outputs.unasked["log"]
    assert "zqv line of source" in outputs.unasked["log"]


def plain_trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def telling_all(tell: Callable[..., Any]) -> Callable[..., Any]:
    def told(event: events.Event) -> Any:
        found = tell(event)
        return found and (found[0], found[1], {**found[2], "reason": quoting("text")})

    return told


TOOL = "videopoll.tool.video_generator_tool"

GUARDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "own words of reasons": (
        {"videopoll._reasons.told": lambda reason: None if reason is None else str(reason)},
        {"log", "log in JSON", "events", "stream", "dead list", "repr of values"},
    ),
    "status words": (
        {"videopoll.core.report.shown_word": str, "videopoll.queue.history.shown_word": str},
        {"log", "events", "stream"},
    ),
    "words in repr": ({"videopoll.observations.shown_word": str}, {"repr of values"}),
    "names of channels": ({"videopoll.messages.shown_name": str}, {"repr of values"}),
    "traces of parts": ({"videopoll.worker.host_parts.trace_of": plain_trace}, {"log", "log in JSON"}),
    "traces of hooks": ({"videopoll.events.trace_of": plain_trace}, {"log"}),
    "codes of Redis": ({"videopoll.queue.errors._codes": lambda _, text: text}, {"exceptions of the queue"}),
    "causes of Redis": ({"videopoll.queue.errors.cause_of": lambda error: error}, {"exceptions of the queue"}),
    "exceptions of the tool": ({f"{TOOL}._shown": str}, {"log"}),
    "receipts of the tool": ({f"{TOOL}._shown_receipt": lambda receipt: receipt.reason}, {"log"}),
    "details of generations": ({f"{TOOL}.told_or_withheld": str}, {"log"}),
    "texts beside events": ({"videopoll.queue.history._tell": telling_all(videopoll.queue.history._tell)}, {"stream"}),
    "dead letters in a list": (
        {"videopoll.cli.commands.dead._listed": videopoll.cli.commands.dead._describe},
        {"dead list"},
    ),
    "what watch tells": (
        {"videopoll.cli.commands.watch.describe_entry": lambda entry: describe_entry(entry, texts=True)},
        {"watch"},
    ),
    "logs of HTTP libraries": ({"videopoll._http.log_filter._Filter.filter": lambda *_: True}, {"log"}),
}
"""What has to be taken out for each guard, and where that shows at least."""


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_that_is_taken_out_is_noticed(redis_world, monkeypatch, guard):
    """A test that cannot fail would prove nothing."""
    patches, shows = GUARDS[guard]
    for target, instead in patches.items():
        monkeypatch.setattr(target, instead)
    assert shows <= set(everything(redis_world).leaks())
