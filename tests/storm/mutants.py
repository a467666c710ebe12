"""The proof that the storm can fail: each mechanism taken out, one at a time, as a change of the source's text."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import re
import types
from typing import TYPE_CHECKING, Any

import attrs

from storm.fleet import run
from storm.model import judge
from storm.plan import plan_of
from storm.shrink import kinds_of
from videopoll.queue import calls, layout_calls, watch_calls
from videopoll.queue.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

PATTERN = "pattern: "
"""What stands before a text that is a regular expression."""

AT_MOST = 500
"""Within so many storms each mutant has to be found."""


@attrs.frozen
class Mutant:
    """One mechanism, and the change that takes it out.

    `where` is the name of a Lua script, or of a module of videopoll.
    """

    name: str
    promise: int
    where: str
    old: str
    new: str
    # Where two mechanisms cover each other, both are taken out.
    and_also: Mutant | None = None
    # Which other mechanism does the same: without this one alone nothing goes wrong.
    covered: str = ""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Take the mechanism out for a while."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._script() if self.where.endswith(".lua") else self._module())
            if self.and_also is not None:
                stack.enter_context(self.and_also.applied())
            yield

    @contextlib.contextmanager
    def _script(self) -> Iterator[None]:
        name = self.where.removesuffix(".lua")
        place = name.upper()
        module = next(one for one in (calls, watch_calls, layout_calls) if hasattr(one, place))
        script: Script = getattr(module, place)
        source = self._changed(script.source)
        changed = Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
        scripts = calls.SCRIPTS
        setattr(module, place, changed)
        calls.SCRIPTS = tuple(changed if one is script else one for one in scripts)
        try:
            yield
        finally:
            setattr(module, place, script)
            calls.SCRIPTS = scripts

    @contextlib.contextmanager
    def _module(self) -> Iterator[None]:
        module = importlib.import_module(f"videopoll.{self.where}")
        other = types.ModuleType(module.__name__)
        other.__file__ = module.__file__
        source = self._changed(inspect.getsource(module))
        exec(compile(source, str(module.__file__), "exec"), vars(other))  # the very source, with one change
        swapped = list(_swap(vars(module), vars(other), module.__name__))
        if not swapped:
            msg = f"{self.name}: the change of {self.where} changes nothing that can be swapped"
            raise LookupError(msg)
        try:
            yield
        finally:
            for undo in swapped:
                undo()

    def _changed(self, source: str) -> str:
        if self.old.startswith(PATTERN):
            changed, count = re.subn(self.old.removeprefix(PATTERN), self.new, source)
        else:
            changed, count = source.replace(self.old, self.new), source.count(self.old)
        if count != 1:
            msg = f"{self.name}: its place in {self.where} is found {count} times, not once"
            raise LookupError(msg)
        return changed

    def check(self) -> None:
        """Whether it can still be applied.

        Raises:
            LookupError: The source has changed, and its place is not found.
        """
        with self.applied():
            pass


def _functions(value: object) -> Iterator[types.FunctionType]:
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        yield from _functions(value.fget)
    elif isinstance(value, types.FunctionType):
        yield value


def _swap(old: dict[str, Any], new: dict[str, Any], module: str) -> Iterator[Any]:
    """Put the code of changed functions into the old ones, so that whoever imported them gets it, too."""
    for name, value in list(old.items()):
        other = new.get(name)
        if isinstance(value, type) and isinstance(other, type) and value.__module__ == module:
            yield from _swap(dict(vars(value)), dict(vars(other)), module)
            continue
        if name.isupper() and isinstance(value, int | float) and other != value:
            yield _set_constant(old, name, other)
        for function, changed in zip(_functions(value), _functions(other), strict=False):
            if function.__module__ == module and function.__code__ != changed.__code__:
                before = function.__code__
                function.__code__ = changed.__code__
                yield lambda function=function, before=before: setattr(function, "__code__", before)


def _set_constant(names: dict[str, Any], name: str, value: Any) -> Any:
    before = names[name]
    names[name] = value
    return lambda: names.__setitem__(name, before)


REMOVED = "if true then"

MUTANTS = (
    # --- fences: a write is made only by who holds the lease ---
    Mutant("reschedule without its token", 2, "reschedule.lua", "if holders[n] == token then", REMOVED),
    Mutant("give back without its token", 2, "release.lua", "if redis.call('HGET', leases, id) == token then", REMOVED),
    Mutant(
        "conclude without its token",
        2,
        "conclude.lua",
        "if redis.call('HGET', leases, id) ~= token then",
        "if false then",
    ),
    Mutant(
        "begin a send without its token",
        2,
        "begin_send.lua",
        "if redis.call('HGET', leases, id) == token then",
        REMOVED,
    ),
    Mutant("redeliver without its token", 2, "redeliver.lua", "if holder == token then", REMOVED),
    Mutant("settle without its token", 2, "settle.lua", "elseif holder == token then", "elseif true then"),
    Mutant("renew without its token", 2, "renew.lua", "if holders[n] == token then", REMOVED),
    Mutant(
        "a cancel leaves the token",
        2,
        "cancel.lua",
        "redis.call('HDEL', leases, id)",
        "",
        and_also=Mutant(
            "", 2, "conclude.lua", "elseif not found[1] and not found[2] and found[4] then", "elseif false then"
        ),
    ),
    # --- taking up what is due ---
    Mutant(
        "no expired lease is taken over",
        3,
        "claim.lua",
        r"pattern: while .* and looked_at < MOST_EXPIRED do",
        "while false do",
    ),
    Mutant(
        "a job in flight is leased again",
        2,
        "claim.lua",
        "if job.source ~= 'expired' and lease_ends[n] then",
        "if false then",
    ),
    Mutant("no lease is renewed", 3, "renew.lua", "if #ends > 0 then", "if false then"),
    # --- order of writes: an abort at any line leaves every job findable ---
    Mutant(
        "a claim takes ids off the list before it leases them",
        1,
        "claim.lua",
        "  variadic('ZADD', inflight, ends)",
        "  if from_list > 0 then redis.call('LTRIM', queue, 0, -(from_list + 1)) from_list = 0 end\n"
        "  variadic('ZADD', inflight, ends)",
    ),
    Mutant(
        "a claim takes ids off the schedule before it leases them",
        1,
        "claim.lua",
        "  variadic('ZADD', inflight, ends)",
        "  if #leased_ids > 0 then variadic('ZREM', schedule, leased_ids) end\n  variadic('ZADD', inflight, ends)",
    ),
    Mutant(
        "a reschedule lets go before it schedules",
        1,
        "reschedule.lua",
        "  redis.call('ZADD', schedule, unpack(later))",
        "  redis.call('HDEL', leases, unpack(held))\n  redis.call('ZREM', inflight, unpack(held))\n"
        "  redis.call('ZADD', schedule, unpack(later))",
    ),
    Mutant(
        "a redelivery lets go before it is stored",
        1,
        "redeliver.lua",
        "    redis.call('ZADD', deliveries, due, id)",
        "    redis.call('HDEL', leases, id)\n    redis.call('ZREM', inflight, id)\n"
        "    redis.call('ZADD', deliveries, due, id)",
    ),
    Mutant(
        "a settlement deletes before it tells",
        1,
        "settle.lua",
        "    if ended ~= '' then redis.call('SET', completed, ended, 'EX', completed_s) end",
        "    redis.call('DEL', record, outbox, attempts)\n    redis.call('HDEL', leases, id)\n"
        "    redis.call('ZREM', inflight, id)\n"
        "    if ended ~= '' then redis.call('SET', completed, ended, 'EX', completed_s) end",
    ),
    # --- a reply that was lost: the same write again gives the same answer ---
    Mutant(
        "an enqueue that was cut off is not mended",
        1,
        "enqueue.lua",
        "and not redis.call('LPOS', queue, id, 'MAXLEN', LOOK_BACK) then",
        "and false then",
    ),
    Mutant("a job that has ended is taken in again", 5, "enqueue.lua", "elseif found[3] then", "elseif false then"),
    Mutant(
        "a job whose outcome is on its way is taken in again",
        5,
        "enqueue.lua",
        "  if found[2] then\n    answers[n] = 'delivering'",
        "  if false then\n    answers[n] = 'delivering'",
    ),
    # --- sends: noted, confirmed, and asked about ---
    Mutant(
        "a send is not noted",
        5,
        "core.step",
        "            if self._noted is not entry:",
        "            if not self.released:\n                return True\n            if self._noted is not entry:",
    ),
    Mutant(
        "a send begins whatever the answer to its note was",
        2,
        "core.step",
        "                if not (yield from self._note(begin)):\n                    return False\n",
        "                yield from self._note(begin)\n",
        covered="a lease that is lost ends the permit of its send",
    ),
    Mutant(
        "an outcome that could not be stored is sent",
        4,
        "core.step",
        "        return action if applied else None",
        "        return action",
        covered="each send is noted on its own then, and that is refused",
    ),
    Mutant(
        "a send of unknown fate is made again without asking",
        5,
        "core.delivery",
        "    if entry.sending_ms is not None:\n        return LookUp(entry)\n",
        "",
    ),
    Mutant(
        "a send that is taken over has had its time to show up",
        5,
        "core.delivery",
        "        entry = attrs.evolve(entry, sending_ms=max(entry.sending_ms, now_ms))\n",
        "",
    ),
    Mutant(
        "at most once sends again",
        5,
        "core.delivery",
        "    if policy.on_unknown is OnUnknown.AT_MOST_ONCE and entry.tries:",
        "    if False:",
    ),
    Mutant(
        "a message has no time to show up",
        5,
        "core.delivery",
        "return _send_again(entry, policy.appear_within_s, now_ms, policy, limit, took_ms=took_ms)",
        "return _send_again(attrs.evolve(entry, sending_ms=0), 0, now_ms, policy, limit)",
    ),
    Mutant(
        "an unknown fate counts as not sent",
        5,
        "worker.host_parts",
        r"pattern: return Unknown\(_quoting\(.*the notifier raised.*",
        'return NotSent("the notifier raised")',
    ),
    # --- budgets ---
    Mutant(
        "sends without end",
        6,
        "core.delivery",
        "attrs.evolve(entry, tries=entry.tries + 1,",
        "attrs.evolve(entry, tries=1,",
    ),
    Mutant(
        "a failed video is never sent as text",
        6,
        "core.delivery",
        "    return _may_go_as_text(entry) and entry.form_failures > 0 and spent",
        "    return False",
    ),
    Mutant(
        "a refused video is not sent as text",
        6,
        "core.delivery",
        "    text = MessageForm.TEXT if try_text and MessageForm.TEXT not in refused else None",
        "    text = None",
    ),
    Mutant(
        "a failed send is made again at once",
        6,
        "core.delivery",
        "    wait_ms = jittered_ms(policy.backoff_s(max(0, entry.tries - 1)) * 1000, policy.jitter, fraction)\n    if hint_s",
        "    wait_ms = 0\n    if hint_s",
    ),
    Mutant(
        "a fault is polled again at once",
        7,
        "core.polling",
        "    wait_ms = max(\n        jittered_ms(strategy.backoff_s(work.faults) * 1000, strategy.jitter, fraction),\n"
        "        _hint_ms(fault.retry_after_s, strategy),\n    )\n",
        "    wait_ms = 0\n",
    ),
    Mutant(
        "a deadline is kept twice as late",
        7,
        "core.polling",
        "return job.start_ms + round(strategy.timeout_s * 1000)",
        "return job.start_ms + round(strategy.timeout_s * 2000)",
    ),
    Mutant(
        "what is overdue waits for a place",
        7,
        "claim.lua",
        "local next_look, looked_list, over = 0, false, 0\nif endings > 0 then",
        "local next_look, looked_list, over = 0, false, 0\nif false then",
    ),
    Mutant(
        "what waits for its tenant's turn never has one",
        7,
        "claim.lua",
        "for _, waits in ipairs(fair and sides[source].found or {}) do",
        "for _, waits in ipairs({}) do",
    ),
    Mutant(
        "a record dies although somebody keeps it",
        7,
        "claim.lua",
        "if left_ms >= 0 and left_ms < record_s * 500 then redis.call('EXPIRE', key, record_s) end",
        "",
    ),
    # --- renewals and time limits ---
    Mutant(
        "no worker renews",
        3,
        "worker.state",
        "            if fresh_s < now_s",
        "            if False and fresh_s < now_s",
    ),
    Mutant(
        "what hangs is renewed for ever",
        3,
        "worker.state",
        "            if fresh_s < now_s - step.started_s < step.limit_s and not step.finished",
        "            if fresh_s < now_s - step.started_s and not step.finished",
    ),
    # --- the lease travels with the message ---
    Mutant(
        "a send may begin after its lease",
        2,
        "core.permits",
        "        return not self._withdrawn and self._lease.left_s() > 0",
        "        return True",
    ),
    Mutant(
        "a renewal that failed confirms a lease",
        2,
        "core.permits",
        "        return -math.inf if self._over else self._until_s - self._monotonic_s()",
        "        return 1000.0",
    ),
    Mutant(
        "what was given up while it waited for a thread is made",
        5,
        "_calling",
        "            elif work.begin():",
        "            elif work.begin() or True:",
        covered="the permit of a send that was given up is withdrawn",
    ),
    Mutant(
        "a job is let go of without a word",
        3,
        "core.step",
        "        self.released = True\n        self.lease.forfeit()\n        if self.finished:\n            return None",
        "        if True:\n            return None",
    ),
    # --- an absent Redis is no dead holder ---
    Mutant(
        "a worker claims while its writes fail",
        11,
        "worker.state",
        "        return unwritten or (bool(self.steps) and (self._renew_first or self._overslept))",
        "        return False",
    ),
    Mutant(
        "takeovers do not wait after an outage",
        11,
        "core.takeovers",
        "        take_over = now_s >= self.held_until_s and not self._failed",
        "        take_over = True",
        and_also=Mutant(
            "",
            11,
            "claim.lua",
            "if asked_ms and math.abs(now - asked_ms) > late_ms then take_over = false end",
            "",
        ),
    ),
    Mutant(
        "a write that fails is given up",
        11,
        "worker.writer",
        "        return max(self._failing_since_s, self._patience_from_s) + self._patience_s - now_s",
        "        return 0.0",
    ),
    # --- clocks ---
    Mutant(
        "our own start is judged as a stranger's",
        10,
        "queue.calls",
        r"pattern: job = VideoJob\.from_record\(job_id, record\)\n",
        "job = VideoJob.from_record(job_id, record, now_ms)\n",
    ),
    Mutant(
        "a worker goes by its own clock",
        10,
        "clock",
        "        self._offset_ms = now_ms - self._clock.monotonic_s() * 1000",
        "        pass",
    ),
    Mutant(
        "a proxy's 404 is believed",
        7,
        "video_api.poller",
        "    if not says_something_of_a_job(reply, job_id, _named(reply)):",
        "    if False:",
    ),
    # --- what a host or an operator does ---
    Mutant(
        "a host's video is believed unseen",
        8,
        "worker.host_parts",
        "        return checked_ready(value)",
        "        return value",
    ),
    Mutant(
        "a cancel does not see that a message may be on its way",
        5,
        "cancel.lua",
        "if fine and type(entry) == 'table' and type(entry['sending']) == 'number' then return 'sending' end",
        "",
    ),
    Mutant("sends of unknown fate without end", 5, "core.delivery", "    if unknowns >= limit:", "    if False:"),
    Mutant(
        "a 429 stops nothing",
        7,
        "worker.places",
        "        self.brakes.hold(self._account, wait_s)",
        "        pass",
    ),
    Mutant(
        "who stands in line at a stop stays there",
        3,
        "worker.base",
        "[self._give_back(step, wait=True) for step in state.leave_line()]",
        "[]",
    ),
    Mutant(
        "a worker does not hear of a 429 that another met",
        7,
        "worker.places",
        "self.brakes.learn(batch.brakes, batch.now_ms, self._longest_pause_s)",
        "{}",
    ),
)


def judge_seed(seed: int) -> list[str]:
    """Give what goes wrong in the storm of a seed."""
    return judge(run(plan_of(seed)))


def seeds_to_find(mutant: Mutant, seeds: range, sound: dict[int, set[str]]) -> tuple[int, int, list[str]] | None:
    """Give how many storms it took, the seed and what went wrong; None if all seeds pass.

    What goes wrong without the mutant as well does not count; `sound` remembers that.
    """
    with_it: list[str] = []
    for count, seed in enumerate(seeds, 1):
        with mutant.applied():
            with_it = judge_seed(seed)
        if with_it:
            if seed not in sound:
                sound[seed] = kinds_of(judge_seed(seed))
            if new := [wrong for wrong in with_it if kinds_of([wrong]) - sound[seed]]:
                return count, seed, new
    return None
