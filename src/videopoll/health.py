"""A tiny HTTP endpoint for platforms that probe: `HealthServer`.

``GET /live`` answers 200 unless the worker's loop is stuck, or what writes or
renews leases hangs, has ended or fails all the time: then a restart helps. ``GET /ready`` answers 200 if the worker can do its work: 503 while Redis
is away, the video API refuses the key, something hangs, or the worker is
stopping. ``GET /metrics`` gives a Prometheus registry, if there is one. The
answers say what is wrong and what to do, as JSON.

It is served from a thread of its own, so it answers also when the worker's loop
does not.
"""

from __future__ import annotations

import http.server
import json
import logging
import socket
import socketserver
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from videopoll.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import Self

    from prometheus_client import CollectorRegistry

    from videopoll._engine import Health

__all__ = ["HealthServer"]

log = logging.getLogger(__name__)

STOPPING = "the worker is stopping: it takes no more jobs"

PROBE_S = 5.0
"""Seconds that a probe may take to send its request."""


class Probed(Protocol):
    """What is asked: `videopoll.Runner` and `videopoll.AsyncRunner` have it."""

    worker_id: str
    stopping: bool

    def health(self) -> Health:
        """Say whether the worker is fit."""
        ...


class HealthServer:
    """Serves a runner's health over HTTP, from a daemon thread.

    ::

        with HealthServer(runner, 8080, host="0.0.0.0"):
            runner.run()

    Args:
        runner: Whose health it is.
        port: Where to listen; 0 takes a free one (`port` tells which).
        host: On which address; only this machine by default.
        registry: What ``/metrics`` gives, e.g. `videopoll.metrics.PrometheusHook.registry`.

    Raises:
        ConfigurationError: It cannot listen there.
    """

    def __init__(
        self, runner: Probed, port: int, host: str = "127.0.0.1", *, registry: CollectorRegistry | None = None
    ) -> None:
        self._runner = runner
        self._registry = registry
        try:
            self._server = _Server((host, port), _Handler)
        except (OSError, OverflowError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "no such port"
            msg = f"the health endpoint cannot listen on {host}:{port} ({why}): choose another port or host"
            raise ConfigurationError(msg) from error
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="videopoll-health", daemon=True
        )
        self._thread.start()
        log.info("Health is told on %s/live and /ready", self.url)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The address of it, without a slash at the end."""
        host = str(self._server.server_address[0])
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        """Give the server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Give the answer to a path: its status, the type of its content, and the content."""
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
                known = ["/live", "/ready", *(["/metrics"] if self._registry is not None else [])]
                return _json(HTTPStatus.NOT_FOUND, {"paths": known})

    def _judge(self, *, only_stuck: bool) -> tuple[HTTPStatus, str, bytes]:
        health = self._runner.health()
        problems = list(health.problems)
        if only_stuck:
            problems = [] if health.alive else problems
        elif self._runner.stopping:
            problems.append(STOPPING)
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return _json(status, {"ok": not problems, "worker": self._runner.worker_id, "problems": problems})


def _json(status: HTTPStatus, value: object) -> tuple[HTTPStatus, str, bytes]:
    return status, "application/json", json.dumps(value).encode() + b"\n"


class _Server(http.server.ThreadingHTTPServer):
    owner: HealthServer

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind, without the look into DNS for a name that nobody reads."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about probes that hang up."""
        del request
        log.debug("A health probe from %s failed", client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - it is only ever built by this one
    timeout = PROBE_S
    server_version = "videopoll"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a probe."""
        status, kind, body = self.server.owner.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server calls it so

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Log probes at DEBUG only: there is one every few seconds."""
        log.debug("Health probe: %s", format % args)
