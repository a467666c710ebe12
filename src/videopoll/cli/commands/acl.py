"""``videopoll acl``: prints the rights that a user of Redis needs, ready for redis-cli. Asks no server."""

from __future__ import annotations

from typing import Annotated

import typer

from videopoll.cli.options import DEFAULT_PREFIX, AsJson, Partitions, Prefix
from videopoll.cli.output import guarded, print_json
from videopoll.queue.layout import prefix_of
from videopoll.queue.rights import Role, acl_rules
from videopoll.queue.schema import Keys

__all__ = ["acl"]


@guarded
def acl(
    *,
    as_json: AsJson = False,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    role: Annotated[Role, typer.Option("--for", help="What the user does.")] = Role.ALL,
    user: Annotated[str, typer.Option("--user", help="The user's name.")] = "videopoll",
) -> None:
    """Print the rights that a Redis user needs: ACL SETUSER, with no more than is used.

    The list is made of the scripts and calls of this version. Put a password in
    the place of PASSWORD, and give the line to redis-cli, on each node of a cluster.
    """
    rules = acl_rules(role, *(Keys(prefix_of(Keys(prefix).prefix, one)) for one in range(partitions or 1)))
    if as_json:
        print_json({"user": user, "rules": rules})
    else:
        typer.echo(f"ACL SETUSER {user} reset on >PASSWORD {' '.join(rules)}")
