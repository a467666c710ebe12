"""The parts of the docs that are drawn from the code; MkDocs calls this while it builds.

In a page, ``<!-- generated: states -->`` becomes the diagram and the table of
`videopoll.jobs.job.TRANSITIONS`, ``keys`` the table of `videopoll.queue.schema.KEYS`,
``cli`` the help of every command, ``metrics`` what the hooks measure, ``apis`` and ``starts`` the tables of the described video APIs, and ``fast`` and the like a table of
`benchmarks/results.json`, ``capacity_plans`` and the like those of `capacity_tables`. Nothing of it is written to a file of the
sources, so it cannot be out of date.

Two smaller things besides: the signatures of attrs classes for the reference
(`AttrsSignatures`), and a look at the finished site: it may load nothing from
elsewhere.
"""

from __future__ import annotations

import ast
import enum
import html
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import griffe

sys.path.append(str(Path(__file__).parent))

import capacity_tables

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

    from videopoll.video_api import ApiDescription

PLACEHOLDER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
FROM_ELSEWHERE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'> ]+""")
FONT = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts in."""
    return PLACEHOLDER.sub(lambda found: PARTS[found[1]](), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Docstrings announce a block with two colons; Markdown needs none."""
    return content.replace("<p>::</p>\n", "").replace("::</p>", ":</p>")


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Refuse a site that loads something from another host.

    Raises:
        SystemExit: It does; the text says what.
    """
    site = Path(config.site_dir)
    found = [
        f"{path.relative_to(site)}: {hit[0]}"
        for pattern, ending in ((FROM_ELSEWHERE, "*.html"), (FONT, "*.css"))
        for path in site.rglob(ending)
        for hit in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    if found:
        msg = "the docs must load nothing from elsewhere:\n" + "\n".join(found)
        raise SystemExit(msg)


# --- states ---------------------------------------------------------------------------------------

TOP, WIDTH, HEIGHT, BOX_W, BOX_H = -56, 940, 400, 128, 46

PLACES = {
    "orphaned": (90, 60),
    "queued": (90, 200),
    "scheduled": (340, 60),
    "polling": (340, 200),
    "outbox": (590, 60),
    "delivering": (590, 200),
    "watched": (730, 60),
    "settled": (860, 200),
    "dead": (465, 370),
}
"""Where the middle of each state's box is."""

USUAL = (
    ("queued", "scheduled"),
    ("scheduled", "polling"),
    ("polling", "scheduled"),
    ("polling", "delivering"),
    ("delivering", "settled"),
)
"""The way of a job on which nothing goes wrong."""

BENDS = {
    ("queued", "settled"): (475, 285),
    ("polling", "settled"): (600, 262),
    ("scheduled", "settled"): (900, -90),
    ("orphaned", "settled"): (900, -200),
    ("scheduled", "dead"): (452, 190),
    ("outbox", "dead"): (478, 200),
}
"""Arrows that would run through a box go around it, by way of this point."""


def states() -> str:
    """Draw every move that a job can make, and list them."""
    from videopoll.jobs import job  # noqa: PLC0415 - the package is on the path once the configuration is read

    usual = {(job.JobState(one), job.JobState(other)) for one, other in USUAL}
    moves = [(one, other) for one, others in job.TRANSITIONS.items() for other in sorted(others)]
    missing = usual - set(moves)
    if missing:
        msg = f"the diagram's usual way has moves that the code does not know: {missing}"
        raise SystemExit(msg)
    arrows = "".join(
        _arrow(one.value, other.value, "usual" if (one, other) in usual else "other", both=(other, one) in moves)
        for one, other in sorted(moves, key=lambda move: move in usual)
    )
    boxes = "".join(_box(state.value, end=not job.TRANSITIONS[state]) for state in job.JobState)
    heads = "".join(
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9"'
        f' markerUnits="userSpaceOnUse" orient="auto"><path class="{kind}-head" d="M0 0 L10 5 L0 10 z"/></marker>'
        for kind in ("usual", "other")
    )
    said = "; ".join(
        f"{one.value} to {', '.join(sorted(others)) or 'nothing'}" for one, others in job.TRANSITIONS.items()
    )
    svg = (
        f'<svg viewBox="0 {TOP} {WIDTH} {HEIGHT - TOP}" role="img" aria-label="The moves of a job: {said}">'
        f"<defs>{heads}</defs>{arrows}{boxes}</svg>"
    )
    meanings = _members(job.JobState)
    rows = "\n".join(
        f"| `{state.value}` | {meanings[state.name]} | {', '.join(f'`{other}`' for other in sorted(others)) or 'nothing: it is the end'} |"
        for state, others in job.TRANSITIONS.items()
    )
    return f'<div class="states">{svg}</div>\n\n| state | meaning | can become |\n| --- | --- | --- |\n{rows}\n'


def _box(name: str, *, end: bool) -> str:
    x, y = PLACES[name]
    return (
        f'<rect class="{"end" if end else "state"}" x="{x - BOX_W / 2:g}" y="{y - BOX_H / 2:g}" width="{BOX_W}"'
        f' height="{BOX_H}" rx="8"/><text x="{x}" y="{y + 5}">{name}</text>'
    )


def _arrow(one: str, other: str, kind: str, *, both: bool) -> str:
    (x1, y1), (x2, y2) = PLACES[one], PLACES[other]
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    # Two arrows between the same boxes run beside each other.
    aside = 16 if both else 0
    dx, dy = -(y2 - y1) / length * aside, (x2 - x1) / length * aside
    bend = BENDS.get((one, other))
    middle = bend or ((x1 + x2) / 2 + dx, (y1 + y2) / 2 + dy)
    if bend is None:
        x1, y1, x2, y2 = x1 + dx, y1 + dy, x2 + dx, y2 + dy
    (sx, sy), (ex, ey) = _edge(PLACES[one], (x1, y1), middle), _edge(PLACES[other], (x2, y2), middle)
    return (
        f'<path class="{kind}" marker-end="url(#{kind})"'
        f' d="M{sx:.0f} {sy:.0f} Q{middle[0]:.0f} {middle[1]:.0f} {ex:.0f} {ey:.0f}"/>'
    )


def _edge(box: tuple[float, float], start: tuple[float, float], to: tuple[float, float]) -> tuple[float, float]:
    """Give where the line from `start`, inside the box, to `to` leaves the box."""
    x, y = start
    dx, dy = to[0] - x, to[1] - y
    ways = []
    if dx:
        ways.append((box[0] + (BOX_W / 2 if dx > 0 else -BOX_W / 2) - x) / dx)
    if dy:
        ways.append((box[1] + (BOX_H / 2 if dy > 0 else -BOX_H / 2) - y) / dy)
    way = min((way for way in ways if way >= 0), default=0)
    return x + dx * way, y + dy * way


def _members(kind: type) -> dict[str, str]:
    """Give the docstring below each member of an enum; Python itself does not keep them."""
    definition = cast("ast.ClassDef", ast.parse(inspect.getsource(kind)).body[0])
    told: dict[str, str] = {}
    for line, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(line, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            told[ast.unparse(line.targets[0])] = str(below.value.value)
    return told


# --- keys -----------------------------------------------------------------------------------------


def keys() -> str:
    """List every key in Redis."""
    from videopoll.queue.schema import KEYS  # noqa: PLC0415 - see `states`

    rows = "\n".join(
        f"| `{record.pattern.replace('{prefix}', 'video')}`<br>{record.type} | {record.ttl or 'none'} |"
        f" {record.writer} | {record.purpose} |"
        for record in KEYS
    )
    return _names(f"| key and type | time to live | written by | holds |\n| --- | --- | --- | --- |\n{rows}\n")


# --- metrics --------------------------------------------------------------------------------------


def metrics() -> str:
    """List every metric, under its name in Prometheus."""
    from videopoll.observe.metrics import INSTRUMENTS, STATES  # noqa: PLC0415 - see `states`

    rows = "\n".join(
        f"| `videopoll_{one.name}{'_seconds' if one.unit else ''}{'' if one.buckets else '_total'}` |"
        f" {'histogram' if one.buckets else 'counter'} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
        for one in INSTRUMENTS
    )
    states = ", ".join(f"`{state}`" for state in STATES)
    gauge = f"| `videopoll_jobs` | gauge | `state` | Jobs by where they are: {states}. Needs `counts` |"
    return _names(f"| metric | kind | labels | what |\n| --- | --- | --- | --- |\n{rows}\n{gauge}\n")


# --- video APIs -----------------------------------------------------------------------------------


def apis() -> str:
    """List the video APIs that are described."""
    from videopoll.video_api import apis as described  # noqa: PLC0415 - see `states`

    names = {id(value): name for name, value in vars(described).items() if name.isupper()}
    rows = "\n".join(
        f"| `{names[id(api)]}` | {_start(api)} | `GET {api.poll}` | `{api.base_url or 'yours'}` | `{api.key_variable}` |"
        f" {_life(api)} |"
        f" {api.strategy.interval_s:g} s, {api.strategy.timeout_s:g} s | {_calls(api)} | {api.checked}: {api.certainty.value} |"
        for api in described.ALL.values()
    )
    head = "| description | started by | is asked | at | key | its links | interval, given up after | calls back | checked, how sure |"
    return _names(f"{head}\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n{rows}\n")


def _calls(api: ApiDescription) -> str:
    return "no, or in ways not known" if api.callback is None else f"signed with {api.callback.signing.value}"


def starts() -> str:
    """List what can be asked for at each described API, and what is asked again."""
    from videopoll.video_api import apis as described  # noqa: PLC0415 - see `states`

    names = {id(value): name for name, value in vars(described).items() if name.isupper()}
    rows = "\n".join(
        f"| `{names[id(api)]}` | {_asked(api)} | {_ratios(api)} | {_taken(api)} | {_again(api)} |"
        f" {api.start.certainty.value} |"
        for api in described.ALL.values()
        if api.start is not None
    )
    head = "| description | model | aspect ratios | takes | asked again after | how sure |"
    return _names(f"{head}\n| --- | --- | --- | --- | --- | --- |\n{rows}\n")


def _start(api: ApiDescription) -> str:
    return "not described" if api.start is None else f"`POST {api.start.url}`"


def _asked(api: ApiDescription) -> str:
    return "yours" if api.start is not None and api.start.takes("model") else "no choice"


def _ratios(api: ApiDescription) -> str:
    ratios = ", ".join(api.start.aspect_ratios) if api.start is not None else ""
    default = api.start.defaults.get("aspect_ratio") if api.start is not None else None
    return ratios + (f"; {default} by default" if default is not None else "")


def _taken(api: ApiDescription) -> str:
    start = api.start
    if start is None:
        return ""
    image = start.takes("image") or start.with_image is not None
    taken = {
        "an image": image,
        "a negative prompt": start.takes("negative_prompt"),
        "a duration": start.takes("duration") or start.takes("seconds"),
    }
    return ", ".join(name for name, there in taken.items() if there) or "a prompt alone"


def _again(api: ApiDescription) -> str:
    return ", ".join(map(str, sorted(api.start.starts_nothing))) if api.start is not None else ""


def _life(api: ApiDescription) -> str:
    life = "public" if api.lifetime_s is None else f"public, for {api.lifetime_s / 3600:g} h"
    if api.locked is not None:
        life += ", or only for the key"
    return life + (", renewed when asked again" if api.refreshable else "")


# --- the command line -----------------------------------------------------------------------------

NEWLINE = "\n"
TAKES = {str: "TEXT", int: "INTEGER", float: "NUMBER"}


def cli() -> str:
    """Write the help of every command down."""
    import typer  # noqa: PLC0415 - only this part needs it

    from videopoll.cli.app import build_app  # noqa: PLC0415

    return "\n".join(_told(("videopoll",), typer.main.get_command(build_app())))


def _told(names: tuple[str, ...], command: Any) -> Iterator[str]:
    """Tell of a command, and of those below it; the first one is the whole and speaks for itself."""
    commands = getattr(command, "commands", {})
    if len(names) > 1:
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        last = ["COMMAND"] if commands else [_shown(one) for one in arguments]
        yield f"## `{' '.join(names)}`\n"
        yield f"```text\n{' '.join((*names, *(['[OPTIONS]'] if options else []), *last))}\n```\n"
        yield _prose(command.help or "")
        hints = typing.get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
        rows = [f"| `{_shown(one)}` | {'needed' if one.required else ''} | {_cell(one.help)} |" for one in arguments]
        rows += [_option(one, hints.get(one.name)) for one in options]
        if rows:
            yield _names(
                f"| argument or option, environment | default | meaning |\n| --- | --- | --- |\n{NEWLINE.join(rows)}\n"
            )
    for name, below in commands.items():
        yield from _told((*names, name), below)


def _prose(text: str) -> str:
    """Turn a command's help into Markdown: what stands below a backspace is a block of lines."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept, lines = paragraph.startswith("\b"), paragraph.removeprefix("\b\n")
        parts.append(f"```bash\n{lines}\n```" if kept else html.escape(lines, quote=False))
    return "\n\n".join(parts) + "\n"


def _shown(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]")
    return name if argument.required else f"[{name}]"


def _option(option: Any, hint: Any) -> str:
    """Write one row. What an option takes is told by the function's own annotation."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag:
        kind = next(
            (one for one in (hint, *typing.get_args(hint)) if one in TAKES or isinstance(one, enum.EnumType)), str
        )
        takes = option.metavar or (" or ".join(kind) if isinstance(kind, enum.EnumType) else TAKES[kind])
        names += f" {_cell(takes)}"
    default = option.show_default if isinstance(option.show_default, str) else option.default
    shown = "" if default is None or default is False else str(default)
    if option.envvar:
        names += f"<br>`{option.envvar}`"
    return f"| {names} | {_cell(shown)} | {_cell(option.help)} |"


def _names(table: str) -> str:
    """Mark a table whose first column holds names that must not be broken."""
    return f'<div class="names" markdown>\n\n{table}\n</div>\n'


def _cell(text: str | None) -> str:
    return html.escape(text or "", quote=False).replace("|", "\\|").replace("\n", " ")


# --- the benchmarks -------------------------------------------------------------------------------

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results.json"

SMALL_SHARE = 0.01
TOLD = 5000
"""Users who wait in each run."""

THROUGHPUT = {
    "name": "",
    "polls_per_s": "polls a second",
    "ratio": "times arq",
    "of_bare": "of its bare client",
    "cpu_us_per_poll": "CPU µs a poll",
    "cpu_share": "of the core",
    "round_trips_per_poll": "Redis round trips a poll",
    "commands_per_poll": "Redis commands a poll",
}
AT_A_TIME = {
    "places": "at a time",
    "name": "",
    "messages_per_s": "messages a second",
    "requests_per_s": "requests a second",
    "ratio": "times arq",
    "of_bare": "of what the bare client allows",
}
MEMORY = {"jobs": "pending jobs", "polls_per_s": "polls a second", "rss_mb": "MB"}
IMPORTS = {
    "redis_s": "`import redis`",
    "videopoll_s": "`import videopoll`",
    "producer_s": "`from videopoll import RedisVideoJobQueue`",
    "everything_s": "`from videopoll import *`",
}
PUNCTUALITY = {
    "jobs": "jobs",
    "polls_per_s": "polls a second",
    "lag_p50_ms": "late by, half of the polls",
    "lag_p99_ms": "99 %",
    "cpu_share": "of the core",
    "rss_mb": "MB",
    "round_trips_per_poll": "Redis round trips a poll",
}
DELIVERY = {
    "polls_per_s": "polls a second",
    "messages_per_s": "messages a second",
    "wait_p50_ms": "half of the users after",
    "wait_p99_ms": "99 %",
    "round_trips_per_poll": "Redis round trips a poll",
}
IDLING = {
    "workers": "workers",
    "cpu_share": "of a core, each",
    "round_trips_per_s": "round trips a second, each",
    "scripts_per_arrival": "scripts run for one new job",
}
SCALING = {
    "server": "",
    "claim_us_few": "claim of 100 beside 1,000",
    "claim_us_many": "beside 1,000,000",
    "enqueue_us_few": "enqueue beside 1,000",
    "enqueue_us_many": "beside 1,000,000 ",
    "record_bytes": "bytes of a record",
    "bytes_beyond_record": "bytes beyond it",
}


def fast() -> str:
    """Give the polls a second over aiohttp."""
    return _throughput("fast", "times arq")


def httpx() -> str:
    """Give the polls a second over httpx with its aiohttp transport."""
    return _throughput("httpx", "times arq")


def plain() -> str:
    """Give the polls a second without extras."""
    return _throughput("plain", "times arq")


def blocking() -> str:
    """Give the polls a second without asyncio."""
    return _throughput("blocking", "times Celery")


def _throughput(setting: str, compared: str) -> str:
    rows = _results()["throughput"][setting]
    for row in rows:
        if row["name"].startswith("bare"):
            # It does not use Redis; the few round trips are those of the looks.
            del row["round_trips_per_poll"], row["commands_per_poll"]
        elif "messages" in row:
            _check_told(row)
    return _names(_figures(rows, THROUGHPUT | {"ratio": compared}))


def _check_told(row: dict[str, Any]) -> None:
    if not row["messages"] == row["users_told"] == TOLD:
        msg = f"{row['name']} did not tell everybody once, and the page says so: {row}"
        raise SystemExit(msg)


def bursts() -> str:
    """Give how fast a burst of finished videos leaves."""
    return _by_places("bursts")


def lives() -> str:
    """Give how long all of it takes."""
    return _by_places("lives")


def _by_places(part: str) -> str:
    rows = _results()[part]
    for row in rows:
        _check_told(row)
    return _names(_figures(rows, AT_A_TIME))


def memory() -> str:
    """Give what a worker holds."""
    return _figures(_results()["memory"], MEMORY)


def imports() -> str:
    """Give what an import costs."""
    return _figures([_results()["imports"]], IMPORTS)


def punctuality() -> str:
    """Give how late polls are."""
    return _figures(sorted(_results()["punctuality"], key=lambda row: row["jobs"]), PUNCTUALITY)


def delivery() -> str:
    """Give how soon a finished video is on its way."""
    return _figures([_results()["delivery"]], DELIVERY)


def idling() -> str:
    """Give what a worker without work costs."""
    return _figures([_results()["idling"]], IDLING)


def scaling() -> str:
    """Give what a pending job costs."""
    return _names(_figures(_results()["scaling"], SCALING))


def machine() -> str:
    """Say where the figures come from."""
    told = _results()["machine"]
    versions = {name: version for found in told["versions"].values() for name, version in found.items()}
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"Measured on {told['date']}, {told['processor']}, {told['cores']} cores, Python {told['python']}, {said}."


def _results() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def _figures(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    shown = {name: head for name, head in columns.items() if any(name in row for row in rows)}
    lines = [
        f"| {' | '.join(shown.values())} |",
        f"|{'|'.join(' --- ' if not head else ' ---: ' for head in shown.values())}|",
    ]
    lines += [f"| {' | '.join(_figure(name, row.get(name)) for name in shown)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _figure(name: str, value: object) -> str:
    if value is None or isinstance(value, str):
        return _cell(value)
    number = cast("float", value)
    if name in {"ratio", "of_bare"}:
        return f"{number:.2f}"
    if name == "cpu_share":
        return f"{number:.0%}" if number >= SMALL_SHARE else f"{number:.2%}"
    if name in IMPORTS:
        return f"{number * 1000:.0f} ms"
    unit = " ms" if name.endswith("_ms") else " µs" if "_us_" in name and not name.startswith("cpu") else ""
    return (f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.2g}") + unit


PARTS = {
    part.__name__: part
    for part in (
        *(states, keys, metrics, apis, starts, cli),
        *(
            fast,
            httpx,
            plain,
            blocking,
            bursts,
            lives,
            punctuality,
            delivery,
            memory,
            imports,
            idling,
            scaling,
            machine,
        ),
    )
} | capacity_tables.PARTS


# --- the reference --------------------------------------------------------------------------------


class AttrsSignatures(griffe.Extension):
    """Gives attrs classes the signature that attrs makes for them."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Turn the annotated fields into parameters."""
        made = [str(decorator.value) for decorator in cls.decorators if "attrs." in str(decorator.value)]
        if not made or "__init__" in cls.members:
            return
        only_keywords = "kw_only=True" in made[0]
        fields = [
            _parameter(field, only_keywords=only_keywords)
            for field in cls.attributes.values()
            if field.annotation is not None
            and "property" not in field.labels
            and "ClassVar" not in str(field.annotation)
            and "init=False" not in str(field.value)
        ]
        parameters = griffe.Parameters(
            griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword), *fields
        )
        cls.set_member("__init__", griffe.Function("__init__", parameters=parameters, parent=cls))


def _parameter(field: griffe.Attribute, *, only_keywords: bool) -> griffe.Parameter:
    value = field.value
    if isinstance(value, griffe.ExprCall):
        named = {one.name: one.value for one in value.arguments if isinstance(one, griffe.ExprKeyword)}
        value = named.get("default", f"{named['factory']}()" if "factory" in named else None)
        only_keywords = only_keywords or str(named.get("kw_only")) == "True"
    kind = griffe.ParameterKind.keyword_only if only_keywords else griffe.ParameterKind.positional_or_keyword
    return griffe.Parameter(field.name, annotation=field.annotation, kind=kind, default=value)
