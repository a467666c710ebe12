"""Carries a plan out: builds the fleet, makes the faults, and waits until all is over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
from redis.exceptions import RedisError

from storm.kernel import PROCESS, Kernel, Process, StuckError, Thread
from storm.outside import (
    CHANNELS,
    Messenger,
    OwnAsyncPoller,
    OwnPoller,
    Sent,
    VideoApi,
    resolver,
)
from storm.plan import metadata_of, named, queue_options, runner_options
from storm.server import AsyncClient, RedisServer, SyncClient, moved_clock
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    QueueError,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    VideopollError,
    events,
)
from videopoll.messages import MessageReceipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from storm.plan import Event, Plan

PATIENCE_S = 400.0
"""How long after the last fault everything must be over."""

ACTS = {"cancel", "cancel and tell", "poll now", "enqueue again", "redrive", "dismiss", "push"}
"""What operators and producers do in between."""

FALL_BACK_S = 12.0
"""A trap that has waited for so long springs at whatever comes next."""


@attrs.define
class Trap:
    """Springs when a worker reaches a certain round trip."""

    names: frozenset[str]
    phase: str
    armed_s: float
    act: Callable[[Process], None]
    kernel: Kernel

    def ready(self, names: list[str], phase: str) -> bool:
        if self.kernel.now_s >= self.armed_s + FALL_BACK_S:
            return phase == "answered"
        return phase == self.phase and not self.names.isdisjoint(names)

    def spring(self, process: Process) -> None:
        self.act(process)


@attrs.define
class Life:
    """What happened to one worker process."""

    name: str
    born_s: float
    died_s: float | None = None
    frozen: list[tuple[float, float]] = attrs.field(factory=list)
    cut_off: list[tuple[float, float]] = attrs.field(factory=list)
    unwritten: list[tuple[float, float]] = attrs.field(factory=list)
    """When Redis refused what it wrote about jobs in its hands."""
    stop_s: float | None = None
    stopped_s: float | None = None
    starved: list[tuple[float, float]] = attrs.field(factory=list)
    """When the machine gave it no time, or stood still between it and the rest."""


@attrs.define
class Slot:
    """One place of the fleet: a worker, and after its death the next one."""

    number: int
    process: Process | None = None
    runners: list[Any] = attrs.field(factory=list)
    life: Any = None
    pending: list[Trap] = attrs.field(factory=list)
    count: int = 0


@attrs.define
class Story:
    """All that happened, for the judge."""

    plan: Plan
    trace: list[str] = attrs.field(factory=list)
    lives: list[Life] = attrs.field(factory=list)
    sent: list[Sent] = attrs.field(factory=list)
    polls: list[Any] = attrs.field(factory=list)
    finds: list[tuple[float, str, str]] = attrs.field(factory=list)
    outages: list[tuple[float, float, str]] = attrs.field(factory=list)
    steps: list[tuple[float, float]] = attrs.field(factory=list)
    acts: list[tuple[float, str, str, Any]] = attrs.field(factory=list)
    accepted: dict[str, float] = attrs.field(factory=dict)
    told_of: list[tuple[float, str, Any]] = attrs.field(factory=list)
    completed: dict[str, Any] = attrs.field(factory=dict)
    letters: dict[str, Any] = attrs.field(factory=dict)
    ended: list[tuple[float, str, str]] = attrs.field(factory=list)
    left: list[str] = attrs.field(factory=list)
    over: bool = False
    over_s: float = 0.0
    calm_s: float = 0.0
    made: Counter[str] = attrs.field(factory=Counter)
    planned: Counter[str] = attrs.field(factory=Counter)
    broken: list[str] = attrs.field(factory=list)
    redis_calls: int = 0
    stolen: list[str] = attrs.field(factory=list)
    held: list[tuple[str, str]] = attrs.field(factory=list)
    refused: list[tuple[float, str]] = attrs.field(factory=list)
    """When Redis refused to write what became of a job, and to which worker."""
    server: str = "fakeredis"
    slack_s: float = 1.0
    """Within so many seconds two things count as one: none are that far apart in virtual time."""
    instant_s: float = 0.1
    """How long what is under way may go on after its cause is over."""
    late_s: float = 0.0
    """What waits that do not shrink with the storm, and a busy machine, may add to a bound."""


class Fleet:
    """One storm on its way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed + 1)
        self.kernel = Kernel(self.rng)
        self.kernel.yields = plan.yields
        self.jobs = {f"job{number}": job for number, job in enumerate(plan.jobs)}
        self.story = Story(plan)
        self.slots = [Slot(number) for number in range(len(plan.workers))]
        self.armed: list[Trap] = []
        self.busy = 0
        self.producers = 0
        self.telling = 0
        self.fates_rng = random.Random(plan.seed + 2)

    # --- the storm ---

    def run(self) -> Story:
        logger = logging.getLogger("videopoll")
        before = logger.level, logger.propagate
        logger.setLevel(logging.CRITICAL + 1)
        asyncio_logger = logging.getLogger("asyncio")
        asyncio_before = asyncio_logger.level
        asyncio_logger.setLevel(logging.CRITICAL + 1)
        self.server = RedisServer(self.kernel)
        try:
            with moved_clock(self.server):
                try:
                    self.kernel.run(self._main())
                except StuckError:
                    self.story.broken.append("nothing would ever have happened again")
        finally:
            logger.setLevel(before[0])
            asyncio_logger.setLevel(asyncio_before)
        self.story.stolen, self.story.refused = self.server.stolen, self.server.refused
        self.story.broken += [f"{type(error).__name__}: {error}" for error in self.kernel.loop.broken]
        return self.story

    async def _main(self) -> None:
        kernel, plan, story = self.kernel, self.plan, self.story
        self.server.on_served = self._served
        self.api = VideoApi(kernel, self.jobs)
        self.api.answers_in_s = plan.api_s
        self.messenger = Messenger(kernel, plan, self.jobs)
        self.messenger.on_find = lambda reference, result: story.finds.append((kernel.now_s, reference, result.value))
        self.messenger.tell = self._tell
        story.sent, story.polls = self.messenger.sent, self.api.polls
        self.operator = Process(kernel, "operator")
        self.operator_queue = self.operator.context.run(self._queue, "async")
        for slot in self.slots:
            self._spawn(slot)
        for job_id, job in self.jobs.items():
            self.producers += 1
            self.api.born_s[job_id] = job.at_s
            kernel.at(job.at_s, self._as_operator, self._produce(job_id))
        for event in plan.events:
            self.busy += 1
            kernel.at(event.at_s, self._make, event)
        last_s = max([event.at_s for event in plan.events], default=0.0)
        while kernel.now_s <= last_s or self.busy or self.producers or self.armed or self._troubled():
            await kernel.sleep(0.5)
            if kernel.now_s > last_s + 2 * PATIENCE_S:
                story.broken.append("the faults never came to an end")
                break
        story.calm_s = kernel.now_s
        # After a step back of Redis's clock all is late by that much, and no worse.
        patience_s = PATIENCE_S - sum(step_s for _, step_s in story.steps if step_s < 0)
        while (self.telling or not self.server.empty) and kernel.now_s < story.calm_s + patience_s:
            await self.kernel.sleep(0.5)
        story.over, story.over_s = self.server.empty, kernel.now_s
        await self._stop_all()
        self._look_around()

    def _troubled(self) -> bool:
        now_s = self.kernel.now_s
        away = any(slot.process is None or slot.process.dead or not slot.process.awake for slot in self.slots)
        return away or self.server.troubled or self.api.trouble() is not None or self.messenger.down_until_s > now_s

    def note(self, text: str) -> None:
        process = PROCESS.get()
        who = process.name if process is not None else "-"
        self.story.trace.append(f"{self.kernel.now_s:.6f} {who} {text}")

    def _served(self, process: Process | None, names: list[str], replies: list[Any]) -> None:
        self.story.redis_calls += len(names)
        who = process.name if process is not None else "-"
        bad = [type(reply).__name__ for reply in replies if isinstance(reply, Exception)]
        self.story.trace.append(f"{self.kernel.now_s:.6f} redis {who} {'+'.join(names)} {' '.join(bad)}".rstrip())
        if "settle" in names:
            self._look_at_ends()

    def _look_at_ends(self) -> None:
        for job_id in self.jobs:
            letters = self.server.stored("video:poll:letters")
            known = any(one == job_id for _, one, _ in self.story.ended)
            if letters is not None and not known and job_id.encode() in letters._values:
                self.story.ended.append((self.kernel.now_s, job_id, "letter"))

    # --- workers ---

    def _queue(self, kind: str) -> Any:
        client = SyncClient if kind == "sync" else AsyncClient
        build = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
        queue: Any = build(
            client(self.server, 10.0),  # type: ignore[arg-type]
            front=client(self.server, 2.0),  # type: ignore[arg-type]
            blocking=client(self.server, 15.0),  # type: ignore[arg-type]
            **queue_options(self.plan),
        )
        rng = self.rng
        queue._token = lambda worker_id: f"{worker_id}:{rng.getrandbits(64):016x}"
        return queue

    def _runners(self, slot: Slot, kind: str) -> list[Any]:
        """Give the runners of one process; they share nothing but that."""
        return [
            self._runner(slot, self._queue(kind), number) for number in range(self.plan.workers[slot.number].runners)
        ]

    def _runner(self, slot: Slot, queue: Any, number: int) -> Any:
        plan, one = self.plan, self.plan.workers[slot.number]
        poller = OwnPoller(self.kernel, self.api) if one.parts == "sync" else OwnAsyncPoller(self.kernel, self.api)
        notifier: Any = CHANNELS[one.parts, plan.channel](self.kernel, self.messenger, self._sent)
        if plan.routed:
            notifier = RoutingNotifier({"c": notifier}, resolve=resolver(self.kernel, one.parts))
        build: Any = Runner if one.runner == "sync" else AsyncRunner
        runner = build(
            queue,
            poller,
            notifier,
            hooks=[self._heard],
            **runner_options(plan, one),
            # What operators see of it promises nothing to users; the real storms have it.
            visible=False,
            clock=self.kernel.clock,
            rng=random.Random(self.rng.getrandbits(32)),
        )
        return named(runner, slot.process.name, number)  # type: ignore[union-attr]

    def _spawn(self, slot: Slot) -> None:
        slot.count += 1
        process = Process(self.kernel, f"w{slot.number}.{slot.count}")
        slot.process, slot.runners = process, []
        slot.life = Life(process.name, self.kernel.now_s)
        self.story.lives.append(slot.life)
        process.traps = slot.pending
        slot.pending = []
        self.story.trace.append(f"{self.kernel.now_s:.6f} {process.name} starts")
        if self.plan.workers[slot.number].runner == "sync":
            process.context.run(Thread, target=self._run_threads, args=(slot,), name="main").start()
        else:
            context = process.new_context()
            self.kernel.loop.create_task(self._run_tasks(slot), context=context)

    def _run_threads(self, slot: Slot) -> None:
        slot.runners = self._runners(slot, "sync")
        for other in slot.runners[1:]:
            Thread(target=other.run, name="main").start()
        slot.runners[0].run()
        assert self._may_be_late(slot.life) or slot.runners[0]._under_way is None

    async def _run_tasks(self, slot: Slot) -> None:
        slot.runners = self._runners(slot, "async")
        await asyncio.gather(*(runner.run() for runner in slot.runners))
        assert self._may_be_late(slot.life) or all(runner._current.task.done() for runner in slot.runners)

    @staticmethod
    def _may_be_late(life: Life) -> bool:
        """Whether a worker was frozen, or cut off from Redis, on its way to its end; nobody else may hang at it."""
        return bool(life.frozen or life.cut_off)

    def _heard(self, event: events.Event) -> None:
        process = PROCESS.get()
        if process is not None and process.dead:
            return
        job_id = getattr(event, "job_id", "")
        self.note(f"{type(event).__name__} {job_id}".rstrip())
        self.story.told_of.append((self.kernel.now_s, process.name if process else "-", event))

    def _sent(self, one: Sent) -> None:
        self.note(f"send of {one.job_id} told: {one.told}")

    # --- producers and operators ---

    def _as_operator(self, coro: Any) -> None:
        self.kernel.loop.create_task(coro, context=self.operator.new_context())

    async def _produce(self, job_id: str) -> None:
        try:
            for _ in range(1000):
                try:
                    result = await self._enqueue(job_id)
                except QueueError:
                    await self.kernel.sleep(0.5)
                else:
                    self.story.accepted.setdefault(job_id, self.kernel.now_s)
                    self.note(f"enqueue {job_id}: {result.value}")
                    return
        finally:
            self.producers -= 1

    async def _enqueue(self, job_id: str) -> Any:
        metadata = metadata_of(self.plan, job_id)
        return await self.operator_queue.enqueue(job_id, conversation_id=f"user-{job_id}", metadata=metadata)

    def _tell(self, one: Sent) -> None:
        """Have the channel tell what became of a message: doubled, out of order, before its reply or long after it."""
        kinds = ("sent", "delivered", "read", "delivered") if one.fate == "arrives" else ("sent", "failed", "failed")
        for kind in kinds:
            receipt = MessageReceipt(
                kind=kind,  # type: ignore[arg-type]
                message_id=one.message_id,
                reference=one.reference,
                reason="it was not delivered",
                passing=one.fate == "fails for now",
            )
            self.telling += 1
            after_s = self.fates_rng.choice((0.0, 0.05, 0.5, 3.0, 15.0)) * self.fates_rng.uniform(0.5, 1.5)
            self.kernel.at(self.kernel.now_s + after_s, self._as_operator, self._receive(one, receipt))

    async def _receive(self, one: Sent, receipt: MessageReceipt) -> None:
        """Take a receipt in; its channel sends it again for as long as it is not answered."""
        while True:
            try:
                counts = await self.operator_queue.receive_receipts([receipt])
            except (QueueError, RedisError):
                await self.kernel.sleep(2.0)
            else:
                break
        self.note(f"{receipt.kind.value} of {one.message_id} for {one.job_id}: {counts}")
        if one.heard_s is None:
            one.heard_s = self.kernel.now_s
        self.telling -= 1

    async def _act(self, what: str, job_id: str) -> None:
        queue, result = self.operator_queue, None
        try:
            for _ in range(200):
                try:
                    match what:
                        case "cancel" | "cancel and tell":
                            result = await queue.cancel(job_id, notify=what == "cancel and tell")
                        case "poll now":
                            result = await queue.poll_now(job_id)
                        case "enqueue again":
                            result = await self._enqueue(job_id)
                            self.story.accepted.setdefault(job_id, self.kernel.now_s)
                        case "push":
                            # As a worker of another kind puts an id back that it has in its memory.
                            result = job_id in self.story.accepted and await queue._client.lpush(
                                "video:poll:queue", job_id
                            )
                        case "redrive":
                            result = await queue.dead_letters.redrive(job_id)
                        case _:
                            result = await queue.dead_letters.dismiss(job_id)
                except (QueueError, RedisError):
                    await self.kernel.sleep(0.5)
                except VideopollError as error:
                    result = type(error).__name__
                    break
                else:
                    break
            self.story.acts.append((self.kernel.now_s, what, job_id, result))
            self.note(f"{what} {job_id}: {result}")
        finally:
            self.busy -= 1

    # --- faults ---

    def _arm(self, number: int, trap: Trap) -> None:
        slot = self.slots[number]
        self.armed.append(trap)
        if slot.process is None or slot.process.dead:
            slot.pending.append(trap)
        else:
            slot.process.traps.append(trap)

    def _trap(self, number: int, names: str, phase: str, act: Callable[[Process], None]) -> None:
        trap = Trap(frozenset(names.split("/")), phase, self.kernel.now_s, act, self.kernel)

        def once(process: Process) -> None:
            self.armed.remove(trap)
            act(process)

        trap.act = once
        self._arm(number, trap)

    def _make(self, event: Event) -> None:
        self.story.trace.append(f"{self.kernel.now_s:.6f} storm {event.what} {' '.join(map(str, event.how))}")
        if event.what in ACTS:
            self._as_operator(self._act(event.what, f"job{event.how[0]}"))
        elif event.what == "stop":
            self.story.planned["stop"] += 1
            self._as_operator(self._stop(*event.how))
        else:
            if event.what in {"kill", "freeze", "cut off", "refuse writes"}:
                self._trouble_worker(event.what, *event.how)
            elif event.what in {"api", "odd polls", "messenger"}:
                self._trouble_others(event.what, event.how)
            else:
                self._trouble_redis(event.what, event.how)
            self.busy -= 1

    def _trouble_worker(self, what: str, number: int, *how: Any) -> None:
        if what == "cut off":
            self._cut_off(number, how[0])
            return
        if what == "refuse writes":
            self._refuse_writes(number, how[0])
            return
        names, phase, seconds = how
        self.story.planned[what] += 1
        if what == "kill":
            self._trap(number, names, phase, lambda process: self._kill(number, process, seconds))
        else:
            self._trap(number, names, phase, lambda process: self._freeze(process, seconds))

    def _trouble_redis(self, what: str, how: tuple[Any, ...]) -> None:
        server, until_s = self.server, self.kernel.now_s + (how[0] if isinstance(how[0], float) else 0.0)
        match what:
            case "lose reply":
                server.lose_replies.append(how[0])
                return
            case "break off":
                server.break_off.append((how[0], how[1]))
                return
            case "clock":
                server.step_s += how[0]
                self.story.steps.append((self.kernel.now_s, how[0]))
                self.story.made["clock"] += 1
                self.story.planned["clock"] += 1
                return
            case "stall":
                server.stalled_until_s = max(server.stalled_until_s, until_s)
            case "full":
                server.full_until_s = max(server.full_until_s, until_s)
            case "refuse":
                server.refusing_until_s, server.refusal = until_s, how[1]
            case _:
                server.away_until_s = max(server.away_until_s, until_s)
                if what == "restart":
                    server.restart()
        self._outage(what, how[0])

    def _trouble_others(self, what: str, how: tuple[Any, ...]) -> None:
        now_s = self.kernel.now_s
        if what == "api":
            kind, for_s, hint_s = how
            self.api.retry_after_s = hint_s
            self.api.troubles[kind] = now_s + for_s
        elif what == "odd polls":
            self.api.odd += how
        elif how[0] == "down":
            self.messenger.down_until_s = now_s + how[1]
        else:
            self.messenger.mum_until_s = now_s + how[1]

    def _outage(self, what: str, for_s: float) -> None:
        now_s = self.kernel.now_s
        self.story.outages.append((now_s, now_s + for_s, what))
        self.story.made[what] += 1
        self.story.planned[what] += 1

    def _cut_off(self, number: int, for_s: float) -> None:
        slot, now_s = self.slots[number], self.kernel.now_s
        if slot.process is not None and not slot.process.dead:
            self.server.cut_off[slot.process] = now_s + for_s
            slot.life.cut_off.append((now_s, now_s + for_s))

    def _refuse_writes(self, number: int, for_s: float) -> None:
        slot, now_s = self.slots[number], self.kernel.now_s
        if slot.process is not None and not slot.process.dead:
            self.server.no_writes[slot.process] = now_s + for_s
            slot.life.unwritten.append((now_s, now_s + for_s))

    def _life(self, process: Process) -> Life:
        return next(life for life in self.story.lives if life.name == process.name)

    def _kill(self, number: int, process: Process, back_s: float) -> None:
        slot = self.slots[number]
        self.story.trace.append(f"{self.kernel.now_s:.6f} {process.name} is killed")
        process.kill()
        self.story.made["kill"] += 1
        self._life(process).died_s = self.kernel.now_s
        if slot.process is process:
            slot.pending += process.traps
            process.traps = []
            self.busy += 1
            self.kernel.at(self.kernel.now_s + back_s, self._come_back, slot)

    def _come_back(self, slot: Slot) -> None:
        self.busy -= 1
        self._spawn(slot)

    def _freeze(self, process: Process, for_s: float) -> None:
        now_s = self.kernel.now_s
        self.story.trace.append(f"{now_s:.6f} {process.name} is frozen for {for_s:g} s")
        process.freeze(for_s)
        self.story.made["freeze"] += 1
        self._life(process).frozen.append((now_s, now_s + for_s))

    async def _stop(self, number: int, back_s: float) -> None:
        slot = self.slots[number]
        for _ in range(200):
            if slot.runners and slot.process is not None and slot.process.awake:
                break
            await self.kernel.sleep(0.2)
        await self._stop_slot(slot)
        self.story.made["stop"] += 1
        self.busy -= 1
        if slot.process is not None and not slot.process.dead:
            self.busy += 1
            stopped, slot.process = slot.process, None
            slot.pending += stopped.traps
            stopped.traps = []
            self.kernel.at(self.kernel.now_s + back_s, self._come_back, slot)
            # What the runner left to itself goes on for a while, as in a host's process.
            self.kernel.at(self.kernel.now_s + 60.0, stopped.kill)

    async def _stop_slot(self, slot: Slot) -> None:
        process, runners, life = slot.process, slot.runners, slot.life
        if process is None or process.dead or not runners or life.stop_s is not None:
            return
        life.stop_s = self.kernel.now_s
        self.note(f"{process.name} is asked to stop")
        done: list[bool] = []
        self._ask_to_stop(slot, process, runners, done)
        for _ in range(1000):
            if done or process.dead:
                break
            await self.kernel.sleep(0.1)
        if done:
            life.stopped_s = self.kernel.now_s
            if not life.frozen and not self._troubled_since(life.stop_s):
                self.story.held += [
                    (process.name, job_id.decode())
                    for job_id, (token, _) in self.server.leases().items()
                    if f"_{process.name}:".encode() in token
                ]
            self.note(f"{process.name} has stopped")
        elif not process.dead:
            self.story.broken.append(f"{process.name} did not stop within 100 s")

    def _troubled_since(self, at_s: float) -> bool:
        ends = [end_s for _, end_s, _ in self.story.outages]
        ends += [b for life in self.story.lives for _, b in (*life.cut_off, *life.unwritten)]
        lost = self.server.lose_replies or self.server.break_off or self.server.fired
        return bool(lost) or any(end_s >= at_s - 15.0 for end_s in ends)

    def _ask_to_stop(self, slot: Slot, process: Process, runners: list[Any], done: list[bool]) -> None:
        if self.plan.workers[slot.number].runner == "sync":

            def stop() -> None:
                for runner in runners:
                    runner.request_stop()
                for runner in runners:
                    runner.stop()
                done.append(True)

            process.context.run(Thread, target=stop, name="stopper").start()
        else:

            async def astop() -> None:
                await asyncio.gather(*(runner.stop() for runner in runners))
                done.append(True)

            self.kernel.loop.create_task(astop(), context=process.new_context())

    # --- the end ---

    async def _stop_all(self) -> None:
        for slot in self.slots:
            await self._stop_slot(slot)
        for _ in range(20):
            await self.kernel.sleep(1.0)

    def _look_around(self) -> None:
        # Of what was settled while the server could not be asked nothing is known yet.
        self._look_at_ends()
        look = self.server.look
        for key in sorted(look("KEYS", "*")):
            text = key.decode()
            kind = look("TYPE", key)
            self.story.left.append(text)
            if text.startswith("video:completed:"):
                self.story.completed[text.removeprefix("video:completed:")] = look("GET", key)
            elif text == "video:poll:letters":
                self.story.letters = {one.decode(): letter for one, letter in look("HGETALL", key).items()}
            del kind


def run(plan: Plan) -> Story:
    """Carry a plan out."""
    return Fleet(plan).run()
