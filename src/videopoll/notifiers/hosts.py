"""Names of hosts that somebody has listed."""

from __future__ import annotations

from collections.abc import Iterable

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import listed

__all__ = ["host_names"]


def host_names(hosts: Iterable[str], owner: str) -> frozenset[str]:
    """Return the names in lower case.

    Raises:
        ConfigurationError: It is one string, whose letters would be taken for names; or one of
            them is none, such as a URL.
    """
    names = frozenset(one.lower() if isinstance(one, str) else "" for one in listed(hosts, owner, "host names"))
    for name in names:
        # More than one colon is an IPv6 address; one is before a port.
        if not name or set(name) & set("/@[] ") or name.count(":") == 1:
            msg = f"{owner} has {name!r}, which is no name of a host: write 'storage.internal', without scheme and port"
            raise ConfigurationError(msg)
    return names
