"""``videopoll enqueue``: hands one job to the workers, or many from standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, cast

import typer

from videopoll.cli.options import (
    DEFAULT_JOB_TTL_S,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    JobTtl,
    Partitions,
    Prefix,
    RedisUrl,
    TenantKey,
    open_queue,
)
from videopoll.cli.output import complain, guarded, print_json
from videopoll.cli.providers import described, job_ttl_for
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.jobs.codec import JsonValue, Poison, load_object
from videopoll.jobs.job import check_id, check_metadata
from videopoll.jobs.views import EnqueueResult
from videopoll.queue.calls import MAX_BATCH
from videopoll.queue.operations import NewJob
from videopoll.queue.redis_queue import RedisVideoJobQueue
from videopoll.video_api.description import ApiDescription
from videopoll.video_api.generation import GenerationStarted

__all__ = ["enqueue"]

LINE_FIELDS = frozenset({"job_id", "conversation_id", "provider", "channel", "to", "metadata"})


@guarded
def enqueue(
    ctx: typer.Context,
    *,
    job_id: Annotated[
        str | None, typer.Argument(metavar="JOB_ID", help="The video API's id of the job.", show_default=False)
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Whom the video is for, in your words.")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", metavar="NAME", help="At which described video API it was started, such as fal."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="ultramsg or whatsapp_factory, for workers without a resolver.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="The user's phone number on that channel.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            "-m",
            metavar="KEY=VALUE",
            help="More to store with the job; KEY:=JSON for a number or a list.",
        ),
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read many jobs from standard input, one JSON object a line.")
    ] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    job_ttl: JobTtl = DEFAULT_JOB_TTL_S,
    tenant_key: TenantKey = None,
) -> None:
    """Hand a job to the workers. The same id twice is one job.

    \b
    videopoll enqueue job_17 --conversation c_42 --channel telegram --to 4242
    videopoll enqueue job_17 --conversation c_42 -m prompt="a fox" -m version:=2

    With --provider JOB_ID is the id that this API gave; the job is called NAME:JOB_ID. Some need
    more to be polled, which their answer to the start has.

    \b
    videopoll enqueue 8f3a… --provider replicate --conversation c_42
    videopoll enqueue 8f3a… --provider kling --conversation c_42 \\
      -m operation:='{"kind": "text2video"}'

    With --stdin, a line has job_id and conversation_id, and may have provider, channel, to and
    metadata. Bad lines are told by their number; the good ones are taken in.

    \b
    echo '{"job_id": "job_17", "conversation_id": "c_42"}' |
      videopoll enqueue --stdin
    """  # noqa: D301 - a backspace keeps line ends in the help
    single = (job_id, conversation, provider, channel, to, metadata)
    if stdin and any(single):
        msg = "--stdin brings the jobs with all they have: leave out the job id and its options"
        raise ConfigurationError(msg)
    if provider is not None:
        job_ttl = _job_ttl(ctx, job_ttl, described(provider))
    with open_queue(redis_url, prefix, job_ttl, tenant_key=tenant_key, partitions=partitions) as queue:
        if stdin:
            if _enqueue_lines(queue, as_json=as_json):
                raise typer.Exit(1)
            return
        if job_id is None or conversation is None:
            msg = "a job needs its id and --conversation: videopoll enqueue JOB_ID --conversation ID, or use --stdin"
            raise ConfigurationError(msg)
        fields = _with_recipient(_parse_metadata(metadata or []), channel, to)
        if provider is not None:
            job_id, fields = _started_at(described(provider), job_id, fields)
        result = queue.enqueue(job_id, conversation_id=conversation, metadata=fields)
        _print_result(job_id, result, as_json=as_json)


def _enqueue_lines(queue: RedisVideoJobQueue, *, as_json: bool) -> int:
    """Enqueue the jobs of standard input, in batches; return the number of bad lines."""
    counts: dict[str, int] = {}
    batch: list[NewJob] = []
    bad = 0

    def flush() -> None:
        for (job_id, _, _), result in zip(batch, queue.enqueue_many(batch), strict=True):
            counts[result.value] = counts.get(result.value, 0) + 1
            _print_result(job_id, result, as_json=as_json)
        batch.clear()

    for number, line in _lines():
        try:
            batch.append(_read_line(line))
        except InvalidJobError as error:
            bad += 1
            complain(f"line {number}: {error}")
        if len(batch) >= MAX_BATCH:
            flush()
    flush()
    told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no jobs"
    complain(told + (f", {bad} bad line{'s' if bad > 1 else ''}" if bad else ""))
    return bad


def _lines() -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            yield number, line


def _read_line(line: bytes) -> NewJob:
    fields = load_object(line)
    if isinstance(fields, Poison):
        raise InvalidJobError(fields.reason)
    unknown = sorted(fields.keys() - LINE_FIELDS)
    if unknown:
        msg = f"unknown fields: {', '.join(unknown)}; what is stored with the job goes under metadata"
        raise InvalidJobError(msg)
    channel, to, metadata = fields.get("channel"), fields.get("to"), fields.get("metadata")
    provider = fields.get("provider")
    for name, value in (("channel", channel), ("to", to), ("provider", provider)):
        if value is not None and not isinstance(value, str):
            msg = f"{name} must be a string"
            raise InvalidJobError(msg)
    if metadata is not None and not isinstance(metadata, dict):
        msg = "metadata must be an object"
        raise InvalidJobError(msg)
    fitted = _with_recipient(metadata or {}, cast("str | None", channel), cast("str | None", to))
    job_id = check_id(fields.get("job_id"), "job_id")
    if isinstance(provider, str):
        try:
            job_id, fitted = _started_at(described(provider), job_id, fitted)
        except ConfigurationError as error:
            raise InvalidJobError(str(error)) from None
    return (
        job_id,
        check_id(fields.get("conversation_id"), "conversation_id"),
        check_metadata(fitted),
    )


def _started_at(api: ApiDescription, api_id: str, metadata: dict[str, JsonValue]) -> tuple[str, dict[str, JsonValue]]:
    """Return the id and the metadata of a job that was started at a described API.

    Raises:
        InvalidJobError: The id cannot be used.
        ConfigurationError: There is not all that a poll needs.
    """
    started = GenerationStarted.of(api.name, api_id)
    told = metadata.get("operation")
    operation = {**(told if isinstance(told, dict) else {}), "id": api_id}
    lacking = [field for field in api.operation_fields if not isinstance(operation.get(field), str)]
    if lacking:
        example = ", ".join(f'"{field}": "…"' for field in lacking)
        msg = (
            f"a poll of {api.name} needs {' and '.join(lacking)}, which came with the start of the job:"
            f" -m operation:='{{{example}}}'"
        )
        raise ConfigurationError(msg)
    return started.job_id, {**metadata, "provider": api.name, "operation": operation}


def _job_ttl(ctx: typer.Context, job_ttl: int, api: ApiDescription) -> int:
    """Return how long the record should live: as the API's polling wants it, if the host does not say otherwise."""
    if getattr(ctx.get_parameter_source("job_ttl"), "name", None) not in {"COMMANDLINE", "ENVIRONMENT"}:
        return job_ttl_for([api])
    if job_ttl <= api.strategy.timeout_s:
        complain(
            f"--job-ttl {job_ttl} is shorter than {api.name} is polled for ({api.strategy.timeout_s:g} s): workers make"
            f" the record live longer, but without one the job is lost; better {job_ttl_for([api])}"
        )
    return job_ttl


def _with_recipient(metadata: dict[str, JsonValue], channel: str | None, to: str | None) -> dict[str, JsonValue]:
    recipient = {name: value for name, value in (("channel", channel), ("to", to)) if value}
    return {**metadata, **recipient}


def _parse_metadata(pairs: list[str]) -> dict[str, JsonValue]:
    metadata: dict[str, JsonValue] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key.rstrip(":"):
            msg = f"--metadata looks like KEY=VALUE, got {pair!r}"
            raise ConfigurationError(msg)
        if not key.endswith(":"):
            metadata[key] = value
            continue
        try:
            metadata[key[:-1]] = json.loads(value)
        except ValueError as error:
            msg = f"--metadata {key[:-1]}:= wants JSON; for a text write {key[:-1]}=…"
            raise ConfigurationError(msg) from error
    return metadata


def _print_result(job_id: str, result: EnqueueResult, *, as_json: bool) -> None:
    if as_json:
        print_json({"job_id": job_id, "result": result.value})
    else:
        typer.echo(f"{job_id}\t{result.value}")
