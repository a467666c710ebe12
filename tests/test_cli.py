"""The command line: what each command prints and does, how errors end, and the demo."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys

import attrs
import httpx
import pytest
import redis
import typer
from typer.testing import CliRunner

from kit import API_KEY, INSTANCE, TOKEN, open_world, phone, until
from videopoll import RedisVideoJobQueue, __version__, events
from videopoll.cli import output
from videopoll.cli.app import build_app
from videopoll.cli.demo.cases import CASES, World, judge
from videopoll.cli.load import load_function
from videopoll.errors import ConfigurationError
from videopoll.jobs import JobState
from videopoll.observe.log_setup import JsonFormatter
from videopoll.testing import FakeProviders, Reply, unused_port
from videopoll.video_api import HttpVideoPoller, Meaning
from videopoll.video_api.apis import FAL
from videopoll.worker.serve import GC_THRESHOLDS, calm_garbage_collection

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def invoke(monkeypatch):
    """Call the command line in this process, with a clean environment."""
    for name in [name for name in os.environ if name.startswith("VIDEOPOLL_")]:
        monkeypatch.delenv(name)

    def call(*args, stdin=None):
        result = CliRunner().invoke(build_app([str(arg) for arg in args[:1]]), [str(arg) for arg in args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def cli(invoke, redis_url, prefix):
    """Call a command on the test's own keys."""

    def call(command, *args, stdin=None):
        words = command.split()
        return invoke(*words, *args, "--redis-url", redis_url, "--prefix", prefix, stdin=stdin)

    return call


@pytest.fixture
def queue(redis_url, prefix):
    """A producer's queue on the same keys."""
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def sync_world(redis_url, prefix):
    """The outside world, with workers with threads."""
    yield from open_world("sync", redis_url, prefix)


@pytest.fixture
def make_dead(sync_world, queue):
    """Make dead letters: jobs whose metadata name no channel."""

    def make(*job_ids):
        for job_id in job_ids:
            sync_world.api.job(job_id, Reply.completed())
            queue.enqueue(job_id, conversation_id="conversation-1")
        with sync_world.worker() as worker:
            until(lambda: len(worker.recorder.of(events.JobDeadLettered)) == len(job_ids), "they are dead letters")

    return make


# --- the whole ---


def test_version(invoke):
    assert invoke("--version").output == f"videopoll {__version__}\n"


def test_no_arguments_show_the_help(invoke):
    result = invoke()

    for command in ("demo", "worker", "enqueue", "status", "show", "cancel", "dead"):
        assert re.search(rf"^\W*{command}\b", result.output, re.MULTILINE), command


@pytest.mark.parametrize("command", ["worker", "enqueue", "status", "show", "cancel", "demo", "dead", "dead list"])
def test_every_command_has_a_help_of_its_own(invoke, command):
    result = invoke(*command.split(), "--help")

    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "\\b" not in result.output


@pytest.mark.parametrize(
    "args", [["nonsense"], ["worker", "--nonsense"], ["worker", "--runner", "green"], ["show"], ["enqueue", "job_1"]]
)
def test_wrong_usage_is_exit_code_2(invoke, args):
    assert invoke(*args).exit_code == 2


def test_every_option_of_the_worker_has_its_environment_variable():
    worker = typer.main.get_command(build_app()).commands["worker"]

    for option in worker.params:
        if option.name != "help":
            assert option.envvar == f"VIDEOPOLL_{option.name.upper()}"


def test_secrets_are_no_options():
    """A file that has one is."""
    worker = typer.main.get_command(build_app()).commands["worker"]
    found = [option for option in worker.params if "token" in option.name or "key" in option.name]

    assert {(option.name, option.metavar) for option in found} == {("redis_key", "FILE")}


def test_it_is_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "videopoll", "--version"], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout == f"videopoll {__version__}\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from videopoll.cli import main; main()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)

    assert done.returncode == 2
    assert done.stderr == "The command line needs a few more packages: pip install 'videopoll[cli]'\n"


@pytest.mark.parametrize(
    "args", [["show", "job_1"], ["cancel", "job_1"], ["enqueue", "job_1", "--conversation", "c"], ["dead", "list"]]
)
def test_an_error_is_a_line_says_where_redis_was_looked_for_and_has_exit_code_1(invoke, args):
    result = invoke(*args, "--redis-url", NOWHERE)

    assert result.exit_code == 1
    assert result.stdout == ""
    where = r"videopoll: Redis was looked for at redis://127\.0\.0\.1:1/0: .*\n"
    assert re.fullmatch(rf"videopoll: .*cannot reach Redis.*\n{where}", result.stderr)


def test_a_pipe_that_closes_early_is_no_stack_trace(queue, redis_url, prefix):
    lines = "\n".join(json.dumps({"job_id": f"job_{n}", "conversation_id": "c" * 200}) for n in range(2000))
    command = f"{sys.executable} -m videopoll enqueue --stdin --redis-url {redis_url} --prefix {prefix} | head -n 1"

    done = subprocess.run(command, shell=True, input=lines, capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "job_0\tcreated\n"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# --- enqueue ---


def test_enqueue_takes_a_job_in_once(cli, queue):
    args = ["job_1", "--conversation", "c_1", "--channel", "ultramsg", "--to", phone(1)]

    assert cli("enqueue", *args).stdout == "job_1\tcreated\n"
    assert json.loads(cli("enqueue", *args, "--json").stdout) == {"job_id": "job_1", "result": "known"}

    view = queue.get("job_1")
    assert view.job.conversation_id == "c_1"
    assert view.job.metadata == {"channel": "ultramsg", "to": phone(1)}


def test_enqueue_stores_metadata(cli, queue):
    result = cli("enqueue job_1 --conversation c -m", "prompt=a = b", "-m", "version:=2", "--metadata", "tags:=[]")

    assert result.exit_code == 0
    assert queue.get("job_1").job.metadata == {"prompt": "a = b", "version": 2, "tags": []}


def test_enqueue_reads_its_settings_from_the_environment(invoke, queue, redis_url, prefix, monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_REDIS_URL", redis_url)
    monkeypatch.setenv("VIDEOPOLL_PREFIX", prefix)

    invoke("enqueue", "job_1", "--conversation", "c")

    assert queue.get("job_1").state is JobState.QUEUED


def test_enqueue_sets_the_time_to_live(cli, redis_url, prefix):
    cli("enqueue job_1 --conversation c --job-ttl 1800")

    with redis.Redis.from_url(redis_url) as client:
        assert 1700 < client.ttl(f"{prefix}:job:job_1") <= 1800


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["job 1", "--conversation", "c"], "job_id must not contain"),
        (["job_1"], "needs its id and --conversation"),
        (["job_1", "--conversation", "c", "-m", "prompt"], "looks like KEY=VALUE"),
        (["job_1", "--conversation", "c", "-m", "version:=two"], "wants JSON"),
        (["job_1", "--conversation", "c", "-m", "status=done"], "may not use the names"),
        (["job_1", "--stdin"], "leave out the job id"),
    ],
)
def test_enqueue_refuses_what_cannot_work(cli, queue, args, said):
    result = cli("enqueue", *args)

    assert result.exit_code == 2
    assert said in result.stderr
    assert queue.counts().queued == 0


def test_enqueue_takes_many_jobs_from_standard_input(cli, queue):
    lines = [
        {"job_id": f"job_{n}", "conversation_id": f"c_{n}", "channel": "ultramsg", "to": phone(n)} for n in range(450)
    ]

    result = cli("enqueue --stdin", stdin="\n".join(map(json.dumps, lines)) + "\n\n")

    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 450
    assert result.stderr == "videopoll: 450 created\n"
    assert queue.counts().queued == 450
    assert queue.get("job_449").job.metadata["to"] == phone(449)


def test_bad_lines_are_told_by_their_number_and_the_good_ones_are_taken_in(cli, queue):
    lines = [
        '{"job_id": "job_1", "conversation_id": "c", "metadata": {"version": 3}}',
        "no json",
        "",
        '{"job_id": "job_2"}',
        '{"job_id": "job_3", "conversation_id": "c", "prompt": "x"}',
        '{"job_id": "job_4", "conversation_id": "c", "to": 5}',
        '{"job_id": "job_5", "conversation_id": "c", "metadata": {"jobId": "x"}}',
        '{"job_id": "job_6", "conversation_id": "c"}',
    ]

    result = cli("enqueue --stdin --json", stdin="\n".join(lines))

    assert result.exit_code == 1
    assert [json.loads(line)["job_id"] for line in result.stdout.splitlines()] == ["job_1", "job_6"]
    assert re.findall(r"line (\d+): ", result.stderr) == ["2", "4", "5", "6", "7"]
    assert "2 created, 5 bad lines" in result.stderr
    assert queue.get("job_1").job.metadata == {"version": 3}


# --- status ---


def test_status_counts_and_asks_after_the_health(cli, sync_world, queue, redis_url, prefix):
    for number in range(3):
        queue.enqueue(f"job_{number}", conversation_id="c")
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{prefix}:lock:job_9", "somebody", ex=60)
        client.set(f"{prefix}:completed:job_9", "{}", ex=60)

    result = cli("status --check --json --api-url", sync_world.api.url)

    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["redis"]["healthy"] is True
    assert told["video_api"] == {"healthy": True, "detail": "HTTP 200"}
    assert {name: told[name] for name in ("queued", "scheduled", "in_flight", "deliveries", "dead")} == {
        "queued": 3,
        "scheduled": 0,
        "in_flight": 0,
        "deliveries": 0,
        "dead": 0,
    }
    assert (told["active"], told["locked"], told["completed"]) == (3, 1, 1)
    plain = cli("status --api-url", sync_world.api.url).stdout
    assert "waiting to be taken: 3\n" in plain
    assert "locks: about 1\n" in plain
    assert "video API: ok: HTTP 200\n" in plain


def test_status_is_0_without_check_and_1_with_it_when_something_is_down(cli, invoke):
    down = f"http://127.0.0.1:{unused_port()}"

    assert cli("status --api-url", down).exit_code == 0
    assert cli("status --check --api-url", down).exit_code == 1
    result = invoke("status", "--redis-url", NOWHERE, "--api-url", down)
    assert result.exit_code == 0
    assert "Redis: down: " in result.stdout


def test_status_without_the_right_to_scan_says_so(invoke, sync_world, redis_url, prefix):
    with redis.Redis.from_url(redis_url) as admin:
        admin.acl_setuser(prefix, enabled=True, passwords=["+pw"], keys=[f"{prefix}:*"], commands=["+@all", "-scan"])
        try:
            url = redis_url.replace("redis://", f"redis://{prefix}:pw@")
            args = ["status", "--prefix", prefix, "--redis-url", url, "--api-url", sync_world.api.url]
            plain, as_json = invoke(*args), invoke(*args, "--json")
        finally:
            admin.acl_deluser(prefix)

    assert plain.exit_code == 0
    assert "records, locks, completed: unknown: this Redis user may not SCAN\n" in plain.stdout
    assert json.loads(as_json.stdout)["locked"] is None


# --- show, cancel, dead ---


def test_show_hides_what_is_private_unless_asked(cli, queue):
    metadata = {"channel": "ultramsg", "to": phone(7), "prompt": "a private wish", "version": 2}
    queue.enqueue("job_1", conversation_id="c_1", metadata=metadata)

    plain, told = cli("show job_1").stdout, json.loads(cli("show job_1 --json").stdout)

    assert "state: queued\n" in plain
    assert "conversation: c_1\n" in plain
    assert told["metadata"] == {"channel": "ultramsg", "to": "549•••07", "prompt": "•••", "version": 2}
    assert phone(7) not in plain
    assert "wish" not in plain
    assert json.loads(cli("show job_1 --json --reveal").stdout)["metadata"] == metadata


def test_show_tells_how_it_ended(cli, sync_world, queue):
    sync_world.api.job("job_1", Reply.completed("https://files.example/1.mp4?signature=secret"))
    queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})
    with sync_world.worker():
        until(lambda: queue.get("job_1").state is JobState.SETTLED, "it is settled")

    told = json.loads(cli("show job_1 --json").stdout)

    assert (told["state"], told["outcome"], told["delivered"]) == ("settled", "completed", True)
    assert told["video_url"] == "https://files.example/1.mp4?•••"
    assert "delivered: yes\n" in cli("show job_1").stdout
    assert json.loads(cli("show job_1 --json --reveal").stdout)["video_url"].endswith("?signature=secret")


def test_show_of_an_unknown_job_is_exit_code_1(cli):
    result = cli("show job_1")

    assert result.exit_code == 1
    assert "there is no job 'job_1'" in result.stderr


def test_cancel(cli, queue):
    queue.enqueue("job_1", conversation_id="c")

    assert cli("cancel job_1").stdout == "job_1\tcancelled\n"
    again = cli("cancel job_1 --json")
    assert again.exit_code == 1
    assert json.loads(again.stdout) == {"job_id": "job_1", "result": "finished"}
    assert "there is no such job" in cli("cancel job_2").stderr


def test_cancel_can_tell_the_user(cli, sync_world, queue):
    queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})

    assert cli("cancel job_1 --notify").exit_code == 0

    with sync_world.worker():
        (message,) = until(lambda: sync_world.ultramsg.inbox(phone(1)), "the user is told")
    assert "cancelada" in message.text


def test_dead_letters_are_listed_and_shown(cli, make_dead):
    make_dead("job_1", "job_2")

    rows = [line.split("\t") for line in cli("dead list").stdout.splitlines()]
    assert {row[0] for row in rows} == {"job_1", "job_2"}
    assert {row[2] for row in rows} == {"completed"}
    assert "'channel'" in rows[0][3]
    assert len(json.loads(cli("dead list --json").stdout)) == 2
    limited = cli("dead list --limit 1")
    assert len(limited.stdout.splitlines()) == 1
    assert "1 more" in limited.stderr
    assert json.loads(cli("dead show job_1 --json").stdout)["kept"] == "completed"
    assert "reason: " in cli("dead show job_1").stdout
    assert cli("dead show job_9").exit_code == 1
    assert json.loads(cli("show job_1 --json").stdout)["state"] == "dead"


def test_dead_letters_are_redriven(cli, make_dead, queue):
    make_dead("job_1", "job_2", "job_3")

    assert cli("dead redrive job_1").stdout == "job_1\tredriven\n"
    assert cli("dead redrive job_1").exit_code == 1
    assert json.loads(cli("dead redrive --all --json").stdout) == {"redriven": 2}

    assert queue.counts().dead == 0
    assert queue.counts().deliveries == 3


def test_dead_letters_are_dismissed(cli, make_dead, queue):
    make_dead("job_1", "job_2", "job_3")

    assert json.loads(cli("dead dismiss job_1 --json").stdout) == {"job_id": "job_1", "result": "dismissed"}
    assert cli("dead dismiss --all").stdout == "2 dismissed\n"

    assert queue.counts().dead == 0
    assert cli("dead list").stdout == ""


def test_a_bare_id_cannot_be_redriven(cli, sync_world, redis_url, prefix):
    """Its name comes out of Redis: it may hold anything, and is shown on one line."""
    ghost = "gh\nost[bold]\udcff"
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(f"{prefix}:poll:queue", ghost.encode("utf-8", "surrogateescape"))
    with sync_world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")

    (line,) = cli("dead list").stdout.splitlines()
    assert line.startswith("gh\\nost[bold]\\udcff\t")
    assert json.loads(cli("dead list --json").stdout)[0]["job_id"] == ghost
    result = cli("dead redrive", ghost)
    assert result.exit_code == 1
    assert "bare id" in result.stderr
    assert cli("dead dismiss", ghost).exit_code == 0


@pytest.mark.parametrize("command", ["dead redrive", "dead dismiss", "dead redrive job_1 --all"])
def test_dead_wants_a_job_or_all(cli, command):
    assert cli(command).exit_code == 2


# --- worker ---


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        ([], {"VIDEOPOLL_API_KEY": ""}, "set VIDEOPOLL_API_KEY"),
        (["--timeout", "900"], {}, "Raise --job-ttl here and wherever jobs are enqueued, e.g. to 1800"),
        (["--timeout", "3"], {}, "must be longer than initial_delay_s"),
        (["--language", "xx"], {}, "not among the languages"),
        (["--redis-url", "http://x"], {}, "the Redis URL cannot be read"),
        (["--resolver", "people"], {}, "looks like package.module:function"),
        (["--resolver", "no.such.module:recipient_of"], {}, "cannot be imported (ModuleNotFoundError"),
        (["--resolver", "json:nothing"], {}, "has no function 'nothing'"),
        (["--resolver", "asyncio:sleep", "--runner", "sync"], {}, "use --runner async"),
    ],
)
def test_the_worker_refuses_what_cannot_work(args, env, said):
    done = subprocess.run(
        [sys.executable, "-m", "videopoll", "worker", *args],
        env={**os.environ, "VIDEOPOLL_API_KEY": API_KEY, "VIDEOPOLL_ULTRAMSG_INSTANCE": INSTANCE, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_words_of_an_option_may_be_in_capitals():
    """`LOG_LEVEL=ERROR` is how the rest of the world writes it."""
    done = subprocess.run(
        [sys.executable, "-m", "videopoll", "worker"],
        env={**os.environ, "VIDEOPOLL_LOG_LEVEL": "ERROR", "VIDEOPOLL_LOG_FORMAT": "Json"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert "the video API needs a key" in done.stderr


def test_the_garbage_collector_of_a_worker_process_is_calm():
    """With Python's defaults, a fifth of a busy worker's time goes into looking for cycles that it does not make."""
    before = gc.get_threshold()
    try:
        calm_garbage_collection()

        assert gc.get_threshold() == GC_THRESHOLDS
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_a_resolver_may_be_a_method():
    assert load_function("--resolver", "collections:OrderedDict.fromkeys") is not None
    with pytest.raises(ConfigurationError):
        load_function("--resolver", ":recipient_of")


def test_json_lines_are_json_whatever_is_in_them():
    record = logging.LogRecord("videopoll.worker", logging.INFO, "", 0, "took %s", ("it\n",), None)
    record.vp_event, record.vp_job_id, record.vp_fault = "JobTaken", "job_1", None
    try:
        int("broken")
    except ValueError:
        record.exc_info = sys.exc_info()

    line = JsonFormatter().format(record)

    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "took it\n"
    assert (told["event"], told["job_id"], told["level"]) == ("JobTaken", "job_1", "info")
    assert "fault" not in told
    assert told["exception"].endswith("'broken'")


# --- demo ---


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["async", "sync"])
def test_the_demo_ends_as_it_should(runner, redis_server):
    """With --redis-url it leaves nothing behind."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "videopoll", "demo", "--runner", runner, "--redis-url", redis_server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"All {len(CASES)} jobs ended as they should" in done.stdout
    assert phone(0)[:7] not in done.stdout
    for case in CASES:
        assert case.to not in done.stdout
    with redis.Redis.from_url(redis_server.url) as client:
        assert not list(client.scan_iter(match="{videopoll-demo-*", count=1000))


@pytest.mark.slow
def test_a_ctrl_c_ends_the_demo_quietly(require_server):
    require_server("valkey")
    process = subprocess.Popen(
        [sys.executable, "-m", "videopoll", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "jobs" in process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    assert errors == ""


def test_the_demo_notices_what_is_wrong(sync_world, queue):
    """The result comes from the inboxes and from Redis, so it can be a bad one."""
    case = attrs.evolve(CASES[0], steps=(Meaning.DONE,))
    with FakeProviders() as providers:
        world = World(providers, sync_world.ultramsg, sync_world.factory)

        nothing = judge(world, case, None)
        assert "0 messages instead of 1" in nothing.problems
        assert "Redis does not call it delivered" in nothing.problems

        queue.enqueue(case.job_id, conversation_id=case.conversation_id, metadata=case.begin(world))
        poller = HttpVideoPoller(FAL, api_key="any", base_url=providers.base_url("fal"))
        with sync_world.worker(poller=poller):
            until(lambda: queue.get(case.job_id).state is JobState.SETTLED, "it is settled")
        assert judge(world, case, queue.get(case.job_id)).good

        _send_text(sync_world, case.to)
        assert judge(world, case, queue.get(case.job_id)).problems == ("2 messages instead of 1",)


def _send_text(world, to):
    body = {"token": TOKEN, "to": to, "body": "once more"}
    httpx.post(f"{world.ultramsg.url}/{INSTANCE}/messages/chat", json=body, timeout=10).raise_for_status()


@pytest.mark.parametrize(
    ("address", "shown"), [("5491155550001", "549•••01"), ("+54 9 11", "•••"), ("120363041234567890@g.us", "120•••90")]
)
def test_addresses_are_masked(address, shown):
    assert output.mask(address) == shown


def test_times_that_make_no_sense_are_shown_all_the_same():
    assert output.when(10**20) == f"{10**20} ms"
    assert output.when(1_757_157_518_747) == "2025-09-06 11:18:38Z"
