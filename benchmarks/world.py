"""The outside world of a benchmark: a video API and a messenger, in one process with one clock.

It is written close to the socket so that it costs a fraction of what any client
costs. It counts what it is asked and remembers when, so that what a worker is
credited with was seen from outside of it.

Run by `run.py`; ``python world.py PORT`` starts it alone.

    GET  /job/{id}                     processing, or completed once the job is ready
    POST /{instance}/messages/video    takes a message (UltraMsg's form); `/send` is the same
    POST /control                      {"answer_ms", "message_ms", "ready": "never" | "now" | polls}; forgets all
    POST /ready                        all jobs are ready from now on
    GET  /figures                      what happened so far
    GET  /polls                        when each job was asked for, Unix ms
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from urllib.parse import unquote

import uvloop

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class World:
    """What the API and the messenger know."""

    def __init__(self) -> None:
        self.forget({})

    def forget(self, control: dict) -> None:
        self.answer_s = control.get("answer_ms", 50) / 1000
        self.message_s = control.get("message_ms", 50) / 1000
        self.ready = control.get("ready", "never")
        self.keep_times = control.get("keep_times", False)
        self.polls: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.completed_at: dict[str, float] = {}
        self.messages: Counter[str] = Counter()
        self.waits_ms: list[float] = []
        self.connections = 0
        self.bytes = 0

    def poll(self, job_id: str) -> str:
        """Answer one poll."""
        self.polls[job_id] += 1
        if self.keep_times:
            self.times[job_id].append(time.time() * 1000)
        ready = self.ready == "now" or (isinstance(self.ready, int) and self.polls[job_id] >= self.polls_of(job_id))
        if not ready:
            return f'{{"jobId":"{job_id}","status":"processing"}}'
        # The clock of the delivery starts when this answer is written.
        self.completed_at.setdefault(job_id, time.monotonic() + self.answer_s)
        return f'{{"jobId":"{job_id}","status":"completed","videoUrl":"https://files.example/{job_id}.mp4"}}'

    def polls_of(self, job_id: str) -> int:
        """Give the poll at which a job is ready: spread evenly around the number that was asked for."""
        return 1 + int(job_id.rpartition("_")[2]) % (2 * self.ready - 1)

    def message(self, body: bytes) -> str:
        """Take one message."""
        job_id = json.loads(body)["video"].rpartition("/")[2].removesuffix(".mp4")
        self.messages[job_id] += 1
        if self.messages[job_id] == 1 and job_id in self.completed_at:
            self.waits_ms.append((time.monotonic() - self.completed_at[job_id]) * 1000)
        return f'{{"sent":"true","message":"ok","id":{len(self.messages)}}}'

    def figures(self) -> dict:
        """Tell what happened so far."""
        return {
            "at_s": time.monotonic(),
            "polls": self.polls.total(),
            "jobs_polled": len(self.polls),
            "messages": self.messages.total(),
            "jobs_told": len(self.messages),
            "waits_ms": self.waits_ms,
            "connections": self.connections,
            "bytes": self.bytes,
        }

    def answer(self, path: str, body: bytes) -> tuple[float, str]:
        """Give the seconds to wait, and what to answer."""
        if path.startswith("/job/"):
            return self.answer_s, self.poll(unquote(path[5:]))
        if path.endswith("/messages/video") or path == "/send":
            return self.message_s, self.message(body)
        if path == "/figures":
            return 0, json.dumps(self.figures())
        if path == "/polls":
            return 0, json.dumps(self.times)
        if path == "/control":
            self.forget(json.loads(body))
        elif path == "/ready":
            self.ready = "now"
        return 0, "{}"


class Connection(asyncio.Protocol):
    """One connection of a client that waits for each answer before it asks again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = asyncio.get_running_loop()
        self.received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.world.connections += 1

    def connection_lost(self, _error: Exception | None) -> None:
        self.world.connections -= 1

    def data_received(self, data: bytes) -> None:
        self.world.bytes += len(data)
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        method, path, _ = head.split(b" ", 2)
        length = 0
        if method == b"POST":
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
        if len(body) < length:
            return
        self.received = b""
        wait_s, answer = self.world.answer(path.decode(), body)
        reply = (HEAD % (len(answer), answer)).encode()
        if wait_s:
            self.loop.call_later(wait_s, self.write, reply)
        else:
            self.write(reply)

    def write(self, reply: bytes) -> None:
        self.world.bytes += len(reply)
        if not self.transport.is_closing():
            self.transport.write(reply)


async def serve(port: int) -> None:
    world = World()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(world), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
