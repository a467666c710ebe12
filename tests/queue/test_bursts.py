"""Many calls at once in one process: they wait for a connection instead of failing, and all waits share one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit import until
from videopoll import AsyncRedisVideoJobQueue, LeasePolicy, OutcomeKind, PollingStrategy, RedisVideoJobQueue
from videopoll.core.flow import Flow, acall, adrive, do, drive
from videopoll.core.flow import call as call_now
from videopoll.errors import ConfigurationError, JobNotFoundError, QueueUnavailableError, VideopollError
from videopoll.jobs import EnqueueResult
from videopoll.queue import waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALM_S = 30.0
"""Longer than any of these tests may wait for something."""


class Burst:
    """A process that makes many calls at once, and a look at its server from outside."""

    def __init__(self, kind: str, call: Any, url: str, prefix: str) -> None:
        self.kind, self.call, self.url, self.prefix = kind, call, url, prefix
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.other = RedisVideoJobQueue.from_url(url, prefix=prefix)
        self.pause = time.sleep if kind == "sync" else asyncio.sleep
        self._opened: list[Any] = []

    def queue(self, client: Any = None, *, url: str | None = None, **options: Any) -> Any:
        """Build a queue of either kind, from its URL or on a client of the host; with time, on a busy machine too."""
        if client is None:
            options.setdefault("front_timeout_s", CALM_S)
        twin = RedisVideoJobQueue if self.kind == "sync" else AsyncRedisVideoJobQueue
        build = twin if client else twin.from_url
        queue = build(client or url or self.url, prefix=self.prefix, **options)
        self._opened.append(queue.close)
        return queue

    def hosts_client(self, pool: str = "ConnectionPool", **options: Any) -> Any:
        """Build a client of the host, with a pool of its own kind."""
        module = redis if self.kind == "sync" else redis.asyncio
        retry = Retry(NoBackoff(), 0) if self.kind == "sync" else AsyncRetry(NoBackoff(), 0)
        client = module.Redis.from_pool(getattr(module, pool).from_url(self.url, retry=retry, **options))
        self._opened.append(client.close if self.kind == "sync" else client.aclose)
        return client

    def close(self) -> None:
        """Close what was opened."""
        for close in self._opened:
            self.call(close())
        self.other.close()
        self.client.close()

    def at_once(self, doing: list[Callable[[], Any]]) -> list[Any]:
        """Make many calls at the same time, and return what each gave or raised."""
        if self.kind == "async":
            return self.call(_gathered(doing))
        together = threading.Barrier(len(doing))

        def one(do: Callable[[], Any]) -> Any:
            together.wait(CALM_S)
            try:
                return do()
            except VideopollError as error:
                return error

        with ThreadPoolExecutor(len(doing)) as threads:
            return list(threads.map(one, doing))

    def enqueued(self, queue: Any, number: int) -> list[Any]:
        """Enqueue so many jobs at once, each in a call of its own."""
        return self.at_once([lambda n=n: queue.enqueue(f"burst_{n}", conversation_id="c") for n in range(number)])

    @contextlib.contextmanager
    def meanwhile(self, doing: list[Callable[[], Any]]) -> Iterator[list[Any]]:
        """Make many calls at the same time as what is in the block; the list has what each gave when that is over."""
        results: list[Any] = []
        work = threading.Thread(target=lambda: results.extend(self.at_once(doing)))
        work.start()
        try:
            yield results
        finally:
            work.join(CALM_S)
            assert not work.is_alive()

    def hold(self, client: Any, number: int) -> Callable[[], None]:
        """Take connections out of a client's pool; return what puts them back."""
        if self.kind == "sync":
            held = [client.client() for _ in range(number)]
        else:
            held = [self.call(client.client().initialize()) for _ in range(number)]

        def put_back() -> None:
            for one in held:
                self.call(one.close() if self.kind == "sync" else one.aclose())

        return put_back

    def carry_out(self, flow: Flow[Any]) -> Any:
        """Carry out a flow: its value, or what is to be awaited for it."""
        return drive(flow, call_now) if self.kind == "sync" else adrive(flow, acall)

    def until_listened_for(self, ids: list[str]) -> Flow[None]:
        """Go on once somebody listens for the ends of all these jobs."""
        while self.listened_for(ids) < len(ids):
            yield from do(self.pause, 0.01)

    def threads(self) -> set[str]:
        """Return the names of the threads that there are."""
        return {thread.name for thread in threading.enumerate()}

    def tasks_here(self) -> set[str]:
        """Return the names of the other tasks of the running event loop, if there is one."""
        if self.kind == "sync":
            return set()
        return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    def tasks(self) -> set[str]:
        """Return the names of the tasks that are left in the test's event loop."""

        async def names() -> set[str]:
            return self.tasks_here()

        return self.call(names()) if self.kind == "async" else set()

    def connections(self) -> int:
        """Count the connections of the server."""
        return len(self.client.client_list())

    def subscribers(self) -> int:
        """Count the connections that are subscribed to something."""
        return len(self.client.client_list(_type="pubsub"))

    def listened_for(self, ids: list[str]) -> int:
        """Count the jobs whose end somebody listens for."""
        return sum(count for _, count in self.client.pubsub_numsub(*map(self.other.keys.ended, ids)))


async def _gathered(doing: list[Callable[[], Any]]) -> list[Any]:
    return await asyncio.gather(*(do() for do in doing), return_exceptions=True)


@pytest.fixture
def burst(kind, call, redis_url, prefix) -> Iterator[Burst]:
    """A process of either kind."""
    burst = Burst(kind, call, redis_url, prefix)
    yield burst
    burst.close()


@pytest.fixture
def no_looks(monkeypatch) -> Iterator[None]:
    """Waits look at the keys when they are told to, and not from time to time: the test is over long before."""
    monkeypatch.setattr(waits, "LOOK_EVERY_S", CALM_S)
    began_s = time.monotonic()
    yield
    assert time.monotonic() - began_s < CALM_S - 5


def ends(results: list[Any]) -> set[Any]:
    """Return the kinds of outcomes that there are among results; anything else as it is."""
    return {getattr(result, "kind", result) for result in results}


# --- producers ---


@pytest.mark.parametrize("most", [{}, {"max_connections": 1}])
def test_two_hundred_enqueues_at_once_are_all_taken(burst, most):
    """They wait for each other's connections, as many as there are."""
    queue = burst.queue(**most)

    results = burst.enqueued(queue, 200)

    assert set(results) == {EnqueueResult.CREATED}


def test_a_process_holds_no_more_connections_than_it_may(burst):
    """Servers of a small plan take 20 or 30 in all."""
    queue = burst.queue(max_connections=3)
    before = burst.connections()

    burst.enqueued(queue, 100)

    assert burst.connections() - before <= 3


def test_the_url_may_say_how_many_connections(burst):
    """What stands in the URL goes before what stands in the code, as everywhere in it."""
    queue = burst.queue(url=f"{burst.url}?max_connections=2", max_connections=50)
    before = burst.connections()

    results = burst.at_once([lambda n=n: queue.get(f"job_{n}") for n in range(50)])

    assert set(results) == {None}
    assert burst.connections() - before <= 2


@pytest.mark.parametrize("most", [0, -1, 1.5, "many", True, None])
def test_a_number_of_connections_that_cannot_be_is_refused(burst, most):
    """Before anything is opened."""
    with pytest.raises(ConfigurationError, match="max_connections"):
        burst.queue(max_connections=most)


def test_a_full_pool_is_told_from_an_absent_server(burst):
    """Within the time limit, and once: a second attempt would wait for the same again."""
    queue = burst.queue(front_timeout_s=0.3, max_connections=2)
    put_back = burst.hold(queue._front, 2)
    began_s = time.monotonic()

    with pytest.raises(QueueUnavailableError, match="is in use") as caught:
        burst.call(queue.enqueue("job_1", conversation_id="c"))

    assert 0.25 < time.monotonic() - began_s < 0.55
    assert "max_connections" in str(caught.value)
    assert "reach" not in str(caught.value)
    put_back()
    assert burst.call(queue.enqueue("job_1", conversation_id="c")) is EnqueueResult.CREATED


def test_an_absent_server_is_told_from_a_full_pool(burst):
    """Also to a burst, none of which may hang."""
    queue = burst.queue(url="redis://127.0.0.1:1/0", max_connections=2)

    results = burst.enqueued(queue, 20)

    assert {type(result) for result in results} == {QueueUnavailableError}
    assert all("cannot reach Redis" in str(result) and "in use" not in str(result) for result in results)


@pytest.mark.one_server("a host's own pool leads to one server")
@pytest.mark.parametrize("pool", ["ConnectionPool", "BlockingConnectionPool"])
def test_a_hosts_own_pool_that_is_full_is_told(burst, pool):
    """Its size is the host's to say."""
    waiting = {"timeout": 0.1} if pool == "BlockingConnectionPool" else {}
    client = burst.hosts_client(pool, max_connections=1, **waiting)
    queue = burst.queue(client)
    put_back = burst.hold(client, 1)

    with pytest.raises(QueueUnavailableError, match="is in use"):
        burst.call(queue.enqueue("job_1", conversation_id="c"))

    put_back()
    assert burst.call(queue.enqueue("job_1", conversation_id="c")) is EnqueueResult.CREATED


@pytest.mark.one_server("a host's own pool leads to one server")
def test_a_hosts_own_blocking_pool_serves_a_burst(burst):
    """What the docs say to a host with a client of its own."""
    queue = burst.queue(burst.hosts_client("BlockingConnectionPool", max_connections=5, timeout=10))

    results = burst.enqueued(queue, 200)

    assert set(results) == {EnqueueResult.CREATED}


@pytest.mark.one_server("before each connection a fleet is asked where to, in the same time limit")
@pytest.mark.parametrize("opened", [5, 0], ids=["open connections", "none opened yet"])
def test_a_server_that_stands_still_holds_nobody_longer_than_the_time_limits(burst, opened):
    """A place among the connections, the reply, and each once more as a broken connection is tried again.

    They are opened side by side.
    """
    queue = burst.queue(front_timeout_s=0.4, max_connections=5)
    if opened:
        burst.at_once([lambda: queue.get("job") for _ in range(opened)])
    began_s = time.monotonic()
    burst.client.client_pause(3000)
    try:
        results = burst.at_once([lambda n=n: queue.get(f"job_{n}") for n in range(50)])
        took_s = time.monotonic() - began_s
    finally:
        burst.client.client_unpause()

    assert {type(result) for result in results} == {QueueUnavailableError}
    assert took_s < 1.9
    # As many as there are connections: on a busy machine fifty would not all have a place within the limit.
    until(lambda: set(burst.at_once([lambda: queue.get("job") for _ in range(5)])) == {None}, "it answers again")


def test_who_is_cancelled_while_waiting_for_a_connection_takes_none_along(call, redis_url, prefix):
    """Hosts put time limits of their own around calls."""
    queue = AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix, max_connections=2, front_timeout_s=CALM_S)

    async def scene() -> None:
        for _ in range(5):
            tasks = [asyncio.ensure_future(queue.get(f"job_{n}")) for n in range(50)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not any(task.exception() for task in tasks[1::2])
        await queue.close()

    call(scene())


def test_workers_do_not_wait_behind_a_burst_of_producers(burst):
    """Else a renewal could come too late, and a job would be polled by two."""
    queue = burst.queue(front_timeout_s=0.3, max_connections=1)
    burst.call(queue.enqueue("job_1", conversation_id="c"))
    put_back = burst.hold(queue._front, 1)

    strategy, lease = PollingStrategy(initial_delay_s=0), LeasePolicy()
    batch = burst.call(queue.claim(polls=1, sends=0, worker_id="w", strategy=strategy, lease=lease))
    (claim,) = batch.claims
    assert burst.call(queue.renew([(claim.job_id, claim.token, True)], lease)) == [True]
    put_back()


def cancel_when_listened_for(queue: RedisVideoJobQueue, job_id: str) -> None:
    """End a job as soon as somebody listens for that."""
    until(lambda: queue._front.pubsub_numsub(queue.keys.ended(job_id))[0][1] == 1, "the wait")
    queue.cancel(job_id)


@pytest.mark.parametrize("kind", ["sync"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_has_connections_of_its_own(burst, no_looks):
    """The parent's calls that are under way at the fork hold none of the child's; nor do its waits."""
    queue = burst.queue(max_connections=1, front_timeout_s=1.0)
    queue.enqueue("job_1", conversation_id="c")
    with burst.meanwhile([lambda: queue.wait("job_1", timeout_s=CALM_S)]) as results:
        until(lambda: burst.listened_for(["job_1"]) == 1, "the wait")
        put_back = burst.hold(queue._front, 1)
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                queue.enqueue("job_2", conversation_id="c")
                canceller = threading.Thread(target=cancel_when_listened_for, args=(queue, "job_2"))
                canceller.start()
                assert queue.wait("job_2", timeout_s=CALM_S).kind is OutcomeKind.CANCELLED
                canceller.join()
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        put_back()
        queue.cancel("job_1")
    assert ends(results) == {OutcomeKind.CANCELLED}


def test_one_queue_serves_one_loop_after_the_other(redis_url, prefix):
    """Closed in between, as the docs say; a burst in the first leaves nothing that belongs to it."""
    queue = AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix, max_connections=2, front_timeout_s=CALM_S)

    async def scene(number: int) -> None:
        async with queue:
            ids = [f"job_{number}_{n}" for n in range(20)]
            await asyncio.gather(*(queue.enqueue(one, conversation_id="c") for one in ids))
            waiting = [asyncio.ensure_future(queue.wait(one, timeout_s=CALM_S)) for one in ids]
            await asyncio.gather(*(queue.cancel(one) for one in ids))
            assert ends(await asyncio.gather(*waiting)) == {OutcomeKind.CANCELLED}

    for number in range(3):
        asyncio.run(scene(number))


# --- waits ---


def test_three_hundred_waits_hear_of_the_end_over_one_connection(burst, no_looks):
    """Each of them is told, none has to look."""
    queue = burst.queue(max_connections=10)
    ids = [f"job_{n}" for n in range(300)]
    burst.call(queue.enqueue_many([(one, "c", None) for one in ids]))
    before = burst.subscribers(), burst.connections()

    with burst.meanwhile([lambda one=one: queue.wait(one, timeout_s=CALM_S) for one in ids]) as results:
        until(lambda: burst.listened_for(ids) == 300, "the subscriptions")
        assert burst.subscribers() - before[0] == 1
        assert burst.connections() - before[1] <= 11
        for one in ids:
            burst.other.cancel(one)

    assert len(results) == 300
    assert ends(results) == {OutcomeKind.CANCELLED}
    until(lambda: burst.subscribers() == before[0], "the end of the subscription")


def test_producers_and_waits_share_few_connections(burst):
    """A burst of everything, on as many connections as a small plan allows."""
    queue = burst.queue(max_connections=1)
    ids = [f"job_{n}" for n in range(60)]
    burst.call(queue.enqueue_many([(one, "c", None) for one in ids]))

    results = burst.at_once(
        [
            *(lambda one=one: queue.wait(one, timeout_s=CALM_S) for one in ids),
            *(lambda one=one: queue.enqueue(f"more_{one}", conversation_id="c") for one in ids),
            *(lambda one=one: queue.cancel(one) for one in ids),
            *(lambda one=one: queue.get(one) for one in ids),
        ],
    )

    assert ends(results[:60]) == {OutcomeKind.CANCELLED}
    assert set(results[60:120]) == {EnqueueResult.CREATED}
    assert not [result for result in results[120:] if isinstance(result, Exception)]


def test_two_waits_for_one_job_are_both_told(burst, no_looks):
    """And one that leaves early does not take the others' news along."""
    queue = burst.queue()
    burst.call(queue.enqueue("job_1", conversation_id="c"))

    burst.call(queue.enqueue("job_2", conversation_id="c"))

    def leave_early() -> Flow[Any]:
        left = yield from do(queue.wait, "job_1", timeout_s=0.3)
        assert (yield from do(queue.wait, "job_2", timeout_s=0.3)) is None
        while burst.listened_for(["job_2"]):
            yield from do(burst.pause, 0.01)
        burst.other.cancel("job_1")
        return left

    waiting = [lambda: queue.wait("job_1", timeout_s=CALM_S)] * 2
    first, second, third = burst.at_once([*waiting, lambda: burst.carry_out(leave_early())])

    assert first.kind is second.kind is OutcomeKind.CANCELLED
    assert third is None


def test_an_end_between_the_look_and_the_subscription_is_not_missed(burst, no_looks, monkeypatch):
    """What is published while nobody is subscribed yet is seen by the look that follows the subscription."""
    queue = burst.queue()
    burst.call(queue.enqueue("job_1", conversation_id="c"))
    listen = waits.Waits.listen

    def late(self: waits.Waits, pubsub: Any) -> Flow[None]:
        burst.other.cancel("job_1")
        return (yield from listen(self, pubsub))

    monkeypatch.setattr(waits.Waits, "listen", late)
    outcome = burst.call(queue.wait("job_1", timeout_s=CALM_S))

    assert outcome.kind is OutcomeKind.CANCELLED


def test_a_subscription_that_breaks_is_opened_again_and_nobody_misses_the_end(burst, no_looks):
    """Everybody looks when it breaks, and when it is there again."""
    queue = burst.queue()
    ids = [f"job_{n}" for n in range(20)]
    burst.call(queue.enqueue_many([(one, "c", None) for one in ids]))

    with burst.meanwhile([lambda one=one: queue.wait(one, timeout_s=CALM_S) for one in ids]) as results:
        until(lambda: burst.listened_for(ids) == 20, "the subscriptions")
        burst.client.client_kill_filter(_type="pubsub")
        for one in ids[:10]:
            burst.other.cancel(one)
        until(lambda: burst.listened_for(ids[10:]) == 10, "the subscriptions of the others")
        for one in ids[10:]:
            burst.other.cancel(one)

    assert len(results) == 20
    assert ends(results) == {OutcomeKind.CANCELLED}


def test_a_wait_that_is_over_leaves_nothing_behind(burst):
    """Neither a subscription nor a thread or task; and the next one begins afresh."""
    queue = burst.queue()
    burst.call(queue.enqueue("job_1", conversation_id="c"))
    before, threads = burst.subscribers(), threading.active_count()

    for _ in range(2):
        assert burst.at_once([lambda: queue.wait("job_1", timeout_s=0.3)] * 3) == [None] * 3
        until(lambda: burst.subscribers() == before, "the end of the subscription")
        until(lambda: threading.active_count() == threads, "the end of the thread")
        assert not burst.tasks()


@pytest.mark.parametrize("kind", ["async"])
def test_waits_that_are_cancelled_release_their_share(burst):
    """The last of them closes the subscription."""
    queue = burst.queue()
    before = burst.subscribers()

    async def scene() -> None:
        await queue.enqueue("job_1", conversation_id="c")
        waiting = [asyncio.ensure_future(queue.wait("job_1", timeout_s=CALM_S)) for _ in range(30)]
        await adrive(burst.until_listened_for(["job_1"]), acall)
        for task in waiting:
            task.cancel()
        assert {type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)} == {
            asyncio.CancelledError
        }
        assert asyncio.all_tasks() == {asyncio.current_task()}

    burst.call(scene())
    until(lambda: burst.subscribers() == before, "the end of the subscription")


def test_a_wait_that_raises_leaves_nothing_behind(burst):
    """A job that is forgotten while somebody waits."""
    queue = burst.queue()
    burst.call(queue.enqueue("job_1", conversation_id="c"))
    before = burst.subscribers()

    with burst.meanwhile([lambda: queue.wait("job_1", timeout_s=CALM_S)]) as results:
        until(lambda: burst.listened_for(["job_1"]) == 1, "the subscription")
        burst.client.delete(*burst.client.scan_iter(match=f"{burst.prefix}:*"))
        burst.client.publish(queue.keys.ended("job_1"), "")

    assert [type(result) for result in results] == [JobNotFoundError]
    until(lambda: burst.subscribers() == before, "the end of the subscription")


def test_a_closed_queue_lets_its_waits_look_on(burst):
    """Closing ends the subscription; whoever still waits hears of the end by looking."""
    queue = burst.queue()
    burst.call(queue.enqueue("job_1", conversation_id="c"))
    before = burst.subscribers()

    def close() -> Flow[None]:
        yield from burst.until_listened_for(["job_1"])
        yield from do(queue.close)
        while burst.subscribers() > before:
            # The server may read of the end of the connection a moment later.
            yield from do(burst.pause, 0.01)
        assert "videopoll-waits" not in {*burst.threads(), *burst.tasks_here()}
        burst.other.cancel("job_1")

    results = burst.at_once([lambda: queue.wait("job_1", timeout_s=CALM_S), lambda: burst.carry_out(close())])

    assert ends(results) == {OutcomeKind.CANCELLED, None}
    assert burst.subscribers() == before


def test_the_more_wait_the_less_often_each_looks():
    """A thousand waits that looked every second would keep Redis and the process busy for nothing."""
    few, many = waits.Waits(), waits.Waits()
    for number in range(1000):
        many.join(f"job_{number}", lambda: None)
    few.join("job_1", lambda: None)

    assert few.look_every_s() == waits.LOOK_EVERY_S
    assert many.look_every_s() == 1000 / waits.LOOKS_A_SECOND


@pytest.mark.parametrize("answers", [True, False])
def test_a_subscription_that_is_silent_is_asked_for_a_sign_of_life(monkeypatch, answers):
    """A firewall forgets idle connections without a word: then everybody looks, and another one is opened."""
    now_s, rung, pings = [0.0], [], []
    monkeypatch.setattr(waits.time, "monotonic", lambda: now_s[0])
    told = [{"type": "subscribe", "channel": b"job_1"}]

    class Silent:
        def subscribe(self, *channels: bytes) -> None:
            assert channels == (b"job_1",)

        def ping(self) -> None:
            pings.append(now_s[0])
            told.extend([{"type": "pong", "channel": None}] * answers)

        def get_message(self, *, timeout: float) -> Any:
            now_s[0] += timeout
            if now_s[0] > 3 * waits.QUIET_S:
                board.end()
            return told.pop() if told else None

    board = waits.Waits()
    board.join("job_1", lambda: rung.append(now_s[0]))
    with contextlib.nullcontext() if answers else pytest.raises(TimeoutError):
        drive(board.listen(Silent()), call_now)

    assert len(pings) == (2 if answers else 1)
    assert len(rung) == 2  # when the subscription began, and when it ended
