"""What all answers of video APIs have in common: failures, the words of routers, the API's own texts."""

from __future__ import annotations

import re
from http import HTTPStatus

import attrs

from videopoll._http import FailureKind, HttpReply
from videopoll._http.answerer import refused_by_another
from videopoll._reasons import Reason, own
from videopoll.jobs.video import Asset, BucketObject
from videopoll.observations import Fault, FaultKind, Observation, VideoFailed, VideoReady, VideoWorking
from videopoll.observe.redact import redacted, without
from videopoll.video_api.client import refused_in_front

__all__ = [
    "BETWEEN_WORDS",
    "FAULTS",
    "MAX_ERROR_CHARS",
    "NO_REASON",
    "clean_text",
    "fault_of",
    "printable",
    "says_something_of_a_job",
    "without_key",
]

MAX_ERROR_CHARS = 300
"""How much of the API's reason is kept, in characters."""

LONG_KEY_CHARS = 16
"""A shorter key, such as one for tests, may stand in a link by chance."""

NO_REASON = "the video API gave no reason"

BETWEEN_WORDS = re.compile(r"[\s_-]+")

FAULTS = {
    FailureKind.CONNECT: FaultKind.CONNECTION,
    FailureKind.BROKEN: FaultKind.CONNECTION,
    FailureKind.CONNECT_TIMEOUT: FaultKind.TIMEOUT,
    FailureKind.POOL_TIMEOUT: FaultKind.TIMEOUT,
    FailureKind.TIMEOUT: FaultKind.TIMEOUT,
    FailureKind.TOO_LARGE: FaultKind.MALFORMED,
    FailureKind.UNREADABLE: FaultKind.MALFORMED,
    FailureKind.INVALID: FaultKind.INTERNAL,
    FailureKind.TOO_LATE: FaultKind.INTERNAL,
    FailureKind.INCOMPLETE: FaultKind.CONNECTION,
    FailureKind.NOT_PUBLIC: FaultKind.SERVER,
}


_ROUTERS_WORDS = re.compile(
    r"(404)?[\s:.-]*(the )?(requested )?(page|resource|route|path|url|endpoint|service|entity|application)?"
    r"[\s:.-]*(was |could )?(not (be )?found|no route matched.*|cannot \w+ /.*)?( on th(e|is) server.*)?[\s:.!-]*(404)?",
    re.IGNORECASE,
)
"""What routers and gateways say of an address that they do not know. None of them speaks of a job."""


def says_something_of_a_job(reply: HttpReply, job_id: str, named: str | None) -> bool:
    """Whether a refusal is the API's own: a JSON object that says more than a router in front of it would.

    One without a body is taken for its own, unless something else says that it is there.

    Args:
        reply: The refusal.
        job_id: The job that was asked for.
        named: The job that the answer names.
    """
    if refused_by_another(reply):
        return False
    body = reply.json()
    if not isinstance(body, dict) or reply.status != HTTPStatus.NOT_FOUND:
        return True
    # Routers have a status, too: a number, or "error".
    word = BETWEEN_WORDS.sub("_", str(body.get("status", "")).strip().lower())
    if (named or "").strip() == job_id or word == "not_found":
        return True
    texts = [body.get(name) for name in ("error", "message", "detail", "title", "msg")]
    texts += [text.get("message") for text in texts if isinstance(text, dict)]
    words = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    return any(not _ROUTERS_WORDS.fullmatch(text[:MAX_ERROR_CHARS]) for text in words)


def fault_of(reply: HttpReply, wait_s: float | None) -> Fault:
    """Return the fault that a status comes to which is no success, and says nothing of the job.

    Args:
        reply: The reply.
        wait_s: How long the API asked to wait, in seconds.
    """
    name = f"HTTP {reply.status}"
    match reply.status:
        case 401 | 403 if refused_by_another(reply):
            return Fault(FaultKind.BLOCKED, refused_in_front(reply), wait_s)
        case 401 | 403:
            return Fault(FaultKind.CREDENTIALS, own(f"{name}: the video API refuses the API key"), wait_s)
        case 407:
            return Fault(FaultKind.SERVER, own(f"{name}: a proxy on the way wants credentials"), wait_s)
        case 429:
            return Fault(FaultKind.THROTTLED, own(f"{name}: too many requests"), wait_s)
        case status if 300 <= status <= 399:  # noqa: PLR2004 - the definition of a redirect
            return Fault(FaultKind.SERVER, own(f"{name}: the video API redirects, which is not followed"), wait_s)
        case _:
            # An unforeseen 4xx may come from a proxy or a deployment in progress. Taking it for a passing fault costs
            # some polls until the deadline; taking it for the end could cost a video that was paid for.
            return Fault(FaultKind.SERVER, own(name), wait_s)


def clean_text(text: str | None, told: str = "") -> Reason | None:
    """Return the API's own reason, of which nothing but `told` may be shown where nobody asked for it."""
    if text is None:
        return None
    # A URL in it may be signed.
    cleaned = printable(re.sub(r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://\S+", "<url>", text), MAX_ERROR_CHARS)
    return Reason(cleaned, told) if cleaned else None


def printable(text: str, limit: int) -> str:
    """Cut `text` to `limit` printable characters, with single spaces for everything else."""
    # Cut first, generously: the text may be a megabyte.
    start = text.lstrip()[: limit * 4]
    if not start.isprintable():
        start = "".join(character if character.isprintable() else " " for character in start)
    return " ".join(start.split())[:limit].rstrip()


def without_key(told: Observation, key: str | None) -> Observation:
    """Take the key out of a text in which an API, or an exception, quotes it."""
    if not key:
        return told
    match told:
        case Fault(detail=text) if key in text:
            return attrs.evolve(told, detail=redacted(text, key))
        case VideoFailed(error=text, undeliverable_url=url) if key in text or key in (url or ""):
            url = None if url is None else without(url, (key,))
            return attrs.evolve(told, error=redacted(text, key), undeliverable_url=url)
        case VideoWorking(word=word, error=text) if key in word or key in (text or ""):
            error = None if text is None else redacted(text, key)
            return attrs.evolve(told, word=redacted(word, key), error=error)
        case VideoReady(assets=assets) if len(key) >= LONG_KEY_CHARS and any(key in _url_of(one) for one in assets):
            problem = "the video was made, but its link has the API's key in it, which no user may have"
            return VideoFailed(own(problem), without(_url_of(assets[0]), (key,)))
        case _:
            return told


def _url_of(asset: Asset) -> str:
    return asset.place.uri if isinstance(asset.place, BucketObject) else asset.place.url
