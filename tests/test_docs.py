"""What the docs say is true: their Python runs, its output is what stands below it, and their command lines parse.

The blocks of a page run one after the other in one process of their own. What a
page needs from outside it takes from the environment, as a reader would: the
names are those of the README, whose code is run in `test_examples`.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import attrs
import pytest

from videopoll import OutcomeKind, events
from videopoll.jobs import MessageForm
from videopoll.observations import FaultKind
from videopoll.observe.log import LogHook
from videopoll.testing import EmbeddedRedis, FakeUltraMsg, FakeVideoApi, FakeWhatsAppFactory, unused_port

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md"]

FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>[\w-]+) -->\n)?"
    r"(?P<indent> *)```(?P<language>\w*)(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)

# Runs a page in one namespace. A worker that runs until a signal comes gets one when it has started.
PROGRAM = """
import json, logging, os, re, signal, sys
class Stop(logging.Handler):
    def emit(self, record):
        if getattr(record, "vp_event", "") == "WorkerStarted" and re.search(r"handle_signals=True|^serve\\(", code, re.M):
            os.kill(os.getpid(), signal.SIGTERM)
logging.getLogger("videopoll.jobs").addHandler(Stop())
logging.getLogger("videopoll.jobs").setLevel(logging.INFO)
page, blocks = json.load(sys.stdin)
names = {"__name__": "__main__"}
for line, code in blocks:
    exec(compile("\\n" * line + code, page, "exec"), names)
    print(f"\\0{line}", flush=True)
"""


@attrs.frozen
class Block:
    """One fenced block: where it stands, what it is, and what has to be installed for it."""

    line: int
    language: str
    title: str
    body: str
    needs: str | None


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            text.count("\n", 0, found.start("body")),
            found["language"],
            found["title"].strip(),
            textwrap.dedent(found["body"]),
            found["needs"],
        )
        for found in FENCE.finditer(text)
    ]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_there(distribution: str | None) -> bool:
    try:
        return distribution is None or bool(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_fence_is_one_that_these_tests_see(path):
    """A fence that is not closed, or written in another way, would hide its block from the tests below."""
    text = path.read_text(encoding="utf-8")
    marks = re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)

    assert len(marks) == 2 * len(blocks_of(path))
    assert {block.language for block in blocks_of(path)} <= {"python", "text", "bash", "ini", "yaml", "dockerfile"}


@pytest.mark.parametrize(
    "path", [path for path in PAGES if any(block.language == "python" for block in blocks_of(path))], ids=name_of
)
def test_the_python_of_a_page_runs_and_prints_what_stands_below(path, require_server, tmp_path):
    require_server("valkey")
    blocks = blocks_of(path)
    code = [block for block in blocks if block.language == "python" and is_there(block.needs)]
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
            "FAL_KEY": "key",
            "ULTRAMSG_URL": ultramsg.url,
            "WHATSAPP_FACTORY_URL": factory.url,
            "AGENT_TOKEN": "token",
            "WHATSAPP_APP_SECRET": "app-secret",
            "WHATSAPP_VERIFY_TOKEN": "made-up",
            "HEALTH_PORT": str(unused_port()),
            "PYTHONUTF8": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            input=json.dumps([name_of(path), [(block.line, block.body) for block in code]]),
            capture_output=True,
            encoding="utf-8",
            env=env,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr, done.stderr
    printed = {int(line): text for text, line in re.findall(r"(.*?)\0(\d+)\n", done.stdout, re.DOTALL)}
    for block, below in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language == "python" and below is not None and below.title == 'title="Output"' and block in code:
            # Three dots stand for what is different each time.
            wanted = ".+".join(map(re.escape, below.body.strip().split("…")))
            assert re.fullmatch(wanted, printed[block.line].strip()), (
                f"{path.name}:{block.line}: {printed[block.line]!r}"
            )


def command_lines(path: Path) -> list[list[str]]:
    """Give each call of videopoll that a reader may copy: in shells, units, images and manifests."""
    found: list[list[str]] = []
    for block in blocks_of(path):
        if block.language in {"text", "python"}:
            continue
        found += [json.loads(array)[1:] for array in re.findall(r"\[\s*\"videopoll\"[^\]]*\]", block.body)]
        for line in block.body.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\||;", line):
                command = re.match(r"\s*(?:ExecStart=)?(?:[\w./]*/)?videopoll\s+(?!\S*\.)(.*)", part)
                if command:
                    found.append([word for word in shlex.split(command[1], comments=True) if word != "&"])
    return found


def test_every_command_line_of_the_docs_parses():
    """Options and arguments are those of the real command line."""
    typer = pytest.importorskip("typer", reason="needs the extra cli")
    from videopoll.cli.app import build_app

    def parse(command, words, name="videopoll"):
        context = command.make_context(name, list(words))
        if not getattr(command, "commands", None):
            return
        below = command.resolve_command(context, [*getattr(context, "_protected_args", ()), *context.args])
        parse(below[1], below[2], below[0])

    lines = {(name_of(path), tuple(words)) for path in TEXTS for words in command_lines(path)}
    assert len(lines) >= 20, "the docs have more command lines than were found"
    for where, words in sorted(lines):
        try:
            parse(typer.main.get_command(build_app()), words)
        except Exception as error:  # noqa: BLE001 - typer's own classes move between its versions
            pytest.fail(f"{where}: videopoll {shlex.join(words)}: {error}")


def test_every_variable_of_the_docs_is_read():
    """A name with a typing mistake would be ignored in silence."""
    typer = pytest.importorskip("typer", reason="needs the extra cli")
    from videopoll.cli import options
    from videopoll.cli.app import build_app
    from videopoll.cli.providers import url_variable
    from videopoll.cli.shipped import SHIPPED
    from videopoll.video_api.apis import ALL

    commands = [typer.main.get_command(build_app())]
    read = {options.API_KEY, options.ULTRAMSG_TOKEN, options.WHATSAPP_FACTORY_TOKEN}
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        read |= {str(parameter.envvar) for parameter in command.params}
    read |= {url_variable(api) for api in ALL.values()}
    read |= {variable for shipped in SHIPPED.values() for variable in shipped.variables}
    for path in TEXTS:
        told = set(re.findall(r"\bVIDEOPOLL_[A-Z_]+\b", path.read_text(encoding="utf-8")))
        assert told <= read, name_of(path)


def test_the_troubleshooting_names_the_commands_of_the_specification():
    text = (ROOT / "docs" / "how-to" / "troubleshoot.md").read_text(encoding="utf-8")
    for command in (
        "redis-cli LLEN video:poll:queue",
        'redis-cli KEYS "video:job:*"',
        'redis-cli KEYS "video:lock:*"',
        'redis-cli KEYS "video:completed:*"',
        "https://video.api-ai-mvp.com/health",
        "https://video.api-ai-mvp.com/job/JOB_ID",
    ):
        assert command in text
    for heading in ("Videos not delivered", "Worker not processing", "API polling failures"):
        assert f"## {heading}" in text


def poll(**fields):
    return events.JobPolled(job_id="job_17", attempt=1, elapsed_s=7, lag_s=0, took_s=1, next_s=5, **fields)


def end(outcome, error):
    return events.JobConcluded(
        job_id="job_17", conversation_id="c_42", outcome=OutcomeKind(outcome), elapsed_s=300, attempts=30, error=error
    )


def send(result):
    return events.SendTried(
        job_id="job_17", conversation_id="c_42", form=MessageForm.VIDEO, attempt=1, result=result, took_s=1
    )


LOGGED = (
    events.WorkerStarted(worker_id="w"),
    events.WorkerStopped(worker_id="w", given_back=2),
    events.JobsRecovered(count=3),
    events.RedisLost(reason="connection"),
    events.AccountHeldBack(account="fal:3f9a1c0b77d2e845", pause_s=20),
    events.AccountHeldBack(account="fal:3f9a1c0b77d2e845", pause_s=20, learnt=True),
    events.JobClaimed(job_id="job_17", taken_over=True),
    events.LeaseLost(job_id="job_17"),
    events.JobDeadLettered(job_id="job_17", reason="record is not JSON"),
    events.JobDelivered(
        job_id="job_17",
        conversation_id="c_42",
        outcome=OutcomeKind.COMPLETED,
        form=MessageForm.VIDEO,
        attempts=1,
        after_s=1,
    ),
    poll(status="dancing", known=False),
    poll(status="credentials", fault=FaultKind.CREDENTIALS, detail="HTTP 401"),
    poll(status="blocked", fault=FaultKind.BLOCKED, detail="HTTP 403"),
    poll(status="server", fault=FaultKind.SERVER, detail="HTTP 503"),
    poll(status="throttled", fault=FaultKind.THROTTLED, detail="HTTP 429: too many requests"),
    poll(status="connection", fault=FaultKind.CONNECTION, detail="connection: ConnectError"),
    end("not_found", "Job not found on video API"),
    end("timed_out", "Video generation timeout: Process exceeded 5 minutes"),
    end("attempts_exhausted", "Max polling attempts exceeded"),
    end("failed", "in words of others, which videopoll explain shows"),
    end("failed", "the job names the video API kling; this worker has fal"),
    end("failed", "the video was made, but its video URL cannot be delivered: it has credentials in it"),
    *map(send, ("failed", "unknown", "waits")),
)
"""What is told in the lines that pages quote."""


def test_every_line_of_the_log_that_the_docs_quote_is_written(caplog):
    """A quoted line begins with its sign; three dots stand for what is different each time."""
    hook = LogHook()
    with caplog.at_level(logging.DEBUG, logger="videopoll.jobs"):
        for event in LOGGED:
            hook(event)
    written = [record.getMessage() for record in caplog.records]
    quoted = [
        (name_of(path), line)
        for path in TEXTS
        for line in re.findall(r"`([^\x00-\u1fff…][^`\n]*)`", path.read_text(encoding="utf-8"))
    ]

    assert len(quoted) > 20
    for page, line in quoted:
        wanted = ".+".join(map(re.escape, line.replace("… ", "…").replace(" …", "…").split("…")))
        assert any(re.match(wanted, one) for one in written), f"{page}: {line}"


def test_the_table_of_extras_has_each_of_them():
    text = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \|", text.partition("## Extras")[2].partition("\n## ")[0], re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert sorted(told) == sorted(project["optional-dependencies"])


def test_the_pythons_of_the_docs_are_those_of_the_classifiers():
    text = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"^Programming Language :: Python :: 3\.(\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)

    assert f"Python 3.{min(map(int, named))} to 3.{max(map(int, named))}" in text


def test_the_docs_name_no_key_that_is_not_there():
    """`video:…` in a page is a key of the schema."""
    from videopoll.queue.schema import KEYS

    known = {re.sub(r"\{\w+\}$", "", record.pattern.replace("{prefix}", "video")) for record in KEYS}
    for path in TEXTS:
        for key in re.findall(r"\bvideo:(?:[a-z]+:?)+", path.read_text(encoding="utf-8")):
            assert key in known or any(one.startswith(key) for one in known), f"{name_of(path)}: {key}"
