"""An ASGI application whose lifespan runs a worker. FastAPI, Starlette and Quart call their lifespan the same way."""

from __future__ import annotations

import contextlib
import json
import os
from urllib.parse import parse_qsl

import parts

# Built when the module is imported, before there is an event loop.
queue, runner = parts.tasks()


@contextlib.asynccontextmanager
async def lifespan():
    async with queue, runner:
        runner.start()
        yield


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        async with lifespan():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    asked = dict(parse_qsl(scope["query_string"].decode()))
    if "job" in asked:
        await queue.enqueue(asked["job"], conversation_id="c", metadata=parts.metadata(asked["user"]))
    told = {"worker": runner.worker_id, "pid": os.getpid(), "problems": runner.health().problems}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
