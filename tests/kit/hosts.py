"""Programs of hosts, each run for real in a process of its own, among fakes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from kit import API_KEY, INSTANCE, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kit import World

LONG_S = 40.0
"""Seconds that a program may take to begin, or to end."""


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip a test where one of these is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed: nox -s hosts")


def environment(world: World, broker: str, home: Path) -> dict[str, str]:
    """Return the environment in which a program of a host finds the fakes."""
    return os.environ | {
        "REDIS_URL": world.url,
        "BROKER_URL": broker,
        "PREFIX": world.prefix,
        "VIDEO_API_URL": world.api.url,
        "VIDEO_API_KEY": API_KEY,
        "ULTRAMSG_URL": world.ultramsg.url,
        "ULTRAMSG_INSTANCE": INSTANCE,
        "ULTRAMSG_TOKEN": TOKEN,
        "HOME": str(home),
        "PYTHONUNBUFFERED": "1",
    }


class Program(subprocess.Popen[str]):
    """A program that runs, and leads a group of processes; what all of them write goes to a file.

    Args:
        arguments: What Python is given.
        log: Where it writes.
        env: Its environment.
        at: The folder that it runs in.
    """

    def __init__(self, arguments: tuple[str, ...], log: Path, env: Mapping[str, str], at: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            super().__init__(
                [sys.executable, *arguments],
                cwd=at,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def told(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """End whatever is left of it."""
        if self.stdin is not None:
            self.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)


@contextmanager
def running(*arguments: str, log: Path, env: Mapping[str, str], at: Path, stops: bool = True) -> Iterator[Program]:
    """Run a program, tell it to stop unless ``stops=False``, and wait for its end: nothing went wrong in it."""
    process = Program(arguments, log, env, at)
    try:
        yield process
        if stops:
            process.send_signal(signal.SIGTERM)
        process.wait(LONG_S)
    except BaseException:
        print(process.told())
        raise
    finally:
        process.end()
    assert "Traceback" not in process.told(), process.told()
