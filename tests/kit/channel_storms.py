"""A storm over one channel: many users, the channel's own ways to fail, and workers in processes of their own that are killed.

At its end each user has one message, in a form that the channel's trouble allows, or a
dead letter that says why not. What cannot be known (a channel that cannot be asked, and a
process that died around the send) is told in the letter, and never doubled.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import attrs

from kit import QUICK, phone
from kit.worker_process import end
from videopoll import RedisVideoJobQueue
from videopoll.testing import CRASH_POINTS, Reply

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from kit import World
    from videopoll.jobs import DeadLetter
    from videopoll.messages import MessageReceipt
    from videopoll.testing import FakeMessage, ReceivedRequest

LEASE_S = 2.0
PATIENCE_S = 105.0
NOBODY_KNOWS = "nobody can say whether the message went out"

POINTS = [point for point in CRASH_POINTS if point != "after_link"]


@attrs.frozen
class Fate:
    """What happens to the messages of one user, and what may come of it.

    Args:
        name: What it is called.
        arrange: Has the fake do it to the messages to an address.
        gets: The kinds of the one message that its user may have in the end; empty for none.
        says: What the dead letter says, of a user who has none.
    """

    name: str
    arrange: Callable[[Any, str], object]
    gets: frozenset[str] = frozenset({"video"})
    says: str = ""


@attrs.frozen(kw_only=True)
class Weather:
    """A channel, and the ways in which it fails.

    Args:
        name: Of the channel, in the jobs' metadata.
        fake: The fake, listening.
        channel: The name of its class in `videopoll.notifiers`, and its arguments.
        fates: One for each user, in turn.
        answers: Whether a message of unknown fate can be found, or repeated without a second one.
        to: Gives the address of a user by number.
        url: Gives the URL of a user's video.
        receipts: Gives the receipts that have come since the last time.
    """

    name: str
    fake: Any
    channel: tuple[str, dict[str, Any]]
    fates: list[Fate]
    answers: bool
    to: Callable[[int], str] = phone
    url: Callable[[int], str] = "https://files.example/{}.mp4?signature=s".format
    receipts: Callable[[], list[MessageReceipt]] = list

    def inbox(self, to: str) -> list[FakeMessage]:
        """Return what a user sees."""
        return [message for message in self.fake.messages if message.to.removeprefix("whatsapp:+") == to]


def to_user(to: str, *, path: str = "") -> Callable[[ReceivedRequest], bool]:
    """Return whether a request is about a user: their number is in its body or in its path."""
    number = to.rpartition(":")[2]
    return lambda request: path in request.path and (number in request.path or number.encode() in request.raw)


def once(reply: Reply, *, path: str = "") -> Callable[[Any, str], object]:
    """Answer the first message to a user so."""
    return lambda fake, to: fake.reply_with(reply, when=to_user(to, path=path))


def twice(reply: Reply, *, path: str = "") -> Callable[[Any, str], object]:
    """Answer the first two messages to a user so."""
    return lambda fake, to: fake.reply_with(reply, reply, when=to_user(to, path=path))


class Crew:
    """Worker processes: the first of them die at points of a job's life, all at some point of the storm's."""

    def __init__(self, world: World, weather: Weather, rng: random.Random, kills: int) -> None:
        self._world, self._weather, self._rng = world, weather, rng
        self._points: Iterator[str | None] = itertools.chain(rng.sample(POINTS * 9, kills), itertools.repeat(None))
        self._kinds = itertools.cycle(["sync", "async"])
        self.members: list[subprocess.Popen[bytes]] = []
        self.deaths = 0

    def keep(self, size: int) -> None:
        """Start a process for each one that is missing."""
        for one in [one for one in self.members if one.poll() is not None]:
            assert one.returncode == -signal.SIGKILL, "a worker ended by itself"
            self.members.remove(one)
            self.deaths += 1
        while len(self.members) < size:
            point = next(self._points)
            self._world.kind = next(self._kinds)
            settings: dict[str, Any] = {} if point is None else {"crash_at": point}
            delivery = attrs.asdict(QUICK) | {"on_unknown": "at_most_once", "deadline_s": 60.0, "unknown_attempts": 30}
            self.members.append(
                self._world.process(
                    channels={self._weather.name: self._weather.channel}, delivery=delivery, lease_s=LEASE_S, **settings
                )
            )

    def lose_one(self) -> None:
        """Kill a process, whatever it is at."""
        self._rng.choice(self.members).kill()

    def dismiss(self) -> None:
        """End all."""
        for one in self.members:
            end(one)


def storm(world: World, weather: Weather, *, users: int, kills: int, seed: int) -> list[str]:
    """Let a storm pass; return what is wrong at its end."""
    rng = random.Random(seed)
    fates = {number: weather.fates[number % len(weather.fates)] for number in range(users)}
    for number, fate in fates.items():
        fate.arrange(weather.fake, weather.to(number))
        metadata = {"channel": weather.name, "to": weather.to(number)}
        world.api.job(f"job_{number}", Reply.completed(weather.url(number)))
        with world.queue() as queue:
            queue.enqueue(f"job_{number}", conversation_id=f"conversation-{number}", metadata=metadata)
    crew = Crew(world, weather, rng, kills)
    milestones = sorted(rng.randrange(users) for _ in range(kills))
    until_s = time.monotonic() + PATIENCE_S + users / 5
    try:
        with world.queue() as queue:
            while (open_jobs := _open(queue, weather)) and time.monotonic() < until_s:
                crew.keep(2)
                if milestones and len(weather.fake.requests) >= milestones[0]:
                    milestones.pop(0)
                    crew.lose_one()
                time.sleep(0.05)
            if open_jobs:
                return [f"not ended: {open_jobs}"]
            letters = {letter.job_id: letter for letter in queue.dead_letters.list(limit=users)}
    finally:
        crew.dismiss()
    wrongs = [judge(weather, fates[number], number, letters.get(f"job_{number}")) for number in range(users)]
    if crew.deaths < kills:
        wrongs.append(f"only {crew.deaths} workers died")
    return [wrong for wrong in wrongs if wrong is not None]


def _open(queue: RedisVideoJobQueue, weather: Weather) -> int:
    """Return how many jobs have not come to their end, having taken in what receipts there are.

    A receipt may have come while the jobs were counted.
    """
    pending = queue.counts().pending
    receipts = weather.receipts()
    if receipts:
        # Twice, as channels do that did not hear our answer.
        queue.receive_receipts(receipts)
        queue.receive_receipts(receipts)
    return pending + bool(receipts)


def judge(weather: Weather, fate: Fate, number: int, letter: DeadLetter | None) -> str | None:
    """Return what is wrong with what became of a user, or None."""
    kinds = [message.kind for message in weather.inbox(weather.to(number))]
    told = f"user {number} ({fate.name}) has {kinds} and {'no letter' if letter is None else letter.reason!r}"
    if len(kinds) > 1:
        return told
    if letter is not None and not weather.answers and NOBODY_KNOWS in letter.reason:
        return None if kinds in ([], *([kind] for kind in fate.gets)) else told
    if fate.gets:
        return None if len(kinds) == 1 and kinds[0] in fate.gets and letter is None else told
    return None if not kinds and letter is not None and fate.says in letter.reason else told
