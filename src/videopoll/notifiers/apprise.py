"""Over a hundred further channels through the Apprise library, as texts with the link."""

from __future__ import annotations

import asyncio
import copy
import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, TypeAlias, cast

from videopoll._calling import in_thread
from videopoll._reasons import own
from videopoll.errors import ConfigurationError, NotifierError, NotSentError, RefusedError
from videopoll.jobs.checks import check_callable, listed
from videopoll.messages import TOO_LATE, Delivered, Message, Receipt, Unknown
from videopoll.observe.log import shown

__all__ = ["AppriseNotifier"]

log: logging.Logger = logging.getLogger("videopoll.jobs")

Urls: TypeAlias = str | Sequence[str]


class _Apprise(Protocol):
    """The part of ``apprise.Apprise`` that is used here."""

    def add(self, services: list[object], /) -> bool: ...

    def notify(self, *, body: str) -> object: ...

    async def async_notify(self, *, body: str) -> object: ...


class AppriseNotifier:
    """Sends texts to the services that Apprise URLs name.

    Each URL, and each target of a URL where Apprise lists them, is sent to by
    itself. If some take the message and others do not, it counts as delivered: to
    send it again would send it twice to those that have it. The log names how many
    failed. Apprise does not tell a refusal from a fault, so a failure of all of them
    counts as unknown. A few services (Slack, for one) do not list their targets:
    give these a URL for each.

    Args:
        urls: The Apprise URLs; or a function that gives those of a message,
            e.g. from ``message.recipient.to``. It may block.

    Raises:
        ConfigurationError: Apprise does not understand a URL.
        ImportError: Apprise is not installed.
    """

    def __init__(self, urls: Urls | Callable[[Message], Urls]) -> None:
        _load()
        self._targets_of: Callable[[Message], list[_Apprise]]
        if callable(urls):
            check_callable(urls, "AppriseNotifier.urls", "the message")
            self._targets_of = lambda message: _targets_for(urls, message)
        else:
            targets = _targets(urls)
            self._targets_of = lambda _: targets

    def notify(self, message: Message) -> Receipt:
        """Send the text once to each target."""
        results: list[object] = []
        targets = self._targets_of(message)
        for target in targets:
            if not message.may_still_send():
                if results:
                    break
                return TOO_LATE
            try:
                results.append(target.notify(body=message.text))
            except Exception as error:  # noqa: BLE001 - a service's plugin may raise anything; the others go on
                results.append(error)
        return _receipt(results, len(targets), message)

    async def anotify(self, message: Message) -> Receipt:
        """Send the text once to each target."""
        targets = await in_thread(partial(self._targets_of, message))
        if not message.may_still_send():
            return TOO_LATE
        sends = (target.async_notify(body=message.text) for target in targets)
        return _receipt(await asyncio.gather(*sends, return_exceptions=True), len(targets), message)


def _load() -> Callable[[], _Apprise]:
    try:
        # Not an import statement: the library is optional, and most hosts do without.
        module = importlib.import_module("apprise")
    except ImportError as error:
        msg = "AppriseNotifier needs the Apprise library: pip install videopoll[apprise]"
        raise ImportError(msg) from error
    return cast("Callable[[], _Apprise]", module.Apprise)


def _targets(urls: Urls) -> list[_Apprise]:
    make = _load()
    targets: list[_Apprise] = []
    for url in [urls] if isinstance(urls, str) else listed(urls, "AppriseNotifier.urls", "Apprise URLs"):
        target = make()
        if not target.add([url]):
            targets.clear()
            break
        targets += _apart(target, make)
    if not targets:
        # Apprise URLs hold credentials, so the text cannot quote them.
        msg = "Apprise does not understand one of the URLs, or there is none: try them with its own command line"
        raise ConfigurationError(msg)
    return targets


def _apart(target: _Apprise, make: Callable[[], _Apprise]) -> list[_Apprise]:
    """Return a sender for each target that one URL names, where its service lists them."""
    services = list(target) if isinstance(target, Iterable) else []
    single = [one for service in services for one in _services(service)]
    if len(single) <= 1:
        return [target]
    senders = [make() for _ in single]
    for sender, service in zip(senders, single, strict=True):
        sender.add([service])
    return senders


def _services(service: object) -> list[object]:
    listed = getattr(service, "targets", None)
    if not isinstance(listed, list) or len(listed) <= 1:
        return [service]
    services: list[object] = []
    for one in listed:
        alone = copy.copy(service)
        alone.targets = [one]  # type: ignore[attr-defined] # it has one: that is how it was found
        services.append(alone)
    return services


def _targets_for(urls_of: Callable[[Message], Urls], message: Message) -> list[_Apprise]:
    try:
        urls = urls_of(message)
    except NotifierError:
        raise
    except Exception as error:
        # Its text may quote a credential, and nothing was sent yet.
        msg = f"the function of AppriseNotifier raised {type(error).__name__}"
        raise NotSentError(own(msg)) from error
    try:
        return _targets(urls)
    except ConfigurationError as error:
        raise RefusedError(own(str(error)), try_text=False) from error


def _receipt(results: Sequence[object], targets: int, message: Message) -> Receipt:
    errors = [result for result in results if isinstance(result, BaseException)]
    failed = targets - sum(bool(result) and not isinstance(result, BaseException) for result in results)
    if not failed:
        return Delivered()
    if failed < targets:
        job_id = shown(message.job.job_id if isinstance(message, Message) else message.reference)
        log.warning("📨 [%s] %d of %d services did not take the message; the others have it", job_id, failed, targets)
        return Delivered(detail=own(f"{failed} of {targets} services did not take it"))
    if errors:
        # Nobody knows what became of it.
        raise errors[0]
    return Unknown(
        own("Apprise could not send to " + ("the service" if targets == 1 else f"any of {targets} services"))
    )
