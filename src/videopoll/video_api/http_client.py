"""A described API at one address, with one key: what its poller and its generator share."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from videopoll._http import Http
from videopoll.core.accounts import api_account
from videopoll.core.flow import do
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_kind
from videopoll.jobs.urls import url_problem
from videopoll.video_api.description import ApiDescription

if TYPE_CHECKING:
    from typing import Self

    import httpx

    from videopoll.core.flow import Flow

__all__ = ["HttpApiClient", "Key"]

Key: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""An API key, or a function that gives the one of this moment, for tokens that expire; async for asyncio alone."""


class HttpApiClient:
    """The base of `HttpVideoPoller` and `HttpVideoGenerator`: description, address, key, connections.

    Args:
        api: The description.
        api_key: The key, or a function that gives the one of this moment. Kept out of
            ``repr`` and of error texts; sent to the origin of the base URL only.
        base_url: Where the API is, if not where the description says.
        client: The host's httpx client for threads; it is never closed here.
        async_client: The same for asyncio.
        max_connections: Connections open at most, for threads and for each event loop.
        transport: What carries asyncio requests without `async_client`.

    Raises:
        ConfigurationError: A value cannot work; the text names the subclass, and says what to change.
    """

    def __init__(
        self,
        api: ApiDescription,
        *,
        api_key: Key | None,
        base_url: str | None,
        client: httpx.Client | None,
        async_client: httpx.AsyncClient | None,
        max_connections: int,
        transport: Literal["auto", "httpx", "aiohttp"],
    ) -> None:
        owner = type(self).__name__
        check_kind(f"{owner}.api", api, ApiDescription)
        self._api = api
        url = base_url if base_url is not None else api.base_url
        if url is None:
            msg = f"each host has a {api.name} of its own: give {owner} its base_url, such as https://api.example/v1"
            raise ConfigurationError(msg)
        if (problem := url_problem(url)) is not None or "?" in url or "#" in url:
            msg = f"{owner}.base_url {problem or 'must not have a query or a fragment'}"
            raise ConfigurationError(msg)
        self._base_url = url.rstrip("/")
        self._inside = f"{self._base_url}/"
        if api_key is None and api.auth_header:
            msg = f"{api.name} needs a key: give {owner} its api_key"
            raise ConfigurationError(msg)
        if isinstance(api_key, str) or not (api_key is None or callable(api_key)) or isinstance(api_key, type):
            checked_key(api_key)
        self._key = api_key
        self._last_headers: tuple[str | None, Mapping[str, str]] = None, {}
        self._http = Http(
            client=client, async_client=async_client, max_connections=max_connections, transport=transport
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._api.name!r}, base_url={self._base_url!r})"

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at the end."""
        return self._base_url

    @property
    def apis(self) -> dict[str, str]:
        """Where the API is, by its name: a runner tells operators."""
        return {self._api.name: self._base_url}

    @property
    def account(self) -> str:
        """The account that is asked, by the API's name and a hash of address and key: after a 429 all workers leave it alone.

        A key that a function gives is not known here: then all of them are one account.
        """
        return api_account(self._api.name, self._base_url, self._key if isinstance(self._key, str) else None)

    def with_key(self, api_key: str) -> Self:
        """Return one with another key that shares the connections of this one.

        Raises:
            ConfigurationError: It can be no key.
        """
        other = copy.copy(self)
        other._key = checked_key(api_key)  # noqa: SLF001 - its twin
        return other

    def close(self) -> None:
        """Close our own connections for threads; it may be used again."""
        self._http.close()

    async def aclose(self) -> None:
        """Close our own connections of the running event loop; it may be used again."""
        await self._http.aclose()

    def _ask_key(self) -> Flow[str | None]:
        """Return the key of this moment; a function for it may be async."""
        if self._key is None or isinstance(self._key, str):
            return self._key
        return checked_key((yield from do(self._key)))

    def _headers(self, key: str | None) -> Mapping[str, str]:
        """Return the headers of a request with this key; the same as last time if the key is."""
        api, (last_key, last) = self._api, self._last_headers
        if last and key == last_key:
            return last
        headers = {"Accept": "application/json", **api.headers}
        if api.auth_header and key is not None:
            headers[api.auth_header] = f"{api.auth_prefix}{key}"
        # Another thread may do so at the same time: a pair is replaced in one step.
        self._last_headers = key, headers
        return headers


def checked_key(key: object) -> str:
    if not isinstance(key, str) or not key or not key.isascii() or not key.isprintable() or " " in key:
        msg = "the key of a video API must be printable ASCII without spaces or line ends, and not empty"
        raise ConfigurationError(msg)
    return key
