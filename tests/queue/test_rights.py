"""Users of Redis who may do what their part needs, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
from importlib import resources

import pytest
import redis
from typer.testing import CliRunner

from kit import open_world, until
from kit.bench import Bench, bring, recover
from videopoll import events
from videopoll.cli.app import build_app
from videopoll.cli.commands.doctor import check_redis
from videopoll.errors import InvalidJobError, QueueRefusedError
from videopoll.jobs import JobState
from videopoll.queue.calls import SCRIPTS
from videopoll.queue.rights import SCRIPTS_OF, Role, acl_rules, commands_of
from videopoll.queue.schema import Keys
from videopoll.testing import EmbeddedRedis


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request, require_server):
    """A server of these tests' own: what was called on it was called by them."""
    require_server(request.param)
    with EmbeddedRedis(prefer=request.param) as server:
        yield server


@pytest.fixture
def db(server):
    with redis.Redis.from_url(server.url) as db:
        yield db
        db.flushall()


def user_of(db, server, role: Role, prefix: str = "video") -> str:
    """Make a user as the printed line does; give the URL."""
    printed = (
        CliRunner().invoke(build_app(), ["acl", "--for", role.value, "--user", f"a-{role}", "--prefix", prefix]).stdout
    )
    words = printed.split()
    assert words[:2] == ["ACL", "SETUSER"]
    db.execute_command("ACL SETUSER", *(">pw" if word == ">PASSWORD" else word for word in words[2:]))
    db.execute_command("ACL LOG", "RESET")
    return server.url.replace("redis://", f"redis://a-{role}:pw@")


def refusals(db) -> list[tuple[str, str]]:
    """Return what was refused to users, but for what the client asks on its own and does without."""
    told = [(str(entry["reason"]), str(entry["object"])) for entry in db.acl_log()]
    return [one for one in told if "client" not in one[1]]


def test_every_command_of_a_script_is_seen():
    """Each is called by its name; the one function that hands a command on is known by its own."""
    for path in (resources.files("videopoll.queue") / "lua").iterdir():
        code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        for call in re.findall(r"redis\.p?call\(([^,)]*)", code):
            assert re.fullmatch(r"'[A-Z]+'", call) or call == "command", (path.name, call)
        assert "redis['" not in code


def test_every_script_is_somebodys():
    assert {script.name for some in SCRIPTS_OF.values() for script in some} == {script.name for script in SCRIPTS}


def test_a_worker_and_its_producers_need_no_more_than_is_printed(kind, call, db, server):
    """Polls, a delivery, a fault, a dead letter, a cancelled job, a lost one, and the history of all."""
    worker_url, producer_url = user_of(db, server, Role.WORKER), user_of(db, server, Role.PRODUCER)
    for world in open_world(kind, worker_url, "video"):
        world.api.job("job_1", ready_after_polls=2)
        world.api.job("job_2")
        with world.worker(visible=True) as worker:
            producer = Bench(kind, producer_url, "video", call, db)
            producer.enqueue("job_1", channel="ultramsg", to="5491155550001")
            producer.enqueue("job_3", channel="ultramsg", to="5491155550001")
            assert call(producer.queue.cancel("job_3", notify=True)) == "cancelled"
            db.set("video:job:lost", json.dumps({"jobId": "lost", "conversationId": "c", "startTime": 1}), ex=600)
            sweeper = Bench(kind, worker_url, "video", call, db)
            recover(sweeper)
            db.lpush("video:poll:queue", "no-record")
            db.set("video:job:odd", "no JSON", ex=600)
            db.lpush("video:poll:queue", "odd")
            assert call(producer.queue.wait("job_1", timeout_s=20)) is not None
            assert call(producer.queue.tool_calls.claim("video:tool:1", 60)) if kind == "sync" else True
            until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered", 20)
            until(lambda: len(worker.recorder.of(events.JobDeadLettered)) >= 3, "the others are dead letters", 20)
            until(lambda: db.xlen("video:poll:history"), "its story is kept")
            until(lambda: db.zcard("video:poll:workers"), "it is listed")
            call(producer.queue.poll_now("job_1"))
            for queue in (*producer.queues, *sweeper.queues):
                call(queue.close())
    assert refusals(db) == []


def test_an_operator_needs_no_more_than_is_printed(kind, call, db, server):
    url = user_of(db, server, Role.OPERATOR)
    for state in JobState:
        free = Bench(kind, server.url, "video", call, db)
        bring(free, state)
        operator = Bench(kind, url, "video", call, db)
        queue = operator.queue
        call(queue.list_jobs(states=[one for one in JobState if one is not JobState.ORPHANED]))
        call(queue.history())
        call(queue.workers())
        call(queue.counts())
        call(queue.poll_now("job_1"))
        call(queue.dead_letters.list())
        call(queue.dead_letters.get("job_1"))
        with contextlib.suppress(InvalidJobError):
            call(queue.dead_letters.redrive("job_1"))
        call(queue.dead_letters.dismiss("job_1"))
        call(queue.drain(timeout_s=0))
        call(queue.hand_back())
        call(queue.cancel("job_1", notify=True))
        for one in (*operator.queues, *free.queues):
            call(one.close())
        db.flushall()
    assert not [one for one in check_redis(url, "video") if "may not" in one.found or "cannot be checked" in one.found]
    assert "may not" not in CliRunner().invoke(build_app(), ["status", "--redis-url", url]).output
    assert refusals(db) == []


def test_what_is_printed_is_needed():
    """A right that nothing uses is one too many: what stands in no script is told here, and nothing else."""
    in_scripts = set().union(
        *(
            re.findall(r"'([A-Z]+)'", path.read_text(encoding="utf-8"))
            for path in (resources.files("videopoll.queue") / "lua").iterdir()
        )
    )
    beside = {one.upper() for one in commands_of(Role.ALL)} - in_scripts
    assert beside == {
        *("EVAL", "EVALSHA", "SELECT", "CLUSTER|SLOTS", "SUBSCRIBE", "UNSUBSCRIBE", "PING", "BLMOVE", "SCAN"),
        *("ZREVRANGE", "XREVRANGE", "INFO", "CONFIG|GET"),
    }


def test_a_user_reaches_no_other_prefix_and_no_other_channel(kind, call, db, server):
    url = user_of(db, server, Role.ALL, "{video}")
    bench = Bench(kind, url, "{video}", call, db)
    assert bench.enqueue() == "created"
    with pytest.raises(QueueRefusedError, match="videopoll acl prints"):
        call(bench.another(prefix="other").enqueue("a", conversation_id="c"))
    with redis.Redis.from_url(url) as client:
        for words in (
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("CONFIG", "SET", "save", ""),
            ("GET", "other"),
            ("SUBSCRIBE", "x"),
        ):
            with pytest.raises(redis.ResponseError, match=r"permission|can't access"):
                client.execute_command(*words)
    for queue in bench.queues:
        call(queue.close())


def test_rules_are_for_the_keys_of_the_prefix():
    rules = acl_rules(Role.PRODUCER, Keys("{shop}"))

    assert rules[:5] == ("resetkeys", "~{shop}:*", "resetchannels", "&{shop}:poll:outbox:*", "-@all")
    assert "+scan" not in rules
    assert "+config|get" not in rules


def test_the_line_and_its_json_say_the_same():
    line = CliRunner().invoke(build_app(), ["acl", "--for", "worker"]).stdout
    found = json.loads(CliRunner().invoke(build_app(), ["acl", "--for", "worker", "--json"]).stdout)

    assert line == f"ACL SETUSER {found['user']} reset on >PASSWORD {' '.join(found['rules'])}\n"
