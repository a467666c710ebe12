"""The proxies that the machine's environment names, read once and checked before any request needs them.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, in capitals or
not; on Windows and macOS the system's settings where there are none. What
cannot work raises here, when a part is built: httpx would raise at every request.
"""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

import attrs

from videopoll.core.belonging import NO_FORK
from videopoll.errors import ConfigurationError

__all__ = ["Proxies", "read_proxies"]

_Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_SCHEMES = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "all": "ALL_PROXY"}

_PORT = re.compile(r"(?P<host>.*[^:]|\[.*\]):(?P<port>[0-9]{1,5})")


@attrs.frozen
class _Exempt:
    """One entry of ``NO_PROXY``: a network, or a name with all below it, perhaps of one scheme and one port only."""

    name: str = ""
    network: _Network | None = None
    itself: bool = True
    below: bool = True
    scheme: str | None = None
    port: int | None = None

    def covers(self, scheme: str, host: str, port: int) -> bool:
        if self.scheme not in {None, scheme} or self.port not in {None, port}:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        return (self.itself and host == self.name) or (self.below and host.endswith(f".{self.name}"))


@attrs.frozen
class Proxies:
    """Which proxy carries a request; the URLs may hold passwords, so none of them shows."""

    by_scheme: Mapping[str, str] = attrs.field(factory=dict, repr=False, hash=False)
    exempt: tuple[_Exempt, ...] = attrs.field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.by_scheme)

    def of(self, origin: tuple[str, str, int]) -> str | None:
        """Return the proxy's URL for an origin; None to connect to it directly."""
        scheme, host, port = origin
        proxy = self.by_scheme.get(scheme) or self.by_scheme.get("all")
        if proxy is None:
            return None
        host = host.lower().rstrip(".")
        return None if any(one.covers(scheme, host, port) for one in self.exempt) else proxy


def read_proxies(settings: Callable[[], Mapping[str, str]] = getproxies) -> Proxies:
    """Read the environment's proxies.

    Raises:
        ConfigurationError: One of them cannot be used; the text names the
            variable, and quotes nothing: a proxy's URL may hold a password.
    """
    found = settings()
    named = {scheme: found[scheme].strip() for scheme in _SCHEMES if found.get(scheme, "").strip()}
    if not named:
        return Proxies()
    entries = [entry for entry in re.split(r"[,\s]+", found.get("no", "")) if entry]
    if "*" in entries:
        return Proxies()
    by_scheme = {scheme: _checked(url, _SCHEMES[scheme]) for scheme, url in named.items()}
    return Proxies(by_scheme, tuple(_exempt(entry, number) for number, entry in enumerate(entries, 1)))


def _checked(url: str, variable: str) -> str:
    with NO_FORK:
        import httpx  # noqa: PLC0415 - most environments name no proxy, and it takes a twentieth of a second

    url = url if "://" in url else f"http://{url}"
    try:
        urlsplit(url)  # It is stricter about brackets.
        parsed = httpx.Proxy(url).url
    except (httpx.InvalidURL, ValueError) as error:
        msg = f"the environment's {variable} is no URL of a proxy: it looks like http://proxy.example:3128; or unset it"
        raise ConfigurationError(msg) from error
    if not parsed.host:
        msg = f"the environment's {variable} names no host: it looks like http://proxy.example:3128; or unset it"
        raise ConfigurationError(msg)
    if parsed.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        msg = (
            f"the environment's {variable} names a SOCKS proxy, which needs the package socksio:"
            " pip install 'httpx[socks]', or name an http proxy, or unset it"
        )
        raise ConfigurationError(msg)
    return url


def _exempt(entry: str, number: int) -> _Exempt:
    scheme, _, rest = entry.rpartition("://")
    rest, port = rest.lower(), None
    if "/" in rest or _address(rest) is not None:
        network = _network(rest)
        if network is None:
            msg = f"entry {number} of the environment's NO_PROXY is no network: it looks like 10.0.0.0/8 or fd00::/8"
            raise ConfigurationError(msg)
        return _Exempt(network=network, scheme=_plain(scheme.lower()))
    found = _PORT.fullmatch(rest)
    if found:
        rest, port = found["host"], int(found["port"])
    network = _network(rest)
    name = rest.removeprefix("*").strip(".")
    below_only = rest.startswith(("*.", "."))
    return _Exempt(
        name, network, itself=not below_only, below=name != "localhost", scheme=_plain(scheme.lower()), port=port
    )


def _plain(scheme: str) -> str | None:
    return None if scheme in {"", "all"} else scheme


def _network(text: str) -> _Network | None:
    host, slash, bits = text.replace("[", "").replace("]", "").partition("/")
    try:
        return ipaddress.ip_network(f"{host.partition('%')[0]}{slash}{bits}", strict=False)
    except ValueError:
        return None


@functools.lru_cache(maxsize=256)
def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
