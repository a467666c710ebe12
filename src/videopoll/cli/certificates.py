"""The options of TLS to Redis, which every command has that has a URL of Redis; they go into the URL."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from videopoll.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["with_certificates", "without_certificates"]

URL = "redis_url"


def _option(flag: str, text: str) -> Any:
    variable = "VIDEOPOLL_" + flag.removeprefix("--").replace("-", "_").upper()
    return Annotated[
        str | None,
        typer.Option(flag, envvar=variable, metavar="FILE", help=text, rich_help_panel="Redis", show_default=False),
    ]


_OPTIONS: dict[str, tuple[str, Any]] = {
    "redis_ca": ("ssl_ca_certs", _option("--redis-ca", "Trust the authorities in this PEM file, for a rediss URL.")),
    "redis_cert": ("ssl_certfile", _option("--redis-cert", "This client's own certificate, a PEM file.")),
    "redis_key": ("ssl_keyfile", _option("--redis-key", "The key of that certificate, a PEM file.")),
}


def with_certificates(command: Callable[..., object], call: Any) -> None:
    """Add the options to the wrapper of a command that has a URL of Redis."""
    signature = inspect.signature(command, eval_str=True)
    if URL not in signature.parameters:
        return
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters.append(parameter)
        if parameter.name == URL:
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
                for name, (_, option) in _OPTIONS.items()
            ]
    call.__signature__ = signature.replace(parameters=parameters)
    call.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": signature.return_annotation}


def without_certificates(options: dict[str, Any]) -> dict[str, Any]:
    """Put the files into the URL, where the command expects them.

    Raises:
        ConfigurationError: The URL is one without TLS.
    """
    files = {argument: options.pop(name, None) for name, (argument, _) in _OPTIONS.items()}
    given = {argument: file for argument, file in files.items() if file}
    url = options.get(URL)
    if not given or not isinstance(url, str):
        return options
    if not url.startswith("rediss"):
        msg = "--redis-ca, --redis-cert and --redis-key are for TLS: write rediss:// in --redis-url, or leave them out"
        raise ConfigurationError(msg)
    return {**options, URL: f"{url}{'&' if '?' in url else '?'}{urlencode(given)}"}
