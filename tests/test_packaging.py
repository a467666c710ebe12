"""The wheel has all it needs, and asks for no more than it says."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(out / "unpacked")
    return out / "unpacked"


@pytest.fixture(scope="module")
def metadata(wheel):
    (path,) = wheel.glob("videopoll-*.dist-info/METADATA")
    return email.message_from_string(path.read_text(encoding="utf-8"))


def in_wheel(wheel, code):
    env = {**os.environ, "PYTHONPATH": str(wheel), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    source = ROOT / "src" / "videopoll"
    wanted = {path.relative_to(source) for kind in ("*.py", "*.lua", "py.typed") for path in source.rglob(kind)}
    found = {path.relative_to(wheel / "videopoll") for path in (wheel / "videopoll").rglob("*") if path.is_file()}

    assert Path("py.typed") in wanted
    assert any(path.suffix == ".lua" for path in wanted)
    assert found == wanted


def test_the_source_archive_has_all_that_a_clone_has(tmp_path):
    """But what only CI and commits want: PyPI's page says that it has the documentation, the examples and the tests."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}

    wanted = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md", "noxfile.py", "pyproject.toml"]
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        wanted += [
            str(path.relative_to(ROOT)) for path in files if path.suffix in {".py", ".md", ".lua", ".yml", ".typed"}
        ]
    assert not [name for name in wanted if name not in found]


def test_the_core_depends_on_four_packages(metadata):
    core = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]

    assert {re.split(r"[<>=~! ;\[]", line)[0] for line in core} == {"attrs", "httpx", "redis", "typing-extensions"}
    assert len(core) == 4


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/embed.md", "CHANGELOG.md"])
def test_the_pages_name_the_oldest_versions_of_these(page):
    """`nox -s lowest` tests with them."""
    bounds = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["dependencies"])
    attrs, httpx, redis, typing_extensions = (bounds[name] for name in sorted(bounds))
    sentence = (
        f"It needs attrs {attrs}, httpx {httpx}, redis-py {redis} and typing-extensions {typing_extensions}, or newer"
    )

    assert sentence in (ROOT / page).read_text(encoding="utf-8")


def test_the_extras_are_those_that_are_documented(metadata):
    extras = {"all", "apprise", "callbacks", "cli", "embedded", "fast", "otel", "prometheus", "testing"}

    assert set(metadata.get_all("Provides-Extra")) == extras
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(everything.removeprefix("videopoll[").removesuffix("]").split(",")) == extras - {"all"}


def test_the_page_on_pypi_has_no_link_into_a_repository_that_is_not_there(metadata):
    """There are no files beside it, and nobody who reads it has a clone."""
    page = metadata.get_payload()

    links = re.findall(r"\]\(([^)]*)\)", page)
    assert not [link for link in links if not link.startswith("https://")]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "pip install -q 'videopoll[cli,embedded]' && .venv/bin/videopoll demo" in page
    assert "clone" not in page
    assert "[Evolution API, Twilio]" not in page
    assert "Evolution API, Twilio" in page


def test_it_says_where_it_is_from(metadata):
    named = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL"))

    assert {"Homepage", "Source"} <= named.keys()
    assert all(url.startswith("https://") for url in named.values())


def test_the_newest_of_the_changes_are_those_of_this_version():
    """Or none yet: what is not released stands under its own heading."""
    headings = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [(name, rest) for name, rest in headings if name != "Unreleased"]

    assert headings.index(released[0]) <= 1
    assert released[0][0] == PROJECT["version"]
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", rest) for _, rest in released)


def test_the_license_travels_with_it(metadata, wheel):
    assert metadata["License-Expression"] == "MIT"
    assert list(wheel.glob("videopoll-*.dist-info/licenses/LICENSE"))


def test_the_package_knows_its_version(wheel):
    assert in_wheel(wheel, "import videopoll; print(videopoll.__version__)") == PROJECT["version"]


def test_every_public_name_can_be_imported(wheel):
    code = "import videopoll; print(all(hasattr(videopoll, name) for name in videopoll.__all__))"

    assert in_wheel(wheel, code) == "True"


def test_the_command_line_is_an_extra(wheel):
    """Importing the library must not import what only an extra brings. (httpx itself looks for rich.)"""
    code = "import sys, videopoll, videopoll.testing; print(sorted({'typer', 'apprise', 'fakeredis'} & sys.modules.keys()))"

    assert in_wheel(wheel, code) == "[]"
