"""What is allowed: judged from what the messengers received; our own records are then checked against that.

A rule names what it forbids. What excuses a second message, or none, has to be a
fault that the storm made around that very send, never something that our records say.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING

from storm.outside import DELIVERS, KNOWN
from storm.plan import POLICY
from videopoll import events
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.observations import FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storm.fleet import Life, Story
    from storm.outside import Sent

UNKNOWN_AT_MOST = 3
SEND_TIMEOUT_S = 25.0
APPEAR_WITHIN_S = 4.0
DELIVERY_S = 90.0
MAX_SENDS = 6
SHORTEST_WAIT_S = 0.7
LONGEST_IDLE_S = 4.0
LONGEST_WAY_S = 5.0
HEARD_WITHIN_S = 20.0
"""A send that begins so long after a receipt was taken in was decided with it: its claim was younger."""
HEARD_S = 0.5
"""Within so many seconds all workers know of a 429 that one of them met, and have given back what they had claimed before."""

FAILING = {"throttled", "unreachable", "down"}
"""What is surely not sent, and tried again after a while."""
KEPT = (
    *("video:completed:", "video:poll:dead", "video:poll:letters", "video:poll:sweeper"),
    *("video:poll:history", "video:poll:workers", "video:poll:loads"),
    *("video:poll:watch", "video:poll:sent", "video:poll:early", "video:poll:tenants"),
)
"""What may be left at the end, for a while; three tell operators of the runners; then receipts, and that there are tenants."""


def judge(story: Story) -> list[str]:
    """Give what was not allowed in a storm, a sentence each; nothing if all was well."""
    return list(_Judge(story).wrongs())


class _Judge:
    def __init__(self, story: Story) -> None:
        self.story, self.plan = story, story.plan
        self.lives = {life.name: life for life in story.lives}
        self.at_most_once = story.plan.on_unknown == "at_most_once"
        self.renew_s = story.plan.lease_s / 3
        self.slack_s, self.instant_s, self.late_s = story.slack_s, story.instant_s, story.late_s

    def wrongs(self) -> Iterator[str]:
        story = self.story
        for error in story.broken:
            yield f"broken: {error}"
        for one in story.stolen[:3]:
            yield f"stolen: {one}"
        if not story.over:
            yield f"not over: {self._pending()}"
        for job_id in story.accepted:
            yield from self._user(job_id)
        yield from self._records()
        yield from self._receipts()
        yield from self._after_stops()
        yield from self._polls()
        yield from self._ends_in_time()
        for key in story.left:
            if not key.startswith(KEPT):
                yield f"left over: {key}"
        for kind, count in story.planned.items():
            if story.made[kind] < count:
                yield f"the storm made {story.made[kind]} of {count} faults of the kind {kind}"

    def _pending(self) -> str:
        kinds = ("queue", "schedule", "inflight", "deliveries")
        return ", ".join(key for key in self.story.left if key.endswith(kinds)) or "something was pending"

    # --- what each user heard ---

    def _user(self, job_id: str) -> Iterator[str]:
        requests = [one for one in self.story.sent if one.job_id == job_id]
        got = [one for one in requests if one.delivered]
        yield from self._repeats(job_id, requests)
        outcomes = {one.outcome for one in got}
        if len(outcomes) > 1 and not any(what == "redrive" for _, what, one, _ in self.story.acts if one == job_id):
            yield f"told two things: {job_id}: {sorted(outcomes)}"
        yield from self._words(job_id, got)
        yield from self._budget(job_id, requests)
        yield from self._after_a_cancel(job_id, requests)
        yield from self._taken_in(job_id)
        letter_s = next((at_s for at_s, one, _ in self.story.ended if one == job_id), float("inf"))
        for one in requests:
            if one.at_s > letter_s + self.slack_s and not self._acted(job_id, {"redrive"}):
                yield f"sent after its dead letter: {job_id} at {one.at_s:.2f} s"
        if not got:
            reason = self._untold(job_id, requests)
            if reason is not None:
                yield f"untold: {job_id}: {reason}"

    def _repeats(self, job_id: str, requests: list[Sent]) -> Iterator[str]:
        for number, second in enumerate(requests):
            for first in requests[:number]:
                if not first.delivered or self._redriven(job_id, first.at_s, second.at_s):
                    continue
                excuse = self._may_repeat(first, second)
                if excuse is not None:
                    what = "told twice" if second.delivered else "sent again"
                    yield (
                        f"{what}: {job_id} at {first.at_s:.2f} s ({first.worker}, {first.manner}) and"
                        f" {second.at_s:.2f} s ({second.worker}): {excuse}"
                    )
                    break

    def _taken_in(self, job_id: str) -> Iterator[str]:
        """The same id twice is one job, however far it has come."""
        for at_s, what, one, result in self.story.acts:
            if one == job_id and what == "enqueue again" and result is EnqueueResult.CREATED:
                lost = self._alone_s() >= self.plan.job_ttl_s / 2 - self.plan.lease_s
                if at_s > self.story.accepted[job_id] + self.slack_s and not lost:
                    yield f"taken in twice: {job_id} at {at_s:.2f} s"

    def _after_a_cancel(self, job_id: str, requests: list[Sent]) -> Iterator[str]:
        for at_s, what, one, result in self.story.acts:
            if one != job_id or what not in {"cancel", "cancel and tell"} or result is not CancelResult.CANCELLED:
                continue
            late = [sent for sent in requests if sent.at_s > at_s + self.slack_s]
            if what == "cancel and tell":
                # Of the cancel itself the user is told; and nobody saw what a send would have said that was not let in.
                late = [sent for sent in late if sent.outcome not in {"cancelled", ""}]
            if late and not self._acted(job_id, {"enqueue again"}):
                yield f"told after a cancel: {job_id} at {late[0].at_s:.2f} s"
            had = [sent for sent in requests if sent.delivered and (sent.delivered_s or 0.0) < at_s - self.slack_s]
            if had and not self._acted(job_id, {"redrive", "dismiss"}):
                yield f"cancelled though its user has it: {job_id} at {at_s:.2f} s, sent at {had[0].at_s:.2f} s"

    def _acted(self, job_id: str, acts: set[str]) -> bool:
        return any(what in acts and one == job_id and result for _, what, one, result in self.story.acts)

    def _redriven(self, job_id: str, from_s: float, to_s: float) -> bool:
        return any(
            what == "redrive" and one == job_id and result and from_s - self.slack_s <= at_s <= to_s
            for at_s, what, one, result in self.story.acts
        )

    def _may_repeat(self, first: Sent, second: Sent) -> str | None:
        """Say why a send must not follow another that arrived; None if it may."""
        visible_s = (first.delivered_s or 0.0) + self.plan.visible_after_s
        if self.plan.channel == "askable":
            asked = [
                (at_s, said)
                for at_s, reference, said in self.story.finds
                if reference == first.reference and first.at_s < at_s < second.at_s
            ]
            if not asked:
                return "the channel was not asked"
            at_s, said = asked[-1]
            if said == "found":
                return "the channel had shown it"
            # Who has noted an unknown fate by a clock that was behind has noted it too early.
            early = self._clock_stepped(first, at_s) or (first.told not in KNOWN and self._clock_ran(first, at_s))
            if at_s < first.at_s + APPEAR_WITHIN_S - self.slack_s / 2 and not early:
                return "it had no time to show up"
            return None if at_s <= visible_s else "the channel was asked and shows it"
        if first.heard_s is not None and first.heard_s + HEARD_WITHIN_S < second.at_s:
            return "a receipt had told of it"
        if self.at_most_once:
            return "the policy is at most once"
        return None if self._fate_unknown(first, second.at_s) else "its fate was known"

    def _fate_unknown(self, one: Sent, at_s: float) -> bool:
        """Whether nobody can be blamed for not knowing, at a time, what became of a send."""
        life = self.lives[one.worker]
        told_s = one.told_s if one.told_s is not None else float("inf")
        if told_s <= at_s and one.told not in KNOWN:
            return True
        # Its time runs from where the worker began it; a busy machine brings it to the messenger a while later.
        if told_s > at_s and at_s - one.at_s >= SEND_TIMEOUT_S - self.slack_s - min(self.late_s, LONGEST_WAY_S):
            return True
        return self._worker_was_gone(life, one.at_s, min(at_s, self._settled_s(one, life)))

    def _settled_s(self, one: Sent, life: Life) -> float:
        """When its worker has surely written, at the latest, what it was told of a send, if it lives until then."""
        if one.told_s is None or one.told not in KNOWN:
            return float("inf")
        settled_s = one.told_s + self.slack_s
        troubles = (
            [(a, b) for a, b, _ in self.story.outages] + life.cut_off + life.unwritten + life.frozen + life.starved
        )
        for began_s, ended_s in sorted(troubles):
            if began_s <= settled_s and ended_s >= one.at_s:
                settled_s = max(settled_s, ended_s + self.plan.lease_s)
        return settled_s

    def _worker_was_gone(self, life: Life, from_s: float, to_s: float) -> bool:
        """Whether a worker was killed, frozen, cut off or stopped around a send, so that others had to take over."""
        if life.died_s is not None and life.died_s <= to_s:
            return True
        if life.stop_s is not None and life.stop_s <= to_s:
            return True
        gone_s = self.plan.lease_s - self.renew_s - self.slack_s
        gone: list[tuple[float, float]] = []
        # An outage that runs into the time in which it is cut off is one absence, for this worker.
        outages = [
            (a, b)
            for a, b, _ in self.story.outages
            if any(a <= d + self.slack_s and c <= b + self.slack_s for c, d in life.cut_off)
        ]
        for began_s, ended_s in sorted((*outages, *life.frozen, *life.cut_off, *life.unwritten, *life.starved)):
            if gone and began_s <= gone[-1][1] + self.slack_s:
                gone[-1] = (gone[-1][0], max(gone[-1][1], ended_s))
            else:
                gone.append((began_s, ended_s))
        for began_s, ended_s in gone:
            if began_s <= to_s and ended_s >= from_s - self.plan.lease_s and min(ended_s, to_s) - began_s >= gone_s:
                return True
        return False

    def _words(self, job_id: str, got: list[Sent]) -> Iterator[str]:
        job = self.plan.jobs[int(job_id.removeprefix("job"))]
        polls = [one for one in self.story.polls if one.job_id == job_id]
        for one in got:
            said = {poll.reply for poll in polls if poll.at_s <= one.at_s}
            match one.outcome:
                case "completed" if "ready" not in said:
                    yield f"told of a video that was not ready: {job_id}"
                case "failed" if job.ends != "failed" and not any("odd polls" in e.what for e in self.plan.events):
                    yield f"told of a failure that did not happen: {job_id}"
                case "not_found" if job.ends != "missing" and "stray 404" not in said:
                    yield f"told 'not found' of a job that the API knows: {job_id}"
                case "not_found" if job.ends != "missing" and {"working", "ready"} & said:
                    yield f"told 'not found' of a job that the API has known: {job_id}"
                case "timed_out" if one.at_s - self.story.accepted[job_id] + self._stepped() < (
                    self.plan.timeout_s - self.slack_s
                ):
                    yield f"timed out before its time: {job_id}"
                case "cancelled" if not self._acted(job_id, {"cancel and tell"}):
                    yield f"told of a cancel that nobody asked for: {job_id}"
                case _:
                    pass

    def _stepped(self) -> float:
        return sum(step_s for _, step_s in self.story.steps if step_s > 0)

    def _budget(self, job_id: str, requests: list[Sent]) -> Iterator[str]:
        # A redrive, and a cancel of which the user is told, begin a message anew.
        anew = sum(
            what == "redrive" or (what == "cancel and tell" and result is CancelResult.CANCELLED)
            for _, what, one, result in self.story.acts
            if one == job_id
        )
        blind = [one for one in requests if one.told not in KNOWN and not self._was_told(one, requests)]
        limit = 1 if self.at_most_once and self.plan.channel == "mute" else UNKNOWN_AT_MOST
        if self.plan.channel == "mute" and len(blind) > limit * (1 + anew):
            yield f"flooded: {job_id} got {len(blind)} sends of unknown fate"
        if len(requests) > MAX_SENDS * (1 + anew):
            yield f"too many sends: {job_id} got {len(requests)}"
        videos = [one for one in requests if one.form == "video" and one.manner in FAILING]
        if len(videos) > 3 * (1 + anew) + 1:
            yield f"too many videos: {job_id} got {len(videos)} failed videos and no text"

        for first, second in itertools.pairwise(requests):
            soon = first.form == second.form and second.at_s - first.at_s < SHORTEST_WAIT_S
            if first.told in FAILING and soon and not anew and not self._may_hurry(requests[0], first, second):
                yield f"sent too soon: {job_id} at {first.at_s:.2f} s and {second.at_s:.2f} s"
                break

    @staticmethod
    def _was_told(one: Sent, requests: list[Sent]) -> bool:
        """Whether a receipt told what became of a send, before there was another."""
        next_s = min((other.at_s for other in requests if other.at_s > one.at_s), default=float("inf"))
        return one.heard_s is not None and one.heard_s < next_s

    def _may_hurry(self, earliest: Sent, first: Sent, second: Sent) -> bool:
        """Whether a send may follow at once one that failed."""
        if self._clock_ran(first, second.at_s):
            return True
        if second.at_s - earliest.at_s >= DELIVERY_S - 20.0:
            return True  # The last one is made at the deadline of the delivery, however soon that is.
        # Who stops gives its jobs to others at once, also one whose send has just failed.
        stop_s = self.lives[first.worker].stop_s
        return second.worker != first.worker and stop_s is not None and first.at_s <= stop_s <= second.at_s

    def _clock_ran(self, first: Sent, until_s: float) -> bool:
        """Whether a wait that began with a send that failed may have been shorter than Redis's clock says."""
        if self._clock_stepped(first, until_s):
            return True
        # Who stood still with the answer to a claim in hand takes Redis's clock for that much slower.
        life, claimed_s = self.lives[first.worker], self._claimed_s(first)
        return any(claimed_s <= b and a <= first.at_s for a, b in (*life.frozen, *life.starved))

    def _clock_stepped(self, first: Sent, until_s: float) -> bool:
        """Whether Redis's clock stepped forward around a send: a worker learns with each of its claims what it says."""
        return any(self._claimed_s(first) <= at_s <= until_s and step_s > 0 for at_s, step_s in self.story.steps)

    @staticmethod
    def _claimed_s(one: Sent) -> float:
        """When the job of a send was claimed, at the earliest."""
        return one.at_s - POLICY["request_timeout_s"] - LONGEST_IDLE_S

    def _untold(self, job_id: str, requests: list[Sent]) -> str | None:
        """Say why a user had to hear something; None if silence is allowed."""
        job = self.plan.jobs[int(job_id.removeprefix("job"))]
        acts = [(what, result) for _, what, one, result in self.story.acts if one == job_id]
        if ("cancel", CancelResult.CANCELLED) in acts:
            return None
        lettered = any(one == job_id for _, one, _ in self.story.ended)
        if not lettered:
            return "no message, no dead letter" if self.story.over else "still pending"
        if job.refused == "all" or self._spent(job_id, requests):
            return None
        return "a dead letter, though it could have been delivered"

    def _spent(self, job_id: str, requests: list[Sent]) -> bool:
        """Whether what may be tried for a user was tried, or nobody lived to keep the job."""
        if any(one.fate == "fails" and one.form == "text" for one in requests):
            return True  # It was accepted, and a receipt said that it failed: nothing is left to try.
        if self._alone_s() >= self.plan.job_ttl_s / 2 - self.plan.lease_s:
            return True  # By Redis's clock nobody has kept the record for as long as it lives.
        over_s = next(at_s for at_s, one, _ in self.story.ended if one == job_id)
        known_s = self._known_s(job_id)
        around = [life for life in self.story.lives if self._broke_off(life, known_s - self.slack_s, over_s)]
        blind = [one for one in requests if one.told not in KNOWN]
        if self.plan.channel == "mute" and self.at_most_once and (blind or around):
            return True
        if self.plan.channel == "mute" and len(blind) + len(around) >= UNKNOWN_AT_MOST:
            return True
        if len(requests) + len(around) >= MAX_SENDS:
            return True  # A send that its worker's death cut off before it left counts, too.
        if over_s - known_s + self._stepped() >= DELIVERY_S - self.slack_s:
            # A channel that loses reply after reply is held back, and meanwhile the deadline runs on.
            lost = [one for one in self.story.sent if one.told not in KNOWN and one.at_s < over_s]
            if len(lost) >= UNKNOWN_AT_MOST:
                return True
            # The last send is made for what surely did not go out; whoever died had noted that it would send.
            if (blind or around) and self._silent(over_s):
                return True
        failing = [one for one in requests if one.manner not in DELIVERS]
        if failing and failing[-1].at_s - failing[0].at_s >= DELIVERY_S - 20.0:
            return True
        return bool(self.plan.channel == "askable" and len(blind) >= UNKNOWN_AT_MOST)

    def _known_s(self, job_id: str) -> float:
        """When it can have been known at the earliest how a job ends: its delivery begins then, and not before."""
        says = {"ready", "failed", "missing"}
        odd = any(event.what == "odd polls" for event in self.plan.events)
        polls_s = [one.at_s for one in self.story.polls if one.job_id == job_id and (odd or one.reply in says)]
        cancels_s = [at_s for at_s, what, one, _ in self.story.acts if one == job_id and what == "cancel and tell"]
        over_s = self.story.accepted[job_id] + self.plan.timeout_s - self._stepped()
        return min([*polls_s, *cancels_s, over_s])

    def _silent(self, at_s: float) -> bool:
        """Whether nobody could learn from the channel, at a time, what became of a message."""
        if self.plan.channel == "mute":
            return True
        said = [said for asked_s, _, said in self.story.finds if asked_s <= at_s]
        return bool(said) and said[-1] == "no_answer"

    @staticmethod
    def _broke_off(life: Life, from_s: float, to_s: float) -> bool:
        """Whether something ended or interrupted a worker's sends in a time."""
        moments = [*filter(None, (life.died_s, life.stop_s)), *(at_s for at_s, _ in life.frozen + life.cut_off)]
        return any(from_s <= at_s <= to_s for at_s in moments)

    def _alone_s(self) -> float:
        """For how long, at most, there was nobody to keep records, by Redis's clock."""
        gone = [b - a for a, b, _ in self.story.outages]
        gone += [b - a for life in self.story.lives for a, b in (*life.frozen, *life.cut_off)]
        gone += [event.how[-1] for event in self.plan.events if event.what in {"kill", "stop"}]
        return self._stepped() + sum(gone)

    # --- our own records ---

    def _records(self) -> Iterator[str]:
        for job_id in self.story.accepted:
            got = [one for one in self.story.sent if one.job_id == job_id and one.delivered]
            stored, lettered = self.story.completed.get(job_id), job_id in self.story.letters
            if not self.story.over:
                continue
            if stored is None:
                if not lettered and not self._acted(job_id, {"dismiss", "redrive"}):
                    yield f"no record: nothing tells how {job_id} ended"
                continue
            record = json.loads(stored)
            if record.get("delivered") is True and not got:
                yield f"false record: {job_id} is said to be delivered"
            yield from self._letters(job_id, record, lettered=lettered)
        counted = Counter(event.job_id for _, _, event in self.story.told_of if isinstance(event, events.JobDelivered))
        for job_id, count in counted.items():
            if count > 1 and not self._acted(job_id, {"redrive"}):
                yield f"counted twice: {job_id} was told of as delivered {count} times"

    def _letters(self, job_id: str, record: dict[str, object], *, lettered: bool) -> Iterator[str]:
        # A video that was made and cannot be handed on: its user is told that there is none, and it is kept.
        made = "undeliverableUrl" in record
        if record.get("delivered") is True and lettered and not made:
            yield f"two ends: {job_id} is delivered and a dead letter"
        if made and not lettered and not self._acted(job_id, {"dismiss", "redrive"}):
            yield f"thrown away: the video of {job_id} was made, and nobody can look for it"
        if record.get("delivered") is False and not lettered and not self._acted(job_id, {"cancel", "dismiss"}):
            yield f"no letter: {job_id} is said to be undelivered"

    def _receipts(self) -> Iterator[str]:
        """What a channel has told is known at the end."""
        for job_id in self.story.accepted:
            got = [one for one in self.story.sent if one.job_id == job_id and one.delivered]
            stored = self.story.completed.get(job_id)
            acts = {"redrive", "dismiss", "cancel", "cancel and tell", "enqueue again", "push"}
            if not self.plan.tells or not self.story.over or stored is None or self._acted(job_id, acts):
                continue
            if job_id in self.story.letters:
                continue  # A video that was made and cannot be handed on is a dead letter already, and is not watched.
            if got and all(one.heard_s is not None for one in got) and json.loads(stored).get("delivered") is None:
                yield f"unheard: {job_id} was delivered, its channel has told so, and nobody knows"

    # --- workers ---

    def _after_stops(self) -> Iterator[str]:
        for one in self.story.sent:
            stopped_s = self.lives[one.worker].stopped_s
            if stopped_s is not None and one.at_s > stopped_s + self.instant_s:
                yield f"sent after its stop: {one.job_id} by {one.worker} at {one.at_s:.2f} s"
        for worker, job_id in self.story.held:
            yield f"held after its stop: {job_id} by {worker}"
        for life in self.story.lives:
            if life.stop_s is not None and life.stopped_s is not None and not life.frozen:
                limit_s = self.plan.grace_s + 15.0 + self.late_s
                if life.stopped_s - life.stop_s > limit_s:
                    yield f"slow stop: {life.name} took {life.stopped_s - life.stop_s:.1f} s"

    def _disturbed(self, from_s: float, to_s: float) -> bool:
        """Whether a worker or Redis was in trouble at some time between."""
        for life in self.story.lives:
            slot = life.name.partition(".")[0] + "."
            later_s = [one.born_s for one in self.story.lives if one.name.startswith(slot) and one.born_s > life.born_s]
            if life.died_s is not None and life.died_s <= to_s and min(later_s, default=to_s) >= from_s:
                return True  # Its place was empty.
            if life.died_s is not None and from_s - 30 <= life.died_s <= to_s:
                return True
            if life.stop_s is not None and from_s - 30 <= life.stop_s <= to_s:
                return True
            if any(a <= to_s and b >= from_s - 15 for a, b in (*life.frozen, *life.cut_off, *life.starved)):
                return True
        if any(a <= to_s and b >= from_s - 15 for a, b, _ in self.story.outages):
            return True
        if any(from_s - 15 <= at_s <= to_s for at_s, _ in self.story.steps):
            return True
        return any(event.what in {"lose reply", "break off"} and event.at_s <= to_s for event in self.plan.events)

    def _polls(self) -> Iterator[str]:
        by_job: dict[str, list[float]] = {}
        for poll in self.story.polls:
            by_job.setdefault(poll.job_id, []).append(poll.at_s)
        shortest_s = POLICY["backoff_base_s"] * 0.8
        for job_id, times in by_job.items():
            pushed = any(what in {"poll now", "redrive"} and one == job_id for _, what, one, _ in self.story.acts)
            # A poll that came late is followed by the next one in its turn, so two may be close, and not three.
            for before_s, after_s in zip(times, times[2:], strict=False):
                if after_s - before_s < shortest_s and not pushed and not self._disturbed(before_s, after_s):
                    yield f"polled too soon: {job_id} at {before_s:.2f} s and {after_s:.2f} s"
                    break
            if len(times) > 45:
                yield f"polled too often: {job_id} {len(times)} times"
        yield from self._pauses()
        yield from self._in_vain()

    def _pauses(self) -> Iterator[str]:
        """After a 429 a worker polls nothing until its pause is over, and neither do the others, once they have heard."""
        for told_s, worker, event in self.story.told_of:
            if not isinstance(event, events.JobPolled) or event.fault is not FaultKind.THROTTLED:
                continue
            number = int(worker.partition(".")[0].removeprefix("w"))
            asked = [one for one in self.story.polls if one.worker == worker and one.at_s < told_s]
            if self.plan.workers[number].runners > 1 or not asked:
                continue
            hint_s = min([one.hint_s for one in asked if one.job_id == event.job_id][-1:] or [0.0])
            until_s = told_s + min(hint_s, POLICY["max_retry_after_s"]) - self.instant_s
            for one in self.story.polls:
                if one.worker == worker and told_s + self.instant_s < one.at_s < until_s:
                    yield f"polled in a pause: {one.job_id} by {worker} at {one.at_s:.2f} s"
                    return
            heard_s = told_s + HEARD_S + self.slack_s
            for one in self.story.polls:
                if one.worker != worker and heard_s < one.at_s < until_s and not self._disturbed(told_s, one.at_s):
                    yield f"polled in a pause that another worker was told: {one.job_id} by {one.worker} at {one.at_s:.2f} s"
                    return

    def _in_vain(self) -> Iterator[str]:
        """Whoever cannot write what became of its jobs takes no more into its hands."""
        for refused_s, worker in self.story.refused:
            # At least until its lease is somebody else's, the write is still to be made.
            # In a real storm one thread refuses, and another one notes a moment later that writes are refused.
            ends_s = [b for a, b in self.lives[worker].unwritten if a <= refused_s + self.slack_s]
            until_s = min([*ends_s, refused_s + self.plan.lease_s - self.renew_s - self.slack_s])
            for one in self.story.polls:
                if one.worker == worker and refused_s + self.slack_s < one.at_s < until_s:
                    yield f"polled in vain: {one.job_id} by {worker} at {one.at_s:.2f} s"
                    return

    def _ends_in_time(self) -> Iterator[str]:
        """A job ends by its deadline, an interval and a request, whatever the API does; and is told soon after."""
        for at_s, _, event in self.story.told_of:
            if not isinstance(event, events.JobConcluded) or event.job_id not in self.story.accepted:
                continue
            if self._acted(event.job_id, {"redrive"}) or self._hangs:
                continue
            accepted_s = self.story.accepted[event.job_id]
            over_s = accepted_s + self.plan.timeout_s + POLICY["interval_s"] + POLICY["request_timeout_s"]
            limit_s = over_s + 8.0 + self.late_s
            limit_s -= sum(step_s for _, step_s in self.story.steps if step_s < 0)
            if at_s > limit_s and not self._disturbed(accepted_s + self.plan.timeout_s - 10.0, at_s):
                yield f"ended late: {event.job_id} at {at_s:.1f} s instead of {limit_s:.1f} s"
        yield from self._told_in_time()

    @property
    def _hangs(self) -> bool:
        """Whether a host's part hangs: what it holds is let go of after half a minute of real time."""
        return any({"hangs", "hangs on"} & set(event.how) for event in self.plan.events)

    def _told_in_time(self) -> Iterator[str]:
        """What was still open when the last fault was over is told within a bound of that."""
        if any(one.told not in KNOWN for one in self.story.sent) or self._hangs:
            return  # An account may be held back for minutes, and what hangs holds its places.
        bound_s = 2 * self.plan.lease_s + 45.0 + self.plan.slow_s + self.late_s
        bound_s -= sum(step_s for _, step_s in self.story.steps if step_s < 0)
        for job_id, accepted_s in self.story.accepted.items():
            first_s = min([one.at_s for one in self.story.sent if one.job_id == job_id], default=0.0)
            over_s = accepted_s + self.plan.timeout_s + POLICY["interval_s"] + POLICY["request_timeout_s"]
            if first_s > max(self.story.calm_s, over_s) + bound_s and not self._acted(
                job_id, {"redrive", "cancel and tell"}
            ):
                yield f"told late: {job_id} at {first_s:.1f} s, and all was calm from {self.story.calm_s:.1f} s on"
