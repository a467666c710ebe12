"""Earlier versions of our own, from the history of this repository: their workers and producers, each a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from kit import API_KEY, INSTANCE, TOKEN, until

if TYPE_CHECKING:
    from kit import World

ROOT = Path(__file__).parents[2]
PACE = {"INTERVAL": "0.3", "INITIAL_DELAY": "0.1", "LEASE": "1.5", "RECOVER": "true"}

_PRODUCE = """
import sys, time, videopoll as v
url, prefix, pause_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
with v.RedisVideoJobQueue.from_url(url, prefix=prefix) as queue:
    for word in sys.argv[4:]:
        job, _, to = word.partition("=")
        while True:
            try:
                metadata = {"channel": "ultramsg", "to": to}
                print(queue.enqueue(job, conversation_id="c", metadata=metadata).value, flush=True)
                break
            except v.QueueUnavailableError:
                time.sleep(0.1)
        time.sleep(pause_s)
"""


@attrs.frozen
class Earlier:
    """The code of an earlier version.

    Args:
        source: The folder of its package.
    """

    source: Path

    @classmethod
    def of(cls, commit: str, folder: Path) -> Earlier:
        """Unpack the code of a commit; the test is skipped where there is no history."""
        git = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "src"]
        made = subprocess.run(git, capture_output=True, check=False)
        if made.returncode:
            pytest.skip("needs the history of the repository")
        subprocess.run(["tar", "-x", "-C", str(folder)], input=made.stdout, check=True)
        return cls(folder / "src")

    def worker(self, world: World, log: Path, runner: str = "async") -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it is one."""
        settings = {
            **PACE,
            "RUNNER": runner,
            "REDIS_URL": world.url,
            "PREFIX": world.prefix,
            "API_URL": world.api.url,
            "API_KEY": API_KEY,
            "ULTRAMSG_URL": world.ultramsg.url,
            "ULTRAMSG_INSTANCE": INSTANCE,
            "ULTRAMSG_TOKEN": TOKEN,
        }
        variables = {f"VIDEOPOLL_{name}": value for name, value in settings.items()}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "videopoll", "worker"], env=self._env | variables, stderr=file, cwd=log.parent
            )
        until(
            lambda: b"Starting video polling worker" in log.read_bytes() or process.poll() is not None, "it starts", 60
        )
        assert process.poll() is None, log.read_text(encoding="utf-8")
        return process

    def producer(self, world: World, users: dict[str, str], pause_s: float = 0.0) -> subprocess.Popen[str]:
        """Start to take jobs in, by their ids, each for a user; it prints what is said of each."""
        words = [f"{job_id}={to}" for job_id, to in users.items()]
        command = [sys.executable, "-c", _PRODUCE, world.url, world.prefix, str(pause_s), *words]
        return subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, text=True)

    def enqueued(self, world: World, users: dict[str, str]) -> list[str]:
        """Take jobs in; return what is said of each."""
        process = self.producer(world, users)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return said.split()

    @property
    def _env(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.source)}
