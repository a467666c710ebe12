"""What every contender is given, and the one HTTP client that those with none of their own share."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

KEY = {"X-API-Key": "a-key-of-the-benchmark", "Accept": "application/json"}


@dataclass(frozen=True)
class Scenario:
    """One run of one contender: the same values for all."""

    redis_url: str
    world_url: str
    jobs: int
    interval_s: float
    concurrency: int
    transport: str
    loop: str
    described: bool
    options: dict[str, Any]

    def job_ids(self) -> list[str]:
        """Give ids of the form that the video API gives, numbered at their ends."""
        return [f"job_1757157518747_{number:09d}" for number in range(self.jobs)]


def scenario() -> Scenario:
    """Read what `run.py` asks for."""
    logging.basicConfig(level=logging.WARNING)
    return Scenario(**json.loads(sys.argv[1]))


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run under Python's own event loop or under uvloop."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def tell_ready() -> None:
    """Let `run.py` know that the work begins.

    All contenders get the garbage collector's settings of `videopoll worker`:
    with Python's own, those that hold many objects at a time lose a fifth.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    print("ready", flush=True)


class Client(Protocol):
    """What asks the video API, and sends the finished videos."""

    async def ask(self, job_id: str) -> str | None:
        """Give the URL of a finished video."""

    async def send(self, url: str) -> None:
        """Send a video to its user."""


class HttpxClient:
    """Over httpx: with its own pool, with many small pools, or over httpx-aiohttp."""

    def __init__(self, scene: Scenario) -> None:
        import httpx

        size, self._base = scene.concurrency, scene.world_url
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30)
        all_of_them = httpx.Limits(max_connections=size, max_keepalive_connections=size, keepalive_expiry=30)
        self._free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        if scene.transport == "httpx-many":
            clients = [httpx.AsyncClient(limits=one, timeout=30, trust_env=False) for _ in range(size)]
        elif scene.transport == "httpx-aiohttp":
            from httpx_aiohttp import AiohttpTransport

            transport = AiohttpTransport(limits=all_of_them)
            clients = [httpx.AsyncClient(transport=transport, timeout=30)] * size
        else:
            clients = [httpx.AsyncClient(limits=all_of_them, timeout=30, trust_env=False)] * size
        for client in clients:
            self._free.put_nowait(client)

    async def ask(self, job_id: str) -> str | None:
        client = await self._free.get()
        try:
            answer = (await client.get(f"{self._base}/job/{job_id}", headers=KEY)).json()
        finally:
            self._free.put_nowait(client)
        return answer["videoUrl"] if answer["status"] == "completed" else None

    async def send(self, url: str) -> None:
        client = await self._free.get()
        try:
            (await client.post(f"{self._base}/send", json={"video": url})).raise_for_status()
        finally:
            self._free.put_nowait(client)


class AiohttpClient:
    """Over aiohttp, without httpx."""

    def __init__(self, scene: Scenario) -> None:
        import aiohttp

        self._base = scene.world_url
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=scene.concurrency))

    async def ask(self, job_id: str) -> str | None:
        async with self._session.get(f"{self._base}/job/{job_id}", headers=KEY) as reply:
            answer = await reply.json()
        return answer["videoUrl"] if answer["status"] == "completed" else None

    async def send(self, url: str) -> None:
        async with self._session.post(f"{self._base}/send", json={"video": url}) as reply:
            reply.raise_for_status()


def client_of(scene: Scenario) -> Client:
    """Give the client that the scenario asks for."""
    return AiohttpClient(scene) if scene.transport == "aiohttp" else HttpxClient(scene)
