"""The workers of a real storm, each a process of its own with the real parts; and the process that they are forked from.

Python and the library take most of a second to start. So one process loads them
and does nothing, and each worker is a fork of it. Run as a program it reads the
paths of pickled `Spec`s from its standard input, one a line, and writes what
became of each: ``started``, a path and a process id; ``ended``, a path and an
exit code. When its input ends, it kills what is left and ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import http.client
import logging
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from storm.outside import HANGS_ON_S, HANGS_S, odd_observation, receipt_of
from storm.plan import Plan, address, named, queue_options, runner_options
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    Recipient,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
    WhatsAppFactoryNotifier,
)
from videopoll.messages import Delivered
from videopoll.notifiers import HttpNotifier, HttpRequest, receipt_for_status, recipient_of

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTANCE, TOKEN, API_KEY = "instance1150", "a-token-of-the-storm", "a-key-of-the-storm"
ODD_RECEIPTS = {"raises", "bad text", "nonsense", "wrong form"}
STARVED_S = 0.15
"""A worker to which the machine gave no time for so long says so."""


@attrs.frozen(kw_only=True)
class Spec:
    """What a worker process has to know."""

    name: str
    number: int
    plan: Plan
    scale: float
    redis_url: str
    api_url: str
    messenger_url: str
    path: str
    points: bool
    odd: bool
    seed: int
    mutant: str = ""

    @property
    def events_path(self) -> Path:
        """Where its events go, pickled, each with its time."""
        return Path(self.path + ".events")

    @property
    def starved_path(self) -> Path:
        """Where the times go in which it got no time from the machine."""
        return Path(self.path + ".starved")

    @property
    def errors_path(self) -> Path:
        """Where its standard error goes."""
        return Path(self.path + ".errors")


# --- the parts ---


class _Home:
    """The storm, as a worker's parts ask it: where they are, and what is to go wrong there."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._port = urlsplit(spec.api_url).port

    def ask(self, what: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request("GET", f"/{self.spec.name}/{what}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    async def aask(self, what: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"GET /{self.spec.name}/{what} HTTP/1.1\r\nHost: storm\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            return (await reader.readexactly(size)).decode()
        finally:
            writer.close()

    def reach(self, point: str) -> None:
        if self.spec.points:
            self.ask(f"at/{point}")

    async def areach(self, point: str) -> None:
        if self.spec.points:
            await self.aask(f"at/{point}")


class OddPoller(VideoApiPoller):
    """The real poller; now and then it comes back with what is no answer, as a careless host's own does."""

    home: _Home

    def poll(self, job: Any, *, timeout_s: float) -> Any:
        observation = super().poll(job, timeout_s=timeout_s)
        how = self.home.ask("odd").strip('"')
        if how == "hangs":
            time.sleep(HANGS_S * self.home.spec.scale)
        return odd_observation(how) if how not in {"", "hangs"} else observation

    async def apoll(self, job: Any, *, timeout_s: float) -> Any:
        observation = await super().apoll(job, timeout_s=timeout_s)
        how = (await self.home.aask("odd")).strip('"')
        if how == "hangs":
            await asyncio.sleep(HANGS_S * self.home.spec.scale)
        if how == "hangs on":
            await _hang_on(HANGS_ON_S * self.home.spec.scale)
        return odd_observation(how) if how not in {"", "hangs", "hangs on"} else observation


async def _hang_on(for_s: float) -> None:
    """Hang, and do not listen to any cancellation."""
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until_s - time.monotonic())


ASKED_FORM: contextvars.ContextVar[str] = contextvars.ContextVar("storm_asked_form")
"""The form in which the worker wants the message sent; a channel of texts alone sends a video as text, too."""


class _Watched(HttpNotifier):
    """A channel that tells the storm what it sends, and whose receipts go wrong where the messenger says so."""

    home: _Home

    def build(self, message: Any) -> HttpRequest:
        request = super().build(message)
        about = {
            "job_id": message.job.job_id,
            "form": ASKED_FORM.get(),
            "sent_as": message.form.value,
            "outcome": message.outcome.kind.value,
            "reference": message.reference,
        }
        return attrs.evolve(request, json={**request.json, "storm": about})  # type: ignore[dict-item]

    def notify(self, message: Any) -> Any:
        self.home.reach("posting")
        ASKED_FORM.set(message.form.value)
        return _receipt(super().notify(message))

    async def anotify(self, message: Any) -> Any:
        await self.home.areach("posting")
        ASKED_FORM.set(message.form.value)
        return _receipt(await super().anotify(message))


def _receipt(receipt: Any) -> Any:
    odd = isinstance(receipt, Delivered) and receipt.message_id in ODD_RECEIPTS
    return receipt_of(receipt.message_id) if odd else receipt


class _Pager(HttpNotifier):
    """A host's own channel, which cannot be asked."""

    def __init__(self, *, base_url: str) -> None:
        super().__init__()
        self._base_url = base_url

    def build(self, message: Any) -> HttpRequest:
        fields = {"to": recipient_of(message).to, "text": message.text}
        return HttpRequest(method="POST", url=f"{self._base_url}/send", json=fields, timeout_s=15)

    def read(self, reply: Any, message: Any) -> Any:
        del message
        return receipt_for_status(reply) or Delivered(reply.json()["id"])


class Pager(_Watched, _Pager):
    """Videos and texts over a host's own channel."""


class Factory(_Watched, WhatsAppFactoryNotifier):
    """Texts, over a messenger that cannot be asked."""


class UltraMsg(_Watched, UltraMsgNotifier):
    """Videos and texts, over a messenger that can be asked."""


class SyncOnly:
    """The blocking half of a part, as a host writes it that knows nothing of asyncio."""

    def __init__(self, part: Any) -> None:
        for name in ("poll", "notify", "look_up"):
            if hasattr(part, name):
                setattr(self, name, getattr(part, name))


def _parts(spec: Spec) -> tuple[Any, Any]:
    plan, home = spec.plan, _Home(spec)
    line = {"base_url": f"{spec.messenger_url}/{spec.name}", "instance_id": INSTANCE, "token": TOKEN}
    channel: Any
    if plan.channel == "askable":
        channel = UltraMsg(**line)
    else:
        texts_alone = random.Random(plan.seed + 1).random() < 0.5
        channel = Factory(**line) if texts_alone else Pager(base_url=line["base_url"])
    poller: Any = (OddPoller if spec.odd else VideoApiPoller)(base_url=f"{spec.api_url}/{spec.name}", api_key=API_KEY)
    channel.home = poller.home = home
    sync = plan.workers[spec.number].parts == "sync"

    def resolve(conversation_id: str) -> Recipient:
        home.reach("resolving")
        return Recipient(channel="c", to=address(conversation_id.removeprefix("user-")))

    async def aresolve(conversation_id: str) -> Recipient:
        await home.areach("resolving")
        return Recipient(channel="c", to=address(conversation_id.removeprefix("user-")))

    channels = {"c": SyncOnly(channel) if sync else channel}
    if plan.routed:
        notifier = RoutingNotifier(channels, resolve=resolve if sync else aresolve)
    else:
        notifier = RoutingNotifier.from_metadata(channels)
    return SyncOnly(poller) if sync else poller, notifier


# --- the worker ---


def work(spec: Spec) -> None:
    """Be a worker until SIGTERM."""
    logging.disable(logging.CRITICAL)
    threading.Thread(target=_note_starvation, args=(spec,), daemon=True).start()
    (_work_in_threads if spec.plan.workers[spec.number].runner == "sync" else _work_with_asyncio)(spec)


def _note_starvation(spec: Spec) -> None:
    with spec.starved_path.open("a", buffering=1) as file:
        before_s, used_s = time.monotonic(), time.process_time()
        while True:
            time.sleep(0.02)
            now_s, now_used_s = time.monotonic(), time.process_time()
            # What used its time itself was not starved: it was busy.
            if now_s - before_s > STARVED_S and now_used_s - used_s < (now_s - before_s) / 2:
                file.write(f"{before_s} {now_s}\n")
            before_s, used_s = now_s, now_used_s


def _hook(spec: Spec) -> Any:
    file = spec.events_path.open("ab", buffering=0)

    def heard(event: Any) -> None:
        file.write(pickle.dumps((time.monotonic(), event)))

    return heard


def events_of(spec: Spec) -> Iterator[tuple[float, Any]]:
    """Read the events of a worker; the last one may have been cut off by its death."""
    with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError), spec.events_path.open("rb") as file:
        while True:
            yield pickle.load(file)


def _runners(spec: Spec, queue: Any, build: Any) -> list[Any]:
    one, rng, hook = spec.plan.workers[spec.number], random.Random(spec.seed), _hook(spec)
    runners = []
    for number in range(one.runners):
        poller, notifier = _parts(spec)
        options = runner_options(spec.plan, one, spec.scale)
        runner = build(queue(), poller, notifier, hooks=[hook], rng=random.Random(rng.getrandbits(32)), **options)
        runners.append(named(runner, spec.name, number))
    return runners


def _queue(spec: Spec, build: Any) -> Any:
    return build.from_url(
        spec.redis_url,
        worker_timeout_s=10 * spec.scale,
        front_timeout_s=2 * spec.scale,
        **queue_options(spec.plan, spec.scale),
    )


def _work_in_threads(spec: Spec) -> None:
    runners = _runners(spec, lambda: _queue(spec, RedisVideoJobQueue), Runner)
    signal.signal(signal.SIGTERM, lambda *_: [runner.request_stop() for runner in runners])
    _Home(spec).ask("up")
    others = [threading.Thread(target=runner.run) for runner in runners[1:]]
    for other in others:
        other.start()
    with contextlib.ExitStack() as stack:
        for runner in runners:
            stack.enter_context(runner._queue)
            stack.enter_context(runner)
        runners[0].run(handle_signals=len(runners) == 1)
        for other in others:
            other.join()


def _work_with_asyncio(spec: Spec) -> None:
    async def main() -> None:
        runners = _runners(spec, lambda: _queue(spec, AsyncRedisVideoJobQueue), AsyncRunner)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: [runner.request_stop() for runner in runners])
        await _Home(spec).aask("up")
        async with contextlib.AsyncExitStack() as stack:
            for runner in runners:
                await stack.enter_async_context(runner._queue)
                await stack.enter_async_context(runner)
            await asyncio.gather(*(runner.run(handle_signals=len(runners) == 1) for runner in runners))

    if any("hangs on" in event.how for event in spec.plan.events):
        # Closing the loop would wait for what hangs; such a host ends its process without.
        asyncio.new_event_loop().run_until_complete(main())
    else:
        asyncio.run(main())


# --- the process that they are forked from ---


class Nursery:
    """The storm's end of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "storm.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._rest = b""
        self._heard: list[tuple[str, str, int]] = []
        atexit.register(self.close)
        self._await("ready", "-")

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def spawn(self, spec: Spec) -> int:
        """Start a worker and give its process id."""
        Path(spec.path).write_bytes(pickle.dumps(spec))
        assert self._process.stdin is not None
        self._process.stdin.write(f"{spec.path}\n".encode())
        return self._await("started", spec.path)

    def ended(self) -> list[tuple[str, int]]:
        """Give the paths and exit codes of those that have ended since the last call; waits for nothing."""
        while select.select([self], [], [], 0)[0]:
            self._listen()
        heard, self._heard = self._heard, []
        return [(path, code) for _, path, code in heard]

    def close(self) -> None:
        """Kill all workers, and end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _await(self, what: str, path: str) -> int:
        while True:
            for place, heard in enumerate(self._heard):
                if heard[:2] == (what, path):
                    del self._heard[place]
                    return heard[2]
            self._listen()

    def _listen(self) -> None:
        read = os.read(self.fileno(), 65536)
        if not read:
            msg = "the process that workers are forked from has ended"
            raise RuntimeError(msg)
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            what, path, number = line.decode().split()
            self._heard.append((what, path, int(number)))


@functools.cache
def nursery() -> Nursery:
    """Give this process's; it ends with it."""
    return Nursery()


def main() -> None:
    """Fork workers until the input ends."""
    bell, ring = os.pipe()
    for end in (bell, ring):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(ring)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, str] = {}
    rest = b""
    os.write(1, f"ready - {os.getpid()}\n".encode())
    while True:
        ready, _, _ = select.select([0, bell], [], [])
        if bell in ready:
            os.read(bell, 4096)
            _reap(children)
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                path = line.decode()
                pid = os.fork()
                if not pid:
                    _be_worker(path)
                children[pid] = path
                os.write(1, f"started {path} {pid}\n".encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def _reap(children: dict[int, str]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            os.write(1, f"ended {children.pop(pid)} {os.waitstatus_to_exitcode(status)}\n".encode())


def _mutated(name: str) -> contextlib.AbstractContextManager[None]:
    if not name:
        return contextlib.nullcontext()
    from storm.mutants import MUTANTS

    return next(mutant for mutant in MUTANTS if mutant.name == name).applied()


def _be_worker(path: str) -> None:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        spec: Spec = pickle.loads(Path(path).read_bytes())
        errors = os.open(spec.errors_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, file in enumerate((nothing, errors, errors)):
            os.dup2(file, number)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        with _mutated(spec.mutant):
            work(spec)
        code = 0
    except BaseException:  # noqa: BLE001 - it must never come back to the loop that forked it
        import traceback

        traceback.print_exc()
    finally:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()  # As the interpreter does at its end.
        os._exit(code)


if __name__ == "__main__":
    main()
