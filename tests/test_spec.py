"""Every number and key of the specification, each with a test that names it."""

from __future__ import annotations

import inspect
import json

import attrs
import pytest
import redis

from videopoll import (
    AsyncRedisVideoJobQueue,
    DeliveryPolicy,
    KeyTtls,
    LeasePolicy,
    Outcome,
    OutcomeKind,
    PollingStrategy,
    RedisVideoJobQueue,
    VideoApiPoller,
    VideoJob,
)
from videopoll.core.delivery import open_outbox
from videopoll.core.polling import Ask, NextPoll, before_poll, decide
from videopoll.jobs.codec import dump
from videopoll.jobs.transition import Conclude, PollWork, Reschedule, Settle
from videopoll.observations import Fault, FaultKind, VideoMissing, VideoReady, VideoWorking
from videopoll.queue.schema import KEYS, Keys
from videopoll.texts import SPANISH_AND_ENGLISH
from videopoll.video_api.poller import build_request

JOB_ID = "job_1757157518747_grhexcfhk"
CONVERSATION_ID = "68bb3c3585425ee98e9f4f12"
T0 = 1_757_157_518_747
SPEC = PollingStrategy()
AT_ONCE = PollingStrategy(initial_delay_s=0)
JOB = VideoJob(JOB_ID, CONVERSATION_ID, T0)


# --- numbers ---


def test_the_interval_is_ten_seconds():
    """interval: 10000."""
    assert SPEC.interval_s == 10


def test_the_timeout_is_five_minutes():
    """timeout: 300000."""
    assert SPEC.timeout_s == 300


def test_there_are_thirty_attempts():
    """maxAttempts: 30."""
    assert SPEC.max_attempts == 30


def test_the_first_poll_comes_after_five_seconds():
    """initialDelay: 5000."""
    assert SPEC.initial_delay_s == 5


@pytest.mark.parametrize(
    ("name", "seconds"), [("job_s", 600), ("lock_s", 60), ("completed_s", 7200), ("attempts_s", 600)]
)
def test_the_keys_live_as_long_as_documented(name, seconds):
    """videoJob: 600, pollLock: 60, completed: 7200, attempts: 600."""
    assert getattr(KeyTtls(), name) == seconds


@pytest.mark.parametrize(("faults", "wait_s"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (10, 60)])
def test_the_back_off_is_five_seconds_doubling_up_to_a_minute(faults, wait_s):
    """Math.min(5000 * Math.pow(2, attempts), 60000)."""
    assert min(5000 * 2**faults, 60000) == wait_s * 1000
    assert SPEC.backoff_s(faults) == wait_s


def test_a_polling_request_takes_fifteen_seconds_at_most():
    """15-second HTTP timeout for polling requests."""
    assert SPEC.request_timeout_s == 15
    assert before_poll(PollWork(JOB, 1, 0, None), T0 + 5000, SPEC) == Ask(15)


def test_the_api_is_asked_at_the_documented_address_with_the_documented_header():
    """GET https://video.api-ai-mvp.com/job/{jobId} with X-API-Key."""
    default = inspect.signature(VideoApiPoller).parameters["base_url"].default
    request = build_request(default, "the key", JOB_ID, 15)
    assert (request.method, request.url) == ("GET", f"https://video.api-ai-mvp.com/job/{JOB_ID}")
    assert request.headers["X-API-Key"] == "the key"


# --- the timeline ---


def polls_of_a_job_that_never_ends(strategy: PollingStrategy = SPEC) -> tuple[list[float], Outcome]:
    """Give the seconds at which it is polled, and how it ends. Time passes only here."""
    now_ms = T0 + round(strategy.initial_delay_s * 1000)
    polled: list[float] = []
    answered_ms = None
    while True:
        work = PollWork(JOB, len(polled) + 1, 0, answered_ms)
        judged = before_poll(work, now_ms, strategy)
        if isinstance(judged, Outcome):
            return polled, judged
        polled.append((now_ms - T0) / 1000)
        after = decide(work, now_ms, VideoWorking(), now_ms, strategy)
        if isinstance(after, Outcome):
            return polled, after
        now_ms, answered_ms = after.due_ms, after.last_answer_ms


def test_a_job_is_polled_at_5_15_25_and_so_on_and_the_thirtieth_time_at_295_seconds():
    """T+5s, T+15s, T+25s, T+35s...: thirty polls fit into the five minutes."""
    polled, _ = polls_of_a_job_that_never_ends()
    assert polled[:4] == [5, 15, 25, 35]
    assert polled[6] == 65
    assert (len(polled), polled[-1]) == (30, 295)
    assert polled == [5 + 10 * number for number in range(30)]


def test_a_job_that_never_ends_times_out_at_300_seconds_in_the_documented_words():
    """Video generation timeout: Process exceeded 5 minutes."""
    _, ended = polls_of_a_job_that_never_ends()
    assert ended == Outcome(
        OutcomeKind.TIMED_OUT, T0 + 300_000, error="Video generation timeout: Process exceeded 5 minutes"
    )


def test_more_than_thirty_polls_end_in_the_documented_words():
    """Max polling attempts exceeded: with an interval of a second, thirty attempts are used up first."""
    polled, ended = polls_of_a_job_that_never_ends(PollingStrategy(interval_s=1))
    assert (len(polled), polled[-1]) == (30, 34)
    assert (ended.kind, ended.error) == (OutcomeKind.ATTEMPTS_EXHAUSTED, "Max polling attempts exceeded")


def test_a_job_that_the_api_does_not_know_ends_in_the_documented_words():
    """{status: "not_found"}: Job not found on video API."""
    ended = decide(PollWork(JOB, 2, 0, None), T0 + 15_000, VideoMissing(), T0 + 15_000, SPEC)
    assert (ended.kind, ended.error) == (OutcomeKind.NOT_FOUND, "Job not found on video API")


def test_a_passing_fault_of_the_api_is_tried_again():
    """Exponential backoff for temporary failures."""
    after = decide(PollWork(JOB, 1, 0, None), T0 + 5000, Fault(FaultKind.SERVER, "HTTP 503"), T0 + 5000, SPEC)
    assert after == NextPoll(T0 + 10_000, 1, None)


def test_the_caption_tells_the_seconds_in_spanish():
    """¡Tu video está listo! Se generó en 45 segundos."""
    done = Outcome(OutcomeKind.COMPLETED, T0 + 45_000, video_url="https://files.api-ai-mvp.com/file/1")
    caption = SPANISH_AND_ENGLISH.notice(done, T0)
    assert caption == "🎥 ¡Tu video está listo! Se generó en 45 segundos."
    text = SPANISH_AND_ENGLISH.notice(done, T0, link=done.video_url)
    assert text == f"{caption}\n\n🔗 Video: https://files.api-ai-mvp.com/file/1"


# --- keys ---

DOCUMENTED = {
    "video:job:{jobId}": "string",
    "video:poll:queue": "list",
    "video:lock:{jobId}": "string",
    "video:completed:{jobId}": "string",
    "video:attempts:{jobId}": "string",
}


def test_the_documented_keys_have_their_names_and_types():
    """Other deployments read and write them."""
    ours = {record.pattern.replace("{prefix}", "video"): record.type for record in KEYS}
    assert DOCUMENTED.items() <= ours.items()


def test_the_keys_are_built_as_documented():
    """By default; the prefix may be another one."""
    keys = Keys()
    assert keys.queue == "video:poll:queue"
    assert keys.job(JOB_ID) == f"video:job:{JOB_ID}"
    assert keys.lock(JOB_ID) == f"video:lock:{JOB_ID}"
    assert keys.completed(JOB_ID) == f"video:completed:{JOB_ID}"
    assert keys.attempts(JOB_ID) == f"video:attempts:{JOB_ID}"
    assert inspect.signature(RedisVideoJobQueue).parameters["prefix"].default == "video"
    assert inspect.signature(AsyncRedisVideoJobQueue).parameters["prefix"].default == "video"


@attrs.define
class Bench:
    """A queue, and the commands of the documentation beside it."""

    queue: object
    call: object
    cli: redis.Redis
    prefix: str

    def claim(self):
        """Take everything that is due."""
        batch = self.call(self.queue.claim(polls=10, sends=10, worker_id="w", strategy=AT_ONCE, lease=LeasePolicy()))
        return batch.claims

    def apply(self, *transitions):
        """Write what was decided."""
        return self.call(self.queue.apply(transitions))

    def monitor(self) -> dict[str, int]:
        """Run the documented monitoring commands."""
        found = {"queue": self.cli.llen(f"{self.prefix}:poll:queue")}
        for name in ("job", "lock", "completed"):
            found[name] = len(self.cli.keys(f"{self.prefix}:{name}:*"))
        return found

    def json(self, name: str):
        """Read a documented record."""
        return json.loads(self.cli.get(f"{self.prefix}:{name}:{JOB_ID}"))


@pytest.fixture
def bench(kind, call, redis_url, prefix):
    """A queue of either kind."""
    cls = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
    queue = cls.from_url(redis_url, prefix=prefix)
    with redis.Redis.from_url(redis_url, decode_responses=True) as cli:
        yield Bench(queue, call, cli, prefix)
    call(queue.close())


def enqueue(bench: Bench, **metadata) -> None:
    """Take the example's job in."""
    bench.call(bench.queue.enqueue(JOB_ID, conversation_id=CONVERSATION_ID, metadata=metadata))


def outcome_now(bench: Bench, **changes) -> Outcome:
    """Give the end of a job, a minute after its start."""
    start_ms = bench.json("job")["startTime"]
    return Outcome(at_ms=start_ms + 65_000, **changes)


def test_the_record_has_the_documented_fields(bench):
    """Existing workers read it: the four fields, and the producer's metadata at the top level."""
    enqueue(bench, prompt="x" * 150, model="veo-2", version=2, aspectRatio="9:16", hasNegativePrompt=False)
    record = bench.json("job")
    seconds, micros = bench.cli.time()
    now_ms = seconds * 1000 + micros // 1000
    start_ms = record.pop("startTime")
    assert isinstance(start_ms, int)
    assert now_ms - 10_000 < start_ms <= now_ms
    assert record == {
        "jobId": JOB_ID,
        "conversationId": CONVERSATION_ID,
        "status": "polling",
        "prompt": "x" * 100,
        "model": "veo-2",
        "version": 2,
        "aspectRatio": "9:16",
        "hasNegativePrompt": False,
    }
    assert bench.cli.type(f"{bench.prefix}:job:{JOB_ID}") == "string"
    assert 595 <= bench.cli.ttl(f"{bench.prefix}:job:{JOB_ID}") <= 600


def test_the_id_waits_at_the_left_end_of_a_list(bench):
    """Producers LPUSH, workers take from the right."""
    enqueue(bench)
    bench.call(bench.queue.enqueue("job_2", conversation_id="c"))
    assert bench.cli.type(f"{bench.prefix}:poll:queue") == "list"
    assert bench.cli.lrange(f"{bench.prefix}:poll:queue", 0, -1) == ["job_2", JOB_ID]


def test_a_poll_locks_the_job_for_a_minute_and_counts(bench):
    """video:lock (1 min) and video:attempts (10 min)."""
    enqueue(bench)
    bench.claim()
    lock, attempts = f"{bench.prefix}:lock:{JOB_ID}", f"{bench.prefix}:attempts:{JOB_ID}"
    assert bench.cli.get(lock).startswith("vp:")
    assert 55 <= bench.cli.ttl(lock) <= 60
    assert bench.cli.get(attempts) == "1"
    assert 595 <= bench.cli.ttl(attempts) <= 600


def test_a_completed_job_leaves_the_documented_record(bench):
    """success, videoUrl, fileId, jobId, completedAt, processingTime, timestamp: for two hours."""
    enqueue(bench)
    start_ms = bench.json("job")["startTime"]
    (claim,) = bench.claim()
    seen = VideoReady("https://files.api-ai-mvp.com/file/1", "file_1", "2025-09-06T11:19:43Z")
    outcome = decide(claim.work, claim.due_ms, seen, start_ms + 65_000, SPEC)
    bench.apply(Conclude(claim, open_outbox(claim.work.job, outcome, DeliveryPolicy()), 600, 12_000))
    bench.apply(Settle(claim, dump(outcome.to_completed(claim.work.job, delivered=True))))

    completed = bench.json("completed")
    assert (
        completed.items()
        >= {
            "success": True,
            "videoUrl": "https://files.api-ai-mvp.com/file/1",
            "fileId": "file_1",
            "jobId": JOB_ID,
            "completedAt": start_ms + 65_000,
            "processingTime": 65_000,
            "timestamp": "2025-09-06T11:19:43Z",
        }.items()
    )
    key = f"{bench.prefix}:completed:{JOB_ID}"
    assert bench.cli.type(key) == "string"
    assert 7195 <= bench.cli.ttl(key) <= 7200


def test_a_failed_job_leaves_the_documented_record(bench):
    """success, error, jobId, failedAt, processingTime."""
    enqueue(bench)
    start_ms = bench.json("job")["startTime"]
    (claim,) = bench.claim()
    outcome = Outcome(OutcomeKind.FAILED, start_ms + 42_000, error="content policy")
    bench.apply(Conclude(claim, open_outbox(claim.work.job, outcome, DeliveryPolicy()), 600, 12_000))
    bench.apply(Settle(claim, dump(outcome.to_completed(claim.work.job, delivered=True))))

    completed = bench.json("completed")
    assert (
        completed.items()
        >= {
            "success": False,
            "error": "content policy",
            "jobId": JOB_ID,
            "failedAt": start_ms + 42_000,
            "processingTime": 42_000,
        }.items()
    )
    assert "videoUrl" not in completed


def test_the_documented_commands_tell_the_truth_at_every_stage(bench):
    """LLEN video:poll:queue, KEYS video:job:*, KEYS video:lock:*, KEYS video:completed:*, with and without workers."""
    enqueue(bench)
    assert bench.monitor() == {"queue": 1, "job": 1, "lock": 0, "completed": 0}, "it waits to be taken"

    (claim,) = bench.claim()
    assert bench.monitor() == {"queue": 0, "job": 1, "lock": 1, "completed": 0}, "it is being polled"

    outcome = outcome_now(bench, kind=OutcomeKind.COMPLETED, video_url="https://v/1.mp4")
    bench.apply(Conclude(claim, open_outbox(claim.work.job, outcome, DeliveryPolicy()), 600, 12_000))
    assert bench.monitor() == {"queue": 0, "job": 0, "lock": 0, "completed": 0}, "it is being delivered"

    bench.apply(Settle(claim, dump(outcome.to_completed(claim.work.job, delivered=True))))
    assert bench.monitor() == {"queue": 0, "job": 0, "lock": 0, "completed": 1}, "it has ended"
    assert bench.cli.keys(f"{bench.prefix}:*") == [f"{bench.prefix}:completed:{JOB_ID}"], "nothing else is left"


def test_a_job_between_two_polls_is_active_and_not_locked(bench):
    """Its id is not in the list, so that the list's length counts what waits to be taken."""
    enqueue(bench)
    (claim,) = bench.claim()
    after = decide(claim.work, claim.due_ms, VideoWorking(), claim.due_ms, SPEC)
    bench.apply(Reschedule(claim, after.due_ms))
    assert bench.monitor() == {"queue": 0, "job": 1, "lock": 0, "completed": 0}
    assert bench.cli.get(f"{bench.prefix}:attempts:{JOB_ID}") == "1"


def test_an_id_that_is_too_young_waits_five_seconds_from_its_start(bench):
    """T+5s: First poll starts. The delay belongs to the worker's strategy, the clock is that of Redis."""
    enqueue(bench)
    start_ms = bench.json("job")["startTime"]
    batch = bench.call(bench.queue.claim(polls=10, sends=10, worker_id="w", strategy=SPEC, lease=LeasePolicy()))
    assert batch.claims == ()
    assert batch.next_poll_ms == start_ms + 5000
    assert bench.cli.zscore(f"{bench.prefix}:poll:schedule", JOB_ID) == start_ms + 5000
