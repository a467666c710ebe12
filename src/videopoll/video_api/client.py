"""The video API at one address, with one key: what poller and generator share."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import attrs

from videopoll._http import NOT_JSON, Http, HttpFailure, HttpReply, HttpRequest
from videopoll._http.answerer import whose_words
from videopoll._reasons import Reason, own, repr_told
from videopoll.core.accounts import api_account
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_seconds
from videopoll.jobs.urls import url_problem

if TYPE_CHECKING:
    import httpx

__all__ = ["DEFAULT_BASE_URL", "ApiHealth", "VideoApiClient", "api_headers", "refused_in_front"]

DEFAULT_BASE_URL = "https://video.api-ai-mvp.com"


@attrs.frozen
class ApiHealth:
    """Whether the video API is up; true in a condition when it is.

    Args:
        up: Whether ``GET /health`` answered 200 with JSON.
        detail: What it answered, for the operator. No secrets.
    """

    up: bool
    detail: str = attrs.field(repr=repr_told)

    def __bool__(self) -> bool:
        return self.up


class VideoApiClient:
    """The base of `VideoApiPoller` and `VideoApiGenerator`: address, key, connections, health.

    Args:
        base_url: Where the API is, http or https, with a path in front if there is one.
        api_key: Sent as ``X-API-Key``. Kept out of ``repr`` and of error texts.
        client: The host's httpx client for threads; it is never closed here.
        async_client: The same for asyncio.
        max_connections: Connections open at most, for threads and for each event loop.
        transport: What carries asyncio requests without `async_client`.

    Raises:
        ConfigurationError: A value cannot work, or the environment names a proxy or
            certificates that cannot be used; the text names the subclass, and says what to change.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        client: httpx.Client | None,
        async_client: httpx.AsyncClient | None,
        max_connections: int,
        transport: Literal["auto", "httpx", "aiohttp"],
    ) -> None:
        self._base_url = _checked_base_url(base_url, type(self).__name__)
        key: object = api_key  # Whatever an untyped host hands in.
        if not (isinstance(key, str) and key and key.isascii() and key.isprintable()) or " " in key:
            msg = f"{type(self).__name__}.api_key must be printable ASCII without spaces or line ends, and not empty"
            raise ConfigurationError(msg)
        self._api_key = api_key
        self._http = Http(
            client=client, async_client=async_client, max_connections=max_connections, transport=transport
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._base_url!r})"

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at the end."""
        return self._base_url

    @property
    def account(self) -> str:
        """The account that is asked, by the API's host and a hash of address and key: after a 429 all workers leave it alone."""
        return api_account(urlsplit(self._base_url).hostname or "", self._base_url, self._api_key)

    def health(self, *, timeout_s: float = 15.0) -> ApiHealth:
        """Ask whether the API is up, without the key, within `timeout_s` seconds."""
        return _read_health(self._http.send(_health_request(self._base_url, timeout_s)))

    async def ahealth(self, *, timeout_s: float = 15.0) -> ApiHealth:
        """Ask whether the API is up, without the key, within `timeout_s` seconds."""
        return _read_health(await self._http.asend(_health_request(self._base_url, timeout_s)))

    def close(self) -> None:
        """Close our own connections for threads; it may be used again."""
        self._http.close()

    async def aclose(self) -> None:
        """Close our own connections of the running event loop; it may be used again."""
        await self._http.aclose()


def api_headers(api_key: str) -> dict[str, str]:
    """Return the headers of a request that needs the key."""
    return {"X-API-Key": api_key, "Accept": "application/json"}


def refused_in_front(reply: HttpReply) -> Reason:
    """Return what to tell of a 401 or 403 that is not the API's own. See `videopoll._http.answerer.refused_by_another`."""
    return own(
        f"HTTP {reply.status} from something in front of the video API: {whose_words(reply)}; the key may be right"
    )


def _health_request(base_url: str, timeout_s: float) -> HttpRequest:
    check_seconds("health.timeout_s", timeout_s, above=0)
    return HttpRequest(
        method="GET", url=f"{base_url}/health", headers={"Accept": "application/json"}, timeout_s=timeout_s
    )


def _read_health(reply: HttpReply | HttpFailure) -> ApiHealth:
    if isinstance(reply, HttpFailure):
        return ApiHealth(up=False, detail=own(f"{reply.kind}: {reply.detail}"))
    if reply.status == HTTPStatus.OK and reply.json() is NOT_JSON:
        return ApiHealth(up=False, detail=own("HTTP 200: not JSON"))
    return ApiHealth(up=reply.status == HTTPStatus.OK, detail=own(f"HTTP {reply.status}"))


def _checked_base_url(base_url: object, owner: str) -> str:
    """Return `base_url` without a slash at its end, or say what is wrong with it without quoting it."""
    problem: str | None = "must be a string"
    if isinstance(base_url, str):
        problem = url_problem(base_url)
        if not base_url.isascii():
            problem = "must be ASCII: write the host in its xn-- form"
        elif "?" in base_url or "#" in base_url:
            problem = "must not have a query or a fragment: give the scheme, the host and at most a path"
        if problem is None:
            return base_url.rstrip("/")
    msg = f"{owner}.base_url {problem}. It should look like {DEFAULT_BASE_URL}"
    raise ConfigurationError(msg)
