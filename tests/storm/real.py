"""Carries a plan out for real: worker processes, a Redis or Valkey server, HTTP servers, signals; judged as in virtual time.

A second of the plan takes `scale` seconds. What the plan says of a worker's round
trips is done between Redis and the worker: there the storm sees every command
and every reply, and kills and freezes at the moment that the plan names.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import random
import signal
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from storm.fleet import Fleet, Life, Slot, Story
from storm.outside import Sent
from storm.plan import queue_options
from storm.processes import ODD_RECEIPTS, STARVED_S, Nursery, Spec, events_of, nursery
from storm.server import OF_A_HOLDER, PENDING, REFUSED_WRITE, spring
from storm.wire import Answer, HttpServer, RedisProxy, Request, know_scripts, name_of, troubled
from videopoll import AsyncRedisVideoJobQueue, events
from videopoll.jobs import MessageForm
from videopoll.messages import LookupResult
from videopoll.testing import EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Callable

    from storm.mutants import Mutant
    from storm.plan import Event, Plan

SCALE = 0.2
"""How many seconds a second of the plan takes."""

SLACK_S = 0.4
INSTANT_S = 0.25
LATE_S = 15.0
"""What the judge allows to a busy machine, and to waits that do not shrink, in real seconds."""

SERVERS = ("redis", "valkey")
OPERATORS = {"inspect", "count"}


class RealKernel:
    """The event loop, on which a second of the plan takes a part of a second."""

    yields = 0.0
    clock = None

    def __init__(self, rng: random.Random, scale: float) -> None:
        self.rng, self.scale = rng, scale
        self.loop = asyncio.new_event_loop()
        self.began_s = time.monotonic()

    @property
    def now_s(self) -> float:
        return self.plan_s(time.monotonic())

    def plan_s(self, monotonic_s: float) -> float:
        return (monotonic_s - self.began_s) / self.scale

    def at(self, at_s: float, call: Callable[..., object], *args: object) -> Any:
        return self.loop.call_later(max(0.0, at_s - self.now_s) * self.scale, call, *args)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.scale)

    def run(self, main: Any) -> Any:
        try:
            return self.loop.run_until_complete(main)
        finally:
            self.loop.run_until_complete(_end_all())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


async def _end_all() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


class RealProcess:
    """A worker process."""

    def __init__(self, kernel: RealKernel, spec: Spec, proxy: RedisProxy) -> None:
        self.kernel, self.spec, self.proxy, self.name = kernel, spec, proxy, spec.name
        self.traps: list[Any] = []
        self.dead = self.asked = False
        self.exit_code: int | None = None
        self.frozen_until_s = 0.0
        self.on_end: Callable[[int], None] = lambda _: None
        self.pid = 0

    @property
    def awake(self) -> bool:
        return not self.dead and self.frozen_until_s <= self.kernel.now_s

    def send(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            # It may have ended, and nobody has told of that yet.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.dead = True
        self.send(signal.SIGKILL)

    def freeze(self, seconds: float) -> None:
        until_s = self.kernel.now_s + seconds
        if until_s > self.frozen_until_s:
            self.frozen_until_s = until_s
            self.send(signal.SIGSTOP)
            for _ in range(1000):
                if self.exit_code is not None or self._state() in {"T", "Z", ""}:
                    break
                time.sleep(0.0002)
            self.kernel.at(until_s, self._thaw)

    def _state(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return ""

    def _thaw(self) -> None:
        if not self.dead and self.frozen_until_s <= self.kernel.now_s + 0.001:
            self.frozen_until_s = 0.0
            self.send(signal.SIGCONT)

    def new_context(self) -> contextvars.Context:
        return contextvars.copy_context()


class RealServer:
    """A Redis or Valkey server, and what is wrong with it at the moment."""

    def __init__(self, kernel: RealKernel, embedded: EmbeddedRedis) -> None:
        self.kernel, self.embedded = kernel, embedded
        self._step_s = 0.0
        self.away_until_s = self.stalled_until_s = self.full_until_s = self.refusing_until_s = 0.0
        self.refusal = ""
        self.cut_off: dict[Any, float] = {}
        self.no_writes: dict[Any, float] = {}
        self.refused: list[tuple[float, str]] = []
        self.lose_replies: list[str] = []
        self.break_off: list[tuple[str, int]] = []
        self.fired: list[str] = []
        self.stolen: list[str] = []
        self.restarting = False
        self.on_served: Callable[..., None] = lambda *_: None
        self._client = redis.Redis(
            port=embedded.port, retry=Retry(NoBackoff(), 0), socket_timeout=1.0, socket_connect_timeout=1.0
        )

    @property
    def away(self) -> bool:
        return self.restarting or self.away_until_s > self.kernel.now_s

    @property
    def troubled(self) -> bool:
        now_s = self.kernel.now_s
        ends = (self.stalled_until_s, self.full_until_s, self.refusing_until_s)
        return self.away or any(end_s > now_s for end_s in (*ends, *self.cut_off.values(), *self.no_writes.values()))

    @property
    def step_s(self) -> float:
        """How far its clock has been stepped, in seconds of the plan."""
        return self._step_s

    @step_s.setter
    def step_s(self, step_s: float) -> None:
        self._shift_ends(step_s - self._step_s)
        self._step_s = step_s

    def _shift_ends(self, by_s: float) -> None:
        """Let keys expire when the stepped clock says so, as a server keeps their ends in its clock's time."""
        try:
            for key in self.look("KEYS", "*"):
                left_ms = self.look("PTTL", key)
                if left_ms > 0:
                    self.look("PEXPIRE", key, max(1, left_ms - round(by_s * self.kernel.scale * 1000)))
        except redis.RedisError:
            self.kernel.at(self.kernel.now_s + 1.0, self._shift_ends, by_s)

    def look(self, *words: Any) -> Any:
        """Run a command past all proxies."""
        return self._client.execute_command(*words)

    def restart(self) -> None:
        """Restart it really: it begins with its append-only file, and without scripts."""
        # One that is under way goes on until the end of this one: two of them would start two servers on one port.
        if not self.restarting:
            self.restarting = True
            self.kernel.loop.create_task(self._restart())

    async def _restart(self) -> None:
        in_thread = partial(self.kernel.loop.run_in_executor, None)
        while self.restarting:
            await in_thread(self.embedded.stop)
            while self.away_until_s > self.kernel.now_s:
                await asyncio.sleep(0.01)
            await in_thread(self.embedded.start)
            self.restarting = self.away_until_s > self.kernel.now_s

    def stall(self) -> None:
        """Stop the process until the plan's time is over."""
        if self.embedded.running:
            self.embedded.pause()
        self.kernel.at(self.stalled_until_s, self._go_on)

    def _go_on(self) -> None:
        if self.embedded.running and self.stalled_until_s <= self.kernel.now_s + 0.001:
            self.embedded.resume()

    def fill(self) -> None:
        """Let it be full until the plan's time is over."""
        self._limit(1)
        self.kernel.at(self.full_until_s, self._empty)

    def _empty(self) -> None:
        if self.full_until_s <= self.kernel.now_s + 0.001 and not self._limit(0):
            self.kernel.at(self.kernel.now_s + 1.0, self._empty)

    def _limit(self, size: int) -> bool:
        if self.stalled_until_s > self.kernel.now_s:
            return False
        with contextlib.suppress(redis.RedisError):
            self.look("CONFIG", "SET", "maxmemory", size)
            return True
        return False

    def time(self) -> bytes:
        """Give the reply of TIME, by a clock that the storm has stepped; the server's own is this machine's."""
        now_s = time.time() + round(self.step_s * self.kernel.scale)
        words = (b"%d" % now_s, b"%d" % (now_s % 1 * 1_000_000))
        return b"*2\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def leases(self) -> dict[bytes, tuple[bytes, float]]:
        return {job_id: (token, 0.0) for job_id, token in self.look("HGETALL", "video:poll:leases").items()}

    @property
    def empty(self) -> bool:
        """Whether no job is anywhere on its way."""
        with contextlib.suppress(redis.RedisError):
            return not self.troubled and not self.look("EXISTS", *PENDING)
        return False


@attrs.define
class _Way:
    """What happens between a worker and Redis."""

    fleet: RealFleet
    process: Any = None

    def admits(self) -> bool:
        return not self.fleet.server.away

    def arrives(self, name: str, words: list[bytes]) -> list[bytes] | bytes | None:
        server, now_s = self.fleet.server, self.fleet.kernel.now_s
        if server.cut_off.get(self.process, 0.0) > now_s:
            return None
        if name in {"script", "hello", "client", "select", "ping"}:
            return words
        if server.refusing_until_s > now_s and name not in OPERATORS:
            return f"-{server.refusal}\r\n".encode()
        if name in OF_A_HOLDER and server.no_writes.get(self.process, 0.0) > now_s:
            server.refused.append((now_s, self.process.name))
            return f"-NOPERM {REFUSED_WRITE}\r\n".encode()
        if name != "blmove":
            spring(self.process, [name], "before it is served")
        writes = next((writes for wanted, writes in server.break_off if wanted == name), None)
        if writes is not None:
            server.break_off.remove((name, writes))
            server.fired.append(f"break off {name}")
        if (server.step_s or writes is not None) and name_of(words) == name and words[0].upper().startswith(b"EVAL"):
            return troubled(words, server.step_s * self.fleet.scale, -1 if writes is None else writes)
        if name == "time" and server.step_s:
            # Who stands still answers nothing.
            return None if server.stalled_until_s > now_s else server.time()
        return words

    def served(self, name: str) -> bool:
        server = self.fleet.server
        self.fleet._served(self.process, [name], [])
        if name != "blmove":
            spring(self.process, [name], "served")
        if name in server.lose_replies:
            server.lose_replies.remove(name)
            server.fired.append(f"lose reply of {name}")
            return False
        return True

    def answered(self, name: str) -> None:
        if name not in {"blmove", "script", "hello", "client", "select"}:
            spring(self.process, [name], "answered")


@attrs.define
class _Posted:
    """A message, as the messenger sees it."""

    job_id: str
    form: MessageForm

    @property
    def job(self) -> _Posted:
        return self


class RealFleet(Fleet):
    """One storm on its way, for real."""

    kernel: RealKernel  # type: ignore[assignment]
    server: RealServer  # type: ignore[assignment]

    def __init__(self, plan: Plan, folder: Path, nursery: Nursery, embedded: EmbeddedRedis, scale: float) -> None:
        super().__init__(plan)
        self.kernel.loop.close()
        self.kernel = RealKernel(self.rng, scale)
        self.folder, self.nursery, self.scale = folder, nursery, scale
        self.server = RealServer(self.kernel, embedded)
        self.story.slack_s, self.story.instant_s, self.story.late_s = SLACK_S / scale, INSTANT_S / scale, LATE_S / scale
        self.story.server = f"{embedded.name} {embedded.version}"
        self.processes: dict[str, RealProcess] = {}
        self.mutant = ""
        self.starved: list[tuple[float, float]] = []
        self.ways = [RedisProxy(embedded.port, _Way(self))]

    def run(self) -> Story:
        self.kernel.run(self._whole())
        self.story.refused = self.server.refused
        return self.story

    async def _whole(self) -> None:
        self.outside, self.messengers = HttpServer(self._outside), HttpServer(self._at_messenger)
        for one in (self.outside, self.messengers, self.ways[0]):
            await one.start()
        loop = self.kernel.loop
        loop.set_exception_handler(lambda _, context: self.story.broken.append(repr(context.get("exception", context))))
        loop.add_reader(self.nursery, self._look_for_ends)
        watching = loop.create_task(self._note_starvation())
        self.kernel.began_s = time.monotonic()
        try:
            await self._main()
        finally:
            watching.cancel()
            loop.remove_reader(self.nursery)
            for process in self.processes.values():
                process.kill()
            for way in self.ways:
                way.close()
            self.outside.stop()
            self.messengers.stop()
            await self._close_operator()
        self._gather()

    async def _close_operator(self) -> None:
        with contextlib.suppress(Exception):
            await self.operator_queue.aclose()

    async def _note_starvation(self) -> None:
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            now_s = time.monotonic()
            if now_s - before_s > STARVED_S:
                self.starved.append((self.kernel.plan_s(before_s), self.kernel.plan_s(now_s)))
            before_s = now_s

    def _gather(self) -> None:
        """Read what the workers have written."""
        plan_s = self.kernel.plan_s
        for process in self.processes.values():
            life = self._life(process)  # type: ignore[arg-type]
            life.starved += self.starved
            with contextlib.suppress(FileNotFoundError):
                for line in process.spec.starved_path.read_text().splitlines():
                    began_s, ended_s = map(float, line.split())
                    gap = plan_s(began_s), plan_s(ended_s)
                    if not any(a < gap[1] and gap[0] < b for a, b in life.frozen):
                        life.starved.append(gap)
            self.story.told_of += [(plan_s(at_s), process.name, event) for at_s, event in events_of(process.spec)]
        self.story.told_of.sort(key=lambda one: one[0])
        self.story.sent += self._refused()
        self.story.sent.sort(key=lambda one: one.at_s)

    def _refused(self) -> list[Sent]:
        """Give the sends that a messenger that is down cannot see: it refuses the connection."""
        downs = [(one.at_s, one.at_s + one.how[1]) for one in self.plan.events if one.what == "messenger"]
        return [
            # It began when the worker began it: it may have stood still for long before it connected.
            Sent(
                at_s - event.took_s / self.scale,
                event.job_id,
                worker,
                event.form.value,
                "",
                "",
                "down",
                told="down",
                told_s=at_s,
            )
            for at_s, worker, event in self.story.told_of
            if isinstance(event, events.SendTried)
            and str(event.reason).startswith("connect")
            and any(a - 1.0 <= at_s <= b + 5.0 for a, b in downs)
        ]

    # --- what differs from virtual time ---

    def _queue(self, kind: str) -> Any:
        del kind
        return AsyncRedisVideoJobQueue.from_url(
            self.ways[0].url, worker_timeout_s=2.0, front_timeout_s=1.0, **queue_options(self.plan, self.scale)
        )

    def _look_at_ends(self) -> None:
        if self.server.troubled:
            return
        with contextlib.suppress(redis.RedisError):
            letters = self.server.look("HKEYS", "video:poll:letters")
            known = {one for _, one, _ in self.story.ended}
            self.story.ended += [
                (self.kernel.now_s, job_id, "letter") for job_id in map(bytes.decode, letters) if job_id not in known
            ]

    def _spawn(self, slot: Slot) -> None:
        slot.count += 1
        name = f"w{slot.number}.{slot.count}"
        way = _Way(self)
        proxy = RedisProxy(self.server.embedded.port, way)
        self.ways.append(proxy)
        self.kernel.loop.create_task(proxy.start())
        spec = Spec(
            name=name,
            number=slot.number,
            plan=self.plan,
            scale=self.scale,
            redis_url=proxy.url,
            api_url=self.outside.url,
            messenger_url=self.messengers.url,
            path=str(self.folder / name),
            points=any({"posting", "resolving"} & set(event.how) for event in self.plan.events if event.how),
            odd=any(event.what == "odd polls" for event in self.plan.events),
            seed=self.rng.getrandbits(32),
            mutant=self.mutant,
        )
        process = way.process = RealProcess(self.kernel, spec, proxy)
        slot.process, slot.runners = process, []  # type: ignore[assignment]
        slot.life = Life(name, self.kernel.now_s)
        self.story.lives.append(slot.life)
        process.traps, slot.pending = slot.pending, []
        self.processes[name] = process
        self.note(f"{name} starts")
        process.pid = self.nursery.spawn(spec)

    def _look_for_ends(self) -> None:
        for path, code in self.nursery.ended():
            process = self.processes.get(Path(path).name)
            if process is None or process.spec.path != path:
                continue  # One of the storm before.
            process.exit_code = code
            process.on_end(code)
            late = code == 1 and self._life(process).frozen  # type: ignore[arg-type]
            if not process.dead and (not process.asked or code) and not late:
                said = process.spec.errors_path.read_text()[-600:]
                self.story.broken.append(f"{process.name} ended by itself with {code}: {said}")
                self._kill(process.spec.number, process, 1.0)  # type: ignore[arg-type]
                self.story.made["kill"] -= 1

    def _ask_to_stop(self, slot: Slot, process: Any, runners: list[Any], done: list[bool]) -> None:
        del slot, runners
        process.asked = True
        # Whoever is killed while it stops has not stopped.
        process.on_end = lambda _: None if process.dead else done.append(True)
        process.send(signal.SIGTERM)

    def _make(self, event: Event) -> None:
        super()._make(event)
        server = self.server
        match event.what:
            case "away":
                for way in self.ways:
                    way.cut()
            case "stall":
                server.stall()
            case "full":
                server.fill()
            case "messenger" if event.how[0] == "down":
                self.messengers.stop()
                self.kernel.at(self.messenger.down_until_s, self._messenger_is_back)

    def _messenger_is_back(self) -> None:
        if self.messenger.down_until_s <= self.kernel.now_s + 0.01:
            self.kernel.loop.create_task(self._start_messenger())

    async def _start_messenger(self) -> None:
        with contextlib.suppress(OSError):
            await self.messengers.start()

    # --- the outside, over HTTP ---

    async def _outside(self, request: Request) -> Answer:
        """Be the video API, and tell workers what is to go wrong in their own parts."""
        _, worker, call, *rest = request.path.split("/")
        process = self.processes.get(worker)
        match call, rest:
            case "job", [job_id]:
                return await self._poll(request, process, job_id)
            case "at", [point]:
                spring(process, [point], "reached")  # type: ignore[arg-type]
                return Answer(200, "")
            case "odd", []:
                return Answer(200, self.api.odd.pop(0) if self.api.odd else "")
            case "up", []:
                slot = self.slots[process.spec.number] if process is not None else None
                if slot is not None and slot.process is process:
                    slot.runners = [process]
                return Answer(200, "")
            case _:
                return Answer(404, {})

    async def _poll(self, request: Request, process: Any, job_id: str) -> Answer:
        stay_s, reply = self.api.serve(job_id, process.name)
        spring(process, ["poll"], "served")
        if reply is None:
            await request.never()
            return Answer()
        await self.kernel.sleep(stay_s)
        headers = {
            name: f"{float(value) * self.scale:.3f}" if name == "retry-after" else value
            for name, value in reply.headers.items()
        }
        return Answer(reply.status, reply.body, headers, partial(spring, process, ["poll"], "answered"))

    async def _at_messenger(self, request: Request) -> Answer:
        worker = request.path.split("/")[1]
        process = self.processes[worker]
        if request.path.endswith("/instance/status"):
            return Answer(200, {"status": {"accountStatus": {"status": "authenticated", "substatus": "connected"}}})
        if request.method == "GET":
            return await self._look_up(request, process)
        about = request.body["storm"]
        one = Sent(self.kernel.now_s, about["job_id"], worker, about["form"], about["outcome"], about["reference"], "?")
        self.note(f"{worker} sends {one.job_id} as {one.form}")
        stay_s, manner = self.messenger.serve(_Posted(one.job_id, MessageForm(about["sent_as"])), worker, one)
        spring(process, ["send"], "served")  # type: ignore[arg-type]
        if manner is None:
            await request.never()
            return Answer()
        await self.kernel.sleep(stay_s)
        if request.gone:
            return Answer()
        one.told, one.told_s = manner, self.kernel.now_s
        return attrs.evolve(
            self._answer(manner, ultra="/messages/" in request.path),
            then=partial(spring, process, ["send"], "answered"),
        )

    def _answer(self, manner: str, *, ultra: bool) -> Answer:
        match manner:
            case "lost" | "dropped":
                return Answer()
            case "500":
                return Answer(500, {"error": "something went wrong"})
            case "unreachable" | "down":
                return Answer(503, {"error": "try again later"})
            case "throttled":
                return Answer(429, {"error": "too many requests"}, {"retry-after": f"{3 * self.scale:.3f}"})
            case "refused":
                return Answer(200, {"error": [{"to": "invalid phone number"}]}) if ultra else _no(403)
            case "refused video":
                return Answer(200, {"error": "video: file extension not supported"}) if ultra else _no(413)
            case _:
                name = manner if manner in ODD_RECEIPTS else "m1"
                return Answer(200, {"sent": "true", "message": "ok", "id": name, "messageId": name})

    async def _look_up(self, request: Request, process: Any) -> Answer:
        reference = request.query["referenceId"].replace("%3A", ":")
        stay_s, result = self.messenger.look_up(reference)
        await self.kernel.sleep(stay_s)
        then = partial(spring, process, ["look_up"], "answered")
        if result is LookupResult.NO_ANSWER:
            return Answer(503, {"error": "try again later"}, then=then)
        found = [{"id": 1, "referenceId": reference, "status": "sent"}] if result is LookupResult.FOUND else []
        return Answer(200, {"total": len(found), "pages": 1, "limit": 100, "page": 1, "messages": found}, then=then)


def _no(status: int) -> Answer:
    return Answer(status, {"error": "invalid phone number"})


def run_real(plan: Plan, *, scale: float = SCALE, server: str = "", mutant: Mutant | None = None) -> Story:
    """Carry a plan out with real processes and servers; `mutant` is what its workers do not have."""
    prefer: Any = server or random.Random(plan.seed).choice(SERVERS)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(prefer=prefer, append_only=True) as embedded,
    ):
        fleet = RealFleet(plan, Path(folder), nursery(), embedded, scale)
        if mutant is not None:
            fleet.mutant = mutant.name
            with mutant.applied():
                know_scripts()
        story = fleet.run()
    with warnings.catch_warnings():
        # redis-py forgets a connection of the operator's whose opening was cut off by its time limit.
        warnings.simplefilter("ignore", ResourceWarning)
        del fleet
        gc.collect()
    return story
