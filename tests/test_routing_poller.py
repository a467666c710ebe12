"""Several video APIs in one worker: each job goes to its own, by its own strategy, and a throttled one holds up no other."""

from __future__ import annotations

import re
import threading

import attrs
import pytest

from kit import EACH_COMBINATION, FAST, function, part, until
from videopoll import (
    AsyncRunner,
    ConfigurationError,
    KeyTtls,
    OutcomeKind,
    PollingStrategy,
    Runner,
    VideoJob,
    events,
)
from videopoll.clock import Clock
from videopoll.core.brakes import Brakes
from videopoll.core.polling import after_not_asked, widest
from videopoll.jobs import JobState
from videopoll.jobs.outcome import Outcome
from videopoll.jobs.transition import PollWork
from videopoll.observations import Fault, FaultKind, NotAsked, VideoFailed, VideoReady, VideoWorking
from videopoll.testing import (
    FakeServer,
    RecordingNotifier,
    Reply,
    Sandbox,
    ScriptedPoller,
    async_memory_queue,
    memory_queue,
)
from videopoll.video_api import HttpVideoPoller, RoutingPoller
from videopoll.video_api.apis import FAL, KLING, REPLICATE, VIDEOS

START_MS = 1_757_157_518_747
JOB = VideoJob("job_1", "user", START_MS)
THROTTLED = Fault(FaultKind.THROTTLED, "HTTP 429")
URL = "https://files.example/1.mp4"


def job_of(provider: object, job_id: str = "job_1") -> VideoJob:
    return VideoJob(job_id, "user", START_MS, {} if provider is None else {"provider": provider})


class HandClock(Clock):
    now_s = 1000.0

    def monotonic_s(self):
        return self.now_s


@pytest.fixture
def clock():
    return HandClock()


# --- which API a job goes to ---


@EACH_COMBINATION
def test_each_job_is_asked_about_at_the_api_that_it_names(world, parts):
    asked: list[tuple[str, str]] = []

    def answering(name):
        def poll(job, *, timeout_s):
            asked.append((name, job.job_id))
            return VideoReady(URL)

        return part(parts, poll=poll)

    poller = RoutingPoller({name: answering(name) for name in ("fal", "kling", "ours")}, default="ours")
    world.enqueue("job_1", provider="fal")
    world.enqueue("job_2", provider="kling")
    world.enqueue("job_3")

    with world.worker(poller=poller) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 3, "all users have their videos")

    assert sorted(asked) == [("fal", "job_1"), ("kling", "job_2"), ("ours", "job_3")]


def test_a_function_may_say_where_a_job_belongs():
    poller = RoutingPoller({"a": ScriptedPoller(), "b": ScriptedPoller()}, by=lambda job: job.job_id[0])
    poller.poll(job_of(None, "a1"), timeout_s=1)
    poller.poll(job_of(None, "b1"), timeout_s=1)
    assert [one.polls for one in poller._pollers.values()] == [("a1",), ("b1",)]


@pytest.mark.parametrize("found", [7, RuntimeError("the database is away")])
def test_a_function_that_cannot_say_is_asked_again(found):
    def by(job):
        if isinstance(found, Exception):
            raise found
        return found

    fault = RoutingPoller({"a": ScriptedPoller()}, by=by).poll(JOB, timeout_s=1)
    assert isinstance(fault, Fault)
    assert "RoutingPoller.by" in fault.detail


@pytest.mark.parametrize("provider", ["sora", None, 7, "", ["fal"]])
def test_a_job_of_an_api_that_is_not_here_fails_and_tells_the_operator_which_are(provider):
    poller = RoutingPoller({"kling": ScriptedPoller(), "fal": ScriptedPoller()})
    failed = poller.poll(job_of(provider), timeout_s=1)
    assert isinstance(failed, VideoFailed)
    assert failed.error.endswith("this worker has fal, kling")
    assert failed.reason == "not_configured"


def test_its_user_hears_a_plain_word_and_a_redrive_delivers_the_video_once_the_api_is_set_up(world):
    """The video was paid for where it was started, whoever forgot to tell the worker."""
    to = world.enqueue("job_1", provider="kling")
    with world.worker(poller=RoutingPoller({"fal": ScriptedPoller()})) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has heard")
    (heard,) = world.ultramsg.messages
    assert (heard.to, "kling" in heard.text, "fal" in heard.text) == (to, False, False)
    with world.queue() as queue:
        (letter,) = queue.dead_letters.list()
        assert "the job names the video API kling; this worker has fal" in letter.reason
        assert queue.dead_letters.redrive("job_1")

    with world.worker(poller=RoutingPoller({"kling": ScriptedPoller()})) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")
    assert worker.recorder.of(events.JobDelivered)[0].outcome is OutcomeKind.COMPLETED


# --- 429 ---


def test_a_throttled_api_holds_up_no_job_of_another(world):
    """Its own jobs wait, and use up neither their attempts nor a place."""
    throttled = ScriptedPoller({job: attrs.evolve(THROTTLED, retry_after_s=30) for job in ("slow_1", "slow_2")})
    quick = ScriptedPoller()
    world.enqueue("slow_1", provider="slow")
    with world.worker(poller=RoutingPoller({"slow": throttled, "quick": quick}), concurrency=1) as worker:
        until(lambda: throttled.polls, "the API has said 429")
        world.enqueue("slow_2", provider="slow")
        world.enqueue("quick_1", provider="quick", user=2)
        until(lambda: worker.recorder.of(events.JobDelivered, "quick_1"), "the other one's user has the video")
        with world.queue() as queue:
            until(lambda: queue.get("slow_2").state is JobState.SCHEDULED, "the next one waits, too")
            waiting = queue.get("slow_2")
            assert (waiting.attempts, waiting.faults) == (0, 0)
            assert waiting.due_ms > waiting.now_ms + 15_000
    assert throttled.polls == ("slow_1",)
    assert not worker.recorder.of(events.JobPolled, "slow_2")
    assert [len(worker.recorder.of(events.JobClaimed, job)) for job in ("slow_1", "slow_2", "quick_1")] == [1, 0, 1]


def test_the_pause_is_that_of_a_key_and_not_of_the_api(clock):
    """Each of a host's customers has an account of its own there."""
    keys = {"job_1": "one-key", "job_2": "another-key"}
    with FakeServer() as server:
        server.route("GET", "/predictions/job_1", Reply.fault(429, retry_after=30))
        server.route("GET", "/predictions/job_2", Reply.json({"status": "starting"}))
        own = HttpVideoPoller(REPLICATE, api_key="unused", base_url=server.url)
        poller = RoutingPoller({"replicate": own}, credentials=lambda job: keys[job.job_id])
        poller.use_clock(clock)
        one, other = job_of("replicate"), job_of("replicate", "job_2")
        answers = [poller.poll(job, timeout_s=5) for job in (one, other, one)]
        poller.close()
    assert [type(answer) for answer in answers] == [Fault, VideoWorking, NotAsked]
    assert answers[2].wait_s == 30
    assert [one.headers["authorization"] for one in server.requests] == ["Bearer one-key", "Bearer another-key"]


def test_after_the_pause_the_account_is_asked_again(clock):
    poller = RoutingPoller({"a": ScriptedPoller({"job_1": [THROTTLED, VideoWorking()]})})
    poller.use_clock(clock)
    assert poller.poll(job_of("a"), timeout_s=1) == THROTTLED
    assert poller.poll(job_of("a"), timeout_s=1) == NotAsked(5)
    clock.now_s += 5
    assert poller.poll(job_of("a"), timeout_s=1) == VideoWorking()


def test_pauses_without_a_hint_grow_and_polls_that_were_under_way_together_count_once(clock):
    brakes, strategy = Brakes(clock.monotonic_s), PollingStrategy(backoff_base_s=5, max_retry_after_s=20)
    pauses = []
    for _ in range(4):
        began_s = clock.now_s
        clock.now_s += 1
        for _ in range(3):
            brakes.note("account", began_s, THROTTLED, strategy)
        pauses.append(brakes.held_s("account"))
        clock.now_s += pauses[-1]
    assert pauses == [5, 10, 20, 20]
    brakes.note("account", clock.now_s, VideoWorking(), strategy)
    brakes.note("account", clock.now_s, THROTTLED, strategy)
    assert brakes.held_s("account") == 5


def test_an_answer_to_what_was_asked_before_a_pause_does_not_end_it(clock):
    brakes, strategy = Brakes(clock.monotonic_s), PollingStrategy()
    brakes.note("account", clock.now_s, attrs.evolve(THROTTLED, retry_after_s=30), strategy)
    brakes.note("account", clock.now_s, VideoWorking(), strategy)
    assert brakes.held_s("account") == 30


def test_the_accounts_that_are_remembered_are_bounded(clock, monkeypatch):
    monkeypatch.setattr("videopoll.core.brakes.MOST_ACCOUNTS", 2)
    brakes = Brakes(clock.monotonic_s)
    for number in range(3):
        brakes.hold(f"account {number}", 9)
    assert [brakes.held_s(f"account {number}") for number in range(3)] == [0, 9, 9]


@pytest.mark.parametrize(
    ("now_s", "wait_s", "due_s"),
    [
        (20, 30, 50),
        (290, 60, 300),  # at the deadline it is looked at again
        (300, 60, 310),  # and an interval later for the last time
        (310, 60, None),
        (900, 1, None),
    ],
)
def test_no_pause_keeps_a_job_beyond_its_end(now_s, wait_s, due_s):
    work = PollWork(JOB, 3, 0, None)
    waits = after_not_asked(work, wait_s, START_MS + now_s * 1000, PollingStrategy())
    if due_s is None:
        assert isinstance(waits, Outcome)
        assert waits.kind is OutcomeKind.TIMED_OUT
    else:
        assert waits == START_MS + due_s * 1000


def test_a_hosts_own_poller_may_leave_its_api_alone(world):
    """It has a limiter of its own; a worker with one place goes on with others meanwhile."""
    limited = ScriptedPoller({"job_1": [NotAsked(0.3), NotAsked("0.2"), VideoReady(URL)]})
    world.enqueue("job_1")
    with world.worker(poller=limited) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")
    assert [one.attempt for one in worker.recorder.of(events.JobPolled)] == [1]


@pytest.mark.parametrize("value", [0, -3, float("nan"), None])
def test_a_job_waits_at_least_a_moment(value):
    assert NotAsked(value).wait_s == 0.1


def test_a_pause_goes_by_the_clock_of_its_runner():
    """A sandbox moves its clock to what is due: the pause is over then, too."""
    poller = RoutingPoller({"a": ScriptedPoller({"job_1": [THROTTLED, VideoReady(URL)]})})
    with Sandbox(poller=poller) as sandbox:
        sandbox.queue.enqueue("job_1", conversation_id="c", metadata={"provider": "a"})
        sandbox.run_until_settled()
        sandbox.assert_delivered_once("job_1", outcome="completed")


# --- strategies ---


def test_a_job_is_polled_and_given_up_by_the_strategy_of_its_api(world):
    patient, hasty = ScriptedPoller({"job_1": VideoWorking()}), ScriptedPoller({"job_2": VideoWorking()})
    patient.strategy = attrs.evolve(FAST, timeout_s=60)
    hasty.strategy = attrs.evolve(FAST, timeout_s=0.5)
    world.enqueue("job_1", provider="patient")
    world.enqueue("job_2", provider="hasty", user=2)
    options = {"strategy": attrs.evolve(FAST, timeout_s=0.7), "concurrency": 1}
    with world.worker(poller=RoutingPoller({"patient": patient, "hasty": hasty}), **options) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered, "job_2"), "the hasty one's user has heard")
        until(lambda: worker.recorder.of(events.JobPolled, "job_1")[-1].elapsed_s > 1, "the patient one goes on")
        assert not worker.recorder.of(events.JobConcluded, "job_1")
    assert worker.recorder.of(events.JobConcluded, "job_2")[0].outcome is OutcomeKind.TIMED_OUT


def test_a_host_may_have_strategies_of_its_own(world):
    own = attrs.evolve(KLING.strategy, timeout_s=100, max_attempts=7)
    poller = RoutingPoller(
        {"kling": HttpVideoPoller(KLING, api_key="k"), "x": ScriptedPoller()}, strategies={"kling": own}
    )
    assert poller.strategy_of(job_of("kling")) == own
    assert poller.strategy_of(job_of("x")) is None
    assert poller.strategies == (own,)


@pytest.mark.parametrize("runner", [Runner, AsyncRunner])
def test_that_records_live_shorter_than_their_polling_is_said_when_the_runner_is_built(runner):
    """A video that takes twenty minutes would vanish after ten, paid for."""
    with pytest.raises(ConfigurationError, match=re.escape("KeyTtls.job_s (600) must be longer")):
        runner_of(runner, RoutingPoller({"kling": HttpVideoPoller(KLING, api_key="k")}))
    with pytest.raises(ConfigurationError, match=re.escape("KeyTtls.job_s (600) must be longer")):
        runner_of(runner, HttpVideoPoller(KLING, api_key="k"))
    longer = KeyTtls.outliving(KLING.strategy)
    assert (longer.job_s, KeyTtls.outliving(FAST).job_s) == (2400, 600)
    runner_of(runner, RoutingPoller({"kling": HttpVideoPoller(KLING, api_key="k")}), ttls=longer)


def test_a_runner_without_a_strategy_goes_by_that_of_its_one_api():
    runner = runner_of(Runner, HttpVideoPoller(KLING, api_key="k"), ttls=KeyTtls.outliving(KLING.strategy))
    assert runner._state.context.strategy == KLING.strategy
    runner = runner_of(Runner, HttpVideoPoller(KLING, api_key="k"), strategy=FAST)
    assert runner._state.context.strategy == FAST


def runner_of(kind, poller, *, ttls=None, **options):
    queue = (memory_queue if kind is Runner else async_memory_queue)(ttls=ttls)
    return kind(queue, poller, RecordingNotifier(), **options)


def test_a_claim_goes_by_the_earliest_first_poll_and_the_latest_end():
    """What stands in its way is that one job would be ended by the deadline of another's API."""
    slow, quick = PollingStrategy(timeout_s=1200, initial_delay_s=15), PollingStrategy(interval_s=3, timeout_s=60)
    both = widest([slow, quick])
    assert (both.initial_delay_s, both.interval_s) == (5, 3)
    assert both.timeout_s + both.interval_s == slow.timeout_s + slow.interval_s
    assert widest([slow]) is slow


@pytest.mark.parametrize("runner", [Runner, AsyncRunner])
def test_what_a_worker_claims_by_leaves_every_job_its_own_time(runner):
    """While all places are taken, the claim tells which jobs should have ended long ago."""
    slow = ScriptedPoller()
    slow.strategy = PollingStrategy(timeout_s=500)
    worker = runner_of(runner, RoutingPoller({"slow": slow}), strategy=PollingStrategy(timeout_s=100))
    assert worker._state.strategy == widest([PollingStrategy(timeout_s=100), slow.strategy])
    assert worker._state.strategy.timeout_s == 500


def test_a_strategy_that_cannot_be_told_is_the_runners(world):
    def by(job):
        if threading.current_thread():
            raise LookupError

    poller = RoutingPoller({"a": ScriptedPoller()}, by=by, strategies={"a": FAST})
    world.enqueue("job_1", provider="a")
    with world.worker(poller=poller, strategy=attrs.evolve(FAST, timeout_s=0.5)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has heard")
    assert worker.recorder.of(events.JobPolled)[0].fault is FaultKind.INTERNAL


# --- credentials ---


@EACH_COMBINATION
def test_a_hosts_function_gives_the_key_of_each_job(world, parts):
    with FakeServer() as server:
        for number in (1, 2):
            server.route("GET", f"/predictions/job_{number}", Reply.json({"status": "succeeded", "output": URL}))
            world.enqueue(f"job_{number}", provider="replicate", user=number)
        credentials = function(parts, lambda job: f"key-of-{job.conversation_id}")
        own = HttpVideoPoller(REPLICATE, api_key="unused", base_url=server.url)
        with world.worker(
            poller=RoutingPoller({"replicate": own}, credentials=credentials, strategies={"replicate": FAST})
        ) as worker:
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both users have their videos")
        assert {(one.path[-1], one.headers["authorization"]) for one in server.requests} == {
            ("1", "Bearer key-of-conversation-1"),
            ("2", "Bearer key-of-conversation-2"),
        }


def test_while_the_host_cannot_give_a_key_the_job_waits(world):
    given = iter([RuntimeError("the vault is sealed"), "not a key", "the-key"])

    def credentials(job):
        found = next(given)
        if isinstance(found, Exception):
            raise found
        return found

    with FakeServer() as server:
        server.route("GET", "/predictions/job_1", Reply.json({"status": "succeeded", "output": URL}))
        world.enqueue("job_1", provider="replicate")
        own = HttpVideoPoller(REPLICATE, api_key="unused", base_url=server.url)
        with world.worker(
            poller=RoutingPoller({"replicate": own}, credentials=credentials, strategies={"replicate": FAST})
        ) as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")
        assert [one.headers["authorization"] for one in server.requests] == ["Bearer the-key"]
    assert [one.fault for one in worker.recorder.of(events.JobPolled)] == [FaultKind.INTERNAL] * 2 + [None]


def test_no_key_is_that_of_the_poller_itself():
    poller = RoutingPoller({"fal": HttpVideoPoller(FAL, api_key="own")}, credentials=lambda job: None)
    assert poller.poll(job_of("fal"), timeout_s=1).kind is FaultKind.INTERNAL  # it has no URL to ask
    described = RoutingPoller({"replicate": REPLICATE}, credentials=lambda job: None)
    assert "credentials gave no key" in described.poll(job_of("replicate"), timeout_s=1).detail


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_plain_functions_run_among_the_polls_and_take_no_place_of_a_send(world):
    threads: list[str] = []

    def poll(job, *, timeout_s):
        threads.append(threading.current_thread().name)
        return VideoReady(URL)

    def credentials(job):
        threads.append(threading.current_thread().name)

    own = part("sync", poll=poll)
    own.with_key = lambda key: own
    world.enqueue("job_1", provider="own")
    with world.worker(poller=RoutingPoller({"own": own}, credentials=credentials)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")
    assert len(threads) == 2
    assert all(name.startswith("videopoll-poll") for name in threads)


def test_an_api_that_refuses_our_key_is_named_whatever_others_answer(world, caplog):
    """Said once, and not anew after each answer of another API."""
    answers = {"job_1": Fault(FaultKind.CREDENTIALS, "HTTP 401"), "job_2": VideoWorking()}
    world.enqueue("job_1", provider="fal")
    world.enqueue("job_2", provider="kling", user=2)
    with world.worker(poller=RoutingPoller(dict.fromkeys(("fal", "kling"), ScriptedPoller(answers)))) as worker:
        until(lambda: len(worker.recorder.of(events.JobPolled, "job_1")) > 2, "it is asked again and again")
        until(lambda: len(worker.recorder.of(events.JobPolled, "job_2")) > 2, "the other one, too")
        problems = worker.runner.health().problems
    assert problems == ("the video API fal refuses our key (401 or 403): check the API key",)
    assert caplog.text.count("The video API fal refuses our key") == 1
    assert {one.provider for one in worker.recorder.of(events.JobPolled, "job_1")} == {"fal"}


# --- its parts ---


@pytest.mark.parametrize(
    ("pollers", "options", "said"),
    [
        ({}, {}, "at least one poller"),
        ([ScriptedPoller()], {}, "in a mapping"),
        ({7: ScriptedPoller()}, {}, "by texts"),
        ({"a": ScriptedPoller}, {}, "build one of it"),
        ({"a": object()}, {}, "no method 'poll'"),
        ({"fal": FAL}, {}, "HttpVideoPoller(FAL, api_key=…), or credentials"),
        ({"a": ScriptedPoller()}, {"credentials": lambda job: "k"}, "no method 'with_key'"),
        ({"a": ScriptedPoller()}, {"credentials": "k"}, "RoutingPoller.credentials must be a function"),
        ({"a": ScriptedPoller()}, {"by": 7}, "RoutingPoller.by must be a function"),
        ({"a": ScriptedPoller()}, {"default": "b"}, "default names b, which is not among its pollers: a"),
        ({"a": ScriptedPoller()}, {"strategies": {"b": FAST}}, "strategies names b"),
    ],
)
def test_a_router_that_cannot_work_is_refused_when_it_is_built(pollers, options, said):
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        RoutingPoller(pollers, **options)


def test_a_function_that_has_to_be_waited_for_is_no_way_to_name_an_api():
    async def by(job):
        return "a"

    with pytest.raises(ConfigurationError, match="plain function"):
        RoutingPoller({"a": ScriptedPoller()}, by=by)


@pytest.mark.parametrize("asynchronous", ["poller", "credentials"])
def test_what_has_to_be_awaited_is_for_the_asyncio_runner(asynchronous):
    async def waits(job, *, timeout_s=1):
        return None

    own = part("async", poll=lambda job, timeout_s: None) if asynchronous == "poller" else ScriptedPoller()
    own.with_key = lambda key: own
    poller = RoutingPoller({"own": own}, credentials=waits if asynchronous == "credentials" else None)
    with pytest.raises(ConfigurationError, match="use AsyncRunner"):
        runner_of(Runner, poller)
    runner_of(AsyncRunner, poller)


def test_one_watch_is_enough_for_apis_that_keep_their_time():
    http = HttpVideoPoller(REPLICATE, api_key="k")
    assert RoutingPoller({"replicate": http}).keeps_time
    assert not RoutingPoller({"replicate": http, "own": ScriptedPoller()}).keeps_time
    assert not RoutingPoller({"replicate": http}, credentials=lambda job: "k").keeps_time
    # How long a host takes to give a key is not for us to say.
    assert not HttpVideoPoller(REPLICATE, api_key=lambda: "k").keeps_time


def test_all_parts_are_closed_with_it(call, kind):
    closed = []

    class Own(ScriptedPoller):
        def close(self):
            closed.append("close")

        async def aclose(self):
            closed.append("aclose")

    poller = RoutingPoller({"a": Own(), "b": ScriptedPoller(), "c": Own()})
    if kind == "sync":
        poller.close()
        assert closed == ["close"] * 2
    else:
        call(poller.aclose())
        assert closed == ["close", "aclose"] * 2


def test_it_tells_which_apis_it_asks_and_no_key():
    poller = RoutingPoller({"fal": HttpVideoPoller(FAL, api_key="a-secret"), "own": ScriptedPoller()})
    assert poller.apis == {"fal": "https://queue.fal.run"}
    assert repr(poller) == "RoutingPoller(fal, own)"


def test_a_poller_with_another_key_shares_the_connections_and_leaves_the_first_as_it_was():
    one = HttpVideoPoller(VIDEOS, api_key="one", base_url="https://videos.example/v1")
    other = one.with_key("other")
    assert (one._key, other._key, one._http is other._http) == ("one", "other", True)
    with pytest.raises(ConfigurationError, match="printable ASCII"):
        one.with_key("two words")
