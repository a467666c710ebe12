"""The public face: what is exported, and that twins stay alike."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pickle
import subprocess
import sys
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
    ("runner", "queue", "polls"),
    [(Runner, RedisVideoJobQueue, 16), (AsyncRunner, AsyncRedisVideoJobQueue, 100)],
)
def test_each_runner_has_as_many_slots_as_its_docs_say(runner, queue, polls):
    """Threads are dear and tasks are cheap; the signature cannot tell, as the constructor is the same."""
    built = runner(queue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier())

    assert (built.concurrency, built._state.delivery_concurrency) == (polls, polls)
    assert f"{polls} if it is not given" in runner.__doc__
    assert "as many as polls if it is not given" in runner.__doc__
    fewer = runner(queue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier(), concurrency=5)
    assert fewer._state.delivery_concurrency == 5


def test_every_public_name_is_listed_once_and_is_there():
    """Public is listed."""
    names = [name for name in dir(videopoll) if not name.startswith("_")]
    modules = {path.stem for path in Path(videopoll.__file__).parent.iterdir()}

    assert len(videopoll.__all__) == len(set(videopoll.__all__))
    assert set(videopoll.__all__) == {name for name in names if name not in modules}


def test_the_front_door_is_small():
    """What a host composes, tunes, brings and catches at once; the rest is where one looks for it."""
    rooms = [path for path in Path(videopoll.__file__).parent.iterdir() if path.name != "__pycache__"]

    assert len(videopoll.__all__) <= 40
    assert len(rooms) <= 26


def loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after some code."""
    code = f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def rooms(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("videopoll.")}


LAZY = ["videopoll", "videopoll.notifiers", "videopoll.video_api"]
"""The packages that import a module when somebody asks for a name of it."""


def test_an_import_brings_next_to_nothing():
    """A web application that enqueues one job in an hour starts as fast as it did; counted, as times differ."""
    plain, ours = loaded_by("import __future__, typing, importlib.util"), loaded_by("import videopoll")

    assert ours - plain == {"videopoll", "videopoll._lazy"}


def test_a_producer_loads_redis_and_the_queue_and_no_http_client():
    beyond = loaded_by("from videopoll import RedisVideoJobQueue") - loaded_by("import redis, attrs")

    assert packages(beyond) & {"httpx", "httpcore", "aiohttp", "anyio", "ssl"} == set()
    assert rooms(beyond) & {"worker", "video_api", "notifiers", "_http", "tool", "cli", "testing"} == set()
    # 62 when this was written, most of them our own.
    assert len(beyond) <= 75


@pytest.mark.parametrize(
    ("name", "stays_out"),
    [
        ("UltraMsgNotifier", {"notifiers.apprise", "notifiers.webhook", "video_api", "queue", "worker"}),
        ("VideoApiPoller", {"video_api.generator", "video_api.doorbell", "notifiers", "queue", "worker"}),
        ("Runner", {"notifiers", "video_api", "queue", "_http", "tool"}),
    ],
)
def test_a_part_brings_no_other(name, stays_out):
    """A host that has a poller of its own never loads ours."""
    ours = loaded_by(f"from videopoll import {name}")

    assert not {module for module in ours for other in stays_out if f"{module}.".startswith(f"videopoll.{other}.")}


def test_all_public_names_together_bring_neither_clients_nor_extras():
    """They are loaded by whoever polls and sends."""
    everything = packages(loaded_by("from videopoll import *"))

    assert "redis" in everything
    assert everything & {"httpx", "httpcore", "aiohttp", "rich", "typer", "apprise", "openai", "agents"} == set()


def test_a_worker_starts_with_its_own_command_alone():
    """From the start to the first poll it is imports that take the time."""
    ours = loaded_by("from videopoll.cli.app import build_app; build_app(['worker', '--no-history'])")

    commands = {name.rpartition(".")[2] for name in ours if name.startswith("videopoll.cli.commands.")}
    assert commands == {"worker"}
    assert rooms(ours) & {"testing", "tool"} == set()
    assert packages(ours) & {"rich", "httpx", "httpcore", "aiohttp", "prometheus_client"} == set()
    assert "videopoll.video_api.apis" not in ours


def test_a_client_is_loaded_when_the_first_request_needs_one():
    """Which of the three that is, only the request tells."""
    ours = loaded_by("from videopoll import *; VideoApiPoller(api_key='k'); UltraMsgNotifier()")

    assert packages(ours) & {"httpx", "httpcore", "aiohttp"} == set()


@pytest.mark.parametrize("package", LAZY)
def test_what_is_imported_late_is_what_type_checkers_read(package):
    """A name stands in three lists: for type checkers, for readers, and for the import."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    read = {alias.name: node.module for node in guarded.body for alias in node.names}
    (table,) = [node for node in ast.walk(guarded) if isinstance(node, ast.Dict)]
    written = {name: home for home, names in ast.literal_eval(table).items() for name in names.split()}

    assert written == read
    assert set(module.__all__) - {"__version__"} == set(read)
    for name, home in read.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    # A submodule of the same name would take the name's place as soon as somebody imports it.
    assert not {path.stem for path in Path(module.__file__).parent.iterdir()} & set(read)


def test_a_name_that_was_not_asked_for_yet_is_there_all_the_same():
    """For completion, for `hasattr`, for those who patch, and for those who wrote `import videopoll` alone."""
    code = """
from unittest.mock import patch
import videopoll
assert "Runner" in dir(videopoll) and "errors" not in vars(videopoll)
assert hasattr(videopoll, "Runner") and not hasattr(videopoll, "Wanderer")
assert videopoll.errors.QueueError is videopoll.QueueError
with patch("videopoll.notifiers.WebhookNotifier", None):
    assert videopoll.notifiers.WebhookNotifier is None
assert videopoll.notifiers.WebhookNotifier is videopoll.WebhookNotifier
"""
    loaded_by(code)

    with pytest.raises(ImportError, match="cannot import name 'Wanderer' from 'videopoll'"):
        exec("from videopoll import Wanderer")
    with pytest.raises(AttributeError, match=r"module 'videopoll\.notifiers' has no attribute 'CarrierPigeon'"):
        importlib.import_module("videopoll.notifiers").CarrierPigeon  # noqa: B018
    assert pickle.loads(pickle.dumps(RedisVideoJobQueue)) is RedisVideoJobQueue


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

    with pytest.raises(ConfigurationError, match="AsyncRunner"):
        build(RedisVideoJobQueue.from_url("redis://h"), AsyncRedisVideoJobQueue.from_url("redis://h"), poller)


def test_async_runner_refuses_a_sync_queue():
    """A blocking queue would stop the event loop."""
    with pytest.raises(ConfigurationError, match="AsyncRedisVideoJobQueue"):
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
        ({"texts": "es"}, r"texts must be a Texts, got str"),
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

    with pytest.raises(ConfigurationError, match=says):
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
    with pytest.raises(ConfigurationError, match="port must be a whole number of at least 0, got '80'"):
        HealthServer(None, "80")


def test_an_asyncio_poller_without_a_time_limit_is_refused():
    queue = AsyncRedisVideoJobQueue.from_url("redis://h")

    with pytest.raises(ConfigurationError, match=r"poll is called as poll\(job, timeout_s=seconds\)"):
        AsyncRunner(queue, AsyncWithoutTime(), SilentNotifier())


def test_parts_that_do_not_say_what_they_take_are_taken():
    """A mock, or a function of another language, tells of no arguments."""
    Runner(RedisVideoJobQueue.from_url("redis://h"), Whatever(), Whatever())
    AsyncRunner(AsyncRedisVideoJobQueue.from_url("redis://h"), Mock(), Mock())
