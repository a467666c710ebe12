"""The described video APIs on the command line: ``worker --provider``, ``providers``, ``enqueue --provider``, doctor and status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest
from typer.testing import CliRunner

from kit import FAST, until
from videopoll import ConfigurationError, RedisVideoJobQueue, events
from videopoll.cli.app import build_app
from videopoll.cli.commands import doctor
from videopoll.cli.commands.worker import _check_names
from videopoll.cli.providers import open_poller
from videopoll.notifiers import SilentNotifier
from videopoll.testing import FakeProviders, unused_port
from videopoll.video_api import HttpVideoPoller, Meaning, RoutingPoller
from videopoll.video_api.apis import ALL, FAL, REPLICATE

if TYPE_CHECKING:
    from pathlib import Path

KEY = "the-key-of-the-tests"

TASKS = """
from videopoll.video_api import ApiDescription, Certainty, Meaning

TASKS = ApiDescription(
    name="tasks", base_url="https://tasks.example", poll="{base}/tasks/{id}", words={"done": Meaning.DONE},
    video="url", source="", checked="2026-11-29", certainty=Certainty.READ,
)
"""


@pytest.fixture
def providers():
    with FakeProviders(api_key=KEY) as providers:
        yield providers


@pytest.fixture
def invoke(monkeypatch):
    """Call the command line in this process, with a clean environment."""
    for name in [name for name in os.environ if name.startswith("VIDEOPOLL_")]:
        monkeypatch.delenv(name)
    for api in ALL.values():
        monkeypatch.delenv(api.key_variable, raising=False)

    def call(*args, stdin=None):
        result = CliRunner().invoke(build_app([str(arg) for arg in args[:1]]), [str(arg) for arg in args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def cli(invoke, redis_url, prefix):
    """Call a command on the test's own keys."""
    return lambda command, *args, stdin=None: invoke(
        *command.split(), *args, "--redis-url", redis_url, "--prefix", prefix, stdin=stdin
    )


@pytest.fixture
def queue(redis_url, prefix):
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        yield queue


# --- which there are ---


def test_providers_are_listed_with_what_each_needs(invoke, monkeypatch):
    monkeypatch.setenv("FAL_KEY", "a-secret")
    monkeypatch.setenv("VIDEOPOLL_KLING_URL", "https://api.kling.example")
    printed = invoke("providers").output
    told = {one["provider"]: one for one in json.loads(invoke("providers", "--json").output)}

    assert told.keys() == ALL.keys()
    assert (told["fal"]["key_variable"], told["fal"]["key_set"]) == ("FAL_KEY", True)
    assert (told["kling"]["key_set"], told["kling"]["timeout_s"]) == (False, 1200)
    assert told["kling"]["url"] == "https://api.kling.example"
    assert (told["videos"]["url"], told["videos"]["url_variable"]) == (None, "VIDEOPOLL_VIDEOS_URL")
    lines = {line.split("\t")[0]: line for line in printed.splitlines()}
    assert "FAL_KEY: set\thttps://queue.fal.run\tevery 5 s, for 900 s\tseen\t2026-11-25" in lines["fal"]
    assert "REPLICATE_API_TOKEN: not set" in lines["replicate"]
    assert "set VIDEOPOLL_VIDEOS_URL" in lines["videos"]
    assert "a-secret" not in printed


def test_no_two_apis_read_the_same_variable():
    assert len({api.key_variable for api in ALL.values()}) == len(ALL)
    assert {ALL[name].key_variable for name in ("fal", "replicate", "runway", "kling")} == {
        "FAL_KEY",
        "REPLICATE_API_TOKEN",
        "RUNWAYML_API_SECRET",
        "KLING_API_KEY",
    }


# --- a worker of several ---


def worker(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOPOLL_")}
    return subprocess.run(
        [sys.executable, "-m", "videopoll", "worker", *args],
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("runner", ["async", "sync"])
def test_a_worker_of_two_providers_brings_the_videos_of_both(place, providers, queue, runner, tmp_path):
    """From the environment and the command line alone, with the names that the providers' own SDKs have."""
    environment = {
        **os.environ,
        "FAL_KEY": KEY,
        "REPLICATE_API_TOKEN": KEY,
        "VIDEOPOLL_FAL_URL": providers.base_url("fal"),
        "VIDEOPOLL_REPLICATE_URL": providers.base_url("replicate"),
        "VIDEOPOLL_PROVIDER": "fal replicate",
        "VIDEOPOLL_API_KEY": "",
    }
    started = [providers.job("fal", Meaning.DONE), providers.job("replicate", Meaning.DONE)]
    for one in started:
        queue.enqueue(one.job_id, conversation_id="c", metadata=one.metadata)
    (tmp_path / "quiet.py").write_text(
        "from videopoll import Recipient\nfrom videopoll.notifiers import SilentNotifier\n"
        "def build(): return SilentNotifier()\ndef to(conversation_id): return Recipient(channel='quiet', to='1')\n"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "videopoll", "worker", "--runner", runner, "--resolver", "quiet:to"),
            *("--redis-url", place[0], "--prefix", place[1], "--channel", "quiet=quiet:build"),
        ],
        env=environment,
        cwd=tmp_path,
    )
    try:
        until(lambda: all(queue.get(one.job_id).delivered for one in started), "both users have their videos", 40)
        (seen,) = until(queue.workers, "it tells which APIs it polls")
    finally:
        process.terminate()
        process.wait(30)
    assert seen.video_apis == {name: providers.base_url(name) for name in ("fal", "replicate")}
    assert not seen.video_api


@pytest.fixture
def place(redis_url, prefix):
    return redis_url, prefix


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (
            ["--provider", "sora"],
            {},
            "there is no description of 'sora'; videopoll providers lists those that there are",
        ),
        (["--provider", "fal"], {}, "the video API fal needs a key: set FAL_KEY in the environment"),
        (["--provider", "videos"], {"VIDEOS_API_KEY": KEY}, "set VIDEOPOLL_VIDEOS_URL to its address"),
        (["--provider", "fal", "--interval", "3"], {"FAL_KEY": KEY}, "--interval would have no effect"),
        (["--provider", "fal", "--api-url", "https://x.example"], {"FAL_KEY": KEY}, "--api-url would have no effect"),
        (["--provider", "fal", "--foreign-workers"], {"FAL_KEY": KEY}, "do not go together"),
        (["--provider", "fal", "--app", "json:loads"], {"FAL_KEY": KEY}, "--provider would have no effect"),
        (["--provider", "kling", "--job-ttl", "900"], {"KLING_API_KEY": KEY}, "kling is polled for 1200 s"),
        (["--provider", "json:loads"], {}, "json:loads is no ApiDescription, but function"),
        (["--provider", "fal", "--redis-url", "http://x"], {"FAL_KEY": KEY}, "the Redis URL cannot be read"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence(args, env, said):
    done = worker(*args, **env)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"FAL_KEY": "two words"}, "the video API fal, by FAL_KEY of the environment: the key"),
        ({"FAL_KEY": "line\n"}, "the video API fal, by FAL_KEY of the environment: the key"),
        (
            {"FAL_KEY": KEY, "VIDEOPOLL_FAL_URL": "https://user:pass@fal.example"},
            "by FAL_KEY and VIDEOPOLL_FAL_URL of the environment: HttpVideoPoller.base_url has credentials in it",
        ),
    ],
    ids=str,
)
def test_a_key_or_an_address_that_cannot_be_used_is_told_by_its_variable_and_not_quoted(monkeypatch, env, said):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said) as told:
        open_poller(FAL)
    assert not any(value in str(told.value) for value in env.values())


def test_an_address_with_a_password_is_not_listed(invoke, monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_FAL_URL", "https://user:pass-word@fal.example")
    for options in ((), ("--json",)):
        printed = invoke("providers", *options).output
        assert "pass-word" not in printed
        assert "VIDEOPOLL_FAL_URL has credentials in it" in printed


def test_doctor_finds_a_key_that_can_be_none(providers, monkeypatch):
    monkeypatch.setenv("FAL_KEY", "two words")
    *_, found = doctor.check_described("fal", providers.base_url("fal"), FAL)
    assert (found.mark, found.fix) == (doctor.Mark.WRONG, "look at FAL_KEY")


@pytest.mark.parametrize(
    ("apis", "said"),
    [
        ([FAL, attrs.evolve(REPLICATE, name="fal")], "'fal' is there twice"),
        ([attrs.evolve(FAL, name="default")], "'default' has the name of the API of jobs that name none"),
    ],
    ids=["twice", "default"],
)
def test_two_apis_of_one_name_are_refused_as_one_would_get_the_jobs_of_the_other(apis, said):
    with pytest.raises(ConfigurationError, match=said):
        _check_names(apis)
    _check_names([FAL, FAL, REPLICATE])


def test_a_description_of_the_hosts_own_is_named_like_its_functions(tmp_path: Path):
    (tmp_path / "mytasks.py").write_text(TASKS)
    said = worker("--provider", "mytasks:TASKS", PYTHONPATH=str(tmp_path)).stderr.splitlines()[-1]
    assert "the video API tasks needs a key: set TASKS_API_KEY" in said


def test_jobs_that_name_no_provider_go_to_the_api_that_there_always_was(monkeypatch):
    """For a host that begins with a second one."""
    from videopoll.cli.commands.worker import _routed

    monkeypatch.setenv("FAL_KEY", KEY)
    alone, others = _routed([FAL], None), HttpVideoPoller(REPLICATE, api_key=KEY)
    assert repr(alone) == "RoutingPoller(fal)"
    assert repr(_routed([FAL], others)) == "RoutingPoller(default, fal)"
    assert _routed([], others) is others


# --- enqueue ---


def test_a_job_of_a_provider_is_handed_over(cli, queue, redis_url, prefix):
    done = cli("enqueue 8f3a --provider kling --conversation c", "-m", 'operation:={"kind": "text2video"}')
    assert done.output == "kling:8f3a\tcreated\n"
    job = queue.get("kling:8f3a").job
    assert job.metadata == {"provider": "kling", "operation": {"kind": "text2video", "id": "8f3a"}}
    assert queue._client.ttl(queue.keys.job("kling:8f3a")) > 1200


def test_lines_may_name_providers(cli, queue):
    lines = [
        {"job_id": "1", "conversation_id": "c", "provider": "replicate"},
        {"job_id": "2", "conversation_id": "c", "provider": "fal"},
        {"job_id": "3", "conversation_id": "c", "provider": "sora"},
    ]
    done = cli("enqueue --stdin", stdin="\n".join(map(json.dumps, lines)))
    assert done.exit_code == 1
    assert "replicate:1\tcreated" in done.output
    assert "line 2: a poll of fal needs status_url and response_url" in done.output
    assert "line 3: --provider: there is no description of 'sora'" in done.output


def test_a_record_that_lives_shorter_than_the_polling_is_warned_of(cli, queue):
    """Workers make it live longer; without one the job is lost."""
    done = cli("enqueue 1 --provider replicate --conversation c --job-ttl 600")
    assert done.exit_code == 0
    assert "--job-ttl 600 is shorter than replicate is polled for (1800 s)" in done.output
    assert queue._client.ttl(queue.keys.job("replicate:1")) <= 600


# --- doctor and status ---


@pytest.fixture
def polling(world, providers):
    """A worker that polls fal and Replicate, and is seen."""
    pollers = {
        api.name: HttpVideoPoller(api, api_key=KEY, base_url=providers.base_url(api.name)) for api in (FAL, REPLICATE)
    }
    router = RoutingPoller(pollers, strategies=dict.fromkeys(pollers, FAST))
    with world.worker(poller=router, notifier=SilentNotifier(), visible=True) as worker:
        yield worker


@pytest.mark.parametrize("kind", ["sync", "async"], indirect=True)
def test_the_apis_that_living_workers_poll_are_asked_and_no_other(polling, cli, queue, providers, monkeypatch):
    until(queue.workers, "it beats")
    monkeypatch.setenv("FAL_KEY", KEY)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "another")
    status = json.loads(cli("status --json --check --no-scan").output)
    found = {one["check"]: one for one in json.loads(cli("doctor --json").output)["findings"]}

    assert [(one["provider"], one["healthy"]) for one in status["video_apis"]] == [("fal", True), ("replicate", True)]
    assert status["video_api"]["healthy"] is True
    assert "video API" not in found
    assert (found["video API fal"]["mark"], found["key of fal"]["mark"]) == ("ok", "ok")
    assert (found["video API replicate"]["mark"], found["key of replicate"]["mark"]) == ("ok", "wrong")
    assert "set REPLICATE_API_TOKEN anew" in found["key of replicate"]["fix"]
    assert "video API fal: " in cli("status --no-scan").output


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_one_of_several_that_is_down_is_named(polling, cli, queue, providers):
    until(queue.workers, "it beats")
    providers.stop()
    done = cli("status --json --check --no-scan")
    assert done.exit_code == 1
    assert [one.partition(": ")[0] for one in json.loads(done.output)["problems"]] == [
        "video API fal",
        "video API replicate",
    ]


def test_doctor_asks_what_an_operator_names(invoke, providers, monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_KLING_URL", providers.base_url("kling"))
    monkeypatch.setenv("VIDEOPOLL_PROVIDER", "kling videos")
    away = ("--redis-url", f"redis://127.0.0.1:{unused_port()}/0")
    found = {one["check"]: one for one in json.loads(invoke("doctor", "--json", *away).output)["findings"]}
    assert found["video API kling"]["mark"] == "ok"
    assert (found["key of kling"]["mark"], "KLING_API_KEY is not set" in found["key of kling"]["found"]) == (
        "note",
        True,
    )
    assert "set VIDEOPOLL_VIDEOS_URL" in found["video API videos"]["fix"]
    assert "video API" not in found


@pytest.mark.parametrize("name", sorted(ALL))
def test_doctor_tries_the_key_of_each(providers, monkeypatch, name):
    """Where a job has an address of its own, with one that is made up."""
    for key, mark in ((KEY, "ok"), ("wrong", "wrong")):
        monkeypatch.setenv(ALL[name].key_variable, key)
        _, tried = doctor.check_described(name, providers.base_url(name), ALL[name])
        assert (tried.check, tried.mark) == (f"key of {name}", mark), tried


def test_show_live_asks_the_api_of_the_job(cli, queue, providers, monkeypatch):
    started = providers.job("replicate", Meaning.WORKING)
    queue.enqueue(started.job_id, conversation_id="c", metadata=started.metadata)
    monkeypatch.setenv("REPLICATE_API_TOKEN", KEY)
    monkeypatch.setenv("VIDEOPOLL_REPLICATE_URL", providers.base_url("replicate"))
    assert json.loads(cli(f"show {started.job_id} --live --json").output)["live"] in {"starting", "processing"}


def test_events_name_no_key(polling, providers, queue):
    started = providers.job("fal", Meaning.DONE)
    queue.enqueue(started.job_id, conversation_id="c", metadata=started.metadata)
    until(lambda: polling.recorder.of(events.JobDelivered), "the user has the video")
    assert KEY not in repr(polling.recorder.events)
