"""A queue that is closed while others use it: their calls go to their end, and no connection is left."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kit import until
from kit.resp_proxy import RespProxy
from videopoll import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.testing import async_wait_until

pytestmark = pytest.mark.one_server("a proxy stands before one server")

LATE_S = 0.1
"""How late the server answers: so long a call is under way."""


@pytest.fixture
def proxy(redis_server):
    with RespProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def queue(kind, call, proxy, prefix):
    """A queue with a job, which has a connection for the next call."""
    queue = (RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue).from_url(proxy.url, prefix=prefix)
    call(queue.enqueue("job_1", conversation_id="c"))
    assert call(queue.get("job_1")) is not None
    proxy.delay_s = LATE_S
    yield queue
    proxy.heal()
    call(queue.close())


@pytest.fixture
def close_in_the_middle(kind, call, proxy, queue):
    """Call it: the queue is closed while a job is looked up. Gives what the look-up gave, and how long it took."""

    def begun(before: int) -> bool:
        return len(proxy.commands) > before

    def in_threads():
        with ThreadPoolExecutor(1) as pool:
            before = len(proxy.commands)
            found = pool.submit(queue.get, "job_1")
            until(lambda: begun(before), "it is asked")
            queue.close()
            return found.result()

    async def in_tasks():
        before = len(proxy.commands)
        found = asyncio.create_task(queue.get("job_1"))
        await async_wait_until(lambda: begun(before))
        await queue.close()
        return await found

    def close():
        began_s = time.monotonic()
        found = in_threads() if kind == "sync" else call(in_tasks())
        return found, time.monotonic() - began_s

    return close


def test_a_call_under_way_while_its_queue_is_closed_goes_to_its_end(close_in_the_middle, proxy):
    """A socket that is closed under its reader leads to errors that are none of ours, or to a wait for the time limit."""
    commands = len(proxy.commands)
    found, took_s = close_in_the_middle()

    assert found.job_id == "job_1"
    assert len(proxy.commands) == commands + 1, "it was asked once"
    assert took_s < 1.8, "less than the time limit of 2 s"
    until(lambda: not proxy.open_connections, "its connection is closed, too")


def test_a_closed_queue_can_still_be_used_and_keeps_no_connection(call, close_in_the_middle, queue, proxy):
    """A callback that comes late asks once more; it must not open what nobody closes."""
    close_in_the_middle()

    assert call(queue.get("job_1")).job_id == "job_1"
    until(lambda: not proxy.open_connections, "no connection is left")


def test_a_queue_that_is_used_again_long_after_its_end_keeps_its_connections(
    call, close_in_the_middle, queue, proxy, monkeypatch
):
    """A worker that is started again must not open a connection for each command."""
    monkeypatch.setattr("videopoll.queue.pools.ENDING_S", -1.0)
    close_in_the_middle()
    proxy.heal()

    before = proxy.connections
    for _ in range(5):
        assert call(queue.get("job_1")).job_id == "job_1"
    assert proxy.connections <= before + 1
