"""Small storms over real processes and servers for every run of the tests; `nox -s storm -- --real` has large and fresh ones."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from storm.model import judge
from storm.plan import delivery_storm, kill_storm, plan_of
from storm.real import RealServer, run_real
from storm.wire import HOST, RedisProxy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("server", ["redis", "valkey"])
def test_workers_that_keep_being_killed_lose_nothing_and_double_nothing(server, require_server):
    """The existing worker, put under such a storm, lost nine videos of sixty for ever."""
    require_server(server)
    story = run_real(kill_storm(7, jobs=60, kills=12, for_s=75.0), server=server)

    assert not judge(story)
    assert story.made["kill"] >= 12


def test_each_user_gets_one_message_from_a_messenger_that_misbehaves_in_every_way(require_server):
    """Making a video costs money; the message is the product."""
    require_server("valkey")
    story = run_real(delivery_storm(7, jobs=60, kills=10, for_s=60.0), server="valkey")

    assert not judge(story)
    assert story.made["kill"] >= 10


@pytest.mark.parametrize("seed", [4, 16])
def test_a_plan_of_the_simulation_passes_over_real_processes_too(seed, require_server):
    """One with three kinds of trouble, and one with a look-up."""
    require_server("valkey")

    assert not judge(run_real(plan_of(seed), server="valkey"))


class CutOff:
    """Answers nothing, as when a worker is cut off from Redis."""

    def __init__(self):
        self.asked = asyncio.Event()

    def admits(self):
        return True

    def arrives(self, name, words):
        self.asked.set()


def test_a_command_that_nobody_will_answer_ends_with_its_connection():
    """A task that waits for what nobody holds is collected in the midst of a storm, and reads as a fault (seed 824977019)."""

    async def cut_off():
        nobody = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
        proxy = RedisProxy(nobody.sockets[0].getsockname()[1], watcher := CutOff())
        await proxy.start()
        before = asyncio.all_tasks()
        _, writer = await asyncio.open_connection(HOST, int(proxy.url.rpartition(":")[2].partition("/")[0]))
        writer.write(b"*1\r\n$4\r\nTIME\r\n*1\r\n$4\r\nPING\r\n")
        async with asyncio.timeout(10):
            await watcher.asked.wait()
            writer.close()
            await asyncio.wait(asyncio.all_tasks() - before)
        proxy.close()
        nobody.close()

    asyncio.run(cut_off())


class Server:
    """Keeps what is done with it."""

    port = 1

    def __init__(self):
        self.did = []

    def stop(self):
        self.did.append("stop")

    def start(self):
        self.did.append("start")


def test_a_restart_in_the_midst_of_another_one_starts_one_server():
    """Two would want one port, and the storm would be without a Redis (seeds 1816032459 and 1254274639)."""

    async def restarted():
        kernel = SimpleNamespace(now_s=0.0, scale=1.0, loop=asyncio.get_running_loop())
        server = RealServer(kernel, embedded := Server())
        for until_s in (5.0, 9.0):
            server.away_until_s = until_s
            server.restart()
        kernel.now_s = 10.0
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        return embedded.did, server.away

    assert asyncio.run(restarted()) == (["stop", "start"], False)
