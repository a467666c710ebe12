"""How many workers, shards and bytes so many videos a day need, from what the benchmarks measured.

``python benchmarks/capacity.py --videos-per-day 2000000 --peak 4`` prints the plan.
Everything is a pure function of a `Load` and of the measured `Costs`; `simulation.py`
plays the same system moment by moment, and `docs/explanation/capacity.md` shows both.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = Path(__file__).with_name("results.json")
DAY_S, KEPT_S = 86_400, 7200
"""A day, and how long the end of a job is remembered."""

CLAIM_GAP_S, WRITE_GAP_S, SEND_GAP_S = 0.02, 0.05, 0.005
"""How far apart a worker's claims are, its writes for which nobody waits, and those for which a user waits."""

WORKER_SHARE, REDIS_SHARE, PLACE_SHARE = 0.7, 0.5, 0.8
"""How busy a plan lets a worker's core, a shard's core and a worker's places be at the peak."""

DEFAULT_PLACES = 100
"""Polls at a time of an `AsyncRunner`."""

KINDS = {
    "AsyncRunner [fast]": ("fast", "videopoll AsyncRunner [fast]"),
    "AsyncRunner": ("plain", "videopoll AsyncRunner"),
    "Runner [fast], 128 threads": ("blocking", "videopoll Runner [fast], 128 threads"),
    "Runner, 64 threads": ("blocking", "videopoll Runner, 64 threads"),
}
"""The runners that are planned with, and where their throughput stands in the results."""


@dataclass(frozen=True)
class Step:
    """What one step costs Redis: each call, and each job in it."""

    call_us: float
    job_us: float
    call_bytes: float
    job_bytes: float

    @classmethod
    def of(cls, row: Mapping[str, float]) -> Step:
        """Read a row of the results."""
        call, job = (row[f"{kind}_bytes_in"] + row[f"{kind}_bytes_out"] for kind in ("call", "job"))
        return cls(row["call_us"], row["job_us"], call, job)

    def us(self, calls: float, jobs: float) -> float:
        """Give the time of so many calls with so many jobs in all."""
        return calls * self.call_us + jobs * self.job_us

    def bytes(self, calls: float, jobs: float) -> float:
        """Give what crosses the network in both directions."""
        return calls * self.call_bytes + jobs * self.job_bytes


@dataclass(frozen=True)
class Costs:
    """The measured constants.

    A core that has just slept does the same work slower, as it wakes up and other things are in its
    caches. So each kind of work has two costs: that of a core that is always busy, and what it
    takes in addition on one that never is. In between the share of the time that it is idle decides.

    Args:
        poll_us: CPU of a worker for a poll, at full load.
        wake_us: What a poll takes in addition on an idle core.
        message_us: CPU of a worker for a message.
        kinds: How many times as much CPU a poll takes with each runner, at full load.
        warm: What each step costs a busy Redis.
        cold: The same for one that is called every 20 ms.
        idle_us: Redis's own upkeep, a second.
        bytes: Redis's memory for a job, by where it is.
        http_poll_bytes: What a poll takes on the wire, without TLS; and
        http_message_bytes: a message.
    """

    poll_us: float
    wake_us: float
    message_us: float
    kinds: Mapping[str, float]
    warm: Mapping[str, Step]
    cold: Mapping[str, Step]
    idle_us: float
    bytes: Mapping[str, float]
    http_poll_bytes: float
    http_message_bytes: float

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Costs:
        """Read them from `results.json`."""
        measured, throughput = results["capacity"], results["throughput"]
        full = {
            kind: next(row for row in throughput[group] if row["name"] == name) for kind, (group, name) in KINDS.items()
        }
        fast = full["AsyncRunner [fast]"]
        easy = min(results["punctuality"], key=lambda row: row["cpu_share"])
        # The idle share lies between the two, and so does the cost of a poll.
        slope = (easy["cpu_us_per_poll"] - fast["cpu_us_per_poll"]) / (fast["cpu_share"] - easy["cpu_share"])
        wake_us = max(0.0, slope)
        poll_us = fast["cpu_us_per_poll"] - wake_us * max(0.0, 1 - fast["cpu_share"])
        message = measured["message"]
        return cls(
            poll_us=poll_us,
            wake_us=wake_us,
            message_us=message["cpu_us_per_message"],
            kinds={kind: row["cpu_us_per_poll"] / fast["cpu_us_per_poll"] for kind, row in full.items()},
            warm={name: Step.of(row) for name, row in measured["warm"].items()},
            cold={name: Step.of(row) for name, row in measured["cold"].items()},
            idle_us=measured["idle_us_per_s"],
            bytes=measured["bytes"],
            http_poll_bytes=message["http_bytes_per_poll"],
            http_message_bytes=message["http_bytes_per_message"],
        )


@dataclass(frozen=True)
class Load:
    """What comes in, and how it is polled; the defaults are the specification's, and a video of a minute and a half.

    Args:
        videos_per_day: Over the whole day.
        peak: How many times the mean the busiest hour has.
        generation_s: How long a video takes, in the mean; the times are log-normal.
        spread: Their standard deviation, as a share of the mean.
        initial_delay_s: After which the first poll is due.
        interval_s: Between polls.
        max_polls: After so many it is over.
        api_s: How long the API takes to answer.
        message_s: How long the messenger takes to accept a message.
    """

    videos_per_day: float
    peak: float = 3.0
    generation_s: float = 90.0
    spread: float = 1 / 3
    initial_delay_s: float = 5.0
    interval_s: float = 10.0
    max_polls: int = 30
    api_s: float = 0.2
    message_s: float = 0.5

    @property
    def videos_per_s(self) -> float:
        """How many videos come in at the peak, and how many are told of."""
        return self.videos_per_day * self.peak / DAY_S

    @property
    def times(self) -> NormalDist:
        """The logarithm of how long a video takes."""
        variance = math.log1p(self.spread**2)
        return NormalDist(math.log(self.generation_s) - variance / 2, math.sqrt(variance))

    @property
    def polls_per_video(self) -> float:
        """One, and one more for each poll at which it is not ready yet."""
        due = (self.initial_delay_s + number * self.interval_s for number in range(self.max_polls - 1))
        return 1 + sum(1 - self.times.cdf(math.log(at_s)) if at_s > 0 else 1.0 for at_s in due)

    @property
    def polls_per_s(self) -> float:
        """How many polls are due at the peak."""
        return self.videos_per_s * self.polls_per_video

    @property
    def in_view_s(self) -> float:
        """How long a job is in view: until the poll that finds its video is answered, and its message accepted."""
        found_s = self.initial_delay_s + (self.polls_per_video - 1) * self.interval_s
        return found_s + self.api_s + self.message_s

    @property
    def in_view(self) -> float:
        """How many jobs are in view at the peak: by Little's law, what comes in times how long it stays."""
        return self.videos_per_s * self.in_view_s

    @property
    def connections(self) -> float:
        """How many requests are under way at the API at the peak, by the same law."""
        return self.polls_per_s * self.api_s

    @property
    def sends(self) -> float:
        """How many sends are under way at the peak."""
        return self.videos_per_s * self.message_s


def busy(warm: float, cold: float) -> float:
    """Give the share of a core that some work takes which takes `warm` of a busy one and `cold` of an idle one.

    The share x is ``warm * x + cold * (1 - x)``, as the idle part pays for waking up. Above 1 it is too much.
    """
    return warm if warm >= 1 else cold / (1 + cold - warm)


def worker_share(costs: Costs, polls_per_s: float, messages_per_s: float, kind: str = "AsyncRunner [fast]") -> float:
    """Give the share of a core that one worker takes."""
    times = costs.kinds[kind]
    told = messages_per_s * costs.message_us
    warm = times * (polls_per_s * costs.poll_us + told) / 1e6
    return busy(warm, warm + times * polls_per_s * costs.wake_us / 1e6)


def workers_for(costs: Costs, load: Load, kind: str = "AsyncRunner [fast]", share: float = WORKER_SHARE) -> int:
    """Give the fewest workers, a core each, of which none is busier than `share` at the peak."""
    times, polls, told = costs.kinds[kind], load.polls_per_s, load.videos_per_s
    # From `busy`, solved for the number of workers that share the work.
    warm = times * (polls * costs.poll_us + told * costs.message_us) / 1e6
    return max(1, math.ceil((warm + times * polls * costs.wake_us / 1e6 * (1 - share)) / share))


@dataclass(frozen=True)
class Traffic:
    """What one shard is asked a second: calls and jobs of each step."""

    steps: Mapping[str, tuple[float, float]]

    @property
    def calls(self) -> float:
        """How many scripts a second."""
        return sum(calls for calls, _ in self.steps.values())

    def us(self, costs: Mapping[str, Step]) -> float:
        """Give Redis's time."""
        return sum(costs[name].us(calls, jobs) for name, (calls, jobs) in self.steps.items())

    def bytes(self, costs: Mapping[str, Step]) -> float:
        """Give what crosses the network."""
        return sum(costs[name].bytes(calls, jobs) for name, (calls, jobs) in self.steps.items())


def traffic(polls_per_s: float, videos_per_s: float, workers: float, served: int = 1) -> Traffic:
    """Give what a shard is asked by so many workers that share its polls and videos evenly.

    A worker that serves several shards asks each of them at every claim, and writes to each.
    So each shard is asked by `served` times as many workers, each time for as many jobs less.
    """

    def calls(per_s: float, gap_s: float) -> float:
        # What comes in one after the other has a call each; what comes in faster shares one.
        each = per_s / workers
        return served * workers * each / (1 + each * gap_s)

    again = max(0.0, polls_per_s - videos_per_s)
    return Traffic(
        {
            "enqueue": (videos_per_s, videos_per_s),
            # Part of a claim: it brings a call of its own only where there would be none.
            "first_claim": (0.0, videos_per_s),
            "claim": (calls(polls_per_s + videos_per_s, CLAIM_GAP_S), polls_per_s),
            # What is written has a call for each shard that it is for: at most one for each job.
            "reschedule": (min(again, calls(again, WRITE_GAP_S)), again),
            "conclude": (min(videos_per_s, calls(videos_per_s, SEND_GAP_S)), videos_per_s),
            "settle": (min(videos_per_s, calls(videos_per_s, SEND_GAP_S)), videos_per_s),
        }
    )


def redis_share(costs: Costs, asked: Traffic) -> float:
    """Give the share of a core that a shard takes."""
    warm, cold = ((asked.us(some) + costs.idle_us) / 1e6 for some in (costs.warm, costs.cold))
    return busy(warm, max(warm, cold))


def memory_bytes(costs: Costs, load: Load) -> float:
    """Give Redis's memory at the peak, if that lasts for two hours: jobs in view, and the ends that are remembered."""
    return load.in_view * costs.bytes["in_flight"] + load.videos_per_s * KEPT_S * costs.bytes["completed"]


@dataclass(frozen=True)
class Plan:
    """What a load needs at its peak. `workers` has one for each shard more than are needed, `spare` in all."""

    load: Load
    workers: int
    spare: int
    worker_share: float
    places: int
    sending_places: int
    shards: int
    redis_share: float
    redis_share_serving_all: float
    calls_per_s: float
    memory_bytes: float
    hour_down_bytes: float
    redis_bytes_per_s: float
    http_bytes_per_s: float


def plan(costs: Costs, load: Load, kind: str = "AsyncRunner [fast]") -> Plan:
    """Plan for the peak of a load, with one worker for each shard to spare."""
    polls, videos = load.polls_per_s, load.videos_per_s
    workers = workers_for(costs, load, kind)
    shards = 1
    while redis_share(costs, traffic(polls / shards, videos / shards, max(1.0, workers / shards))) > REDIS_SHARE:
        shards += 1
    # A worker serves one shard, and each shard has one to spare: one may die, or be replaced by a new version.
    needed = shards * math.ceil(workers / shards)
    workers = needed + shards
    asked = traffic(polls / shards, videos / shards, workers / shards)
    return Plan(
        load=load,
        workers=workers,
        spare=shards,
        worker_share=worker_share(costs, polls / workers, videos / workers, kind),
        places=max(DEFAULT_PLACES, math.ceil(load.connections / needed / PLACE_SHARE)),
        sending_places=max(DEFAULT_PLACES, math.ceil(load.sends / needed / PLACE_SHARE)),
        shards=shards,
        redis_share=redis_share(costs, asked),
        redis_share_serving_all=redis_share(
            costs, traffic(polls / shards, videos / shards, workers / shards, served=shards)
        ),
        calls_per_s=asked.calls * shards,
        memory_bytes=memory_bytes(costs, load),
        hour_down_bytes=videos * 3600 * costs.bytes["outbox"],
        redis_bytes_per_s=asked.bytes(costs.warm) * shards,
        http_bytes_per_s=polls * costs.http_poll_bytes + videos * costs.http_message_bytes,
    )


TELEGRAM, WHATSAPP = 30, 80
"""Messages a second that a bot and a number may send, as their makers publish it; WhatsApp raises it on request."""

LIMITS = {
    "an account of a messenger that takes 1 message a second": (1, "messages"),
    f"a Telegram bot: {TELEGRAM} messages a second": (TELEGRAM, "messages"),
    f"a WhatsApp number: {WHATSAPP} messages a second": (WHATSAPP, "messages"),
    "an API account that allows 100 requests a second": (100, "requests"),
}
"""What others allow, with what is counted. The first and the last are examples."""


def breaking_points(costs: Costs, load: Load) -> dict[str, float]:
    """Tell what is reached at how many videos a day, the first first, if everything stays as it comes: one of each."""
    one = replace(load, videos_per_day=DAY_S / load.peak)  # a video a second at the peak

    def most(fits: Any) -> float:
        low, high = 0.0, 1.0
        while fits(high):
            low, high = high, high * 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def share(videos_per_s: float) -> float:
        polls = videos_per_s * one.polls_per_video
        workers = max(1.0, workers_for(costs, replace(load, videos_per_day=videos_per_s * DAY_S / load.peak)))
        return redis_share(costs, traffic(polls, videos_per_s, workers))

    found = {
        f"the {DEFAULT_PLACES} places of one worker": DEFAULT_PLACES * PLACE_SHARE / one.connections,
        f"{WORKER_SHARE:.0%} of the core of one worker": most(
            lambda videos: worker_share(costs, videos * one.polls_per_video, videos) <= WORKER_SHARE
        ),
        f"{REDIS_SHARE:.0%} of the core of one Redis": most(lambda videos: share(videos) <= REDIS_SHARE),
        "4 GB of Redis's memory": 4e9 / memory_bytes(costs, one),
    }
    per_video = {"messages": 1.0, "requests": one.polls_per_video}
    found |= {name: most_per_s / per_video[what] for name, (most_per_s, what) in LIMITS.items()}
    per_day = {name: videos_per_s * DAY_S / load.peak for name, videos_per_s in found.items()}
    return dict(sorted(per_day.items(), key=lambda item: item[1]))


def check(costs: Costs, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare the model with what was measured of whole workers; each row is a share of a core."""
    fast = next(row for row in results["throughput"]["fast"] if row["name"] == KINDS["AsyncRunner [fast]"][1])
    runs = [("5,000 jobs every second", fast, 0.0)]
    runs += [(f"{row['jobs']:,} jobs every 10 s", row, 0.0) for row in results["punctuality"]]
    told = results["delivery"]
    runs.append(("half of that, and messages", told, told["messages_per_s"]))
    rows = []
    for name, row, messages in runs:
        polls = row["polls_per_s"]
        asked = traffic(polls + messages, messages, 1)
        modelled = {"worker": worker_share(costs, polls, messages), "redis": redis_share(costs, asked)}
        measured = {"worker": row["cpu_share"], "redis": row["redis_cpu_share"]}
        rows.append({"name": name, "polls_per_s": polls, "messages_per_s": messages})
        for part, share in modelled.items():
            rows[-1] |= {f"{part}_measured": measured[part], f"{part}_modelled": share}
    return rows


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """Read the figures of the last run."""
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Print a plan."""
    parser = argparse.ArgumentParser(description="How many workers, shards and bytes do so many videos a day need?")
    parser.add_argument("--videos-per-day", type=float, required=True)
    parser.add_argument("--peak", type=float, default=Load(1).peak, help="times the mean, in the busiest hour")
    parser.add_argument("--generation", type=float, default=Load(1).generation_s, help="seconds a video takes")
    parser.add_argument("--interval", type=float, default=Load(1).interval_s, help="seconds between polls")
    parser.add_argument("--api", type=float, default=Load(1).api_s, help="seconds until the API answers")
    parser.add_argument("--message", type=float, default=Load(1).message_s, help="seconds until a message is accepted")
    parser.add_argument("--runner", choices=KINDS, default="AsyncRunner [fast]")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures of your own machine")
    asked = parser.parse_args()
    load = Load(
        asked.videos_per_day,
        peak=asked.peak,
        generation_s=asked.generation,
        interval_s=asked.interval,
        api_s=asked.api,
        message_s=asked.message,
    )
    costs = Costs.of(read_results(asked.results))
    for name, value in told(plan(costs, load, asked.runner)).items():
        print(f"{name.replace('`', ''):44}{value}")
    first = next(iter(breaking_points(costs, load).items()))
    print(f"\nWith one of each, this breaks first: {first[0]}, at {first[1]:,.0f} videos a day.")


def told(found: Plan) -> dict[str, str]:
    """Write a plan down, each figure with its unit."""
    load = found.load
    return {
        "videos a second at the peak": figure(load.videos_per_s),
        "polls a video": figure(load.polls_per_video),
        "polls a second": figure(load.polls_per_s),
        "jobs in view": figure(load.in_view),
        "workers, a core each": f"{found.workers} at {found.worker_share:.0%}, {found.spare} to spare",
        "`--concurrency`": str(found.places),
        "`--delivery-concurrency`": str(found.sending_places),
        "requests under way at the API": figure(load.connections),
        "Redis shards": f"{found.shards} at {found.redis_share:.1%}",
        "if each worker serves all shards": f"at {found.redis_share_serving_all:.1%}",
        "scripts a second": figure(found.calls_per_s),
        "Redis's memory": size(found.memory_bytes),
        "more, after an hour without messenger": size(found.hour_down_bytes),
        "network to Redis": size(found.redis_bytes_per_s) + "/s",
        "network to APIs, without TLS": size(found.http_bytes_per_s) + "/s",
        "messages a second": figure(load.videos_per_s),
        f"WhatsApp numbers, {WHATSAPP} messages a second each": str(math.ceil(load.videos_per_s / WHATSAPP)),
    }


def figure(value: float) -> str:
    """Write a number with two or three digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.2g}"


def size(count: float) -> str:
    """Write bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.2g} {unit}" if count < 100 else f"{count:.0f} {unit}"


if __name__ == "__main__":
    main()
