"""Starts generations at any video API that an `ApiDescription` describes.

`prepare_start` writes the request, and `read_start` says what its answer means; both are
pure. What may be asked again is decided where it is for every generator
(`videopoll.video_api.generator.generation_flow`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import attrs
from typing_extensions import override

from videopoll._http import NOT_JSON, HttpFailure, HttpReply, HttpRequest
from videopoll._reasons import own, told_of
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.jobs.checks import check_kind, listed, mapped
from videopoll.jobs.codec import dump
from videopoll.jobs.job import MAX_OPERATION_BYTES, VideoJob
from videopoll.jobs.urls import readied_url
from videopoll.video_api.capabilities import Capabilities
from videopoll.video_api.description import ApiDescription
from videopoll.video_api.generation import (
    Generation,
    GenerationErrorCode,
    GenerationFailed,
    GenerationRequest,
    GenerationStarted,
    GenerationUnknown,
)
from videopoll.video_api.generator import (
    GeneratingClient,
    Pace,
    Prepared,
    read_no_success,
    with_reason,
)
from videopoll.video_api.http_client import HttpApiClient
from videopoll.video_api.start import Start, is_path, merged

if TYPE_CHECKING:
    import httpx

    from videopoll.core.flow import Flow
    from videopoll.jobs.codec import JsonValue
    from videopoll.video_api.http_client import Key

__all__ = ["HttpVideoGenerator", "prepare_start", "read_start"]

_Code = GenerationErrorCode


def prepare_start(
    start: Start, base_url: str, request: GenerationRequest, body: Mapping[str, JsonValue]
) -> HttpRequest:
    """Return what is posted for a request whose model and aspect ratio are chosen; without the key, and without a time.

    Args:
        start: How the API starts one: `Start.with_image`, for a request with an image.
        base_url: Where the API is.
        request: What is asked for.
        body: What the host adds to each body.
    """
    duration_s = request.duration_s or start.defaults.get("duration")
    asked: dict[str, JsonValue | None] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "model": request.model,
        "aspect_ratio": start.aspect_ratios.get(request.aspect_ratio or ""),
        "image": None if request.image_url is None else cast("str", readied_url(request.image_url)),
        "duration": duration_s,
        "seconds": None if duration_s is None else str(duration_s),
    }
    made = merged(start.made_body({name: value for name, value in asked.items() if value is not None}), body)
    sent = HttpRequest(
        method="POST", url=start.made_url(base_url, request.model), headers=start.headers, timeout_s=1, json=made
    )
    if not start.multipart:
        return sent
    boundary = uuid.uuid4().hex
    headers = {**start.headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    return attrs.evolve(sent, headers=headers, json=None, content=_form(made, boundary))


def _form(fields: Mapping[str, JsonValue], boundary: str) -> bytes:
    """Return the fields as ``multipart/form-data``; what is no text goes as its JSON. Names come from the description."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        f"{value if isinstance(value, str) else json.dumps(value)}\r\n"
        for name, value in fields.items()
    ]
    return f"{''.join(parts)}--{boundary}--\r\n".encode()


def read_start(
    api: ApiDescription, start: Start, base_url: str, reply: HttpReply | HttpFailure, now_s: float
) -> Generation:
    """Return what an answer to the request, or the lack of one, means. Never raises.

    Args:
        api: The description.
        start: How the request was made.
        base_url: Where the API is.
        reply: What came back.
        now_s: The time in Unix seconds, for a ``Retry-After`` that is a date.
    """
    if isinstance(reply, HttpFailure) or not reply.is_success:
        return read_no_success(
            reply, now_s, starts_nothing=start.starts_nothing, reason=lambda body: api.text(body, *api.error)
        )
    body, name = reply.json(), f"HTTP {reply.status}"
    if body is NOT_JSON or not isinstance(body, dict):
        return GenerationUnknown(code=_Code.API_ERROR, detail=own(f"{name}: not a JSON object"))
    named = api.text(body, *start.id)
    if named is None:
        told = f"{name}: the answer names no job"
        return GenerationUnknown(code=_Code.API_ERROR, detail=with_reason(told, api.text(body, *api.error)))
    texts = {field: api.text(body, path) for field, path in start.operation.items()}
    operation = {**start.constants, **{field: text for field, text in texts.items() if text is not None}}
    try:
        started = GenerationStarted.of(api.name, named.strip(), **operation)
    except InvalidJobError:
        return GenerationUnknown(code=_Code.API_ERROR, detail=own(f"{name}: the answer names a job by no usable id"))
    if not _can_be_polled(api, base_url, started):
        told = f"{name}: the job was started, and its answer does not say where to ask for it at the API's own address"
        return GenerationUnknown(code=_Code.API_ERROR, detail=with_reason(told, f"its id is {named.strip()}"))
    return started


def _can_be_polled(api: ApiDescription, base_url: str, started: GenerationStarted) -> bool:
    """Whether all addresses of the job can be made, each of them where the key may go."""
    job = VideoJob(started.job_id, "", 0, started.metadata)
    templates = [template for template in (api.poll, api.follow) if template is not None]
    room = len(dump(dict(started.operation))) <= MAX_OPERATION_BYTES
    return room and all(api.url(template, base_url, job) is not None for template in templates)


class HttpVideoGenerator(GeneratingClient, HttpApiClient):
    """Asks a described video API for videos, in threads (`generate`) and under asyncio (`agenerate`).

    ::

        from videopoll.video_api.apis import FAL

        generator = HttpVideoGenerator(FAL, api_key=os.environ["FAL_KEY"], model="fal-ai/wan/v2.2-a14b/text-to-video")
        tool = VideoGeneratorTool(queue, generator)

    The twin of `HttpVideoPoller`, which polls the jobs that it starts. **It never pays
    twice**: sent again is only what surely started nothing, as `Start.starts_nothing`
    says for each API; a lost reply, or anything else without a clear answer, comes back as
    `GenerationUnknown`. What the API cannot make comes back as `GenerationFailed`, before anything is sent.

    Args:
        api: The description; its `start` says how.
        api_key: The key, or a function that gives the one of this moment. Kept out of
            ``repr`` and of error texts; sent to the origin of the base URL only.
        base_url: Where the API is, if not where the description says.
        model: The model, as the API writes it; or several, the default first, of which a request may name one.
        body: What each request has besides, such as ``{"resolution": "720p"}``; it goes over what the description says.
        client: The host's httpx client for `generate`; it is never closed here.
        async_client: The same for `agenerate`.
        timeout_s: Seconds for one request.
        retry_waits_s: Seconds to wait before each further try; ``()`` for no further ones.
        max_retry_after_s: The longest ``Retry-After`` that is waited for, in seconds.
        resubmit_unknown: Send again what may have started a generation: a lost
            reply then costs a second video rather than none.
        max_connections: Connections open at most, for threads and for each event loop.
        transport: What carries `agenerate` without `async_client`; see `VideoApiGenerator`.

    Raises:
        ConfigurationError: A value cannot work; the text says what to change.
    """

    def __init__(
        self,
        api: ApiDescription,
        *,
        api_key: Key | None = None,
        base_url: str | None = None,
        model: str | Sequence[str] = (),
        body: Mapping[str, JsonValue] | None = None,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        timeout_s: float = 60.0,
        retry_waits_s: Sequence[float] = (1.0, 2.0),
        max_retry_after_s: float = 10.0,
        resubmit_unknown: bool = False,
        max_connections: int = 20,
        transport: Literal["auto", "httpx", "aiohttp"] = "auto",
    ) -> None:
        owner = type(self).__name__
        check_kind(f"{owner}.api", api, ApiDescription)
        if api.start is None:
            msg = f"the description {api.name!r} does not say how a generation is started: give it a start"
            raise ConfigurationError(msg)
        self._start, self._body = api.start, mapped(body, f"{owner}.body")
        models = (model,) if isinstance(model, str) else listed(model, f"{owner}.model", "names of models")
        _check_models(api, api.start, models)
        self.capabilities: Capabilities = _capabilities(api.name, api.start, models)
        """What it can be asked for: the tool offers the model no more than that."""
        self._pace = Pace(
            owner=owner,
            timeout_s=timeout_s,
            sync_timeout_s=timeout_s,
            retry_waits_s=listed(retry_waits_s, f"{owner}.retry_waits_s", "seconds"),
            max_retry_after_s=max_retry_after_s,
            resubmit_unknown=resubmit_unknown,
        )
        super().__init__(
            api,
            api_key=api_key,
            base_url=base_url,
            client=client,
            async_client=async_client,
            max_connections=max_connections,
            transport=transport,
        )

    @override
    def _prepared(self, request: GenerationRequest) -> Flow[Prepared | GenerationFailed]:
        asked = self.capabilities.choose(request).applied_to(request)
        start = self._start if asked.image_url is None else self._start.with_image or self._start
        try:
            key = yield from self._ask_key()
        except Exception as error:  # noqa: BLE001 - a host's function may raise anything, and nothing was sent
            return GenerationFailed(code=_Code.TOOL_ERROR, detail=own(f"there is no key: {told_of(error)}"))
        sent = prepare_start(start, self._base_url, asked, self._body)
        headers = {**self._headers(key), **sent.headers}
        if start.idempotency_header is not None:
            headers[start.idempotency_header] = str(uuid.uuid4())
        return Prepared(
            attrs.evolve(sent, headers=headers, timeout_s=self._pace.timeout_s),
            partial(read_start, self._api, start, self._base_url),
            key,
            self._pace.resubmit_unknown or start.idempotency_header is not None,
        )


def _check_models(api: ApiDescription, start: Start, models: tuple[str, ...]) -> None:
    problem = None
    if start.takes("model") and not models:
        problem = f"{api.name} needs to be told which: give it as {api.name} writes it"
    elif models and not start.takes("model"):
        problem = f"{api.name} has no choice of models: leave it out"
    elif not all(isinstance(one, str) and one and one.isprintable() and is_path(one) for one in models):
        problem = "must be a model's name, or several"
    if problem is not None:
        msg = f"HttpVideoGenerator.model: {problem}"
        raise ConfigurationError(msg)


def _capabilities(name: str, start: Start, models: tuple[str, ...]) -> Capabilities:
    ratio = start.defaults.get("aspect_ratio")
    image = start.with_image or (start if start.takes("image") else None)
    able = Capabilities(
        name=name,
        models=models,
        aspect_ratios=tuple(start.aspect_ratios) if start.takes("aspect_ratio") else (),
        default_aspect_ratio=None if ratio is None else str(ratio),
        negative_prompt=start.takes("negative_prompt"),
        duration=start.takes("duration") or start.takes("seconds"),
    )
    if image is None:
        return able
    return attrs.evolve(able, with_image=able if image is start else _capabilities(name, image, models))
