"""Names of hosts that somebody has listed."""

from __future__ import annotations

from collections.abc import Iterable

from videopoll.errors import ConfigurationError

__all__ = ["host_names"]


def host_names(hosts: Iterable[str], owner: str) -> frozenset[str]:
    """Return the names in lower case.

    Raises:
        ConfigurationError: It is one string, whose letters would be taken for names.
    """
    if isinstance(hosts, str):
        msg = f"{owner} is a collection of host names, got the string {hosts!r}"
        raise ConfigurationError(msg)
    return frozenset(host.lower() for host in hosts)
