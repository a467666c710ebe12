"""Every described video API on this machine: jobs that end as a test says, links that end, files behind a key."""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import attrs
from typing_extensions import override

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_flags, check_kind, check_seconds, check_texts, kind_name
from videopoll.jobs.job import VideoJob
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply
from videopoll.video_api.apis import ALL
from videopoll.video_api.description import EACH, ApiDescription, Meaning, steps_of
from videopoll.video_api.generation import GenerationStarted
from videopoll.video_api.operation import api_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import JsonValue
    from videopoll.video_api.description import Step
    from videopoll.video_api.start import Start

__all__ = ["FakeProviders"]

PollStep: TypeAlias = Meaning | Reply
Part: TypeAlias = Literal["poll", "result", "content"]

FILE = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom and no more of a video than this"
TOLD = "the fake was told to say so"
WORKS_ONCE: tuple[PollStep, ...] = (Meaning.WORKING, Meaning.DONE)

_OPERATION = re.compile(r"\{operation\.([A-Za-z0-9_-]+)\}")


@attrs.define
class _Job:
    api: ApiDescription
    job: VideoJob
    steps: tuple[PollStep, ...]
    polls: list[float] = attrs.field(factory=list)
    link: str = ""
    """The newest link to its video."""

    def next_step(self, now: float) -> tuple[PollStep, int]:
        """Record a poll; return its step, and how many steps of the same meaning came before."""
        self.polls.append(now)
        at = min(len(self.polls), len(self.steps)) - 1
        return self.steps[at], sum(step is self.steps[at] for step in self.steps[:at])


class FakeProviders(FakeServer):
    """Described video APIs over real HTTP, all on one port, whose jobs go as you say.

    ::

        with FakeProviders(api_key="secret") as providers:
            started = providers.job("fal", Meaning.WORKING, Reply.fault(503), Meaning.MODERATED)
            poller = HttpVideoPoller(FAL, api_key="secret", base_url=providers.base_url("fal"))
            queue.enqueue(started.job_id, conversation_id="customer_42", metadata=started.metadata)

    It is made of the descriptions that the pollers read: it tests what is built
    around an API, and never whether a description is right.

    What answers a request, in this order:

    1. what `FakeServer` was told: programmed replies, then routes;
    2. for a link that was given: the file, without a key; 403 once the link has ended;
    3. 401 without the API's key in the header where it wants it, and 400 without its other headers;
    4. 404 if no job is known there;
    5. the job's next step, for a poll; the last one stays. Behind a job that is done: the
       result, for APIs that have it at a second address, and the file that only the key opens;
    6. where a generation is started: its job, with the steps of `on_start`, or 422 without a prompt.
       The same key of idempotency, for APIs that have one, gives the same job.

    Args:
        apis: The descriptions; all of `videopoll.video_api.apis` if none is given.
        api_key: The key of every API; None asks for none.
        public_links: Give links that anybody can open even where only the key opens the file, as some gateways do.
        link_life_s: Seconds that a link works; by default as long as the description says, or for ever.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *apis: ApiDescription,
        api_key: str | None = None,
        public_links: bool = False,
        link_life_s: float | None = None,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        for api in apis:
            check_kind("each API of FakeProviders", api, ApiDescription)
        check_texts("FakeProviders", api_key=api_key)
        check_flags("FakeProviders", public_links=public_links)
        if link_life_s is not None:
            check_seconds("FakeProviders.link_life_s", link_life_s)
        self._apis = {api.name: api for api in apis or ALL.values()}
        self._api_key = api_key
        self._public_links = public_links
        self._link_life_s = link_life_s
        self._jobs: dict[str, _Job] = {}
        self._places: dict[str, tuple[_Job, Part]] = {}
        self._links: dict[str, float | None] = {}
        self._generated: dict[str, GenerationStarted] = {}
        self._on_start: dict[str, tuple[PollStep, ...]] = {}
        self._serial = itertools.count(1)

    def base_url(self, name: str) -> str:
        """Where the API of this name is, as `HttpVideoPoller` takes it."""
        return f"{self.url}/{self._api(name).name}"

    def job(self, name: str, *steps: Meaning | Reply, api_id: str | None = None) -> GenerationStarted:
        """Make a job known to an API, and return what its start would have told.

        Args:
            name: The API.
            steps: What the polls of the job get, one each; the last is repeated. A meaning is told
                in the API's own words, a reply is sent as it is. Working once and then done if none is given.
            api_id: The id that the API gives it; made up if not given.

        Raises:
            ConfigurationError: There is no such API, or it has no word for a step.
        """
        api = self._check(name, steps)
        with self._lock:
            return self._add(api, steps, api_id or f"{name}-{next(self._serial)}", api.start)

    def on_start(self, name: str, *steps: Meaning | Reply) -> None:
        """Set the steps of the jobs that are started at an API from now on; see `job`."""
        self._check(name, steps)
        with self._lock:
            self._on_start[name] = steps

    @property
    def generated(self) -> list[GenerationStarted]:
        """What was started over HTTP, in order: each cost money."""
        with self._lock:
            return list(self._generated.values())

    def polls(self, job_id: str) -> list[float]:
        """When a job was asked about, by ``time.monotonic()``; its id is that of `GenerationStarted`."""
        with self._lock:
            return list(self._jobs[job_id].polls) if job_id in self._jobs else []

    def video_url(self, job_id: str) -> str | None:
        """The newest link to a job's video; None if none was given yet."""
        with self._lock:
            return (self._jobs[job_id].link or None) if job_id in self._jobs else None

    def end_links(self) -> None:
        """End each link that was given so far. Where asking again gives a fresh one, it does."""
        with self._lock:
            self._links = dict.fromkeys(self._links, 0.0)

    def _api(self, name: str) -> ApiDescription:
        if name not in self._apis:
            msg = f"FakeProviders knows no {name!r}; it has {', '.join(self._apis)}"
            raise ConfigurationError(msg)
        return self._apis[name]

    def _check(self, name: str, steps: tuple[PollStep, ...]) -> ApiDescription:
        api = self._api(name)
        for step in steps:
            if isinstance(step, Meaning):
                _said(api, step)
            elif not isinstance(step, Reply):
                msg = f"a step of a job at {name} is a Meaning or a Reply, got {kind_name(step)}"
                raise ConfigurationError(msg)
        return api

    def _add(
        self, api: ApiDescription, steps: tuple[PollStep, ...], api_id: str, start: Start | None
    ) -> GenerationStarted:
        """Take a job in, and each address at which there is something about it."""
        base_url = self.base_url(api.name)
        templates: dict[str, Part] = {api.poll: "poll"}
        templates |= {api.follow: "result"} if api.follow is not None else {}
        templates |= {api.locked: "content"} if api.locked is not None else {}
        # What a poll needs besides: whole URLs, and parts of a path.
        operation = dict(start.constants) if start is not None else {}
        for name in (name for template in templates for name in _OPERATION.findall(template)):
            whole = f"{{operation.{name}}}" in templates
            operation.setdefault(name, f"{base_url}/requests/{quote(api_id, safe='')}/{name}" if whole else name)
        started = GenerationStarted.of(api.name, api_id, **operation)
        job = _Job(api, VideoJob(started.job_id, "", 0, started.metadata), steps or WORKS_ONCE)
        self._jobs[started.job_id] = job
        for template, part in templates.items():
            url = api.url(template, base_url, job.job)
            if url is not None:
                self._places[_place(url)] = job, part
        return started

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        if request.target in self._links:
            ends_s = self._links[request.target]
            gone = ends_s is not None and ends_s <= time.time()
            return _refusal(HTTPStatus.FORBIDDEN, "this link has ended") if gone else _file()
        if request.method == "POST" and (found := self._start_at(request)) is not None:
            return self._start(request, *found)
        if _place(request.target) not in self._places:
            api = self._apis.get(request.target.split("/")[1])
            if api is None:
                return Reply.json({"error": "Not found"}, status=HTTPStatus.NOT_FOUND)
            # The key comes first, at an API as here.
            return self._refusal(api, request) or Reply.vanished()
        job, part = self._places[_place(request.target)]
        refusal = self._refusal(job.api, request)
        if refusal is not None:
            return refusal
        if part == "poll":
            step, nth = job.next_step(request.at)
            return step if isinstance(step, Reply) else self._answer(job, step, nth)
        at = min(len(job.polls), len(job.steps)) - 1
        if at < 0 or job.steps[at] is not Meaning.DONE:
            return _refusal(HTTPStatus.BAD_REQUEST, "the job is not done")
        return _file() if part == "content" else Reply.json(_with({}, {job.api.video[0]: self._link(job)}))

    def _start_at(self, request: ReceivedRequest) -> tuple[ApiDescription, Start] | None:
        """Return the API, and the way of starting a generation, whose address this is."""
        for api in self._apis.values():
            for start in (api.start, api.start.with_image) if api.start is not None else ():
                if start is not None:
                    pattern = re.escape(start.url).replace(r"\{base\}", re.escape(f"/{api.name}"))
                    if re.fullmatch(pattern.replace(r"\{model\}", "[^?]+"), request.target):
                        return api, start
        return None

    def _start(self, request: ReceivedRequest, api: ApiDescription, start: Start) -> Reply:
        refusal = self._refusal(api, request, start.headers)
        if refusal is not None:
            return refusal
        if not start.multipart and _lacks_prompt(dict(start.body), dict(request.body)):
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "there is no prompt")
        number = str(next(self._serial))
        key = request.headers.get((start.idempotency_header or "").lower(), f"none {number}")
        started = self._generated.get(f"{api.name} {key}")
        if started is None:
            started = self._add(api, self._on_start.get(api.name, ()), f"{api.name}-{number}", start)
            self._generated[f"{api.name} {key}"] = started
        told: dict[str, JsonValue] = {start.id[0]: started.operation["id"]}
        return Reply.json(_with({}, told | {path: started.operation[name] for name, path in start.operation.items()}))

    def _refusal(
        self, api: ApiDescription, request: ReceivedRequest, headers: Mapping[str, str] | None = None
    ) -> Reply | None:
        """Return what an API says to a request that lacks its key or another of its headers."""
        if self._api_key is not None and api.auth_header:
            given = request.headers.get(api.auth_header.lower(), "")
            if not hmac.compare_digest(given.encode(), f"{api.auth_prefix}{self._api_key}".encode()):
                return _refusal(HTTPStatus.UNAUTHORIZED, f"the header {api.auth_header} has no valid key")
        for name, value in {**api.headers, **(headers or {})}.items():
            if request.headers.get(name.lower()) != value:
                return _refusal(HTTPStatus.BAD_REQUEST, f"the header {name} must be {value}")
        return None

    def _answer(self, job: _Job, meaning: Meaning, nth: int) -> Reply:
        """Return the answer to a poll that means this; `nth` counts earlier ones of the same meaning."""
        api = job.api
        said = _said(api, meaning, nth)
        if isinstance(said, Reply):
            return said
        if api.id is not None:
            said[api.id] = api_id_of(job.job)
        if meaning is Meaning.DONE and api.follow is None and (self._public_links or api.locked is None):
            said[api.video[0]] = self._link(job)
            ends_s = self._links[job.link.removeprefix(self.url)]
            if api.ends_s is not None and ends_s is not None:
                said[api.ends_s] = round(ends_s)
        status = next((status for status, meant in api.http.items() if meant is meaning), HTTPStatus.OK)
        return Reply.json(_with({}, said), status=status)

    def _link(self, job: _Job) -> str:
        """Return the link to a job's video: a new one each time, where the API gives fresh links."""
        if not job.link or job.api.refreshable:
            life_s = job.api.lifetime_s if self._link_life_s is None else self._link_life_s
            target = f"/{job.api.name}/{next(self._serial)}.mp4?signature={secrets.token_hex(4)}"
            self._links[target] = None if life_s is None else time.time() + life_s
            job.link = f"{self.url}{target}"
        return job.link


def _said(api: ApiDescription, meaning: Meaning, nth: int = 0) -> dict[str, JsonValue] | Reply:
    """Return what says a meaning in an answer, by paths, or the refusal that does.

    Raises:
        ConfigurationError: The description has no word for it.
    """
    words = [word for word, meant in api.words.items() if meant is meaning]
    code = next((code for code, meant in api.codes.items() if meant is meaning), None)
    said: dict[str, JsonValue] | None = None
    if words:
        said = {api.status[0]: words[min(nth, len(words) - 1)]}
    elif meaning is Meaning.FAULT:
        return Reply.fault()
    elif meaning is Meaning.MISSING:
        return Reply.vanished()
    elif code is not None and api.code:
        said = {**_fields(_said(api, Meaning.FAILED)), api.code[0]: code}
    elif meaning is Meaning.MODERATED and api.rejected_if:
        return {**_fields(_said(api, Meaning.DONE)), **api.rejected_if}
    elif meaning is Meaning.FAILED and api.fails_if:
        said = {**_fields(_said(api, Meaning.DONE)), api.fails_if[0]: TOLD}
    if said is None:
        msg = f"{api.name} has no word for {meaning.value!r}: use another meaning, or a Reply as it is"
        raise ConfigurationError(msg)
    if meaning is Meaning.WORKING:
        # Who waits has a place in the queue, and who is at work makes progress.
        hints: dict[str | None, JsonValue] = {api.queue_position: 1} if nth == 0 else {}
        if nth >= len(words) - 1:
            hints[api.progress] = api.progress_scale / 4
        return said | {path: value for path, value in hints.items() if path is not None}
    return said if meaning in {Meaning.DONE, Meaning.CANCELLED} else {**said, api.error[0]: TOLD}


def _lacks_prompt(template: JsonValue, body: JsonValue) -> bool:
    """Whether a body has no prompt where the description has it."""
    if isinstance(template, dict):
        return any(
            _lacks_prompt(one, body.get(name) if isinstance(body, dict) else None) for name, one in template.items()
        )
    if isinstance(template, list):
        found = body if isinstance(body, list) else []
        return any(_lacks_prompt(one, found[at] if at < len(found) else None) for at, one in enumerate(template))
    return isinstance(template, str) and "{prompt}" in template and not (isinstance(body, str) and body.strip())


def _fields(said: dict[str, JsonValue] | Reply) -> dict[str, JsonValue]:
    return {} if isinstance(said, Reply) else said


def _with(body: JsonValue, fields: dict[str, JsonValue]) -> JsonValue:
    """Return a body that has these values at their paths."""
    for path, value in fields.items():
        body = _put(body, steps_of(path), value)
    return body


def _put(body: JsonValue, steps: tuple[Step, ...], value: JsonValue) -> JsonValue:
    if not steps:
        return value
    step, *rest = steps
    if isinstance(step, str) and step != EACH:
        fields = body if isinstance(body, dict) else {}
        return {**fields, step: _put(fields.get(step), tuple(rest), value)}
    at = step if isinstance(step, int) else 0
    entries: list[JsonValue] = [*body] if isinstance(body, list) else []
    entries += [None] * (at + 1 - len(entries))
    entries[at] = _put(entries[at], tuple(rest), value)
    return entries


def _place(url: str) -> str:
    """Return the path and the query of a URL, in one form whatever a client had percent-encoded."""
    parts = urlsplit(url)
    return "\0".join([*map(unquote, parts.path.split("/")), parts.query])


def _file() -> Reply:
    return Reply(status=HTTPStatus.OK, body=FILE, headers={"Content-Type": "video/mp4"})


def _refusal(status: HTTPStatus, message: str) -> Reply:
    return Reply.json({"error": {"message": message}}, status=status)
