"""Over a hundred further channels through the Apprise library, as texts with the link."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from videopoll._threads import in_thread
from videopoll.errors import ConfigurationError, NotifierError, NotSentError, RefusedError
from videopoll.messages import TOO_LATE, Delivered, Receipt, Unknown

if TYPE_CHECKING:
    from videopoll.messages import Message

__all__ = ["AppriseNotifier"]

Urls: TypeAlias = str | Sequence[str]


class _Apprise(Protocol):
    """The part of ``apprise.Apprise`` that is used here."""

    def add(self, services: list[str], /) -> bool: ...

    def notify(self, *, body: str) -> object: ...

    async def async_notify(self, *, body: str) -> object: ...


class AppriseNotifier:
    """Sends texts to the services that Apprise URLs name.

    One URL a message is best: when one of several services fails, Apprise has
    sent to the others already, and trying again sends to them twice. Apprise
    does not tell a refusal from a fault, so a failure counts as unknown.

    Args:
        urls: The Apprise URLs; or a function that gives those of a message,
            e.g. from ``message.recipient.to``. It may block.

    Raises:
        ConfigurationError: Apprise does not understand a URL.
        ImportError: Apprise is not installed.
    """

    def __init__(self, urls: Urls | Callable[[Message], Urls]) -> None:
        _load()
        self._targets_of: Callable[[Message], _Apprise]
        if callable(urls):
            self._targets_of = lambda message: _targets_for(urls, message)
        else:
            targets = _targets(urls)
            self._targets_of = lambda _: targets

    def notify(self, message: Message) -> Receipt:
        """Send the text once."""
        targets = self._targets_of(message)
        return _receipt(targets.notify(body=message.text)) if message.may_still_send() else TOO_LATE

    async def anotify(self, message: Message) -> Receipt:
        """Send the text once."""
        targets = await in_thread(partial(self._targets_of, message))
        return _receipt(await targets.async_notify(body=message.text)) if message.may_still_send() else TOO_LATE


def _load() -> Callable[[], _Apprise]:
    try:
        # Not an import statement: the library is optional, and most hosts do without.
        module = importlib.import_module("apprise")
    except ImportError as error:
        msg = "AppriseNotifier needs the Apprise library: pip install videopoll[apprise]"
        raise ImportError(msg) from error
    return cast("Callable[[], _Apprise]", module.Apprise)


def _targets(urls: Urls) -> _Apprise:
    targets = _load()()
    listed = [urls] if isinstance(urls, str) else list(urls)
    if not listed or not targets.add(listed):
        # Apprise URLs hold credentials, so the text cannot quote them.
        msg = "Apprise does not understand one of the URLs, or there is none: try them with its own command line"
        raise ConfigurationError(msg)
    return targets


def _targets_for(urls_of: Callable[[Message], Urls], message: Message) -> _Apprise:
    try:
        urls = urls_of(message)
    except NotifierError:
        raise
    except Exception as error:
        # Its text may quote a credential, and nothing was sent yet.
        msg = f"the function of AppriseNotifier raised {type(error).__name__}"
        raise NotSentError(msg) from error
    try:
        return _targets(urls)
    except ConfigurationError as error:
        raise RefusedError(str(error), try_text=False) from error


def _receipt(result: object) -> Receipt:
    return Delivered() if result else Unknown("Apprise could not send to every service")
