"""A tiny HTTP endpoint for platforms that probe: `HealthServer`.

``GET /live`` answers 200 unless the worker's loop is stuck, or what writes or
renews leases hangs, has ended or fails all the time: then a restart helps. ``GET /ready`` answers 200 if the worker can do its work: 503 while Redis
is away, the video API refuses the key, something hangs, or the worker is
stopping. ``GET /metrics`` gives a Prometheus registry, if there is one. The
answers say what is wrong and what to do, as JSON.

It is served from a thread of its own, so it answers also when the worker's loop
does not. It keeps few connections open, each for a few seconds at most: whoever is
slow, or opens many, costs the worker nothing and holds up no probe.
"""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
from typing_extensions import override

from videopoll._reasons import trace_of
from videopoll.core.belonging import OfProcess
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_count, check_texts
from videopoll.worker.host_parts import check_part

if TYPE_CHECKING:
    from typing import Self

    from prometheus_client import CollectorRegistry

    from videopoll.protocols import RunnerStatus

__all__ = ["HealthServer"]

log: logging.Logger = logging.getLogger(__name__)

STOPPING = "the worker is stopping: it takes no more jobs"

PROBE_S = 5.0
"""Seconds that a probe may take for its whole request, and again to take its answer."""

MOST_OPEN = 32
"""Connections open at a time; when one more comes, the oldest of those that have not sent their request is closed."""

MOST_BYTES = 16_384
"""The longest request that is read: a probe sends a line and a few headers."""

MOST_METRICS = 2
"""Answers to ``/metrics`` that are being made at a time: they may wait for Redis."""

PAUSE_S = 0.1
"""Seconds between two tries to accept a connection when there is no file descriptor for it, or something else fails."""


class HealthServer(OfProcess):
    """Serves a runner's health over HTTP, from a daemon thread.

    ::

        with HealthServer(runner, 8080, host="0.0.0.0"):
            runner.run()

    Args:
        runner: Whose health it is.
        port: Where to listen; 0 takes a free one (`port` tells which).
        host: On which address; only this machine by default.
        registry: What ``/metrics`` gives, e.g. `videopoll.observe.metrics.PrometheusHook.registry`.

    Raises:
        ConfigurationError: It cannot listen there.
    """

    def __init__(
        self, runner: RunnerStatus, port: int, host: str = "127.0.0.1", *, registry: CollectorRegistry | None = None
    ) -> None:
        check_count("HealthServer.port", port, low=0)
        check_texts("HealthServer", host=host or "")
        check_part(runner, "runner", "health")
        if registry is not None:
            check_part(registry, "registry", "collect")
        self._runner = runner
        self._registry = registry
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
            self._listener.listen(128)
        except (OSError, OverflowError, TypeError) as error:
            self._listener.close()
            why = (error.strerror if isinstance(error, OSError) else None) or "no such port"
            msg = f"the health endpoint cannot listen on {host}:{port} ({why}): choose another port or host"
            raise ConfigurationError(msg) from error
        self._listener.settimeout(0)
        self._address = self._listener.getsockname()
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._open: dict[socket.socket, _Request] = {}
        self._making = threading.BoundedSemaphore(MOST_METRICS)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="videopoll-health", daemon=True)
        self._thread.start()
        self._begin_in_process()
        log.info("Health is told on %s/live and /ready", self.url)

    @override
    def _begin_in_child(self) -> None:
        # The parent serves. A copy of its listener would keep the port, and take connections that nobody reads.
        self._closing = True
        for one in (self._listener, self._waker, self._woken, *self._open):
            one.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._address[1])

    @property
    def url(self) -> str:
        """The address of it, without a slash at the end."""
        host = str(self._address[0])
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def close(self) -> None:
        """Listen no more."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._waker.send(b"x")
        self._thread.join(PROBE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Return the answer to a path: its status, the type of its content, and the content."""
        match path.partition("?")[0].rstrip("/"):
            case "/live":
                return self._judge(only_stuck=True)
            case "/ready":
                return self._judge(only_stuck=False)
            case "/metrics" if self._registry is not None:
                # Imported here, as there is a registry only where it is installed.
                from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415

                return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case _:
                return _json(HTTPStatus.NOT_FOUND, {"paths": self._paths})

    @property
    def _paths(self) -> list[str]:
        return ["/live", "/ready", *(["/metrics"] if self._registry is not None else [])]

    def _judge(self, *, only_stuck: bool) -> tuple[HTTPStatus, str, bytes]:
        health = self._runner.health()
        problems = list(health.problems)
        if only_stuck:
            problems = [] if health.alive else problems
        elif self._runner.stopping:
            problems.append(STOPPING)
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return _json(status, {"ok": not problems, "worker": self._runner.worker_id, "problems": problems})

    # --- the thread ---

    def _serve(self) -> None:
        """Read requests and answer them until it is closed, whatever comes."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while not self._closing:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - whatever a probe sends, or the machine refuses, the next one is answered
                log.warning("The health endpoint goes on after a failure\n%s", trace_of(error))
                time.sleep(PAUSE_S)
        for connection in list(self._open):
            self._hang_up(connection)
        self._selector.close()
        for one in (self._listener, self._waker, self._woken):
            one.close()

    def _turn(self) -> None:
        now_s = time.monotonic()
        next_s = min((request.until_s for request in self._open.values()), default=now_s + PROBE_S)
        for key, _ in self._selector.select(max(0.0, next_s - now_s)):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._open:
                self._read(key.fileobj)
        now_s = time.monotonic()
        for connection in [one for one, request in self._open.items() if request.until_s <= now_s]:
            log.debug("A health probe did not send its request within %g s", PROBE_S)
            self._hang_up(connection)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # No file descriptor is left in this process, most likely: those of slow probes are given back soon.
            log.debug("The health endpoint cannot take a connection: %s", error.strerror)
            time.sleep(PAUSE_S)
            return
        if len(self._open) >= MOST_OPEN:
            self._hang_up(next(iter(self._open)))
        connection.settimeout(0)
        self._open[connection] = _Request(time.monotonic() + PROBE_S)
        self._selector.register(connection, selectors.EVENT_READ)
        # Most requests are here with their connection, and are answered before others can push it out.
        self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        request = self._open[connection]
        try:
            piece = connection.recv(MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        request.received += piece
        if not piece:
            self._hang_up(connection)
        elif b"\r\n\r\n" in request.received or b"\n\n" in request.received:
            self._forget(connection)
            self._reply(connection, bytes(request.received))
        elif len(request.received) >= MOST_BYTES:
            self._forget(connection)
            self._send(connection, _json(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, {"most_bytes": MOST_BYTES}))

    def _reply(self, connection: socket.socket, request: bytes) -> None:
        words = request.split(b"\n", 1)[0].decode("latin-1").split()
        if len(words) < 2:  # noqa: PLR2004 - a method and a path
            self._send(connection, _json(HTTPStatus.BAD_REQUEST, {"paths": self._paths}))
        elif words[0] not in {"GET", "HEAD"}:
            self._send(connection, _json(HTTPStatus.NOT_IMPLEMENTED, {"methods": ["GET", "HEAD"]}))
        elif self._registry is not None and words[1].startswith("/metrics"):
            self._make_metrics(connection, words[1], head=words[0] == "HEAD")
        else:
            try:
                answer = self.answer(words[1])
            except Exception as error:  # noqa: BLE001 - a host's runner may raise anything
                log.warning("The worker's health could not be asked\n%s", trace_of(error))
                answer = _json(
                    HTTPStatus.INTERNAL_SERVER_ERROR, {"problems": [f"health() raised {type(error).__name__}"]}
                )
            self._send(connection, answer, head=words[0] == "HEAD")

    def _make_metrics(self, connection: socket.socket, path: str, *, head: bool) -> None:
        """Answer in another thread: what waits for Redis must not hold up the probes."""
        if not self._making.acquire(blocking=False):
            self._send(connection, _json(HTTPStatus.SERVICE_UNAVAILABLE, {"problems": ["the metrics are being made"]}))
            return

        def make() -> None:
            try:
                self._send(connection, self.answer(path), head=head)
            except Exception as error:  # noqa: BLE001 - a host's collector may raise anything
                log.warning("The metrics could not be given\n%s", trace_of(error))
                connection.close()
            finally:
                self._making.release()

        threading.Thread(target=make, name="videopoll-metrics", daemon=True).start()

    def _send(self, connection: socket.socket, answer: tuple[HTTPStatus, str, bytes], *, head: bool = False) -> None:
        status, kind, body = answer
        with contextlib.suppress(OSError), connection:
            # The others wait meanwhile; what a probe gets fits into the buffers of the system.
            connection.settimeout(PROBE_S)
            connection.sendall(_head(status, kind, len(body)) + (b"" if head else body))
            connection.shutdown(socket.SHUT_WR)

    def _forget(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self._forget(connection)
        connection.close()


def _json(status: HTTPStatus, value: object) -> tuple[HTTPStatus, str, bytes]:
    return status, "application/json", json.dumps(value).encode() + b"\n"


@attrs.define(eq=False)
class _Request:
    """A request on its way in."""

    until_s: float
    received: bytearray = attrs.field(factory=bytearray)


def _head(status: HTTPStatus, kind: str, length: int) -> bytes:
    lines = (
        f"HTTP/1.0 {status.value} {status.phrase}",
        "Server: videopoll",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()
