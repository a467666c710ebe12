"""A worker in a process of its own, to be killed: `python worker_process.py '{"kind": "async", ...}'`.

With `crash_at` it kills itself, once, when a job comes to that point. With
`accepting`, WhatsApp Factory accepts messages and tells later what became of them. With
`repeated_s` it takes signals for the same wish to stop for so many seconds. With
`freeze_at` it stops itself, once, in the middle of a send: when the host has
said who gets the message ("resolve"), when UltraMsg has told the line's state
("status"), when a video's size is known ("video_check"), or while the messenger's
name is looked up ("connect"). With `without` a part of it is taken out
(`kit.route_mutants`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    DeliveryPolicy,
    LeasePolicy,
    PollingStrategy,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
    WhatsAppFactoryNotifier,
    notifiers,
)
from videopoll._http import Http
from videopoll.messages import Accepted, Delivered
from videopoll.notifiers import VideoCheck
from videopoll.testing import FolderPublisher, die_at
from videopoll.video_api import HttpVideoPoller
from videopoll.video_api.apis import VIDEOS
from videopoll.worker.stopping import StopSignals

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll._http import HttpRequest


class Accepting(WhatsAppFactoryNotifier):
    """A channel whose reply is not its last word."""

    def read(self, reply: Any, message: Any) -> Any:
        """Read the reply."""
        receipt = super().read(reply, message)
        return Accepted(receipt.message_id) if isinstance(receipt, Delivered) else receipt


def spawn(**settings: Any) -> subprocess.Popen[bytes]:
    """Start a worker process; its log goes to this process's standard error."""
    log = settings.pop("log", None)
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), json.dumps(settings)], stderr=log, start_new_session=True
    )


def main(settings: dict[str, Any]) -> None:
    """Work until SIGTERM."""
    logging.basicConfig(level=settings.get("log_level", "ERROR"), format="%(asctime)s %(process)d %(message)s")
    taken_out = take_out(settings["without"]) if settings.get("without") else contextlib.nullcontext()
    with taken_out:
        _work(settings)


def _work(settings: dict[str, Any]) -> None:  # noqa: C901 - each setting is one branch
    poller: Any = VideoApiPoller(base_url=settings["api_url"], api_key=settings["api_key"])
    publisher = FolderPublisher(settings["publish_to"]) if "publish_to" in settings else None
    if publisher is not None:
        poller = HttpVideoPoller(VIDEOS, base_url=settings["api_url"], api_key=settings["api_key"])
    line = {"instance_id": settings["instance"], "token": settings["token"]}
    notifier = RoutingNotifier.from_metadata(
        {
            "ultramsg": UltraMsgNotifier(
                base_url=settings["ultramsg_url"],
                video_check=VideoCheck({"127.0.0.1"}) if settings.get("freeze_at") == "video_check" else None,
                **line,
            ),
            "whatsapp_factory": (Accepting if settings.get("accepting") else WhatsAppFactoryNotifier)(
                base_url=settings["factory_url"], **line
            ),
            **channels_of(settings.get("channels", {})),
        }
    )
    if settings.get("freeze_at"):
        stand_still(settings["freeze_at"], notifier)
    options: dict[str, Any] = {
        "publisher": publisher,
        "strategy": PollingStrategy(**settings["strategy"]),
        "delivery": DeliveryPolicy(**settings["delivery"]),
        "lease": LeasePolicy.lasting(settings["lease_s"]),
        "foreign_workers": settings.get("foreign_workers", False),
        "grace_s": settings.get("grace_s", 10.0),
        # What operators see of it would be among the keys that are compared.
        "visible": False,
        **settings.get("options", {}),
    }
    runners: list[Any] = []

    def prepare(runner: Any) -> None:
        runners.append(runner)
        if "crash_at" in settings:
            die_at(runner, settings["crash_at"])
        if "stop_at" in settings:
            runner._state.context.crash_point = stop
        if "repeated_s" in settings:
            loop = None if settings["kind"] == "sync" else asyncio.get_running_loop()
            runner._signals = lambda: StopSignals(
                runner._state.clock, runner.request_stop, runner._state.grace_s, loop, repeated_s=settings["repeated_s"]
            )

    def stop(point: str, _job_id: str) -> None:
        if point == settings["stop_at"]:
            runners[0].request_stop()

    if settings["kind"] == "sync":
        queue = RedisVideoJobQueue.from_url(
            settings["url"], prefix=settings["prefix"], partitions=settings.get("partitions")
        )
        with queue, Runner(queue, poller, notifier, **options) as runner:
            prepare(runner)
            runner.run(handle_signals=settings.get("handle_signals", True))
    else:

        async def work() -> None:
            queue = AsyncRedisVideoJobQueue.from_url(
                settings["url"], prefix=settings["prefix"], partitions=settings.get("partitions")
            )
            async with queue, AsyncRunner(queue, poller, notifier, **options) as runner:
                prepare(runner)
                await runner.run(handle_signals=settings.get("handle_signals", True))

        asyncio.run(work())


def take_out(name: str) -> contextlib.AbstractContextManager[None]:
    """Take something out that leads this process to its Redis."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from kit.route_mutants import ROUTE_MUTANTS

    return ROUTE_MUTANTS[name].applied()


def channels_of(described: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Build channels that ship from their classes' names and arguments."""
    return {name: getattr(notifiers, which)(**_arguments(which, given)) for name, (which, given) in described.items()}


def _arguments(which: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a channel, with a template that came as JSON."""
    template = given.get("template")
    if which == "WhatsAppCloudNotifier" and isinstance(template, list | tuple):
        return given | {"template": notifiers.WhatsAppTemplate(*template)}
    return given


def stand_still(point: str, notifier: RoutingNotifier) -> None:
    """Stop this process, as a debugger or a sleeping machine would, when a send comes to a point."""
    stopped: list[str] = []

    def stop() -> None:
        if not stopped:
            stopped.append(point)
            # To this thread: another one may be the first to take what is sent to the process, and this one goes on meanwhile.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    if point == "resolve":
        notifier._recipient_of = _then(notifier._recipient_of, stop, lambda _: True)
    elif point == "connect":
        look_up = _then(socket.getaddrinfo, stop, lambda host, *_: host in {"localhost", b"localhost"})
        socket.getaddrinfo = look_up  # type: ignore[assignment] - the rest of its signature does not matter here
    else:
        asend, in_url = Http.asend, "instance/status" if point == "status" else "/file/"

        async def asend_and_stop(http: Http, request: HttpRequest, **options: Any) -> Any:
            result = await asend(http, request, **options)
            if request.method != "POST" and in_url in request.url:
                stop()
            return result

        send = _then(Http.send, stop, lambda _, request: request.method != "POST" and in_url in request.url)
        Http.send, Http.asend = send, asend_and_stop  # type: ignore[method-assign] - as above


def _then(call: Callable[..., Any], act: Callable[[], None], when: Callable[..., bool]) -> Callable[..., Any]:
    """Act after a call, if its arguments say so."""

    def call_and_act(*args: Any, **options: Any) -> Any:
        result = call(*args, **options)
        if when(*args):
            act()
        return result

    return call_and_act


def stands_still(process: subprocess.Popen[bytes]) -> bool:
    """Whether a worker process has been stopped."""
    pid, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED)
    return pid == process.pid and os.WIFSTOPPED(status)


def end(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """End a worker process, however it is, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
    process.wait(30)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
