"""``videopoll channels``: which channels ``--channel`` names, and what each needs."""

from __future__ import annotations

from videopoll.cli.options import AsJson, secret
from videopoll.cli.output import guarded, print_json, print_rows
from videopoll.cli.shipped import SHIPPED

__all__ = ["channels"]


@guarded
def channels(*, as_json: AsJson = False) -> None:
    """List the channels that a worker builds by their name, and the variables that each reads.

    No value is shown, and nothing is asked.

    \b
    export VIDEOPOLL_WHATSAPP_CLOUD_TOKEN=… VIDEOPOLL_WHATSAPP_CLOUD_NUMBER_ID=…
    videopoll worker --channel whatsapp_cloud
    """  # noqa: D301 - a backspace keeps line ends in the help
    rows = [
        (name, variable, variable in shipped.needed, secret(variable) is not None)
        for name, shipped in SHIPPED.items()
        for variable in shipped.variables
    ]
    if as_json:
        print_json([dict(zip(("channel", "variable", "needed", "set"), row, strict=True)) for row in rows])
    else:
        print_rows(
            ("channel", "variable", "needed", "here"),
            [
                [name, variable, "yes" if needed else "", "set" if given else "not set"]
                for name, variable, needed, given in rows
            ],
        )
