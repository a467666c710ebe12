"""The parts of a running videopoll for tests: a queue of either kind, and a worker of either kind in the background."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Self

import attrs
import pytest

from kit.worker_process import spawn
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    DeliveryPolicy,
    PollingStrategy,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
    WhatsAppFactoryNotifier,
    events,
)
from videopoll.testing import FakeUltraMsg, FakeVideoApi, FakeWhatsAppFactory, Reply, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

API_KEY = "a-key-of-the-tests"
TOKEN = "a-token-of-the-tests"
INSTANCE = "instance1150"

FAST = PollingStrategy(
    interval_s=0.2, timeout_s=20.0, initial_delay_s=0.05, backoff_base_s=0.1, backoff_cap_s=0.5, not_found_grace_s=0.3
)
"""The specification's strategy, fifty times as fast."""

QUICK = DeliveryPolicy(backoff_base_s=0.1, backoff_cap_s=0.5, deadline_s=20.0, appear_within_s=0.5, retention_s=60.0)
"""A delivery policy whose waits a test can sit out."""


QUEUES: dict[str, Any] = {}
"""How the queues of tests are built beside what each says: with ``--partitions 3``, in so many."""

EACH_COMBINATION = pytest.mark.parametrize(
    ("kind", "parts"), [("sync", "sync"), ("sync", "both"), ("async", "sync"), ("async", "async")], indirect=["kind"]
)
"""Both runners with every kind of a host's own parts that they take: sync ones, asyncio ones, and those with both sides."""


def part(parts: str, **methods: Any) -> Any:
    """Build a host's own poller, channel or ``resolve`` of one kind from what its methods do.

    A method is a function. One that has to wait is a generator that yields a
    `threading.Event` each time: a sync part then blocks its thread, an asyncio
    one lets the event loop go on.
    """
    made = {}
    for name, method in methods.items():
        if parts in {"sync", "both"}:
            made[name] = _blocking(method)
        if parts in {"async", "both"}:
            made[name if parts == "async" else f"a{name}"] = _waiting(method)
    return type("Part", (), made)()


def function(parts: str, play: Any) -> Any:
    """Build a host's own function of one kind; one of both kinds is a sync one."""
    return getattr(part("async" if parts == "async" else "sync", play=play), "play")  # noqa: B009 - typed as Any


def _blocking(method: Any) -> Any:
    def call(_: Any, *args: Any, **options: Any) -> Any:
        playing = method(*args, **options)
        if not inspect.isgenerator(playing):
            return playing
        return _play(playing)

    return call


def _play(playing: Generator[threading.Event, None, Any]) -> Any:
    try:
        while True:
            next(playing).wait(30)
    except StopIteration as over:
        return over.value


def _waiting(method: Any) -> Any:
    async def call(_: Any, *args: Any, **options: Any) -> Any:
        playing = method(*args, **options)
        if not inspect.isgenerator(playing):
            return playing
        try:
            while True:
                event = next(playing)
                while not event.is_set():  # noqa: ASYNC110 - an event of threads cannot be awaited
                    await asyncio.sleep(0.01)
        except StopIteration as over:
            return over.value

    return call


class Recorder:
    """A hook that remembers events."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        self.events.append(event)

    def of(self, kind: type[events.Event], job_id: str | None = None) -> list[Any]:
        """Give the events of one kind, of one job."""
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if job_id is None or getattr(event, "job_id", None) == job_id]


class Worker:
    """A runner of either kind, working in the background until it is stopped."""

    def __init__(self, kind: str, url: str, prefix: str, poller: Any, notifier: Any, **options: Any) -> None:
        self.kind = kind
        self.recorder = Recorder()
        queue_options = {**QUEUES, **options.pop("queue_options", {})}
        options.setdefault("strategy", FAST)
        options.setdefault("delivery", QUICK)
        # What it writes is its own tests' (test_visible): here it would be noise between the commands that are looked at.
        options.setdefault("visible", False)
        options["hooks"] = [self.recorder, *options.pop("hooks", ())]
        self._make = lambda: (
            Runner(RedisVideoJobQueue.from_url(url, prefix=prefix, **queue_options), poller, notifier, **options)
            if kind == "sync"
            else AsyncRunner(
                AsyncRedisVideoJobQueue.from_url(url, prefix=prefix, **queue_options), poller, notifier, **options
            )
        )
        self.runner: Any = None
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._made = threading.Event()

    def start(self) -> Self:
        """Begin to work."""
        self._made.clear()
        self._thread = threading.Thread(target=self._run, name=f"test-worker-{self.kind}", daemon=True)
        self._thread.start()
        assert self._made.wait(10), "the worker did not come up"
        return self

    def _run(self) -> None:
        try:
            if self.kind == "sync":
                self.runner = self._make()
                self._made.set()
                with self.runner, self.runner._queue:
                    self.runner.run()
            else:
                asyncio.run(self._arun())
        except BaseException as error:  # noqa: BLE001 - the test's thread tells of it
            self.error = error
            self._made.set()

    async def _arun(self) -> None:
        self.runner = self._make()
        self._made.set()
        async with self.runner, self.runner._queue:
            await self.runner.run()

    def stop(self, timeout_s: float = 20.0) -> None:
        """Ask it to stop, and wait until it has."""
        if self._thread is None:
            return
        if self.runner is not None:
            self.runner.request_stop()
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the worker did not stop"
        self._thread = None
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@attrs.define
class World:
    """The outside world, and all that is needed to run workers in it."""

    kind: str
    url: str
    prefix: str
    api: FakeVideoApi
    ultramsg: FakeUltraMsg
    factory: FakeWhatsAppFactory
    workers: list[Worker] = attrs.field(factory=list)

    def poller(self) -> VideoApiPoller:
        """Ask the world's video API."""
        return VideoApiPoller(base_url=self.api.url, api_key=API_KEY)

    def notifier(self) -> RoutingNotifier:
        """Send over the world's messengers, to whom the job's metadata say."""
        return RoutingNotifier.from_metadata(
            {
                "ultramsg": UltraMsgNotifier(base_url=self.ultramsg.url, instance_id=INSTANCE, token=TOKEN),
                "whatsapp_factory": WhatsAppFactoryNotifier(
                    base_url=self.factory.url, instance_id=INSTANCE, token=TOKEN
                ),
            }
        )

    def worker(self, *, poller: Any = None, notifier: Any = None, kind: str | None = None, **options: Any) -> Worker:
        """Build a worker; the world stops it at its end."""
        worker = Worker(
            kind or self.kind,
            self.url,
            self.prefix,
            poller or self.poller(),
            notifier or self.notifier(),
            **options,
        )
        self.workers.append(worker)
        return worker

    def queue(self, **options: Any) -> RedisVideoJobQueue:
        """A producer's queue."""
        return RedisVideoJobQueue.from_url(self.url, prefix=self.prefix, **{**QUEUES, **options})

    def enqueue(
        self, job_id: str = "job_1", *answers: Reply, user: int = 1, channel: str = "ultramsg", **metadata: Any
    ) -> str:
        """Enqueue a job, whose polls are answered so if that is given; return its user's address."""
        if answers:
            self.api.job(job_id, *answers)
        to = phone(user)
        with self.queue() as queue:
            queue.enqueue(
                job_id, conversation_id=f"conversation-{user}", metadata={"channel": channel, "to": to, **metadata}
            )
        return to

    def enqueue_ready(self, job_id: str = "job_1", **options: Any) -> str:
        """Enqueue a job whose video is ready at once; return its user's address."""
        return self.enqueue(job_id, Reply.completed(), **options)

    def enqueue_many(self, *job_ids: str, answer: Reply | None = None) -> list[str]:
        """Enqueue a job for each of as many users; return their addresses."""
        answers = () if answer is None else (answer,)
        return [self.enqueue(job_id, *answers, user=user) for user, job_id in enumerate(job_ids, 1)]

    def process(self, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a worker in a process of its own, to be killed."""
        return spawn(
            kind=self.kind,
            url=self.url,
            prefix=self.prefix,
            api_key=API_KEY,
            ultramsg_url=self.ultramsg.url,
            instance=INSTANCE,
            token=TOKEN,
            **{
                "api_url": self.api.url,
                "factory_url": self.factory.url,
                "lease_s": 0.9,
                "strategy": attrs.asdict(FAST),
                "delivery": attrs.asdict(QUICK) | {"on_unknown": "at_least_once"},
                **QUEUES,
                **settings,
            },
        )


def phone(number: int) -> str:
    """A phone number of its own for each user."""
    return f"5491100{number:06d}"


def until(condition: Callable[[], Any], describe: str, timeout_s: float = 15.0) -> Any:
    """Wait for a condition."""
    return wait_until(condition, timeout_s=timeout_s, describe=describe)


def shut(one: socket.socket) -> None:
    """Close it, and wake whoever waits in accept or recv: a plain close would leave them waiting."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def open_world(kind: str, url: str, prefix: str) -> Iterator[World]:
    """Start the outside world, and stop all workers at its end."""
    with (
        FakeVideoApi(api_key=API_KEY) as api,
        FakeUltraMsg(token=TOKEN, instance_id=INSTANCE) as ultramsg,
        FakeWhatsAppFactory(token=TOKEN, instance_id=INSTANCE) as factory,
    ):
        world = World(kind, url, prefix, api, ultramsg, factory)
        try:
            yield world
        finally:
            for worker in world.workers:
                worker.stop()
