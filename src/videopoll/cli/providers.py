"""The described video APIs of a command, from names and environment: their keys, addresses and pollers.

The key of each is in the variable that its description names; ``VIDEOPOLL_<NAME>_URL``
holds another address than that of the description.
"""

from __future__ import annotations

import os
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING

from videopoll._http import Http, HttpFailure, HttpRequest
from videopoll._reasons import own
from videopoll.cli.load import load
from videopoll.cli.options import secret
from videopoll.errors import ConfigurationError
from videopoll.jobs.job import VideoJob
from videopoll.jobs.urls import url_problem
from videopoll.policies import KeyTtls
from videopoll.video_api.client import ApiHealth
from videopoll.video_api.description import ApiDescription, variable_part
from videopoll.video_api.http_poller import HttpVideoPoller

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videopoll.jobs.codec import JsonValue

__all__ = [
    "described",
    "health_of",
    "job_ttl_for",
    "made_up_job",
    "open_poller",
    "shown_url_of",
    "url_of",
    "url_variable",
]


def described(name: str) -> ApiDescription:
    """Return the description of a name, or the host's own, ``package.module:DESCRIPTION``.

    Raises:
        ConfigurationError: There is none.
    """
    if ":" not in name:
        from videopoll.video_api.apis import ALL  # noqa: PLC0415 - most workers ask none of them

        api = ALL.get(name)
        if api is None:
            msg = (
                f"--provider: there is no description of {name!r}; videopoll providers lists those that there are"
                f" ({', '.join(ALL)}). One of your own is package.module:DESCRIPTION"
            )
            raise ConfigurationError(msg)
        return api
    found = load("--provider", name)
    if not isinstance(found, ApiDescription):
        msg = f"--provider: {name} is no ApiDescription, but {type(found).__name__}"
        raise ConfigurationError(msg)
    return found


def url_variable(api: ApiDescription) -> str:
    """Return the variable of an API's address."""
    return f"VIDEOPOLL_{variable_part(api.name)}_URL"


def url_of(api: ApiDescription) -> str | None:
    """Return where an API is, by the environment or by its description; None if neither says it."""
    return os.environ.get(url_variable(api)) or api.base_url


def shown_url_of(api: ApiDescription) -> str | None:
    """Return where an API is, for operators: nothing of an address that is none, as a password may stand in it."""
    url = url_of(api)
    problem = None if url is None else url_problem(url)
    return url if problem is None else f"({url_variable(api)} {problem})"


def open_poller(api: ApiDescription) -> HttpVideoPoller:
    """Return the poller of an API, with its key and its address from the environment.

    Raises:
        ConfigurationError: They are not there, or cannot work.
    """
    key = secret(api.key_variable)
    if key is None and api.auth_header:
        msg = f"the video API {api.name} needs a key: set {api.key_variable} in the environment"
        raise ConfigurationError(msg)
    url = url_of(api)
    if url is None:
        msg = f"each host has a {api.name} of its own: set {url_variable(api)} to its address, such as https://api.example/v1"
        raise ConfigurationError(msg)
    try:
        return HttpVideoPoller(api, api_key=key, base_url=url)
    except ConfigurationError as error:
        given = [name for name in (api.key_variable, url_variable(api)) if os.environ.get(name)]
        msg = f"the video API {api.name}, by {' and '.join(given)} of the environment: {error}"
        raise ConfigurationError(msg) from None


def job_ttl_for(apis: Iterable[ApiDescription]) -> int:
    """Return the seconds that the records of jobs of these APIs should live: twice the longest polling."""
    return KeyTtls.outliving(*(api.strategy for api in apis)).job_s


def made_up_job(api: ApiDescription, url: str) -> VideoJob:
    """Return a job that no API knows, to try a key with."""
    api_id = f"videopoll-doctor-{secrets.token_hex(6)}"
    operation: dict[str, JsonValue] = dict.fromkeys(api.operation_fields, f"{url}/{api_id}")
    return VideoJob(api_id, "-", 0, {"operation": operation})


def health_of(url: str, timeout_s: float) -> ApiHealth:
    """Ask whether anybody answers at the address of a described API, without a key: it has no call for that alone."""
    http = Http(max_connections=1)
    try:
        reply = http.send(HttpRequest(method="GET", url=url, headers={"Accept": "*/*"}, timeout_s=timeout_s))
    finally:
        http.close()
    if isinstance(reply, HttpFailure):
        return ApiHealth(up=False, detail=own(f"{reply.kind}: {reply.detail}"))
    up = reply.status < HTTPStatus.INTERNAL_SERVER_ERROR
    return ApiHealth(up=up, detail=own(f"{'answers' if up else 'down'} (HTTP {reply.status})"))
