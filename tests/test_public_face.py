"""The public face: what is exported, and that twins stay alike."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from unittest.mock import Mock

import pytest

import videopoll
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    AsyncVideoJobQueue,
    AsyncVideoPoller,
    ConfigurationError,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    SilentNotifier,
    VideoApiPoller,
    VideoJobQueue,
    VideoPoller,
    WebhookNotifier,
    protocols,
)
from videopoll.queue.dead_letters import AsyncDeadLetters, DeadLetters
from videopoll.worker.health_server import HealthServer

TWINS = [
    (RedisVideoJobQueue, AsyncRedisVideoJobQueue),
    (DeadLetters, AsyncDeadLetters),
    (Runner, AsyncRunner),
    (VideoJobQueue, AsyncVideoJobQueue),
    (VideoPoller, AsyncVideoPoller),
    (protocols.Notifier, protocols.AsyncNotifier),
    (protocols.MessageLookup, protocols.AsyncMessageLookup),
]

# What one world needs and the other does not.
ONE_SIDED = {"interrupt", "resume"}


def methods(of: type) -> dict[str, inspect.Signature]:
    """The public methods of a class, with their parameters."""
    return {
        name: inspect.signature(member).replace(return_annotation=None)
        for name, member in inspect.getmembers(of, callable)
        if not name.startswith("_") and inspect.isroutine(member)
    }


@pytest.mark.parametrize(("twin", "other"), TWINS, ids=lambda one: one.__name__)
def test_twins_have_the_same_methods_with_the_same_parameters(twin, other):
    """What is learnt in one world is true in the other."""
    ours, theirs = methods(twin), methods(other)

    assert ours.keys() - ONE_SIDED == theirs.keys() - ONE_SIDED
    for name in ours.keys() & theirs.keys():
        assert list(ours[name].parameters) == list(theirs[name].parameters), name
        defaults = [[one.default for one in side[name].parameters.values()] for side in (ours, theirs)]
        assert defaults[0] == defaults[1], name


def test_runners_take_the_same_options():
    """A composition moves from threads to asyncio without a change."""
    ours, theirs = (list(inspect.signature(kind).parameters) for kind in (Runner, AsyncRunner))

    assert ours == theirs


@pytest.mark.parametrize(
    ("runner", "queue", "polls", "sends"),
    [(Runner, RedisVideoJobQueue, 16, 8), (AsyncRunner, AsyncRedisVideoJobQueue, 100, 32)],
)
def test_each_runner_has_as_many_slots_as_its_docs_say(runner, queue, polls, sends):
    """Threads are dear and tasks are cheap; the signature cannot tell, as the constructor is the same."""
    built = runner(queue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier())

    assert (built.concurrency, built._state.delivery_concurrency) == (polls, sends)
    assert f"{polls} if it is not given" in runner.__doc__
    assert f"{sends} if it is not given" in runner.__doc__


def test_every_public_name_is_listed_once_and_is_there():
    """Public is listed."""
    names = [name for name in dir(videopoll) if not name.startswith("_")]
    modules = {path.stem for path in Path(videopoll.__file__).parent.iterdir()}

    assert len(videopoll.__all__) == len(set(videopoll.__all__))
    assert set(videopoll.__all__) == {name for name in names if name not in modules} - {"annotations"}


def test_the_front_door_is_small():
    """What a host composes, tunes, brings and catches at once; the rest is where one looks for it."""
    rooms = [path for path in Path(videopoll.__file__).parent.iterdir() if path.name != "__pycache__"]

    assert len(videopoll.__all__) <= 40
    assert len(rooms) <= 26


def test_only_the_core_and_the_scripts_branch_on_a_state():
    """Judgements about a job have one home: a runner that compares states would be a second one."""
    source = Path(videopoll.__file__).parent
    runners = ("worker/base.py", "worker/runner.py", "worker/async_runner.py", "worker/state.py")
    for name in (*runners, "queue/redis_queue.py"):
        tree = ast.parse((source / name).read_text(encoding="utf-8"))
        compared = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare | ast.MatchValue)
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute)
            and isinstance(part.value, ast.Name)
            and part.value.id in {"JobState", "OutcomeKind"}
        ]
        assert not compared, name


class AsyncOnly:
    """A host's part that has to be awaited."""

    async def notify(self, message):
        """Send nothing."""

    async def poll(self, job, *, timeout_s):
        """Ask nobody."""


@pytest.mark.parametrize(
    "build",
    [
        lambda queue, aqueue, poller: Runner(queue, poller, AsyncOnly()),
        lambda queue, aqueue, poller: Runner(queue, AsyncOnly(), SilentNotifier()),
        lambda queue, aqueue, poller: Runner(aqueue, poller, SilentNotifier()),
    ],
    ids=["notifier", "poller", "queue"],
)
def test_runner_refuses_asyncio_parts_and_names_the_one_that_takes_them(build):
    """The mistake is told when it is made, and with the way out."""
    poller = VideoApiPoller(api_key="key")

    with pytest.raises(TypeError, match="AsyncRunner"):
        build(RedisVideoJobQueue.from_url("redis://h"), AsyncRedisVideoJobQueue.from_url("redis://h"), poller)


def test_async_runner_refuses_a_sync_queue():
    """A blocking queue would stop the event loop."""
    with pytest.raises(TypeError, match="AsyncRedisVideoJobQueue"):
        AsyncRunner(RedisVideoJobQueue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier())


class WithoutTime:
    """A poller that knows of no time limit."""

    def poll(self, job):
        """Ask nobody."""


class AsyncWithoutTime:
    """The same, to be awaited."""

    async def poll(self, job):
        """Ask nobody."""


class WithoutMessage:
    """A notifier that is not told what to send."""

    def notify(self):
        """Send nothing."""


class Whatever:
    """A host's part that passes all on."""

    def poll(self, *args, **options):
        """Ask nobody."""

    def notify(self, *args, **options):
        """Send nothing."""


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (
            {"poller": WithoutTime()},
            r"WithoutTime\.poll is called as poll\(job, timeout_s=seconds\): let it take .* not job$",
        ),
        ({"poller": WithoutTime}, r"WithoutTime is a class: build one of it"),
        ({"notifier": WithoutMessage()}, r"WithoutMessage\.notify is called as notify\(message\): .* not nothing$"),
        ({"notifier": SilentNotifier}, r"SilentNotifier is a class: build one of it"),
        ({"poller": object()}, r"the poller must have a method poll\(\), got object"),
        ({"notifier": None}, r"the notifier must have a method notify\(\), got NoneType"),
        ({"strategy": 10}, r"strategy must be a PollingStrategy, got int"),
        ({"lease": 12.0}, r"lease must be a LeasePolicy, got float"),
        ({"delivery": {}}, r"delivery must be a DeliveryPolicy, got dict"),
        ({"texts": "es"}, r"texts must be Texts, got str"),
        ({"hooks": print}, r"hooks must be a list of functions of an event"),
        ({"hooks": ["print"]}, r"a hook must be a function of an event, got str"),
        ({"grace_s": "10"}, r"grace_s must be a finite number of seconds, got '10' \(a string: convert it\)"),
        ({"grace_s": -1}, r"grace_s must be at least 0, got -1"),
        ({"concurrency": "4"}, r"concurrency must be a whole number of at least 1"),
        ({"clock": 0.0}, r"clock must be a Clock, got float"),
    ],
)
@pytest.mark.parametrize("runner", [Runner, AsyncRunner])
def test_what_a_runner_cannot_work_with_is_refused_when_it_is_built(runner, parts, says):
    """And not at the first poll, in a worker that runs already."""
    queue = (RedisVideoJobQueue if runner is Runner else AsyncRedisVideoJobQueue).from_url("redis://h")
    parts = {"poller": Whatever(), "notifier": Whatever(), **parts}

    with pytest.raises((TypeError, ValueError), match=says):
        runner(queue, parts.pop("poller"), parts.pop("notifier"), **parts)


@pytest.mark.parametrize(("runner", "queue"), [(Runner, RedisVideoJobQueue), (AsyncRunner, AsyncRedisVideoJobQueue)])
def test_a_class_in_place_of_a_queue_is_refused(runner, queue):
    with pytest.raises(ConfigurationError, match="RedisVideoJobQueue is a class: build one of it"):
        runner(queue, Whatever(), Whatever())


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        (["ultramsg"], "in a mapping from its name to its notifier"),
        ({}, "at least one channel"),
        ({"silent": SilentNotifier}, "the channel 'silent' .* it is a class: build one of it"),
        ({"silent": None}, "the channel 'silent' .* it has no method 'notify'"),
    ],
)
def test_a_router_takes_notifiers_by_name(channels, says):
    with pytest.raises(ConfigurationError, match=says):
        RoutingNotifier(channels, resolve=print)


def test_a_webhook_without_a_secret_and_a_port_that_is_none_are_refused():
    with pytest.raises(ConfigurationError, match="at least one secret"):
        WebhookNotifier(url="https://x.example", secret=None)
    with pytest.raises(ConfigurationError, match="choose another port"):
        HealthServer(None, "80")


def test_an_asyncio_poller_without_a_time_limit_is_refused():
    queue = AsyncRedisVideoJobQueue.from_url("redis://h")

    with pytest.raises(ConfigurationError, match=r"poll is called as poll\(job, timeout_s=seconds\)"):
        AsyncRunner(queue, AsyncWithoutTime(), SilentNotifier())


def test_parts_that_do_not_say_what_they_take_are_taken():
    """A mock, or a function of another language, tells of no arguments."""
    Runner(RedisVideoJobQueue.from_url("redis://h"), Whatever(), Whatever())
    AsyncRunner(AsyncRedisVideoJobQueue.from_url("redis://h"), Mock(), Mock())
