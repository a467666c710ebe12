"""A video API described as data: what to ask, which words it uses, and where in its answer the video is.

A description is a frozen value that `videopoll.video_api.HttpVideoPoller` reads.
Those of public APIs lie in `videopoll.video_api.apis`, a file each.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_choice, check_fields, check_kind, mapped
from videopoll.jobs.urls import url_problem
from videopoll.jobs.video import AssetKind
from videopoll.policies import PollingStrategy
from videopoll.video_api.operation import api_id_of, operation_of

if TYPE_CHECKING:
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob
    from videopoll.video_api.start import Start

__all__ = ["ApiDescription", "Callback", "Certainty", "Meaning", "Signing"]


class Meaning(enum.StrEnum):
    """What a status word, an HTTP status or an error code means."""

    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    MISSING = "missing"
    """The API does not know the job."""
    FAULT = "fault"
    """It says nothing of the job: the poll is made again, with a growing wait."""
    MODERATED = "moderated"
    REFUSED_INPUT = "refused_input"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    OUT_OF_CREDIT = "out_of_credit"


class Certainty(enum.StrEnum):
    """How sure the facts of a description are. No description was tried against the live API."""

    READ = "read in an official SDK, specification or page"
    SEEN = "an official page seen in part, or a maintained adapter that says it was checked live"
    HEARD = "from third parties"


class Signing(enum.StrEnum):
    """How an API signs its callbacks."""

    STANDARD_WEBHOOKS = "Standard Webhooks"
    OPENROUTER = "OpenRouter's HMAC"
    FAL = "fal's ED25519"


@attrs.frozen(kw_only=True)
class Callback:
    """How an API calls back, for `videopoll.video_api.Doorbell`.

    Args:
        signing: How it signs.
        id: Where its body names the job.
        status: Where the status word is: a callback about a job that is still worked on rings nothing.
        keys_url: Where the API publishes its keys, if it signs with keys of its own.
    """

    signing: Signing
    id: str
    status: str | None = None
    keys_url: str | None = None

    def __attrs_post_init__(self) -> None:
        check_fields(self, Signing=Signing)


_STEP = re.compile(r"(?:^|\.)([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]{1,3}|\*)\]")
_VARIABLE = re.compile(r"\{([a-z]+)(?:\.([A-Za-z_][A-Za-z0-9_-]*))?\}")

Step: TypeAlias = str | int
"""A name, a place in a list, or ``*`` for each place."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
"""It stands before a colon in the ids of jobs, and in lists, logs and variables."""

_LISTS_OF_PATHS = ("status", "video", "fails_if", "error", "code", "others", "rejected_if")
_PATHS = ("id", "ends_s", "progress", "queue_position")

EACH = "*"
MOST_FOUND = 20
"""Values that a path with ``[*]`` gives at most."""


def steps_of(path: str) -> tuple[Step, ...]:
    """Return the steps of a path such as ``output.videos[0].url`` or ``output[*]``.

    Raises:
        ValueError: It is no such path.
    """
    steps: list[Step] = []
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            msg = f"{path!r} is no path: write names with dots, and [0] or [*] for lists"
            raise ValueError(msg)
        name, place = step.groups()
        steps.append(name or (EACH if place == EACH else int(place)))
        at = step.end()
    return tuple(steps)


def find(value: JsonValue, steps: tuple[Step, ...]) -> list[JsonValue]:
    """Return what stands at a path; an empty list where nothing does."""
    one = value
    for step in steps:
        if not isinstance(one, dict) or not isinstance(step, str) or step == EACH:
            return _find_all(value, steps)
        one = one.get(step)
    return [] if one is None else [one]


def _find_all(value: JsonValue, steps: tuple[Step, ...]) -> list[JsonValue]:
    found = [value]
    for step in steps:
        deeper: list[JsonValue] = []
        for one in found[:MOST_FOUND]:
            if isinstance(one, list):
                deeper += one[:MOST_FOUND] if step == EACH else one[step : step + 1] if isinstance(step, int) else ()
            elif isinstance(one, dict) and isinstance(step, str) and step in one:
                deeper.append(one[step])
        found = deeper
    return [one for one in found[:MOST_FOUND] if one is not None]


def paths_of(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return one path, or several, as a tuple."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _words(value: Mapping[str, Meaning]) -> dict[str, Meaning]:
    known = mapped(value, "ApiDescription.words", needed=True)
    for meaning in known.values():
        check_choice("a meaning of ApiDescription.words", meaning, *Meaning)
    return {normalized(word): Meaning(meaning) for word, meaning in known.items()}


@functools.lru_cache(maxsize=1024)
def normalized(word: str) -> str:
    """Return a status word in the form in which words are compared: lower case, underscores between its parts."""
    return re.sub(r"[\s_-]+", "_", word.strip().lower())


@functools.lru_cache(maxsize=1024)
def _parts(template: str) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """Return what a template begins with, and each of its variables with its field and what comes after it."""
    first, *rest = _VARIABLE.split(template)
    return first, tuple(zip(rest[::3], rest[1::3], rest[2::3], strict=True))


def variable_part(name: str) -> str:
    """Return the name of an API as a part of the names of environment variables."""
    return re.sub(r"[^A-Z0-9]+", "_", name.upper())


T = TypeVar("T")


@attrs.frozen(kw_only=True)
class ApiDescription:
    """A video API, as data.

    A path names a place in a JSON answer: ``data.videos[0].url``; ``[*]`` is each entry
    of a list. Where several paths may be given, the first that leads somewhere counts.

    A template makes a URL: ``{base}`` is `base_url`, ``{id}`` the API's id of the job
    (``operation["id"]``, or else the job's own), ``{operation.name}`` a text of the job's ``operation`` (its metadata of that name,
    kept from the start of the generation). Ids and texts are percent-encoded. A template
    that is ``{operation.name}`` alone is a whole URL, which must have the origin of `base_url`.

    Args:
        name: What it is called, e.g. ``"replicate"``.
        base_url: Where it is; None if each host has its own.
        poll: The template of the URL that is asked.
        headers: Headers that each request has.
        auth_header: The header with the key; empty if there is no key.
        auth_prefix: What stands in it before the key.
        id: Where the answer names the job: one about another job is malformed.
        status: Where the status word is.
        words: What each of its words means, in any case. A word that is not among them
            keeps the job polling, and is counted.
        http: What an HTTP status means, where it is not the usual.
        empty_means_working: Whether a 2xx without a body says that it works on.
        video: Where the URLs of finished videos are.
        locked: The template of a link that only the key opens, if the answer has no other.
        others: Other things that were made, and where.
        lifetime_s: Seconds that a link lives, if the answer does not say when it ends.
        ends_s: Where it says when the link ends, in Unix seconds.
        refreshable: Whether asking again gives a fresh link.
        follow: The template of a second request, once a job is done, whose answer has the video.
        fails_if: A job has failed, whatever its word, if there is something here.
        rejected_if: Paths and values: a finished job with such a value was moderated.
        error: Where the reason of a failure is.
        code: Where its code is, and
        codes: what codes that begin like that mean, for failures and refused requests.
        progress: Where the progress is.
        progress_scale: What "all of it" is there.
        queue_position: Where the place in the API's queue is.
        key_variable: The environment variable that holds the key: what its makers' SDK reads,
            by default its name and ``_API_KEY``.
        start: How a generation is started; None if that is not described.
        callback: How it calls back, if it signs that in a known way.
        strategy: When to poll, as the API's makers advise.
        source: Where this was read, and
        checked: when, as a date.
        certainty: How sure it is.

    Raises:
        ConfigurationError: A path or a template cannot be read.
    """

    name: str
    base_url: str | None
    poll: str
    words: Mapping[str, Meaning] = attrs.field(converter=_words)
    video: tuple[str, ...] = attrs.field(converter=paths_of)
    source: str
    checked: str
    certainty: Certainty
    headers: Mapping[str, str] = attrs.field(factory=dict)
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "
    id: str | None = None
    status: tuple[str, ...] = attrs.field(default=("status",), converter=paths_of)
    http: Mapping[int, Meaning] = attrs.field(factory=dict)
    empty_means_working: bool = False
    locked: str | None = None
    others: Mapping[str, AssetKind] = attrs.field(factory=dict)
    lifetime_s: float | None = None
    ends_s: str | None = None
    refreshable: bool = False
    follow: str | None = None
    fails_if: tuple[str, ...] = attrs.field(default=(), converter=paths_of)
    rejected_if: Mapping[str, JsonValue] = attrs.field(factory=dict)
    error: tuple[str, ...] = attrs.field(default=("error.message", "error", "message"), converter=paths_of)
    code: tuple[str, ...] = attrs.field(default=(), converter=paths_of)
    codes: Mapping[str, Meaning] = attrs.field(factory=dict)
    progress: str | None = None
    progress_scale: float = 100.0
    queue_position: str | None = None
    key_variable: str = attrs.field(
        default=attrs.Factory(lambda api: f"{variable_part(api.name)}_API_KEY", takes_self=True)
    )
    start: Start | None = None
    callback: Callback | None = None
    strategy: PollingStrategy = attrs.field(factory=PollingStrategy)
    _steps: dict[str, tuple[Step, ...]] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        from videopoll.video_api.start import Start  # noqa: PLC0415 - it is made of what is here

        check_fields(self, Meaning=Meaning, Certainty=Certainty, AssetKind=AssetKind, Callback=Callback, Start=Start)
        check_kind("ApiDescription.strategy", self.strategy, PollingStrategy)
        named = [(name, path) for name in _LISTS_OF_PATHS for path in getattr(self, name)]
        named += [(name, getattr(self, name)) for name in _PATHS]
        if self.start is not None:
            named += [("start", path) for path in self.start.paths]
        if self.callback is not None:
            named += [("callback", self.callback.id), ("callback", self.callback.status)]
        for name, path in named:
            if path is not None:
                try:
                    self._steps[path] = steps_of(path)
                except ValueError as error:
                    msg = f"the description {self.name!r}: {name}: {error}"
                    raise ConfigurationError(msg) from None
        if not _NAME.fullmatch(self.name):
            msg = f"a description's name is letters, digits, '.', '_' and '-', at most 60: got {self.name!r}"
            raise ConfigurationError(msg)
        for name in ("poll", "follow", "locked"):
            self._check_template(name, getattr(self, name))
        if self.base_url is not None and (problem := url_problem(self.base_url)) is not None:
            msg = f"the description {self.name!r}: base_url {problem}"
            raise ConfigurationError(msg)

    def _check_template(self, name: str, template: str | None) -> None:
        if template is None:
            return
        rest = _VARIABLE.sub("", template)
        known = all(
            (variable in {"base", "id"} and not field) or (variable == "operation" and field)
            for variable, field in _VARIABLE.findall(template)
        )
        if not known or "{" in rest or "}" in rest or not template.startswith(("{base}/", "{operation.")):
            msg = (
                f"the description {self.name!r}: {name}: the template {template!r} must begin with {{base}}/, or be"
                " {operation.name}; it may have {id} and {operation.name} in it"
            )
            raise ConfigurationError(msg)

    @property
    def operation_fields(self) -> tuple[str, ...]:
        """What the operation of a job must hold so that it can be polled."""
        templates = (self.poll, self.follow or "")
        return tuple(dict.fromkeys(field for one in templates for _, field in _VARIABLE.findall(one) if field))

    def find(self, body: JsonValue, *paths: str | None) -> list[JsonValue]:
        """Return what stands at the first of these paths that leads somewhere."""
        for path in paths:
            if path is not None and (found := find(body, self._steps[path])):
                return found
        return []

    def text(self, body: JsonValue, *paths: str | None) -> str | None:
        """Return the first text, or number, at these paths."""
        for path in paths:
            for one in self.find(body, path):
                if isinstance(one, str | int | float) and not isinstance(one, bool) and str(one).strip():
                    return str(one)
        return None

    def url(self, template: str, base_url: str, job: VideoJob) -> str | None:
        """Return the URL of a template for a job, or None if the job's operation does not have what it takes.

        A URL out of the operation goes nowhere but to the origin of `base_url`, as the key goes with it.
        """
        fields = operation_of(job)
        first, variables = _parts(template)
        if not first and len(variables) == 1 and variables[0][0] == "operation" and not variables[0][2]:
            return _whole(fields.get(variables[0][1]), base_url)
        made = first
        for name, field, after in variables:
            text = base_url if name == "base" else _quoted(api_id_of(job) if name == "id" else fields.get(field))
            if text is None:
                return None
            made += text + after
        return made


_NEEDS_NO_QUOTING = re.compile(r"[A-Za-z0-9_~-]+")
"""Almost every id: it is the same in a URL."""


def _quoted(text: JsonValue) -> str | None:
    """Return a text as one part of a path; None if no path can have it."""
    if not isinstance(text, str) or not text.strip("."):
        return None
    try:
        return text if _NEEDS_NO_QUOTING.fullmatch(text) else quote(text, safe="")
    except UnicodeEncodeError:
        return None


def _whole(url: JsonValue, base_url: str) -> str | None:
    """Return a whole URL out of a job's operation, if it is one of the API's."""
    if not isinstance(url, str) or url_problem(url) is not None:
        return None
    return url if url.startswith(f"{base_url}/") or origin_of(url) == origin_of(base_url) else None


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Return the scheme, the host and the port of a URL."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
