"""A video API over HTTP that counts: requests under way, when each came, and which were too many.

It answers "still working" after `latency_s`, or 429 as long as `throttled` says so. A fleet of
processes can ask it, which a fake with a thread a request would be too slow for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable

WORKING = b'{"status": "processing"}'


class CountingApi:
    """The API. Use it in a with block.

    Args:
        latency_s: Seconds that an answer takes.
        throttled: Called with the path of each request; the seconds of ``Retry-After`` if it is answered 429, else None.
    """

    def __init__(self, latency_s: float = 0.05, throttled: Callable[[str], float | None] = lambda _: None) -> None:
        self.latency_s, self.throttled = latency_s, throttled
        self.came: list[tuple[float, str, int]] = []
        """When requests came, in monotonic seconds, their paths, and how many were under way with each."""
        self.under_way = 0
        self._talks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    @property
    def most(self) -> int:
        """How many requests were under way at a time."""
        return max((count for _, _, count in self.came), default=0)

    def within(self, seconds: float) -> int:
        """Return how many requests came within so many seconds from the first."""
        return sum(at_s < self.came[0][0] + seconds for at_s, _, _ in self.came)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._over.wait()
        server.close()
        if self._talks:
            # Whoever asked has gone; a cancelled one would be told in the log (until Python 3.12).
            await asyncio.wait(self._talks, timeout=5)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = cast("asyncio.Task[None]", asyncio.current_task())
        self._talks.add(talk)
        try:
            while line := (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0]:
                path = line.split(b" ")[1].decode()
                self.under_way += 1
                self.came.append((time.monotonic(), path, self.under_way))
                pause_s = self.throttled(path)
                await asyncio.sleep(self.latency_s)
                self.under_way -= 1
                status = b"200 OK" if pause_s is None else b"429 Too Many Requests\r\nretry-after: %g" % pause_s
                writer.write(
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                    % (status, len(WORKING), WORKING)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._talks.discard(talk)
            writer.close()
