"""Which URLs may be handed to a user, and how they are written.

Owns the one check of every video URL, whoever gave it: the video API, a host's
own poller, the generator. Pure functions; nothing here asks for the URL.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

import attrs

from videopoll.errors import ConfigurationError

__all__ = [
    "MAX_URL_CHARS",
    "BadUrl",
    "check_url",
    "is_public_address",
    "is_public_https",
    "is_web_url",
    "readied_url",
    "url_problem",
]

MAX_URL_CHARS = 8192
"""The longest URL that is handed on: what servers and networks of content take in a request's first line (nginx,
Apache and CloudFront about 8 KiB). A signed link with a session's token has one to three thousand characters."""

MAX_HOST_CHARS = 253

_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

_PLAIN = re.compile(
    rf"https?://[A-Za-z0-9._-]{{1,{MAX_HOST_CHARS}}}(?::[0-9]{{1,4}})?"
    r"(?:[/?#](?:[A-Za-z0-9!#$&'()*+,/:;=?@\[\]~._-]|%[0-9A-Fa-f]{2})*)?"
)
"""Almost every URL: each character may stand where it stands, so it is handed on as it is."""

_JOINERS = str.maketrans("", "", "\u200c\u200d")
"""Not printable, and part of emoji and of words of some languages."""

_STAY = "!#$%&'()*+,/:;=?@[]~"
"""What stays as it is behind the host, beside letters, digits and ``-._``: all that a URL may have there."""


@attrs.frozen
class BadUrl:
    """Why a URL must not be handed on, as the rest of a sentence that begins with "it"."""

    problem: str


def readied_url(url: object) -> str | BadUrl:
    """Return the URL in the form in which it is handed on, or why it must not be.

    White space around it goes. Spaces and whatever else a URL may not have
    behind its host are percent-encoded, and a host in letters beyond ASCII gets
    its ``xn--`` form, as browsers do. What is a URL already stays as it is.
    """
    if isinstance(url, str) and len(url) <= MAX_URL_CHARS and _PLAIN.fullmatch(url):
        return url
    return _readied(url)


def _readied(url: object) -> str | BadUrl:
    """Do what `readied_url` does, for any URL."""
    if not isinstance(url, str):
        return BadUrl("is missing" if url is None else f"is no text ({type(url).__name__})")
    url = url.strip(" \t\r\n\f")
    if not url:
        return BadUrl("is missing")
    if len(url) > MAX_URL_CHARS:  # It only grows from here.
        return BadUrl(f"is longer than {MAX_URL_CHARS} characters")
    # Checked before parsing: urlsplit drops some control characters.
    if _CONTROL.search(url) or not url.translate(_JOINERS).isprintable():
        return BadUrl("has control characters")
    found = _AUTHORITY.fullmatch(url)
    if found is None or found[1].lower() not in {"http", "https"}:
        return BadUrl("is not http or https")
    scheme, authority, rest = found.groups()
    named: str | None = authority
    problem = _authority_problem(authority)
    if problem:
        return BadUrl(problem)
    if not authority.isascii():
        named = _named_in_ascii(authority)
    if named is None or not _HOST_AND_PORT.fullmatch(named):
        return BadUrl("has a host that is no name")
    written = f"{scheme.lower()}://{named}{_encoded(rest)}"
    if len(written) > MAX_URL_CHARS:
        return BadUrl(f"is longer than {MAX_URL_CHARS} characters")
    return written


def url_problem(url: str) -> str | None:
    """Return why `url` must not be used as it stands, as the rest of a sentence; None when it may."""
    readied = readied_url(url)
    if isinstance(readied, BadUrl):
        return readied.problem
    return None if readied == url else "has spaces or other characters that must be percent-encoded"


def check_url(url: str, owner: str) -> str:
    """Return the address of a service, if requests can be sent to it.

    Raises:
        ConfigurationError: It is no http(s) URL.
    """
    if not isinstance(url, str) or not is_web_url(url) or not url.isascii() or "@" in urlsplit(url).netloc:
        # The URL itself stays out of the text: it may hold a password.
        msg = f"{owner} must be an http or https URL with a host name, percent-encoded and without user:password@"
        raise ConfigurationError(msg)
    return url


def is_web_url(url: str) -> bool:
    """Return whether a URL is http or https, names a host, and has no spaces or control characters."""
    if _PLAIN.fullmatch(url):
        return True
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False


_INSIDE = (".local", ".localhost", ".internal", ".intranet", ".lan", ".corp", ".home", ".home.arpa")
"""What names end in that no public server has."""


_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The IPv6 addresses that are given out. Outside are those that stand for an IPv4 address: ``::ffff:…`` and NAT64."""

_TUNNELS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
"""6to4 and Teredo: they stand for an IPv4 address, too."""

_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""What stands before the IPv4 address that the last 32 bits of such an IPv6 address are."""


def is_public_https(url: str) -> bool:
    """Return whether a URL is https and names a host of the public internet, as far as its name says.

    Names are not resolved: who owns one could change its address between the look and the request.
    A public name that leads to an inner address gets no further than TLS: what is inside has no
    certificate for it.
    """
    if url_problem(url) is not None:
        return False
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "https":
        return False
    try:
        return _is_public(ipaddress.ip_address(host))
    except ValueError:
        # Old forms of addresses (2130706433, 0x7f.1) are read as numbers by the system.
        return "." in host and not host.endswith(_INSIDE) and re.search(r"[a-z][a-z0-9-]*$", host) is not None


def is_public_address(address: str) -> bool:
    """Return whether an IP address is one of the public internet; False for what is none."""
    try:
        return _is_public(ipaddress.ip_address(address))
    except ValueError:
        return False


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    if address.version == 4:  # noqa: PLR2004
        return True
    # What stands for an IPv4 address is refused whatever that is: no server of the public internet is named so.
    stands_for_another = any(address in tunnel for tunnel in _TUNNELS) or int(address) >> 32 & 0xFFFFFFFF in _ISATAP
    return address in _UNICAST and not stands_for_another


def _encoded(rest: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", rest), safe=_STAY)


def _authority_problem(authority: str) -> str | None:
    # Browsers read a backslash as a slash: what stands before it would be the host.
    if "\\" in authority or any(character.isspace() for character in authority):
        return "has a host with spaces or backslashes"
    if "@" in authority:
        return "has credentials in it"
    try:
        parts = urlsplit(f"https://{authority}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "cannot be parsed"
    if not host:
        return "has no host"
    return "has a host that is no name" if len(host) > MAX_HOST_CHARS else None


def _named_in_ascii(authority: str) -> str | None:
    """Return host and port with the host's name in its ``xn--`` form; None if it is no name."""
    import idna  # noqa: PLC0415 - httpx brings it along, and almost no host needs it

    host, colon, port = authority.partition(":")
    try:
        return idna.encode(host, uts46=True).decode() + colon + port
    except (idna.IDNAError, UnicodeError):
        return None
