"""Every program of examples/hosts runs for real: an order goes in, a video comes out, and nothing is left behind.

One that needs a library that is not installed is skipped. `nox -s hosts` has them all.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from kit import phone, until
from kit.hosts import LONG_S, environment, needs, running
from kit.tls import Authority
from videopoll import RedisVideoJobQueue
from videopoll.jobs import JobState
from videopoll.testing import EmbeddedRedis, Reply, unused_port

HOSTS = Path(__file__).parents[1] / "examples" / "hosts"
NO_PROGRAM = {"stand_ins.py"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def kind():
    """The twin that a host uses is its own matter."""
    return "sync"


@pytest.fixture
def host(world, broker, tmp_path):
    """``with host("cron.py") as process`` runs a program of examples/hosts, as its first lines say, until its end."""
    world.api.job("job_1", Reply.completed())
    env = environment(world, broker, tmp_path) | {"APP_SECRET": "of-the-test", "PYTHONPATH": str(HOSTS)}

    def run(*arguments, at=HOSTS, stops=True, **settings):
        told = "-W", "error::ResourceWarning", *arguments
        return running(*told, log=tmp_path / "log", env=env | settings, at=at, stops=stops)

    return run


def ask(url, **form):
    """Ask a web server: a POST with a form, or a GET."""
    body = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, body, timeout=30) as response:
        return json.load(response)


def refused(url, **form):
    """Ask, and return the status of the refusal."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(url, **form)
    # It holds the answer, and with it a connection.
    with raised.value as error:
        return error.code


def ask_when_up(url, **form):
    def answer():
        try:
            return ask(url, **form)
        except urllib.error.HTTPError:
            raise
        except OSError:
            return None

    return until(answer, "it answers", LONG_S)


def delivered_once(world, user=1):
    """Whether a user has got the video: one message."""
    until(lambda: world.ultramsg.inbox(phone(user)), "the video arrives", LONG_S)
    return [message.kind for message in world.ultramsg.inbox(phone(user))] == ["video"]


# --- web ---


@needs("fastapi", "uvicorn")
def test_a_page_hears_of_its_video_whichever_process_answers(world, host):
    port = unused_port()
    start = ("-m", "uvicorn", "--workers", "2", "--port", str(port), "fastapi_app:app", "--log-level", "warning")
    with host(*start):
        url = f"http://127.0.0.1:{port}"

        def order():
            body = json.dumps({"prompt": "a fox"}).encode()
            request = urllib.request.Request(f"{url}/videos", body, {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError:
                raise
            except OSError:
                return None

        events = until(order, "it answers", LONG_S)["events"]
        with urllib.request.urlopen(f"{url}/", timeout=10) as page:
            assert b"EventSource" in page.read()
        with urllib.request.urlopen(url + events, timeout=LONG_S) as stream:
            lines = [line.decode().strip() for line in stream]
        assert refused(url + events.replace("ticket=", "ticket=0")) == 404

    assert "event: outcome" in lines
    (told,) = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert told["outcome"] == "completed"
    assert told["video"].startswith("http")


@needs("flask")
def test_flask_takes_orders_and_a_command_of_it_works(world, host):
    port = unused_port()
    flask = ("-m", "flask", "--app", "flask_app")
    with host(*flask, "work"), host(*flask, "run", "--port", str(port)):
        videos = f"http://127.0.0.1:{port}/videos"
        assert ask_when_up(videos, job="job_1", to=phone(1)) == {"result": "created"}
        assert refused(videos, job="a job", to=phone(1)) == 400
        assert refused(f"{videos}/job_2") == 404

        assert delivered_once(world)
        until(lambda: ask(f"{videos}/job_1") == {"state": "settled", "outcome": "completed"}, "it is settled")


@needs("django")
def test_django_takes_orders_and_a_management_command_works(world, host):
    port, at = unused_port(), HOSTS / "django_project"
    serve = ("manage.py", "runserver", "--noreload", str(port))
    with host("manage.py", "video_worker", "--concurrency", "2", at=at), host(*serve, at=at):
        videos = f"http://127.0.0.1:{port}/videos"
        assert ask_when_up(f"{videos}/", job="job_1", to=phone(1)) == {"result": "created"}
        assert refused(f"{videos}/", job="a job", to=phone(1)) == 400

        assert delivered_once(world)
        until(lambda: ask(f"{videos}/job_1/") == {"state": "settled", "outcome": "completed"}, "it is settled")


# --- task queues ---


@needs("celery")
@pytest.mark.parametrize("app", ["celery_app", "celery_beat"])
def test_celery_orders_a_video_and_delivers_it(world, host, app, tmp_path):
    beat = ("--beat", "--schedule", str(tmp_path / "schedule")) if app == "celery_beat" else ()
    with host("-m", "celery", "-A", app, "worker", "--concurrency", "2", "--loglevel", "WARNING", *beat):
        order = f"import {app}; {app}.order_video.delay('job_1', '{phone(1)}')"
        with host("-c", order, stops=False) as caller:
            assert caller.wait(LONG_S) == 0
        assert delivered_once(world)


@needs("rq")
def test_rq_orders_a_video_and_comes_back_until_it_is_delivered(world, host, broker):
    with host("rq_app.py", "job_1", phone(1), stops=False) as caller:
        assert caller.wait(LONG_S) == 0
    with host("-m", "rq.cli", "worker", "--url", broker, "--with-scheduler"):
        assert delivered_once(world)


@needs("arq")
def test_arq_orders_a_video_and_a_worker_of_ours_delivers_it(world, host):
    with host("-m", "arq", "arq_app.WorkerSettings"):
        with host("arq_app.py", "job_1", phone(1), stops=False) as caller:
            assert caller.wait(LONG_S) == 0
        assert delivered_once(world)


# --- programs of one's own ---


def test_a_service_reads_orders_while_its_worker_delivers(world, host):
    with host("plain_thread.py", stops=False) as process:
        process.stdin.write(f"job_1 {phone(1)}\n")
        process.stdin.close()
        assert process.wait(LONG_S) == 0
        told = process.told()

    assert delivered_once(world)
    assert "job_1: created" in told
    assert "all are done" in told


def test_cron_does_what_is_due_and_ends(world, host):
    world.enqueue_ready()

    def delivered():
        with host("cron.py", stops=False) as process:
            assert process.wait(LONG_S) == 0
        return world.ultramsg.messages

    until(delivered, "the video arrives", LONG_S)
    assert delivered_once(world)


def test_functions_order_and_work_one_call_at_a_time(world, host):
    program = f"""
import functions, time
print(functions.order({{"job": "job_1", "phone": "{phone(1)}"}}, None))
while not functions.work({{}}, None)["delivered"]:
    time.sleep(1)
"""
    with host("-W", "ignore::ResourceWarning", "-c", program, stops=False) as process:
        assert process.wait(LONG_S) == 0
        assert "{'statusCode': 202, 'body': 'created'}" in process.told()

    assert delivered_once(world)


def test_brands_have_keys_and_texts_of_their_own(world, host):
    with host("brands.py", "work"):
        for user, brand in enumerate(["acme", "globex"], 1):
            world.api.job(f"job_{user}", Reply.completed())
            with host("brands.py", "order", brand, f"job_{user}", phone(user), stops=False) as caller:
                assert caller.wait(LONG_S) == 0
        assert delivered_once(world, 1)
        assert delivered_once(world, 2)

    assert [world.ultramsg.inbox(phone(user))[0].text for user in (1, 2)] == [
        "🎬 Acme has made your video!",
        "🎬 Your Globex video is here!",
    ]
    for brand, job_id in (("acme", "job_1"), ("globex", "job_2")):
        with RedisVideoJobQueue.from_url(world.url, prefix=f"{world.prefix}-{brand}") as queue:
            assert [job.job_id for job in queue.list_jobs(states=[JobState.SETTLED]).jobs] == [job_id]


# --- a client of one's own ---

needs_redis_server = pytest.mark.skipif(not EmbeddedRedis.available("redis"), reason="there is no redis-server")


@contextmanager
def server(folder, *arguments):
    """Run a redis-server of the machine, in a folder of its own, until the block ends."""
    folder.mkdir()
    process = subprocess.Popen(["redis-server", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


@needs_redis_server
def test_a_client_of_ones_own_brings_tls_with_a_private_ca_and_a_user(world, host, tmp_path):
    port, authority = unused_port(), Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = (
        "--port",
        "0",
        "--tls-port",
        str(port),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        str(authority.ca),
    )
    own = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    user = ("--user", "videopoll", "on", ">pw", f"~{world.prefix}:*", f"&{world.prefix}:*", "+@all", "-@dangerous")
    settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_USER": "videopoll", "REDIS_PASSWORD": "pw"}
    with server(tmp_path / "server", *tls, *own, *user):
        with redis.Redis("127.0.0.1", port, ssl=True, ssl_ca_certs=str(authority.ca)) as client:
            until(lambda: answers(client), "the server answers")
        with host("own_client.py", "job_1", phone(1), stops=False, REDIS_CA=str(authority.ca), **settings) as process:
            assert process.wait(LONG_S) == 0
            assert process.told().splitlines()[-2:] == ["created", "completed"]

    assert delivered_once(world)


@needs_redis_server
def test_a_client_of_ones_own_finds_the_master_by_sentinels(world, host, tmp_path):
    port, sentinel_port = unused_port(), unused_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {sentinel_port}\nsentinel monitor mymaster 127.0.0.1 {port} 1\n")
    with (
        server(tmp_path / "master", "--port", str(port)),
        server(tmp_path / "sentinel", str(config), "--sentinel"),
    ):
        with redis.Redis(port=sentinel_port) as client:
            until(lambda: answers(client), "the sentinel answers")
        sentinels = f"127.0.0.1:{sentinel_port}"
        with host("own_client.py", "job_1", phone(1), stops=False, REDIS_SENTINELS=sentinels) as process:
            assert process.wait(LONG_S) == 0
            assert process.told().splitlines()[-2:] == ["created", "completed"]

    assert delivered_once(world)


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


# --- all of them ---


def test_every_program_of_the_folder_has_a_test_and_a_line_in_its_table():
    tests = Path(__file__).read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[([a-z_.]+)\]", (HOSTS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    programs = {path.name for path in HOSTS.iterdir() if path.name not in NO_PROGRAM | {"README.md", "__pycache__"}}

    assert sorted(listed) == sorted(programs)
    for name in programs:
        assert name.removesuffix(".py") in tests, name


def test_every_program_is_shorter_than_a_hundred_lines():
    for path in HOSTS.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 100, path
