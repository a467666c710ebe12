"""``videopoll demo``: the real library against two local video APIs and two local messengers, over real HTTP.

Nothing here is scripted output: the progress comes from the runner's events,
and the table at the end from what the messengers received.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue as queue_module
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Annotated

import redis
import typer

from videopoll.cli.demo.cases import API_KEY, CASES, INSTANCE, TOKEN, Case, CaseResult, World, judge
from videopoll.cli.demo.table import JobTable, print_results
from videopoll.cli.options import DEFAULT_REDIS_URL, RunnerKind, open_client
from videopoll.cli.output import complain, guarded
from videopoll.events import Event, Hook, JobDeadLettered, JobDelivered
from videopoll.notifiers import RoutingNotifier, UltraMsgNotifier, WhatsAppFactoryNotifier
from videopoll.policies import DeliveryPolicy, PollingStrategy
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.queue.schema import DEFAULT_PREFIX, Keys
from videopoll.testing import EmbeddedRedis, FakeProviders, FakeUltraMsg, FakeWhatsAppFactory, FolderPublisher
from videopoll.video_api import HttpVideoPoller, RoutingPoller
from videopoll.video_api.apis import FAL, VIDEOS
from videopoll.worker.async_runner import AsyncRunner
from videopoll.worker.runner import Runner

__all__ = ["demo"]

APIS = (FAL, VIDEOS)

STRATEGY = PollingStrategy(
    interval_s=1.0, timeout_s=10.0, initial_delay_s=0.5, backoff_base_s=0.5, backoff_cap_s=4.0, not_found_grace_s=1.5
)
"""The specification's strategy, ten times as fast, so that nobody has to wait for five minutes."""

DELIVERY = DeliveryPolicy(backoff_base_s=0.5, backoff_cap_s=2.0, appear_within_s=3.0, deadline_s=20.0)

COMES_UP_WITHIN_S = 10.0

LONGEST_S = 40.0
"""When to stop waiting for jobs that do not end."""


@guarded
def demo(
    *,
    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            help=f"Use this server, e.g. {DEFAULT_REDIS_URL}, under a prefix of the demo's own that is cleaned up after."
            " By default, a server is started for the demo.",
        ),
    ] = None,
    runner: Annotated[RunnerKind, typer.Option("--runner", help="Which runner works: asyncio, or threads.")] = (
        RunnerKind.ASYNC
    ),
) -> None:
    """See all of it work on this machine alone, in less than 20 seconds.

    Starts a Redis server, two video APIs and two messengers, hands jobs to a worker
    that end in every way there is, and shows who received what. It sends nothing
    to anybody. The exit code is 0 only if every job ended as it should.
    """
    # The table tells it all; warnings of the worker in between would tear it apart.
    logging.getLogger("videopoll").addHandler(logging.NullHandler())
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        if redis_url is None:
            server = stack.enter_context(EmbeddedRedis())
            where, url, prefix = f"{server.name} {server.version}", server.url, DEFAULT_PREFIX
        else:
            # The URL may hold a password; in a cluster the prefix has to be a hash tag.
            where, url, prefix = "your Redis", redis_url, f"{{videopoll-demo-{secrets.token_hex(4)}}}"
        world = World(
            providers=stack.enter_context(FakeProviders(*APIS, api_key=API_KEY)),
            ultramsg=stack.enter_context(FakeUltraMsg(token=TOKEN, instance_id=INSTANCE)),
            factory=stack.enter_context(FakeWhatsAppFactory(token=TOKEN, instance_id=INSTANCE)),
            publisher=stack.enter_context(FolderPublisher(stack.enter_context(tempfile.TemporaryDirectory()))),
        )
        queue = stack.enter_context(RedisVideoJobQueue.from_url(url, prefix=prefix))
        if redis_url is not None:
            stack.callback(_clean_up, url, queue.keys)
        table = JobTable(CASES, title=f"{len(CASES)} jobs · {runner.value} runner · {where}")
        results = _play(queue, world, table, kind=runner, url=url, prefix=prefix)
    print_results(results, took_s=time.monotonic() - began_s)
    if not all(result.good for result in results):
        raise typer.Exit(1)


def _play(
    queue: RedisVideoJobQueue, world: World, table: JobTable, *, kind: RunnerKind, url: str, prefix: str
) -> list[CaseResult]:
    """Enqueue the jobs, run a worker until they have ended, and judge the results."""
    ended = Ended(CASES)

    def hook(event: Event) -> None:
        table(event)
        ended(event)

    with table, _working(kind, url, prefix, world, hook) as worker:
        for case in CASES:
            queue.enqueue(case.job_id, conversation_id=case.conversation_id, metadata=case.begin(world))
        until_s = time.monotonic() + LONGEST_S
        while not ended.wait(0.1) and time.monotonic() < until_s and not worker.done():
            pass
    # The worker has stopped: what the messengers have now is all that users get.
    return [judge(world, case, queue.get(case.job_id)) for case in CASES]


class Ended:
    """A hook that knows when the last job has ended."""

    def __init__(self, cases: tuple[Case, ...]) -> None:
        self._left = {case.job_id for case in cases}
        self._none_left = threading.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobDelivered | JobDeadLettered):
            self._left.discard(event.job_id)
            if not self._left:
                self._none_left.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the last job, at most `timeout_s`; return whether it has come."""
        return self._none_left.wait(timeout_s)


@contextlib.contextmanager
def _working(
    kind: RunnerKind, url: str, prefix: str, world: World, hook: Hook
) -> Iterator[concurrent.futures.Future[None]]:
    """Run a worker of either kind in a thread; the future is done early only if the worker ends by itself."""
    poller = RoutingPoller(
        {api.name: HttpVideoPoller(api, base_url=world.providers.base_url(api.name), api_key=API_KEY) for api in APIS},
        strategies={api.name: STRATEGY for api in APIS},
    )
    notifier = RoutingNotifier.from_metadata(
        {
            "ultramsg": UltraMsgNotifier(base_url=world.ultramsg.url, instance_id=INSTANCE, token=TOKEN),
            "whatsapp_factory": WhatsAppFactoryNotifier(base_url=world.factory.url, instance_id=INSTANCE, token=TOKEN),
        }
    )
    runners: queue_module.SimpleQueue[Runner | AsyncRunner] = queue_module.SimpleQueue()

    def work() -> None:
        with (
            RedisVideoJobQueue.from_url(url, prefix=prefix) as queue,
            Runner(
                queue,
                poller,
                notifier,
                publisher=world.publisher,
                strategy=STRATEGY,
                delivery=DELIVERY,
                hooks=[hook],
                visible=False,
            ) as runner,
        ):
            runners.put(runner)
            runner.run()

    async def work_async() -> None:
        async with (
            AsyncRedisVideoJobQueue.from_url(url, prefix=prefix) as queue,
            AsyncRunner(
                queue,
                poller,
                notifier,
                publisher=world.publisher,
                strategy=STRATEGY,
                delivery=DELIVERY,
                hooks=[hook],
                visible=False,
            ) as runner,
        ):
            runners.put(runner)
            await runner.run()

    with concurrent.futures.ThreadPoolExecutor(1, "videopoll-demo") as threads:
        worker = threads.submit((lambda: asyncio.run(work_async())) if kind is RunnerKind.ASYNC else work)
        runner = runners.get(timeout=COMES_UP_WITHIN_S)
        try:
            yield worker
        finally:
            runner.request_stop()
            worker.result()


def _clean_up(url: str, keys: Keys) -> None:
    """Delete every key that the demo can have left."""
    left = {*keys.fixed, keys.dead, keys.letters, keys.sweeper}
    for case in CASES:
        left.update(keys.of_job(case.job_id))
    try:
        with open_client(url, keys.prefix) as client:
            client.delete(*left)
    except redis.RedisError:
        complain(f"the demo's keys could not be deleted: they start with {keys.prefix}, most go within two hours")
