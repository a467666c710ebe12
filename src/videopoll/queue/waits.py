"""The waits of one queue object share one subscription: who waits for the end of which job, and who tells them.

A thousand waits cost one connection and one listener, a thread or an asyncio task,
which is there while somebody waits. The end of a job's polling is published; a wait
looks at the keys when that is heard, when its subscription begins or breaks, and now
and then anyway. So nothing is missed between a look and the subscription, and a wait
goes on without one, only slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from typing_extensions import override

from videopoll.core.belonging import OfLoop, OfProcess, leave_to_parent
from videopoll.core.flow import do
from videopoll.jobs.codec import raw
from videopoll.policies import ENDING_S
from videopoll.queue.scripts import arun, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol, Self

    import redis
    import redis.asyncio

    from videopoll.core.flow import Flow

    class Subscription(Protocol):
        """What is used of a client's ``pubsub()``, sync or async."""

        def subscribe(self, *channels: bytes) -> object:
            """Begin to listen."""

        def unsubscribe(self, *channels: bytes) -> object:
            """Listen no more."""

        def ping(self) -> object:
            """Ask for a sign of life."""

        def get_message(self, *, timeout: float) -> Mapping[str, object] | None:
            """Return the next message, or None after `timeout` seconds."""


__all__ = ["AsyncSeats", "Seats", "Waits"]

log: logging.Logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often a wait looks at the keys: other kinds of workers publish nothing."""

LOOKS_A_SECOND = 200
"""Looks of all waits together; where more wait, each looks less often."""

TICK_S = 0.05
"""How soon the listener notices that waits have come or gone. They look when their subscription begins."""

REOPEN_S = 1.0
"""After so long a subscription that broke, or that was refused, is tried again."""

QUIET_S = 20.0
"""After so much silence the server is asked for a sign of life, and after as much again it is taken for gone.

What lies between forgets idle connections, and says nothing.
"""


class Waits:
    """Who waits for what, and the flow that listens for all of them. May be used by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings: dict[bytes, list[Callable[[], object]]] = {}
        self._count = 0
        self._changed = True
        self.over: bool = False

    @property
    def any(self) -> bool:
        """Whether somebody waits who is to be told."""
        return self._count > 0 and not self.over

    def join(self, channel: str, ring: Callable[[], object]) -> None:
        """Call `ring` when it is time to look at the keys."""
        with self._lock:
            self._rings.setdefault(raw(channel), []).append(ring)
            self._count += 1
            self._changed = True

    def leave(self, channel: str, ring: Callable[[], object]) -> None:
        """Wait no more."""
        with self._lock:
            rings = self._rings[raw(channel)]
            rings.remove(ring)
            self._count -= 1
            if not rings:
                del self._rings[raw(channel)]
            self._changed = True

    def start(self) -> None:
        """See to it that somebody listens."""
        raise NotImplementedError

    def end(self) -> None:
        """Stop calling anybody."""
        self.over = True
        self._changed = True

    def look_every_s(self) -> float:
        """Return how long each wait may go on without a look, in seconds."""
        return max(LOOK_EVERY_S, self._count / LOOKS_A_SECOND)

    def listen(self, pubsub: Subscription) -> Flow[None]:
        """Listen for all that is waited for, until nobody waits any more.

        Raises:
            Exception: Whatever the client raises; all waits look at the keys then.
        """
        subscribed, confirmed = set[bytes](), set[bytes]()
        silence = _Silence()
        self._changed = True
        try:
            while self.any:
                if self._changed:
                    subscribed = yield from self._follow(pubsub, subscribed)
                    confirmed &= subscribed
                message = yield from do(pubsub.get_message, timeout=TICK_S)
                if message is None:
                    if silence.needs_a_ping():
                        yield from do(pubsub.ping)
                    continue
                silence.end()
                channel = message.get("channel")
                if isinstance(channel, bytes) and message.get("type") in {"subscribe", "message"}:
                    # What was published before the subscription began is seen by a look after it.
                    confirmed.add(channel)
                    self._ring(channel)
        finally:
            # From here on nobody would be told.
            for channel in confirmed:
                self._ring(channel)

    def _follow(self, pubsub: Subscription, subscribed: set[bytes]) -> Flow[set[bytes]]:
        """Subscribe to what is waited for, and to nothing else."""
        with self._lock:
            wanted, self._changed = set(self._rings), False
        if new := wanted - subscribed:
            yield from do(pubsub.subscribe, *new)
        if gone := subscribed - wanted:
            yield from do(pubsub.unsubscribe, *gone)
        return wanted

    def _ring(self, channel: bytes) -> None:
        with self._lock:
            rings = tuple(self._rings.get(channel, ()))
        for ring in rings:
            ring()


ListenerT = TypeVar("ListenerT", bound=Waits)
BellT = TypeVar("BellT", threading.Event, asyncio.Event)


class _Silence:
    """How long nothing was heard, and what to do about it."""

    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        """Note that something was heard."""
        self._since_s = time.monotonic()
        self._asked = False

    def needs_a_ping(self) -> bool:
        """Whether to ask for a sign of life now.

        Raises:
            TimeoutError: None came.
        """
        silent_s = time.monotonic() - self._since_s
        if silent_s > 2 * QUIET_S:
            msg = "the subscription is silent"
            raise TimeoutError(msg)
        ask = silent_s > QUIET_S and not self._asked
        self._asked = self._asked or ask
        return ask


class _Place(Generic[ListenerT, BellT]):
    """A place of a wait that is taken when it is first needed: the outcome may be there at the first look.

    Args:
        listener: Who listens.
        channel: What for.
    """

    _new_bell: Callable[[], BellT]
    """Returns what rings when it is time to look at the keys."""

    def __init__(self, listener: ListenerT, channel: str) -> None:
        self._listener = listener
        self._channel = channel
        self._bell: BellT = self._new_bell()
        self._taken = False

    def _take(self) -> None:
        if not self._taken:
            self._listener.join(self._channel, self._bell.set)
            self._taken = True
            self._listener.start()

    def _leave(self) -> None:
        if self._taken:
            self._listener.leave(self._channel, self._bell.set)


def _tell(error: Exception) -> None:
    log.debug("The subscription of the waits ended (%s): they look at the keys meanwhile", type(error).__name__)


# --- threads ---


class Seats(OfProcess):
    """Places for waits in threads.

    Args:
        client: Where the one connection of all of them comes from.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._listener = _Listener(client)
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        leave_to_parent(self._listener)
        self._listener = _Listener(self._client)

    def seat(self, channel: str) -> _Seat:
        """Return a place for a wait that hears of this channel; enter it."""
        return _Seat(self._listener, channel)

    def close(self) -> None:
        """End the subscription; waits that go on look from time to time."""
        listener, self._listener = self._listener, _Listener(self._client)
        listener.close()


class _Seat(_Place["_Listener", threading.Event]):
    """A place for a wait in a thread."""

    _new_bell = threading.Event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def rung(self, left_s: float) -> None:
        """Wait until it is time to look at the keys, at most so many seconds."""
        self._take()
        self._bell.wait(min(left_s, self._listener.look_every_s()))
        # Before the look: whatever rings from here on is seen by the next one.
        self._bell.clear()


class _Listener(Waits):
    """The waits of one process, and the thread that listens for them."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self._client = client
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @override
    def start(self) -> None:
        with self._starting:
            if self._thread is not None or self.over:
                return
            self._thread = threading.Thread(target=self._serve, name="videopoll-waits", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # No more threads for this process, or it ends: waits look from time to time.
                self._thread = None

    def close(self) -> None:
        """End the thread."""
        self.end()
        self._closing.set()
        with self._starting:
            thread = self._thread
        if thread is not None:
            thread.join(ENDING_S)

    def _serve(self) -> None:
        while self._goes_on():
            try:
                pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
                with pubsub:
                    run(self.listen(pubsub))
            except Exception as error:  # noqa: BLE001 - a socket that another thread closes raises anything
                _tell(error)
                self._closing.wait(REOPEN_S)

    def _goes_on(self) -> bool:
        with self._starting:
            if not self.any:
                # Whoever joins from now on finds no thread, and starts one.
                self._thread = None
            return self._thread is not None


# --- asyncio ---


class AsyncSeats:
    """Places for waits under asyncio; the asyncio side of `Seats`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._listeners = OfLoop(functools.partial(_AsyncListener, client))

    def seat(self, channel: str) -> _AsyncSeat:
        """Return a place for a wait that hears of this channel; enter it."""
        return _AsyncSeat(self._listeners.here(), channel)

    async def close(self) -> None:
        """End the subscription of this event loop; waits that go on look from time to time."""
        listener = self._listeners.take()
        if listener is not None:
            await listener.close()


class _AsyncSeat(_Place["_AsyncListener", asyncio.Event]):
    """The asyncio side of `_Seat`."""

    _new_bell = asyncio.Event

    def __init__(self, listener: _AsyncListener, channel: str) -> None:
        super().__init__(listener, channel)
        self._cancelled = _cancellations()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()
        if self._taken and not self._listener.any:
            await self._listener.stop()

    async def rung(self, left_s: float) -> None:
        """Wait until it is time to look at the keys, at most so many seconds."""
        if _cancellations() > self._cancelled:
            # It came in the middle of a look, where Python 3.11's wait_for loses one now and then.
            raise asyncio.CancelledError
        self._take()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, self._listener.look_every_s())):
                await self._bell.wait()
        self._bell.clear()


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


class _AsyncListener(Waits):
    """The waits of one event loop, and the task that listens for them."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        super().__init__()
        self._client = client
        self._task: asyncio.Task[None] | None = None

    @override
    def start(self) -> None:
        if self._task is None and not self.over:
            # With no context of the wait that happens to be the first.
            self._task = asyncio.get_running_loop().create_task(
                self._serve(), name="videopoll-waits", context=contextvars.Context()
            )

    async def stop(self) -> None:
        """End the task, which closes its connection. Nothing of it is left in the loop when a host's last wait is over."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=ENDING_S)

    async def close(self) -> None:
        """End the task for good."""
        self.end()
        await self.stop()

    async def _serve(self) -> None:
        while self.any:
            try:
                async with self._client.pubsub() as pubsub:
                    await arun(self.listen(cast("Subscription", pubsub)))
            except Exception as error:  # noqa: BLE001 - also of a client that is closed meanwhile
                _tell(error)
                await asyncio.sleep(REOPEN_S)
