"""What happened to each job, kept in Redis for the operator: `RedisHistory` writes it, a queue's `history` reads it.

The hook turns events into short entries and gathers them; one daemon thread
writes them about twice a second, in one round trip, into one bounded stream.
The same thread tells that its worker is alive, and how busy it is. Workers never
read any of it: losing it harms no job.

No conversation id goes into it, as some hosts use phone numbers for them. What
others said stands in a field of its own, without what looks like a URL, a
credential or a phone number: ``videopoll explain`` shows it, and nothing else does.
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import random
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING

import attrs
import redis
from typing_extensions import override

from videopoll import events
from videopoll._reasons import shown_word, told_of
from videopoll.clock import FOREVER_S, Clock
from videopoll.core.belonging import OfProcess
from videopoll.core.loops import HISTORY, Loops
from videopoll.errors import QueueError
from videopoll.jobs.codec import dump, raw
from videopoll.jobs.views import HistoryEvent
from videopoll.observe.redact import redact
from videopoll.queue.connect import client_of
from videopoll.queue.history_calls import beat, note
from videopoll.queue.schema import DEFAULT_PREFIX, Keys
from videopoll.queue.scripts import evaluate, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from videopoll.jobs.codec import JsonValue
    from videopoll.protocols import RunnerStatus
    from videopoll.queue.history_calls import HistoryWords

__all__ = ["RedisHistory"]

log: logging.Logger = logging.getLogger(__name__)

MAX_ENTRIES = 20_000
"""Entries that the stream keeps, about."""

KEEP_S = 86_400
"""Seconds that the stream outlives its last entry."""

WORKERS_KEEP_S = 3_600
"""Seconds that a worker which stopped beating is still listed."""

FLUSH_S = 0.5

LONGEST_PAUSE_S = 60.0
"""Seconds that the thread pauses at most after what nobody foresaw."""

BEAT_S = 4.0

BUFFERED = 10_000
"""Entries that wait for Redis at most; then the oldest go."""

ONE_WRITE = 500
"""Entries that go in one round trip."""

REMEMBERED = 20_000
"""Jobs whose last status is remembered, to tell a new one from a repeated one."""

TIMEOUT_S = 5.0

_ENDS = (events.JobConcluded, events.JobCancelled, events.JobDeadLettered)
"""After these a job is polled no more."""


@attrs.frozen
class _Noted:
    """An entry on its way to Redis; the number is its own, however often it is written."""

    number: str
    noted_s: float
    job_id: bytes
    step: str
    worker_id: str
    details: str
    text: bytes

    def words(self, now_s: float) -> HistoryWords:
        """Return what the script is given."""
        ago_ms = round((now_s - self.noted_s) * 1000)
        return self.job_id, self.step, self.worker_id, self.details, self.text, ago_ms, self.number


class RedisHistory(OfProcess, events.TextKeeper):
    """A hook that keeps the stories of jobs in Redis, and tells that its worker is alive.

    A runner opens one for itself, unless it is built with ``visible=False``. A producer
    may keep one, too, so that stories begin with who enqueued the job::

        history = RedisHistory("redis://127.0.0.1:6379/0")
        queue = RedisVideoJobQueue.from_url("redis://127.0.0.1:6379/0", hooks=[history])

    `close` it at the end. It never blocks its caller and never raises: while Redis is away entries wait
    in memory, at most 10,000; what does not fit is dropped and counted (`dropped`).

    Args:
        url: The same as the queue's; or a client for it alone, which `close` closes.
        prefix: What every key starts with, the same as the queue's.

    Raises:
        ConfigurationError: The URL or the prefix cannot be read.
    """

    def __init__(self, url: str | redis.Redis, *, prefix: str = DEFAULT_PREFIX) -> None:
        self._keys = Keys(prefix)
        # A client that retried would make `close` wait for a Redis that is gone.
        self._client = url if isinstance(url, redis.Redis) else client_of(url, self._keys, TIMEOUT_S)
        self._runner: RunnerStatus | None = None
        self._video_api: str | None = None
        self._video_apis: dict[str, JsonValue] = {}
        self._dropped = 0
        self._disowned = False
        self._open()
        self._begin_in_process()

    def _open(self) -> None:
        self._heard: collections.deque[tuple[float, events.Event] | tuple[float, events.Event, str]] = (
            collections.deque()
        )
        self._waiting: collections.deque[_Noted] = collections.deque()
        self._statuses: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._origin = secrets.token_hex(4)
        self._count = 0
        self._started_ms = round(time.time() * 1000)
        self._next_beat_s = float("-inf")
        self._away = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._stirred = threading.Event()
        self._loops = Loops(
            Clock(), random.SystemRandom(), patience_s=FOREVER_S, limit_s=FOREVER_S, pause_cap_s=LONGEST_PAUSE_S
        )
        self._loops.begin(HISTORY)

    def disown(self) -> None:
        """Write nothing more in this forked child: what is told here is about its parent's worker. Takes no lock."""
        self._disowned = True

    @override
    def _begin_in_child(self) -> None:
        # What waits is written by the parent, which has the thread.
        closed = self._closing.is_set()
        self._open()
        if closed:
            self._closing.set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self._keys.prefix!r})"

    @property
    def dropped(self) -> int:
        """How many entries were lost so far, because Redis was away for long or refused them."""
        return self._dropped

    def __call__(self, event: events.Event) -> None:
        """Take an event; it is written within about half a second."""
        self.keep(event, None)

    @override
    def keep(self, event: events.Event, text: str | None) -> None:
        """Take an event, and the whole text of its reason."""
        if not self._is_news(event):
            return
        if len(self._heard) >= BUFFERED:
            self._dropped += 1
            return
        self._heard.append((time.monotonic(), event) if text is None else (time.monotonic(), event, text))
        self._stir()

    def _is_news(self, event: events.Event) -> bool:
        """Whether there is something to tell: most polls of a job find what the last one found, and must cost nothing."""
        if isinstance(event, events.JobPolled):
            if event.fault is None and self._statuses.get(event.job_id) == event.status:
                return False
            if event.fault is not None:
                self._statuses.pop(event.job_id, None)
            else:
                self._statuses[event.job_id] = event.status
                while len(self._statuses) > REMEMBERED:
                    self._statuses.popitem(last=False)
        elif isinstance(event, _ENDS):
            self._statuses.pop(event.job_id, None)
        return True

    def follow(
        self, runner: RunnerStatus, *, video_api: str | None = None, video_apis: Mapping[str, str] | None = None
    ) -> None:
        """Report every 4 seconds that this runner is alive, how busy it is and what is wrong with it, until `close`.

        Args:
            runner: Which.
            video_api: The address of the video API that it polls, if that is known.
            video_apis: The addresses of several, by their names.
        """
        self._runner, self._video_api, self._video_apis = runner, video_api, dict(video_apis or {})
        self._stir()

    def close(self, patience_s: float = 2 * TIMEOUT_S) -> bool:
        """Write what waits (if Redis is there), list the worker no more, and let go of the connection.

        Args:
            patience_s: Seconds to wait for that. It goes on afterwards, and may be asked again.

        Returns:
            Whether it is done.
        """
        thread = self._thread
        self._closing.set()
        self._stirred.set()
        if thread is not None:
            thread.join(patience_s)
            if thread.is_alive():
                return False
        self._client.close()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread ---

    def _stir(self) -> None:
        if self._stirred.is_set():
            # The thread is about to look: it clears this first, and then looks at what there is.
            return
        if self._disowned:
            return
        if (self._thread is None or not self._thread.is_alive()) and not self._closing.is_set():
            with self._starting:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._work, name="videopoll-history", daemon=True)
                    self._thread.start()
        self._stirred.set()

    def _work(self) -> None:
        last = False
        while not last:
            stirred = self._stirred.wait(self._idle_s())
            # What happens meanwhile shares the round trip.
            last = self._closing.wait(FLUSH_S if stirred else 0)
            self._stirred.clear()
            try:
                self._flush(last=last)
            except BaseException as error:  # noqa: BLE001 - jobs are not affected, whatever it is, and the next entry may be written
                self._closing.wait(self._loops.failed(HISTORY, error))
            else:
                self._loops.fine(HISTORY)
        self._thread = None
        self._client.close()

    def _idle_s(self) -> float | None:
        """Seconds until there is something to do, if nothing happens before."""
        if self._waiting:
            # What is refused may be for good.
            return BEAT_S if self._away else FLUSH_S
        return None if self._runner is None else max(0.0, self._next_beat_s - time.monotonic())

    def _flush(self, *, last: bool) -> None:
        self._note_all()
        written = False
        try:
            if self._runner is not None:
                # First: entries that are refused for good must not make a live worker look dead.
                written = self._beat(self._runner, leaving=last)
            while self._waiting:
                some = list(itertools.islice(self._waiting, ONE_WRITE))
                self._write(some)
                for _ in some:
                    self._waiting.popleft()
                written = True
        except QueueError as error:
            if not self._away:
                self._away = True
                log.warning("The history is not written for now: %s", told_of(error))
        else:
            # Between two beats there may be nothing to write, and so nothing to learn.
            if self._away and written:
                self._away = False
                log.info("The history is written again; %d entries were lost so far", self._dropped)

    def _note_all(self) -> None:
        """Turn events into entries; the oldest go when there are too many."""
        while self._heard:
            at_s, event, *texts = self._heard.popleft()
            told = _tell(event)
            if told is None:
                continue
            job_id, what, details = told
            self._count += 1
            kept = {name: value for name, value in details.items() if value is not None}
            shown, text = (kept.get("reason"), kept.get("status")), next(iter(texts), "")
            # Most of the time they are one, and it is clean.
            cleaned = redact(text) if text and text not in shown else ""
            self._waiting.append(
                _Noted(
                    f"{self._origin}:{self._count}",
                    at_s,
                    raw(job_id),
                    what.value,
                    event.worker_id,
                    dump(kept) if kept else "",
                    b"" if cleaned in shown else cleaned.encode("utf-8", "backslashreplace"),
                )
            )
        while len(self._waiting) > BUFFERED:
            self._waiting.popleft()
            self._dropped += 1

    def _write(self, some: list[_Noted]) -> None:
        # The number tells a repeated write from a new one, as a lost reply leads to a second try.
        now_s = time.monotonic()
        entries = [noted.words(now_s) for noted in some]
        run(evaluate(self._client, note(self._keys, entries, most=MAX_ENTRIES, keep_s=KEEP_S)))

    def _beat(self, runner: RunnerStatus, *, leaving: bool) -> bool:
        """Report the worker if it is time; return whether it was."""
        now_s = time.monotonic()
        # The very number that the wait was made of: by another rounding it would be too early, again and again.
        if now_s < self._next_beat_s and not leaving:
            return False
        self._next_beat_s = now_s + BEAT_S
        load = "" if leaving else self._load_of(runner)
        return run(evaluate(self._client, beat(self._keys, runner.worker_id, load, WORKERS_KEEP_S)))

    def _load_of(self, runner: RunnerStatus) -> str:
        from videopoll import __version__  # noqa: PLC0415 - the package imports its parts

        return dump(
            {
                "version": __version__,
                "kind": "async" if type(runner).__name__.startswith("Async") else "sync",
                "concurrency": runner.concurrency,
                "polls_in_hand": runner.polls_in_hand,
                "sends_in_hand": runner.sends_in_hand,
                "started_ms": self._started_ms,
                "video_api": self._video_api,
                "video_apis": self._video_apis,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "problems": list(runner.health().problems),
            }
        )


def _tell(event: events.Event) -> tuple[str, HistoryEvent, dict[str, JsonValue]] | None:  # noqa: C901, PLR0912 - one case an event
    """Turn an event into a history entry, or None if it is not about a job."""
    match event:
        case events.JobEnqueued():
            return event.job_id, HistoryEvent.ENQUEUED, {}
        case events.JobCancelled():
            return event.job_id, HistoryEvent.CANCELLED, {}
        case events.JobClaimed():
            return event.job_id, HistoryEvent.TAKEN_OVER if event.taken_over else HistoryEvent.TAKEN, {}
        case events.JobPolled():
            return _tell_polled(event)
        case events.JobConcluded():
            return (
                event.job_id,
                HistoryEvent.CONCLUDED,
                {
                    "outcome": event.outcome.value,
                    "elapsed_s": round(event.elapsed_s, 3),
                    "polls": event.attempts,
                    "reason": _clean(event.error),
                },
            )
        case events.LinkTried():
            told: dict[str, JsonValue] = {"how": event.how, "result": event.result, "took_s": round(event.took_s, 3)}
            return event.job_id, HistoryEvent.LINK, {**told, "reason": _clean(event.reason)}
        case events.SendTried():
            return (
                event.job_id,
                HistoryEvent.SENT,
                {
                    "send": event.attempt,
                    "form": event.form.value,
                    "result": event.result,
                    "took_s": round(event.took_s, 3),
                    "reason": _clean(event.reason),
                },
            )
        case events.JobAccepted():
            return event.job_id, HistoryEvent.ACCEPTED, {"form": event.form.value, "sends": event.attempts}
        case events.ReceiptReceived():
            return (
                event.job_id,
                HistoryEvent.RECEIPT,
                {
                    "kind": event.kind,
                    "form": event.form.value,
                    "after_s": round(event.after_s, 3),
                    "reason": _clean(event.reason),
                },
            )
        case events.JobDelivered():
            return (
                event.job_id,
                HistoryEvent.DELIVERED,
                {
                    "outcome": event.outcome.value,
                    "form": event.form.value,
                    "sends": event.attempts,
                    "after_s": round(event.after_s, 3),
                },
            )
        case events.JobDeadLettered():
            outcome = event.outcome.value if event.outcome else None
            return event.job_id, HistoryEvent.UNDELIVERABLE, {"outcome": outcome, "reason": _clean(event.reason)}
        case events.LeaseLost():
            return event.job_id, HistoryEvent.LEASE_LOST, {}
        case _:
            return None


def _tell_polled(event: events.JobPolled) -> tuple[str, HistoryEvent, dict[str, JsonValue]]:
    details: dict[str, JsonValue] = {
        "attempt": event.attempt,
        "elapsed_s": round(event.elapsed_s, 3),
        "took_s": round(event.took_s, 3),
        "lag_s": round(event.lag_s, 3),
        "next_s": None if event.next_s is None else round(event.next_s, 3),
    }
    if event.fault is not None:
        return event.job_id, HistoryEvent.FAULT, {**details, "fault": event.fault.value, "reason": _clean(event.detail)}
    known = None if event.known else False
    return event.job_id, HistoryEvent.STATUS, {**details, "status": shown_word(event.status), "known": known}


def _clean(text: str | None) -> str | None:
    # Ours by construction; a host may have texts shown, or emit events of its own.
    return None if text is None else redact(text)
