"""Every program of examples/ and every block of Python in the README runs, and does what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit import until
from videopoll.queue.schema import KEYS
from videopoll.testing import EmbeddedRedis, FakeProviders, FakeUltraMsg, FakeVideoApi, FakeWhatsAppFactory

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

COMPOSE, ENQUEUE, START, SYNC, ASYNC, PUBLIC = range(6)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_the_user_receives_the_video(path, require_server):
    require_server("valkey")
    for library in re.findall(r"^(?:from|import) (openai|agents)\b", path.read_text(), re.MULTILINE):
        pytest.importorskip(library)

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr, done.stderr
    assert "🎥 ¡Tu video está listo! Se generó en " in done.stdout
    assert "http" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("worker", [SYNC, ASYNC], ids=["sync", "async"])
def test_the_code_in_the_readme_delivers_a_video(worker, require_server):
    """A producer and a worker, exactly as they stand there, with the default strategy."""
    require_server("valkey")
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    program = "\n".join((blocks[COMPOSE], blocks[ENQUEUE], blocks[worker]))
    with (
        EmbeddedRedis() as server,
        FakeVideoApi(api_key="key", ready_after_polls=0) as api,
        FakeUltraMsg(token="token") as ultramsg,
        FakeWhatsAppFactory() as factory,
    ):
        env = os.environ | {
            "REDIS_URL": server.url,
            "VIDEO_API_URL": api.url,
            "VIDEO_API_KEY": "key",
            "ULTRAMSG_URL": ultramsg.url,
            "WHATSAPP_FACTORY_URL": factory.url,
            "AGENT_TOKEN": "token",
        }
        process = subprocess.Popen([sys.executable, "-c", program], env=env)
        try:
            (message,) = until(lambda: ultramsg.inbox("5491155550001"), "the video arrives", 30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()

    assert message.kind == "video"
    assert len(ultramsg.messages) == 1


@pytest.mark.slow
def test_the_code_in_the_readme_starts_and_delivers_videos_of_two_public_apis(require_server):
    """By the tool, under the strategies of their descriptions."""
    require_server("valkey")
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    program = "\n".join((blocks[COMPOSE], "from videopoll import RedisVideoJobQueue, Runner", blocks[PUBLIC]))
    with (
        EmbeddedRedis() as server,
        FakeProviders(api_key="key", public_links=True) as providers,
        FakeUltraMsg(token="token") as ultramsg,
    ):
        env = os.environ | {
            "REDIS_URL": server.url,
            "VIDEO_API_URL": providers.url,
            "VIDEO_API_KEY": "key",
            "FAL_URL": providers.base_url("fal"),
            "FAL_KEY": "key",
            "VIDEOS_URL": providers.base_url("videos"),
            "VIDEOS_API_KEY": "key",
            "ULTRAMSG_URL": ultramsg.url,
            "WHATSAPP_FACTORY_URL": ultramsg.url,
            "AGENT_TOKEN": "token",
        }
        process = subprocess.Popen([sys.executable, "-c", program], env=env)
        try:
            until(lambda: len(ultramsg.inbox("5491155550001")) == 2, "both videos arrive", 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()

    assert [one.kind for one in ultramsg.messages] == ["video", "video"]
    assert {one.job_id.partition(":")[0] for one in providers.generated} == {"fal", "videos"}


def test_the_readme_has_the_two_commands():
    """CI runs the block after the second marker."""
    commands = re.findall(r"^<!-- command: (\w+) -->\n```bash\n.+\n```$", README, re.MULTILINE)

    assert commands == ["demo", "tests"]


def test_the_readme_names_every_key():
    for record in KEYS:
        key = record.pattern.replace("{prefix}", "video")
        assert f"| `{key}` | {record.type} |" in README


def test_the_readme_links_to_files_that_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
