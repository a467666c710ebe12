"""``videopoll providers``: which described video APIs there are, and what each needs."""

from __future__ import annotations

import sys

from videopoll.cli.options import AsJson, secret
from videopoll.cli.output import guarded, print_json, print_rows
from videopoll.cli.providers import shown_url_of, url_variable
from videopoll.video_api.apis import ALL
from videopoll.video_api.description import ApiDescription

__all__ = ["providers"]


@guarded
def providers(*, as_json: AsJson = False) -> None:
    """List the video APIs that have a description, and what each needs.

    The key of each comes from the environment, from the variable that its makers' own SDK
    reads; VIDEOPOLL_<NAME>_URL is another address. No key is shown. Nothing is asked, and
    nothing was tried against the live APIs: a description says where its facts were read.

    \b
    export FAL_KEY=… REPLICATE_API_TOKEN=…
    videopoll worker --provider fal --provider replicate
    """  # noqa: D301 - a backspace keeps line ends in the help
    if as_json:
        print_json([_describe(api) for api in ALL.values()])
    else:
        # No terminal has room for where the facts were read: a pipe and --json have it.
        width = len(ON_TERMINAL) if sys.stdout.isatty() else None
        print_rows(HEADINGS[:width], [_row(api)[:width] for api in ALL.values()])


ON_TERMINAL = ("provider", "key", "address", "polls", "sure")
HEADINGS = (*ON_TERMINAL, "checked", "source")


def _row(api: ApiDescription) -> list[str]:
    strategy = api.strategy
    return [
        api.name,
        f"{api.key_variable}: {'set' if secret(api.key_variable) else 'not set'}",
        shown_url_of(api) or f"set {url_variable(api)}",
        f"every {strategy.interval_s:g} s, for {strategy.timeout_s:g} s",
        api.certainty.name.lower(),
        api.checked,
        api.source,
    ]


def _describe(api: ApiDescription) -> dict[str, object]:
    strategy = api.strategy
    return {
        "provider": api.name,
        "key_variable": api.key_variable,
        "key_set": secret(api.key_variable) is not None,
        "url": shown_url_of(api),
        "url_variable": url_variable(api),
        "interval_s": strategy.interval_s,
        "initial_delay_s": strategy.initial_delay_s,
        "timeout_s": strategy.timeout_s,
        "max_attempts": strategy.max_attempts,
        "certainty": api.certainty.name.lower(),
        "checked": api.checked,
        "source": api.source,
    }
