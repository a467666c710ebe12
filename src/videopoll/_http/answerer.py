"""Whose answer a reply is: the API's own, or that of something in front of it, as far as it can be told.

What is said of a reply is in our own words and codes: the class of its content,
the name of the program that its header ``server`` gives, and a code of four
digits. Nothing else of the reply is repeated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videopoll._http.values import HttpReply

__all__ = ["refused_by_another", "whose_words"]

LOOKED_AT = 2_000
"""How much of a body is looked at, in bytes."""

_PROGRAM = re.compile(r"[A-Za-z][A-Za-z_-]{0,29}")
_CODE = re.compile(rb"\berror\s*(?:code)?[\s:]{0,5}(\d{4})\b", re.IGNORECASE)

_MARKS = (
    ("cf-mitigated", "cloudflare"),
    ("x-amzn-waf-action", "AWS WAF"),
    ("x-sucuri-id", "Sucuri"),
    ("x-iinfo", "Imperva"),
    ("x-akamai-request-id", "Akamai"),
    ("x-azure-ref", "Azure Front Door"),
    ("cf-ray", "cloudflare"),
)
"""Headers of networks and firewalls, and whose they are."""

_OF_FRONTS = frozenset({"cloudflare", "akamaighost", "awselb", "bigip", "cloudfront", "envoy", "imperva", "squid"})
"""Programs that stand in front of others, and are no API themselves."""

_PROBLEM_OF_CLOUDFLARE = frozenset({"cloudflare_error", "ray_id"})


def whose_words(reply: HttpReply) -> str:
    """Return what came and from whom it looks, e.g. ``plain text from cloudflare, code 1010``."""
    name = _program(reply)
    code = _CODE.search(reply.body[:LOOKED_AT])
    return _content(reply) + (f" from {name}" if name else "") + (f", code {code[1].decode()}" if code else "")


def refused_by_another(reply: HttpReply) -> bool:
    """Whether a 401 or 403 looks like that of a firewall or a proxy, so that the key is not to blame.

    The API refuses a key with a JSON object. A refusal without a body is taken
    for its own, unless something else says that it is there.
    """
    if not reply.body.strip():
        name = _program(reply) or ""
        return name.lower() in _OF_FRONTS or any(reply.headers.get(mark) for mark, _ in _MARKS[:-1])
    body = reply.json()
    return not isinstance(body, dict) or not _PROBLEM_OF_CLOUDFLARE.isdisjoint(body)


def _content(reply: HttpReply) -> str:
    start = reply.body[:LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = reply.headers.get("content-type", "").lower()
    if not start:
        return "no body"
    if "html" in kind or start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if "json" in kind or start.startswith(b"{"):
        return "JSON"
    if "xml" in kind or start.startswith(b"<?xml"):
        return "XML"
    return "plain text" if kind.startswith("text/") or not kind else "something else"


def _program(reply: HttpReply) -> str | None:
    """Return the name of the program that answers, if it is a plain word."""
    named = _PROGRAM.match(reply.headers.get("server", "").strip())
    if named and len(named[0]) == len(reply.headers["server"].strip().partition("/")[0].partition(" ")[0]):
        return named[0]
    return next((name for mark, name in _MARKS if reply.headers.get(mark)), None)
